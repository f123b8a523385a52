//! Both programs, one after the other, with random pushes, rewrites, retirements, kills and faults. `SEED` and `STEPS` in
//! the environment choose which and how many; the seed is printed.
//!
//! At every moment a far branch is at a commit that was published for it, with its whole history. In the end it is where the
//! near branch is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use fastrand::Rng;
use git_partition_sync_producer::model::key::decode;
use rustix::process::Signal;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::case::any;
use crate::support::{Daemon, STOP_LIMIT, consumer, keys, program, pushes, wait_until};

/// How many steps a run of all tests has time for.
const FEW_STEPS: u64 = 8;
const PROJECTS: [&str; 3] = ["a", "b", "c"];

/// The operations of each program that can go wrong, and the server they are asked of.
const OF_PRODUCER: [(Server, &str); 6] = [
    (Server::Near, "ls-refs"),
    (Server::Near, "fetch"),
    (Server::S3, "ListObjectsV2"),
    (Server::S3, "PutObject"),
    (Server::S3, "DeleteObject"),
    (Server::S3, "UploadPart"),
];
const OF_CONSUMER: [(Server, &str); 4] = [
    (Server::S3, "ListObjectsV2"),
    (Server::S3, "GetObject"),
    (Server::Far, "receive-heads"),
    (Server::Far, "receive-pack"),
];

#[derive(Debug, Clone, Copy)]
enum Server {
    Near,
    S3,
    Far,
}

