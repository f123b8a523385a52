//! Several replicas that share one bucket: together they do exactly what one does, whichever of them is at work.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use git_partition_sync_producer::model::key::Destination;
use git_partition_sync_producer::model::shard::owner;
use serde_json::Value;
use testbed::world::World;

use crate::support::{Daemon, Run, count, keys, program, tar_key, wait_until, zip_key};

/// The commit of objects that no target leads to.
const OLD: &str = "00000000000000000000000000000000000000aa";

/// Shard `index` of `count`, with a WORKDIR of its own.
fn shard(world: &World, index: u32, count: u32, arguments: &[&str]) -> Command {
    let mut command = program(world, arguments);
    command.env("SHARD_COUNT", count.to_string()).env("SHARD_INDEX", index.to_string());
    command.env("WORKDIR", workdir(world, index, count));
    command
}

fn workdir(world: &World, index: u32, count: u32) -> PathBuf {
    world.workdir().join(format!("{index}-of-{count}"))
}

#[track_caller]
fn pass(world: &World, index: u32, count: u32) -> Run {
    shard(world, index, count, &["-run-once"]).output().expect("the program starts").into()
}

fn plan(world: &World, arguments: &[&str]) -> Value {
    let mut command = program(world, &["-dry-run", "-run-once", "-output=json"]);
    Run::from(command.args(arguments).output().expect("the program starts")).json()
}

fn owner_of(destination: &str, count: u32) -> u32 {
    let (group, project) = destination.rsplit_once('/').expect("group/project");
    let destination = Destination { group: group.into(), project: project.into(), branch: "main".into() };
    owner(&destination, NonZeroU32::new(count).expect("at least one shard"))
}

/// The first `far/<name><n>` that this shard owns.
fn owned_by(index: u32, count: u32, name: &str) -> String {
    (0..).map(|n| format!("far/{name}{n}")).find(|path| owner_of(path, count) == index).expect("every shard owns some")
}

/// A world with something of everything: new, changed, unchanged, outdated, unwanted, refused, unreadable, foreign.
fn busy_world() -> World {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let at = SystemTime::now() - Duration::from_secs(3_600);
    for n in 0..18 {
        let (near, far) = (format!("near/p{n}"), format!("far/p{n}"));
        let head = world.project(&near).unwrap().head("main").unwrap();
        world.sync(&near, "main", &far, "main").unwrap();
        match n % 3 {
            0 => {}
            1 => world.s3().put_at(&zip_key(&far, "main", OLD), "outdated", at),
            _ => {
                world.s3().put_at(&zip_key(&far, "main", OLD), "left behind", at);
                world.s3().put(&zip_key(&far, "main", &head), "current");
            }
        }
        world.s3().put(&zip_key(&format!("far/gone{n}"), "main", OLD), "unwanted");
    }
    for n in 0..4 {
        world.sync("near/p0", "ma..in", &format!("far/refused{n}"), "main").unwrap();
        world.sync("near/nowhere", "main", &format!("far/unreadable{n}"), "main").unwrap();
    }
    world.s3().put("README.md", "foreign");
    world
}

/// A list of a plan, without regard to order.
fn entries<'a>(plans: impl IntoIterator<Item = &'a Value>, list: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in plans.into_iter().flat_map(|plan| plan[list].as_array().expect("a list")) {
        assert!(all.insert(entry.to_string()), "two shards would do it: {entry:#}");
    }
    all
}

#[test]
fn shares_of_a_plan_make_up_the_whole_plan() {
    let world = busy_world();
    let whole = plan(&world, &[]);
    for count in [2, 3, 5] {
        let shares: Vec<_> = (0..count)
            .map(|index| plan(&world, &[&format!("-shard-count={count}"), &format!("-shard-index={index}")]))
            .collect();
        for list in ["publish", "retire", "sweep", "blocked"] {
            assert!(!entries([&whole], list).is_empty(), "nothing to {list}");
            assert_eq!(entries(&shares, list), entries([&whole], list), "{list}, {count} shards");
        }
        for number in ["unchanged", "foreign"] {
            let sum: u64 = shares.iter().map(|share| share[number].as_u64().expect("a number")).sum();
            assert_eq!(Some(sum), whole[number].as_u64(), "{number}, {count} shards");
        }
    }
}

