//! What a pass of the consumer does: what reaches the far GitLab, and what is asked of it and of the bucket.

use std::fs;

use testbed::archive::{self, Naming};
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::git::Protection;
use testbed::judge;
use testbed::world::World;

use crate::site::get;
use crate::support::{
    Daemon, ONE_PUSH, assert_arrived, assert_clean, assert_far_is_clean, consumer, count, deliver, delivering,
    files_below, operations, pass, pass_with, pushes, put, wait_until, waiting,
};

#[test]
fn a_first_crossing_makes_the_project_and_brings_the_whole_history() {
    for naming in [Naming::Zip, Naming::Tar] {
        let world = World::start().unwrap();
        world.destination.group("far").unwrap();
        let source = world.project("near/app").unwrap();
        world.put_head(&source, "main", "far/app", "release/größe", naming).unwrap();
        world.s3().clear_requests();
        deliver(&world).succeeded().logged("delivered far/app@release/größe").logged("delivered=1");

        let head = source.head("main").unwrap();
        assert_arrived(&world, "far/app", "release/größe", &head);
        let far = world.destination.repo("far/app").unwrap();
        assert_eq!(far.refs().unwrap().len(), 1, "one branch, and nothing else");
        assert_eq!(
            judge::object_names(far.path(), &head).unwrap(),
            judge::object_names(source.path(), "main").unwrap()
        );
        assert_eq!(world.destination.created(), ["far/app"]);
        assert_eq!(operations(&world.destination.requests()), ONE_PUSH);
        assert_eq!(world.destination.anonymous_requests().len(), 0, "the login is in the first request");
        let push = &pushes(&world, "far/app")[0];
        assert!(push.header("content-length").is_some(), "some proxies answer 411 without: {:?}", push.headers);
        assert_eq!(operations(&world.s3().requests()), ["GetObject", "ListObjectsV2"], "the bucket is only read");
    }
}

#[test]
fn both_programs_together_keep_the_far_side_at_the_near_side() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "release/1").unwrap();
    let cross = || {
        pass(&world).succeeded();
        let run = deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "release/1", &source.head("main").unwrap());
        run
    };
    cross();
    source.commits("main", 3).unwrap();
    cross();
    pass_with(&world, "ARCHIVE_FORMAT", "tar.gz").succeeded();
    assert!(deliver(&world).succeeded().log.contains("unchanged=1"), "the same commit in another format");
    source.commits("main", 1).unwrap();
    pass_with(&world, "ARCHIVE_FORMAT", "tar.gz").succeeded();
    deliver(&world).succeeded();
    let before = source.head("main").unwrap();
    assert_arrived(&world, "far/app", "release/1", &before);

    source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
    let run = cross();
    let lines = run.lines_with("replaced: far/app@release/1");
    assert!(lines.len() == 1 && lines[0].contains(&before), "{}", run.log);

    world.unsync("far/app", "release/1");
    pass(&world).succeeded().logged("retired");
    assert_eq!(world.bucket().unwrap().keys().unwrap(), [""; 0]);
    world.destination.clear_requests();
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "release/1", &source.head("main").unwrap());
    assert_eq!(world.destination.requests().len(), 0, "what was retired is not touched");
}

#[test]
fn a_moved_branch_is_pushed_as_what_the_far_side_lacks() {
    let (world, source, _) = waiting();
    deliver(&world).succeeded();
    let whole = pushes(&world, "far/app")[0].request_bytes;
    for naming in [Naming::Zip, Naming::Tar] {
        let head = source.commits("main", 2).unwrap();
        world.put_head(&source, "main", "far/app", "main", naming).unwrap();
        world.destination.clear_requests();
        deliver(&world).succeeded().logged("delivered far/app@main");
        assert_arrived(&world, "far/app", "main", &head);
        assert_eq!(operations(&world.destination.requests()), ONE_PUSH);
        let lacking = pushes(&world, "far/app")[0].request_bytes;
        assert!(lacking < whole / 20, "{naming:?}: {lacking} of {whole} bytes");
    }
}

#[test]
fn a_quiet_pass_is_the_listing_alone() {
    let (world, source, head) = waiting();
    put(&world, "near/other", "far/other");
    let daemon = delivering(&world);
    daemon.wait_until_logged("delivered far/", 2);
    assert_arrived(&world, "far/app", "main", &head);
    let passes = || count(&world.s3().requests(), "ListObjectsV2");
    // Requests of the pass that has begun meanwhile are like those after it.
    world.destination.clear_requests();
    world.s3().clear_requests();
    wait_until("more passes are over", || passes() > 4);
    assert_eq!(world.destination.requests().len(), 0);
    assert_eq!(count(&world.s3().requests(), "GetObject"), 0);

    let next = source.commits("main", 1).unwrap();
    world.put_head(&source, "main", "far/app", "main", Naming::Zip).unwrap();
    wait_until("the new commit is there", || world.far_head("far/app", "main").as_deref() == Some(&next));
    daemon.stop().succeeded();
    let requests = world.destination.requests();
    assert!(requests.iter().all(|request| request.path.starts_with("/far/app.git/")), "the other one is not asked for");
}

