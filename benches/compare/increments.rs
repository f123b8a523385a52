//! What crosses if only what is new crosses: bytes and seconds, beside a whole upload and beside what Git itself would send.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use git_partition_sync_producer::model::key::{self, ArchiveFormat, CommitId, Destination, HeldObject};
use git_partition_sync_producer::model::target::{Head, Source, Target};
use git_partition_sync_producer::plan::{
    Action, Crossing, Desired, FormatChoice, How, MaxRetire, OnRewrite, Plan, Policy, plan,
};
use serde::Deserialize;
use testbed::repo::Repo;
use testbed::world::{World, WorldBuilder};

use crate::far;
use crate::measure::{Measured, measure, rounds};
use crate::rivals;
use crate::workloads::{Contestants, copy, deep, print, projects};

/// The most objects of a destination: a whole history and what is on top of it.
const MOST_OBJECTS: usize = 9;
/// How many commits the far side is away for.
const AWAY_COMMITS: usize = 500;
/// Real histories: how large a whole object is, and what each of several hundred commits adds, in bytes.
const HISTORIES: &str = include_str!("../data/crossings.json");

fn incremental() -> WorldBuilder {
    World::builder().setting("CROSSING", "incremental")
}

/// What Git itself sends to somebody who has `base`, in bytes.
fn thin_pack(repo: &Repo, base: &str, head: &str) -> u64 {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(repo.path()).args([
        "pack-objects",
        "--revs",
        "--thin",
        "--stdout",
        "-q",
        "--delta-base-offset",
    ]);
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut git.stdin.take().unwrap(), format!("{head}\n^{base}\n").as_bytes()).unwrap();
    let pack = git.wait_with_output().unwrap();
    assert!(pack.status.success());
    pack.stdout.len() as u64
}

/// Bytes of all objects in the bucket.
fn held_bytes(world: &World) -> u64 {
    world.bucket().unwrap().list().unwrap().iter().map(|object| object.size).sum()
}

/// C1: one more commit on W3a's repository, from the near GitLab into the bucket.
pub fn c1(count: usize) {
    let (increments, wholes) = (incremental().start().unwrap(), World::start().unwrap());
    let names = deep(&increments);
    deep(&wholes);
    let next = |world: &World| {
        let repo = world.source.repo(&names[0]).unwrap();
        let base = repo.head("main").unwrap();
        let head = repo.commits("main", 1).unwrap();
        thin_pack(&repo, &base, &head)
    };
    for world in [&increments, &wholes] {
        measure(world, &rivals::ours(world, &[]), &world.workdir());
    }
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert(
        "ours",
        Box::new(|| {
            let (thin, world) = (next(&increments), &increments);
            let before = held_bytes(world);
            let measured = measure(world, &rivals::ours(world, &[]), &world.workdir());
            let put = held_bytes(world) - before;
            eprintln!(
                "  Git's thin pack: {thin} bytes; fetched: {} bytes; the new object: {put} bytes",
                measured.git.1
            );
            measured
        }),
    );
    contestants.insert(
        "ours, CROSSING=whole",
        Box::new(|| {
            next(&wholes);
            measure(&wholes, &rivals::ours(&wholes, &[]), &wholes.workdir())
        }),
    );
    print("C1, one more commit on W3a's repository", &rounds(count, &mut contestants));
}

/// C2: from a push that GitLab reports to the far branch. Both programs are at rest, and are told: by GitLab, and by the bucket.
pub fn c2(count: usize) {
    const SECRET: &str = "bench-webhook-secret";
    let world = incremental().setting("WEBHOOK_SECRET", SECRET).consumer_setting("WEBHOOK_SECRET", SECRET);
    let world = world.sleep("1h").start().unwrap();
    world.destination.group("far").unwrap();
    let names = projects(&world, 10, |repo| repo.fill_incompressible(4, 5).unwrap());
    let near = world.source.repo(&names[0]).unwrap();
    let (producer, consumer) = (rivals::Daemon::start(&world), {
        let mut command = world.consumer_command(rivals::CONSUMER);
        command.env("RECONCILE_SLEEP_TIME", "1h");
        rivals::Daemon::of(command)
    });
    let body = format!(
        r#"{{"object_kind":"push","ref":"refs/heads/main","project":{{"path_with_namespace":"{}"}}}}"#,
        names[0]
    );
    let until = |what: &str, begun: Instant, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert(
        "ours",
        Box::new(|| {
            near.commits("main", 1).unwrap();
            let head: CommitId = near.head("main").unwrap().parse().unwrap();
            // Passes that somebody asks for keep a second's distance.
            std::thread::sleep(Duration::from_millis(1_500));
            let begun = Instant::now();
            producer.push(SECRET, &body);
            let written = || {
                let names = |key: &String| key::decode(key).is_some_and(|name| name.commit == head.to_string());
                world.s3().keys().into_iter().find(names)
            };
            until("the push is in the bucket", begun, &|| written().is_some());
            let in_bucket = begun.elapsed().as_secs_f64();
            consumer.written(SECRET, &written().unwrap());
            until("the far branch has it", begun, &|| world.far_head("far/p0000", "main") == Some(head.to_string()));
            let wall = begun.elapsed().as_secs_f64();
            eprintln!("  in the bucket after {in_bucket:.3} s, on the far side after {wall:.3} s");
            Measured { wall, ..Measured::default() }
        }),
    );
    print("C2, from a push to the far branch", &rounds(count, &mut contestants));
}

