//! Running the program in a testbed world, and looking at what it left behind.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use memchr::memmem;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testbed::archive::Naming;
use testbed::http::RequestRecord;
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

/// The program's own directory under WORKDIR.
pub const OURS: &str = "git-partition-sync-producer";
/// How long anything that is waited for may take, even on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long the program may take to stop.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

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

impl Run {
    /// Fails the test unless the program says that it cannot work with these settings.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert_eq!(self.status, 2, "the settings were not refused\n{}\n{}", self.out, self.log);
        self
    }

    /// The lines of the log without the first, which says what was started.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        let mut lines = self.log.lines();
        let start = lines.next().unwrap_or_default();
        assert!(start.contains("git-partition-sync-producer") && start.contains(" starts"), "{}", self.log);
        lines.collect()
    }

    /// The lines of the log that say this.
    pub fn lines_with(&self, text: &str) -> Vec<&str> {
        self.log.lines().filter(|line| line.contains(text)).collect()
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

/// The program at work in the background. Dropping it kills it.
pub struct Daemon {
    child: Child,
    out: Capture,
    log: Capture,
}

impl Daemon {
    /// Starts it with these arguments and hardly a pause between passes.
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = program(world, arguments);
        command.args(["-reconcile-sleep-time=10ms", "-metrics-server-port=0"]);
        Self::spawn(command)
    }

    /// Starts it.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let out = Capture::of(child.stdout.take().expect("standard output is piped"));
        let log = Capture::of(child.stderr.take().expect("standard error is piped"));
        Self { child, out, log }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether it is still at work.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be asked").is_none()
    }

    /// Waits until it has logged this so many times.
    #[track_caller]
    pub fn wait_until_logged(&self, text: &str, times: usize) {
        wait_until(&format!("{text:?} is {times} times in the log"), || self.log().matches(text).count() >= times);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process has an id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(self) -> Run {
        self.signal(Signal::TERM);
        self.ends_within(STOP_LIMIT)
    }

    /// Waits for its end, which must come within `limit`.
    #[track_caller]
    pub fn ends_within(mut self, limit: Duration) -> Run {
        let begun = Instant::now();
        while self.is_running() {
            assert!(begun.elapsed() < limit, "it still runs after {limit:?}\n{}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
        let status = self.child.wait().expect("the process can be waited for");
        Run { status: status.code().unwrap_or(-1), out: self.out.finish(), log: self.log.finish() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a process writes, while it writes.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(vec![]));
        let kept = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                kept.lock().expect("no reader panics").extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no reader panics")).into_owned()
    }

    fn finish(&mut self) -> String {
        self.reader.take().map(JoinHandle::join);
        self.text()
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// What the S3 server in memory was asked to change, in the order of the requests.
pub fn s3_writes(world: &World) -> Vec<String> {
    let requests = world.s3().requests().into_iter();
    requests.filter(|request| request.method != "GET").map(|request| request.operation.unwrap_or_default()).collect()
}

/// Runs these at the same time, each with a working directory of its own: they spend their time waiting.
pub fn together(commands: impl IntoIterator<Item = Command>) -> Vec<Run> {
    let start = |mut command: Command| {
        let workdir = tempfile::tempdir().expect("a temporary directory");
        command.env("WORKDIR", workdir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (command.spawn().expect("the program starts"), workdir)
    };
    let running: Vec<_> = commands.into_iter().map(start).collect();
    let end = |(child, _workdir): (Child, TempDir)| Run::from(child.wait_with_output().expect("the program ends"));
    running.into_iter().map(end).collect()
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

/// The consumer with these arguments in this world, not yet started.
pub fn consumer(world: &World, arguments: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_git-partition-sync-consumer");
    let mut command = world.consumer_command(program);
    command.args(arguments);
    command
}

/// One pass of the consumer.
#[track_caller]
pub fn deliver(world: &World) -> Run {
    consumer(world, &["-run-once"]).output().expect("the consumer starts").into()
}

/// The same with another value of one setting.
#[track_caller]
pub fn deliver_with(world: &World, name: &str, value: &str) -> Run {
    consumer(world, &["-run-once"]).env(name, value).output().expect("the consumer starts").into()
}

/// The consumer in the background, with hardly a pause between passes.
pub fn delivering(world: &World) -> Daemon {
    Daemon::spawn(consumer(world, &["-reconcile-sleep-time=10ms"]))
}

/// A pass asks where the branch is, and the push that follows at once needs no other answer.
pub const ONE_PUSH: [&str; 2] = ["receive-heads", "receive-pack"];

/// Puts the head of a project's `main` into the bucket, for this destination's `main`. Returns the commit.
#[track_caller]
pub fn put(world: &World, project: &str, destination: &str) -> String {
    let source = world.project(project).unwrap();
    world.put_head(&source, "main", destination, "main", Naming::Zip).unwrap();
    source.head("main").unwrap()
}

/// A world whose bucket holds `main` of near/app for far/app, of which the far GitLab has nothing yet; and its commit.
pub fn waiting() -> (World, Repo, String) {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let head = put(&world, "near/app", "far/app");
    let source = world.project("near/app").unwrap();
    (world, source, head)
}

/// The same with a project of a megabyte, whose object is decrypted in many pieces.
pub fn waiting_with_a_megabyte() -> (World, Repo, String) {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 1).unwrap();
    let head = put(&world, "near/app", "far/app");
    (world, source, head)
}

/// The far branch is at this commit, with all that belongs to it, and nothing is left of other pushes.
#[track_caller]
pub fn assert_arrived(world: &World, destination: &str, branch: &str, commit: &str) {
    assert_eq!(world.far_head(destination, branch).as_deref(), Some(commit), "{destination}@{branch}");
    world.destination.repo(destination).unwrap().fsck().unwrap();
    assert_far_is_clean(world, destination);
}

/// Nothing is left of pushes that were not taken.
#[track_caller]
pub fn assert_far_is_clean(world: &World, destination: &str) {
    let quarantined = world.destination.quarantined(destination).unwrap();
    assert!(quarantined.is_empty(), "{destination}: {quarantined:?}");
}

/// The pushes to a far project, in their order.
pub fn pushes(world: &World, destination: &str) -> Vec<RequestRecord> {
    let path = format!("/{destination}.git/git-receive-pack");
    world.destination.requests().into_iter().filter(|request| request.path == path).collect()
}

/// Every push was sent to its last byte, or answered before: a server cleans up after one that it refuses, and need not after
/// one that breaks off. Git may find damage in a pack before the rest of it has come.
#[track_caller]
pub fn assert_pushes_were_ended(world: &World, destination: &str) {
    for push in pushes(world, destination) {
        let announced = push.header("content-length").expect("a push says how long it is");
        let is_answered = push.status == Some(200) && push.response_bytes > 0;
        assert!(is_answered || announced == push.request_bytes.to_string(), "{destination}: {push:?}");
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

/// The key this program writes for what `commit` has and `base` has not.
pub fn increment_key(destination: &str, branch: &str, base: &str, commit: &str) -> String {
    let (group, project) = destination.rsplit_once('/').expect("group/project");
    let json = format!(
        r#"{{"group":"{group}","project_name":"{project}","commit_sha":"{commit}","branch":"{branch}","base_sha":"{base}"}}"#
    );
    BASE64_STANDARD.encode(json) + ".inc.age"
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
    files_below(&world.workdir())
}

/// Every file below a folder; none where it is not there.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// What is under WORKDIR besides the lock, mirrors, and the note of what is out of sync, which is there while something is.
pub fn leftovers(world: &World) -> Vec<PathBuf> {
    let ours = world.workdir().join(OURS);
    let mut files = workdir_files(world);
    let expected = ["lock", "out-of-sync.json", "retirements.json", "recipients", "unseen-uploads.json"]
        .map(|name| ours.join(name));
    files.retain(|file| !expected.contains(file) && !file.starts_with(ours.join("mirrors")));
    files
}

/// Every text that must not be found, by what it is.
fn needles(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut needles = vec![];
    for secret in world.secrets() {
        needles.push((format!("the secret {secret}"), secret.clone().into_bytes()));
        needles.push((format!("{secret} in base64"), BASE64_STANDARD_NO_PAD.encode(&secret).into_bytes()));
    }
    let servers = [&world.source, &world.destination].map(|server| (server.user(), server.password()));
    let logins = servers.into_iter().chain(world.graphql.basic());
    for (user, password) in logins {
        let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
        needles.push((format!("{user}'s login"), basic.trim_end_matches('=').as_bytes().to_vec()));
    }
    needles
}

/// Fails the test where a secret is in `content`.
#[track_caller]
pub fn assert_clean(world: &World, place: &str, content: &[u8]) {
    for (what, needle) in needles(world) {
        assert!(memmem::find(content, &needle).is_none(), "{what} is in {place}");
    }
}

/// Fails the test where a secret is in a file below WORKDIR, or in its name.
#[track_caller]
pub fn assert_workdir_clean(world: &World) {
    for file in workdir_files(world) {
        // Files come and go while the program works.
        if let Ok(content) = fs::read(&file) {
            assert_clean(world, &file.display().to_string(), &content);
        }
        assert_clean(world, "a file's name", file.display().to_string().as_bytes());
    }
}
