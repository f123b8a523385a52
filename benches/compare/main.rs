//! Whole-program benchmarks: both programs beside what a user would do instead, on the same servers, in one run.
//!
//! `cargo bench --bench compare -- [--rounds N] [--profile] [WORKLOAD…]`, or `make bench`, which installs the rivals' tools first.
//! `BENCH_RIVAL=PATH` adds another producer that understands the same environment. Figures are the operating system's:
//! CPU from time(1), memory and WORKDIR from sampling, requests and bytes from the servers' own logs.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on says so by panicking")]

mod far;
mod increments;
mod measure;
mod rivals;
mod workloads;

use std::process::ExitCode;

/// Rounds of each workload where none are given.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let mut rounds = ROUNDS;
    let mut wanted = vec![];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What `cargo bench` adds by itself.
            "--bench" => {}
            "--rounds" => {
                rounds = arguments.next().and_then(|n| n.parse().ok()).expect("--rounds takes a number");
            }
            // What this program spends its time on, by perf(1), beside the figures, which it blurs.
            "--profile" => {
                measure::PROFILE.get_or_init(|| ());
            }
            // This process again, to be measured alone: plans for so many objects.
            "--plan" => {
                let objects = arguments.next().and_then(|n| n.parse().ok()).expect("--plan takes a number");
                return workloads::plan_once(objects, &arguments.next().expect("--plan takes a file, too"));
            }
            workload => wanted.push(workload.to_owned()),
        }
    }
    workloads::run(&wanted, rounds);
    ExitCode::SUCCESS
}
