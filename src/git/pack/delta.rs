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