#[test]
fn after_a_restart_each_project_is_asked_once_and_nothing_is_downloaded() {
    let (world, source, head) = waiting();
    for n in 0..9 {
        put(&world, "near/app", &format!("far/p{n}"));
    }
    world.put_head(&source, "main", "far/app", "other", Naming::Zip).unwrap();
    deliver(&world).succeeded().logged("delivered=11");
    assert_arrived(&world, "far/app", "other", &head);
    world.destination.clear_requests();
    world.s3().clear_requests();
    deliver(&world).succeeded().logged("unchanged=11");
    assert_eq!(operations(&world.destination.requests()), ["receive-heads"; 10]);
    assert_eq!(operations(&world.s3().requests()), ["ListObjectsV2"]);
}

/// They bring the same objects, and Git on the far side stores one push at a time.
#[test]
fn many_branches_of_one_project_arrive_in_one_pass() {
    let (world, source, head) = waiting();
    let branches = ["a", "b", "c", "d", "e", "f", "g"];
    for branch in branches {
        world.put_head(&source, "main", "far/app", branch, Naming::Zip).unwrap();
    }
    deliver(&world).succeeded().logged("delivered=8");
    for branch in branches {
        assert_arrived(&world, "far/app", branch, &head);
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let (world, source, head) = waiting();
    put(&world, "near/other", "far/other");
    world.destination.repo("far/other").unwrap();
    let plan = |output: &str| -> crate::support::Run {
        consumer(&world, &["-dry-run", "-run-once", output]).output().unwrap().into()
    };
    for reason in ["no such project is visible; ", "the far branch is at another commit"] {
        let text = plan("-output=text").succeeded();
        assert!(text.out.contains("far/app") && text.out.contains("far/other"), "{}", text.out);
        assert!(text.out.contains(reason) && text.out.contains("the far GitLab has no such branch"), "{}", text.out);
        let json = plan("-output=json").succeeded().json().to_string();
        assert!(json.contains("\"app\"") && json.contains(&head), "{json}");
        assert_eq!(count(&world.s3().requests(), "GetObject"), 0);
        assert_eq!(count(&world.destination.requests(), "receive-pack"), 0);
        assert_eq!(world.destination.created(), [""; 0], "not even the project is made");
        assert_eq!(files_below(&world.consumer_workdir()), [""; 0].map(std::path::PathBuf::from));
        // Then with a branch that is behind.
        let far = world.destination.repo("far/app").unwrap();
        far.git(&["fetch", "-q", &source.path().to_string_lossy(), "main:refs/heads/main"]).unwrap();
        far.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
    }
    assert_ne!(world.far_head("far/app", "main"), source.head("main"));
    // Only the object can tell whether that is to be held.
    let run: crate::support::Run =
        consumer(&world, &["-dry-run", "-run-once", "-on-rewrite=hold"]).output().unwrap().into();
    let lines: Vec<_> = run.out.lines().filter(|line| line.contains("held back if the object shows")).collect();
    assert!(lines.len() == 1 && lines[0].contains("far/app"), "{}", run.out);
}

/// What is on its way is in no file, however large it is.
#[test]
fn a_first_crossing_needs_no_disk() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.source.repo("near/large").unwrap();
    source.fill_incompressible(8, 1).unwrap();
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    let bytes = || -> u64 {
        let files = files_below(&world.consumer_workdir()).into_iter();
        files.filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
    };
    for naming in [Naming::Zip, Naming::Tar] {
        let destination = format!("far/{}", if naming == Naming::Zip { "zip" } else { "tar" });
        world.put_head(&source, "main", &destination, "main", naming).unwrap();
        s3.clear();
        s3.on(|seen| seen.operation() == "GetObject", 1, Fault::Hold(Moment::Within(At::Half)));
        let mut command = consumer(&world, &["-run-once"]);
        command.env("AWS_ENDPOINT_URL_S3", s3.url());
        let running = Daemon::spawn(command);
        wait_until("half of it is under way", || s3.held() > 0);
        wait_until("the far side receives it", || {
            world.destination.repo_path(&destination).is_dir()
                && !world.destination.quarantined(&destination).unwrap().is_empty()
        });
        assert!(bytes() < 64 << 10, "{naming:?}: {:?}", files_below(&world.consumer_workdir()));
        s3.release();
        running.ends_within(crate::support::PATIENCE).succeeded();
        assert_arrived(&world, &destination, "main", &source.head("main").unwrap());
        assert!(bytes() < 64 << 10, "{naming:?}: {:?}", files_below(&world.consumer_workdir()));
    }
}

#[test]
fn an_object_that_needed_the_disk_is_gone_from_it_afterwards() {
    let (world, source, _) = waiting();
    deliver(&world).succeeded();
    source.commits("main", 1).unwrap();
    world.put_head(&source, "main", "far/app", "main", Naming::Zip).unwrap();
    deliver(&world).succeeded();
    let left = files_below(&world.consumer_workdir());
    let expected = ["lock", "out-of-sync.json", "refusals.json"];
    let is_expected = |file: &std::path::PathBuf| expected.iter().any(|name| file.ends_with(name));
    assert!(left.iter().all(is_expected), "{left:?}");
}

