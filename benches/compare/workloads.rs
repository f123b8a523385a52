//! The workloads, and the table they make.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use git_partition_sync_producer::model::key::HeldObject;
use git_partition_sync_producer::model::key::{self, ArchiveFormat, CommitId, Destination};
use git_partition_sync_producer::model::target::Head;
use git_partition_sync_producer::model::target::{Source, Target};
use git_partition_sync_producer::plan::{Crossing, Desired, FormatChoice, MaxRetire, OnRewrite, Policy, plan};
use tempfile::TempDir;
use testbed::fault::ClosedPort;
use testbed::graphql::SyncTarget;
use testbed::repo::Repo;
use testbed::s3::S3Options;
use testbed::world::World;

use crate::measure::{Cage, Measured, fresh, measure, rounds};
use crate::{far, increments, rivals};

type Workload = fn(usize);
pub type Contestants<'a> = BTreeMap<&'a str, Box<dyn FnMut() -> Measured + 'a>>;

/// `PROBE_CONCURRENCY` of the quiet workloads, for the program and for curl.
pub const PROBES: usize = 32;
/// How much of a file each commit of the deep repository changes: enough for a pack of more than 200 MB.
const DEEP_LINES_PER_EDIT: usize = 66;
/// The memory cgroup that large repositories have to be content with, in bytes.
pub const CAGE_BYTES: u64 = 256 << 20;

/// Runs the workloads asked for, all where none is, and prints the table.
pub fn run(wanted: &[String], count: usize) {
    let workloads: [(&str, Workload); 22] = [
        ("W1", w1),
        ("W2", w2),
        ("W3a", w3a),
        ("W3b", w3b),
        ("W4", w4),
        ("W5", w5),
        ("W6", w6),
        ("W7", w7),
        ("W8", w8),
        ("W9", w9),
        ("F1a", far::f1a),
        ("F1b", far::f1b),
        ("F1c", far::f1c),
        ("F2", far::f2),
        ("F3", far::f3),
        ("F4", far::f4),
        ("F5", far::f5),
        ("C1", increments::c1),
        ("C2", increments::c2),
        ("C3", increments::c3),
        ("C4", increments::c4),
        ("C5", increments::c5),
    ];
    println!(
        "| workload | contestant | wall s | ÷ ours | CPU s | anonymous MB | RSS MB | disk MB | Git requests | Git MB | S3 requests | S3 MB | Git's CPU s | all servers' CPU s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, workload) in workloads {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            eprintln!("{name}");
            workload(count);
        }
    }
}

pub fn print(workload: &str, medians: &BTreeMap<String, Measured>) {
    let ours = medians.get("ours").map_or(f64::NAN, |ours| ours.wall);
    for (name, run) in medians {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "| {workload} | {name} | {:.3} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {} | {:.3} | {} | {:.2} | {:.2} | {:.2} |",
            run.wall,
            run.wall / ours,
            run.cpu,
            mb(run.anonymous),
            mb(run.resident),
            mb(run.disk),
            run.git.0,
            mb(run.git.1),
            run.s3.0,
            mb(run.s3.1),
            run.git_cpu,
            run.server_cpu
        );
    }
}

fn world() -> World {
    let s3 = S3Options { discard_bodies: true, ..S3Options::default() };
    World::builder().s3(s3).setting("PROBE_CONCURRENCY", &PROBES.to_string()).start().unwrap()
}

/// So many projects; the first is made by `make`, the others are copies of it.
pub fn projects(world: &World, count: usize, make: impl Fn(&Repo)) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("near/p{n:04}")).collect();
    let first = world.source.repo(&names[0]).unwrap();
    make(&first);
    names[1..].iter().for_each(|name| copy(first.path(), &world.source.repo_path(name)));
    let target = |name: &String| SyncTarget::new(name, "main", &name.replace("near", "far"), "main");
    world.graphql.set_targets(names.iter().map(target).collect());
    names
}

pub fn copy(repo: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").args([repo, to]).status().unwrap().success());
}

/// The bucket as it is when all these projects are in sync; in the one format that another producer may know, where one
/// takes part.
fn in_sync(world: &World, projects: &[String]) {
    let format = if rivals::other_producer(world).is_some() { ArchiveFormat::TarGz } else { ArchiveFormat::Zip };
    let head: CommitId = world.source.repo(&projects[0]).unwrap().head("main").unwrap().parse().unwrap();
    for name in projects {
        let project = name.trim_start_matches("near/").to_owned();
        let destination = Destination { group: "far".into(), project, branch: "main".into() };
        world.s3().put(&key::encode(&destination, head, format).unwrap(), "x");
    }
}

