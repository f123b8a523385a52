//! Damaged copies of good bytes, for tests of code that reads remote data.
//!
//! Invariant: the same bytes and the same seed give the same copy.

use std::ops::Range;

use fastrand::Rng;

/// The most changes in one copy.
const MAX_CHANGES: usize = 6;
/// The most bytes in one change.
const MAX_CHANGE_BYTES: usize = 64;

/// Values at the limit of an integer type, or with a meaning in a format.
const EDGES: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, b'0', b'.', b'/'];

/// A copy with a few bytes changed, removed, doubled, moved or cut off.
pub fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let mut copy = bytes.to_vec();
    for _ in 0..random.usize(1..=MAX_CHANGES) {
        if copy.is_empty() {
            break;
        }
        let range = piece(&mut random, copy.len());
        match random.u8(0..7) {
            0 => copy[range.start] ^= 1 << random.u8(0..8),
            1 => copy[range.start] = EDGES[random.usize(..EDGES.len())],
            2 => copy[range].fill_with(|| random.u8(..)),
            3 => drop(copy.drain(range)),
            4 => {
                let doubled = copy[range.clone()].to_vec();
                copy.splice(range.end..range.end, doubled);
            }
            5 => {
                let moved: Vec<u8> = copy.drain(range).collect();
                let to = random.usize(..=copy.len());
                copy.splice(to..to, moved);
            }
            _ => copy.truncate(range.start),
        }
    }
    // A piece may be moved to where it was.
    if copy == bytes && !copy.is_empty() {
        let at = random.usize(..copy.len());
        copy[at] ^= 1;
    }
    copy
}

fn piece(random: &mut Rng, len: usize) -> Range<usize> {
    let start = random.usize(..len);
    start..(start + random.usize(1..=MAX_CHANGE_BYTES)).min(len)
}
