//! The data all modules share: object names, manifests, targets, shards, stages, the two programs.
//!
//! Invariant: plain data and functions. No I/O, no clock, no logging.

pub mod key;
pub mod manifest;
pub mod program;
pub mod shard;
pub mod stage;
pub mod target;
