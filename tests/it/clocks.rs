//! Clocks that are wrong: what was published at a wrong time may be refused, but every refusal says how to go on, and that
//! helps.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use testbed::archive::Naming;
use testbed::fault::{ALWAYS, Fault, Moment, Proxy, Seen};
use testbed::repo::Repo;
use testbed::world::World;

use crate::signatures::{Signer, signed_pass, trusting, zipped};
use crate::support::{
    Daemon, Run, STOP_LIMIT, assert_arrived, consumer, deliver, keys, pass, program, wait_until, zip_key,
};

const HOUR: Duration = Duration::from_secs(3_600);

struct Sides {
    world: World,
    signer: Signer,
    source: Repo,
}

impl Sides {
    /// A signed commit is on the far side.
    fn start() -> Self {
        let world = World::builder().setting("CROSSING", "incremental").start().unwrap();
        world.destination.group("far").unwrap();
        let source = world.project("near/app").unwrap();
        source.fill_incompressible(1, 7).unwrap();
        world.sync("near/app", "main", "far/app", "main").unwrap();
        let signer = Signer::new(&world, "near");
        let sides = Self { world, signer, source };
        sides.publish();
        sides.deliver().succeeded();
        sides
    }

    fn publish(&self) {
        signed_pass(&self.world, &self.signer);
    }

    /// The same, asked for.
    fn publish_again(&self) {
        let mut producer = program(&self.world, &["-run-once"]);
        producer.env("SIGNING_KEY_FILE", self.signer.file()).env("REPUBLISH", "all");
        Run::from(producer.output().unwrap()).succeeded();
    }

    fn deliver(&self) -> Run {
        trusting(&self.world, &self.signer.public_key())
    }

    /// A new commit is published by a clock that is ahead by this: a producer publishes later than what it lists.
    fn publish_ahead(&self, by: Duration) {
        self.source.commits("main", 1).unwrap();
        self.written(SystemTime::now() + by);
        self.publish();
        self.written(SystemTime::now());
    }

    /// S3 lists that everything was written then.
    fn written(&self, at: SystemTime) {
        for key in keys(&self.world) {
            self.world.s3().set_last_modified(&key, at).unwrap();
        }
    }

    #[track_caller]
    fn assert_there(&self) {
        assert_arrived(&self.world, "far/app", "main", &self.source.head("main").unwrap());
    }
}

/// The clock of a producer is a year ahead.
#[test]
fn what_was_published_in_the_far_future_is_refused_and_locks_nothing() {
    let sides = Sides::start();
    let (world, before) = (&sides.world, sides.source.head("main").unwrap());
    let commit = sides.source.commits("main", 1).unwrap();
    let key = zip_key("far/app", "main", &commit);
    // As an increment, and whole.
    sides.publish();
    sides.publish_again();
    let folder = world.unpack(&key).unwrap();
    let place = folder.join(".git/git-partition-sync");
    let (json, signature) = (place.join("manifest.json"), place.join("manifest.sig"));
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let ahead = jiff::Timestamp::try_from(SystemTime::now() + 365 * 24 * HOUR).unwrap();
    let published = manifest["published"].as_str().unwrap();
    let text = fs::read_to_string(&json).unwrap().replace(published, &format!("{ahead:.3}"));
    fs::write(&json, &text).unwrap();
    let id = fs::read(&signature).unwrap()[..8].to_vec();
    fs::write(&signature, [id, sides.signer.sign(text.as_bytes())].concat()).unwrap();
    world.put_object("far/app", "main", &commit, Naming::Zip, &zipped(&folder)).unwrap();

    // To a branch that is there, and to a new one.
    let refused = || sides.deliver().failed().logged("which lies in the future").logged("correct that clock");
    refused().logged("failed: far/app@main").logged("REPUBLISH");
    assert_arrived(world, "far/app", "main", &before);
    world.destination.repo("far/app").unwrap().delete_branch("main").unwrap();
    refused();
    assert_eq!(world.far_head("far/app", "main"), None);
    // The clock is right again, and the near side does what it was told.
    sides.publish_again();
    sides.deliver().succeeded();
    sides.assert_there();
    sides.source.commits("main", 1).unwrap();
    sides.publish();
    sides.deliver().succeeded();
    sides.assert_there();
}

