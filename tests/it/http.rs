//! The program's own server: health, readiness, status as JSON, and how it stands up to bad clients.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use testbed::git::GitFault;
use testbed::graphql::{Canned, SyncTarget};
use testbed::world::{World, WorldBuilder};
use tokio::net::TcpSocket;

use crate::site::{address, get, pass_now, request, status};
use crate::support::{Daemon, PATIENCE, Run, keys, program, run, wait_until, zip_key};

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
    refused.logged("METRICS_SERVER_PORT: cannot listen on 127.0.0.1:").logged("(choose another METRICS_SERVER_PORT)");
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
        answer.status == 503 && answer.body.contains("reading targets, branches and bucket")
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
    for path in ["/nothing", "/docs/nothing.md", "/status", "/%3Cscript%3E"] {
        let answer = get(&daemon, path);
        assert_eq!((answer.status, answer.header("content-type")), (404, "text/plain; charset=utf-8"), "{path}");
        for named in ["/status.json ", "/docs/ ", "/metrics ", "/healthz ", "/readyz "] {
            assert!(answer.body.contains(named), "{}", answer.body);
            assert!([200, 307, 503].contains(&get(&daemon, named.trim()).status), "{named}");
        }
        assert!(!answer.body.contains("script") && !answer.body.contains("nothing.md"), "{}", answer.body);
    }
    for (path, to) in [("/docs", "docs/operations.md"), ("/docs/", "operations.md")] {
        let answer = get(&daemon, path);
        assert_eq!((answer.status, answer.header("location")), (307, to));
    }
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
            // Most are closed at once.
            drop(connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n"));
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

/// A connection from another address of this machine.
fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes, up to the end or to where it breaks off.
fn read_all(mut connection: TcpStream) -> Vec<u8> {
    let mut answer = vec![];
    drop(connection.read_to_end(&mut answer));
    answer
}

/// How long the manifests let a probe take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server lets a connection last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// A world with webhooks, and the beginning of one's request, with the length of a body that does not come.
fn with_webhooks() -> (WorldBuilder, String) {
    const SECRET: &str = "hook-secret-1f9c";
    let head = format!(
        "POST /hooks/gitlab HTTP/1.1\r\nHost: x\r\nX-Gitlab-Token: {SECRET}\r\nX-Gitlab-Event: Push Hook\r\n\
         Content-Length: 20\r\n\r\n{{"
    );
    (World::builder().sleep("1h").setting("WEBHOOK_SECRET", SECRET), head)
}

#[test]
fn a_flood_from_one_address_does_not_keep_out_others() {
    let (world, unfinished) = with_webhooks();
    let world = world.start().unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let address = address(&daemon);
    let mut early = connect_from("127.0.0.2", address);
    early.write_all(unfinished.as_bytes()).unwrap();
    // Idle connections, more of them all the time, as fast as this machine can.
    let over = AtomicBool::new(false);
    let probes: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                held.extend(TcpStream::connect(address));
                if held.len() > 300 {
                    held.pop_front();
                }
            }
        });
        let probes = (0..30).map(|_| {
            let begun = Instant::now();
            let mut probe = connect_from("127.0.0.3", address);
            probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            (read_all(probe), begun.elapsed())
        });
        let probes = probes.collect();
        over.store(true, Ordering::Relaxed);
        probes
    });
    let slowest = probes.iter().map(|(_, took)| took).max().unwrap();
    assert!(probes.iter().all(|(answer, _)| answer.starts_with(b"HTTP/1.1 200")), "a probe was not answered");
    assert!(*slowest < PROBE_TIMEOUT, "the kubelet would have given up: {slowest:?}");
    early.write_all(&[b' '; 19]).unwrap();
    let answer = read_all(early);
    assert!(answer.starts_with(b"HTTP/1.1 400"), "who was there before was not cut off for the flood: {answer:?}");
}

