//! The program of the near side: from GitLab into the bucket.

use std::process::ExitCode;

use git_partition_sync_producer::{commands, config};

fn main() -> ExitCode {
    commands::start(config::parse, commands::run)
}
