//! What Git takes is published and restored, however odd it is, and whatever Git's configuration says.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{Run, assert_holds, keys, pass, program, stored_objects, zip_key};

/// A world with one project, not yet published.
fn world() -> (World, Repo) {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    (world, source)
}

/// Writes an object as it is, without any check.
fn write(source: &Repo, kind: &str, content: &[u8]) -> String {
    let mut child = Command::new("git")
        .arg("--git-dir")
        .arg(source.path())
        .args(["hash-object", "-w", "--literally", "-t", kind, "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Moves the branch to a commit on top of it, written as it is.
fn commit(source: &Repo, tree: &str, people: &str) -> String {
    let parent = source.head("main").unwrap();
    let commit = write(source, "commit", format!("tree {tree}\nparent {parent}\n{people}\nodd\n").as_bytes());
    source.git(&["update-ref", "refs/heads/main", &commit]).unwrap();
    commit
}

/// The bucket holds the commit with its whole history, and `restore` finds it good.
#[track_caller]
fn assert_published(world: &World, source: &Repo, commit: &str, what: &str) {
    let key = zip_key("far/app", "main", commit);
    assert_eq!(keys(world), [&*key], "{what}");
    let content = world.unpack(&key).unwrap();
    assert_eq!(judge::git_commit(&content, "HEAD").unwrap(), commit, "{what}");
    assert_eq!(stored_objects(&content), judge::object_names(source.path(), commit).unwrap(), "{what}");
    let identity = world.identity_file().to_string_lossy().into_owned();
    let restored: Run = program(world, &["restore", "-identity", &identity]).output().unwrap().into();
    assert!(restored.succeeded().out.contains("1 good, 0 bad"), "{what}");
}

const WHO: &str = "A <a@b.c> 1700000000 +0000";

#[test]
fn heads_that_git_takes_are_published_as_heads_and_as_parents() {
    let (world, source) = world();
    let tree = source.git(&["rev-parse", "main^{tree}"]).unwrap();
    let odd = "author A <a@b.c\n> 1700000000 +0000\ncommitter A <a@b.c\n> 1700000000 +0000\n";
    let heads = [
        ("no e-mail", "author A 1700000000 +0000\ncommitter A 1700000000 +0000\n".to_owned()),
        ("a line end in the e-mail", odd.to_owned()),
        ("a date in words", "author A <a@b.c> Thu Jan 1 1970\ncommitter A <a@b.c> Thu Jan 1 1970\n".to_owned()),
        (
            "a date beyond 64 bits",
            format!("author A <a@b.c> {0} +0000\ncommitter A <a@b.c> {0} +0000\n", "9".repeat(30)),
        ),
        ("no author", format!("committer {WHO}\n")),
        ("no committer", format!("author {WHO}\n")),
        ("nobody", String::new()),
        ("two authors", format!("author {WHO}\nauthor {WHO}\ncommitter {WHO}\n")),
        ("a long name", format!("author {0} <a@b.c> 1 +0000\ncommitter {0} <a@b.c> 1 +0000\n", "A".repeat(10_000))),
        ("another encoding", format!("author {WHO}\ncommitter {WHO}\nencoding \u{1}\n")),
    ];
    for (what, people) in heads {
        let head = commit(&source, &tree, &people);
        world.source.clear_requests();
        pass(&world).succeeded();
        assert_published(&world, &source, &head, what);
        let fetches = world.source.requests().iter().filter(|request| request.is("fetch")).count();
        assert_eq!(fetches, 1, "{what}: it is an increment, and its parent is odd as well");
    }
    // More increments than packs are kept, so those of odd commits were joined. All of it from scratch:
    fs::remove_dir_all(world.workdir()).unwrap();
    world.s3().delete(&keys(&world)[0]);
    pass(&world).succeeded();
    assert_published(&world, &source, &source.head("main").unwrap(), "from scratch");
}

#[test]
fn entries_of_unknown_modes_are_submodules_as_they_are_to_git() {
    let (world, source) = world();
    let blob = source.git(&["rev-parse", "main:README.md"]).unwrap_or_else(|_| write(&source, "blob", b"text\n"));
    for (mode, is_there) in
        [("0", false), ("755", false), ("20000", false), ("60000", false), ("140000", false), ("100664", true)]
    {
        let id: Vec<u8> = match is_there {
            true => (0..20).map(|i| u8::from_str_radix(&blob[2 * i..2 * i + 2], 16).unwrap()).collect(),
            false => vec![0xab; 20],
        };
        let tree = write(&source, "tree", &[mode.as_bytes(), b" a\0", &id].concat());
        let head = commit(&source, &tree, &format!("author {WHO}\ncommitter {WHO}\n"));
        pass(&world).succeeded();
        assert_published(&world, &source, &head, mode);
    }
}

#[test]
fn no_configuration_of_git_decides_what_is_published() {
    let (world, source) = world();
    let home = world.scratch().unwrap().join("home");
    fs::create_dir_all(home.join("git")).unwrap();
    // None of these can be read as Git's configuration, by root either.
    let broken = [(".gitconfig", "[core\n"), ("git/config", "[core\n")];
    let run = |arguments: &[&str]| -> Run {
        program(&world, arguments).env("HOME", &home).env("XDG_CONFIG_HOME", &home).output().unwrap().into()
    };
    for (file, content) in broken {
        fs::write(home.join(file), content).unwrap();
    }
    // Enough increments that packs are joined.
    for n in 0..10 {
        source.commit("main", &[("a.txt", format!("{n}\n"))], "News").unwrap();
        run(&["-run-once"]).succeeded();
        let head = source.head("main").unwrap();
        assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
    }
    assert!(run(&["check"]).succeeded().out.contains("WORKDIR"));
    fs::remove_file(home.join(".gitconfig")).unwrap();
    fs::create_dir(home.join(".gitconfig")).unwrap();
    source.commits("main", 1).unwrap();
    run(&["-run-once"]).succeeded();
}
