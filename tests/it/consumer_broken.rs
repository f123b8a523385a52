//! Connections that break while the consumer works, and ends of the process in the middle of a push.

use std::thread;

use rustix::process::Signal;
use testbed::archive::Naming;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::git::GitFault;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, ONE_PUSH, Run, STOP_LIMIT, assert_arrived, assert_far_is_clean, assert_pushes_were_ended, consumer, count,
    deliver, delivering, files_below, pushes, put, wait_until, waiting, waiting_with_a_megabyte,
};

/// Runs one pass through these proxies in front of the far GitLab and the bucket.
fn deliver_through(world: &World, far: &Proxy, s3: &Proxy) -> Run {
    let mut command = consumer(world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", far.url()).env("AWS_ENDPOINT_URL_S3", s3.url());
    command.output().unwrap().into()
}

fn proxies(world: &World) -> (Proxy, Proxy) {
    (Proxy::start(&world.destination.url()).unwrap(), Proxy::start(&world.s3().url()).unwrap())
}

/// Brings near/app to the far side, and then a commit more: the first crossing streams, the second uses the disk.
fn cross_twice(
    (world, source, _): (World, Repo, String),
    arrange: impl Fn(&Proxy, &Proxy),
    check: impl Fn(&World, &Run),
) {
    let (far, s3) = proxies(&world);
    for _ in 0..2 {
        let before = far.hits() + s3.hits();
        arrange(&far, &s3);
        world.destination.clear_requests();
        let run = deliver_through(&world, &far, &s3).succeeded();
        assert!(far.hits() + s3.hits() > before, "the fault happened");
        assert_arrived(&world, "far/app", "main", &source.head("main").unwrap());
        check(&world, &run);
        source.commits("main", 1).unwrap();
        put(&world, "near/app", "far/app");
    }
}

#[test]
fn a_push_whose_answer_is_lost_is_looked_up_and_not_repeated() {
    let faults = [
        Fault::Reset(Moment::Unanswered),
        Fault::Reset(Moment::Within(At::Half)),
        Fault::Close(At::Half),
        Fault::truncate(At::Half),
    ];
    // The last lookup is of the lost answer.
    let lookups = ONE_PUSH.iter().filter(|operation| **operation == "receive-heads").count() + 1;
    thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let arrange = |far: &Proxy, _: &Proxy| {
                    far.on(|seen| seen.operation() == "receive-pack", 1, fault.clone());
                };
                cross_twice(waiting(), arrange, |world, run| {
                    assert_eq!(pushes(world, "far/app").len(), 1, "{fault:?}: {}", run.log);
                    let asked = count(&world.destination.requests(), "receive-heads");
                    assert_eq!(asked, lookups, "{fault:?}: {}", run.log);
                });
            });
        }
    });
}

#[test]
fn what_breaks_once_is_tried_again_in_the_same_pass() {
    let far = [Fault::Reset(Moment::Unsent), Fault::status(503), Fault::status(429)];
    let s3 = [Fault::Reset(Moment::Within(At::Half)), Fault::Close(At::Half), Fault::s3_error(503, "SlowDown")];
    // They are mostly pauses.
    thread::scope(|scope| {
        for fault in far {
            for operation in ["receive-heads", "receive-pack"] {
                let fault = fault.clone();
                let arrange =
                    move |far: &Proxy, _: &Proxy| far.on(move |seen| seen.operation() == operation, 1, fault.clone());
                scope.spawn(|| cross_twice(waiting(), arrange, |_, _| {}));
            }
        }
        for fault in s3 {
            let arrange = move |_: &Proxy, s3: &Proxy| s3.on(|seen| seen.operation() == "GetObject", 1, fault.clone());
            scope.spawn(|| cross_twice(waiting_with_a_megabyte(), arrange, |_, _| {}));
        }
    });
}

/// The archive is complete only once its last byte was read: a download that lacks it, or has others, moves no branch.
#[test]
fn bytes_that_change_on_their_way_from_the_bucket_move_no_branch() {
    let (world, source, _) = waiting_with_a_megabyte();
    let (far, s3) = proxies(&world);
    for _ in 0..2 {
        let before = world.far_head("far/app", "main");
        for from_end in [1, 40, 100_000, 900_000] {
            s3.clear();
            s3.on(|seen| seen.operation() == "GetObject", ALWAYS, Fault::flip_bit(from_end));
            let run = deliver_through(&world, &far, &s3).failed();
            assert_eq!(run.lines_with("far/app@main").len(), 1, "{from_end}: {}", run.log);
            assert_eq!(world.far_head("far/app", "main"), before, "{from_end}: {}", run.log);
            assert_far_is_clean(&world, "far/app");
            // What is remembered of an object holds for the object as it was written then.
            let key = world.s3().keys().pop().unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10 + from_end as u64);
            world.s3().set_last_modified(&key, later).unwrap();
        }
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &source.head("main").unwrap());
        for key in world.s3().keys() {
            world.s3().delete(&key);
        }
        source.commits("main", 1).unwrap();
        put(&world, "near/app", "far/app");
    }
}

