//! What everything else is about: names of objects, targets, shards, stages.
//!
//! Invariant: pure data and functions. No I/O, no clock, no logging.

pub mod key;
pub mod shard;
pub mod stage;
pub mod target;
