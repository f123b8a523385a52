//! The program's own server: health, readiness, status as JSON, and how it stands up to bad clients.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use testbed::git::GitFault;
use testbed::graphql::Canned;
use testbed::world::World;

use crate::site::{address, get, pass_now, request, status};
use crate::support::{Daemon, PATIENCE, keys, program, run, wait_until, zip_key};

/// A world with `far/p@main`, and a daemon in it after its first pass.
fn at_rest() -> (World, Daemon) {
    let world = World::builder().sleep("1h").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    (world, daemon)
}

#[test]
fn a_port_that_is_taken_is_refused_at_start() {
    let world = World::start().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = run(&world, &["-metrics-server-port", &port]).refused();
    refused.logged("METRICS_SERVER_PORT: cannot listen on 127.0.0.1:");
    assert_eq!(world.graphql.requests().len(), 0, "nothing is asked before");
    run(&world, &["-metrics-server-address", "everywhere"]).refused().logged("METRICS_SERVER_ADDRESS");
    run(&world, &["-run-once", "-metrics-server-port", &port]).succeeded();
}

#[test]
fn nothing_listens_once_the_program_has_stopped() {
    let (_world, daemon) = at_rest();
    let address = address(&daemon);
    daemon.stop().succeeded();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn ready_means_that_a_full_pass_came_to_a_plan() {
    let world = World::builder().sleep("1h").start().unwrap();
    world.graphql.respond_with(Canned::errors("the bundle is being built"));
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("nothing was changed", 1);
    let answer = get(&daemon, "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("the bundle is being built"), "{}", answer.body);
    assert_eq!(get(&daemon, "/healthz").status, 200, "a failed pass is no reason to be restarted");

    world.graphql.respond_normally();
    pass_now(&daemon);
    assert_eq!(get(&daemon, "/readyz").status, 200);
    world.graphql.respond_with(Canned::errors("and again"));
    pass_now(&daemon);
    assert_eq!(get(&daemon, "/readyz").status, 200, "what it knows is worth showing still");
}

#[test]
fn a_pass_that_hangs_turns_the_health_check_red_and_progress_turns_it_green() {
    let world = World::builder().sleep("1h").setting("STALL_TIMEOUT", "1s").start().unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world.s3().hold("UploadPart");
    let daemon = Daemon::spawn(program(&world, &[]));
    wait_until("the health check is red", || get(&daemon, "/healthz").status == 503);
    world.s3().wait_until_held(PATIENCE).unwrap();
    wait_until("it says where it hangs", || {
        let answer = get(&daemon, "/healthz");
        answer.status == 503 && answer.body.contains("uploading far/large@main")
    });
    assert_eq!(get(&daemon, "/readyz").status, 503);
    world.s3().release();
    daemon.wait_until_logged("pass done", 1);
    wait_until("the health check is green", || get(&daemon, "/healthz").status == 200);
}

#[test]
fn a_look_at_the_servers_that_hangs_turns_the_health_check_red() {
    let world = World::builder().sleep("1h").setting("STALL_TIMEOUT", "1s").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.source.fault("near/p", GitFault::Stall);
    let daemon = Daemon::spawn(program(&world, &[]));
    wait_until("the health check is red", || {
        let answer = get(&daemon, "/healthz");
        answer.status == 503 && answer.body.contains("looking at targets, branches and bucket")
    });
}

#[test]
fn the_status_says_what_is_in_sync_and_what_is_not_and_why() {
    let (world, daemon) = at_rest();
    let commit = world.source.repo("near/p").unwrap().head("main").unwrap();
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    world.project("near/late").unwrap();
    world.sync("near/late", "main", "far/late", "main").unwrap();
    world.s3().hold("PutObject");
    daemon.signal(rustix::process::Signal::USR1);
    world.s3().wait_until_held(PATIENCE).unwrap();

    let during = status(&daemon);
    let target = |status: &serde_json::Value, project: &str| {
        let targets = status["targets"].as_array().unwrap();
        targets.iter().find(|target| target["project"] == project).unwrap().clone()
    };
    assert_eq!(during["counts"], serde_json::json!({ "in_sync": 1, "behind": 1, "blocked": 1, "failing": 0 }));
    assert_eq!(during["passes"][0]["trigger"], "signal");
    assert_eq!(during["running"][0]["project"], "late");
    assert_eq!(during["running"][0]["stage"], "uploading");
    assert_eq!(target(&during, "p")["commit"], commit.as_str());
    assert_eq!(target(&during, "late")["pending"], "not in the bucket yet");
    let gone = target(&during, "gone");
    assert_eq!(gone["cause"], "unreadable");
    assert!(gone["error"].as_str().unwrap().contains("404"), "{gone}");

    world.s3().release();
    daemon.wait_until_logged("pass done", 2);
    pass_now(&daemon);
    let after = status(&daemon);
    assert_eq!(after["counts"], serde_json::json!({ "in_sync": 2, "behind": 0, "blocked": 1, "failing": 0 }));
    assert_eq!(target(&after, "gone")["since"], gone["since"], "since when survives a pass");
    assert_eq!(after["history"].as_array().unwrap().len(), 3);
    assert_eq!(after["history"][0]["outcome"], "success");
    assert_eq!(after["history"][1]["outcome"], "incomplete");
    assert!(after["next_pass"].is_string());
    assert_eq!(after["running"], serde_json::json!([]));
    assert_eq!(after["bucket"], serde_json::json!({ "objects": 2, "foreign": 0 }));
}

#[test]
fn a_target_fails_until_it_works_and_its_error_is_told() {
    let (world, daemon) = at_rest();
    pass_now(&daemon);
    let old = status(&daemon)["targets"][0].clone();
    world.source.repo("near/p").unwrap().commits("main", 1).unwrap();
    for _ in 0..2 {
        world.s3().fail("PutObject", "AccessDenied", 1);
        pass_now(&daemon);
    }
    let failing = status(&daemon)["targets"][0].clone();
    assert_eq!((&failing["state"], &failing["cause"]), (&"failing".into(), &"upload".into()));
    assert!(failing["error"].as_str().unwrap().contains("check the bucket's policy"), "{failing}");
    assert_eq!(failing["commit"], old["commit"], "what the bucket has");
    assert_eq!(failing["published"], old["published"]);

    pass_now(&daemon);
    let mended = status(&daemon)["targets"][0].clone();
    assert_eq!((&mended["state"], &mended["error"]), (&"in_sync".into(), &serde_json::Value::Null));
    assert_ne!(mended["commit"], old["commit"]);
}

#[test]
fn a_rewritten_branch_that_is_held_is_blocked_for_as_long_as_it_is_held() {
    let world = World::builder().sleep("1h").setting("ON_REWRITE", "hold").start().unwrap();
    let repo = world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let published = repo.head("main").unwrap();
    repo.force_root("main", &[("file", "rewritten")]).unwrap();
    let mut since = vec![];
    for _ in 0..2 {
        pass_now(&daemon);
        let target = status(&daemon)["targets"][0].clone();
        assert_eq!((&target["state"], &target["cause"]), (&"blocked".into(), &"held".into()));
        assert_eq!(target["commit"], published.as_str());
        since.push(target["since"].clone());
    }
    assert_eq!(since[0], since[1]);
}

#[test]
fn no_secret_is_shown_anywhere() {
    let world = World::builder().sleep("1h").setting("WEBHOOK_SECRET", "hook-secret-1f9c").start().unwrap();
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let mut secrets = world.secrets();
    secrets.push("hook-secret-1f9c".to_owned());
    for path in ["/", "/status.json", "/metrics", "/healthz", "/readyz", "/assets/status.js"] {
        let answer = get(&daemon, path);
        assert_eq!(answer.status, 200, "{path}");
        for secret in &secrets {
            assert!(!answer.body.contains(secret) && !answer.head.contains(secret), "{path} shows {secret}");
        }
    }
}

#[test]
fn browsers_are_told_to_trust_nothing_but_this_server() {
    let (_world, daemon) = at_rest();
    for path in ["/", "/status.json", "/metrics", "/nothing"] {
        let answer = get(&daemon, path);
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    assert_eq!(get(&daemon, "/nothing").status, 404);
    for path in ["/", "/status.json", "/metrics"] {
        assert_eq!(request(address(&daemon), "POST", path, &[], "").status, 405, "{path}");
    }
}

#[test]
fn slow_clients_hold_up_neither_others_nor_the_work() {
    let world = World::builder().sleep("1h").start().unwrap();
    let mut command: Command = world.command("sh");
    command.args(["-c", "ulimit -n 96 && exec \"$0\"", env!("CARGO_BIN_EXE_git-partition-sync-producer")]);
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 1);
    let address = address(&daemon);
    let slow: Vec<_> = (0..100)
        .map(|_| {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
            connection
        })
        .collect();
    assert_eq!(get(&daemon, "/healthz").status, 200);
    let mut expected = vec![];
    for number in 0..8 {
        let repo = world.project(&format!("near/{number}")).unwrap();
        world.sync(&format!("near/{number}"), "main", &format!("far/{number}"), "main").unwrap();
        expected.push(zip_key(&format!("far/{number}"), "main", &repo.head("main").unwrap()));
    }
    expected.sort();
    pass_now(&daemon);
    assert_eq!(keys(&world), expected);
    for mut connection in slow {
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = vec![];
        // Cut off, with or without a word.
        drop(connection.read_to_end(&mut answer));
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    daemon.stop().succeeded();
}

#[test]
fn sigusr1_starts_a_full_pass_now() {
    let (world, daemon) = at_rest();
    let other = world.project("near/q").unwrap();
    world.sync("near/q", "main", "far/q", "main").unwrap();
    pass_now(&daemon);
    assert!(keys(&world).contains(&zip_key("far/q", "main", &other.head("main").unwrap())));
    assert!(daemon.log().contains("a full pass is asked for"));
    daemon.stop().succeeded();
}