#[test]
fn shards_at_work_together_do_each_thing_once() {
    let world = busy_world();
    let whole = plan(&world, &[]);
    let mut wanted: Vec<_> = (0..18)
        .map(|n| {
            zip_key(&format!("far/p{n}"), "main", &world.project(&format!("near/p{n}")).unwrap().head("main").unwrap())
        })
        .collect();
    wanted.push("README.md".to_owned());
    wanted.sort();
    world.s3().clear_requests();
    thread::scope(|scope| {
        for index in 0..3 {
            let mut command = shard(&world, index, 3, &["-run-once"]);
            scope.spawn(move || Run::from(command.output().expect("the program starts")).failed());
        }
    });
    assert_eq!(keys(&world), wanted);
    let requests = world.s3().requests();
    assert_eq!(count(&requests, "PutObject"), entries([&whole], "publish").len());
    assert_eq!(count(&requests, "DeleteObject"), 12 + 18, "outdated ones and unwanted ones, each once");
}

#[test]
fn shard_asks_gitlab_for_its_own_projects_only() {
    let world = World::start().unwrap();
    for index in 0..2 {
        let far = owned_by(index, 2, "p");
        let near = far.replace("far/", "near/");
        world.project(&near).unwrap();
        world.sync(&near, "main", &far, "main").unwrap();
    }
    pass(&world, 1, 2).succeeded().logged("published=1");
    let own = owned_by(1, 2, "p").replace("far/", "/near/");
    let requests = world.source.requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.path.starts_with(&own)), "{requests:#?}");
}

#[test]
fn format_is_judged_over_the_whole_bucket() {
    let world = World::start().unwrap();
    let head = world.project("near/p").unwrap().head("main").unwrap();
    let (mine, theirs) = (owned_by(0, 2, "p"), owned_by(1, 2, "p"));
    world.sync("near/p", "main", &mine, "main").unwrap();
    world.sync("near/p", "main", &theirs, "main").unwrap();
    world.s3().put(&tar_key(&theirs, "main", &head), "by another producer");
    pass(&world, 0, 2).succeeded().logged("published=1");
    assert!(keys(&world).contains(&tar_key(&mine, "main", &head)));

    world.s3().put(&zip_key(&owned_by(1, 2, "gone"), "main", OLD), "in the other format");
    for index in 0..2 {
        pass(&world, index, 2).failed().logged("ARCHIVE_FORMAT");
    }
}

#[test]
fn retire_guard_counts_what_a_shard_holds() {
    let world = World::start().unwrap();
    let head = world.project("near/p").unwrap().head("main").unwrap();
    // All that the first shard holds is unwanted, and nothing of the second's is.
    for n in 0..3 {
        world.s3().put(&zip_key(&owned_by(0, 2, &format!("gone{n}-")), "main", OLD), "unwanted");
        let stays = owned_by(1, 2, &format!("stays{n}-"));
        world.sync("near/p", "main", &stays, "main").unwrap();
        world.s3().put(&zip_key(&stays, "main", &head), "current");
    }
    pass(&world, 0, 2).failed().logged("3 of the 3 destinations held are no longer wanted and MAX_RETIRE allows 1");
    pass(&world, 1, 2).succeeded().logged("unchanged=3");
    assert_eq!(keys(&world).len(), 6);
}

#[test]
fn rivals_in_different_case_are_refused_by_the_shards_of_both() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    let name = (0..)
        .map(|n| format!("twin{n}"))
        .find(|name| [owner_of(&format!("far/{name}"), 2), owner_of(&format!("FAR/{name}"), 2)] == [0, 1]);
    let twins = ["far", "FAR"].map(|group| format!("{group}/{}", name.as_deref().unwrap()));
    for twin in &twins {
        world.sync("near/p", "main", twin, "main").unwrap();
        world.s3().put(&zip_key(twin, "main", OLD), "older");
    }
    let before = keys(&world);
    for (index, twin) in (0..).zip(&twins) {
        let run = pass(&world, index, 2).failed();
        assert_eq!(run.lines_with("blocked: ").len(), 1, "{}", run.log);
        assert!(run.log.contains(&format!("blocked: {twin}@main")), "{}", run.log);
    }
    assert_eq!(keys(&world), before);
}

