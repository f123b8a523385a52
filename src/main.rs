//! The program of the near side: from GitLab into the bucket.

// A whole program is one future, and the compiler follows how it is nested.
#![recursion_limit = "256"]

use std::process::ExitCode;

use git_partition_sync_producer::{commands, config};

fn main() -> ExitCode {
    commands::start(config::parse, commands::run)
}
