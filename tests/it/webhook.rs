//! GitLab's push webhooks: what they start, what they leave alone, and whom they believe.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use testbed::graphql::Canned;
use testbed::world::World;

use crate::site::{Answer, address, get, request, request_announcing, sample, status};
use crate::support::{Daemon, PATIENCE, keys, program, wait_until, zip_key};

pub const SECRET: &str = "webhook-secret-77c1";

/// A world with these projects, each with a target, and a daemon after its first pass that will not begin another.
fn at_rest(projects: &[&str]) -> (World, Daemon) {
    let world = World::builder().sleep("1h").setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    for project in projects {
        world.project(&format!("near/{project}")).unwrap();
        world.sync(&format!("near/{project}"), "main", &format!("far/{project}"), "main").unwrap();
    }
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    (world, daemon)
}

/// What GitLab sends when somebody pushes, cut down to what it takes.
fn push_event(project: &str, branch: &str) -> String {
    json!({
        "object_kind": "push",
        "event_name": "push",
        "before": "95790bf891e76fee5e1747ab589903a6a1f80f22",
        "after": "da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
        "ref": format!("refs/heads/{branch}"),
        "user_name": "Somebody",
        "project": { "id": 15, "path_with_namespace": project, "default_branch": "main" },
        "commits": [],
        "total_commits_count": 1,
    })
    .to_string()
}

#[track_caller]
fn send(daemon: &Daemon, token: &str, event: &str, body: &str) -> Answer {
    let headers = [("X-Gitlab-Token", token), ("X-Gitlab-Event", event), ("Content-Type", "application/json")];
    request(address(daemon), "POST", "/hooks/gitlab", &headers, body)
}

#[track_caller]
pub fn push(daemon: &Daemon, project: &str) {
    assert_eq!(send(daemon, SECRET, "Push Hook", &push_event(project, "main")).status, 202);
}

#[test]
fn a_push_is_published_at_once_and_nothing_else_is_touched() {
    let (world, daemon) = at_rest(&["p", "q"]);
    let lists = || world.graphql.requests().len();
    let before = lists();
    // A full pass would publish this one, and retire that one.
    world.source.repo("near/q").unwrap().commits("main", 1).unwrap();
    let stray = zip_key("far/stray", "main", &"0".repeat(40));
    world.s3().put(&stray, "x");
    let repo = world.source.repo("near/p").unwrap();
    let old = zip_key("far/p", "main", &repo.head("main").unwrap());
    repo.commits("main", 1).unwrap();
    let mut wanted: Vec<_> = keys(&world).into_iter().filter(|key| *key != old).collect();
    wanted.push(zip_key("far/p", "main", &repo.head("main").unwrap()));
    wanted.sort();
    push(&daemon, "near/p");
    wait_until("the push is in the bucket, and nothing else has changed", || keys(&world) == wanted);
    assert_eq!(lists(), before, "the target list is that of the last full pass");
    wait_until("the pass is over", || status(&daemon)["history"].as_array().unwrap().len() == 2);
    let status = status(&daemon);
    assert_eq!(status["history"][1]["trigger"], "push");
    assert_eq!(status["targets"].as_array().unwrap().len(), 2, "the other target is still known");
    daemon.stop().succeeded();
}

#[test]
fn a_push_is_published_while_the_graphql_server_is_away() {
    let (world, daemon) = at_rest(&["p"]);
    world.graphql.respond_with(Canned::errors("away"));
    let repo = world.source.repo("near/p").unwrap();
    repo.commits("main", 1).unwrap();
    push(&daemon, "NEAR/P");
    let new = zip_key("far/p", "main", &repo.head("main").unwrap());
    wait_until("the push is in the bucket", || keys(&world) == [new.clone()]);
}

