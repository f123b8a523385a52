//! Git's deltas: instructions that make an object from another one. Format: gitformat-pack(5).
//!
//! Invariant: damaged instructions read nothing outside of the base, and write no more than was announced.

/// What a delta's header says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::git) struct Sizes {
    pub(super) base: u64,
    pub(in crate::git) result: u64,
    /// The header's own length.
    pub(super) header: usize,
}

/// The longest header, in bytes.
pub(in crate::git) const HEADER_BYTES: usize = 20;

impl Sizes {
    /// Reads the header that a delta begins with.
    pub(in crate::git) fn of(delta: &[u8]) -> Option<Self> {
        let (base, first) = size(delta)?;
        let (result, second) = size(&delta[first..])?;
        Some(Self { base, result, header: first + second })
    }
}

/// A number of seven bits a byte, the lowest first, and its length.
fn size(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut size = 0;
    for (at, byte) in bytes.iter().enumerate().take(HEADER_BYTES / 2) {
        size |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((size, at + 1));
        }
    }
    None
}

/// Appends to `out` what the instructions make of `base`, which must be `size` bytes. `false` if they are damaged.
pub(super) fn apply(base: &[u8], instructions: &[u8], size: usize, out: &mut Vec<u8>) -> bool {
    let mut rest = instructions;
    while let Some((&command, after)) = rest.split_first() {
        let (bytes, after) = match command {
            0 => return false,
            1..=0x7f => match after.split_at_checked(usize::from(command)) {
                Some(inserted) => inserted,
                None => return false,
            },
            0x80.. => match copied(base, command, after) {
                Some(copied) => copied,
                None => return false,
            },
        };
        if out.len() + bytes.len() > size {
            return false;
        }
        out.extend_from_slice(bytes);
        rest = after;
    }
    out.len() == size
}

/// The part of the base that a copy instruction means, and what follows the instruction.
fn copied<'a, 'b>(base: &'a [u8], command: u8, mut rest: &'b [u8]) -> Option<(&'a [u8], &'b [u8])> {
    let mut number = |bits: std::ops::Range<u32>| {
        let first = bits.start;
        bits.filter(|bit| command >> bit & 1 == 1).try_fold(0, |number, bit| {
            let (byte, after) = rest.split_first()?;
            rest = after;
            Some(number | usize::from(*byte) << (8 * (bit - first)))
        })
    };
    let (offset, length) = (number(0..4)?, number(4..7)?);
    let length = if length == 0 { 0x10000 } else { length };
    Some((base.get(offset..)?.get(..length)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the instructions make of `base`, if they are as long as they say.
    fn applied(base: &[u8], instructions: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut out = vec![];
        apply(base, instructions, size, &mut out).then_some(out)
    }

    #[test]
    fn instructions_copy_from_the_base_and_insert() {
        let base = b"0123456789";
        let delta = [&[0x91, 4, 3][..], b"\x02ab", &[0x90, 1]].concat();
        assert_eq!(applied(base, &delta, 6).as_deref(), Some(&b"456ab0"[..]));
        let large = vec![7; 0x1_0000];
        assert_eq!(applied(&large, &[0x80], 0x1_0000), Some(large), "no length means 64 KiB");
    }

    #[test]
    fn damaged_instructions_make_nothing() {
        let base = b"0123456789";
        for (why, delta, size) in [
            ("reserved", &b"\0"[..], 0),
            ("ends in an insertion", b"\x03ab", 3),
            ("ends in a copy", &[0x91, 4], 3),
            ("copies from behind the base", &[0x91, 8, 3], 3),
            ("makes more than announced", b"\x02ab", 1),
            ("makes less than announced", b"\x02ab", 3),
        ] {
            assert_eq!(applied(base, delta, size), None, "{why}");
        }
    }

    #[test]
    fn a_header_says_both_sizes() {
        let header = [0x80 | 1, 2, 5, 0xff];
        assert_eq!(Sizes::of(&header), Some(Sizes { base: 257, result: 5, header: 3 }));
        assert_eq!(Sizes::of(&header[..2]), None);
        assert_eq!(Sizes::of(&[0xff; 40]), None, "no size has more than ten bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_instructions_or_damaged(base: Vec<u8>, delta: Vec<u8>, size in 0_usize..300) {
            if let Some(made) = applied(&base, &delta, size) {
                prop_assert_eq!(made.len(), size);
            }
            let _sizes = Sizes::of(&delta);
        }
    }
}