/// Empties the bucket and WORKDIR, and gives a folder for a program that works elsewhere.
fn reset(world: &World) -> std::path::PathBuf {
    for key in world.s3().keys() {
        world.s3().delete(&key);
    }
    let _ = std::fs::remove_dir_all(world.workdir());
    fresh(world.scratch().unwrap())
}

/// A quiet pass of 1,000 targets: with Git answering, and with its answers replayed, so that both cores are the client's.
fn w1(count: usize) {
    for (latency, replay) in [(0, false), (50, false), (50, true)] {
        let world = world();
        let names = projects(&world, 1_000, |repo| repo.fill_small(1).unwrap());
        in_sync(&world, &names);
        world.source.set_latency(Duration::from_millis(latency));
        world.source.set_replay(replay);
        let scratch = fresh(world.scratch().unwrap());
        let one = names[..1].to_vec();
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert("ours", Box::new(|| measure(&world, &rivals::ours(&world, &[]), &world.workdir())));
        contestants.insert(
            "curl, the same requests",
            Box::new(|| measure(&world, &rivals::probes(&world, &names, PROBES, &scratch), &scratch)),
        );
        contestants.insert(
            "curl, one request",
            Box::new(|| measure(&world, &rivals::probes(&world, &one, 1, &scratch), &scratch)),
        );
        other_producer(&world, &mut contestants, || {});
        let replayed = if replay { ", answers replayed" } else { "" };
        print(&format!("W1 at {latency} ms{replayed}"), &rounds(count, &mut contestants));
    }
}

/// The first sync of 200 small repositories.
fn w2(count: usize) {
    let world = world();
    let names = projects(&world, 200, |repo| repo.fill_small(1).unwrap());
    let mut contestants: Contestants<'_> = BTreeMap::new();
    first_sync(&world, &names, &mut contestants);
    print("W2", &rounds(count, &mut contestants));
}

/// A long history of small edits to large text files: 400,000 objects. Made once, for it takes minutes.
pub fn deep(world: &World) -> Vec<String> {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        Repo::deep(dir.path().join("deep.git"), 100_000, 40, DEEP_LINES_PER_EDIT).unwrap();
        dir
    });
    let names = vec!["near/deep".to_owned()];
    copy(&made.path().join("deep.git"), &world.source.repo_path(&names[0]));
    world.graphql.set_targets(vec![SyncTarget::new(&names[0], "main", "far/deep", "main")]);
    names
}

/// 400 MB that do not compress.
pub fn incompressible(world: &World) -> Vec<String> {
    projects(world, 1, |repo| repo.fill_incompressible(400, 7).unwrap())
}

fn w3a(count: usize) {
    large("W3a", count, deep);
}

fn w3b(count: usize) {
    large("W3b", count, incompressible);
}

/// The first sync of one large repository.
fn large(name: &str, count: usize, make: fn(&World) -> Vec<String>) {
    let world = world();
    let names = make(&world);
    let repo = world.source.repo(&names[0]).unwrap();
    let pack = repo.pack_bytes().unwrap();
    eprintln!(
        "  {} objects, pack of {} MB",
        repo.git(&["rev-list", "--objects", "--all", "--count"]).unwrap().trim(),
        pack / 1_000_000
    );
    let cage = Cage::new(CAGE_BYTES).inspect_err(|error| eprintln!("  no memory cgroup can be made: {error}")).ok();
    let mut contestants: Contestants<'_> = BTreeMap::new();
    first_sync(&world, &names, &mut contestants);
    if let Some(cage) = &cage {
        contestants.insert(
            "ours, in a cgroup of 256 MiB",
            Box::new(|| {
                reset(&world);
                measure(&world, &cage.around(&rivals::ours(&world, &[])), &world.workdir())
            }),
        );
    }
    contestants.insert(
        "floor: clone, then upload",
        Box::new(|| {
            let scratch = reset(&world);
            let command = rivals::floor(&world, &names[0], pack, &scratch);
            measure(&world, &command, &scratch)
        }),
    );
    print(name, &rounds(count, &mut contestants));
}

