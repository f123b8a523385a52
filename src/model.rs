//! The data all modules share: object names, targets, shards, stages.
//!
//! Invariant: plain data and functions. No I/O, no clock, no logging.

pub mod key;
pub mod shard;
pub mod stage;
pub mod target;
