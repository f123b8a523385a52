//! A history that is not whole is not published, and what is there stays.

use std::process::Command;

use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::git::fetch_answer;
use testbed::judge::object_names;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, Run, assert_holds, count, keys, leftovers, pass, program, wait_until, workdir_files, zip_key,
};

/// A world with one project of a few folders deep; nothing is published yet.
fn world() -> (World, Repo) {
    let world = World::start().unwrap();
    let source = world.source.repo("near/app").unwrap();
    for n in 0..30 {
        let text = format!("{n}\n{}", "the same in every version\n".repeat(40));
        let files = [("src/deep/text.txt", text), ("src/other.txt", n.to_string()), ("docs/a", "a".to_owned())];
        source.commit("main", &files, "Change").unwrap();
    }
    world.sync("near/app", "main", "far/app", "main").unwrap();
    (world, source)
}

/// The ids of what these names stand for.
fn ids(source: &Repo, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| source.git(&["rev-parse", "--verify", name]).unwrap()).collect()
}

/// All objects of the branch but these, in a pack.
fn pack_without(source: &Repo, missing: &str, by_offset: bool) -> Vec<u8> {
    let mut objects = object_names(source.path(), "main").unwrap();
    objects.retain(|object| object != missing);
    source.pack_of(&objects, by_offset).unwrap()
}

/// One pass in which the first `times` fetches are answered with this pack.
#[track_caller]
fn pass_with_pack(world: &World, pack: &[u8], times: usize) -> Run {
    let proxy = Proxy::start(&world.source.url()).unwrap();
    let answer = fetch_answer(pack);
    proxy.on(|seen| seen.operation() == "fetch", times, Fault::alter(move |_| answer.clone()));
    let run = program(world, &["-run-once"]).env("GITLAB_BASE_URL", proxy.url()).output().unwrap().into();
    assert!(proxy.hits() > 0);
    run
}

#[test]
fn a_pack_that_lacks_an_object_is_not_published() {
    let (world, source) = world();
    let whole = object_names(source.path(), "main").unwrap();
    let missing = [
        ("blob", "main:src/deep/text.txt"),
        ("blob", "main~20:src/other.txt"),
        ("tree", "main:src"),
        ("tree", "main~7^{tree}"),
        ("commit", "main~1"),
        ("commit", "main~29"),
    ];
    for by_offset in [true, false] {
        for (what, name) in missing {
            let id = &ids(&source, &[name])[0];
            let run = pass_with_pack(&world, &pack_without(&source, id, by_offset), ALWAYS).failed();
            let line = run.lines_with("far/app")[0];
            assert!(line.contains(&format!("the {what} {id} is missing")), "{name}: {line}");
            assert!(line.contains("git fsck"), "{line}");
            assert_eq!((keys(&world), world.s3().uploads()), (vec![], vec![]), "{name}");
            let kept = workdir_files(&world).into_iter().filter(|file| file.to_string_lossy().contains("/mirrors/"));
            assert_eq!(
                kept.chain(leftovers(&world)).collect::<Vec<_>>(),
                [""; 0].map(std::path::PathBuf::from),
                "nothing is kept of the repository"
            );
        }
        // The same without anything missing.
        let run = pass_with_pack(&world, &source.pack_of(&whole, by_offset).unwrap(), ALWAYS).succeeded();
        let head = source.head("main").unwrap();
        assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
        assert!(run.log.contains("published"), "{}", run.log);
        world.s3().delete(&keys(&world)[0]);
        std::fs::remove_dir_all(world.workdir()).unwrap();
    }
}

#[test]
fn a_pack_without_the_commit_asked_for_is_not_published() {
    let (world, source) = world();
    let head = source.head("main").unwrap();
    pass_with_pack(&world, &pack_without(&source, &head, true), ALWAYS).failed().logged("far/app");
    assert_eq!(keys(&world), [""; 0]);
}

/// A world in sync whose branch has a new commit since, which one, and the new objects.
fn world_with_news() -> (World, Repo, String, Vec<String>) {
    let (world, source) = world();
    pass(&world).succeeded();
    let range = format!("{}..main", source.head("main").unwrap());
    let head = source.commit("main", &[("src/deep/text.txt", "new\n"), ("new/file", "more\n")], "New").unwrap();
    let new = source.git(&["rev-list", "--objects", "--no-object-names", &range]).unwrap();
    let new = new.lines().map(str::to_owned).collect();
    (world, source, head, new)
}

