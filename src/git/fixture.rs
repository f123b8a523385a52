//! Repositories made by the git program, for tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use crate::model::key::CommitId;

/// Runs a program in `dir` and gives its standard output; no configuration but the repository's own is read.
pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    run_with_input(dir, program, arguments, b"")
}

pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    run(dir, "git", arguments)
}

pub(crate) fn git_with_input(dir: &Path, arguments: &[&str], input: &[u8]) -> String {
    run_with_input(dir, "git", arguments, input)
}

fn run_with_input(dir: &Path, program: &str, arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8_lossy(&output_of(dir, program, arguments, input)).trim_end().to_owned()
}

/// What a server sends to a client that has `have` and asks for a thin pack of `new`.
pub(crate) fn thin_pack(dir: &Path, new: CommitId, have: CommitId) -> Vec<u8> {
    let arguments = ["pack-objects", "--stdout", "--revs", "--thin", "--delta-base-offset", "-q"];
    output_of(dir, "git", &arguments, format!("{new}\n^{have}\n").as_bytes())
}

/// What a server sends to a client that has nothing.
pub(crate) fn whole_pack(dir: &Path, new: CommitId) -> Vec<u8> {
    let arguments = ["pack-objects", "--stdout", "--revs", "--delta-base-offset", "-q"];
    output_of(dir, "git", &arguments, format!("{new}\n").as_bytes())
}

fn output_of(dir: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(stdin)
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b"), ("GIT_AUTHOR_DATE", "1700000000 +0000")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    output.stdout
}

/// A repository of five commits with a merge, in two packs.
pub(crate) struct Project {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) commit: CommitId,
}

impl Project {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        git(at, &["init", "-q", "-b", "source"]);
        git(at, &["config", "gc.auto", "0"]);
        let commit = |name: &str, content: &str| {
            fs::create_dir_all(at.join("dir/sub")).unwrap();
            fs::write(at.join("dir/sub").join(name), content).unwrap();
            fs::write(at.join("README"), format!("{content}\n").repeat(200)).unwrap();
            git(at, &["add", "-A"]);
            git(at, &["commit", "-q", "-m", name]);
        };
        commit("one", "1");
        commit("two", "2");
        git(at, &["repack", "-d", "-q"]);
        git(at, &["checkout", "-q", "-b", "side", "HEAD~1"]);
        commit("three", "3");
        git(at, &["checkout", "-q", "source"]);
        commit("four", "4");
        git(at, &["merge", "-q", "-s", "ours", "-m", "merge", "side"]);
        git(at, &["repack", "-d", "-q"]);
        let commit = git(at, &["rev-parse", "HEAD"]).parse().unwrap();
        Self { dir, commit }
    }
}
