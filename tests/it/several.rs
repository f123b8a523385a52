//! Several producers and consumers at the same time on one bucket, with increments.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use git_partition_sync_producer::model::key::{HeldObject, decode};
use git_partition_sync_producer::plan::chain::chain;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{Daemon, Run, assert_arrived, consumer, pass, pushes, run, s3_writes, wait_until};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// How often something is pushed.
const ROUNDS: u64 = 12;

struct Sides {
    world: World,
    sources: Vec<Repo>,
    /// Where each of the sources ever was.
    ever: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Sides {
    fn start() -> Self {
        let builder = World::builder().sleep("20ms").setting("CROSSING", "incremental").setting("MAX_INCREMENTS", "2");
        let world = builder.start().unwrap();
        world.destination.group("far").unwrap();
        let source = |(name, seed): (&&str, u64)| {
            let source = world.project(&format!("near/{name}")).unwrap();
            // Large enough for increments.
            source.fill_incompressible(1, seed).unwrap();
            world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
            source
        };
        let sources = NAMES.iter().zip(1..).map(source).collect();
        let mut sides = Self { world, sources, ever: BTreeMap::new() };
        sides.note();
        sides
    }

    fn note(&mut self) {
        for (name, source) in NAMES.into_iter().zip(&self.sources) {
            self.ever.entry(name).or_default().extend(source.head("main"));
        }
    }

    /// A push to one of the branches: forward as a rule, sometimes back, sometimes another way. Returns which.
    fn push(&mut self, random: &mut fastrand::Rng) -> usize {
        let which = random.usize(..NAMES.len());
        let source = &self.sources[which];
        // It may be seen there, too.
        self.ever.entry(NAMES[which]).or_default().insert(source.git(&["rev-parse", "main~1"]).unwrap());
        match random.u8(..6) {
            0 => drop(source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap()),
            1 => {
                source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
                source.commit("main", &[("other.txt", random.u64(..).to_string())], "another way").unwrap();
            }
            _ => drop(source.commits("main", random.usize(1..4)).unwrap()),
        }
        self.note();
        which
    }

    /// Every destination that ever was in the bucket can be restored, to a commit that the source was at. So is the far branch.
    #[track_caller]
    fn check(&self, seen: &mut BTreeSet<&'static str>) {
        let objects = self.world.s3().objects().into_iter();
        let held: Vec<HeldObject> = objects
            .map(|object| {
                let name = decode(&object.key).unwrap();
                HeldObject { key: object.key, name, last_modified: object.last_modified, bytes: object.size }
            })
            .collect();
        for name in NAMES {
            let own: Vec<&HeldObject> = held.iter().filter(|object| object.name.destination.project == name).collect();
            match chain(&own) {
                Some(chain) => {
                    seen.insert(name);
                    let commit = &chain.tip().name.commit;
                    assert!(self.ever[name].contains(commit), "{name} is restored to {commit}, where it never was");
                }
                None => assert!(!seen.contains(name), "{name} cannot be restored any more: {own:?}"),
            }
            let far = self.world.far_head(&format!("far/{name}"), "main");
            assert!(far.iter().all(|commit| self.ever[name].contains(commit)), "far/{name} is at {far:?}");
        }
    }

    fn is_there(&self, which: usize) -> bool {
        self.world.far_head(&format!("far/{}", NAMES[which]), "main") == self.sources[which].head("main")
    }

    /// Two of this program, as replicas with a WORKDIR of their own.
    fn two(&self, make: impl Fn() -> Command, name: &str, shards: u32) -> [Daemon; 2] {
        [0, 1].map(|n| {
            let (mut command, name) = (make(), format!("{name}-{n}"));
            command.env("WORKDIR", self.world.scratch().unwrap().join(&name)).env("INSTANCE_SHARD", &name);
            if shards > 1 {
                command.env("SHARD_COUNT", shards.to_string()).env("SHARD_INDEX", n.to_string());
            }
            Daemon::spawn(command)
        })
    }
}

#[test]
fn two_producers_and_two_consumers_lose_nothing_whether_or_not_they_share_the_work() {
    for shards in [1, 2] {
        let mut sides = Sides::start();
        let producers = sides.two(|| crate::support::program(&sides.world, &[]), "producer", shards);
        let consumers = sides.two(|| consumer(&sides.world, &[]), "consumer", shards);
        let (mut random, mut seen) = (fastrand::Rng::with_seed(u64::from(shards)), BTreeSet::new());
        for round in 1..=ROUNDS {
            let which = sides.push(&mut random);
            sides.check(&mut seen);
            // The others come one upon the other.
            if round % 3 == 0 {
                wait_until("the far branch follows", || {
                    sides.check(&mut seen);
                    sides.is_there(which)
                });
            }
        }
        wait_until("both sides are equal", || {
            sides.check(&mut seen);
            (0..NAMES.len()).all(|which| sides.is_there(which))
        });
        let runs = producers.into_iter().chain(consumers).map(|daemon| daemon.stop().succeeded());
        let runs: Vec<Run> = runs.collect();
        if shards > 1 {
            for run in &runs {
                assert!(!run.log.contains(" ERROR "), "nobody is in anybody's way\n{}", run.log);
            }
        }
        assert!(runs.iter().any(|run| run.log.contains("crosses as an increment on")), "{}", runs[0].log);
        for (name, source) in NAMES.iter().zip(&sides.sources) {
            assert_arrived(&sides.world, &format!("far/{name}"), "main", &source.head("main").unwrap());
        }
        // One more of each has nothing left to do but to tidy up, and then nothing.
        pass(&sides.world).succeeded();
        let identity = sides.world.identity_file().to_str().unwrap();
        let restored = run(&sides.world, &["restore", "-identity", identity]).succeeded();
        assert!(restored.out.contains("4 good, 0 bad"), "{}", restored.out);
        sides.world.s3().clear_requests();
        sides.world.destination.clear_requests();
        pass(&sides.world).succeeded();
        Run::from(consumer(&sides.world, &["-run-once"]).output().unwrap()).succeeded();
        assert_eq!(s3_writes(&sides.world), [""; 0]);
        assert!(NAMES.iter().all(|name| pushes(&sides.world, &format!("far/{name}")).is_empty()));
    }
}