#[test]
fn an_increment_that_lacks_an_object_is_not_published() {
    for name in ["main:src/deep/text.txt", "main:new", "main:src"] {
        let (world, source, _, mut new) = world_with_news();
        let before = keys(&world);
        let (id, whole) = (&ids(&source, &[name])[0], new.len());
        new.retain(|object| object != id);
        assert_eq!(new.len() + 1, whole, "{name} is new");
        let run = pass_with_pack(&world, &source.pack_of(&new, true).unwrap(), ALWAYS).failed();
        assert!(run.lines_with("far/app")[0].contains("is missing"), "{}", run.log);
        assert_eq!(keys(&world), before, "{name}");
        assert_eq!(leftovers(&world), [""; 0].map(std::path::PathBuf::from));
        pass(&world).succeeded();
        assert_ne!(keys(&world), before, "{name}");
    }
}

#[test]
fn what_an_increment_names_may_be_in_what_is_kept() {
    let (world, source, head, new) = world_with_news();
    world.source.clear_requests();
    pass_with_pack(&world, &source.pack_of(&new, true).unwrap(), ALWAYS).succeeded();
    assert_eq!(count(&world.source.requests(), "fetch"), 1);
    assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
}

#[test]
fn an_increment_that_lacks_an_object_once_is_made_up_for_by_a_fresh_fetch() {
    let (world, source, head, _) = world_with_news();
    let alone = source.pack_of(std::slice::from_ref(&head), true).unwrap();
    pass_with_pack(&world, &alone, 1).succeeded();
    assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
}

#[test]
fn a_shallow_repository_is_refused_with_what_to_do() {
    let (world, source) = world();
    pass(&world).succeeded();
    let before = keys(&world);
    source.commits("main", 3).unwrap();
    let path = world.source.repo_path("near/app");
    let whole = path.with_extension("whole");
    std::fs::rename(&path, &whole).unwrap();
    let origin = format!("file://{}", whole.display());
    let cloned = Command::new("git").args(["clone", "-q", "--bare", "--depth=2", &origin]).arg(&path).status().unwrap();
    assert!(cloned.success());
    for kept in [true, false] {
        if !kept {
            std::fs::remove_dir_all(world.workdir()).unwrap();
        }
        let run = pass(&world).failed().logged("shallow on the server").logged("git fetch --unshallow");
        assert_eq!(keys(&world), before, "{}", run.log);
    }

    Repo::open(&path).unwrap().git(&["fetch", "-q", "--unshallow", &origin]).unwrap();
    pass(&world).succeeded();
    let head = source_head(&path);
    assert_holds(&world, &zip_key("far/app", "main", &head), &Repo::open(&path).unwrap(), &head, "main");
}

fn source_head(path: &std::path::Path) -> String {
    Repo::open(path).unwrap().head("main").unwrap()
}

#[test]
fn a_submodule_s_commit_need_not_be_there() {
    let world = World::start().unwrap();
    let source = Repo::odd(world.source.repo_path("near/app")).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let head = source.head("main").unwrap();
    assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
    let next = source.commit("main", &[("more", "more\n")], "With an increment too").unwrap();
    pass(&world).succeeded();
    assert_holds(&world, &zip_key("far/app", "main", &next), &source, &next, "main");
}

#[test]
fn a_daemon_does_not_fetch_again_in_every_pass_what_it_knows_to_have_gaps() {
    let (world, source) = world();
    world.sync("near/app", "main", "far/twin", "main").unwrap();
    let blob = &ids(&source, &["main:src/deep/text.txt"])[0];
    let answer = fetch_answer(&pack_without(&source, blob, true));
    let proxy = Proxy::start(&world.source.url()).unwrap();
    proxy.on(|seen| seen.operation() == "fetch", ALWAYS, Fault::alter(move |_| answer.clone()));
    let mut command = program(&world, &[]);
    command.env("GITLAB_BASE_URL", proxy.url()).env("RECONCILE_SLEEP_TIME", "100ms");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged(&format!("the blob {blob} is missing"), 6);
    // Both may have been on their way in the first pass.
    assert!(proxy.hits() <= 2, "{} fetches, and every pass says what is wrong with each", proxy.hits());
    // Another commit may be whole.
    proxy.clear();
    let head = source.commits("main", 1).unwrap();
    let expected = ["far/app", "far/twin"].map(|destination| zip_key(destination, "main", &head));
    wait_until("the new commit is published", || keys(&world) == expected);
    daemon.stop().succeeded();
}
