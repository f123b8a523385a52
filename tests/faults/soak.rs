//! Many passes of one process with random pushes, target changes and faults. `SEED` and `PASSES` in the environment
//! choose which and how many; the seed is printed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::case::any;
use crate::invariants::{self, Ledger};
use crate::support::{Daemon, Run, STOP_LIMIT, program, s3_writes, wait_until, workdir_files};

/// How many passes a run of all tests has time for.
const FEW_PASSES: u64 = 12;
/// After this many passes one goes undisturbed, and must put everything right.
const CALM_EVERY: u64 = 6;
/// A process at work does not grow: what it has in the last third of its passes may be this much more than in the third
/// before. Caches of libraries and the allocator's habits take some.
const MEMORY_SLACK_KIB: u64 = 24 << 10;
const DESCRIPTOR_SLACK: u64 = 12;
/// The budget for mirrors; what they have besides packs comes on top.
const MIRROR_BYTES: u64 = 48 << 20;
const DISK_SLACK_BYTES: u64 = 2 << 20;

const PROJECTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the process takes at the end of a pass.
#[derive(Debug, Clone, Copy)]
struct Usage {
    memory_kib: u64,
    descriptors: u64,
    disk_bytes: u64,
}

impl Usage {
    fn of(world: &World, daemon: &Daemon) -> Self {
        let process = format!("/proc/{}", daemon.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let disk = workdir_files(world).into_iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len());
        Self {
            memory_kib: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: fs::read_dir(format!("{process}/fd")).unwrap().count() as u64,
            disk_bytes: disk.sum(),
        }
    }
}

/// A world in which much happens. A pass begins with the request for the target list, and each such request is held:
/// the world stands still while it is looked at.
struct Soak {
    world: World,
    graphql: Proxy,
    git: Proxy,
    s3: Proxy,
    daemon: Option<Daemon>,
    ledger: Ledger,
    before: BTreeSet<(String, String)>,
    random: Rng,
    /// How much of the process's log has been looked at.
    looked_at: usize,
}

impl Soak {
    fn start(seed: u64) -> Self {
        let cache = MIRROR_BYTES.to_string();
        let world = World::builder()
            .setting("RECONCILE_SLEEP_TIME", "10ms")
            .setting("IDLE_TIMEOUT", "3s")
            .setting("TARGET_TIMEOUT", "30s")
            .setting("MIRROR_CACHE_BYTES", &cache)
            // The targets change more often here than the budget of a day allows.
            .setting("MAX_RETIRE", "1000000")
            .start()
            .unwrap();
        for name in PROJECTS {
            world.project(&format!("near/{name}")).unwrap();
        }
        let proxies = [world.graphql.url(), world.source.url(), world.s3().url()];
        let [graphql, git, s3] = proxies.map(|url| Proxy::start(&url).unwrap());
        graphql.on(any("query"), ALWAYS, Fault::Hold(Moment::Unsent));
        let (ledger, random) = (Ledger::default(), Rng::with_seed(seed));
        let mut soak =
            Self { world, graphql, git, s3, daemon: None, ledger, before: BTreeSet::new(), random, looked_at: 0 };
        soak.spawn();
        soak
    }

    fn spawn(&mut self) {
        let mut command = program(&self.world, &[]);
        command
            .env("GRAPHQL_SERVER", format!("{}/graphql", self.graphql.url()))
            .env("GITLAB_BASE_URL", self.git.url())
            .env("AWS_ENDPOINT_URL_S3", self.s3.url());
        self.daemon = Some(Daemon::spawn(command));
        self.looked_at = 0;
        self.wait();
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a process is at work")
    }

    /// What was logged since the last look.
    fn news(&mut self) -> Run {
        let log = self.daemon().log();
        let run = Run { status: 0, out: String::new(), log: log[self.looked_at..].to_owned() };
        self.looked_at = log.len();
        run
    }

    /// Waits for the next pass to begin.
    fn wait(&self) {
        wait_until("a pass begins", || self.graphql.held() == 1);
    }

    /// Lets a pass go on, and those after it that fail to list the bucket: they end before their target list is had.
    /// The first `faults` requests for the target list fail.
    fn go(&self, faults: usize) {
        self.graphql.forget();
        if faults > 0 {
            self.graphql.on(any("query"), faults, Fault::status(502));
        }
        // All attempts may have failed by then, and the next request is of the next pass.
        let passes = usize::from(faults < 5);
        self.graphql.on_later(passes, any("query"), ALWAYS, Fault::Hold(Moment::Unsent));
        self.graphql.release();
        wait_until("the pass is over", || ends_of_passes(&self.daemon().log()[self.looked_at..]) > 0);
        self.wait();
    }