/// C3: real histories through the planner, and a real repository of as many commits through both programs.
pub fn c3(_: usize) {
    #[derive(Deserialize)]
    struct History {
        whole_bytes: u64,
        increment_bytes: Vec<u64>,
    }
    let histories: BTreeMap<String, History> = serde_json::from_str(HISTORIES).unwrap();
    println!(
        "\n| C3, history | commits | whole each time, MB | as increments, MB | objects, most |\n|---|---|---|---|---|"
    );
    for (name, history) in &histories {
        let (sent, most) = replay(history.whole_bytes, &history.increment_bytes);
        let whole = history.whole_bytes * history.increment_bytes.len() as u64;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!("| {name} | {} | {:.0} | {:.2} | {most} |", history.increment_bytes.len(), mb(whole), mb(sent));
        assert!(most <= MOST_OBJECTS);
    }
    let world = incremental().start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/made").unwrap();
    source.fill_incompressible(4, 5).unwrap();
    world.sync("near/made", "main", "far/made", "main").unwrap();
    let pass = || assert!(rivals::ours(&world, &[]).output().unwrap().status.success());
    pass();
    let (whole, mut sent, mut thin, mut most) = (held_bytes(&world), 0, 0, 0);
    for _ in 0..AWAY_COMMITS {
        let base = source.head("main").unwrap();
        let head = source.commits("main", 1).unwrap();
        thin += thin_pack(&source, &base, &head);
        let keys: BTreeSet<_> = world.s3().keys().into_iter().collect();
        pass();
        let objects = world.bucket().unwrap().list().unwrap();
        sent += objects.iter().filter(|object| !keys.contains(&object.key)).map(|object| object.size).sum::<u64>();
        most = most.max(objects.len());
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "| made here | {AWAY_COMMITS} | {:.0} | {:.2} ({:.2} of thin packs) | {most} |\n",
        mb(whole * AWAY_COMMITS as u64),
        mb(sent),
        mb(thin)
    );
    let consumed = far::ours(&world).output().unwrap();
    assert!(consumed.status.success());
    assert_eq!(world.far_head("far/made", "main"), source.head("main"));
}

/// Sends each commit of a history as the plan says. Returns the bytes of all increments, and the most objects at a time.
fn replay(whole_bytes: u64, increments: &[u64]) -> (u64, usize) {
    let commit = |n: usize| {
        let mut id = [1; 20];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        CommitId::from_bytes(id)
    };
    let number = |commit: CommitId| u64::from_be_bytes(*commit.as_bytes().first_chunk().unwrap()) as usize;
    let (mut held, mut sent, mut most): (Vec<HeldObject>, u64, usize) = (vec![], 0, 0);
    for head in 0..=increments.len() {
        let plan = plan_for(&[(0, commit(head))], &held, Crossing::Incremental);
        let [Action::Publish(publish)] = &plan.actions[..] else { panic!("{:?}", plan.actions) };
        let bytes = match &publish.how {
            How::Whole(_) => whole_bytes,
            How::Increment(increment) => increments[number(increment.base)..head].iter().sum(),
        };
        sent += if head == 0 { 0 } else { bytes };
        let key = publish.planned_key().to_owned();
        let replaced: BTreeSet<_> = publish.replaced_by(&key).cloned().collect();
        held.retain(|object| !replaced.contains(&object.key));
        let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(head as u64);
        held.push(HeldObject { name: key::decode(&key).unwrap(), key, last_modified, bytes });
        most = most.max(held.len());
    }
    (sent, most)
}

fn destination(n: usize) -> Destination {
    Destination { group: format!("far/g{}", n % 100), project: format!("p{n}"), branch: "main".into() }
}

fn plan_for(heads: &[(usize, CommitId)], held: &[HeldObject], crossing: Crossing) -> Plan {
    let target = |n: usize| Target {
        source: Source { project: format!("near/p{n}"), branch: "main".into() },
        destination: destination(n),
    };
    let targets = heads.iter().map(|(n, head)| (target(*n), Head::At(*head))).collect();
    let policy = Policy {
        format: FormatChoice::Only(ArchiveFormat::Zip),
        max_retire: MaxRetire::Percent(50),
        on_rewrite: OnRewrite::Publish,
        republish: &BTreeSet::new(),
        crossing,
        max_increments: NonZeroUsize::new(MOST_OBJECTS - 1).unwrap(),
    };
    plan(&Desired { targets, refused: vec![] }, held, policy).unwrap()
}