#[test]
fn a_clock_that_was_set_back_costs_no_more_than_it_was_ahead() {
    let sides = Sides::start();
    sides.publish_ahead(2 * HOUR);
    sides.deliver().succeeded();
    sides.assert_there();
    let ahead = SystemTime::now() + 2 * HOUR;
    let before = sides.source.head("main").unwrap();
    sides.publish_ahead(Duration::ZERO);
    let refused = sides.deliver().failed().logged("the producer's clock was set back").logged("with REPUBLISH");
    assert_arrived(&sides.world, "far/app", "main", &before);
    // It says from when on that helps.
    let (_, from) = refused.log.split_once("REPUBLISH on the near side after ").unwrap();
    let from: jiff::Timestamp = from.split_inclusive('Z').next().unwrap().parse().unwrap();
    let from = SystemTime::from(from);
    assert!(from <= ahead && from + HOUR > ahead, "{from:?} and {ahead:?}");
    sides.written(from);
    sides.publish_again();
    sides.deliver().succeeded();
    sides.assert_there();
}

/// Without a record, a replacement has to be published after the record began: also if each pass is a process of its own.
#[test]
fn a_lost_record_begins_once() {
    let sides = Sides::start();
    // Somebody pushed over there, and the far side lost its disk.
    let far = sides.world.destination.repo("far/app").unwrap();
    far.force_root("main", &[("other.txt", "pushed over there\n")]).unwrap();
    fs::remove_dir_all(sides.world.consumer_workdir()).unwrap();
    for _ in 0..2 {
        sides.deliver().failed().logged("with REPUBLISH");
    }
    sides.publish_again();
    sides.deliver().succeeded().logged("replaced: far/app@main");
    sides.assert_there();
}

/// An increment is on top of what replaces the branch: only the whole history below it says what it replaces.
#[test]
fn without_a_record_a_chain_replaces_the_commit_that_its_whole_history_names() {
    let sides = Sides::start();
    let (world, source) = (&sides.world, &sides.source);
    source.commits("main", 1).unwrap();
    sides.publish();
    sides.deliver().succeeded();
    source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
    source.commit("main", &[("other.txt", "another way\n")], "another").unwrap();
    sides.publish();
    source.commits("main", 1).unwrap();
    sides.publish();
    assert!(keys(world).iter().any(|key| key.ends_with(".inc.age")));
    fs::remove_dir_all(world.consumer_workdir()).unwrap();
    sides.deliver().succeeded().logged("replaced: far/app@main");
    sides.assert_there();
}

/// Somebody pushes over what was delivered. The object that is there already brings it back, or the branch is held.
#[test]
fn a_push_on_the_far_side_is_replaced_by_what_was_taken_last() {
    let sides = Sides::start();
    let far = sides.world.destination.repo("far/app").unwrap();
    far.force_root("main", &[("other.txt", "pushed over there\n")]).unwrap();
    let mut command = consumer(&sides.world, &["-run-once", "-on-rewrite=hold"]);
    command.env("TRUSTED_KEYS", sides.signer.public_key());
    Daemon::spawn(command).ends_within(STOP_LIMIT).failed().logged("held: far/app@main");
    sides.deliver().succeeded().logged("replaced: far/app@main");
    sides.assert_there();
}

/// A pass with many deliveries may take hours, and the process may be killed.
#[test]
fn what_was_taken_is_known_after_a_kill_in_the_middle_of_a_pass() {
    assert_known_after_a_kill("far/slow", Moment::Unsent);
}

/// It may also be killed before it knows what became of its push.
#[test]
fn what_was_pushed_is_known_after_a_kill_before_the_answer() {
    assert_known_after_a_kill("far/app", Moment::Unanswered);
}