#[test]
fn clients_that_stop_in_the_middle_are_cut_off_and_hold_up_nobody_meanwhile() {
    let (world, unfinished) = with_webhooks();
    let world = world.start().unwrap();
    // An answer larger than what the kernel takes for a client that does not read.
    let name = "n".repeat(200);
    let targets = (0..7_000).map(|n| SyncTarget::new("near/gone", "main", &format!("far/{name}/{name}-{n}"), "main"));
    world.graphql.set_targets(targets.collect());
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let address = address(&daemon);
    let begun = Instant::now();
    let begin = |request: &str| {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        connection
    };
    let writers = [(); 2].map(|()| begin(&unfinished));
    let readers = [(); 2].map(|()| begin("GET /status.json HTTP/1.1\r\nHost: x\r\n\r\n"));
    // The large answers are made first.
    assert_eq!(get(&daemon, "/healthz").status, 200);
    let probes = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(&daemon, "/healthz").status, 200);
    }
    assert!(probes.elapsed() < PROBE_TIMEOUT, "{:?}", probes.elapsed());
    for writer in writers {
        assert_eq!(read_all(writer), b"", "no answer to half a request");
    }
    let took = begun.elapsed();
    assert!((CONNECTION_TIMEOUT - Duration::from_secs(1)..CONNECTION_TIMEOUT * 2).contains(&took), "{took:?}");
    thread::sleep((CONNECTION_TIMEOUT + Duration::from_secs(2)).saturating_sub(begun.elapsed()));
    for reader in readers {
        let answer = read_all(reader);
        let head = String::from_utf8_lossy(&answer[..answer.len().min(1_000)]).to_lowercase();
        let (_, rest) = head.split_once("content-length: ").unwrap();
        let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
        assert!(answer.len() < length, "{} of {length} bytes: it was not cut off", answer.len());
    }
    assert_eq!(get(&daemon, "/healthz").status, 200);
}

