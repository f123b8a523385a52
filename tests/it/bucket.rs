//! What the bucket holds already, and what a pass makes of it.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use testbed::fault::{ALWAYS, Fault, Proxy, Seen};
use testbed::graphql::SyncTarget;
use testbed::repo::Repo;
use testbed::s3::S3Options;
use testbed::world::World;

use crate::support::{Daemon, OURS, Run, assert_holds, count, keys, pass, program, run, wait_until, zip_key};

const OLD_COMMIT: &str = "1111111111111111111111111111111111111111";

/// A world with one project in sync, and a key of an older commit of the same destination.
fn in_sync() -> (World, Repo, String, String) {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let current = zip_key("far/app", "main", &source.head("main").unwrap());
    world.s3().clear_requests();
    (world, source, current, zip_key("far/app", "main", OLD_COMMIT))
}

fn modified(world: &World, key: &str) -> SystemTime {
    world.s3().objects().into_iter().find(|object| object.key == key).unwrap().last_modified
}

#[test]
fn older_leftover_is_swept_without_an_upload() {
    let (world, _, current, stale) = in_sync();
    let time = modified(&world, &current);
    world.s3().put_at(&stale, "stale", time - Duration::from_secs(60));
    pass(&world).succeeded().logged("swept far/app@main").logged("swept=1");
    assert_eq!(keys(&world), [&*current]);
    assert_eq!(modified(&world, &current), time);
    let requests = world.s3().requests();
    assert_eq!((count(&requests, "PutObject"), count(&requests, "DeleteObject")), (0, 1));
}

#[test]
fn newer_leftover_goes_only_after_the_current_commit_is_published_again() {
    for newer_by in [Duration::ZERO, Duration::from_secs(60)] {
        let (world, source, current, stale) = in_sync();
        let time = SystemTime::now() - Duration::from_secs(3_600);
        world.s3().set_last_modified(&current, time).unwrap();
        world.s3().put_at(&stale, "stale", time + newer_by);
        pass(&world).succeeded().logged("an outdated object is newer than the current one").logged("published=1");
        assert_eq!(keys(&world), [&*current]);
        assert!(modified(&world, &current) > time + newer_by);
        let operations: Vec<_> = world.s3().requests().into_iter().filter_map(|request| request.operation).collect();
        let at = |wanted: &str| operations.iter().position(|operation| operation == wanted);
        assert!(at("PutObject").unwrap() < at("DeleteObject").unwrap(), "{operations:?}");
        assert_holds(&world, &current, &source, &source.head("main").unwrap(), "main");
    }
}

#[test]
fn several_leftovers_of_a_new_commit_all_go() {
    let (world, source, current, stale) = in_sync();
    world.s3().put_at(&stale, "stale", SystemTime::now() - Duration::from_secs(60));
    let new = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_ne!(keys(&world), [current]);
    assert_eq!(keys(&world), [zip_key("far/app", "main", &new)]);
}

#[test]
fn retired_destination_loses_all_its_objects() {
    let (world, _, current, stale) = in_sync();
    world.s3().put(&stale, "stale");
    world.project("near/other").unwrap();
    world.sync("near/other", "main", "far/other", "main").unwrap();
    world.unsync("far/app", "main");
    pass(&world).succeeded().logged("retired=1");
    assert!(!keys(&world).contains(&current) && !keys(&world).contains(&stale));
    assert_eq!(keys(&world).len(), 1);
}

/// Names that are not ours, each in its own way.
fn foreign_keys() -> Vec<String> {
    let zip = zip_key("far/app", "main", OLD_COMMIT);
    vec![
        "README.md".to_owned(),
        "backup/2024/db.zip.age".to_owned(),
        format!("prefix/{zip}"),
        zip.replace(".zip.age", ".zip"),
        zip.replace(".zip.age", ".rar.age"),
        zip_key("far/app", "maint", OLD_COMMIT).replace("==.zip.age", ".zip.age"),
        "e30=.zip.age".to_owned(),
        "control\u{1b}[2J.zip.age".to_owned(),
    ]
}

