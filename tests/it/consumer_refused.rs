//! What the far GitLab refuses, and what the setting holds: explained, remembered, and never in the way of the others.

use std::time::Duration;

use rustix::process::Signal;
use testbed::archive::{self, Naming};
use testbed::fault::{ALWAYS, Fault, Moment, Proxy};
use testbed::git::{GitFault, GitOperation, Protection, words};
use testbed::repo::Repo;
use testbed::world::World;

use crate::site::get;
use crate::support::{
    Daemon, PATIENCE, assert_arrived, assert_far_is_clean, consumer, count, deliver, deliver_with, delivering,
    operations, pushes, put, wait_until, waiting,
};

/// A refusal, how it comes about, and how it ends.
struct Case {
    name: &'static str,
    /// Prepares the project near/bad.
    prepare: fn(&Repo),
    begins: fn(&World),
    ends: fn(&World),
    /// What the log says, besides the destination.
    says: &'static str,
    /// What the log and the page advise.
    advises: &'static str,
}

const RULE: &str = "Commit message does not follow the pattern '^JIRA-'";

const fn case(
    name: &'static str,
    begins: fn(&World),
    ends: fn(&World),
    says: &'static str,
    advises: &'static str,
) -> Case {
    Case { name, prepare: |_| {}, begins, ends, says, advises }
}

const CASES: [Case; 6] = [
    case(
        "a protected branch",
        |world| world.destination.protect("far/bad", "main", Protection::NoPush),
        |world| world.destination.unprotect("far/bad", "main"),
        words::PROTECTED,
        "Allowed to force push",
    ),
    case(
        "a push rule",
        |world| world.destination.decline("far/bad", Some(RULE)),
        |world| world.destination.decline("far/bad", None),
        RULE,
        "Push rules",
    ),
    Case {
        prepare: |source| {
            let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064x}\nsize 1234\n", 1);
            source.commit("main", &[("large.bin", pointer)], "A pointer").unwrap();
        },
        ..case(
            "LFS objects",
            |world| world.destination.set_refuse_lfs(true),
            |world| world.destination.set_refuse_lfs(false),
            "LFS objects are missing",
            "LFS",
        )
    },
    Case {
        prepare: |source| source.fill_incompressible(3, 1).unwrap(),
        ..case(
            "nginx's limit",
            |world| world.destination.set_max_body_bytes(Some(1 << 20)),
            |world| world.destination.set_max_body_bytes(None),
            "413",
            "client_max_body_size",
        )
    },
    Case {
        prepare: |source| source.fill_incompressible(3, 1).unwrap(),
        ..case(
            "GitLab's limit",
            |world| world.destination.set_max_push_bytes(Some(1 << 20)),
            |world| world.destination.set_max_push_bytes(None),
            "exceeds maximum allowed size",
            "Maximum push size",
        )
    },
    Case {
        prepare: |source| {
            let tree = source.git(&["rev-parse", "main^{tree}"]).unwrap();
            let file = source.path().join("odd-commit");
            std::fs::write(&file, format!("tree {tree}\n\nnobody wrote this\n")).unwrap();
            let written = file.to_string_lossy().into_owned();
            let commit = source.git(&["hash-object", "-w", "--literally", "-t", "commit", &written]).unwrap();
            source.git(&["update-ref", "refs/heads/main", &commit]).unwrap();
        },
        ..case("fsck", |_| {}, |_| {}, "missingAuthor", "Push rules")
    },
];

