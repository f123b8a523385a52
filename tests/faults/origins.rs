//! Objects that the near side did not sign for their name and time, while a server on the far side's way fails, too.

use std::path::PathBuf;
use std::process::Command;

use testbed::archive::Naming;
use testbed::fault::Proxy;
use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::case::{any, side_by_side};
use crate::common::{IMPATIENT, Mishap, mishaps, needs_impatience};
use crate::support::{Run, assert_far_is_clean, consumer, keys, program, zip_key};

/// What the consumer asks for, one after the other.
const OPERATIONS: [&str; 4] = ["GetObject", "receive-pack", "ListObjectsV2", "receive-heads"];

/// The destinations whose objects are refused, and what the log says of each.
const REFUSED: [(&str, &str); 5] = [
    ("unsigned", "it is not signed, and TRUSTED_KEYS takes only what is"),
    ("other", "which is not in TRUSTED_KEYS"),
    ("moved", "its manifest is of another destination than its name says"),
    ("renamed", "its manifest is of another commit than its name says"),
    ("replayed", "an earlier object was put back into the bucket"),
];

struct Sides {
    world: World,
    /// Where the keys are.
    folder: PathBuf,
}

impl Sides {
    fn start() -> Self {
        let world = World::start().unwrap();
        world.destination.group("far").unwrap();
        world.project("near/app").unwrap();
        let target = |name| SyncTarget::new("near/app", "main", &format!("far/{name}"), "main");
        let names = REFUSED.iter().map(|(name, _)| *name).chain(["good"]);
        world.graphql.set_targets(names.map(target).collect());
        let folder = world.scratch().unwrap();
        let openssl = |arguments: &[&str]| {
            assert!(Command::new("openssl").args(arguments).current_dir(&folder).status().unwrap().success());
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "near.pem"]);
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.pem"]);
        openssl(&["pkey", "-pubout", "-in", "near.pem", "-out", "trusted.pem"]);
        Self { world, folder }
    }

    /// Everything is published with this key.
    fn publish(&self, key: &str) {
        let mut command = program(&self.world, &["-run-once", "-republish=all"]);
        command.env("SIGNING_KEY_FILE", self.folder.join(key));
        Run::from(command.output().unwrap()).succeeded();
    }

    fn consumer(&self) -> Command {
        let mut command = consumer(&self.world, &["-run-once"]);
        command.env("TRUSTED_KEYS_FILE", self.folder.join("trusted.pem"));
        command
    }

    fn deliver(&self) -> Run {
        self.consumer().output().unwrap().into()
    }

    fn far(&self, name: &str) -> Option<String> {
        self.world.far_head(&format!("far/{name}"), "main")
    }

    /// All is at the second of three commits over there. The bucket holds the third one for `good`, and the other destinations
    /// have what is to be refused. Returns the last two commits.
    fn refusing() -> (Self, String, String) {
        let sides = Self::start();
        let (world, source) = (&sides.world, sides.world.source.repo("near/app").unwrap());
        let bucket = world.bucket().unwrap();
        let key = |name: &str, commit: &str| zip_key(&format!("far/{name}"), "main", commit);
        sides.publish("near.pem");
        let first = source.head("main").unwrap();
        let replayed = bucket.get(&key("replayed", &first)).unwrap();
        sides.deliver().succeeded();
        let second = source.commits("main", 1).unwrap();
        sides.publish("near.pem");
        let renamed = bucket.get(&key("renamed", &second)).unwrap();
        sides.deliver().succeeded();
        let third = source.commits("main", 1).unwrap();
        sides.publish("other.pem");
        let other = bucket.get(&key("other", &third)).unwrap();
        sides.publish("near.pem");
        let good = bucket.get(&key("good", &third)).unwrap();
        let is_good = |held: &String| *held == key("good", &third);
        keys(world).iter().filter(|held| !is_good(held)).for_each(|held| bucket.delete(held).unwrap());
        world.put_head(&source, "main", "far/unsigned", "main", Naming::Zip).unwrap();
        bucket.put(&key("other", &third), other).unwrap();
        bucket.put(&key("moved", &third), good).unwrap();
        bucket.put(&key("renamed", &third), renamed).unwrap();
        bucket.put(&key("replayed", &first), replayed).unwrap();
        (sides, second, third)
    }

    #[track_caller]
    fn assert_unmoved(&self, before: &str, run: &Run) {
        for (name, _) in REFUSED {
            assert_eq!(self.far(name).as_deref(), Some(before), "far/{name}\n{}", run.log);
        }
    }

    fn run(operation: &'static str, Mishap { fault, times, .. }: Mishap) {
        let (sides, before, next) = Self::refusing();
        let s3 = Proxy::start(&sides.world.s3().url()).unwrap();
        let far = Proxy::start(&sides.world.destination.url()).unwrap();
        let mut command = sides.consumer();
        command.env("AWS_ENDPOINT_URL_S3", s3.url()).env("GITLAB_BASE_URL", far.url());
        if needs_impatience(&fault) {
            command.envs(IMPATIENT);
        }
        [&s3, &far].iter().for_each(|proxy| proxy.on(any(operation), times, fault.clone()));
        let disturbed = Run::from(command.output().unwrap()).failed();
        assert!(s3.hits() + far.hits() > 0, "the fault took place\n{}", disturbed.log);
        sides.assert_unmoved(&before, &disturbed);

        let run = sides.deliver().failed();
        sides.assert_unmoved(&before, &run);
        assert_eq!(sides.far("good").as_deref(), Some(next.as_str()), "{}\n{}", disturbed.log, run.log);
        for (name, words) in REFUSED {
            let lines = [
                run.lines_with(&format!("failed: far/{name}@main")),
                run.lines_with(&format!("blocked: far/{name}@main")),
            ];
            let lines = lines.concat();
            let says = |text: &str| lines.iter().all(|line| line.contains(text));
            assert!(lines.len() == 1 && says(words) && says("advice=\""), "{name}: {lines:?}\n{}", run.log);
            assert_far_is_clean(&sides.world, &format!("far/{name}"));
        }
        // The near side does what it is told.
        sides.publish("near.pem");
        let healed = sides.deliver().succeeded();
        for (name, _) in REFUSED {
            assert_eq!(sides.far(name).as_deref(), Some(next.as_str()), "far/{name}\n{}", healed.log);
        }
    }
}

#[test]
fn what_is_refused_for_its_origin_is_refused_whatever_else_fails_and_others_are_served() {
    let work = mishaps().into_iter().zip(OPERATIONS.into_iter().cycle());
    let work = work
        .map(|(mishap, operation)| (format!("{operation}: {}", mishap.name), move || Sides::run(operation, mishap)));
    side_by_side(work.collect());
}