#[test]
fn foreign_objects_stay_and_are_counted() {
    let (world, ..) = in_sync();
    let foreign = foreign_keys();
    for key in &foreign {
        world.s3().put(key, "somebody else's");
    }
    world.project("near/other").unwrap();
    world.sync("near/other", "main", "far/other", "main").unwrap();
    world.unsync("far/app", "main");
    let run = pass(&world).succeeded().logged(&format!("foreign={}", foreign.len()));
    assert!(!run.log.contains('\u{1b}'), "{:?}", run.log);
    for key in &foreign {
        assert_eq!(world.s3().get(key).unwrap().as_deref(), Some(&b"somebody else's"[..]), "{key:?}");
    }
    assert_eq!(world.s3().keys().len(), foreign.len() + 1);
}

#[test]
fn foreign_objects_are_logged_once_in_a_daemons_life() {
    let (world, ..) = in_sync();
    world.s3().put("README.md", "somebody else's");
    let daemon = Daemon::start(&world, &[]);
    wait_until("three passes have listed the bucket", || count(&world.s3().requests(), "ListObjectsV2") > 3);
    world.s3().put("LICENSE", "somebody else's");
    let listed = count(&world.s3().requests(), "ListObjectsV2");
    wait_until("more passes have", || count(&world.s3().requests(), "ListObjectsV2") > listed + 3);
    let run = daemon.stop().succeeded();
    let lines: Vec<_> = run.log.lines().filter(|line| line.contains("foreign names")).collect();
    assert_eq!(lines.len(), 2, "{}", run.log);
    assert!(lines[0].contains("README.md") && lines[1].contains("LICENSE"), "{lines:?}");
}

/// A world whose bucket holds the current object of many destinations, without anything having been uploaded.
fn many(count: usize, options: S3Options) -> (World, Vec<String>) {
    let world = World::builder().s3(options).start().unwrap();
    let head = world.project("near/app").unwrap().head("main").unwrap();
    let branches = (0..count).map(|n| format!("branch-{n:05}"));
    let (targets, mut expected): (Vec<_>, Vec<_>) = branches
        .map(|branch| (SyncTarget::new("near/app", "main", "far/app", &branch), zip_key("far/app", &branch, &head)))
        .unzip();
    world.graphql.set_targets(targets);
    expected.sort();
    for key in &expected {
        world.s3().put(key, "as if published");
    }
    (world, expected)
}

#[test]
fn objects_beyond_the_first_page_are_seen() {
    let (world, expected) = many(2_100, S3Options::default());
    for n in 0..50 {
        world.s3().put(&format!("foreign-{n}"), "somebody else's");
    }
    pass(&world).succeeded().logged("unchanged=2100").logged("foreign=50");
    assert_eq!(
        world.s3().keys().iter().filter(|key| !key.starts_with("foreign-")).cloned().collect::<Vec<_>>(),
        expected
    );
    let requests = world.s3().requests();
    assert_eq!(count(&requests, "ListObjectsV2"), 3);
    assert_eq!((count(&requests, "PutObject"), count(&requests, "DeleteObject")), (0, 0));
    assert_eq!(count(&world.source.requests(), "ls-refs"), 1);
}

#[test]
fn destination_on_the_last_page_is_retired() {
    let (world, mut expected) = many(25, S3Options { page_keys: 10, ..S3Options::default() });
    let last = expected.pop().unwrap();
    let mut targets = world.graphql.targets();
    let head = world.project("near/app").unwrap().head("main").unwrap();
    targets.retain(|target| zip_key("far/app", &target.destination.branch, &head) != last);
    world.graphql.set_targets(targets);
    pass(&world).succeeded().logged("retired=1").logged("unchanged=24");
    assert_eq!(count(&world.s3().requests(), "ListObjectsV2"), 3);
    assert_eq!(keys(&world), expected);
}

#[test]
fn only_the_page_itself_says_which_one_follows() {
    let (world, expected) = many(25, S3Options { page_keys: 10, ..S3Options::default() });
    let misleading = Fault::alter(|page| {
        let elsewhere = "<!-- <NextContinuationToken>elsewhere</NextContinuationToken> --><IsTruncated>";
        String::from_utf8(page).unwrap().replacen("<IsTruncated>", elsewhere, 1).into_bytes()
    });
    with_habit(&world, &["-run-once"], "ListObjectsV2", misleading).succeeded().logged("unchanged=25");
    assert_eq!(keys(&world), expected);
}