#[test]
fn a_refused_push_costs_one_upload_over_passes_and_restarts() {
    for Case { name, prepare, begins, ends, says, advises } in CASES {
        let (world, good, head) = waiting();
        let bad = world.project("near/bad").unwrap();
        prepare(&bad);
        put(&world, "near/bad", "far/bad");
        begins(&world);
        let run = deliver(&world).failed().logged("delivered far/app@main");
        assert_arrived(&world, "far/app", "main", &head);
        let lines = run.lines_with("far/bad@main");
        assert!(lines.len() == 1 && lines[0].contains("ERROR"), "{name}: {}", run.log);
        for text in [says, advises] {
            assert!(lines[0].contains(text), "{name}: {text:?} is not in {}", lines[0]);
        }
        assert_eq!(world.far_head("far/bad", "main"), None, "{name}");
        assert_far_is_clean(&world, "far/bad");

        let daemon = delivering(&world);
        good.commits("main", 1).unwrap();
        put(&world, "near/app", "far/app");
        wait_until("others go on", || world.far_head("far/app", "main") == good.head("main"));
        let lists = || count(&world.s3().requests(), "ListObjectsV2");
        let before = lists();
        wait_until("more passes are over", || lists() > before + 3);
        let page = get(&daemon, "/").body;
        assert!(page.contains(advises), "{name}: {advises:?} is not on the page\n{page}");
        let log = daemon.stop().log;
        assert!(log.contains("blocked: far/bad@main") && log.contains("SIGUSR1"), "{name}: {log}");
        assert_eq!(pushes(&world, "far/bad").len(), 1, "{name}: {log}");
        let path = archive::key("far/bad", "main", &bad.head("main").unwrap(), Naming::Zip).unwrap();
        let reads = world.s3().requests().into_iter().filter(|it| it.is("GetObject") && it.path.ends_with(&path));
        assert_eq!(reads.count(), 1, "{name}: it is downloaded once");

        ends(&world);
        if name == "fsck" {
            continue;
        }
        // Another commit is another question.
        let next = bad.commits("main", 1).unwrap();
        put(&world, "near/bad", "far/bad");
        deliver(&world).succeeded();
        assert_arrived(&world, "far/bad", "main", &next);
    }
}

#[test]
fn a_signal_asks_again_at_once() {
    let (world, _, head) = waiting();
    world.destination.protect("far/app", "main", Protection::NoPush);
    let daemon = delivering(&world);
    daemon.wait_until_logged("blocked: far/app@main", 1);
    let passes = || count(&world.s3().requests(), "ListObjectsV2");
    let before = passes();
    wait_until("more passes are over", || passes() > before + 3);
    assert_eq!(pushes(&world, "far/app").len(), 1);
    world.destination.unprotect("far/app", "main");
    daemon.signal(Signal::USR1);
    wait_until("it has arrived", || world.far_head("far/app", "main").as_deref() == Some(&head));
    daemon.wait_until_logged("delivered far/app@main", 1);
    daemon.stop().succeeded();
    assert_eq!(pushes(&world, "far/app").len(), 2);
}

#[test]
fn a_rewritten_branch_meets_a_protected_one_once() {
    let (world, source, old) = waiting();
    deliver(&world).succeeded();
    world.destination.protect("far/app", "main", Protection::NoForce);
    let next = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &next);

    source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
    put(&world, "near/app", "far/app");
    world.destination.clear_requests();
    for _ in 0..3 {
        let run = deliver(&world).failed();
        let line = run.lines_with("far/app@main").concat();
        assert!(line.contains(words::FORCE) && line.contains("Allowed to force push"), "{}", run.log);
        assert_arrived(&world, "far/app", "main", &next);
    }
    assert_eq!(pushes(&world, "far/app").len(), 1);
    assert_ne!(old, next);
}

fn rewritten() -> (World, Repo, String, String) {
    let (world, source, old) = waiting();
    deliver(&world).succeeded();
    let new = source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
    put(&world, "near/app", "far/app");
    world.destination.clear_requests();
    world.s3().clear_requests();
    (world, source, old, new)
}

#[test]
fn a_rewritten_branch_replaces_the_far_one_unless_it_is_to_be_held() {
    let (world, _, old, new) = rewritten();
    for _ in 0..2 {
        let run = deliver_with(&world, "ON_REWRITE", "hold").failed();
        let line = run.lines_with("far/app@main").concat();
        assert!(line.contains(&old) && line.contains(&new) && line.contains("-on-rewrite=publish"), "{}", run.log);
        assert_arrived(&world, "far/app", "main", &old);
    }
    assert_eq!(pushes(&world, "far/app").len(), 0);
    assert_eq!(count(&world.s3().requests(), "GetObject"), 1, "it is downloaded once to find out");
    let run = deliver(&world).succeeded();
    let line = run.lines_with("replaced: far/app@main").concat();
    assert!(line.contains(&old) && line.contains(&new), "{}", run.log);
    assert_arrived(&world, "far/app", "main", &new);
}

