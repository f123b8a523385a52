//! Repositories that are made to take much memory, or do so by themselves, in the manifests' 512 MiB: each costs at most its
//! own target, never the process.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};
use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::git::fetch_answer;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{OURS, Run, keys, program, wait_until, zip_key};

const MIB: usize = 1 << 20;
/// The manifests' memory limit.
const LIMIT_BYTES: usize = 512 * MIB;
/// What the program makes of it if it finds it.
const BUDGET_BYTES: usize = LIMIT_BYTES - 128 * MIB;
const COMMIT: u8 = 1;
const BLOB: u8 = 3;
const OFS_DELTA: u8 = 6;

/// A memory cgroup, version 1 or 2, of 512 MiB. Dropping it removes it.
struct Group(PathBuf);

impl Group {
    /// `None` if this machine or user cannot make one.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{OURS}-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path_in =
            |start: &str| own.lines().find_map(|line| line.split_once(start)).map(|(_, path)| path.to_owned());
        let root = Path::new("/sys/fs/cgroup");
        let (root, path, limit) = match path_in(":memory:") {
            Some(path) => (root.join("memory"), path, "memory.limit_in_bytes"),
            None => (root.to_owned(), path_in("0::")?, "memory.max"),
        };
        // In a container the path may be that outside.
        let parent = Some(root.join(path.trim_start_matches('/'))).filter(|path| path.exists()).unwrap_or(root);
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), LIMIT_BYTES.to_string()).ok()?;
        Some(group)
    }

    /// The same command, in the group.
    fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0);
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.0.exists() && !std::thread::panicking() {
            wait_until("the memory cgroup is empty", || fs::remove_dir(&self.0).is_ok());
        }
    }
}

/// Runs the program in 512 MiB.
fn limited(mut command: Command) -> Run {
    match Group::new() {
        Some(group) => group.wrap(&command).output().unwrap().into(),
        None => {
            eprintln!(
                "NOT FULLY TESTED: this user may not make a memory cgroup, so MEMORY_BUDGET_BYTES takes its place, and \
                 nothing watches what the program takes. Run it as root."
            );
            let is_set = command.get_envs().any(|(name, value)| name == "MEMORY_BUDGET_BYTES" && value.is_some());
            if !is_set {
                command.env("MEMORY_BUDGET_BYTES", BUDGET_BYTES.to_string());
            }
            command.output().unwrap().into()
        }
    }
}

/// A pack in the making.
struct Pack {
    bytes: Vec<u8>,
    objects: u32,
}

impl Pack {
    fn new() -> Self {
        Self { bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec(), objects: 0 }
    }

    /// Adds an entry; `prefix` stands between its header and its content. Returns its offset.
    fn add(&mut self, kind: u8, prefix: &[u8], content: &[u8]) -> usize {
        let offset = self.bytes.len();
        let mut size = content.len();
        self.bytes.push(kind << 4 | (size & 15) as u8 | if size > 15 { 0x80 } else { 0 });
        size >>= 4;
        while size > 0 {
            self.bytes.push((size & 0x7f) as u8 | if size > 0x7f { 0x80 } else { 0 });
            size >>= 7;
        }
        self.bytes.extend_from_slice(prefix);
        let mut deflated = ZlibEncoder::new(&mut self.bytes, Compression::fast());
        deflated.write_all(content).unwrap();
        deflated.finish().unwrap();
        self.objects += 1;
        offset
    }

    fn delta(&mut self, base: usize, instructions: &[u8]) -> usize {
        let mut distance = self.bytes.len() - base;
        let mut digits = vec![(distance & 0x7f) as u8];
        while distance > 0x7f {
            distance = (distance >> 7) - 1;
            digits.insert(0, (distance & 0x7f) as u8 | 0x80);
        }
        self.add(OFS_DELTA, &digits, instructions)
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes[8..12].copy_from_slice(&self.objects.to_be_bytes());
        let sum = Sha1::digest(&self.bytes);
        self.bytes.extend_from_slice(&sum);
        self.bytes
    }
}

fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = vec![];
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The delta that replaces the last four bytes of `size`.
fn with_tail(size: usize, tail: u32) -> Vec<u8> {
    let mut delta = [number(size), number(size)].concat();
    let (mut offset, mut left) = (0, size - 4);
    while left > 0 {
        let length = left.min(0xff_ffff);
        delta.push(0xff);
        delta.extend_from_slice(&(offset as u32).to_le_bytes());
        delta.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
        (offset, left) = (offset + length, left - length);
    }
    [delta, vec![4], tail.to_be_bytes().to_vec()].concat()
}

