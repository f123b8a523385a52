//! The retire guard: how much a day may delete because the target list does not name it any more.

use std::fs;

use testbed::graphql::Canned;
use testbed::world::World;

use crate::support::{Daemon, OURS, Run, keys, pass, pass_with, run, s3_writes, workdir_files, zip_key};

/// A world whose bucket holds the destinations `far/0` … `far/<held - 1>` as a pass would have left them, and whose
/// target list names the first `wanted` of them.
fn world(max_retire: Option<&str>, held: usize, wanted: usize) -> World {
    let mut builder = World::builder();
    if let Some(limit) = max_retire {
        builder = builder.setting("MAX_RETIRE", limit);
    }
    let world = builder.start().unwrap();
    let head = world.project("near/p").unwrap().head("main").unwrap();
    for number in 0..held {
        world.s3().put(&zip_key(&format!("far/{number}"), "main", &head), "an archive");
        if number < wanted {
            world.sync("near/p", "main", &format!("far/{number}"), "main").unwrap();
        }
    }
    world
}

#[track_caller]
fn assert_retires(max_retire: Option<&str>, held: usize, wanted: usize) {
    let world = world(max_retire, held, wanted);
    let run = pass(&world).succeeded();
    assert_eq!(keys(&world).len(), wanted, "{max_retire:?}, {wanted} of {held} wanted\n{}", run.log);
    assert_eq!(run.lines_with("retired far/").len(), held - wanted, "{}", run.log);
}

#[track_caller]
fn assert_guarded(max_retire: Option<&str>, held: usize, wanted: usize) -> Run {
    let world = world(max_retire, held, wanted);
    let run = pass(&world).failed().logged("MAX_RETIRE");
    assert_eq!(s3_writes(&world), [""; 0], "{max_retire:?}, {wanted} of {held} wanted");
    assert_eq!(keys(&world).len(), held);
    run
}

#[test]
fn half_of_the_destinations_may_go_by_default_and_not_one_more() {
    assert_retires(None, 6, 3);
    assert_guarded(None, 6, 2).logged("4 of the 6 destinations held are no longer wanted and MAX_RETIRE allows 3");
}

#[test]
fn a_limit_by_number_allows_exactly_that_many() {
    assert_retires(Some("2"), 6, 4);
    assert_guarded(Some("2"), 6, 3).logged("MAX_RETIRE allows 2");
}

#[test]
fn a_limit_by_percentage_allows_exactly_that_share_rounded_down() {
    assert_retires(Some("34%"), 6, 4);
    assert_guarded(Some("33%"), 6, 4).logged("MAX_RETIRE allows 1");
}

#[test]
fn one_destination_may_always_go_while_there_are_targets() {
    assert_retires(Some("1%"), 2, 1);
    assert_guarded(Some("1%"), 3, 1);
}

#[test]
fn zero_means_that_nothing_goes() {
    assert_guarded(Some("0"), 4, 3);
    assert_guarded(Some("0%"), 4, 3);
}

#[test]
fn an_empty_target_list_retires_nothing() {
    assert_guarded(None, 1, 0).logged("the target list is empty while the bucket holds 1 destination");
    assert_guarded(Some("100"), 3, 0);
    assert_guarded(Some("99%"), 3, 0);
}

#[test]
fn all_of_a_hundred_percent_may_go_also_for_an_empty_target_list() {
    assert_retires(Some("100%"), 3, 0);
    assert_retires(Some("100%"), 3, 1);
}

#[test]
fn an_empty_target_list_over_an_empty_bucket_is_fine() {
    let world = world(None, 0, 0);
    world.s3().put("backup/database.dump", "foreign");
    pass(&world).succeeded();
    assert_eq!(keys(&world), ["backup/database.dump"]);
}

#[test]
fn a_guarded_pass_publishes_all_the_same() {
    let world = world(None, 4, 1);
    world.sync("near/p", "main", "far/new", "main").unwrap();
    let commit = world.source.repo("near/p").unwrap().commits("main", 1).unwrap();
    let run = pass(&world).failed().logged("MAX_RETIRE");
    let held = keys(&world);
    assert_eq!(held.len(), 5);
    for destination in ["far/0", "far/new"] {
        assert!(held.contains(&zip_key(destination, "main", &commit)), "{}", run.log);
    }
}

#[test]
fn several_objects_of_a_destination_count_as_one() {
    let world = world(Some("1"), 2, 1);
    let old = "00000000000000000000000000000000000000aa";
    world.s3().put(&zip_key("far/1", "main", old), "older");
    pass(&world).succeeded();
    assert_eq!(keys(&world).len(), 1);
}

#[test]
fn a_branch_is_a_destination_of_its_own() {
    let world = world(Some("1"), 1, 1);
    let head = world.source.repo("near/p").unwrap().head("main").unwrap();
    world.s3().put(&zip_key("far/0", "release", &head), "an archive");
    pass(&world).succeeded().logged("retired far/0@release");
    assert_eq!(keys(&world), [zip_key("far/0", "main", &head)]);
}

/// Removes all but the first `wanted` targets.
fn shorten(world: &World, wanted: usize) {
    let mut targets = world.graphql.targets();
    targets.truncate(wanted);
    world.graphql.set_targets(targets);
}

fn mirrors(world: &World) -> usize {
    workdir_files(world).iter().filter(|path| path.ends_with("state.json")).count()
}