/// A world whose bucket holds a large project for far/large.
fn with_large() -> (World, Repo) {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.source.repo("near/large").unwrap();
    source.fill_incompressible(6, 1).unwrap();
    world.put_head(&source, "main", "far/large", "main", Naming::Zip).unwrap();
    (world, source)
}

#[test]
fn a_push_that_breaks_in_the_middle_is_cleaned_up_and_done_again() {
    let (world, source) = with_large();
    world.destination.repo("far/large").unwrap();
    world.destination.fault("far/large", GitFault::CutPushAfter(3 << 20));
    let daemon = delivering(&world);
    wait_until("a push was cut", || pushes(&world, "far/large").len() > 1);
    world.destination.clear_overrides();
    daemon.wait_until_logged("delivered far/large@main", 1);
    daemon.stop().succeeded();
    assert_arrived(&world, "far/large", "main", &source.head("main").unwrap());
}

/// A consumer in the middle of a push: half of the object is under way, and Git on the far side is reading it.
fn in_mid_push(world: &World) -> (Daemon, Proxy) {
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    s3.on(|seen| seen.operation() == "GetObject", ALWAYS, Fault::Hold(Moment::Within(At::Half)));
    let mut command = consumer(world, &["-reconcile-sleep-time=1h"]);
    command.env("AWS_ENDPOINT_URL_S3", s3.url());
    let daemon = Daemon::spawn(command);
    wait_until("half of it is under way", || s3.held() > 0);
    wait_until("the far side receives it", || {
        world.destination.repo_path("far/large").is_dir()
            && !world.destination.quarantined("far/large").unwrap().is_empty()
    });
    (daemon, s3)
}

#[test]
fn a_consumer_asked_to_stop_in_mid_push_leaves_the_far_side_clean() {
    for signal in [Signal::TERM, Signal::INT] {
        let (world, source) = with_large();
        let (daemon, _s3) = in_mid_push(&world);
        daemon.signal(signal);
        let run = daemon.ends_within(STOP_LIMIT);
        assert_eq!(run.status, 0, "{}", run.log);
        assert!(!run.log.contains(" ERROR "), "a stop is not a failure\n{}", run.log);
        assert_pushes_were_ended(&world, "far/large");
        wait_until("the far side is clean", || world.destination.quarantined("far/large").unwrap().is_empty());
        assert_eq!(world.far_head("far/large", "main"), None);
        deliver(&world).succeeded();
        assert_arrived(&world, "far/large", "main", &source.head("main").unwrap());
    }
}

#[test]
fn a_consumer_killed_in_mid_push_moves_no_branch_and_the_next_one_does() {
    let (world, source) = with_large();
    let (daemon, _s3) = in_mid_push(&world);
    daemon.signal(Signal::KILL);
    daemon.ends_within(STOP_LIMIT);
    assert_eq!(world.far_head("far/large", "main"), None);
    deliver(&world).succeeded();
    // What the first push had sent stays there until GitLab's housekeeping.
    assert_eq!(world.far_head("far/large", "main"), source.head("main"));
    world.destination.repo("far/large").unwrap().fsck().unwrap();
}

#[test]
fn a_consumer_that_ends_while_it_uses_the_disk_leaves_nothing_there() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (world, source) = with_large();
        deliver(&world).succeeded();
        let old = source.head("main");
        let new = source.commits("main", 1).unwrap();
        world.put_head(&source, "main", "far/large", "main", Naming::Zip).unwrap();
        let s3 = Proxy::start(&world.s3().url()).unwrap();
        s3.on(|seen| seen.operation() == "GetObject", ALWAYS, Fault::Hold(Moment::Within(At::Half)));
        let mut command = consumer(&world, &["-reconcile-sleep-time=1h"]);
        command.env("AWS_ENDPOINT_URL_S3", s3.url());
        let daemon = Daemon::spawn(command);
        wait_until("half of it is there", || s3.held() > 0);
        daemon.signal(signal);
        daemon.ends_within(STOP_LIMIT);
        let packs = || files_below(&world.consumer_workdir()).iter().filter(|file| is_of_git(file)).count();
        if signal == Signal::TERM {
            assert_eq!(packs(), 0);
        }
        assert_eq!(world.far_head("far/large", "main"), old);
        deliver(&world).succeeded();
        assert_arrived(&world, "far/large", "main", &new);
        assert_eq!(packs(), 0, "the next one removes what a killed one left");
    }
}