/// C4: the far side is away for several hundred commits. Beside it, Git fetches them from the near server.
pub fn c4(_: usize) {
    away("C4, 500 commits that change one line each", |source| drop(source.commits("main", 1).unwrap()));
    // About 2.4 kB each, as the median of git/git.
    const LINES: usize = 60;
    let mut random = fastrand::Rng::with_seed(4);
    let line = |random: &mut fastrand::Rng| format!("{:016x}{:016x}\n", random.u64(..), random.u64(..));
    let mut files: Vec<Vec<String>> = (0..20).map(|_| (0..400).map(|_| line(&mut random)).collect()).collect();
    away("C4, 500 commits that change 60 lines each", move |source| {
        let at = random.usize(..files.len());
        for _ in 0..LINES {
            let changed = random.usize(..files[at].len());
            files[at][changed] = line(&mut random);
        }
        source.commit("main", &[(format!("src/{at}.txt"), files[at].concat())], "A change").unwrap();
    });
}

fn away(workload: &str, mut commit: impl FnMut(&Repo)) {
    let world = incremental().start().unwrap();
    world.destination.group("far").unwrap();
    let names = projects(&world, 1, |repo| repo.fill_incompressible(4, 5).unwrap());
    let source = world.source.repo(&names[0]).unwrap();
    // Each file is there before the far side goes away.
    (0..AWAY_COMMITS / 5).for_each(|_| commit(&source));
    let pass = || assert!(rivals::ours(&world, &[]).output().unwrap().status.success());
    pass();
    measure(&world, &far::ours(&world), &world.consumer_workdir());
    let base = source.head("main").unwrap();
    for _ in 0..AWAY_COMMITS {
        commit(&source);
        pass();
    }
    let git = thin_pack(&source, &base, &source.head("main").unwrap());
    let clone = world.scratch().unwrap().join("clone");
    copy(&world.destination.repo_path("far/p0000"), &clone);
    let fetched = measure(&world, &rivals::fetch(&world, &names[0], &clone), &clone);
    let measured = measure(&world, &far::ours(&world), &world.consumer_workdir());
    assert_eq!(world.far_head("far/p0000", "main"), source.head("main"));
    eprintln!(
        "  Git's own pack: {git} bytes; git fetch receives: {} bytes; objects in the bucket: {}; read of them: {} bytes; \
         pushed: {} bytes",
        fetched.git.1,
        world.s3().keys().len(),
        measured.s3.1,
        measured.git.1
    );
    let contestants = [("ours", measured), ("git fetch from the near server", fetched)];
    let contestants = contestants.map(|(name, measured)| (name.to_owned(), measured));
    print(workload, &BTreeMap::from(contestants));
}

/// C5: planning for 1,000 destinations with nine objects each, listing them for JSON, and both in a pass of the consumer, where all
/// is in sync; beside one object each.
pub fn c5(count: usize) {
    const DESTINATIONS: usize = 1_000;
    let commit = |n: usize| CommitId::from_bytes([u8::try_from(n).unwrap(); 20]);
    let object = |key: String, at: usize, bytes: u64| {
        let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64);
        HeldObject { name: key::decode(&key).unwrap(), key, last_modified, bytes }
    };
    let held = |increments: usize| -> Vec<HeldObject> {
        let of = |n: usize| {
            let whole = object(key::encode(&destination(n), commit(1), ArchiveFormat::Zip).unwrap(), 1, 1 << 20);
            let on_top = (1..=increments).map(move |at| {
                let key = key::encode_increment(&destination(n), commit(at), commit(at + 1)).unwrap();
                object(key, at + 1, 1_000)
            });
            std::iter::once(whole).chain(on_top)
        };
        (0..DESTINATIONS).flat_map(of).collect()
    };
    let run = |increments: usize| {
        let held = held(increments);
        let heads: Vec<_> = (0..DESTINATIONS).map(|n| (n, commit(increments + 1))).collect();
        move || {
            let begun = Instant::now();
            let plan = plan_for(&heads, &held, Crossing::Incremental);
            let wall = begun.elapsed().as_secs_f64();
            assert_eq!(plan.unchanged.len(), DESTINATIONS);
            Measured { wall, ..Measured::default() }
        }
    };
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(run(MOST_OBJECTS - 1)));
    contestants.insert("ours, one object each", Box::new(run(0)));
    print("C5, planning 1,000 destinations with nine objects", &rounds(count, &mut contestants));
    let listed = World::start().unwrap();
    for object in held(MOST_OBJECTS - 1) {
        listed.s3().put(&object.key, "x");
    }
    let few = World::start().unwrap();
    for object in held(0) {
        few.s3().put(&object.key, "x");
    }
    let list = |world: &World| {
        let mut command = world.command(rivals::PRODUCER);
        command.args(["list", "-output=json"]);
        command
    };
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| measure(&listed, &list(&listed), &listed.workdir())));
    contestants.insert("ours, one object each", Box::new(|| measure(&few, &list(&few), &few.workdir())));
    print("C5, listing 1,000 destinations with nine objects", &rounds(count, &mut contestants));
    let (nine, one) = (far::in_sync(MOST_OBJECTS - 1), far::in_sync(0));
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| far::next_pass(&nine)));
    contestants.insert("ours, one object each", Box::new(|| far::next_pass(&one)));
    print("C5, a consumer's whole pass over them", &rounds(count, &mut contestants));
}