/// What happens to a pass.
#[derive(Debug)]
enum Mishap {
    None,
    Fault(Server, &'static str, usize, Fault),
    /// It is killed while this request is not answered, or before the request is sent on.
    Killed(Server, &'static str, Moment),
}

struct Crossing {
    world: World,
    near: Proxy,
    s3: Proxy,
    far: Proxy,
    random: Rng,
    /// For each far branch all commits that the bucket ever held for it.
    published: BTreeMap<(String, String), BTreeSet<String>>,
    /// Where the keys are that sign, and are trusted.
    keys: PathBuf,
    crossing: &'static str,
    /// How many passes were killed; some end before they come to where that would be.
    kills: usize,
}

impl Crossing {
    fn start(seed: u64) -> Self {
        let world = World::builder()
            .setting("MAX_RETIRE", "1000000")
            .setting("IDLE_TIMEOUT", "3s")
            .consumer_setting("IDLE_TIMEOUT", "3s")
            .start()
            .unwrap();
        for (name, seed) in PROJECTS.iter().zip(1..) {
            // Large enough for increments.
            world.project(&format!("near/{name}")).unwrap().fill_incompressible(1, seed).unwrap();
        }
        world.destination.group("far").unwrap();
        let [near, s3, far] =
            [world.source.url(), world.s3().url(), world.destination.url()].map(|url| Proxy::start(&url).unwrap());
        let keys = world.scratch().unwrap().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let openssl = |arguments: &[&str]| {
            assert!(Command::new("openssl").args(arguments).current_dir(&keys).status().unwrap().success());
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "signing.pem"]);
        openssl(&["pkey", "-pubout", "-in", "signing.pem", "-out", "trusted.pem"]);
        let target = |name| SyncTarget::new(&format!("near/{name}"), "main", &format!("far/{name}"), "main");
        world.graphql.set_targets(PROJECTS.iter().map(target).collect());
        Self {
            world,
            near,
            s3,
            far,
            random: Rng::with_seed(seed),
            published: BTreeMap::new(),
            keys,
            crossing: "incremental",
            kills: 0,
        }
    }

    fn proxy(&self, server: Server) -> &Proxy {
        match server {
            Server::Near => &self.near,
            Server::S3 => &self.s3,
            Server::Far => &self.far,
        }
    }

    fn producer(&self) -> Command {
        let mut command = program(&self.world, &["-run-once"]);
        command.env("GITLAB_BASE_URL", self.near.url()).env("AWS_ENDPOINT_URL_S3", self.s3.url());
        command.env("CROSSING", self.crossing).env("MAX_INCREMENTS", "3");
        command.env("SIGNING_KEY_FILE", self.keys.join("signing.pem"));
        command
    }

    fn consumer(&self) -> Command {
        let mut command = consumer(&self.world, &["-run-once"]);
        command.env("GITLAB_BASE_URL", self.far.url()).env("AWS_ENDPOINT_URL_S3", self.s3.url());
        command.env("TRUSTED_KEYS_FILE", self.keys.join("trusted.pem"));
        command
    }

    /// Something changes on the near side.
    fn change(&mut self) -> String {
        let name = PROJECTS[self.random.usize(..PROJECTS.len())];
        let repo = self.world.source.repo(&format!("near/{name}")).unwrap();
        match self.random.u8(..10) {
            8 => {
                self.crossing = if self.crossing == "whole" { "incremental" } else { "whole" };
                format!("CROSSING={}", self.crossing)
            }
            9 if repo.git(&["rev-parse", "-q", "--verify", "main~1"]).is_ok() => {
                repo.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
                format!("{name} set back")
            }
            0 => {
                let text = self.random.u64(..).to_string();
                repo.force_root("main", &[("new", text)]).unwrap();
                format!("{name} rewritten")
            }
            1 => {
                repo.fill_incompressible(1, self.random.u64(..)).unwrap();
                format!("{name} larger")
            }
            2 => {
                let mut targets = self.world.graphql.targets();
                let (destination, count) = (format!("far/{name}"), targets.len());
                targets.retain(|target| target.destination.path() != destination);
                if targets.len() == count || targets.is_empty() {
                    targets.push(SyncTarget::new(&format!("near/{name}"), "main", &destination, "main"));
                }
                self.world.graphql.set_targets(targets);
                format!("target {name} changed")
            }
            _ => {
                repo.commits("main", self.random.usize(1..4)).unwrap();
                format!("{name} pushed")
            }
        }
    }

    fn mishap(&mut self, operations: &[(Server, &'static str)]) -> Mishap {
        let random = &mut self.random;
        let (server, operation) = operations[random.usize(..operations.len())];
        let at = if random.bool() { At::Half } else { At::PacketLine };
        let moments = [Moment::Unsent, Moment::Unanswered, Moment::Within(at), Moment::Answered];
        match random.u8(..10) {
            0..3 => Mishap::None,
            3..6 => Mishap::Killed(server, operation, moments[random.usize(..2)]),
            _ => {
                let fault = match random.u8(..6) {
                    0 => Fault::status([429, 500, 502, 503, 504][random.usize(..5)]),
                    1 => Fault::truncate(At::Half),
                    2 => Fault::Close(At::Half),
                    3 => Fault::flip_bit(random.usize(5..500)),
                    _ => Fault::Reset(moments[random.usize(..4)]),
                };
                Mishap::Fault(server, operation, random.usize(1..8), fault)
            }
        }
    }

    /// One pass with this mishap.
    fn run(&mut self, command: Command, mishap: &Mishap) {
        match mishap {
            Mishap::None => drop(Daemon::spawn(command).ends_within(STOP_LIMIT * 6)),
            Mishap::Fault(server, operation, times, fault) => {
                self.proxy(*server).on(any(operation), *times, fault.clone());
                Daemon::spawn(command).ends_within(STOP_LIMIT * 6);
            }
            Mishap::Killed(server, operation, moment) => {
                let proxy = self.proxy(*server);
                proxy.on(any(operation), ALWAYS, Fault::Hold(*moment));
                let mut run = Daemon::spawn(command);
                // The pass may have nothing to do that would bring it there, and ends by itself then.
                wait_until("the pass is under way", || proxy.held() > 0 || !run.is_running());
                if run.is_running() {
                    run.signal(Signal::KILL);
                }
                // A signal that came too late changes nothing.
                self.kills += usize::from(run.ends_within(STOP_LIMIT).status == -1);
            }
        }
        [&self.near, &self.s3, &self.far].iter().for_each(|proxy| proxy.clear());
        self.check();
    }

    /// What holds after every pass, however it ended.
    fn check(&mut self) {
        let keys = keys(&self.world);
        for key in &keys {
            let name = decode(key).unwrap();
            let branch = (name.destination.path(), name.destination.branch);
            self.published.entry(branch).or_default().insert(name.commit);
        }
        for name in PROJECTS {
            let destination = format!("far/{name}");
            let repo = self.world.destination.repo_path(&destination);
            if !repo.exists() {
                continue;
            }
            // The server notices a killed client a moment later.
            wait_until("nothing is left of pushes that were not taken", || {
                self.world.destination.quarantined(&destination).unwrap().is_empty()
            });
            let far = testbed::repo::Repo::open(&repo).unwrap();
            for (reference, commit) in far.refs().unwrap() {
                assert_eq!(reference, "refs/heads/main", "{destination}");
                let published = self.published.get(&(destination.clone(), "main".to_owned()));
                assert!(published.is_some_and(|all| all.contains(&commit)), "{destination} is at {commit}");
            }
            far.fsck().unwrap();
        }
    }

    /// Where the far branches should be: one for each target.
    fn wanted(&self) -> BTreeMap<String, Option<String>> {
        let targets = self.world.graphql.targets().into_iter();
        targets
            .map(|target| {
                let near = self.world.source.repo(&target.source.path()).unwrap();
                (target.destination.path(), near.head(&target.source.branch))
            })
            .collect()
    }
}

fn number(variable: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(variable).map_or_else(|_| default(), |text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_a_far_branch_is_where_it_was_published_and_in_the_end_where_the_near_one_is() {
    let (seed, steps) = (number("SEED", || fastrand::u64(..)), number("STEPS", || FEW_STEPS));
    println!("crossing of {steps} steps: SEED={seed} STEPS={steps}");
    let mut crossing = Crossing::start(seed);
    for step in 1..=steps {
        let changes: Vec<_> = (0..crossing.random.usize(..3)).map(|_| crossing.change()).collect();
        let (producer, consumer) = (crossing.mishap(&OF_PRODUCER), crossing.mishap(&OF_CONSUMER));
        println!("step {step:3}  {}  producer: {producer:?}  consumer: {consumer:?}", changes.join("; "));
        crossing.run(crossing.producer(), &producer);
        crossing.run(crossing.consumer(), &consumer);
    }
    println!("{} passes were killed", crossing.kills);
    // The second one retires what was renamed; an object that was damaged on its way is read again.
    for _ in 0..2 {
        crossing.run(crossing.producer(), &Mishap::None);
        crossing.run(crossing.consumer(), &Mishap::None);
    }
    let wanted = crossing.wanted();
    let far = wanted.keys().map(|path| (path.clone(), crossing.world.far_head(path, "main"))).collect();
    assert_eq!(wanted, far);
    crossing.world.destination.clear_requests();
    crossing.run(crossing.consumer(), &Mishap::None);
    for name in PROJECTS {
        assert_eq!(
            pushes(&crossing.world, &format!("far/{name}")).len(),
            0,
            "a pass with nothing to do pushes nothing"
        );
    }
}