#[test]
fn a_push_is_published_beside_a_full_pass_that_takes_long() {
    let (world, daemon) = at_rest(&["p"]);
    world.source.repo("near/large").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world.s3().hold("UploadPart");
    daemon.signal(rustix::process::Signal::USR1);
    world.s3().wait_until_held(PATIENCE).unwrap();
    let repo = world.source.repo("near/p").unwrap();
    repo.commits("main", 1).unwrap();
    push(&daemon, "near/p");
    let new = zip_key("far/p", "main", &repo.head("main").unwrap());
    wait_until("the push is in the bucket", || keys(&world) == [new.clone()]);
    // One for a target that the full pass is at waits for it.
    let large = world.source.repo("near/large").unwrap();
    large.commits("main", 1).unwrap();
    push(&daemon, "near/large");
    world.s3().release();
    let newest = zip_key("far/large", "main", &large.head("main").unwrap());
    wait_until("both are up to date", || keys(&world).len() == 2 && keys(&world).contains(&newest));
    daemon.stop().succeeded();
}

#[test]
fn many_pushes_are_few_passes() {
    let (world, daemon) = at_rest(&["p", "q"]);
    for project in ["p", "q"] {
        world.source.repo(&format!("near/{project}")).unwrap().commits("main", 1).unwrap();
    }
    let begun = Instant::now();
    for _ in 0..50 {
        push(&daemon, "near/p");
        push(&daemon, "near/q");
    }
    let new = ["p", "q"].map(|project| {
        let head = world.source.repo(&format!("near/{project}")).unwrap().head("main").unwrap();
        zip_key(&format!("far/{project}"), "main", &head)
    });
    wait_until("both are in the bucket", || new.iter().all(|key| keys(&world).contains(key)));
    wait_until("the pass is over", || status(&daemon)["passes"] == json!([]));
    let passes = status(&daemon)["history"].as_array().unwrap().len() - 1;
    let most = begun.elapsed().as_secs() as usize + 2;
    assert!(passes <= most, "{passes} passes for 100 pushes, although they keep a second's distance");
    let accepted =
        sample(&get(&daemon, "/metrics").body, "git_partition_sync_webhooks_total", &[("result", "accepted")]);
    assert_eq!(accepted, Some(100.0));
}

#[test]
fn a_wrong_token_is_refused_before_anything_else_is_looked_at() {
    let (world, daemon) = at_rest(&["p"]);
    let before = world.source.requests().len();
    for token in ["", "wrong", "webhook-secret-77c", "webhook-secret-77c10"] {
        assert_eq!(send(&daemon, token, "Push Hook", &push_event("near/p", "main")).status, 401, "{token:?}");
    }
    assert_eq!(request(address(&daemon), "POST", "/hooks/gitlab", &[], &push_event("near/p", "main")).status, 401);
    let headers = [("X-Gitlab-Token", "wrong"), ("X-Gitlab-Event", "Push Hook")];
    let answer = request_announcing(1 << 20, address(&daemon), "POST", "/hooks/gitlab", &headers, "");
    assert_eq!(answer.status, 401, "the body is not waited for");
    assert_eq!(world.source.requests().len(), before);
    let refused = sample(&get(&daemon, "/metrics").body, "git_partition_sync_webhooks_total", &[("result", "refused")]);
    assert_eq!(refused, Some(6.0));
}