fn is_of_git(file: &std::path::Path) -> bool {
    file.components().any(|part| part.as_os_str() == ".git")
}

/// Nobody reads the answer to a push that was taken: the next process sees the branch.
#[test]
fn a_consumer_killed_after_its_push_was_taken_does_not_push_again() {
    let (world, _, head) = waiting();
    let far = Proxy::start(&world.destination.url()).unwrap();
    far.on(|seen| seen.operation() == "receive-pack", ALWAYS, Fault::Hold(Moment::Unanswered));
    let mut command = consumer(&world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", far.url());
    let running = Daemon::spawn(command);
    wait_until("the push is taken", || far.held() > 0);
    running.signal(Signal::KILL);
    running.ends_within(STOP_LIMIT);
    assert_arrived(&world, "far/app", "main", &head);
    deliver(&world).succeeded().logged("unchanged=1");
    assert_eq!(pushes(&world, "far/app").len(), 1);
}

/// As after a rename: GitLab leads to the new place, for the question and for the push.
#[test]
fn a_renamed_project_is_followed() {
    let (world, source, head) = waiting();
    world.destination.repo("far/renamed").unwrap();
    world.destination.fault("far/app", GitFault::Redirect("far/renamed".to_owned()));
    deliver(&world).succeeded();
    assert_arrived(&world, "far/renamed", "main", &head);
    let next = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    deliver(&world).succeeded();
    assert_arrived(&world, "far/renamed", "main", &next);
    assert_eq!(world.destination.created(), [""; 0]);
}

/// The producer has replaced an object between the listing and the download.
#[test]
fn an_object_that_is_gone_meanwhile_is_no_failure_and_the_new_one_is_taken_at_once() {
    let (world, source, _) = waiting();
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    s3.on(|seen| seen.operation() == "GetObject", 1, Fault::Hold(Moment::Unsent));
    let mut command = consumer(&world, &["-reconcile-sleep-time=1h"]);
    command.env("AWS_ENDPOINT_URL_S3", s3.url());
    let running = Daemon::spawn(command);
    wait_until("the object is to be read", || s3.held() > 0);
    let old = world.s3().keys();
    let next = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    assert!(old.iter().all(|key| world.s3().delete(key)));
    s3.clear();
    running.wait_until_logged("delivered far/app@main", 1);
    assert_arrived(&world, "far/app", "main", &next);
    let log = running.stop().succeeded().logged("superseded: the object of far/app@main was replaced").log;
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[test]
fn one_run_takes_the_new_object_too() {
    let (world, _, head) = waiting();
    let (far, s3) = proxies(&world);
    s3.on(|seen| seen.operation() == "GetObject", 1, Fault::s3_error(404, "NoSuchKey"));
    let mut command = consumer(&world, &["-run-once", "-output=json"]);
    command.env("GITLAB_BASE_URL", far.url()).env("AWS_ENDPOINT_URL_S3", s3.url());
    let run = Run::from(command.output().unwrap()).succeeded().logged("superseded: ");
    let report = run.json();
    assert_eq!((&report["delivered"], &report["superseded"]), (&1.into(), &0.into()), "{report}");
    assert_arrived(&world, "far/app", "main", &head);
}

#[test]
fn a_bucket_that_lists_what_it_does_not_have_is_an_error() {
    let (world, ..) = waiting();
    let (far, s3) = proxies(&world);
    s3.on(|seen| seen.operation() == "GetObject", ALWAYS, Fault::s3_error(404, "NoSuchKey"));
    let run = deliver_through(&world, &far, &s3).failed();
    assert_eq!(run.lines_with("superseded: ").len(), 1, "{}", run.log);
    let failed = run.lines_with("failed: far/app@main");
    assert!(failed.len() == 1 && failed[0].contains("NoSuchKey"), "{}", run.log);
    assert_eq!(s3.hits(), 2, "it is not tried again and again");
}
