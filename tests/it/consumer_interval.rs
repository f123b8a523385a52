//! How often the consumer looks into the bucket, and what it says of passes that find nothing new.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use testbed::archive::Naming;
use testbed::git::Protection;
use testbed::world::World;

use crate::site::{pass_now, status};
use crate::support::{Daemon, consumer, count, delivering, put, wait_until, waiting};

/// The consumer without `RECONCILE_SLEEP_TIME`.
fn by_default(world: &World, arguments: &[&str]) -> Daemon {
    let mut command = consumer(world, arguments);
    command.env_remove("RECONCILE_SLEEP_TIME");
    Daemon::spawn(command)
}

fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str().map(|text| text.parse().unwrap())
}

/// The next pass is due this many seconds after the last one, which itself took a while.
#[track_caller]
fn assert_pause(daemon: &Daemon, seconds: i64) {
    // Clocks are read one after the other.
    const SLACK_MILLIS: i64 = 100;
    wait_until("the next pass is planned", || {
        let now = status(daemon);
        let last = now["history"].as_array().unwrap().last().and_then(|last| time(&last["began"]));
        let (Some(began), Some(due), Some(at)) = (last, time(&now["next_pass"]), time(&now["now"])) else {
            return false;
        };
        let [least, most] = [at, began].map(|from| due.as_millisecond() - from.as_millisecond());
        let pause = seconds * 1_000;
        assert!(
            least <= pause + SLACK_MILLIS && most >= pause - SLACK_MILLIS,
            "{seconds} s are not between {least} and {most} ms"
        );
        true
    });
}

#[test]
fn a_small_bucket_is_read_every_ten_seconds() {
    let (world, source, head) = waiting();
    let daemon = by_default(&world, &[]);
    wait_until("the first commit is there", || world.far_head("far/app", "main").as_deref() == Some(&head));
    assert_pause(&daemon, 10);
    let begun = Instant::now();
    let head = source.commits("main", 1).unwrap();
    world.put_head(&source, "main", "far/app", "main", Naming::Zip).unwrap();
    wait_until("the next one is there by itself", || world.far_head("far/app", "main").as_deref() == Some(&head));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    daemon.stop().succeeded();
}

#[test]
fn more_objects_than_one_request_lists_are_read_every_five_minutes() {
    let world = World::start().unwrap();
    (0..1_000).for_each(|n| world.s3().put(&format!("{n}.txt"), "foreign"));
    let daemon = by_default(&world, &[]);
    assert_pause(&daemon, 10);
    world.s3().put("one more.txt", "foreign");
    pass_now(&daemon);
    assert_pause(&daemon, 300);
    assert!(world.s3().delete("one more.txt"));
    pass_now(&daemon);
    assert_pause(&daemon, 10);
    drop(daemon);
    let daemon = Daemon::spawn(consumer(&world, &["-reconcile-sleep-time=77s"]));
    // What is set always wins.
    assert_pause(&daemon, 77);
}

#[test]
fn a_dry_run_does_not_print_its_plan_every_ten_seconds() {
    let (world, ..) = waiting();
    let daemon = by_default(&world, &["-dry-run"]);
    assert_pause(&daemon, 300);
}

#[test]
fn passes_that_fail_come_less_and_less_often() {
    let (world, _, head) = waiting();
    world.s3().fail("ListObjectsV2", "AccessDenied", 3);
    let daemon = by_default(&world, &[]);
    for (done, expected) in [(1, 20), (2, 40), (3, 80)] {
        daemon.wait_until_logged("the pass failed and nothing was changed", done);
        assert_pause(&daemon, expected);
        daemon.signal(Signal::USR1);
    }
    wait_until("the commit is there", || world.far_head("far/app", "main").as_deref() == Some(&head));
    assert_pause(&daemon, 10);
    daemon.stop().succeeded();
}

/// A pass every few seconds that finds what the one before it found is not worth a line.
#[test]
fn quiet_passes_are_not_logged_each() {
    let (world, source, head) = waiting();
    put(&world, "near/locked", "far/locked");
    world.destination.protect("far/locked", "main", Protection::NoPush);
    let daemon = delivering(&world);
    wait_until("the first commit is there", || world.far_head("far/app", "main").as_deref() == Some(&head));
    let lists = || count(&world.s3().requests(), "ListObjectsV2");
    let more_passes = |passes: usize| {
        let before = lists();
        wait_until("more passes are over", || lists() > before + passes);
    };
    more_passes(30);
    let log = daemon.log();
    let said = |log: &str, text: &str| log.matches(text).count();
    // One for the failure, and one for its being blocked from then on.
    assert!((1..=2).contains(&said(&log, "pass done, not everything is in sync")), "{log}");
    assert_eq!((said(&log, "failed: far/locked@main"), said(&log, "blocked: far/locked@main")), (1, 1), "{log}");
    let lines = log.lines().count();
    more_passes(30);
    assert_eq!(daemon.log().lines().count(), lines, "{}", daemon.log());

    let head = source.commits("main", 1).unwrap();
    world.put_head(&source, "main", "far/app", "main", Naming::Zip).unwrap();
    wait_until("the next commit is there", || world.far_head("far/app", "main").as_deref() == Some(&head));
    daemon.wait_until_logged("delivered far/app@main", 2);
    daemon.wait_until_logged("pass done, not everything is in sync delivered=1", 2);
    more_passes(5);
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("failed: far/locked@main", 2);
    world.destination.unprotect("far/locked", "main");
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("delivered far/locked@main", 1);
    daemon.wait_until_logged("INFO pass done ", 1);
    let run = daemon.stop().succeeded();
    assert_eq!(said(&run.log, "DEBUG"), 0);
}

#[test]
fn at_debug_level_each_pass_is_logged() {
    let (world, ..) = waiting();
    let mut command = consumer(&world, &["-reconcile-sleep-time=10ms"]);
    command.env("RUST_LOG", "git_partition_sync_producer=debug");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("DEBUG pass done", 10);
    daemon.stop().succeeded();
}
