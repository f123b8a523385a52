//! Running the program in a testbed world, and looking at what it left behind.

use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use testbed::world::World;

/// How one run of the program ended.
#[derive(Debug)]
pub struct Run {
    /// The exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error: the log.
    pub log: String,
}

impl Run {
    /// Fails the test unless the program did all it should.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status, 0, "the run failed\n{}\n{}", self.out, self.log);
        self
    }

    /// Fails the test unless the program says that something is not as it should be.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert_eq!(self.status, 1, "the run did not fail as expected\n{}\n{}", self.out, self.log);
        self
    }

    /// Fails the test unless the log says this.
    #[track_caller]
    pub fn logged(self, text: &str) -> Self {
        assert!(self.log.contains(text), "no {text:?} in the log:\n{}", self.log);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program with these arguments in this world, not yet started.
pub fn program(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(env!("CARGO_BIN_EXE_git-partition-sync-producer"));
    command.args(arguments);
    command
}

/// Runs the program to its end.
#[track_caller]
pub fn run(world: &World, arguments: &[&str]) -> Run {
    program(world, arguments).output().expect("the program starts").into()
}

/// One pass.
#[track_caller]
pub fn pass(world: &World) -> Run {
    run(world, &["-run-once"])
}

/// The key this program writes in the format zip.
pub fn zip_key(destination: &str, branch: &str, commit: &str) -> String {
    let (group, project) = destination.rsplit_once('/').expect("group/project");
    let json =
        format!(r#"{{"group":"{group}","project_name":"{project}","commit_sha":"{commit}","branch":"{branch}"}}"#);
    BASE64_STANDARD.encode(json) + ".zip.age"
}

/// The key this program writes in the format tar.gz.
pub fn tar_key(destination: &str, branch: &str, commit: &str) -> String {
    let (group, project) = destination.rsplit_once('/').expect("group/project");
    let json = format!(
        r#"{{"group":"{group}","project_name":"{project}","commit_sha":"{commit}","local_branch":"{branch}","remote_branch":"{branch}"}}"#
    );
    BASE64_STANDARD.encode(json) + ".tar.age"
}

/// The bucket's keys, sorted.
pub fn keys(world: &World) -> Vec<String> {
    world.bucket().and_then(|bucket| bucket.keys()).expect("the bucket lists")
}

/// Every file below WORKDIR.
pub fn workdir_files(world: &World) -> Vec<PathBuf> {
    fn walk(dir: PathBuf, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(path, files) } else { files.push(path) }
        }
    }
    let mut files = vec![];
    walk(world.workdir(), &mut files);
    files
}
