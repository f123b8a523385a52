//! An action that takes long delays nobody else: the next full pass begins beside it.

use rustix::process::Signal;
use testbed::fault::{ALWAYS, Fault, Moment, Proxy};
use testbed::http::RequestRecord;
use testbed::repo::Repo;
use testbed::world::World;

use crate::site::status;
use crate::support::{Daemon, keys, operations, pass, program, wait_until, zip_key};

/// A project with its target.
fn project(world: &World, name: &str) -> Repo {
    let repo = world.project(&format!("near/{name}")).unwrap();
    world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    repo
}

fn key(repo: &Repo, name: &str) -> String {
    zip_key(&format!("far/{name}"), "main", &repo.head("main").unwrap())
}

/// A daemon that reaches GitLab through a proxy, by which fetches of projects named slow-… never end.
fn with_slow_fetches(world: &World) -> (Daemon, Proxy) {
    let front = Proxy::start(&world.source.url()).unwrap();
    let slow = |seen: &testbed::fault::Seen| seen.operation() == "fetch" && seen.path.contains("/slow-");
    front.on(slow, ALWAYS, Fault::Hold(Moment::Unsent));
    let mut command = program(world, &["-reconcile-sleep-time=50ms", "-metrics-server-port=0"]);
    command.env("GITLAB_BASE_URL", front.url()).env("SYNC_CONCURRENCY", "4");
    (Daemon::spawn(command), front)
}

#[test]
fn slow_targets_do_not_delay_the_pushes_to_others() {
    let world = World::start().unwrap();
    let good = project(&world, "good");
    let mut slow = vec![("slow-0", project(&world, "slow-0"))];
    let (daemon, front) = with_slow_fetches(&world);
    for name in ["slow-1", "slow-2"] {
        wait_until("the slow ones are fetched", || front.held() == slow.len());
        good.commits("main", 1).unwrap();
        let wanted = key(&good, "good");
        wait_until("the push to the healthy one is published", || keys(&world) == [wanted.as_str()]);
        // One that becomes slow in a later pass.
        slow.push((name, project(&world, name)));
    }
    wait_until("the slow ones are fetched", || front.held() == slow.len());
    good.commits("main", 1).unwrap();
    wait_until("the push to the healthy one is published", || keys(&world) == [key(&good, "good").as_str()]);
    let now = status(&daemon);
    assert_eq!(now["running"].as_array().unwrap().len(), 3, "{now}");
    assert!((3..=4).contains(&now["passes"].as_array().unwrap().len()), "{now}");
    let fetches = |requests: Vec<RequestRecord>| operations(&requests).iter().filter(|it| **it == "fetch").count();
    let before = fetches(world.source.requests());

    front.clear();
    front.release();
    let mut expected: Vec<_> = slow.iter().map(|(name, repo)| key(repo, name)).collect();
    expected.push(key(&good, "good"));
    expected.sort();
    wait_until("the slow ones are published", || keys(&world) == expected);
    let passes = daemon.log().matches("pass done").count();
    daemon.wait_until_logged("pass done", passes + 3);
    assert_eq!(fetches(world.source.requests()), before + 3, "each of them once");
    daemon.stop().succeeded();
}

#[test]
fn passes_with_slow_targets_are_bounded_and_stop_in_time() {
    let world = World::start().unwrap();
    project(&world, "slow-0");
    let (daemon, front) = with_slow_fetches(&world);
    for n in 1..4 {
        wait_until("it is fetched", || front.held() == n);
        project(&world, &format!("slow-{n}"));
    }
    wait_until("as many passes as there may be are under way", || front.held() == 4);
    // A request for one more has to wait, for longer than the interval.
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("a full pass was requested", 1);
    for _ in 0..50 {
        let now = status(&daemon);
        assert_eq!(now["passes"].as_array().unwrap().len(), 4, "{now}");
        assert!(now["next_pass"].is_null(), "{now}");
    }
    daemon.stop().succeeded();
    assert_eq!(keys(&world), [""; 0]);
}

#[test]
fn what_is_asked_for_again_is_uploaded_once_although_passes_overlap() {
    let world = World::start().unwrap();
    let (good, slow) = (project(&world, "good"), project(&world, "slow"));
    pass(&world).succeeded();
    world.s3().clear_requests();
    let front = Proxy::start(&world.s3().url()).unwrap();
    let slow_key = key(&slow, "slow");
    let held = slow_key.clone();
    front.on(move |seen| seen.operation() == "PutObject" && seen.path.ends_with(&held), 1, Fault::Hold(Moment::Unsent));
    let mut command = program(&world, &["-reconcile-sleep-time=50ms", "-metrics-server-port=0"]);
    command.env("AWS_ENDPOINT_URL_S3", front.url()).env("REPUBLISH", "all");
    let daemon = Daemon::spawn(command);
    wait_until("the slow one is being uploaded", || front.held() == 1);
    daemon.wait_until_logged("pass done", 4);
    front.release();
    daemon.wait_until_logged("published far/slow@main", 1);
    let passes = daemon.log().matches("pass done").count();
    daemon.wait_until_logged("pass done", passes + 3);
    daemon.stop().succeeded();
    let uploads = world.s3().requests();
    let mut uploads: Vec<_> = uploads.iter().filter(|it| it.is("PutObject")).map(|it| it.path.clone()).collect();
    uploads.sort();
    let mut expected = [key(&good, "good"), slow_key];
    expected.sort();
    assert_eq!(uploads.len(), 2, "{uploads:?}");
    assert!(uploads.iter().zip(&expected).all(|(path, key)| path.ends_with(key)), "{uploads:?}");
}