/// Pushes a chain of deltas to the project, each with a small delta beside it that keeps its base in memory if the chain is
/// followed first. Object `n` ends in `n`.
fn push_bush(source: &Repo, size: usize, depth: u32) {
    let mut pack = Pack::new();
    let mut base = pack.add(BLOB, &[], &vec![0; size]);
    for level in 0..depth {
        let small = [number(size), number(4), vec![4], (2 * level + 1).to_be_bytes().to_vec()].concat();
        pack.delta(base, &small);
        base = pack.delta(base, &with_tail(size, 2 * level + 2));
    }
    let mut zeros = Sha1::new_with_prefix(format!("blob {size}\0"));
    zeros.update(vec![0; size - 4]);
    let id = |tail: u32| match tail % 2 {
        0 => zeros.clone().chain_update(tail.to_be_bytes()).finalize(),
        _ => Sha1::new_with_prefix("blob 4\0").chain_update(tail.to_be_bytes()).finalize(),
    };
    // What a developer pushes, and the commit that holds it.
    let file = source.path().join("objects/pack/pushed.pack");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, pack.finish()).unwrap();
    source.git(&["index-pack", "--strict", file.to_str().unwrap()]).unwrap();
    let names = (0..=2 * depth).map(|tail| {
        let digits: String = id(tail).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("100644 blob {digits}\tf{tail:05}\n")
    });
    let tree = git_with_input(source, &["mktree"], &names.collect::<String>());
    let commit =
        source.git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit-tree", "-m", "pushed", &tree]).unwrap();
    source.git(&["update-ref", "refs/heads/main", &commit]).unwrap();
}