    #[track_caller]
    fn check(&mut self) -> Run {
        let run = self.news();
        invariants::check(&self.world, &mut self.ledger, &self.before, &run);
        self.before = invariants::held(&self.world);
        run
    }

    /// A pass in which nothing goes wrong puts everything right, and the next one has nothing to do.
    #[track_caller]
    fn calm(&mut self) {
        // The bucket is listed while the request for the target list is held: what went wrong may reach that far.
        self.go(0);
        self.check();
        self.go(0);
        let run = self.check();
        invariants::check_converged(&self.world, &run);
        self.world.s3().clear_requests();
        self.go(0);
        let quiet = self.check();
        assert_eq!(s3_writes(&self.world), [""; 0], "the second pass is quiet\n{}", quiet.log);
        assert_eq!(quiet.log.lines().count(), 1, "a quiet pass is one line:\n{}", quiet.log);
    }

    fn push(&mut self) -> String {
        let name = PROJECTS[self.random.usize(..PROJECTS.len())];
        let repo = self.world.source.repo(&format!("near/{name}")).unwrap();
        let what = match self.random.u8(..8) {
            0 => {
                let text = self.random.u64(..).to_string();
                repo.force_root("main", &[("new", text)]).unwrap();
                "rewritten"
            }
            1 => {
                repo.fill_incompressible(9, self.random.u64(..)).unwrap();
                "larger"
            }
            _ => {
                repo.commits("main", self.random.usize(1..4)).unwrap();
                "pushed"
            }
        };
        format!("{name} {what}")
    }

    /// Adds or removes a target; one destination at least stays.
    fn change_targets(&mut self) -> String {
        let mut targets = self.world.graphql.targets();
        let name = PROJECTS[self.random.usize(..PROJECTS.len())];
        let number = self.random.u8(..2);
        let target = SyncTarget::new(&format!("near/{name}"), "main", &format!("far/{name}"), &format!("b{number}"));
        let count = targets.len();
        targets.retain(|existing| *existing != target);
        let added = targets.len() == count || targets.is_empty();
        if added {
            targets.push(target);
        }
        self.world.graphql.set_targets(targets);
        format!("target far/{name}@b{number} {}", if added { "wanted" } else { "not wanted" })
    }

    /// Something that goes wrong with Git or S3 in the next pass.
    fn disturb(&mut self) -> String {
        let random = &mut self.random;
        let times = random.usize(1..8);
        let skip = [0, 0, 0, 1, 2][random.usize(..5)];
        let at = if random.bool() { At::Half } else { At::PacketLine };
        let moment = [Moment::Unsent, Moment::Unanswered, Moment::Within(at), Moment::Answered][random.usize(..4)];
        let status = [429, 500, 502, 503, 504][random.usize(..5)];
        if random.bool() {
            let operation = ["ls-refs", "fetch"][random.usize(..2)];
            let fault = match random.u8(..7) {
                0 => Fault::status(status),
                1 => Fault::truncate(at),
                2 => Fault::Close(at),
                3 => Fault::flip_bit(random.usize(5..500)),
                4 => Fault::Trickle { pieces: 5, pause: Duration::from_millis(20) },
                _ => Fault::Reset(moment),
            };
            let what = format!("{operation}: after {skip}, {times} x {fault:?}");
            self.git.on_later(skip, any(operation), times, fault);
            what
        } else {
            let operation = [
                "ListObjectsV2",
                "PutObject",
                "UploadPart",
                "CompleteMultipartUpload",
                "DeleteObject",
                "CreateMultipartUpload",
            ][random.usize(..6)];
            let fault = match random.u8(..7) {
                0 => Fault::status(status),
                1 => Fault::s3_error(503, "SlowDown"),
                2 => Fault::s3_error(403, "AccessDenied"),
                3 => Fault::truncate(At::Half),
                4 => Fault::Close(At::Half),
                // An upload whose beginning nobody heard of stays until the time limit: another test's matter.
                _ if operation == "CreateMultipartUpload" => Fault::Reset(Moment::Unsent),
                _ => Fault::Reset(moment),
            };
            let fault = match fault {
                Fault::Alter(_) | Fault::Close(_) if operation == "CreateMultipartUpload" => Fault::status(status),
                other => other,
            };
            let what = format!("{operation}: after {skip}, {times} x {fault:?}");
            self.s3.on_later(skip, any(operation), times, fault);
            what
        }
    }

