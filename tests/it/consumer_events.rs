//! The consumer's webhook: what events of the bucket start, and whom they are believed from.

use std::fs;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use serde_json::{Value, json};
use testbed::archive::{self, Naming, Packs};
use testbed::bucket::Bucket;
use testbed::git::GitOperation;
use testbed::repo::Repo;
use testbed::world::World;

use crate::site::{Answer, address, get, request, request_announcing, sample, status};
use crate::support::{Daemon, PATIENCE, assert_arrived, assert_clean, consumer, count, pushes, put, wait_until};

const SECRET: &str = "event-secret-5d20";

/// A world with these projects, which the far side has, and a daemon after its first pass that will not begin another.
fn at_rest(projects: &[&str]) -> (World, Daemon) {
    let world = World::builder().sleep("1h").consumer_setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    world.destination.group("far").unwrap();
    for project in projects {
        put(&world, &format!("near/{project}"), &format!("far/{project}"));
    }
    let daemon = Daemon::spawn(consumer(&world, &[]));
    wait_until("the first pass is over", || over(&daemon).len() == 1);
    (world, daemon)
}

/// The triggers of the passes that are over.
#[track_caller]
fn over(daemon: &Daemon) -> Vec<String> {
    let status = status(daemon);
    let history = status["history"].as_array().unwrap().iter();
    history.map(|pass| pass["trigger"].as_str().unwrap().to_owned()).collect()
}