#[test]
fn what_is_no_push_to_a_source_branch_is_ignored() {
    let (_world, daemon) = at_rest(&["p"]);
    let good = push_event("near/p", "main");
    let ignored = [
        ("Tag Push Hook", good.clone()),
        ("Merge Request Hook", "{}".to_owned()),
        ("Push Hook", push_event("near/p", "other")),
        ("Push Hook", push_event("near/unknown", "main")),
        ("Push Hook", good.replace("refs/heads/", "refs/tags/")),
        ("System Hook", r#"{"event_name":"project_create"}"#.to_owned()),
    ];
    for (event, body) in ignored {
        let answer = send(&daemon, SECRET, event, &body);
        assert_eq!(answer.status, 200, "{event} {body}: {}", answer.body);
    }
    for (body, status) in
        [("no JSON".to_owned(), 400), (r#"{"object_kind":"push"}"#.to_owned(), 400), ("x".repeat((4 << 20) + 1), 413)]
    {
        assert_eq!(send(&daemon, SECRET, "Push Hook", &body).status, status);
    }
    assert_eq!(send(&daemon, SECRET, "System Hook", &good).status, 202);
    assert_eq!(status(&daemon)["history"].as_array().unwrap().len(), 1);
}

#[test]
fn without_a_secret_there_is_no_webhook() {
    let world = World::builder().sleep("1h").start().unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let answer = send(&daemon, "", "Push Hook", &push_event("near/p", "main"));
    assert!(answer.status == 404 && !answer.body.contains("/hooks"), "{}", answer.body);
}

#[test]
fn the_secret_can_be_a_file_that_changes() {
    let world = World::builder().sleep("1h").start().unwrap();
    let secret = world.scratch().unwrap().join("secret");
    fs::write(&secret, "first\n").unwrap();
    let mut command = program(&world, &[]);
    command.env("WEBHOOK_SECRET_FILE", &secret);
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 1);
    let answer = |token: &str| send(&daemon, token, "Tag Push Hook", "{}").status;
    assert_eq!((answer("first"), answer("second")), (200, 401));
    fs::write(&secret, "second\n").unwrap();
    assert_eq!((answer("first"), answer("second")), (401, 200));
    fs::remove_file(&secret).unwrap();
    assert_eq!(answer("second"), 500);
    daemon.wait_until_logged("a webhook cannot be checked", 1);
}

#[test]
fn pushes_do_not_put_off_the_full_pass() {
    let world = World::builder().sleep("3s").setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let scheduled = || {
        let history = status(&daemon)["history"].clone();
        history.as_array().unwrap().iter().filter(|pass| pass["trigger"] == "schedule").count()
    };
    wait_until("two more full passes were on schedule, pushes or not", || {
        push(&daemon, "near/p");
        std::thread::sleep(Duration::from_millis(100));
        scheduled() >= 3
    });
}

/// The triggers of the passes that are over.
#[track_caller]
fn over(daemon: &Daemon, trigger: &str) -> usize {
    status(daemon)["history"].as_array().unwrap().iter().filter(|pass| pass["trigger"] == trigger).count()
}

#[test]
fn a_large_push_holds_up_nothing_else() {
    let (world, daemon) = at_rest(&["p", "q"]);
    // One that takes several parts replaces what is there.
    world.source.repo("near/q").unwrap().fill_incompressible(20, 3).unwrap();
    world.s3().hold("UploadPart");
    push(&daemon, "near/q");
    world.s3().wait_until_held(PATIENCE).unwrap();

    let repo = world.source.repo("near/p").unwrap();
    for _ in 0..2 {
        repo.commits("main", 1).unwrap();
        push(&daemon, "near/p");
        let new = zip_key("far/p", "main", &repo.head("main").unwrap());
        wait_until("another push is in the bucket", || keys(&world).contains(&new));
    }
    wait_until("the passes for the small pushes are over", || over(&daemon, "push") == 2);
    daemon.signal(rustix::process::Signal::USR1);
    wait_until("a full pass is over", || over(&daemon, "signal") == 1);
    assert_eq!(world.s3().uploads().len(), 1, "the large push is still at work, and the full pass left it alone");
    assert_eq!(status(&daemon)["targets"].as_array().unwrap().len(), 2, "and it is still known");

    world.s3().release();
    let large = zip_key("far/q", "main", &world.source.repo("near/q").unwrap().head("main").unwrap());
    wait_until("the large push is in the bucket", || keys(&world).contains(&large));
    wait_until("its pass is over", || over(&daemon, "push") == 3);
    assert_eq!(keys(&world).len(), 2);
    assert_eq!(world.s3().uploads(), []);
    daemon.stop().succeeded();
}

#[test]
fn a_push_is_published_while_a_full_pass_looks_at_a_slow_server() {
    let (world, daemon) = at_rest(&["p"]);
    let asked = world.graphql.requests().len();
    world.graphql.set_latency(PATIENCE);
    daemon.signal(rustix::process::Signal::USR1);
    wait_until("the full pass asks for the target list", || world.graphql.requests().len() > asked);
    let repo = world.source.repo("near/p").unwrap();
    repo.commits("main", 1).unwrap();
    push(&daemon, "near/p");
    let new = zip_key("far/p", "main", &repo.head("main").unwrap());
    wait_until("the push is in the bucket", || keys(&world) == [new.clone()]);
    assert_eq!(over(&daemon, "signal"), 0, "the full pass still looks");
    daemon.stop().succeeded();
}

#[test]
fn a_push_for_what_the_full_pass_is_done_with_need_not_wait() {
    let world = World::builder().sleep("1h").setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world.s3().hold("UploadPart");
    let daemon = Daemon::spawn(program(&world, &[]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    let repo = world.source.repo("near/p").unwrap();
    let published = || zip_key("far/p", "main", &repo.head("main").unwrap());
    wait_until("the first pass has published the small one", || keys(&world) == [published()]);
    wait_until("and is done with it", || status(&daemon)["running"].as_array().unwrap().len() == 1);
    repo.commits("main", 1).unwrap();
    push(&daemon, "near/p");
    wait_until("the push is in the bucket", || keys(&world) == [published()]);
    assert_eq!(over(&daemon, "schedule"), 0, "the first pass is still under way");
    world.s3().release();
    wait_until("the first pass is over", || over(&daemon, "schedule") == 1);
    assert_eq!(keys(&world).len(), 2);
    daemon.stop().succeeded();
}

#[test]
fn a_push_to_a_target_that_cannot_be_used_is_not_promised_a_pass() {
    let (world, daemon) = at_rest(&["p"]);
    world.project("near/q").unwrap();
    // Two sources for one destination.
    world.sync("near/q", "main", "far/p", "main").unwrap();
    daemon.signal(rustix::process::Signal::USR1);
    wait_until("the full pass is over", || over(&daemon, "signal") == 1);
    let answer = send(&daemon, SECRET, "Push Hook", &push_event("near/q", "main"));
    assert_eq!((answer.status, over(&daemon, "push")), (200, 0), "{}", answer.body);
}

#[test]
fn a_push_for_what_waits_in_the_full_pass_s_queue_need_not_wait() {
    let world = World::builder()
        .sleep("1h")
        .setting("WEBHOOK_SECRET", SECRET)
        .setting("SYNC_CONCURRENCY", "1")
        .start()
        .unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    // The last one comes first where there is one worker, and nothing is known of their sizes.
    world.source.repo("near/z").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("near/z", "main", "far/z", "main").unwrap();
    world.s3().hold("UploadPart");
    let daemon = Daemon::spawn(program(&world, &[]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    assert_eq!(status(&daemon)["passes"][0]["actions"], 2);
    assert_eq!(keys(&world), [""; 0], "the small one is still in the queue");
    let repo = world.source.repo("near/p").unwrap();
    repo.commits("main", 1).unwrap();
    push(&daemon, "near/p");
    let new = zip_key("far/p", "main", &repo.head("main").unwrap());
    wait_until("the push is in the bucket", || keys(&world) == [new.clone()]);
    wait_until("its pass is over", || over(&daemon, "push") == 1);
    world.s3().release();
    wait_until("the first pass is over", || over(&daemon, "schedule") == 1);
    let history = status(&daemon)["history"].clone();
    assert_eq!(history[1]["published"], 1, "the full pass left the small one to the push: {history}");
    assert_eq!(keys(&world).len(), 2);
    daemon.stop().succeeded();
}
