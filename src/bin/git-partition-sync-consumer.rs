//! The program of the far side: from the bucket into the other GitLab.

// A whole program is one future, and the compiler follows how it is nested.
#![recursion_limit = "256"]

use std::process::ExitCode;

use git_partition_sync_producer::{commands, config};

fn main() -> ExitCode {
    commands::start(config::parse_consumer, commands::run_consumer)
}