#[test]
fn what_a_target_of_another_shard_could_mean_is_not_retired() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let head = world.project("near/p").unwrap().head("main").unwrap();
    // The destination is the first shard's, and the two ways to misspell or rename it are the second's.
    let name = (0..).map(|n| format!("p{n}")).find(|name| {
        let owners = ["far/", "far//", "FAR/"].map(|group| owner_of(&format!("{group}{name}"), 2));
        owners == [0, 1, 1]
    });
    let name = name.unwrap();
    let (good, typo, renamed) = (format!("far/{name}"), format!("far//{name}"), format!("FAR/{name}"));
    let old = zip_key(&good, "main", OLD);
    world.s3().put(&old, "older");
    world.s3().put(&zip_key(&owned_by(0, 2, "gone"), "main", OLD), "unwanted");

    world.sync("near/p", "main", &typo, "main").unwrap();
    pass(&world, 0, 2).succeeded().logged("retired=1").logged("are kept for now");
    assert_eq!(keys(&world), [&*old]);

    world.graphql.set_targets(vec![]);
    world.sync("near/p", "main", &renamed, "main").unwrap();
    pass(&world, 0, 2).succeeded().logged("retired=0").logged("are kept for now");
    pass(&world, 1, 2).succeeded().logged("published=1");
    pass(&world, 0, 2).succeeded();
    assert_eq!(keys(&world), [zip_key(&renamed, "main", &head)]);
}

#[test]
fn empty_share_of_a_list_is_no_empty_list() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    let gone = zip_key(&owned_by(0, 2, "gone"), "main", OLD);
    world.s3().put(&gone, "unwanted");
    for index in 0..2 {
        pass(&world, index, 2);
    }
    assert_eq!(keys(&world), [&*gone], "with an empty list nothing goes");
    pass(&world, 0, 2).failed().logged("the target list is empty");

    world.sync("near/p", "main", &owned_by(1, 2, "p"), "main").unwrap();
    pass(&world, 0, 2).succeeded().logged("retired=1");
    assert_eq!(keys(&world), [""; 0]);
}

#[test]
fn uploads_and_mirrors_of_other_shards_are_left_alone() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    let shards = [owned_by(0, 2, "p"), owned_by(1, 2, "p")];
    let long_ago = SystemTime::now() - Duration::from_secs(86_400);
    let uploads = shards.each_ref().map(|far| {
        world.sync("near/p", "main", far, "main").unwrap();
        world.s3().start_stale_upload(&zip_key(far, "main", OLD), long_ago)
    });
    pass(&world, 0, 2).succeeded().logged("aborted uploads that were left unfinished");
    let open: Vec<_> = world.s3().uploads().into_iter().map(|upload| upload.upload_id).collect();
    assert_eq!(open, uploads[1..]);
}

#[test]
fn mirrors_go_with_the_destinations_they_are_for() {
    let world = World::start().unwrap();
    let mut of_the_first = 0;
    for n in 0..8 {
        let far = format!("far/p{n}");
        world.project(&format!("near/p{n}")).unwrap();
        world.sync(&format!("near/p{n}"), "main", &far, "main").unwrap();
        of_the_first += usize::from(owner_of(&far, 2) == 0);
    }
    let mirrors = || {
        let dir = workdir(&world, 0, 1).join("git-partition-sync-producer/mirrors");
        std::fs::read_dir(dir).unwrap().count()
    };
    pass(&world, 0, 1).succeeded();
    assert_eq!(mirrors(), 8);
    let mut command = shard(&world, 0, 2, &["-run-once"]);
    Run::from(command.env("WORKDIR", workdir(&world, 0, 1)).output().unwrap()).succeeded();
    assert_eq!(mirrors(), of_the_first);
}

#[test]
fn republish_names_destinations_of_the_whole_list() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    let theirs = owned_by(1, 2, "p");
    for far in [&owned_by(0, 2, "p"), &theirs] {
        world.sync("near/p", "main", far, "main").unwrap();
    }
    let republish = |index| {
        let command = &mut shard(&world, index, 2, &["-run-once"]);
        Run::from(command.env("REPUBLISH", format!("{theirs}@main")).output().unwrap())
    };
    for index in 0..2 {
        pass(&world, index, 2).succeeded();
    }
    republish(0).succeeded().logged("published=0");
    republish(1).succeeded().logged("published=1");
}

#[test]
fn replica_learns_its_number_from_kubernetes() {
    let world = busy_world();
    let expected = plan(&world, &["-shard-count=3", "-shard-index=1"]);
    for (variable, value) in
        [("SHARD_INDEX", "1"), ("JOB_COMPLETION_INDEX", "1"), ("HOSTNAME", "git-partition-sync-producer-1")]
    {
        let mut command = program(&world, &["-dry-run", "-run-once", "-output=json", "-shard-count=3"]);
        let run: Run = command.env(variable, value).output().unwrap().into();
        assert_eq!(run.json(), expected, "{variable}");
    }
}