/// Runs the program with this fault in all answers to such requests.
fn with_habit(world: &World, arguments: &[&str], operation: &'static str, habit: Fault) -> Run {
    let front = Proxy::start(&world.s3().url()).unwrap();
    front.on(move |seen: &Seen| seen.operation() == operation, ALWAYS, habit);
    let run = program(world, arguments).env("AWS_ENDPOINT_URL_S3", front.url()).output().unwrap().into();
    assert!(front.hits() > 0, "{operation} was not asked for");
    run
}

/// Changes the text of each listed key.
fn keys_as(change: impl Fn(&str) -> String + Send + Sync + 'static) -> Fault {
    Fault::alter(move |page| {
        let page = String::from_utf8(page).unwrap();
        let (before, keys) = page.split_once("<Key>").map(|(before, rest)| (before.to_owned(), rest)).unwrap();
        let keys = keys.split("<Key>").map(|rest| {
            let (key, rest) = rest.split_once("</Key>").unwrap();
            format!("<Key>{}</Key>{rest}", change(key))
        });
        (before + &keys.collect::<String>()).into_bytes()
    })
}

fn without_its_word(page: Fault) -> Fault {
    let Fault::Alter(change) = page else { panic!("{page:?} alters nothing") };
    Fault::alter(move |page| {
        let page = String::from_utf8(change(page)).unwrap();
        assert!(page.contains("<EncodingType>url</EncodingType>"), "{page}");
        page.replace("<EncodingType>url</EncodingType>", "").into_bytes()
    })
}

/// A world in sync, whose keys have every character of base64 that a URL encodes.
fn with_odd_keys() -> (World, Vec<String>) {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    let names = (0..).map(|n| format!("~>?{}", "x".repeat(n)));
    let mut lacking = vec!['+', '='];
    let mut targets = vec![];
    for name in names.take(9) {
        // `?` is in no branch's name, and `~` neither; in a group both are fine.
        let key = zip_key(&format!("far/{name}/app"), "main", &head);
        lacking.retain(|c| !key.contains(*c));
        targets.push(SyncTarget::new("near/app", "main", &format!("far/{name}/app"), "main"));
    }
    assert!(lacking.is_empty(), "no key has {lacking:?}");
    world.graphql.set_targets(targets);
    pass(&world).succeeded().logged("published=9");
    let held = keys(&world);
    world.s3().clear_requests();
    (world, held)
}

#[test]
fn keys_are_read_however_the_server_encodes_them() {
    let (world, held) = with_odd_keys();
    let again = |key: &str| key.replace('%', "%25");
    for (name, habit) in [
        ("a plus sign as it is, said to be encoded", keys_as(|key| key.replace("%2B", "+"))),
        ("nothing encoded, said to be", keys_as(|key| key.replace("%2B", "+").replace("%3D", "=").replace("%2F", "/"))),
        ("encoded, and not said so", without_its_word(keys_as(str::to_owned))),
        ("encoded twice", keys_as(again)),
    ] {
        let run = with_habit(&world, &["-run-once"], "ListObjectsV2", habit).succeeded();
        assert!(run.log.contains("unchanged=9") && run.log.contains("foreign=0"), "{name}\n{}", run.log);
    }
    assert_eq!(keys(&world), held);
    assert_eq!(count(&world.s3().requests(), "PutObject"), 0);
}

#[test]
fn an_object_that_is_listed_twice_counts_once() {
    let (world, _, current, _) = in_sync();
    let twice = || {
        Fault::alter(|page| {
            let page = String::from_utf8(page).unwrap();
            let (start, end) =
                (page.find("<Contents>").unwrap(), page.rfind("</Contents>").unwrap() + "</Contents>".len());
            format!("{}{}", &page[..end], &page[start..]).into_bytes()
        })
    };
    with_habit(&world, &["-run-once"], "ListObjectsV2", twice()).succeeded().logged("unchanged=1");
    assert_eq!(count(&world.s3().requests(), "PutObject"), 0);
    let listed = with_habit(&world, &["list", "-output=json"], "ListObjectsV2", twice()).succeeded().json();
    assert_eq!(listed["objects"].as_array().unwrap().len(), 1);
    assert_eq!(keys(&world), [current]);
}

