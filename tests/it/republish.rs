//! Uploading again what has not changed, because the operator asks for it.

use std::os::unix::fs::PermissionsExt;

use testbed::world::World;

use crate::support::{Daemon, OURS, Run, assert_holds, keys, pass, pass_with, program, run, s3_writes, zip_key};

/// A world with the destinations `far/a`, `far/b` and `far/c`, all in sync, and nothing in the servers' logs.
fn in_sync() -> World {
    let world = World::builder().recipients(2).sleep("10ms").start().unwrap();
    for name in ["a", "b", "c"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let old_recipient = world.recipients()[1].to_owned();
    pass_with(&world, "PUBLIC_KEY", &old_recipient).succeeded();
    world.s3().clear_requests();
    world
}

fn key_of(world: &World, name: &str) -> String {
    zip_key(&format!("far/{name}"), "main", &world.source.repo(&format!("near/{name}")).unwrap().head("main").unwrap())
}

/// Keys of the objects uploaded since the log of requests was cleared.
fn uploaded(world: &World) -> Vec<String> {
    let requests = world.s3().requests();
    let puts = requests.iter().filter(|request| request.is("PutObject"));
    let bucket = format!("/{}/", world.s3().bucket());
    let mut keys: Vec<_> = puts.map(|request| request.path.strip_prefix(&bucket).unwrap().to_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn all_objects_are_uploaded_again_for_a_new_recipient_and_none_is_deleted() {
    let world = in_sync();
    let before = keys(&world);
    let quiet = pass(&world).succeeded();
    assert_eq!(s3_writes(&world), [""; 0], "a new recipient alone changes nothing");
    assert_eq!(quiet.lines_with("PUBLIC_KEY has changed").len(), 1, "{}", quiet.log);

    let again = run(&world, &["-run-once", "-republish=all"]).succeeded().logged("published=3");
    assert_eq!(again.lines_with("REPUBLISH asks for it again").len(), 3, "{}", again.log);
    assert_eq!(s3_writes(&world), ["PutObject"; 3]);
    assert_eq!(keys(&world), before);
    for name in ["a", "b", "c"] {
        let source = world.source.repo(&format!("near/{name}")).unwrap();
        // Unpacked with the first identity, which the objects from before are not for.
        assert_holds(&world, &key_of(&world, name), &source, &source.head("main").unwrap(), "main");
    }
    world.s3().clear_requests();
    pass(&world).succeeded();
    assert_eq!(s3_writes(&world), [""; 0], "the next pass is quiet");
}

#[test]
fn only_named_destinations_are_uploaded_again() {
    let world = in_sync();
    let before = keys(&world);
    run(&world, &["-run-once", "-republish=far/a@main,far/c"]).succeeded().logged("published=2");
    assert_eq!(uploaded(&world), {
        let mut expected = [key_of(&world, "a"), key_of(&world, "c")];
        expected.sort();
        expected
    });
    assert_eq!(keys(&world), before);
}

#[test]
fn a_name_that_no_target_has_ends_the_pass_before_anything_is_uploaded() {
    let world = in_sync();
    world.source.repo("near/b").unwrap().commits("main", 1).unwrap();
    for name in ["far/a@other", "far/nothing@main", "near/a@main"] {
        run(&world, &["-run-once", &format!("-republish=far/a@main,{name}")])
            .failed()
            .logged(&format!("REPUBLISH names {name}, not in the target list"));
    }
    assert_eq!(s3_writes(&world), [""; 0]);
    run(&world, &["-run-once", "-republish=a"]).refused().logged("REPUBLISH: \"a\" is not a destination");
}

#[test]
fn a_dry_run_shows_what_would_be_uploaded_again() {
    let world = in_sync();
    let run = run(&world, &["-run-once", "-dry-run", "-republish=far/b@main"]).succeeded();
    assert!(run.out.contains("Will publish (1):\n  far/b  main"), "{}", run.out);
    assert!(run.out.contains("REPUBLISH asks for it again"), "{}", run.out);
    assert_eq!(s3_writes(&world), [""; 0]);
}

#[test]
fn the_daemon_uploads_again_in_its_first_pass_and_not_in_those_after_it() {
    let world = in_sync();
    let daemon = Daemon::start(&world, &["-republish=all"]);
    daemon.wait_until_logged("pass done", 3);
    daemon.stop().succeeded();
    assert_eq!(s3_writes(&world), ["PutObject"; 3]);
}

#[test]
fn what_could_not_be_uploaded_again_is_tried_by_the_next_pass() {
    let world = in_sync();
    // In the first pass one upload is refused, and another's branch cannot be looked up.
    world.s3().fail("PutObject", "AccessDenied", 1);
    world.source.override_status("near/c", 404);
    let mut command = program(&world, &["-republish=all", "-sync-concurrency=1"]);
    command.env("RECONCILE_SLEEP_TIME", "200ms");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 2);
    assert_eq!(uploaded(&world).iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
    world.source.clear_overrides();
    daemon.wait_until_logged("published far/c@main", 1);
    let log = daemon.log();
    let passes = log.matches("pass done").count();
    daemon.wait_until_logged("pass done", passes + 2);
    let run = daemon.stop().succeeded();
    for name in ["a", "b", "c"] {
        assert_eq!(run.lines_with(&format!("published far/{name}@main")).len(), 1, "{}", run.log);
    }
}

#[test]
fn changed_recipients_are_said_at_each_start_until_everything_is_uploaded_again() {
    let world = in_sync();
    let warned = |run: &Run| run.lines_with("WARN PUBLIC_KEY has changed").len();
    for _ in 0..2 {
        assert_eq!(warned(&pass(&world).succeeded()), 1);
    }
    // Only a part of them.
    assert_eq!(warned(&run(&world, &["-run-once", "-republish=far/a"]).succeeded()), 1);
    world.s3().fail("PutObject", "AccessDenied", 1);
    assert_eq!(warned(&run(&world, &["-run-once", "-republish=all"]).failed()), 0, "it is being done");
    assert_eq!(warned(&pass(&world).succeeded()), 1, "one of them was not uploaded");
    run(&world, &["-run-once", "-republish=all"]).succeeded();
    let again = pass(&world).succeeded();
    assert!(!again.log.contains("PUBLIC_KEY"), "{}", again.log);
    // The same ones in another order are no change.
    let reversed: Vec<_> = world.recipients().into_iter().rev().map(str::to_owned).collect();
    let again = pass_with(&world, "PUBLIC_KEY", &reversed.join(",")).succeeded();
    assert!(!again.log.contains("PUBLIC_KEY"), "{}", again.log);
}

#[test]
fn on_recipient_change_uploads_everything_again_once_after_each_change() {
    let world = in_sync();
    let on_change = |recipients: &str| {
        world.s3().clear_requests();
        let mut command = program(&world, &["-run-once", "-republish=on-recipient-change"]);
        let run: Run = command.env("PUBLIC_KEY", recipients).output().unwrap().into();
        (s3_writes(&world).len(), run)
    };
    let [one, two] = [0, 1].map(|n| world.recipients()[n].to_owned());
    assert_eq!(on_change(&two).0, 0, "they are those of before");
    let (uploads, run) = on_change(&format!("{one},{two}"));
    assert_eq!(uploads, 3, "{}", run.succeeded().log);
    assert_eq!(on_change(&format!("{two},{one}")).0, 0);
    world.s3().fail("PutObject", "AccessDenied", 1);
    on_change(&one).1.failed();
    assert_eq!(on_change(&one).0, 3, "one failed, so that all are uploaded again");
    assert_eq!(on_change(&one).0, 0);
    // There is nothing of it to upload again.
    world.sync("near/nothing", "main", "far/nothing", "main").unwrap();
    assert_eq!(on_change(&two).0, 3);
    assert_eq!(on_change(&two).0, 0, "what cannot be published at all is not waited for");
    world.unsync("far/nothing", "main");
    assert_eq!(on_change(&one).0, 3);
    let file = world.workdir().join(OURS).join("recipients");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(file).unwrap();
    assert_eq!(on_change(&two).0, 0, "without a memory there is nothing to compare with");
    assert_eq!(on_change(&one).0, 3);
}
