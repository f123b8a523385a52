//! The retire guard: how much one pass may delete because the target list does not name it any more.

use testbed::world::World;

use crate::support::{Run, keys, pass, s3_writes, zip_key};

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
