//! How deep the deltas of a joined pack are.
//!
//! Invariant: no object of the pack takes more than [`MAX_DEPTH`] deltas to decode, and one of large objects no more than
//! what they make in [`CHAIN_BYTES`], but for the first [`FREE_DEPTH`].
//!
//! Each increment's deltas are based on the increment before it. Without a limit, what it takes to read the newest tree would
//! grow with every commit for as long as a mirror is kept.

use super::objects::Place;
use super::reader::{Reader, Stop};

/// How much may be decoded for one object, in bytes: about 10 ms.
const CHAIN_BYTES: u64 = 64 << 20;
/// As deep as Git makes its packs.
const FREE_DEPTH: u64 = 50;
const MAX_DEPTH: u64 = 1_000;
/// What is kept for each object of the packs that are joined, in bytes.
pub(super) const CHAIN_ROW_BYTES: u64 = 4;

/// By number.
pub(super) struct Chains(Vec<Chain>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Chain {
    depth: u16,
    /// 0: nothing is known of the object yet, so it is not a delta.
    limit: u16,
}

impl Chain {
    /// That of an object of this size that is not a delta. What is based on it is about as large.
    fn of(bytes: u64) -> Self {
        Self { depth: 0, limit: (CHAIN_BYTES / bytes.max(1)).clamp(FREE_DEPTH, MAX_DEPTH) as u16 }
    }
}

impl Chains {
    pub(super) fn new(objects: u32) -> Self {
        Self(vec![Chain::default(); objects as usize])
    }

    /// Notes an object that is written whole.
    pub(super) fn start(&mut self, object: u32, bytes: u64) {
        self.0[object as usize] = Chain::of(bytes);
    }

    /// Notes an object that is a delta on `base`. `false`: it would be too deep.
    pub(super) fn extend(&mut self, reader: &Reader<'_>, object: u32, base: u32) -> Result<bool, Stop> {
        let mut chain = self.0[base as usize];
        if chain.limit == 0 {
            let Place::Packed(pack, offset) = reader.objects.place(base) else { return Ok(true) };
            chain = Chain::of(reader.entry(pack, offset)?.0.decompressed_size);
        }
        if chain.depth >= chain.limit {
            return Ok(false);
        }
        self.0[object as usize] = Chain { depth: chain.depth + 1, limit: chain.limit };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_objects_are_not_as_deep_as_small_ones() {
        for (bytes, limit) in [(0, 1_000), (1 << 10, 1_000), (120_000, 559), (5 << 20, 50), (u64::MAX, 50)] {
            assert_eq!(Chain::of(bytes), Chain { depth: 0, limit });
        }
        assert_eq!(size_of::<Chain>() as u64, CHAIN_ROW_BYTES);
    }
}
