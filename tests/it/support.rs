//! Running the program in a testbed world, and looking at what it left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use testbed::http::RequestRecord;
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

/// How long anything that is waited for may take, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// One pass with another value of one setting.
#[track_caller]
pub fn pass_with(world: &World, name: &str, value: &str) -> Run {
    program(world, &["-run-once"]).env(name, value).output().expect("the program starts").into()
}

/// The program as a daemon; killed where a test ends without [`Daemon::stop`].
pub struct Daemon(Option<Child>);

impl Daemon {
    /// Starts it with these arguments and hardly a pause between passes.
    #[track_caller]
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = program(world, arguments);
        command.args(["-reconcile-sleep-time=10ms", "-metrics-server-port=0"]);
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")))
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(mut self) -> Run {
        let child = self.0.take().expect("it is stopped once");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("the daemon is still running");
        child.wait_with_output().expect("the daemon ends").into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What each of the requests asked for, sorted.
pub fn operations(requests: &[RequestRecord]) -> Vec<&str> {
    let mut operations: Vec<_> =
        requests.iter().map(|request| request.operation.as_deref().unwrap_or("unknown")).collect();
    operations.sort_unstable();
    operations
}

/// How many requests asked for this.
pub fn count(requests: &[RequestRecord], operation: &str) -> usize {
    requests.iter().filter(|request| request.is(operation)).count()
}

/// The object holds one branch with the whole history of a source's commit, and not one object more. Returns where it
/// is unpacked.
#[track_caller]
pub fn assert_holds(world: &World, key: &str, source: &Repo, commit: &str, branch: &str) -> PathBuf {
    let content = world.unpack(key).unwrap();
    judge::git_fsck(&content).unwrap();
    assert_eq!(judge::git_refs(&content).unwrap(), [format!("refs/heads/{branch}")]);
    assert_eq!(judge::git_commit(&content, "HEAD").unwrap(), commit);
    assert_eq!(stored_objects(&content), judge::object_names(source.path(), commit).unwrap());
    content
}

/// The ids of all objects in an unpacked archive, whether anything reaches them or not, sorted.
#[track_caller]
pub fn stored_objects(content: &Path) -> Vec<String> {
    let repository = Repo::open(content.join(".git")).unwrap();
    let names = repository.git(&["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]).unwrap();
    names.lines().map(str::to_owned).collect()
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
    go_key(destination, branch, branch, commit)
}

/// The key that the Go program writes, with the source's branch and the destination's.
pub fn go_key(destination: &str, local_branch: &str, remote_branch: &str, commit: &str) -> String {
    let (group, project) = destination.rsplit_once('/').expect("group/project");
    let json = format!(
        r#"{{"group":"{group}","project_name":"{project}","commit_sha":"{commit}","local_branch":"{local_branch}","remote_branch":"{remote_branch}"}}"#
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
