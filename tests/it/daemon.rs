//! The loop: passes one after the other, signals, and what a killed process leaves to the next.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use testbed::graphql::Canned;
use testbed::world::World;

use crate::site::{get, pass_now, sample, status};
use crate::support::{
    Daemon, OURS, PATIENCE, STOP_LIMIT, keys, leftovers, pass, pass_with, program, run, wait_until, zip_key,
};

/// A world with one small project whose target is `far/p@main`.
fn one_project(sleep: &str) -> World {
    let world = World::builder().sleep(sleep).start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world
}

/// A world with one project of 20 MiB, which takes several parts to upload, and its key.
fn one_large_project() -> (World, String) {
    let world = World::builder().sleep("1h").start().unwrap();
    let repo = world.source.repo("near/large").unwrap();
    repo.fill_incompressible(20, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    let key = zip_key("far/large", "main", &repo.head("main").unwrap());
    (world, key)
}

#[test]
fn each_pass_picks_up_what_is_new() {
    let world = one_project("100ms");
    let daemon = Daemon::spawn(program(&world, &[]));
    let repo = world.source.repo("near/p").unwrap();
    for _ in 0..3 {
        let wanted = [zip_key("far/p", "main", &repo.head("main").unwrap())];
        wait_until("the new commit is in the bucket", || keys(&world) == wanted);
        repo.commits("main", 1).unwrap();
    }
    daemon.stop().succeeded();
}

#[test]
fn a_failed_pass_does_not_end_the_daemon() {
    let world = one_project("100ms");
    world.graphql.respond_with(Canned::errors("the bundle is being built"));
    let mut daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("nothing was changed", 2);
    assert!(daemon.is_running());
    assert_eq!(keys(&world), [""; 0]);
    world.graphql.respond_normally();
    wait_until("the project is in the bucket", || keys(&world).len() == 1);
    daemon.stop().succeeded();
}

#[test]
fn sigterm_and_sigint_end_the_sleep_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = one_project("1h");
        let daemon = Daemon::spawn(program(&world, &[]));
        daemon.wait_until_logged("pass done", 1);
        daemon.signal(signal);
        daemon.ends_within(STOP_LIMIT).succeeded();
        assert_eq!(keys(&world).len(), 1);
    }
}

#[test]
fn sigterm_during_an_upload_leaves_nothing_partial() {
    for signal in [Signal::TERM, Signal::INT] {
        let (world, key) = one_large_project();
        world.s3().hold("UploadPart");
        let daemon = Daemon::spawn(program(&world, &[]));
        world.s3().wait_until_held(PATIENCE).unwrap();
        assert_eq!(world.s3().uploads().len(), 1);
        daemon.signal(signal);
        daemon.ends_within(STOP_LIMIT).succeeded();
        assert_eq!(keys(&world), [""; 0]);
        assert_eq!(world.s3().uploads(), []);
        assert_eq!(leftovers(&world), [""; 0].map(std::path::PathBuf::from));

        world.s3().release();
        pass(&world).succeeded();
        assert_eq!(keys(&world), [key]);
    }
}

#[test]
fn sigterm_ends_requests_that_s3_does_not_answer() {
    for operation in ["CreateMultipartUpload", "DeleteObject", "PutObject"] {
        let (world, key) = one_large_project();
        world.s3().put(&zip_key("far/gone", "main", &"0".repeat(40)), "x");
        world.project("near/small").unwrap();
        world.sync("near/small", "main", "far/small", "main").unwrap();
        world.s3().hold(operation);
        let daemon = Daemon::spawn(program(&world, &[]));
        world.s3().wait_until_held(PATIENCE).unwrap();
        daemon.stop().succeeded();

        world.s3().release();
        pass(&world).succeeded();
        assert_eq!(keys(&world).len(), 2, "{operation}");
        assert!(keys(&world).contains(&key), "{operation}");
    }
}

#[test]
fn sigterm_while_the_target_list_or_a_probe_is_awaited_stops_the_daemon() {
    let world = one_project("1h");
    world.graphql.set_latency(Duration::from_secs(30));
    let daemon = Daemon::spawn(program(&world, &[]));
    wait_until("the target list is asked for", || !world.graphql.requests().is_empty());
    daemon.stop().succeeded();

    let world = one_project("1h");
    world.source.fault("near/p", testbed::git::GitFault::Stall);
    let daemon = Daemon::spawn(program(&world, &[]));
    wait_until("the project is probed", || !world.source.requests().is_empty());
    daemon.stop().succeeded();
}