#[test]
fn an_upload_that_the_next_listing_lacks_is_an_error_that_says_so() {
    let (world, source, ..) = in_sync();
    let front = Proxy::start(&world.s3().url()).unwrap();
    // A cache that never forgets.
    let first = Mutex::new(None);
    let stale = Fault::alter(move |page| first.lock().unwrap().get_or_insert(page).clone());
    front.on(|seen: &Seen| seen.operation() == "ListObjectsV2", ALWAYS, stale);
    let mut command = program(&world, &["-reconcile-sleep-time=10ms", "-metrics-server-port=0"]);
    command.env("AWS_ENDPOINT_URL_S3", front.url());
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 2);
    assert!(!daemon.log().contains("lost: "), "{}", daemon.log());
    source.commits("main", 1).unwrap();
    daemon.wait_until_logged("lost: far/app@main", 2);
    // What the cache says is wrong once only, and then nothing is lost any more.
    front.clear();
    let done = daemon.log().matches("pass done published=0").count();
    daemon.wait_until_logged("pass done published=0", done + 2);
    let run = daemon.stop().succeeded();
    let lost = run.lines_with("lost: far/app@main");
    assert!(lost.iter().all(|line| line.contains("is not in the next listing of the bucket")), "{lost:?}");
    assert!(run.log.contains("pass done, not everything is in sync"), "{}", run.log);
    let last = run.log.lines().rfind(|line| line.contains("pass done")).unwrap();
    assert!(last.contains("unchanged=1"), "{last}");
}

#[test]
fn what_one_run_uploaded_and_the_next_does_not_find_is_an_error() {
    let (world, source, ..) = in_sync();
    pass(&world).succeeded();
    let record = world.workdir().join(OURS).join("unseen-uploads.json");
    assert!(!record.exists(), "nothing was uploaded");
    let next = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert!(record.exists());
    assert!(world.s3().delete(&zip_key("far/app", "main", &next)));
    // A preview looks for nothing, and a pass that could not list has not looked.
    run(&world, &["-run-once", "-dry-run"]).succeeded();
    world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    pass(&world).failed();
    for _ in 0..2 {
        let run = pass(&world).failed().logged("pass done, not everything is in sync published=1");
        let lost = run.lines_with("lost: far/app@main");
        assert!(lost.len() == 1 && lost[0].contains("is not in the next listing of the bucket"), "{}", run.log);
        assert!(world.s3().delete(&zip_key("far/app", "main", &next)));
    }
    // What no target wants any more is not missed.
    world.unsync("far/app", "main");
    pass(&world).succeeded();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded().logged("published=1");
    pass(&world).succeeded();
    assert!(!record.exists(), "a listing has shown it");
}

#[test]
fn deleting_what_is_not_there_may_be_answered_by_404() {
    let (world, ..) = in_sync();
    let habit = |code| Fault::s3_error(404, code);
    let run = with_habit(&world, &["check"], "DeleteObject", habit("NoSuchKey")).succeeded();
    assert!(run.out.contains("allowed; nothing was deleted"), "{}", run.out);
    let run = with_habit(&world, &["check"], "DeleteObject", habit("NoSuchBucket")).failed();
    assert!(run.out.contains("NoSuchBucket"), "{}", run.out);
}

#[test]
fn foreign_objects_are_counted_and_a_few_are_named() {
    let (world, ..) = in_sync();
    for n in 0..50 {
        world.s3().put(&format!("foreign-{n:02}"), "somebody else's");
    }
    let listed = run(&world, &["list", "-output=json"]).succeeded().json();
    assert_eq!(listed["foreign_count"], 50);
    let named = listed["foreign"].as_array().unwrap();
    assert_eq!((named.len(), &named[0]), (20, &serde_json::json!("foreign-00")));
    assert!(run(&world, &["list"]).succeeded().out.contains(", 50 foreign"));
}
