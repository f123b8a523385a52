//! Branches that use Git LFS: they are published, and whoever runs the program is told.

use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{Daemon, assert_holds, keys, pass, run, zip_key};

const ATTRIBUTES: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n";

fn pointer(n: usize) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{n:064x}\nsize 12345678\n")
}

/// A world with one project whose tree holds these files besides others, not yet published.
fn with_files(files: &[(&str, String)]) -> (World, Repo) {
    let world = World::builder().sleep("10ms").start().unwrap();
    let source = world.project("near/app").unwrap();
    source.commit("main", files, "Files").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    (world, source)
}

#[test]
fn a_branch_with_lfs_pointers_is_published_and_reported_once_for_each_commit() {
    let files = [
        (".gitattributes", ATTRIBUTES.to_owned()),
        ("a.bin", pointer(1)),
        ("deep/er/b.bin", pointer(2)),
        ("large.bin", "x".repeat(2_000)),
        ("text.txt", "version 1\n".to_owned()),
    ];
    let (world, source) = with_files(&files);
    let daemon = Daemon::start(&world, &[]);
    daemon.wait_until_logged("pass done", 3);
    source.commit("main", &[("c.bin", pointer(3))], "One more").unwrap();
    daemon.wait_until_logged("the content of 3 path(s) does not cross", 1);
    let run = daemon.stop().succeeded();
    assert_eq!(
        run.lines_with("far/app@main uses Git LFS: the content of 2 path(s) does not cross").len(),
        1,
        "{}",
        run.log
    );
    assert_eq!(run.lines_with("uses Git LFS").len(), 2, "{}", run.log);
    let head = source.head("main").unwrap();
    assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
}

#[test]
fn the_report_counts_lfs_paths() {
    let files = [("sub/.gitattributes", ATTRIBUTES.to_owned()), ("sub/a.bin", pointer(1)), ("b.bin", pointer(1))];
    let (world, source) = with_files(&files);
    let report = run(&world, &["-run-once", "-output=json"]).succeeded().json();
    let commit = source.head("main").unwrap();
    let expected =
        serde_json::json!([{"group": "far", "project": "app", "branch": "main", "commit": commit, "paths": 2}]);
    assert_eq!(report["lfs"], expected);
}

#[test]
fn what_only_looks_like_a_pointer_is_not_reported() {
    // Without the attribute Git never made them pointers.
    let (world, _) = with_files(&[(".gitattributes", "*.bin binary\n".to_owned()), ("a.bin", pointer(1))]);
    let run = pass(&world).succeeded();
    assert_eq!(run.lines_with("LFS").len(), 0, "{}", run.log);
    assert_eq!(keys(&world).len(), 1);
}