#[test]
fn sigterm_during_a_fetch_leaves_nothing_partial() {
    let (world, _) = one_large_project();
    let (entered, wait) = std::sync::mpsc::channel();
    let (go_on, blocked) = std::sync::mpsc::channel::<()>();
    world.source.before("near/large", testbed::git::GitOperation::Fetch, move || {
        entered.send(()).unwrap();
        // Held until the test is done with the program.
        let _ = blocked.recv();
    });
    let daemon = Daemon::spawn(program(&world, &[]));
    wait.recv_timeout(PATIENCE).unwrap();
    daemon.stop().succeeded();
    drop(go_on);
    assert_eq!(keys(&world), [""; 0]);
    assert_eq!(leftovers(&world), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn a_single_pass_that_is_stopped_says_so_and_fails() {
    let (world, _) = one_large_project();
    world.project("near/small").unwrap();
    world.sync("near/small", "main", "far/small", "main").unwrap();
    world.s3().hold("UploadPart");
    let daemon = Daemon::spawn(program(&world, &["-run-once", "-sync-concurrency=2"]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    wait_until("the small project is up", || keys(&world).len() == 1);
    let run = daemon.stop().failed().logged("stopped before far/large@main was done");
    let run = run.logged("stopped before the pass was complete");
    assert!(!run.log.contains("nothing was changed"), "{}", run.log);
    assert_eq!(world.s3().uploads(), []);
}

#[test]
fn what_a_killed_run_left_is_cleaned_up_and_the_next_run_converges() {
    let (world, key) = one_large_project();
    world.s3().hold("UploadPart");
    let daemon = Daemon::spawn(program(&world, &[]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.ends_within(STOP_LIMIT).status, -1);
    world.s3().release();
    let stale = world.s3().uploads();
    assert_eq!(stale.len(), 1);
    let recorded = leftovers(&world).into_iter().filter(|file| file.parent().unwrap().ends_with("uploads"));
    assert_eq!(recorded.count(), 1, "the upload is on record");
    let torn = world.workdir().join(OURS).join("mirrors/torn");
    fs::create_dir_all(torn.join("objects/pack")).unwrap();
    fs::write(torn.join("objects/pack/incoming.pack"), "PACK").unwrap();

    pass(&world).succeeded();

    assert_eq!(world.s3().uploads(), []);
    assert_eq!(keys(&world), [key]);
    assert_eq!(leftovers(&world), [""; 0].map(std::path::PathBuf::from));
    assert!(!torn.exists(), "half a mirror is removed");
}

#[test]
fn unrecorded_uploads_are_aborted_only_if_they_are_ours_and_too_old_to_be_anybodys() {
    let world = World::builder().setting("TARGET_TIMEOUT", "30m").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let commit = "00000000000000000000000000000000000000bb";
    let ago = |minutes: u64| SystemTime::now() - Duration::from_secs(60 * minutes);
    let s3 = world.s3();
    let stale = s3.start_stale_upload(&zip_key("far/p", "main", commit), ago(31));
    let young = s3.start_stale_upload(&zip_key("far/p", "main", commit), ago(20));
    let other_destination = s3.start_stale_upload(&zip_key("far/other", "main", commit), ago(600));
    let foreign = s3.start_stale_upload("backup/database.dump", ago(600));

    pass(&world).succeeded();

    let open: Vec<String> = s3.uploads().into_iter().map(|upload| upload.upload_id).collect();
    assert!(!open.contains(&stale));
    for kept in [young, other_destination, foreign] {
        assert!(open.contains(&kept), "{open:?}");
    }
}

#[test]
fn one_workdir_serves_one_process() {
    let world = one_project("1h");
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let refused = run(&world, &["-run-once"]).refused().logged("WORKDIR: another process is using");
    refused.logged("for a single pass beside a daemon, -workdir=DIR with an empty folder, and -max-retire=0 if");
    run(&world, &["-run-once", "-dry-run"]).succeeded();
    let empty = tempfile::tempdir().unwrap();
    run(&world, &["-run-once", &format!("-workdir={}", empty.path().display())]).succeeded();
    daemon.stop().succeeded();
    pass(&world).succeeded();
}

#[test]
fn a_workdir_that_is_removed_and_made_again_still_serves_one_process() {
    let world = one_project("1h");
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let ours = world.workdir().join(OURS);
    // The pass may still write a record there.
    wait_until("it is gone", || fs::remove_dir_all(&ours).is_ok() || !ours.exists());
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("pass done", 2);
    run(&world, &["-run-once"]).refused().logged("WORKDIR: another process is using");
    daemon.stop().succeeded();
}

#[test]
fn workdir_is_made_where_it_is_missing_and_what_is_ours_is_private() {
    let world = one_project("1h");
    let deep = world.scratch().unwrap().join("not/there/yet");
    pass_with(&world, "WORKDIR", deep.to_str().unwrap()).succeeded();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&deep.join(OURS)), 0o700);
    for name in ["mirrors", "uploads"] {
        assert_eq!(mode(&deep.join(OURS).join(name)), 0o700, "{name}");
    }
}

#[test]
fn a_link_in_place_of_a_folder_of_ours_is_refused() {
    for folder in ["", "mirrors", "uploads"] {
        let world = World::start().unwrap();
        let planted = world.scratch().unwrap().join("planted");
        fs::create_dir(&planted).unwrap();
        fs::write(planted.join("theirs"), "theirs").unwrap();
        let ours = world.workdir().join(OURS).join(folder);
        fs::create_dir_all(ours.parent().unwrap()).unwrap();
        symlink(&planted, world.workdir().join(OURS).join(folder).components().as_path()).unwrap();
        pass(&world).refused().logged("is a symbolic link").logged("WORKDIR");
        assert_eq!(fs::read_dir(&planted).unwrap().count(), 1, "nothing is written behind the link, or removed");
    }
}

#[test]
fn a_folder_in_place_of_ours_that_belongs_to_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: this user cannot make a folder that belongs to another one. Run it as root.");
        return;
    }
    for folder in ["", "mirrors", "uploads"] {
        let world = World::start().unwrap();
        pass(&world).succeeded();
        let ours = world.workdir().join(OURS).join(folder);
        chown(&ours, Some(12_345), None).unwrap();
        pass(&world).refused().logged("belongs to another user").logged("WORKDIR");
        chown(&ours, Some(0), None).unwrap();
        pass(&world).succeeded();
    }
}

#[test]
fn a_folder_that_is_exchanged_while_in_use_is_not_worked_in() {
    let world = World::start().unwrap();
    let source = world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let daemon = Daemon::start(&world, &[]);
    daemon.wait_until_logged("published far/p@main", 1);
    let (ours, planted) = (world.workdir().join(OURS), world.scratch().unwrap().join("planted"));
    fs::create_dir(&planted).unwrap();
    fs::rename(&ours, world.workdir().join("away")).unwrap();
    symlink(&planted, &ours).unwrap();
    daemon.wait_until_logged("is a symbolic link", 1);
    source.commits("main", 1).unwrap();
    daemon.wait_until_logged("is a symbolic link", 3);
    assert_eq!(fs::read_dir(&planted).unwrap().count(), 0);
    fs::remove_file(&ours).unwrap();
    daemon.wait_until_logged("published far/p@main", 2);
    daemon.stop().succeeded();
}

#[test]
fn other_files_in_workdir_are_left_alone() {
    let world = one_project("1h");
    let workdir = world.workdir();
    fs::create_dir_all(workdir.join("mirrors/theirs")).unwrap();
    fs::set_permissions(&workdir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(workdir.join("mirrors/theirs/HEAD"), "theirs").unwrap();
    fs::write(workdir.join("notes.txt"), "theirs too").unwrap();
    fs::create_dir(workdir.join("lost+found")).unwrap();
    fs::set_permissions(workdir.join("lost+found"), fs::Permissions::from_mode(0o000)).unwrap();
    pass(&world).succeeded();
    assert_eq!(fs::read_to_string(workdir.join("mirrors/theirs/HEAD")).unwrap(), "theirs");
    assert_eq!(fs::read_to_string(workdir.join("notes.txt")).unwrap(), "theirs too");
    assert_eq!(fs::metadata(workdir.join("lost+found")).unwrap().permissions().mode() & 0o777, 0);
    assert_eq!(fs::metadata(&workdir).unwrap().permissions().mode() & 0o777, 0o777);
    assert_eq!(fs::read_dir(&workdir).unwrap().count(), 4, "theirs and our directory");
}

#[test]
fn a_rotated_secret_works_without_a_restart() {
    let world = one_project("100ms");
    let token = world.scratch().unwrap().join("token");
    fs::write(&token, "an-expired-token\n").unwrap();
    let mut command = program(&world, &[]);
    command.env_remove("GITLAB_TOKEN").env("GITLAB_TOKEN_FILE", &token);
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("401", 1);
    assert_eq!(keys(&world), [""; 0]);
    fs::write(&token, format!("{}\n", world.source.password())).unwrap();
    wait_until("the project is in the bucket", || keys(&world).len() == 1);
    fs::remove_file(&token).unwrap();
    daemon.wait_until_logged("cannot read a secret", 1);
    daemon.stop().succeeded();
    assert_eq!(keys(&world).len(), 1, "an unreadable secret changes nothing");
}

#[test]
fn the_bucket_is_listed_to_its_end_before_anything_else_is_looked_at() {
    let world = one_project("1h");
    world.s3().hold("ListObjectsV2");
    let daemon = Daemon::spawn(program(&world, &[]));
    world.s3().wait_until_held(PATIENCE).unwrap();
    let released = SystemTime::now();
    world.s3().release();
    wait_until("the project is in the bucket", || keys(&world).len() == 1);
    for (what, requests) in [("targets", world.graphql.requests()), ("branches", world.source.requests())] {
        assert!(
            !requests.is_empty() && requests.iter().all(|request| request.at >= released),
            "{what} are asked for later"
        );
    }
    daemon.stop().succeeded();
}

#[test]
fn deleting_has_a_time_limit() {
    let world = one_project("1h");
    world.project("near/gone").unwrap();
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    pass(&world).succeeded();
    world.unsync("far/gone", "main");
    world.s3().hold("DeleteObject");
    let run = pass_with(&world, "TARGET_TIMEOUT", "1s").failed();
    assert!(run.log.contains("S3 took longer than 1 s to delete outdated objects"), "{}", run.log);
    world.s3().release();
    pass(&world).succeeded();
    assert_eq!(keys(&world).len(), 1);
}

#[test]
fn since_when_a_target_is_out_of_sync_survives_a_restart() {
    let world = one_project("1h");
    world.project("near/q").unwrap();
    world.sync("near/q", "gone", "far/q", "main").unwrap();
    let since = |daemon: &Daemon| {
        daemon.wait_until_logged("pass done", 1);
        let status = status(daemon);
        let target = status["targets"].as_array().unwrap().iter().find(|target| target["project"] == "q").unwrap();
        assert_eq!(target["state"], "blocked");
        target["since"].as_str().unwrap().split('.').next().unwrap().trim_end_matches('Z').to_owned()
    };
    let noted = world.workdir().join(OURS).join("out-of-sync.json");
    let first = Daemon::spawn(program(&world, &[]));
    let seen = since(&first);
    wait_until("it is written down", || noted.exists());
    first.signal(Signal::KILL);
    drop(first);
    // Whole seconds are kept.
    std::thread::sleep(Duration::from_millis(1_100));
    let second = Daemon::spawn(program(&world, &[]));
    assert_eq!(since(&second), seen);
    second.stop().succeeded();

    world.source.repo("near/q").unwrap().branch_from("gone", "main").unwrap();
    pass(&world).succeeded();
    assert!(!noted.exists(), "nothing is out of sync any more");
}

#[test]
fn a_dry_run_that_goes_on_is_watched_like_any_other() {
    let world = one_project("1h");
    let daemon = Daemon::spawn(program(&world, &["-dry-run"]));
    wait_until("the first look is over", || get(&daemon, "/readyz").status == 200);
    let seen = status(&daemon);
    assert_eq!(seen["dry_run"], true);
    assert_eq!(seen["targets"][0]["state"], "behind");
    assert_eq!(seen["passes"], serde_json::json!([]));
    pass_now(&daemon);
    assert_eq!(status(&daemon)["history"].as_array().unwrap().len(), 2);
    let passes = [("trigger", "signal"), ("outcome", "success")];
    assert_eq!(sample(&get(&daemon, "/metrics").body, "git_partition_sync_passes_total", &passes), Some(1.0));
    assert_eq!(keys(&world), [""; 0]);
    assert!(!world.workdir().exists(), "nothing is written");
    world.graphql.respond_with(Canned::errors("away"));
    pass_now(&daemon);
    assert_eq!(status(&daemon)["history"][2]["outcome"], "failed");
    daemon.stop().succeeded();
}