#[test]
fn replica_without_a_number_does_not_start() {
    let world = World::start().unwrap();
    for (variables, why) in [
        (&[("SHARD_COUNT", "3")][..], "SHARD_INDEX: needed with SHARD_COUNT=3"),
        (&[("SHARD_COUNT", "3"), ("HOSTNAME", "producer-7d9f8b6c5-x2k4q")][..], "SHARD_INDEX: needed"),
        (&[("SHARD_COUNT", "3"), ("HOSTNAME", "producer-3")][..], "the host name \"producer-3\""),
        (&[("SHARD_COUNT", "3"), ("SHARD_INDEX", "3")][..], "\"3\" is not a number below SHARD_COUNT, which is 3"),
        (&[("SHARD_COUNT", "3"), ("JOB_COMPLETION_INDEX", "-1")][..], "JOB_COMPLETION_INDEX: "),
        (&[("SHARD_INDEX", "1")][..], "SHARD_INDEX: \"1\" is not a number below SHARD_COUNT, which is 1"),
        (&[("SHARD_COUNT", "0")][..], "SHARD_COUNT: \"0\" is not a number from 1 to 1000"),
    ] {
        let mut command = program(&world, &["-run-once"]);
        Run::from(command.envs(variables.iter().copied()).output().unwrap()).refused().logged(why);
    }
    assert_eq!(world.graphql.requests().len(), 0);
    // Without shards a number in the host name means nothing.
    Run::from(program(&world, &["-run-once"]).env("HOSTNAME", "producer-3").output().unwrap()).succeeded();
}

#[test]
fn resharding_under_load_loses_nothing_and_converges() {
    let world = World::start().unwrap();
    let names: Vec<_> = (0..10).map(|n| format!("p{n}")).collect();
    let repos: Vec<_> = names
        .iter()
        .map(|name| {
            let repo = world.project(&format!("near/{name}")).unwrap();
            world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
            repo
        })
        .collect();
    let wanted = || {
        let heads = repos.iter().map(|repo| repo.head("main").unwrap());
        let mut keys: Vec<_> =
            names.iter().zip(heads).map(|(name, head)| zip_key(&format!("far/{name}"), "main", &head)).collect();
        keys.sort();
        keys
    };
    let start = |count: u32| -> Vec<Daemon> {
        let daemon = |index| {
            let further = ["-reconcile-sleep-time=10ms", "-metrics-server-port=0"];
            Daemon::spawn(shard(&world, index, count, &further))
        };
        (0..count).map(daemon).collect()
    };
    // Half of the projects never change: theirs must be there at every moment.
    let (quiet, busy) = repos.split_at(5);
    let old = start(2);
    wait_until("the old replicas have published everything", || keys(&world) == wanted());
    let steady: BTreeSet<_> = names
        .iter()
        .zip(quiet)
        .map(|(name, repo)| zip_key(&format!("far/{name}"), "main", &repo.head("main").unwrap()))
        .collect();
    let new = start(3);
    let look = || {
        let held: BTreeSet<_> = keys(&world).into_iter().collect();
        assert!(steady.is_subset(&held), "lost: {:#?}", steady.difference(&held));
    };
    for _ in 0..4 {
        busy.iter().for_each(|repo| drop(repo.commits("main", 1).unwrap()));
        look();
        // Each replica makes two passes over this state, at least one of them begun after the pushes.
        let passes: Vec<_> = old.iter().chain(&new).map(|daemon| daemon.log().matches("pass done").count()).collect();
        for (daemon, passes) in old.iter().chain(&new).zip(passes) {
            daemon.wait_until_logged("pass done", passes + 2);
            look();
        }
    }
    for daemon in old {
        daemon.stop().succeeded();
    }
    busy.iter().for_each(|repo| drop(repo.commits("main", 1).unwrap()));
    wait_until("the new replicas have published everything, once each", || keys(&world) == wanted());
    for daemon in new {
        daemon.stop().succeeded();
    }
    for index in 0..3 {
        pass(&world, index, 3).succeeded().logged("published=0 retired=0 swept=0");
    }
    let delivered = world.consumer().unwrap().pass().unwrap();
    assert_eq!(delivered.len(), names.len());
}