/// What a consumer that was killed has pushed is not turned back. Its push to this project hangs at this moment.
fn assert_known_after_a_kill(hangs: &'static str, moment: Moment) {
    let sides = Sides::start();
    let (world, source) = (&sides.world, &sides.source);
    let bucket = world.bucket().unwrap();
    let retracted = source.commits("main", 1).unwrap();
    sides.publish();
    let mut old: Vec<_> = keys(world).into_iter().map(|key| (key.clone(), bucket.get(&key).unwrap())).collect();
    // An increment counts if it is not older than the whole object.
    old.sort_by_key(|(key, _)| key.ends_with(".inc.age"));
    // The commit is taken back. What replaces it is delivered, while another delivery of the pass hangs.
    source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
    assert_ne!(source.commit("main", &[("other.txt", "another way\n")], "another").unwrap(), retracted);
    world.project("near/slow").unwrap();
    world.sync("near/slow", "main", "far/slow", "main").unwrap();
    sides.publish();
    let proxy = Proxy::start(&world.destination.url()).unwrap();
    let is_slow = move |seen: &Seen| seen.operation() == "receive-pack" && seen.path.contains(hangs);
    proxy.on(is_slow, ALWAYS, Fault::Hold(moment));
    let mut command = consumer(world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", proxy.url()).env("TRUSTED_KEYS", sides.signer.public_key());
    let daemon = Daemon::spawn(command);
    let head = source.head("main");
    wait_until("the branch is there", || world.far_head("far/app", "main") == head);
    wait_until("a push hangs", || proxy.held() > 0);
    daemon.signal(Signal::KILL);
    daemon.ends_within(STOP_LIMIT);
    sides.assert_there();
    // Who can write to the bucket puts the retracted commit there again.
    keys(world).iter().for_each(|key| bucket.delete(key).unwrap());
    old.iter().for_each(|(key, object)| bucket.put(key, object.clone()).unwrap());
    sides.deliver().failed().logged("an earlier object was put back into the bucket");
    sides.assert_there();
}

/// Then increments are older than what they are on top of, and would not count.
#[test]
fn a_clock_of_s3_that_was_set_back_keeps_no_commit_from_crossing() {
    for (ahead, is_signed) in [(HOUR, false), (365 * 24 * HOUR, true)] {
        let sides = Sides::start();
        sides.written(SystemTime::now() + ahead);
        for _ in 0..2 {
            sides.source.commits("main", 1).unwrap();
            if is_signed {
                [(); 2].iter().for_each(|()| sides.publish());
                sides.deliver().succeeded();
            } else {
                [(); 2].iter().for_each(|()| drop(pass(&sides.world).succeeded()));
                deliver(&sides.world).succeeded();
            }
            sides.assert_there();
        }
        assert!(keys(&sides.world).iter().any(|key| key.ends_with(".inc.age")), "increments go on from there");
    }
}

/// The base of the retracted commit is where the far branch is.
#[test]
fn an_increment_that_was_retracted_is_refused_on_top_of_what_is_current() {
    let sides = Sides::start();
    let (world, source, bucket) = (&sides.world, &sides.source, sides.world.bucket().unwrap());
    let kept = source.head("main").unwrap();
    sides.publish_ahead(HOUR / 6);
    sides.deliver().succeeded();
    let retracted: Vec<_> = keys(world).into_iter().filter(|key| key.ends_with(".inc.age")).collect();
    let retracted: Vec<_> = retracted.iter().map(|key| (key, bucket.get(key).unwrap())).collect();
    assert_eq!(retracted.len(), 1);
    source.git(&["update-ref", "refs/heads/main", &kept]).unwrap();
    sides.written(SystemTime::now() + HOUR / 2);
    sides.publish();
    sides.written(SystemTime::now());
    sides.deliver().succeeded();
    assert_arrived(world, "far/app", "main", &kept);
    retracted.iter().for_each(|(key, object)| bucket.put(key, object.clone()).unwrap());
    sides.deliver().failed().logged("an earlier object was put back into the bucket");
    assert_arrived(world, "far/app", "main", &kept);
}
