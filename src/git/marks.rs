//! What is known of one object: the kinds that references to it expect, and its own.
//!
//! Invariant: one byte, set by many threads at once; a mark is never taken back.

use std::sync::atomic::{AtomicU8, Ordering};

use gix_object::Kind;

/// An object whose kind is not the one that a reference to it expects.
pub(super) const WRONG_KIND: &str = "is not of the kind that references to it expect";

/// An object's kind, and the kinds that references expect.
#[derive(Default)]
pub(super) struct Marks(AtomicU8);

impl Marks {
    /// `count` objects of which nothing is known yet.
    pub(super) fn none(count: u32) -> Vec<Self> {
        (0..count).map(|_| Self::default()).collect()
    }

    pub(super) fn found(&self, kind: Kind) {
        self.0.fetch_or(bit(kind), Ordering::Relaxed);
    }

    pub(super) fn required(&self, kind: Kind) {
        let bit = bit(kind) << 4;
        // Most objects are marked many times, and reading is cheaper.
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn is_found(&self) -> bool {
        self.0.load(Ordering::Relaxed) & 0xf != 0
    }

    pub(super) fn is_required(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> 4 != 0
    }

    /// Whether no reference expects another kind than the one found.
    pub(super) fn agree(&self) -> bool {
        let marks = self.0.load(Ordering::Relaxed);
        marks >> 4 & !marks == 0
    }
}

fn bit(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 4,
        Kind::Tag => 8,
    }
}
