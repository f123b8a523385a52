//! What goes wrong around the program, on the wire, on the disk and with the process, and what must hold all the same.
//!
//! Each case is a small world in which one thing goes wrong during one pass. After it [`invariants`] are checked, the
//! next pass must put everything right, and the one after that must have nothing to do.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod case;
mod common;
mod crossing;
mod disk;
mod git;
mod graphql;
mod invariants;
mod origins;
mod process;
mod replicas;
mod s3;
mod soak;
#[expect(dead_code, reason = "the other suite uses all of it")]
#[path = "../it/support.rs"]
mod support;
mod tls;
