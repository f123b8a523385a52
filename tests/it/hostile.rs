//! Servers that answer with what no good server would: too much, or damaged.

use std::process::Stdio;
use std::time::Duration;

use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::mutate::mutated;
use testbed::world::World;

use crate::support::{Daemon, Run, keys, pass, program, run, zip_key};

/// How long a listing without an end may keep the program busy. Without a guard, it would be 15 minutes.
const LISTING_LIMIT: Duration = Duration::from_secs(20);

/// A world in sync, with a proxy in front of its S3 server.
fn in_sync() -> (World, Proxy) {
    let world = World::start().unwrap();
    for name in ["a", "b"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    pass(&world).succeeded();
    let proxy = Proxy::start(&world.s3().url()).unwrap();
    (world, proxy)
}

/// A world with a good and a hostile project, a proxy in front of its Git server, and the good one's head.
fn good_and_hostile() -> (World, Proxy, String) {
    let world = World::start().unwrap();
    let good = world.project("near/good").unwrap().head("main").unwrap();
    world.project("near/hostile").unwrap();
    for name in ["good", "hostile"] {
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let proxy = Proxy::start(&world.source.url()).unwrap();
    (world, proxy, good)
}

#[track_caller]
fn through(world: &World, proxy: &Proxy, arguments: &[&str]) -> Run {
    program(world, arguments).env("AWS_ENDPOINT_URL_S3", proxy.url()).output().unwrap().into()
}

#[test]
fn a_listing_that_would_fill_the_memory_is_not_read() {
    let (world, proxy) = in_sync();
    let before = keys(&world);
    let long = |body: Vec<u8>| {
        let text = String::from_utf8(body).unwrap();
        text.replacen("<Contents>", &format!("<Padding>{}</Padding><Contents>", "x".repeat(20 << 20)), 1).into_bytes()
    };
    proxy.on(|seen| seen.operation() == "ListObjectsV2", ALWAYS, Fault::alter(long));
    let run = through(&world, &proxy, &["-run-once"]).failed();
    run.logged("S3 cannot list the bucket").logged("length limit exceeded");
    assert!(proxy.hits() > 0);
    assert_eq!(keys(&world), before);
}

#[test]
fn a_listing_without_an_end_is_given_up() {
    let (world, proxy) = in_sync();
    let before = keys(&world);
    let object = "<Contents><Key>x</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>";
    for page in 0..25 {
        let body = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{page}</NextContinuationToken>\
             {}</ListBucketResult>",
            object.repeat(50_000)
        );
        let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
        let answer = Fault::Answer { status: 200, headers, body: body.into_bytes() };
        proxy.on(|seen| seen.operation() == "ListObjectsV2", 1, answer);
    }
    through(&world, &proxy, &["-run-once"]).failed().logged("the bucket holds more than 1000000 objects");
    // The next one may be under way already.
    assert!((21..=22).contains(&proxy.hits()), "{} pages", proxy.hits());
    assert_eq!(keys(&world), before);
}

#[test]
fn an_object_s_content_may_be_longer_than_any_other_answer() {
    let world = World::start().unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(20, 9).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    pass(&world).succeeded();
    assert!(world.s3().objects()[0].size > 16 << 20, "longer than any answer that is held in memory");
    let identity = world.identity_file().to_str().unwrap();
    let restored = run(&world, &["restore", "-identity", identity]).succeeded();
    assert!(restored.out.contains("1 good, 0 bad, 0 missing"), "{}", restored.out);
}

#[test]
fn what_an_s3_server_says_is_shown_in_few_words() {
    let (world, proxy) = in_sync();
    let error =
        format!("<Error><Code>AccessDenied</Code><Message>\u{9b}31m{}</Message></Error>", "no ".repeat(100_000));
    let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
    proxy.on(|_| true, ALWAYS, Fault::Answer { status: 403, headers, body: error.into_bytes() });
    let run = through(&world, &proxy, &["list"]).failed().logged("AccessDenied: ").logged("check the bucket's policy");
    assert!(run.log.len() < 2_000, "{} bytes", run.log.len());
    assert!(!run.log.contains('\u{9b}'), "{}", run.log);
}

#[test]
fn damaged_listings_are_errors_or_lists_and_never_the_end_of_the_program() {
    let (world, _) = in_sync();
    let (mut listed, mut failed) = (0, 0);
    let start = |seed| {
        let proxy = Proxy::start(&world.s3().url()).unwrap();
        proxy.on(|seen| seen.operation() == "ListObjectsV2", ALWAYS, Fault::alter(move |body| mutated(&body, seed)));
        let mut command = program(&world, &["list"]);
        command.env("AWS_ENDPOINT_URL_S3", proxy.url()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (seed, command.spawn().unwrap(), proxy)
    };
    // All together: most of the time they wait before they try again.
    for (seed, listing, _proxy) in (0..40).map(start).collect::<Vec<_>>() {
        let run = Run::from(listing.wait_with_output().unwrap());
        match run.status {
            0 => listed += 1,
            1 => failed += 1,
            status => panic!("seed {seed}: status {status}\n{}", run.log),
        }
        assert!(!run.log.contains("panicked"), "seed {seed}\n{}", run.log);
    }
    assert!(listed > 0 && failed > 0, "{listed} listed, {failed} failed");
}

#[test]
fn a_list_of_refs_that_would_fill_the_memory_is_not_read() {
    let (world, proxy, good) = good_and_hostile();
    let endless = |_| {
        let line = format!("{} refs/heads/main{}\n", "a".repeat(40), "x".repeat(60_000));
        let packet = format!("{:04x}{line}", line.len() + 4);
        packet.repeat((70 << 20) / packet.len()).into_bytes()
    };
    proxy.on(|seen| seen.path.contains("hostile"), ALWAYS, Fault::alter(endless));
    let run: Run = program(&world, &["-run-once"]).env("GITLAB_BASE_URL", proxy.url()).output().unwrap().into();
    run.failed().logged("cannot read near/hostile: the answer is longer than 67108864 bytes");
    assert_eq!(keys(&world), [zip_key("far/good", "main", &good)]);
}

#[test]
fn a_pack_that_trickles_for_ever_costs_its_own_target_the_time_limit_and_nobody_else_anything() {
    let (world, proxy, good) = good_and_hostile();
    // Never silent for long, and not done within the hour.
    let trickle = Fault::Trickle { pieces: 20_000, pause: Duration::from_millis(200) };
    proxy.on(|seen| seen.operation() == "fetch" && seen.path.contains("hostile"), ALWAYS, trickle);
    let mut command = program(&world, &["-run-once"]);
    command.env("GITLAB_BASE_URL", proxy.url()).env("TARGET_TIMEOUT", "3s").env("IDLE_TIMEOUT", "2s");
    let run: Run = command.output().unwrap().into();
    run.failed().logged("failed: far/hostile@main").logged("not finished within TARGET_TIMEOUT (3 s)");
    assert_eq!(keys(&world), [zip_key("far/good", "main", &good)]);
}

#[test]
fn a_listing_that_hands_out_a_token_twice_ends_at_once() {
    let (world, proxy) = in_sync();
    let before = keys(&world);
    let page = |token: &str| {
        let body = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>\
             </ListBucketResult>"
        );
        Fault::Answer { status: 200, headers: vec![], body: body.into_bytes() }
    };
    // Two tokens take turns.
    proxy.on(|seen| seen.query.contains("continuation-token=one"), ALWAYS, page("two"));
    proxy.on(|seen| seen.query.contains("list-type"), ALWAYS, page("one"));
    let mut command = program(&world, &["-run-once"]);
    command.env("AWS_ENDPOINT_URL_S3", proxy.url());
    let run = Daemon::spawn(command).ends_within(LISTING_LIMIT).failed();
    run.logged("S3 answered the request to list the bucket without an end");
    assert_eq!(keys(&world), before);
}
