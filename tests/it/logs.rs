//! What operators read while the program works.

use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::support::{pass, pass_with};

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
    let lines: Vec<serde_json::Value> = run.log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
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
    assert_eq!(run.log.lines().count(), 6, "also what the retire guard counts\n{}", run.log);
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
    assert_eq!(run.log.lines().count(), 4, "{}", run.log);
}