    /// Ends the process in the middle of a pass, and starts another.
    fn restart(&mut self) -> String {
        self.push();
        self.ledger.note(&self.world);
        let operation = ["fetch", "PutObject", "DeleteObject"][self.random.usize(..3)];
        let proxy = if operation == "fetch" { &self.git } else { &self.s3 };
        proxy.on(any(operation), ALWAYS, Fault::Hold(Moment::Unanswered));
        self.graphql.clear();
        // The pass may have nothing to do that would bring it there, and is over then.
        let reached = || proxy.held() > 0 || self.daemon().log()[self.looked_at..].contains("pass ");
        wait_until("the pass is under way", reached);
        let signal = if self.random.bool() { Signal::KILL } else { Signal::TERM };
        self.daemon().signal(signal);
        let run = self.daemon.take().expect("a process is at work").ends_within(STOP_LIMIT);
        invariants::check(&self.world, &mut self.ledger, &self.before, &run);
        self.before = invariants::held(&self.world);
        self.git.clear();
        self.s3.clear();
        self.graphql.on(any("query"), ALWAYS, Fault::Hold(Moment::Unsent));
        self.spawn();
        format!("{} at {operation}", if signal == Signal::KILL { "killed" } else { "stopped" })
    }
}

fn ends_of_passes(log: &str) -> usize {
    log.matches("pass done").count() + log.matches("the pass failed").count()
}

fn number(variable: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(variable).map_or_else(|_| default(), |text| text.parse().expect("a number"))
}

#[test]
fn a_process_that_is_never_left_alone_stays_sound_and_does_not_grow() {
    let seed = number("SEED", || fastrand::u64(..));
    let passes = number("PASSES", || FEW_PASSES);
    println!("soak of {passes} passes: make soak SEED={seed} PASSES={passes}");
    let mut soak = Soak::start(seed);
    let first = |name| SyncTarget::new(&format!("near/{name}"), "main", &format!("far/{name}"), "b0");
    soak.world.graphql.set_targets(PROJECTS.iter().map(first).collect());
    soak.ledger.note(&soak.world);
    soak.calm();

    let mut usage = vec![];
    for pass in 1..=passes {
        let mut happened = vec![];
        for _ in 0..soak.random.usize(..3) {
            happened.push(soak.push());
        }
        if soak.random.u8(..3) == 0 {
            happened.push(soak.change_targets());
        }
        soak.ledger.note(&soak.world);
        // Later a process that is new would hide how much the one before it had grown.
        if pass <= passes / 3 && soak.random.u8(..6) == 0 {
            happened.push(soak.restart());
        } else if pass % CALM_EVERY == 0 {
            happened.push("calm".to_owned());
            soak.calm();
        } else {
            for _ in 0..soak.random.usize(..3) {
                happened.push(soak.disturb());
            }
            let refused = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3, 5][soak.random.usize(..12)];
            if refused > 0 {
                happened.push(format!("query: {refused} x 502"));
            }
            soak.go(refused);
            soak.check();
            soak.git.clear();
            soak.s3.clear();
        }
        let now = Usage::of(&soak.world, soak.daemon());
        println!(
            "pass {pass:4}  {:6} KiB  {:3} descriptors  {:6} KiB under WORKDIR  {:2} objects  {}",
            now.memory_kib,
            now.descriptors,
            now.disk_bytes >> 10,
            soak.before.len(),
            happened.join("; ")
        );
        usage.push(now);
    }
    soak.calm();
    assert_flat(&usage);
    soak.graphql.clear();
    soak.daemon.take().expect("a process is at work").stop().succeeded();
}

/// What the process takes does not grow from the middle third of its passes to the last.
#[track_caller]
fn assert_flat(usage: &[Usage]) {
    let third = usage.len() / 3;
    let (middle, last) = (&usage[third..usage.len() - third], &usage[usage.len() - third..]);
    let mean = |usage: &[Usage], of: fn(&Usage) -> u64| usage.iter().map(of).sum::<u64>() / usage.len().max(1) as u64;
    for (what, of, slack) in [
        ("KiB of memory", (|usage| usage.memory_kib) as fn(&Usage) -> u64, MEMORY_SLACK_KIB),
        ("descriptors", |usage| usage.descriptors, DESCRIPTOR_SLACK),
    ] {
        let (before, after) = (mean(middle, of), mean(last, of));
        println!("{what}: {before} in the middle third, {after} in the last");
        assert!(after <= before + slack, "it grows: {before} {what}, then {after}");
    }
    let most = usage.iter().map(|usage| usage.disk_bytes).max().unwrap_or_default();
    println!("at most {} KiB under WORKDIR", most >> 10);
    assert!(most <= MIRROR_BYTES + DISK_SLACK_BYTES, "{most} bytes under WORKDIR");
}