/// How many passes are over, and none is under way. The history forgets some.
#[track_caller]
fn passes(daemon: &Daemon) -> usize {
    let metrics = get(daemon, "/metrics").body;
    let counts = metrics.lines().filter(|line| line.starts_with("git_partition_sync_consumer_passes_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

fn encoded(key: &str) -> String {
    utf8_percent_encode(key, NON_ALPHANUMERIC).to_string()
}

/// What MinIO sends, cut down to what it takes.
fn minio_event(key: &str) -> String {
    let object = json!({ "key": encoded(key), "size": 2_341, "eTag": "5fc7", "sequencer": "15CFEDF8" });
    let bucket = json!({ "name": "git-sync", "arn": "arn:aws:s3:::git-sync" });
    let record = json!({
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventName": "s3:ObjectCreated:Put",
        "s3": { "s3SchemaVersion": "1.0", "configurationId": "Config", "bucket": bucket, "object": object },
    });
    json!({ "EventName": "s3:ObjectCreated:Put", "Key": format!("git-sync/{key}"), "Records": [record] }).to_string()
}

/// What EventBridge sends to an API destination.
fn eventbridge_event(key: &str) -> String {
    json!({
        "version": "0",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "resources": ["arn:aws:s3:::git-sync"],
        "detail": { "bucket": { "name": "git-sync" }, "object": { "key": key, "size": 5 }, "reason": "PutObject" },
    })
    .to_string()
}

/// What SeaweedFS's filer sends.
fn seaweedfs_event(key: &str) -> String {
    json!({
        "key": format!("/buckets/git-sync/{key}"),
        "event_type": "create",
        "message": { "new_entry": { "name": key, "attributes": { "file_size": 2_341 } } },
    })
    .to_string()
}

type Headers<'a> = &'a [(&'a str, &'a str)];
/// What a sender makes of a key.
type Form = fn(&str) -> String;

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

#[track_caller]
fn send(daemon: &Daemon, headers: Headers<'_>, body: &str) -> Answer {
    request(address(daemon), "POST", "/webhook", headers, body)
}

#[track_caller]
fn event(daemon: &Daemon, body: &str) {
    let answer = send(daemon, &[("Authorization", &bearer(SECRET))], body);
    assert_eq!(answer.status, 202, "{body}: {}", answer.body);
}

/// One more commit of a project's `main`, in the bucket. Returns the commit, and the key.
fn next(world: &World, source: &Repo, destination: &str) -> (String, String) {
    let head = source.commits("main", 1).unwrap();
    (head, world.put_head(source, "main", destination, "main", Naming::Zip).unwrap())
}

#[test]
fn an_event_of_each_sender_delivers_at_once() {
    let (world, daemon) = at_rest(&["p"]);
    let source = world.source.repo("near/p").unwrap();
    let (bearer, lower) = (bearer(SECRET), format!("bearer {SECRET}"));
    let senders: [(Headers<'_>, Form); 4] = [
        (&[("Authorization", &bearer)], minio_event),
        (&[("Authorization", &bearer), ("Content-Type", "application/json")], seaweedfs_event),
        (&[("X-Api-Key", SECRET)], eventbridge_event),
        (&[("authorization", &lower)], |_| "something else".to_owned()),
    ];
    for (done, (headers, body)) in senders.into_iter().enumerate() {
        let (head, key) = next(&world, &source, "far/p");
        let begun = Instant::now();
        let answer = send(&daemon, headers, &body(&key));
        assert_eq!(answer.status, 202, "{}", answer.body);
        wait_until("the commit is on the far side", || world.far_head("far/p", "main").as_deref() == Some(&head));
        println!("{:.2} s after the event", begun.elapsed().as_secs_f64());
        wait_until("the pass is over", || over(&daemon).len() == done + 2);
    }
    assert_eq!(over(&daemon)[1..], ["event"; 4]);
    assert!(get(&daemon, "/").body.contains("after a change of the bucket"));
    let metrics = get(&daemon, "/metrics").body;
    let sample =
        |name: &str, labels: &[(&str, &str)]| sample(&metrics, &format!("git_partition_sync_consumer_{name}"), labels);
    assert_eq!(sample("webhooks_total", &[("result", "accepted")]), Some(4.0));
    assert_eq!(sample("passes_total", &[("trigger", "event"), ("outcome", "success")]), Some(4.0));
    daemon.stop().succeeded();
}

#[test]
fn a_wrong_secret_is_refused_before_the_body_is_read() {
    let (world, daemon) = at_rest(&["p"]);
    let (_, key) = next(&world, &world.source.repo("near/p").unwrap(), "far/p");
    let body = minio_event(&key);
    let refused: [Headers<'_>; 9] = [
        &[],
        &[("Authorization", "")],
        &[("Authorization", SECRET)],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Bearer event-secret-5d2")],
        &[("Authorization", "Bearer event-secret-5d200")],
        &[("Authorization", "Basic event-secret-5d20")],
        &[("X-Api-Key", "wrong")],
        &[("X-Gitlab-Token", SECRET)],
    ];
    for headers in refused {
        let answer = send(&daemon, headers, &body);
        assert_eq!(answer.status, 401, "{headers:?}");
        assert!(!answer.body.contains(SECRET));
    }
    let headers = [("Authorization", "Bearer wrong")];
    let answer = request_announcing(1 << 20, address(&daemon), "POST", "/webhook", &headers, "");
    assert_eq!(answer.status, 401, "the body is not waited for");
    let answer = request(address(&daemon), "POST", "/hooks/gitlab", &[("X-Gitlab-Token", SECRET)], "{}");
    assert!(answer.status == 404 && answer.body.contains("\n/webhook "), "{}", answer.body);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(over(&daemon), ["schedule"]);
    let metrics = get(&daemon, "/metrics").body;
    let refused = sample(&metrics, "git_partition_sync_consumer_webhooks_total", &[("result", "refused")]);
    assert_eq!(refused, Some(10.0));
    let run = daemon.stop().succeeded();
    assert_clean(&world, "the log", run.log.as_bytes());
}

#[test]
fn what_does_not_concern_this_replica_is_ignored_and_what_cannot_be_read_is_not() {
    let (world, daemon) = at_rest(&["p"]);
    let headers = [("Authorization", bearer(SECRET))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    for foreign in [minio_event("notes.txt"), eventbridge_event("logs/1.gz"), seaweedfs_event(".uploads/3f/0001.part")]
    {
        let answer = send(&daemon, &headers, &foreign);
        assert_eq!((answer.status, answer.body.as_str()), (200, "no object of this replica: ignored\n"), "{foreign}");
    }
    assert_eq!(send(&daemon, &headers, &"x".repeat((4 << 20) + 1)).status, 413);
    assert_eq!(request(address(&daemon), "GET", "/webhook", &headers, "").status, 405);
    // MinIO looks like this whether somebody is there.
    let head = request(address(&daemon), "HEAD", "/webhook", &headers, "");
    assert_eq!(head.status, 405);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(over(&daemon), ["schedule"]);

    let before = count(&world.s3().requests(), "ListObjectsV2");
    event(&daemon, "\u{0}not JSON");
    wait_until("a pass has listed the bucket", || count(&world.s3().requests(), "ListObjectsV2") == before + 1);
    daemon.stop().succeeded();
}

#[test]
fn an_event_for_another_shard_is_ignored_by_this_one() {
    let world = World::builder().sleep("1h").consumer_setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    world.destination.group("far").unwrap();
    let (source, key) = (world.project("near/p").unwrap(), put(&world, "near/p", "far/p"));
    let key = archive::key("far/p", "main", &key, Naming::Zip).unwrap();
    let shards = ["0", "1"].map(|index| {
        let mut command = consumer(&world, &[]);
        command.env("WORKDIR", world.scratch().unwrap().join(index));
        let daemon = Daemon::spawn({
            command.env("SHARD_COUNT", "2").env("SHARD_INDEX", index);
            command
        });
        wait_until("the first pass is over", || over(&daemon).len() == 1);
        daemon
    });
    let headers = [("Authorization", bearer(SECRET))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut answers = shards.each_ref().map(|daemon| send(daemon, &headers, &minio_event(&key)).status);
    answers.sort_unstable();
    assert_eq!(answers, [200, 202], "one of them owns it");
    assert_arrived(&world, "far/p", "main", &source.head("main").unwrap());
}

#[test]
fn a_thousand_events_are_few_passes() {
    let (world, daemon) = at_rest(&["p"]);
    let source = world.source.repo("near/p").unwrap();
    let (begun, mut head, mut key) = (Instant::now(), String::new(), String::new());
    for n in 0..1_000 {
        if n % 250 == 0 {
            (head, key) = next(&world, &source, "far/p");
        }
        event(&daemon, &minio_event(&key));
    }
    let sent = begun.elapsed();
    wait_until("the last commit is on the far side", || world.far_head("far/p", "main").as_deref() == Some(&head));
    // The pass for the last ones may come after that.
    std::thread::sleep(Duration::from_millis(1_500));
    wait_until("no pass is under way", || status(&daemon)["passes"] == json!([]));
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let (passes, lists) = (passes(&daemon) - 1, count(&world.s3().requests(), "ListObjectsV2") - 1);
    println!("{passes} passes for 1,000 events within {:.1} s", sent.as_secs_f64());
    assert!(passes <= most && lists == passes, "{passes} passes, {lists} listings, within {most} s");
    let accepted =
        sample(&get(&daemon, "/metrics").body, "git_partition_sync_consumer_webhooks_total", &[("result", "accepted")]);
    assert_eq!(accepted, Some(1_000.0));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(self::passes(&daemon) - 1, passes, "and then it is quiet");
    daemon.stop().succeeded();
}

/// An object of a project's head, ready to be put into the bucket.
fn ready(world: &World, source: &Repo, destination: &str) -> (String, Vec<u8>) {
    let head = source.head("main").unwrap();
    let archive = archive::zip(source, &head, "main", Packs::One).unwrap();
    let key = archive::key(destination, "main", &head, Naming::Zip).unwrap();
    (key, archive::encrypt(&archive, &world.recipients()).unwrap())
}

/// It came after the listing of the pass that is under way.
#[test]
fn events_in_the_middle_of_a_pass_start_one_more_after_it() {
    let (world, daemon) = at_rest(&["p"]);
    let source = world.source.repo("near/p").unwrap();
    let (first, key) = next(&world, &source, "far/p");
    source.commits("main", 1).unwrap();
    let (second, newest) = (source.head("main").unwrap(), ready(&world, &source, "far/p"));
    let (bucket, port, (done, is_done)) =
        (Bucket::new(&world.s3_endpoint()).unwrap(), address(&daemon), mpsc::channel());
    world.destination.before("far/p", GitOperation::ReceiveHeads, move || {
        bucket.put(&newest.0, newest.1).unwrap();
        for _ in 0..20 {
            let headers = [("Authorization", bearer(SECRET))];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(request(port, "POST", "/webhook", &headers, &minio_event(&newest.0)).status, 202);
        }
        done.send(()).unwrap();
    });
    event(&daemon, &minio_event(&key));
    is_done.recv_timeout(PATIENCE).unwrap();
    wait_until("the newest commit is on the far side", || world.far_head("far/p", "main").as_deref() == Some(&second));
    wait_until("both passes are over", || over(&daemon).len() == 3);
    assert_arrived(&world, "far/p", "main", &second);
    assert_eq!(over(&daemon), ["schedule", "event", "event"]);
    assert_eq!(pushes(&world, "far/p").len(), 3, "the first object of {first} was pushed by its own pass");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(passes(&daemon), 3, "twenty events were one more pass");
    daemon.stop().succeeded();
}

/// A pass may begin while an earlier one still delivers. It leaves that destination alone.
#[test]
fn a_newer_object_for_what_is_being_delivered_follows_as_soon_as_that_has_ended() {
    let (world, daemon) = at_rest(&["p", "q"]);
    let [p, q] = ["p", "q"].map(|name| world.source.repo(&format!("near/{name}")).unwrap());
    world.s3().hold("GetObject");
    let (_, key) = next(&world, &p, "far/p");
    event(&daemon, &minio_event(&key));
    world.s3().wait_until_held(PATIENCE).unwrap();
    let (newest, key) = next(&world, &p, "far/p");
    event(&daemon, &minio_event(&key));
    wait_until("the pass for it has left it out", || over(&daemon).len() == 2);
    world.s3().release();
    wait_until("it is on the far side", || world.far_head("far/p", "main").as_deref() == Some(&newest));
    let (head, key) = next(&world, &q, "far/q");
    event(&daemon, &minio_event(&key));
    wait_until("so is another one", || world.far_head("far/q", "main").as_deref() == Some(&head));
    daemon.stop().succeeded();
}

#[test]
fn deliveries_that_never_end_do_not_keep_events_waiting() {
    let names = ["s0", "s1", "s2", "s3", "s4", "good"];
    let world = World::builder()
        .sleep("1h")
        .consumer_setting("WEBHOOK_SECRET", SECRET)
        .consumer_setting("SYNC_CONCURRENCY", "6")
        .start()
        .unwrap();
    world.destination.group("far").unwrap();
    names.iter().for_each(|name| drop(put(&world, &format!("near/{name}"), &format!("far/{name}"))));
    let front = testbed::fault::Proxy::start(&world.s3().url()).unwrap();
    let mut command = consumer(&world, &[]);
    command.env("AWS_ENDPOINT_URL_S3", front.url());
    let daemon = Daemon::spawn(command);
    wait_until("the first pass is over", || over(&daemon).len() == 1);
    for (n, name) in names.iter().enumerate() {
        let source = world.source.repo(&format!("near/{name}")).unwrap();
        let (head, key) = next(&world, &source, &format!("far/{name}"));
        if *name != "good" {
            let path = key.clone();
            front.on(move |seen| seen.operation() == "GetObject" && seen.path.ends_with(&path), 1, {
                testbed::fault::Fault::Hold(testbed::fault::Moment::Unsent)
            });
        }
        event(&daemon, &minio_event(&key));
        match *name {
            "good" => wait_until("the good one is on the far side", || {
                world.far_head("far/good", "main").as_deref() == Some(&head)
            }),
            _ => wait_until("it hangs in a pass of its own", || front.held() == n + 1),
        }
    }
    wait_until("its pass is over, and five hang", || status(&daemon)["passes"].as_array().unwrap().len() == 5);
    daemon.stop().succeeded();
}

#[test]
fn the_secret_can_be_a_file_that_changes() {
    let world = World::builder().sleep("1h").start().unwrap();
    let secret = world.scratch().unwrap().join("secret");
    fs::write(&secret, "first\n").unwrap();
    let mut command = consumer(&world, &[]);
    command.env("WEBHOOK_SECRET_FILE", &secret);
    let daemon = Daemon::spawn(command);
    wait_until("the first pass is over", || over(&daemon).len() == 1);
    let answer = |token: &str| {
        let token = bearer(token);
        send(&daemon, &[("Authorization", &token)], &minio_event("notes.txt")).status
    };
    assert_eq!((answer("first"), answer("second")), (200, 401));
    fs::write(&secret, "second\n").unwrap();
    assert_eq!((answer("first"), answer("second")), (401, 200));
    fs::remove_file(&secret).unwrap();
    assert_eq!(answer("second"), 500);
    daemon.wait_until_logged("a webhook cannot be checked", 1);
    fs::write(&secret, "third").unwrap();
    assert_eq!((answer("second"), answer("third")), (401, 200));
}

#[test]
fn without_a_secret_and_in_a_dry_run_there_is_no_webhook() {
    let world = World::builder().sleep("1h").start().unwrap();
    let daemon = Daemon::spawn(consumer(&world, &[]));
    assert_eq!(send(&daemon, &[("Authorization", "Bearer ")], "{}").status, 404);
    drop(daemon);
    let mut command = consumer(&world, &["-dry-run"]);
    command.env("WEBHOOK_SECRET", SECRET);
    let daemon = Daemon::spawn(command);
    assert_eq!(send(&daemon, &[("Authorization", &bearer(SECRET))], "{}").status, 404);
}

/// Otherwise the events of a busy bucket would have GitLab ban this address.
#[test]
fn while_the_login_is_refused_events_start_nothing() {
    let (world, daemon) = at_rest(&["p"]);
    let (head, key) = next(&world, &world.source.repo("near/p").unwrap(), "far/p");
    world.destination.set_expired(true);
    // More projects, so that the login is tried often enough.
    for n in 0..9 {
        let key = archive::key(&format!("far/x{n}"), "main", &"a".repeat(40), Naming::Zip).unwrap();
        world.s3().put(&key, "not to be read");
    }
    event(&daemon, &minio_event(&key));
    daemon.wait_until_logged("the next pass waits because the login is refused", 1);
    let asked = world.destination.requests().len();
    for _ in 0..10 {
        event(&daemon, &minio_event(&key));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(world.destination.requests().len(), asked, "nothing was asked");
    world.destination.set_expired(false);
    daemon.signal(Signal::USR1);
    wait_until("the commit is on the far side", || world.far_head("far/p", "main").as_deref() == Some(&head));
    daemon.stop().succeeded();
}

/// Each event starts a pass, and an attempt may cost a large download.
#[test]
fn a_delivery_that_fails_is_not_repeated_by_each_event() {
    let (world, daemon) = at_rest(&["bad"]);
    let bad = world.source.repo("near/bad").unwrap();
    let reads = || count(&world.s3().requests(), "GetObject");
    let before = reads();
    world.s3().fail("GetObject", "AccessDenied", 1);
    let (_, key) = next(&world, &bad, "far/bad");
    event(&daemon, &minio_event(&key));
    daemon.wait_until_logged("failed: far/bad@main", 1);
    for done in 2..5 {
        wait_until("the pass is over", || passes(&daemon) == done);
        event(&daemon, &minio_event(&key));
    }
    wait_until("three more passes are over", || passes(&daemon) == 5);
    assert_eq!(reads(), before + 1, "none of them tried it again");
    let now: Value = status(&daemon);
    assert_eq!((&now["counts"]["failing"], &now["history"][4]["outcome"]), (&json!(1), &json!("incomplete")), "{now}");
    assert_eq!(now["history"][4]["troubled"], 1, "{now}");
    let metrics = get(&daemon, "/metrics").body;
    assert_eq!(sample(&metrics, "qontract_reconcile_last_run_status", &[]), Some(1.0));
    let failed = "git_partition_sync_consumer_failed_total";
    assert_eq!(sample(&metrics, failed, &[("reason", "download"), ("stage", "downloading")]), Some(1.0));

    let (head, key) = next(&world, &bad, "far/bad");
    event(&daemon, &minio_event(&key));
    wait_until("another object is tried at once", || world.far_head("far/bad", "main").as_deref() == Some(&head));

    world.s3().fail("GetObject", "AccessDenied", 1);
    let (head, key) = next(&world, &bad, "far/bad");
    event(&daemon, &minio_event(&key));
    daemon.wait_until_logged("failed: far/bad@main", 2);
    daemon.signal(Signal::USR1);
    wait_until("so is one that is asked for", || world.far_head("far/bad", "main").as_deref() == Some(&head));
    daemon.stop().succeeded();
}