/// This program and the pipeline, each from nothing.
fn first_sync<'a>(world: &'a World, names: &'a [String], contestants: &mut Contestants<'a>) {
    contestants.insert(
        "ours",
        Box::new(|| {
            reset(world);
            measure(world, &rivals::ours(world, &[]), &world.workdir())
        }),
    );
    contestants.insert(
        "pipeline",
        Box::new(|| {
            let scratch = reset(world);
            measure(world, &rivals::pipeline(world, names, &scratch), &scratch)
        }),
    );
    other_producer(world, contestants, || drop(reset(world)));
}

fn other_producer<'a>(world: &'a World, contestants: &mut Contestants<'a>, prepare: impl Fn() + 'a) {
    if let Some(command) = rivals::other_producer(world) {
        contestants.insert(
            "BENCH_RIVAL",
            Box::new(move || {
                prepare();
                measure(world, &command, &world.workdir())
            }),
        );
    }
}

/// One more commit on each of W3's repositories.
fn w4(count: usize) {
    for (name, make) in [("W4 on W3a", deep as fn(&World) -> Vec<String>), ("W4 on W3b", incompressible)] {
        let world = world();
        let names = make(&world);
        let repo = world.source.repo(&names[0]).unwrap();
        reset(&world);
        let first = measure(&world, &rivals::ours(&world, &[]), &world.workdir());
        let bytes = first.s3.1;
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert(
            "ours",
            Box::new(|| {
                repo.commits("main", 1).unwrap();
                measure(&world, &rivals::ours(&world, &[]), &world.workdir())
            }),
        );
        contestants.insert(
            "uploading the bytes alone",
            Box::new(|| {
                let scratch = fresh(world.scratch().unwrap());
                let command = rivals::upload(&world, bytes, &scratch);
                measure(&world, &command, &scratch)
            }),
        );
        print(name, &rounds(count, &mut contestants));
    }
}

/// Planning for many objects, in a process of its own.
fn w5(count: usize) {
    let world = world();
    let seconds = world.scratch().unwrap().join("seconds");
    for objects in [10_000, 100_000] {
        let run = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--plan", &objects.to_string()]).arg(&seconds);
            measure(&world, &command, &world.workdir())
        };
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert("making the input, then planning", Box::new(run));
        contestants.insert(
            "ours",
            Box::new(|| {
                let whole = run();
                Measured { wall: std::fs::read_to_string(&seconds).unwrap().parse().unwrap(), ..whole }
            }),
        );
        print(&format!("W5 with {objects} objects"), &rounds(count, &mut contestants));
    }
}

/// Makes a bucket of so many objects, one in a hundred outdated, and writes to a file how many seconds the decision took.
pub fn plan_once(objects: usize, seconds: &str) -> ExitCode {
    let commit = |n: usize| CommitId::from_bytes([u8::try_from(n % 251).unwrap(); 20]);
    let destination =
        |n: usize| Destination { group: format!("far/g{}", n % 100), project: format!("p{n}"), branch: "main".into() };
    let target = |n: usize| Target {
        source: Source { project: format!("near/p{n}"), branch: "main".into() },
        destination: destination(n),
    };
    let targets = (0..objects).map(|n| (target(n), Head::At(commit(n)))).collect();
    let held: Vec<_> = (0..objects)
        .map(|n| {
            let key = key::encode(&destination(n), commit(n + usize::from(n % 100 == 0)), ArchiveFormat::Zip).unwrap();
            HeldObject { name: key::decode(&key).unwrap(), key, last_modified: SystemTime::UNIX_EPOCH, bytes: 1 }
        })
        .collect();
    let desired = Desired { targets, refused: vec![] };
    let policy = Policy {
        format: FormatChoice::Auto,
        max_retire: MaxRetire::Percent(50),
        on_rewrite: OnRewrite::Publish,
        republish: &BTreeSet::new(),
        crossing: Crossing::Whole,
        max_increments: NonZeroUsize::MIN,
    };
    let begun = Instant::now();
    let plan = plan(&desired, &held, policy).unwrap();
    let took = begun.elapsed();
    assert_eq!(plan.actions.len(), objects.div_ceil(100));
    std::fs::write(seconds, took.as_secs_f64().to_string()).unwrap();
    // What is measured is the plan, not how it is taken apart.
    std::process::exit(0);
}

/// Twenty medium repositories that changed at once, several at a time and one at a time; once with a Git server on these
/// same cores, and once with one that takes its time to answer.
fn w6(count: usize) {
    for latency in [0, 250] {
        let world = world();
        projects(&world, 20, |repo| repo.fill_incompressible(20, 3).unwrap());
        world.source.set_latency(Duration::from_millis(latency));
        let run = |concurrency: &[(&str, &str)]| {
            reset(&world);
            measure(&world, &rivals::ours(&world, concurrency), &world.workdir())
        };
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert("ours", Box::new(|| run(&[])));
        contestants.insert("ours, one at a time", Box::new(|| run(&[("SYNC_CONCURRENCY", "1")])));
        print(&format!("W6 at {latency} ms"), &rounds(count, &mut contestants));
    }
}