fn git_with_input(source: &Repo, arguments: &[&str], input: &str) -> String {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(source.path()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = git.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A world with a healthy project, and one that `fill` makes.
fn world(fill: impl FnOnce(&Repo)) -> World {
    let world = World::start().unwrap();
    world.source.repo("near/well").unwrap().fill_small(3).unwrap();
    fill(&world.source.repo("near/large").unwrap());
    world.sync("near/well", "main", "far/well", "main").unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world
}

fn key_of(world: &World, name: &str) -> String {
    let source = world.source.repo(&format!("near/{name}")).unwrap();
    zip_key(&format!("far/{name}"), "main", &source.head("main").unwrap())
}

/// What one pass says of the large project, if it fails that one alone.
#[track_caller]
fn fails_alone(world: &World, run: Run) -> String {
    let run = run.failed();
    assert_eq!(keys(world), [key_of(world, "well")], "{}", run.log);
    run.lines_with("failed: far/large").concat()
}

#[test]
fn a_bush_of_deltas_that_git_takes_is_published_and_restored() {
    // 36 levels × 16 MiB are more than there is.
    let world = world(|source| push_bush(source, 16 * MIB, 36));
    limited(program(&world, &["-run-once"])).succeeded();
    assert_eq!(keys(&world), [key_of(&world, "large"), key_of(&world, "well")]);

    let restore = |budget: Option<&str>| {
        let identity = world.identity_file().to_string_lossy().into_owned();
        let mut command = program(&world, &["restore", "-identity", &identity]);
        command.envs(budget.map(|budget| ("MEMORY_BUDGET_BYTES", budget)));
        limited(command)
    };
    assert!(restore(None).succeeded().out.contains("2 good"));
    let refused = restore(Some("16Mi")).failed();
    let line = refused.out.lines().find(|line| line.contains("far/large")).unwrap();
    assert!(line.contains("more than MEMORY_BUDGET_BYTES allows (16.0 MiB)") && !line.contains("delete it"), "{line}");
    assert!(refused.out.contains("1 good"), "{}", refused.out);
}

#[test]
fn deltas_that_cannot_be_decoded_in_the_memory_fail_their_target_alone() {
    // A complete binary tree of six levels: one object of each level is held.
    let bases: Vec<usize> = (0..62).map(|at| at / 2).collect();
    let world = World::start().unwrap();
    world.source.repo("near/well").unwrap().fill_small(3).unwrap();
    world.sync("near/well", "main", "far/well", "main").unwrap();
    world.source.repo("near/large").unwrap().fill_small(4).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    let mut pack = Pack::new();
    let size = 80 * MIB;
    let mut offsets = vec![pack.add(BLOB, &[], &vec![0; size])];
    for (tail, base) in (1..).zip(&bases) {
        offsets.push(pack.delta(offsets[*base], &with_tail(size, tail)));
    }
    let line = fails_alone(&world, limited_with_pack(&world, &pack.finish(), &[]));
    assert!(line.contains("decoding the repository's deltas takes 48"), "{line}");
    assert!(line.contains("more than MEMORY_BUDGET_BYTES allows (384.0 MiB)"), "the limit is found: {line}");
}

/// One pass in 512 MiB, in which the large project's pack is this one.
fn limited_with_pack(world: &World, pack: &[u8], settings: &[(&str, &str)]) -> Run {
    let proxy = Proxy::start(&world.source.url()).unwrap();
    let answer = fetch_answer(pack);
    let of_large = |seen: &testbed::fault::Seen| seen.operation() == "fetch" && seen.path.contains("large");
    proxy.on(of_large, ALWAYS, Fault::alter(move |_| answer.clone()));
    let mut command = program(world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", proxy.url()).envs(settings.iter().copied());
    let run = limited(command);
    assert!(proxy.hits() > 0);
    run
}

#[test]
fn more_objects_than_the_memory_can_hold_are_refused_by_the_packs_header() {
    let world = world(|source| source.fill_small(4).unwrap());
    // 9 million announced, and not one of them sent.
    let pack = [b"PACK\0\0\0\x02".as_slice(), &9_000_000_u32.to_be_bytes()].concat();
    let line = fails_alone(&world, limited_with_pack(&world, &pack, &[]));
    assert!(line.contains("the repository's 9000000 objects take 489.2 MiB of memory"), "{line}");
    assert!(line.contains("more than MEMORY_BUDGET_BYTES allows (384.0 MiB)"), "{line}");
    // As many as the setting allows are read.
    let settings = [("MEMORY_BUDGET_BYTES", "600Mi")];
    let line = fails_alone(&world, limited_with_pack(&world, &pack, &settings));
    assert!(!line.contains("MEMORY_BUDGET_BYTES"), "{line}");
}

#[test]
fn a_commit_of_a_size_that_no_commit_has_is_refused() {
    let world = world(|source| source.fill_small(4).unwrap());
    let mut pack = Pack::new();
    pack.add(COMMIT, &[], &vec![b'\n'; 65 * MIB]);
    let line = fails_alone(&world, limited_with_pack(&world, &pack.finish(), &[]));
    assert!(line.contains("holds an object of more than 64.0 MiB that cannot be read as a stream"), "{line}");
}

#[test]
fn many_objects_are_taken_within_the_least_budget() {
    let world = world(|source| source.fill_small(4).unwrap());
    // What the branch refers to, and 40,000 blobs beside it.
    let source = world.source.repo("near/large").unwrap();
    let objects = testbed::judge::object_names(source.path(), "main").unwrap();
    let whole = source.pack_of(&objects, true).unwrap();
    let mut pack = Pack::new();
    pack.objects = objects.len() as u32;
    pack.bytes.extend_from_slice(&whole[12..whole.len() - 20]);
    for n in 0..40_000_u32 {
        pack.add(BLOB, &[], &n.to_be_bytes());
    }
    let pack = pack.finish();
    limited_with_pack(&world, &pack, &[("MEMORY_BUDGET_BYTES", "16Mi")]).succeeded();
    assert_eq!(keys(&world), [key_of(&world, "large"), key_of(&world, "well")]);
}

#[test]
fn a_target_that_an_earlier_process_did_not_survive_is_tried_last() {
    let world = World::builder().setting("SYNC_CONCURRENCY", "1").start().unwrap();
    for name in ["a", "b", "c"] {
        world.source.repo(&format!("near/{name}")).unwrap().fill_small(3).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let order = |run: &Run| -> Vec<String> {
        let published = run.lines_with("published far/").into_iter();
        published.map(|line| line.split("published far/").nth(1).unwrap()[..1].to_owned()).collect()
    };
    // What a killed process leaves: the record of what it was decoding.
    let records = world.workdir().join(OURS).join("decoding");
    let first = program(&world, &["-run-once"]).output().unwrap();
    let usual = order(&Run::from(first).succeeded());
    for (name, last) in usual.iter().zip([&usual[0], &usual[1]]) {
        for key in keys(&world) {
            world.s3().delete(&key);
        }
        // Nobody is to miss them.
        fs::remove_file(world.workdir().join(OURS).join("unseen-uploads.json")).unwrap();
        let record = format!("{{\"group\":\"far\",\"project\":\"{name}\",\"branch\":\"main\"}}");
        fs::write(records.join("killed"), record).unwrap();
        let run = Run::from(program(&world, &["-run-once"]).output().unwrap()).succeeded();
        assert_eq!(order(&run).last(), Some(last), "{}", run.log);
        assert_eq!(run.lines_with("tried last").len(), 1, "{}", run.log);
        assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    }
    pass_says_nothing(&world);
}

/// Once it was tried, nothing is last any more.
fn pass_says_nothing(world: &World) {
    let run = Run::from(program(world, &["-run-once"]).output().unwrap()).succeeded();
    assert!(run.lines_with("tried last").is_empty(), "{}", run.log);
}
