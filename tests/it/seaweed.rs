//! The way from end to end on an S3 server that is somebody else's.

use std::time::Instant;

use testbed::judge;
use testbed::seaweed::{Listener, Seaweed, free_ports};
use testbed::world::World;

use crate::site::status;
use crate::support::{Daemon, assert_holds, consumer, keys, pass, pass_with, run, tar_key, wait_until, zip_key};

#[track_caller]
fn world() -> World {
    assert!(Seaweed::is_installed(), "SeaweedFS is not installed: `make test` installs it and runs this");
    World::builder().seaweed().start().unwrap()
}

#[test]
fn on_seaweedfs_projects_are_published_followed_and_retired() {
    let world = world();
    let bucket = world.bucket().unwrap();
    let app = world.project("near/app").unwrap();
    let gone = world.project("near/gone").unwrap();
    let unicode = world.project("nähe/проект").unwrap();
    let far_app = world.sync("near/app", "main", "far/sub/app", "rel/1").unwrap();
    let far_gone = world.sync("near/gone", "main", "far/gone", "main").unwrap();
    let far_unicode = world.sync("nähe/проект", "main", "fern/ziel+plus", "ветка/日本").unwrap();
    let mut far_side = world.consumer().unwrap();

    pass(&world).succeeded().logged("published=3");
    assert_eq!(far_side.pass().unwrap().len(), 3);
    for (far, branch, source) in
        [(&far_app, "rel/1", &app), (&far_gone, "main", &gone), (&far_unicode, "ветка/日本", &unicode)]
    {
        assert_eq!(far.head(branch), source.head("main"));
    }
    let quiet = pass(&world).succeeded().logged("unchanged=3");
    assert_eq!(quiet.lines().len(), 1, "{}", quiet.log);

    let head = app.commits("main", 3).unwrap();
    world.unsync("far/gone", "main");
    bucket.put("foreign key + 100%.txt", "somebody else's").unwrap();
    pass(&world).succeeded().logged("published=1").logged("retired=1").logged("unchanged=1").logged("foreign=1");
    let key = zip_key("far/sub/app", "rel/1", &head);
    let mut expected = vec![
        key.clone(),
        zip_key("fern/ziel+plus", "ветка/日本", &unicode.head("main").unwrap()),
        "foreign key + 100%.txt".to_owned(),
    ];
    expected.sort();
    assert_eq!(keys(&world), expected);
    assert_holds(&world, &key, &app, &head, "rel/1");
    bucket.delete("foreign key + 100%.txt").unwrap();
    assert_eq!(far_side.pass().unwrap().len(), 1);
    assert_eq!(far_app.head("rel/1"), Some(head));
}

#[test]
fn on_seaweedfs_objects_of_several_parts_arrive_and_are_restored() {
    let world = world();
    let mut large = vec![];
    for (name, megabytes) in [("two-parts", 9), ("many-parts", 30)] {
        let source = world.source.repo(&format!("near/{name}")).unwrap();
        source.fill_incompressible(megabytes, megabytes as u64).unwrap();
        let destination = world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
        large.push((source, destination, megabytes));
    }
    pass(&world).succeeded().logged("published=2");
    let sizes: Vec<_> = world.bucket().unwrap().list().unwrap().into_iter().map(|object| object.size >> 20).collect();
    assert!(sizes.iter().any(|size| (9..12).contains(size)) && sizes.iter().any(|size| *size >= 30), "{sizes:?}");
    assert_eq!(world.bucket().unwrap().list_multipart_uploads().unwrap(), []);

    let into = world.scratch().unwrap().join("restored");
    let identity = world.identity_file().to_string_lossy().into_owned();
    let restore = run(&world, &["restore", "-identity", &identity, "-into", &into.to_string_lossy()]).succeeded();
    assert!(restore.out.contains("2 good, 0 bad, 0 missing"), "{}", restore.out);
    judge::git_fsck(&into.join("far/many-parts@main")).unwrap();

    world.consumer().unwrap().pass().unwrap();
    for (source, destination, _) in large {
        assert_eq!(destination.head("main"), source.head("main"));
    }
}

#[test]
fn on_seaweedfs_the_format_is_kept_and_can_be_changed() {
    let world = world();
    let source = world.project("near/app").unwrap();
    let destination = world.sync("near/app", "main", "far/app", "main").unwrap();
    pass_with(&world, "ARCHIVE_FORMAT", "tar.gz").succeeded();
    let head = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_eq!(keys(&world), [tar_key("far/app", "main", &head)]);
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head("main"), Some(head.clone()));
    pass_with(&world, "ARCHIVE_FORMAT", "zip").succeeded();
    assert_eq!(keys(&world), [zip_key("far/app", "main", &head)]);
    let list = run(&world, &["list"]).succeeded();
    assert!(list.out.contains("far/app") && list.out.contains("1 object,"), "{}", list.out);
}

#[test]
fn on_seaweedfs_a_key_of_the_greatest_length_works() {
    let world = world();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    let branch = [220, 220, 216].map(|length| "b".repeat(length)).join("/");
    let destination = world.sync("near/app", "main", "far/app", &branch).unwrap();
    pass(&world).succeeded();
    let key = zip_key("far/app", &branch, &head);
    assert_eq!(key.len(), 1_024);
    assert_eq!(keys(&world), [key]);
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head(&branch), Some(head));
}

/// From a producer's pass to the far branch, with nothing in between but the server's own notification.
#[test]
fn seaweedfs_tells_the_consumer_of_new_objects() {
    const SECRET: &str = "seaweed-event-secret-b770";
    let port = free_ports(1).unwrap()[0].to_string();
    let listener = Listener { url: format!("http://127.0.0.1:{port}/webhook"), token: SECRET.to_owned() };
    let world = World::builder()
        .seaweed()
        .listener(listener)
        .sleep("1h")
        .consumer_setting("WEBHOOK_SECRET", SECRET)
        .consumer_setting("METRICS_SERVER_PORT", &port)
        .start()
        .unwrap();
    world.destination.group("far").unwrap();
    let daemon = Daemon::spawn(consumer(&world, &[]));
    daemon.wait_until_logged("pass done", 1);

    let app = world.project("near/app").unwrap();
    // Of keys with a slash, the filer makes directories.
    let with_slash = |branch: &&str| zip_key("far/app", branch, &app.head("main").unwrap()).contains('/');
    let branch = ["ÿ", "ÿÿ", "aÿÿ", "ÿaÿ", "ÿÿÿ?"].into_iter().find(with_slash).unwrap();
    world.sync("near/app", "main", "far/app", branch).unwrap();
    // Its object is uploaded in parts.
    let large = world.source.repo("near/large").unwrap();
    large.fill_incompressible(9, 1).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    for _ in 0..2 {
        pass(&world).succeeded().logged("published=");
        let uploaded = Instant::now();
        for (source, name, branch) in [(&app, "far/app", branch), (&large, "far/large", "main")] {
            let head = source.head("main");
            wait_until("it is on the far side", || world.far_head(name, branch) == head);
            println!("{name} {:.2} s after the producer's pass", uploaded.elapsed().as_secs_f64());
            source.commits("main", 1).unwrap();
        }
    }
    let triggers: Vec<_> =
        status(&daemon)["history"].as_array().unwrap().iter().map(|pass| pass["trigger"].to_string()).collect();
    assert!(triggers[1..].iter().all(|trigger| trigger == "\"event\""), "{triggers:?}");
    daemon.stop().succeeded();
}