/// A quiet target whose repository has 100,000 refs, beside one that has one.
fn w7(count: usize) {
    let with = |refs: usize| {
        let world = world();
        let repo = Repo::many_refs(world.source.repo_path("near/p0000"), refs).unwrap();
        repo.commits("main", 1).unwrap();
        world.graphql.set_targets(vec![SyncTarget::new("near/p0000", "main", "far/p0000", "main")]);
        in_sync(&world, &["near/p0000".to_owned()]);
        world
    };
    let (many, one) = (with(100_000), with(1));
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| measure(&many, &rivals::ours(&many, &[]), &many.workdir())));
    contestants.insert("ours, one ref", Box::new(|| measure(&one, &rivals::ours(&one, &[]), &one.workdir())));
    print("W7", &rounds(count, &mut contestants));
}

/// From a push that GitLab reports to its object in the bucket: the daemon is at rest, and one small project of ten
/// changes.
fn w8(count: usize) {
    const SECRET: &str = "bench-webhook-secret";
    let s3 = S3Options { discard_bodies: true, ..S3Options::default() };
    let world = World::builder().s3(s3).sleep("1h").setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    let names = projects(&world, 10, |repo| repo.fill_small(1).unwrap());
    let repo = world.source.repo(&names[0]).unwrap();
    let daemon = rivals::Daemon::start(&world);
    let body = format!(
        r#"{{"object_kind":"push","ref":"refs/heads/main","project":{{"path_with_namespace":"{}"}}}}"#,
        names[0]
    );
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert(
        "ours",
        Box::new(|| {
            repo.commits("main", 1).unwrap();
            let head: CommitId = repo.head("main").unwrap().parse().unwrap();
            let destination = Destination { group: "far".into(), project: "p0000".into(), branch: "main".into() };
            let key = key::encode(&destination, head, ArchiveFormat::Zip).unwrap();
            // Passes for pushes keep a second's distance.
            std::thread::sleep(Duration::from_millis(1_500));
            let begun = Instant::now();
            daemon.push(SECRET, &body);
            while !world.s3().keys().contains(&key) {
                assert!(begun.elapsed() < Duration::from_secs(60), "the push is not in the bucket");
                std::thread::sleep(Duration::from_millis(2));
            }
            Measured { wall: begun.elapsed().as_secs_f64(), ..Measured::default() }
        }),
    );
    print("W8, from a push to its object", &rounds(count, &mut contestants));
}

/// Three passes of the daemon over very many targets, each with an object, while GitLab is down: what it takes to know them.
fn w9(count: usize) {
    const SCRIPT: &str = r#"
        "$0" 2>"$1" &
        until [ "$(grep -c 'pass done' "$1")" -ge 3 ]; do sleep 0.2; kill -0 $!; done
        kill $!
        wait $!"#;
    let project = |n: usize| format!("platform-group-{:02}/some-project-{n:06}", n % 100);
    for targets in [10_000, 100_000] {
        let world = world();
        let target = |n| {
            let project = project(n);
            SyncTarget::new(&project, "main", &format!("mirror/{project}"), "main")
        };
        world.graphql.set_targets((0..targets).map(target).collect());
        for n in 0..targets {
            let (group, project) =
                project(n).split_once('/').map(|it| (format!("mirror/{}", it.0), it.1.into())).unwrap();
            let destination = Destination { group, project, branch: "main".into() };
            world.s3().put(&key::encode(&destination, CommitId::from_bytes([7; 20]), ArchiveFormat::Zip).unwrap(), "x");
        }
        let nobody = ClosedPort::new().unwrap();
        let log = world.scratch().unwrap().join("log");
        let run = || {
            let mut command = world.command("bash");
            command.args(["-e", "-c", SCRIPT, rivals::PRODUCER]).arg(&log);
            command.env("GITLAB_BASE_URL", nobody.url()).env("METRICS_SERVER_PORT", "0");
            measure(&world, &command, &world.workdir())
        };
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert("ours", Box::new(run));
        print(&format!("W9, three passes over {targets} targets"), &rounds(count, &mut contestants));
    }
}