#[test]
fn a_held_branch_goes_on_when_its_history_is_the_far_one_again() {
    let (world, source, old, _) = rewritten();
    deliver_with(&world, "ON_REWRITE", "hold").failed().logged("held: far/app@main");
    source.git(&["update-ref", "refs/heads/main", &old]).unwrap();
    let next = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    deliver_with(&world, "ON_REWRITE", "hold").succeeded();
    assert_arrived(&world, "far/app", "main", &next);
}

#[test]
fn commits_that_somebody_else_pushed_are_held_or_replaced_as_the_setting_says() {
    let (world, source, _) = waiting();
    deliver(&world).succeeded();
    let far = world.destination.repo("far/app").unwrap();
    let theirs = far.commit("main", &[("theirs.txt", "not from the near side\n")], "Theirs").unwrap();
    // Once with the same object as before, which is behind theirs, and once with a newer one.
    let run = deliver_with(&world, "ON_REWRITE", "hold").failed();
    assert!(run.lines_with("far/app@main").concat().contains(&theirs), "{}", run.log);
    let ours = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    deliver_with(&world, "ON_REWRITE", "hold").failed();
    assert_eq!(world.far_head("far/app", "main"), Some(theirs));
    deliver(&world).succeeded().logged("replaced: far/app@main");
    assert_arrived(&world, "far/app", "main", &ours);
}

#[test]
fn a_branch_that_moves_during_the_push_is_planned_again_in_the_next_pass() {
    let (world, source, _) = waiting();
    deliver(&world).succeeded();
    let ours = source.commits("main", 1).unwrap();
    put(&world, "near/app", "far/app");
    let far = world.destination.repo("far/app").unwrap();
    world.destination.before("far/app", GitOperation::ReceivePack, move || {
        let theirs = far.commit("main", &[("theirs.txt", "in between\n")], "Theirs");
        assert!(theirs.is_ok(), "{theirs:?}");
    });
    let run = deliver(&world).failed();
    assert!(run.lines_with("failed: far/app@main").len() == 1, "{}", run.log);
    assert_ne!(world.far_head("far/app", "main").as_deref(), Some(&*ours));
    assert_far_is_clean(&world, "far/app");
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &ours);
}

/// Objects for this many projects, which are not to be read.
fn unread(world: &World, count: usize) {
    for n in 0..count {
        let key = archive::key(&format!("far/p{n}"), "main", &format!("{n:040x}"), Naming::Zip).unwrap();
        world.s3().put(&key, "not to be read");
    }
}

#[test]
fn a_token_that_may_only_read_is_one_fact() {
    let (world, _, head) = waiting();
    unread(&world, 30);
    world.destination.set_read_only(true);
    let run = deliver(&world).failed();
    let lines = run.lines_with(words::READ_ONLY);
    assert!(lines.len() == 1 && lines[0].contains("write_repository"), "{}", run.log);
    assert_eq!(count(&world.s3().requests(), "GetObject"), 0);
    assert_eq!(count(&world.destination.requests(), "receive-pack"), 0);
    assert_eq!(world.destination.created(), [""; 0]);
    let daemon = delivering(&world);
    daemon.wait_until_logged("pass done", 1);
    assert!(get(&daemon, "/").body.contains("write_repository"));
    drop(daemon);
    world.destination.set_read_only(false);
    deliver(&world).logged("delivered far/app@main");
    assert_arrived(&world, "far/app", "main", &head);
}

#[test]
fn an_expired_token_is_one_fact_and_tried_a_few_times_only() {
    let (world, _, head) = waiting();
    unread(&world, 30);
    world.destination.set_expired(true);
    let run = deliver(&world).failed().logged("GitLab refuses the login");
    assert_eq!(run.log.matches("ERROR").count(), 1, "{}", run.log);
    let asked = world.destination.requests().len();
    assert!(asked <= 5, "GitLab bans an address after ten: {asked}");
    world.destination.set_expired(false);
    deliver(&world).logged("delivered far/app@main");
    assert_arrived(&world, "far/app", "main", &head);
}