#[test]
fn two_consumers_at_once_bring_everything_once_more_at_most() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let heads: Vec<String> = (0..6).map(|n| put(&world, &format!("near/p{n}"), &format!("far/p{n}"))).collect();
    let start = |workdir: &str| {
        let mut command = consumer(&world, &["-run-once"]);
        command.env("WORKDIR", world.scratch().unwrap().join(workdir));
        Daemon::spawn(command)
    };
    let both = ["one", "two"].map(start);
    for running in both {
        let run = running.ends_within(crate::support::PATIENCE);
        // The slower one may find that a branch was just made.
        assert!([0, 1].contains(&run.status), "{}", run.log);
    }
    for (n, head) in heads.iter().enumerate() {
        assert_arrived(&world, &format!("far/p{n}"), "main", head);
    }
    deliver(&world).succeeded().logged("unchanged=6");
}

#[test]
fn secrets_are_nowhere_though_every_library_logs_at_trace_level() {
    for log_format in ["text", "json"] {
        let world = World::builder()
            .sleep("50ms")
            .consumer_setting("RUST_LOG", "trace")
            .consumer_setting("LOG_FORMAT", log_format)
            .start()
            .unwrap();
        world.destination.group("far").unwrap();
        let head = put(&world, "near/p", "far/p");
        put(&world, "near/locked", "far/locked");
        put(&world, "near/barred", "far/barred");
        let go = world.project("near/go").unwrap();
        world.put_head(&go, "main", "far/go", "main", Naming::Go("main")).unwrap();
        world.destination.protect("far/locked", "main", Protection::NoPush);
        world.destination.override_status("far/barred", 401);
        let assert_files_clean = || {
            for file in files_below(&world.consumer_workdir()) {
                // Files come and go while the program works.
                assert_clean(&world, &file.display().to_string(), &fs::read(&file).unwrap_or_default());
                assert_clean(&world, "a file's name", file.display().to_string().as_bytes());
            }
        };

        let daemon = Daemon::spawn(consumer(&world, &[]));
        let command_line = fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
        assert_clean(&world, "the command line", &command_line);
        wait_until("the first ones have arrived", || {
            assert_files_clean();
            world.far_head("far/p", "main").as_deref() == Some(&head) && world.far_head("far/go", "main").is_some()
        });
        daemon.wait_until_logged("pass done", 2);
        for path in ["/", "/status.json", "/metrics", "/readyz"] {
            assert_clean(&world, path, get(&daemon, path).body.as_bytes());
        }
        let source = world.project("near/p").unwrap();
        source.commits("main", 2).unwrap();
        world.put_head(&source, "main", "far/p", "main", Naming::Zip).unwrap();
        wait_until("the next one has arrived", || {
            assert_files_clean();
            world.far_head("far/p", "main") == source.head("main")
        });
        let run = daemon.stop().succeeded();

        assert!(run.log.contains("TRACE"), "libraries log");
        assert_clean(&world, "standard output", run.out.as_bytes());
        assert_clean(&world, "the log", run.log.as_bytes());
        assert!(!run.log.contains("near-secret-token"), "what is in a Go program's archive stays there");
        assert_files_clean();
        let refs = world.destination.repo("far/go").unwrap().refs().unwrap();
        assert_eq!(refs.keys().collect::<Vec<_>>(), ["refs/heads/main"], "its remote's branches stay there, too");
    }
}

/// Whoever runs it must be able to trust the far side while a destination is in trouble.
#[test]
fn one_destination_in_trouble_does_not_stop_the_others() {
    let (world, _, head) = waiting();
    put(&world, "near/away", "far/away");
    world.s3().put(&archive::key("far/bad", "main", &head, Naming::Zip).unwrap(), "not encrypted");
    world.s3().put(&archive::key("nowhere/p", "main", &head, Naming::Zip).unwrap(), "never read");
    world.destination.override_status("far/away", 403);
    let run = deliver(&world).failed();
    assert_arrived(&world, "far/app", "main", &head);
    for name in ["far/away@main", "far/bad@main", "nowhere/p@main"] {
        assert!(run.lines_with(name).iter().any(|line| line.contains("ERROR")), "{name}: {}", run.log);
    }
    assert_far_is_clean(&world, "far/bad");
    assert_eq!(world.far_head("far/bad", "main"), None);
    let reads = world.s3().requests().into_iter().filter(|request| request.is("GetObject"));
    assert_eq!(reads.count(), 2, "what cannot be pushed is not downloaded");
}

#[test]
fn nothing_is_lost_when_the_bucket_cannot_be_listed() {
    let (world, _, head) = waiting();
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    s3.on(|seen| seen.operation() == "ListObjectsV2", ALWAYS, Fault::s3_error(403, "AccessDenied"));
    let run: crate::support::Run =
        consumer(&world, &["-run-once"]).env("AWS_ENDPOINT_URL_S3", s3.url()).output().unwrap().into();
    run.failed().logged("the pass failed and nothing was changed");
    assert_eq!(world.destination.requests().len(), 0);
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &head);
}