#[test]
fn what_is_under_way_shows_its_bytes_and_its_rate_until_it_stands_still() {
    let world = World::builder().sleep("1h").start().unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world.s3().hold("CompleteMultipartUpload");
    let daemon = Daemon::spawn(program(&world, &[]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    let running = || status(&daemon)["running"][0].clone();
    let during = running();
    assert_eq!(during["stage"], "uploading");
    assert!(during["bytes"].as_u64().unwrap() > 20 << 20, "{during}");
    assert!(during["bytes_per_second"].as_u64().unwrap() > 0, "{during}");
    let page = get(&daemon, "/").body;
    assert!(page.contains("iB/s ·"), "{page}");
    wait_until("nothing moves any more", || running()["bytes_per_second"] == 0);
    assert_eq!(running()["bytes"], during["bytes"]);
    assert!(get(&daemon, "/").body.contains(" · 0 B/s · "));
}

#[test]
fn any_query_is_answered_with_a_page() {
    let (_world, daemon) = at_rest();
    for query in
        ["q=a&q=far", "q=%ff%00", "state=nonsense", "cause=nonsense&page=-1", "page=99999999999999999999", "&&=&"]
    {
        let answer = get(&daemon, &format!("/?{query}"));
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.body.contains("</html>"), "{query}");
    }
    assert!(get(&daemon, "/?q=nowhere&q=far").body.contains("data-key=\"far/p@main\""), "the last one counts");
}

#[test]
fn long_answers_are_compressed_for_whoever_takes_that() {
    let (_world, daemon) = at_rest();
    let ask = |path: &str, headers: &str| {
        let mut connection = TcpStream::connect(address(&daemon)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).unwrap();
        let answer = read_all(connection);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
    };
    for path in ["/", "/status.json", "/metrics", "/assets/status.js"] {
        let (head, plain) = ask(path, "");
        assert!(!head.contains("content-encoding"), "{head}");
        let (head, _) = ask(path, "Accept-Encoding: gzip;q=0\r\n");
        assert!(!head.contains("content-encoding"), "a client that refuses gzip: {head}");
        let (head, compressed) = ask(path, "Accept-Encoding: br, gzip\r\n");
        if plain.len() < 1_400 {
            continue;
        }
        assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
        assert!(head.contains(&format!("content-length: {}", compressed.len())), "{head}");
        assert!(head.contains("content-security-policy"), "{head}");
        assert!(compressed.len() * 3 < plain.len() * 2, "{path}: {} of {}", compressed.len(), plain.len());
        let mut unpacked = vec![];
        GzDecoder::new(&compressed[..]).read_to_end(&mut unpacked).unwrap();
        // Times differ from one answer to the next.
        assert!(unpacked.len().abs_diff(plain.len()) < 32 && unpacked.starts_with(&plain[..10]), "{path}");
    }
    assert!(!ask("/healthz", "Accept-Encoding: gzip\r\n").0.contains("content-encoding"), "short ones are not");
}

#[test]
fn sigusr1_starts_a_full_pass_now() {
    let (world, daemon) = at_rest();
    let other = world.project("near/q").unwrap();
    world.sync("near/q", "main", "far/q", "main").unwrap();
    pass_now(&daemon);
    assert!(keys(&world).contains(&zip_key("far/q", "main", &other.head("main").unwrap())));
    assert!(daemon.log().contains("a full pass was requested"));
    daemon.stop().succeeded();
}

#[test]
fn the_status_comes_in_pages_for_those_who_ask_for_them() {
    let (world, daemon) = at_rest();
    let targets = (0..7).map(|n| SyncTarget::new("near/p", "main", &format!("far/p-{n}"), "main"));
    world.graphql.set_targets(targets.collect());
    // The destination that they replace goes once they are there.
    pass_now(&daemon);
    pass_now(&daemon);
    let all = status(&daemon);
    assert_eq!(all["targets"].as_array().unwrap().len(), 7);
    assert!(all.get("page").is_none() && all.get("pages").is_none(), "{all}");
    let page = |query: &str| -> serde_json::Value {
        serde_json::from_str(&get(&daemon, &format!("/status.json?{query}")).body).unwrap()
    };
    let pages = [1, 2, 3, 4].map(|n| page(&format!("limit=3&page={n}")));
    assert_eq!(pages.each_ref().map(|page| page["targets"].as_array().unwrap().len()), [3, 3, 1, 0]);
    let joined: Vec<_> = pages.iter().flat_map(|page| page["targets"].as_array().unwrap().clone()).collect();
    assert_eq!(serde_json::Value::from(joined), all["targets"]);
    for (n, page) in (1..).zip(&pages) {
        assert_eq!((&page["page"], &page["pages"], &page["counts"]), (&n.into(), &3.into(), &all["counts"]));
    }
    assert_eq!(page("page=1")["targets"], all["targets"]);
    for query in ["limit=0", "limit=10001", "limit=x", "page=0", "limit=3&page=-1"] {
        let answer = get(&daemon, &format!("/status.json?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains("is not a number from 1 to"), "{}", answer.body);
    }
    assert_eq!(page("page=18446744073709551615&limit=10000")["targets"], serde_json::json!([]));
}

/// `health` of a program, with nothing set but the port, and a proxy that is away.
fn health(program: &str, port: u16) -> Run {
    let mut command = Command::new(program);
    command.env_clear().env("METRICS_SERVER_PORT", port.to_string()).env("HTTP_PROXY", "http://127.0.0.1:1");
    Run::from(command.arg("health").output().unwrap())
}

#[test]
fn health_asks_the_program_s_own_port() {
    let (_world, daemon) = at_rest();
    let port = address(&daemon).port();
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let stuck_port = stuck.local_addr().unwrap().port();
    let answering = thread::spawn(move || {
        for program in ["producer", "consumer"] {
            let head = format!("HTTP/1.1 503 Service Unavailable\r\nServer: git-partition-sync-{program}\r\n");
            let answer = format!("{head}\r\nno progress for an hour\n");
            let (mut connection, _) = stuck.accept().unwrap();
            let read = connection.read(&mut [0; 1_000]).unwrap();
            assert!(read > 0);
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    let programs =
        [env!("CARGO_BIN_EXE_git-partition-sync-producer"), env!("CARGO_BIN_EXE_git-partition-sync-consumer")];
    let run = health(programs[0], port).succeeded();
    assert_eq!((run.out.as_str(), run.log.as_str()), ("ok\n", ""));
    health(programs[1], port).failed().logged("another program answers");
    for program in programs {
        let run = health(program, stuck_port).failed();
        assert_eq!(run.out, "no progress for an hour\n");
    }
    answering.join().unwrap();
    daemon.stop().succeeded();
    for program in programs {
        health(program, port)
            .failed()
            .logged(&format!("no daemon answers on 127.0.0.1:{port}: "))
            .logged("(METRICS_SERVER_PORT must be the daemon's)");
        health(program, 0).refused().logged("METRICS_SERVER_PORT: 0 is any free port");
    }
}
