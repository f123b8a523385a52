//! The program as its users meet it: the real binary, real Git repositories, real servers on loopback.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bucket;
mod dry_run;
mod formats;
mod list_restore;
mod mirrors;
mod packs;
mod seaweed;
mod support;
mod sync;
