//! Branches whose new head does not descend from what is published.

use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, Run, assert_holds, count, keys, pass, pass_with, program, run, s3_writes, workdir_files, zip_key,
};

const HOLD: (&str, &str) = ("ON_REWRITE", "hold");

/// A world with one published project.
fn published(settings: &[(&str, &str)]) -> (World, Repo, String) {
    let mut builder = World::builder().sleep("10ms");
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let world = builder.start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    world.s3().clear_requests();
    world.source.clear_requests();
    let head = source.head("main").unwrap();
    (world, source, head)
}

fn rewrite(source: &Repo) -> String {
    source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap()
}

#[track_caller]
fn assert_held(run: Run, world: &World, old: &str, new: &str) {
    let run = run.failed();
    let lines = run.lines_with("held: far/app@main");
    assert_eq!(lines.len(), 1, "{}", run.log);
    assert!(lines[0].contains(&format!("{new} does not descend from {old}")), "{}", lines[0]);
    assert!(lines[0].contains("-on-rewrite=publish"), "{}", lines[0]);
    assert_eq!(keys(world), [zip_key("far/app", "main", old)]);
    assert_eq!(s3_writes(world), [""; 0]);
}

#[test]
fn a_rewritten_branch_is_published_and_reported_with_both_commits() {
    // From a mirror of the old history, and from nothing.
    for cache in ["1Gi", "0"] {
        let (world, source, old) = published(&[("MIRROR_CACHE_BYTES", cache)]);
        let new = rewrite(&source);
        let run = run(&world, &["-run-once", "-output=json"]).succeeded();
        let lines = run.lines_with("rewritten: far/app@main");
        assert_eq!(lines.len(), 1, "{}", run.log);
        assert!(lines[0].contains(&old) && lines[0].contains(&new), "{}", lines[0]);
        let destination = serde_json::json!({
            "group": "far", "project": "app", "branch": "main", "old_commit": old, "commit": new
        });
        assert_eq!(
            (&run.json()["rewritten"], &run.json()["held"]),
            (&serde_json::json!([destination]), &serde_json::json!([]))
        );
        assert_eq!(keys(&world), [zip_key("far/app", "main", &new)]);
    }
}

#[test]
fn commits_on_top_are_no_rewriting_whatever_the_setting() {
    for cache in ["1Gi", "0"] {
        let (world, source, _) = published(&[HOLD, ("MIRROR_CACHE_BYTES", cache)]);
        source.commits("main", 2).unwrap();
        let run = run(&world, &["-run-once", "-output=json"]).succeeded();
        assert_eq!(run.json()["rewritten"], serde_json::json!([]));
        assert_eq!(run.lines_with("rewritten").len(), 0, "{}", run.log);
        assert_eq!(keys(&world), [zip_key("far/app", "main", &source.head("main").unwrap())]);
    }
}

#[test]
fn a_branch_that_moved_back_is_rewritten_too() {
    let (world, source, old) = published(&[HOLD]);
    let new = source.commits("main", 2).unwrap();
    pass(&world).succeeded();
    world.s3().clear_requests();
    source.git(&["update-ref", "refs/heads/main", &old]).unwrap();
    assert_held(pass(&world), &world, &new, &old);
}

#[test]
fn a_branch_set_back_to_a_commit_whose_object_still_lies_there_is_held() {
    let (world, source, old) = published(&[HOLD]);
    let (old_key, content) = (zip_key("far/app", "main", &old), world.s3().get(&keys(&world)[0]).unwrap().unwrap());
    let new = source.commits("main", 2).unwrap();
    pass(&world).succeeded();
    // An earlier pass could not delete it.
    world.s3().put_at(&old_key, content, std::time::SystemTime::UNIX_EPOCH);
    world.s3().clear_requests();
    source.git(&["update-ref", "refs/heads/main", &old]).unwrap();
    for _ in 0..2 {
        let run = pass(&world).failed();
        let lines = run.lines_with("held: far/app@main");
        assert!(lines.len() == 1 && lines[0].contains(&format!("{old} does not descend from {new}")), "{}", run.log);
        let mut both = [old_key.clone(), zip_key("far/app", "main", &new)];
        both.sort();
        assert_eq!(keys(&world), both);
        assert_eq!(s3_writes(&world), [""; 0]);
    }
}

#[test]
fn a_held_branch_keeps_its_object_at_every_pass_and_is_not_fetched_again() {
    let (world, source, old) = published(&[HOLD]);
    let new = rewrite(&source);
    let held = run(&world, &["-run-once", "-output=json"]);
    let destination = serde_json::json!({
        "group": "far", "project": "app", "branch": "main", "old_commit": old, "commit": new
    });
    assert_eq!(
        (&held.json()["held"], &held.json()["failed"]),
        (&serde_json::json!([destination]), &serde_json::json!([]))
    );
    assert_held(held, &world, &old, &new);
    world.source.clear_requests();
    for _ in 0..2 {
        assert_held(pass(&world), &world, &old, &new);
    }
    assert_eq!(count(&world.source.requests(), "fetch"), 0);
}