#[test]
fn a_list_that_shrinks_at_each_pass_loses_half_in_a_day_and_no_more() {
    let world = world(None, 16, 16);
    pass(&world).succeeded();
    for (wanted, left) in [(12, 12), (8, 8)] {
        shorten(&world, wanted);
        pass(&world).succeeded().logged(&format!("with this pass, retired {} of at most 8 in 24 h", 16 - wanted));
        assert_eq!(keys(&world).len(), left);
    }
    for wanted in [7, 4, 2, 1] {
        shorten(&world, wanted);
        pass(&world).failed().logged("MAX_RETIRE allows 8 in 24 h, of which 8 are used: nothing is retired");
        assert_eq!(keys(&world).len(), 8);
    }
}

#[test]
fn a_daemon_counts_over_its_passes_too() {
    let world = world(Some("2"), 6, 6);
    let daemon = Daemon::start(&world, &[]);
    daemon.wait_until_logged("pass done", 1);
    for wanted in [5, 4] {
        shorten(&world, wanted);
        daemon.wait_until_logged(&format!("retired far/{wanted}@main"), 1);
    }
    // Its folder is removed meanwhile: it has not forgotten.
    fs::remove_file(world.workdir().join(OURS).join("retirements.json")).unwrap();
    shorten(&world, 3);
    daemon.wait_until_logged("MAX_RETIRE allows 2 in 24 h, of which 2 are used", 2);
    daemon.stop().succeeded();
    assert_eq!(keys(&world).len(), 4);
    pass(&world).failed().logged("of which 2 are used");
}

#[test]
fn what_could_not_be_deleted_does_not_count() {
    let world = world(Some("1"), 4, 3);
    world.s3().fail("DeleteObject", "AccessDenied", 1);
    let report = run(&world, &["-run-once", "-output=json"]).failed().json();
    assert_eq!(
        (&report["retired"], &report["retired_24h"], &report["retire_limit_24h"]),
        (&0.into(), &0.into(), &1.into())
    );
    pass(&world).succeeded().logged("retired=1");
    shorten(&world, 2);
    pass(&world).failed().logged("MAX_RETIRE allows 1 in 24 h, of which 1 are used");
}

#[test]
fn a_record_that_is_lost_or_unreadable_begins_again_and_says_so() {
    let world = world(Some("1"), 6, 5);
    pass(&world).succeeded().logged("no record of earlier retirements").logged("retired=1");
    let known = pass(&world).succeeded();
    assert!(!known.log.contains("record of earlier retirements"), "{}", known.log);
    let record = world.workdir().join(OURS).join("retirements.json");
    for (damage, said) in [(None, "no record of earlier"), (Some("{ garbage"), "cannot read the record of earlier")] {
        match damage {
            None => fs::remove_file(&record).unwrap(),
            Some(text) => fs::write(&record, text).unwrap(),
        }
        shorten(&world, keys(&world).len() - 1);
        pass(&world).succeeded().logged(said).logged("retired=1");
    }
    shorten(&world, keys(&world).len() - 1);
    pass(&world).failed().logged("of which 1 are used");
}

#[test]
fn an_app_that_loses_its_components_without_an_error_retires_nothing() {
    let world = world(None, 6, 6);
    let component = |number: usize| {
        serde_json::json!({"gitlabSync": {
            "sourceProject": {"group": "near", "name": "p", "branch": "main"},
            "destinationProject": {"group": "far", "name": number.to_string(), "branch": "main"}}})
    };
    let components = |numbers: std::ops::Range<usize>| serde_json::json!(numbers.map(component).collect::<Vec<_>>());
    let answer = |second: serde_json::Value| {
        let apps =
            [components(0..4), second, serde_json::Value::Null].map(|list| serde_json::json!({"codeComponents": list}));
        world.graphql.respond_with(Canned::json(&serde_json::json!({"data": {"apps_v1": apps}}).to_string()));
    };
    answer(components(4..6));
    pass(&world).succeeded();
    answer(serde_json::Value::Null);
    let lost =
        "1 more app(s) of the target list than before have no components (codeComponents is null), and 2 of the 6";
    for _ in 0..2 {
        pass(&world).failed().logged(lost);
        assert_eq!(keys(&world).len(), 6);
    }
    // An empty list is one that somebody wrote.
    answer(components(0..0));
    pass(&world).succeeded().logged("retired=2");
    assert_eq!(keys(&world).len(), 4);
}

#[test]
fn an_empty_list_and_a_held_guard_keep_the_mirrors_too() {
    let world = World::builder().setting("MAX_RETIRE", "1").start().unwrap();
    for name in ["a", "b", "c"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    pass(&world).succeeded();
    let targets = world.graphql.targets();
    for wanted in [0, 1] {
        shorten(&world, wanted);
        pass(&world).failed().logged("retire guard: ");
        assert_eq!((keys(&world).len(), mirrors(&world)), (3, 3), "{wanted} wanted");
        world.graphql.set_targets(targets.clone());
    }
    world.source.clear_requests();
    world.source.repo("near/c").unwrap().commits("main", 1).unwrap();
    pass(&world).succeeded().logged("published=1");
    // What is really gone takes its mirror along.
    shorten(&world, 2);
    pass(&world).succeeded().logged("retired=1");
    assert_eq!((keys(&world).len(), mirrors(&world)), (2, 2));
    // With an empty bucket an empty list says as little.
    assert!(keys(&world).iter().all(|key| world.s3().delete(key)));
    world.graphql.set_targets(vec![]);
    pass(&world).succeeded();
    assert_eq!(mirrors(&world), 2);
    pass_with(&world, "MAX_RETIRE", "100%").succeeded();
    assert_eq!(mirrors(&world), 0);
}
