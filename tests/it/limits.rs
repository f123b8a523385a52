//! A pass fits the process's limit on open files, whatever concurrency is asked for.

use std::process::Command;
use std::time::Duration;

use testbed::world::World;

use crate::support::{Run, assert_arrived, keys, put, zip_key};

#[test]
fn a_first_sync_of_twenty_projects_fits_ninety_six_descriptors() {
    let world = World::builder().setting("SYNC_CONCURRENCY", "64").setting("PROBE_CONCURRENCY", "256").start().unwrap();
    let mut expected = vec![];
    for number in 0..20 {
        let (source, destination) = (format!("near/{number}"), format!("far/{number}"));
        let repo = if number < 3 {
            // These take several parts, on several connections.
            let repo = world.source.repo(&source).unwrap();
            repo.fill_incompressible(20, number).unwrap();
            repo
        } else {
            world.project(&source).unwrap()
        };
        world.sync(&source, "main", &destination, "main").unwrap();
        expected.push(zip_key(&destination, "main", &repo.head("main").unwrap()));
    }
    expected.sort();
    let mut limited: Command = world.command("sh");
    limited.args(["-c", "ulimit -n 96 && exec \"$0\" -run-once", env!("CARGO_BIN_EXE_git-partition-sync-producer")]);
    let run = Run::from(limited.output().unwrap()).succeeded();
    assert_eq!(keys(&world), expected, "{}", run.log);
    run.logged("the limit on open files allows less concurrency than configured");
}

#[test]
fn a_first_crossing_of_twenty_projects_fits_ninety_six_descriptors() {
    let world = World::builder()
        .consumer_setting("SYNC_CONCURRENCY", "64")
        .consumer_setting("PROBE_CONCURRENCY", "256")
        .start()
        .unwrap();
    world.destination.group("far").unwrap();
    let heads: Vec<String> = (0..20).map(|n| put(&world, "near/app", &format!("far/{n}"))).collect();
    // Each push is answered late, so that as many as may be are under way at the same time.
    world.destination.set_latency(Duration::from_millis(100));
    let mut limited: Command = world.consumer_command("sh");
    limited.args(["-c", "ulimit -n 96 && exec \"$0\" -run-once", env!("CARGO_BIN_EXE_git-partition-sync-consumer")]);
    let run = Run::from(limited.output().unwrap()).succeeded();
    for (n, head) in heads.iter().enumerate() {
        assert_arrived(&world, &format!("far/{n}"), "main", head);
    }
    run.logged("the limit on open files allows less concurrency than configured");
}