#[test]
fn the_daemon_remembers_what_it_holds_without_a_mirror() {
    let (world, source, old) = published(&[HOLD, ("MIRROR_CACHE_BYTES", "0")]);
    let new = rewrite(&source);
    let daemon = Daemon::start(&world, &[]);
    daemon.wait_until_logged("held: far/app@main", 3);
    assert_eq!(count(&world.source.requests(), "fetch"), 1);
    assert_eq!(keys(&world), [zip_key("far/app", "main", &old)]);
    // Another rewriting is another decision.
    let newer = source.force_root("main", &[("newer.txt", "yet another beginning\n")]).unwrap();
    daemon.wait_until_logged(&format!("{newer} does not descend from {old}"), 2);
    assert_eq!(count(&world.source.requests(), "fetch"), 2);
    // Back on the published history it goes on.
    source.git(&["update-ref", "refs/heads/main", &old]).unwrap();
    let next = source.commits("main", 1).unwrap();
    daemon.wait_until_logged("published far/app@main", 1);
    daemon.stop().succeeded();
    assert_eq!(keys(&world), [zip_key("far/app", "main", &next)]);
    assert_ne!(new, newer);
}

#[test]
fn a_held_branch_that_grows_stays_held_and_others_go_on() {
    let (world, source, old) = published(&[HOLD]);
    let other = world.project("near/other").unwrap();
    world.sync("near/other", "main", "far/other", "main").unwrap();
    rewrite(&source);
    pass(&world).failed().logged("published far/other@main").logged("held=1");
    for _ in 0..2 {
        let new = source.commits("main", 1).unwrap();
        pass(&world).failed().logged(&format!("{new} does not descend from {old}"));
    }
    let mut expected = [zip_key("far/app", "main", &old), zip_key("far/other", "main", &other.head("main").unwrap())];
    expected.sort();
    assert_eq!(keys(&world), expected);
}

#[test]
fn a_held_branch_is_published_once_the_operator_says_so() {
    let (world, source, old) = published(&[HOLD]);
    let new = rewrite(&source);
    pass(&world).failed();
    world.source.clear_requests();
    let run = pass_with(&world, "ON_REWRITE", "publish").succeeded().logged("rewritten: far/app@main");
    assert!(run.log.contains(&old));
    assert_eq!(count(&world.source.requests(), "fetch"), 0, "what was fetched to find out serves");
    let key = zip_key("far/app", "main", &new);
    assert_eq!(keys(&world), [key.as_str()]);
    assert_holds(&world, &key, &source, &new, "main");
}

#[test]
fn a_held_branch_whose_object_is_deleted_is_published_as_new() {
    let (world, source, old) = published(&[HOLD]);
    let new = rewrite(&source);
    pass(&world).failed();
    world.s3().delete(&zip_key("far/app", "main", &old));
    let run = pass(&world).succeeded();
    assert_eq!(run.lines_with("rewritten").len(), 0, "{}", run.log);
    assert_eq!(keys(&world), [zip_key("far/app", "main", &new)]);
}

#[test]
fn a_large_rewritten_branch_that_is_held_leaves_no_upload_behind() {
    let (world, source, old) = published(&[HOLD]);
    // Several parts: what is on its way when the verdict comes is aborted.
    source.delete_branch("main").unwrap();
    source.fill_incompressible(20, 5).unwrap();
    pass(&world).failed().logged("held: far/app@main");
    assert_eq!(keys(&world), [zip_key("far/app", "main", &old)]);
    assert_eq!(world.s3().uploads().len(), 0);
    let records: Vec<_> = workdir_files(&world)
        .into_iter()
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with("uploads")))
        .collect();
    assert!(records.is_empty(), "{records:?}");
}

#[test]
fn another_source_for_a_destination_counts_as_rewriting() {
    let (world, _, old) = published(&[HOLD]);
    let other = world.project("near/other").unwrap();
    world.unsync("far/app", "main");
    world.sync("near/other", "main", "far/app", "main").unwrap();
    assert_held(pass(&world), &world, &old, &other.head("main").unwrap());
}

#[test]
fn on_rewrite_is_one_of_two_words() {
    let (world, ..) = published(&[]);
    let run: Run = program(&world, &["-run-once", "-on-rewrite=ask"]).output().unwrap().into();
    run.refused().logged("ON_REWRITE: \"ask\" is not known: write publish or hold");
}
