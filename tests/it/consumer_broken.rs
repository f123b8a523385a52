//! Connections that break while the consumer works, and ends of the process in the middle of a push.

use rustix::process::Signal;
use testbed::archive::Naming;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::git::GitFault;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, Run, STOP_LIMIT, assert_arrived, assert_far_is_clean, consumer, count, deliver, delivering, files_below,
    pushes, put, wait_until, waiting,
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
fn cross_twice(arrange: impl Fn(&Proxy, &Proxy), check: impl Fn(&World, &Run)) {
    let (world, source, _) = waiting();
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
    for fault in [
        Fault::Reset(Moment::Unanswered),
        Fault::Reset(Moment::Within(At::Half)),
        Fault::Close(At::Half),
        Fault::truncate(At::Half),
    ] {
        cross_twice(
            |far, _| far.on(|seen| seen.operation() == "receive-pack", 1, fault.clone()),
            |world, run| {
                assert_eq!(pushes(world, "far/app").len(), 1, "{fault:?}: {}", run.log);
                assert_eq!(count(&world.destination.requests(), "receive-heads"), 2, "{fault:?}: {}", run.log);
            },
        );
    }
}

#[test]
fn what_breaks_once_is_tried_again_in_the_same_pass() {
    for operation in ["receive-heads", "receive-pack"] {
        for fault in [Fault::Reset(Moment::Unsent), Fault::status(503), Fault::status(429)] {
            cross_twice(|far, _| far.on(move |seen| seen.operation() == operation, 1, fault.clone()), |_, _| {});
        }
    }
    for fault in [Fault::Reset(Moment::Within(At::Half)), Fault::Close(At::Half), Fault::s3_error(503, "SlowDown")] {
        cross_twice(|_, s3| s3.on(|seen| seen.operation() == "GetObject", 1, fault.clone()), |_, _| {});
    }
}

/// The archive is complete only once its last byte was read: a download that lacks it, or has others, moves no branch.
#[test]
fn bytes_that_change_on_their_way_from_the_bucket_move_no_branch() {
    let (world, source, _) = waiting();
    let (far, s3) = proxies(&world);
    for _ in 0..2 {
        let before = world.far_head("far/app", "main");
        for from_end in [1, 40, 5_000, 30_000] {
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
    source.fill_incompressible(16, 1).unwrap();
    world.put_head(&source, "main", "far/large", "main", Naming::Zip).unwrap();
    (world, source)
}

#[test]
fn a_push_that_breaks_in_the_middle_is_cleaned_up_and_done_again() {
    let (world, source) = with_large();
    world.destination.repo("far/large").unwrap();
    world.destination.fault("far/large", GitFault::CutPushAfter(5 << 20));
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
fn a_consumer_that_ends_in_mid_push_leaves_the_far_side_clean() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let (world, source) = with_large();
        let (daemon, _s3) = in_mid_push(&world);
        daemon.signal(signal);
        let run = daemon.ends_within(STOP_LIMIT);
        if signal != Signal::KILL {
            assert_eq!(run.status, 0, "{}", run.log);
            assert!(!run.log.contains(" ERROR "), "a stop is not a failure\n{}", run.log);
        }
        assert_eq!(world.far_head("far/large", "main"), None);
        // Git notices when the connection ends.
        wait_until("the far side is clean", || world.destination.quarantined("far/large").unwrap().is_empty());
        deliver(&world).succeeded();
        assert_arrived(&world, "far/large", "main", &source.head("main").unwrap());
    }
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
