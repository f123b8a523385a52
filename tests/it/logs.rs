//! What operators read while the program works.

use std::process::Command;

use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::site::{address, request};
use crate::support::{Daemon, Run, consumer, pass, pass_with, program};

/// A world with a healthy target, one whose project is missing, and one that no target names any more.
fn eventful_world(log_format: &str) -> World {
    let world = World::builder().setting("LOG_FORMAT", log_format).start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    let old = "00000000000000000000000000000000000000aa";
    // The missing one was published before, so no target could mean the unwanted one.
    for destination in ["far/unwanted", "far/gone"] {
        world.s3().put(&crate::support::zip_key(destination, "main", old), "older");
    }
    world
}

#[test]
fn each_line_of_the_json_log_is_an_object_with_fields() {
    let world = eventful_world("json");
    let head = world.source.repo("near/p").unwrap().head("main").unwrap();
    let run = pass(&world).failed();
    let lines: Vec<serde_json::Value> = run.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let one = |message: &str| {
        let found: Vec<_> =
            lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)).collect();
        assert_eq!(found.len(), 1, "{message}\n{}", run.log);
        found[0].clone()
    };
    let published = one("published far/p@main");
    assert_eq!(published["level"], "INFO");
    assert_eq!([&published["group"], &published["project"], &published["branch"]], ["far", "p", "main"]);
    assert_eq!(published["commit"], head);
    let objects = world.s3().objects();
    let key = crate::support::zip_key("far/p", "main", &head);
    assert_eq!(published["bytes"], objects.iter().find(|object| object.key == key).unwrap().size);
    assert!(published["seconds"].is_number());
    let blocked = one("blocked: far/gone@main");
    assert_eq!(blocked["level"], "ERROR");
    assert!(blocked["reason"].as_str().unwrap().contains("404"), "{blocked}");
    assert_eq!(one("retired far/unwanted@main")["objects"], 1);
    let summary = one("pass done");
    for (field, number) in [("published", 1), ("retired", 1), ("swept", 0), ("unchanged", 0), ("blocked", 1)] {
        assert_eq!(summary[field], number, "{field} in {summary}");
    }
    assert_eq!(lines.len(), 6, "also what the retire guard counts\n{}", run.log);
}

#[test]
fn each_event_is_one_line_of_the_text_log() {
    let world = eventful_world("text");
    let run = pass(&world).failed();
    for message in ["published far/p@main", "blocked: far/gone@main", "retired far/unwanted@main", "pass done"] {
        assert_eq!(run.lines_with(message).len(), 1, "{message}\n{}", run.log);
    }
    assert_eq!(run.lines().len(), 6, "also what the retire guard counts\n{}", run.log);
    assert_eq!(run.out, "", "the log goes to standard error");
}

#[test]
fn the_log_is_as_talkative_as_rust_log_says() {
    let world = eventful_world("text");
    let run = pass_with(&world, "RUST_LOG", "error").failed();
    assert_eq!(run.log.lines().count(), 1, "{}", run.log);
    assert!(run.log.contains("ERROR blocked: far/gone@main"), "{}", run.log);
    let run = pass_with(&world, "RUST_LOG", "debug").failed();
    assert!(run.log.contains("DEBUG"), "{}", run.log);
}

#[test]
fn names_cannot_act_on_the_terminal_that_shows_the_log() {
    let world = World::start().unwrap();
    let repo = world.project("near/p").unwrap();
    let turned = "release\u{202e}gpj";
    repo.branch_from(turned, "main").unwrap();
    world.sync("near/p", turned, "far/p", turned).unwrap();
    let mut targets = world.graphql.targets();
    targets.push(SyncTarget::new("near/p\u{1b}[2J", "main", "far/\u{1b}[31mred\nline", "main"));
    world.graphql.set_targets(targets);
    let run = pass(&world).failed().logged("published far/p@release");
    let acts = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!run.log.contains(acts), "{:?}", run.log);
    assert_eq!(run.lines().len(), 4, "{}", run.log);
}

#[test]
fn the_first_line_says_which_program_it_is_and_what_it_is_set_to_do() {
    let world = World::builder().setting("MAX_RETIRE", "7").setting("ON_REWRITE", "hold").sleep("1h").start().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let bucket = world.s3().bucket();
    let first = |mut command: Command| {
        let run = Run::from(command.output().unwrap()).succeeded();
        let line = run.log.lines().next().unwrap().to_owned();
        assert_eq!(run.lines_with(" starts").len(), 1, "{}", run.log);
        line.split_once("INFO ").unwrap().1.to_owned()
    };
    assert_eq!(
        first(program(&world, &["-dry-run", "-run-once"])),
        format!(
            "git-partition-sync-producer {version} starts bucket={bucket} interval=\"1 h\" dry_run=true run_once=true \
             max_retire=7 on_rewrite=hold archive_format=auto crossing=whole signed=false shard=0/1 webhooks=false"
        )
    );
    assert_eq!(
        first(consumer(&world, &["-run-once", "-reconcile-sleep-time=90s", "-on-rewrite=publish"])),
        format!(
            "git-partition-sync-consumer {version} starts: unsigned objects are taken bucket={bucket} \
             interval=\"1 min 30 s\" dry_run=false run_once=true on_rewrite=publish trusted_keys=0 \
             shard=0/1 webhook=false"
        )
    );
    let run = pass_with(&world, "LOG_FORMAT", "json").succeeded();
    let line: serde_json::Value = serde_json::from_str(run.log.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["message"], &line["max_retire"]),
        (&format!("git-partition-sync-producer {version} starts").into(), &"7".into())
    );
}

#[test]
fn values_with_blanks_are_in_quotes() {
    let world = eventful_world("text");
    let run = pass(&world).failed();
    let published = run.lines_with("published far/p@main");
    assert!(published[0].contains(" group=far project=p branch=main commit="), "{}", run.log);
    assert!(published[0].ends_with(" reason=\"not in the bucket yet\""), "{}", run.log);
    let blocked = run.lines_with("blocked: far/gone@main");
    assert!(blocked[0].contains(" reason=\"cannot read near/gone: the server answered 404 Not Found: "), "{}", run.log);
}

#[test]
fn equal_lines_one_after_the_other_are_counted() {
    let world = World::builder().sleep("1h").start().unwrap();
    let file = world.scratch().unwrap().join("secret");
    std::fs::write(&file, "hook").unwrap();
    let daemon = Daemon::start(&world, &["-webhook-secret-file", file.to_str().unwrap()]);
    daemon.wait_until_logged("pass done", 1);
    std::fs::remove_file(&file).unwrap();
    for _ in 0..4 {
        let answer = request(address(&daemon), "POST", "/hooks/gitlab", &[("X-Gitlab-Token", "x")], "{}");
        assert_eq!(answer.status, 500);
    }
    let run = daemon.stop().succeeded();
    assert_eq!(run.lines_with("a webhook cannot be checked").len(), 1, "{}", run.log);
    assert_eq!(run.lines_with("the line before came 3 more times more=3").len(), 1, "{}", run.log);
}

#[test]
fn what_is_misspelt_and_does_not_decide_is_a_warning() {
    let world = World::start().unwrap();
    let run = pass_with(&world, "WORK_DIR", "/elsewhere").succeeded();
    run.logged(" WARN WORK_DIR is set and means nothing: did you mean WORKDIR?");
}