#[test]
fn a_project_that_may_not_be_made_or_pushed_to_is_blocked_with_gitlab_s_words() {
    let (world, _, head) = waiting();
    for name in ["far/missing", "far/theirs", "nowhere/p"] {
        put(&world, "near/app", name);
    }
    world.destination.repo("far/app").unwrap();
    world.destination.repo("far/theirs").unwrap();
    world.destination.set_create_projects(false);
    world.destination.fault("far/theirs", GitFault::Answer(403, words::NO_PUSH.to_owned()));
    world.s3().clear_requests();
    let run = deliver(&world).failed().logged("blocked=3");
    assert_arrived(&world, "far/app", "main", &head);
    for (name, text) in [("far/missing", "404"), ("nowhere/p", "404"), ("far/theirs", words::NO_PUSH)] {
        let line = run.lines_with(&format!("blocked: {name}@main")).concat();
        assert!(line.contains(text), "{name}: {}", run.log);
    }
    for (name, group) in [("far/missing", "far"), ("nowhere/p", "nowhere")] {
        let line = run.lines_with(&format!("blocked: {name}@main")).concat();
        assert!(line.contains(&format!("did not create it in the group {group}: ")), "{line}");
        assert!(line.contains("Create the group if it is missing"), "{line}");
    }
    assert_eq!(operations(&world.s3().requests()), ["GetObject", "ListObjectsV2"]);
    world.destination.clear_overrides();
    world.destination.set_create_projects(true);
    world.destination.group("nowhere").unwrap();
    deliver(&world).succeeded().logged("delivered=3");
}

/// A right that ends between the question and the push.
#[test]
fn a_right_that_is_lost_before_the_push_is_told_like_one_that_was_never_there() {
    let (world, ..) = waiting();
    world.destination.repo("far/app").unwrap();
    let server = world.destination.url();
    let front = Proxy::start(&server).unwrap();
    let refusal = Fault::Answer {
        status: 403,
        headers: vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())],
        body: words::NO_PUSH.as_bytes().to_vec(),
    };
    front.on(|seen| seen.operation() == "receive-pack", 1, refusal);
    let run: crate::support::Run =
        consumer(&world, &["-run-once"]).env("GITLAB_BASE_URL", front.url()).output().unwrap().into();
    let line = run.failed().lines_with("far/app@main").concat();
    assert!(line.contains("403") && line.contains(words::NO_PUSH), "{line}");
    assert_eq!(front.hits(), 1, "it is not tried again in this pass");
}

/// GitLab bans an address after ten failed logins.
#[test]
fn a_token_that_expires_during_a_pass_is_not_tried_for_each_destination() {
    let (world, ..) = waiting();
    for n in 0..20 {
        put(&world, "near/app", &format!("far/p{n:02}"));
    }
    let front = Proxy::start(&world.destination.url()).unwrap();
    // All questions and two pushes are answered.
    front.on_later(2, |seen| seen.operation() == "receive-pack", usize::MAX, Fault::status(401));
    let mut command = consumer(&world, &["-reconcile-sleep-time=1h"]);
    command.env("GITLAB_BASE_URL", front.url()).env("SYNC_CONCURRENCY", "2");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 1);
    let log = daemon.log();
    assert!((5..=6).contains(&front.hits()), "{} refused pushes\n{log}", front.hits());
    assert_eq!(log.matches("are not tried, because the far GitLab has refused the login").count(), 1, "{log}");
    assert_eq!(log.matches("delivered far/").count(), 2, "{log}");
    assert!(get(&daemon, "/").body.contains("not tried: the far GitLab has refused the login"), "{log}");
    front.forget();
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("pass done", 2);
    assert_eq!(daemon.log().matches("delivered far/").count(), 21);
    daemon.stop().succeeded();
}

#[test]
fn branches_of_one_project_are_pushed_one_after_the_other() {
    let (world, source, head) = waiting();
    for n in 0..6 {
        world.put_head(&source, "main", "far/app", &format!("b{n}"), Naming::Zip).unwrap();
    }
    put(&world, "near/other", "far/other");
    let front = Proxy::start(&world.destination.url()).unwrap();
    front.on(
        |seen| seen.operation() == "receive-pack" && seen.path.contains("far/app"),
        ALWAYS,
        Fault::Hold(Moment::Unsent),
    );
    let mut command = consumer(&world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", front.url()).env("SYNC_CONCURRENCY", "4");
    let running = Daemon::spawn(command);
    running.wait_until_logged("delivered far/other@main", 1);
    wait_until("a push is under way", || front.held() > 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(front.held(), 1, "the others wait: {}", running.log());
    front.clear();
    running.ends_within(PATIENCE).succeeded().logged("delivered=8");
    assert_arrived(&world, "far/app", "b5", &head);
}
