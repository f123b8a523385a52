//! When passes begin, and how their actions are worked off: what both programs do the same.
//!
//! Invariant: an action that takes long delays no other action's pass, and no request starts more passes than the bounds
//! here allow.

pub mod log;
mod pause;
mod schedule;
mod triggers;
mod workers;

pub use self::pause::Pauses;
pub use self::schedule::{full_passes, wait};
pub use self::triggers::Triggers;
pub use self::workers::{Workers, work_off};
