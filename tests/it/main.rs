//! The program as its users meet it: the real binary, real Git repositories, real servers on loopback.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod daemon;
mod docs;
mod failures;
mod guards;
mod limits;
mod logs;
mod memory;
mod secrets;
mod settings;
mod support;
mod sync;
mod targets;
