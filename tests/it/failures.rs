//! One bad target is one bad target, and what fails half-way leaves nothing half-done.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use rustix::process::Signal;
use testbed::fault::{Authority, Fault, Proxy, Validity};
use testbed::git::{GitFault, GitOperation, GitOptions, GitServer};
use testbed::graphql::SyncTarget;
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, PATIENCE, Run, keys, pass, pass_with, program, s3_writes, wait_until, workdir_files, zip_key,
};

/// A commit that no repository has: the name of an object from an earlier time.
const OLD_COMMIT: &str = "00000000000000000000000000000000000000aa";

/// A healthy project with its target; returns the key it gets.
fn healthy(world: &World, name: &str) -> String {
    let repo = world.project(&format!("near/{name}")).unwrap();
    world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    zip_key(&format!("far/{name}"), "main", &repo.head("main").unwrap())
}

/// A project of 20 MiB with its target, which takes several parts to upload; returns the key it gets.
fn large(world: &World, name: &str) -> String {
    let repo = world.source.repo(&format!("near/{name}")).unwrap();
    repo.fill_incompressible(20, 7).unwrap();
    world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    zip_key(&format!("far/{name}"), "main", &repo.head("main").unwrap())
}

/// An older object of a destination, as a pass before this one left it.
fn held(world: &World, name: &str) -> String {
    let key = zip_key(&format!("far/{name}"), "main", OLD_COMMIT);
    world.s3().put(&key, "older");
    key
}

/// Files of the program besides its lock and its note of what is out of sync.
fn plaintext(world: &World) -> Vec<std::path::PathBuf> {
    let mut files = workdir_files(world);
    let ours = ["lock", "out-of-sync.json", "retirements.json", "recipients", "unseen-uploads.json"];
    files.retain(|file| !ours.iter().any(|name| file.ends_with(name)));
    files
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

#[test]
fn failing_sources_keep_their_objects_and_do_not_hold_up_the_others() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let mut expected = vec![healthy(&world, "good-1"), healthy(&world, "good-2")];
    for name in ["gone", "no-branch", "locked", "forbidden", "broken"] {
        if name != "gone" {
            world.project(&format!("near/{name}")).unwrap();
        }
        let branch = if name == "no-branch" { "never" } else { "main" };
        world.sync(&format!("near/{name}"), branch, &format!("far/{name}"), "main").unwrap();
        expected.push(held(&world, name));
    }
    world.source.override_status("near/locked", 401);
    world.source.override_status("near/forbidden", 403);
    world.source.override_status("near/broken", 503);

    let run = pass(&world).failed();

    assert_eq!(keys(&world), sorted(expected));
    for (name, reason) in [
        ("gone", "404"),
        ("no-branch", "near/no-branch has no branch never"),
        ("locked", "401"),
        ("forbidden", "403"),
        ("broken", "503"),
    ] {
        let lines = run.lines_with(&format!("far/{name}"));
        assert_eq!(lines.len(), 1, "{name}\n{}", run.log);
        assert!(lines[0].contains(reason), "{}", lines[0]);
    }
    let probes = |name: &str| world.source.requests().iter().filter(|request| request.path.contains(name)).count();
    assert_eq!(probes("near/locked"), 1, "a refusal is final");
    assert_eq!(probes("near/forbidden"), 1, "a refusal is final");
    assert!(probes("near/broken") > 1, "a broken server is asked again");
}

#[test]
fn a_server_of_before_protocol_version_2_is_named_as_such() {
    let world = World::start().unwrap();
    healthy(&world, "p");
    let old = held(&world, "p");
    world.source.set_protocol_v2(false);
    pass(&world).failed().logged("does not speak Git's protocol version 2");
    assert_eq!(keys(&world), [old]);
}

#[test]
fn a_sha256_repository_is_named_as_such() {
    let world = World::start().unwrap();
    let good = healthy(&world, "good");
    let path = world.source.repo_path("near/sha256");
    let made = Command::new("git").args(["init", "--quiet", "--bare", "--object-format=sha256"]).arg(&path).status();
    assert!(made.unwrap().success());
    Repo::open(&path).unwrap().commit("main", &[("a", "b")], "One").unwrap();
    world.sync("near/sha256", "main", "far/sha256", "main").unwrap();
    pass(&world).failed().logged("the repository uses SHA-256 object names");
    assert_eq!(keys(&world), [good]);
}

#[test]
fn a_repository_deleted_after_the_probe_fails_alone() {
    let world = World::start().unwrap();
    let good = healthy(&world, "good");
    healthy(&world, "vanishing");
    let old = held(&world, "vanishing");
    let path = world.source.repo_path("near/vanishing");
    world.source.before("near/vanishing", GitOperation::Fetch, move || fs::remove_dir_all(path).unwrap());
    pass(&world).failed().logged("cannot fetch near/vanishing@main").logged("404");
    assert_eq!(keys(&world), sorted(vec![good, old]));
}

#[test]
fn a_branch_deleted_and_pruned_after_the_probe_fails_alone() {
    let world = World::start().unwrap();
    let good = healthy(&world, "good");
    healthy(&world, "p");
    let old = held(&world, "p");
    let repo = world.source.repo("near/p").unwrap();
    world.source.before("near/p", GitOperation::Fetch, move || {
        repo.delete_branch("main").unwrap();
        repo.prune().unwrap();
    });
    pass(&world).failed().logged("near/p@main is gone since it was probed");
    assert_eq!(keys(&world), sorted(vec![good, old]));
}

#[test]
fn a_branch_rewritten_and_pruned_after_the_probe_is_published_as_it_is_now() {
    let world = World::start().unwrap();
    let probed = healthy(&world, "p");
    let repo = world.source.repo("near/p").unwrap();
    let rewritten = repo.clone();
    world.source.before("near/p", GitOperation::Fetch, move || {
        rewritten.force_root("main", &[("new", "history")]).unwrap();
        rewritten.prune().unwrap();
    });
    pass(&world).succeeded();
    let head = repo.head("main").unwrap();
    let key = zip_key("far/p", "main", &head);
    assert_ne!(key, probed);
    assert_eq!(keys(&world), [key.as_str()]);
    assert_eq!(judge::git_commit(&world.unpack(&key).unwrap(), "main").unwrap(), head);
    world.s3().clear_requests();
    pass(&world).succeeded();
    assert_eq!(s3_writes(&world), [""; 0], "the second pass is quiet");
}

#[test]
fn a_push_after_the_probe_is_left_to_the_next_pass() {
    let world = World::start().unwrap();
    let probed = healthy(&world, "p");
    let repo = world.source.repo("near/p").unwrap();
    let pushed = repo.clone();
    world.source.before("near/p", GitOperation::Fetch, move || drop(pushed.commits("main", 3).unwrap()));
    pass(&world).succeeded();
    assert_eq!(keys(&world), [probed.as_str()]);
    let content = world.unpack(&probed).unwrap();
    assert_eq!(zip_key("far/p", "main", &judge::git_commit(&content, "main").unwrap()), probed);
    pass(&world).succeeded();
    assert_eq!(keys(&world), [zip_key("far/p", "main", &repo.head("main").unwrap())]);
}

#[test]
fn a_fetch_that_is_cut_leaves_nothing_and_the_next_pass_heals_it() {
    let world = World::start().unwrap();
    let good = healthy(&world, "good");
    let cut = large(&world, "cut");
    world.source.fault("near/cut", GitFault::CutFetchAfter(3 << 20));
    // Within this time, it is tried again twice or three times.
    let run = pass_with(&world, "TARGET_TIMEOUT", "4s").failed();
    assert_eq!(run.lines_with("cannot fetch near/cut@main").len(), 1, "{}", run.log);
    assert_eq!(keys(&world), [good.as_str()]);
    assert_eq!(world.s3().uploads(), []);
    let mirrors = world.workdir().join("git-partition-sync-producer/mirrors");
    assert_eq!(fs::read_dir(mirrors).unwrap().count(), 1, "only the good one's mirror is kept");

    world.source.clear_overrides();
    pass(&world).succeeded();
    assert_eq!(keys(&world), sorted(vec![good, cut.clone()]));
    judge::git_fsck(&world.unpack(&cut).unwrap()).unwrap();
}

#[test]
fn a_fetch_that_is_cut_once_is_tried_again_in_the_same_pass() {
    let world = World::start().unwrap();
    let key = large(&world, "cut");
    world.source.fault("near/cut", GitFault::CutFetchAfter(3 << 20));
    let daemon = Daemon::spawn(program(&world, &["-run-once"]));
    wait_until("a fetch was cut", || {
        world.source.requests().iter().any(|request| request.is("fetch") && request.status.is_some())
    });
    world.source.clear_overrides();
    daemon.ends_within(PATIENCE).succeeded();
    assert_eq!(keys(&world), [key]);
}

#[test]
fn a_target_that_takes_too_long_is_given_up_and_leaves_nothing() {
    let world = World::builder().setting("TARGET_TIMEOUT", "3s").start().unwrap();
    let good = healthy(&world, "good");
    large(&world, "slow-upload");
    healthy(&world, "slow-fetch");
    world.s3().hold("UploadPart");
    let (end, blocked) = std::sync::mpsc::channel::<()>();
    world.source.before("near/slow-fetch", GitOperation::Fetch, move || {
        let _ = blocked.recv();
    });
    let run = pass(&world).failed();
    drop(end);
    for name in ["slow-upload", "slow-fetch"] {
        let lines = run.lines_with(&format!("far/{name}"));
        assert_eq!(lines.len(), 1, "{}", run.log);
        assert!(lines[0].contains("not finished within TARGET_TIMEOUT (3 s)"), "{}", lines[0]);
    }
    assert_eq!(keys(&world), [good]);
    assert_eq!(world.s3().uploads(), []);
}

#[test]
fn a_git_server_that_is_away_is_no_reason_to_delete_anything() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    healthy(&world, "p");
    let old = held(&world, "p");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let run = pass_with(&world, "GITLAB_BASE_URL", &format!("http://{closed}")).failed();
    run.logged("blocked: far/p@main").logged("no connection to the server");
    assert_eq!(keys(&world), [old]);
    assert_eq!(s3_writes(&world), [""; 0]);
}

#[test]
fn a_repository_larger_than_allowed_is_refused_and_leaves_nothing_behind() {
    let world = World::builder().setting("MAX_REPOSITORY_BYTES", "1Mi").setting("MIRROR_CACHE_BYTES", "0").start();
    let world = world.unwrap();
    let good = healthy(&world, "good");
    large(&world, "huge");
    let old = held(&world, "huge");
    let run = pass(&world).failed();
    let lines = run.lines_with("far/huge");
    assert_eq!(lines.len(), 1, "{}", run.log);
    assert!(lines[0].contains("larger than MAX_REPOSITORY_BYTES allows (1048576 bytes)"), "{}", lines[0]);
    assert_eq!(keys(&world), sorted(vec![good, old]));
    assert_eq!(plaintext(&world), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn a_repository_that_grows_larger_than_allowed_is_refused_from_then_on() {
    let world = World::builder().setting("MAX_REPOSITORY_BYTES", "8Mi").start().unwrap();
    let repo = world.source.repo("near/p").unwrap();
    repo.fill_incompressible(5, 1).unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let key = zip_key("far/p", "main", &repo.head("main").unwrap());
    pass(&world).succeeded();
    for seed in 2..4 {
        repo.fill_incompressible(5, seed).unwrap();
        pass(&world).failed().logged("larger than MAX_REPOSITORY_BYTES allows (8388608 bytes)");
        assert_eq!(keys(&world), [key.as_str()]);
    }
    assert_eq!(plaintext(&world), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn a_renamed_project_is_followed_on_the_same_server() {
    let world = World::start().unwrap();
    let repo = world.project("near/new-name").unwrap();
    world.sync("near/old-name", "main", "far/p", "main").unwrap();
    world.source.fault("near/old-name", GitFault::Redirect("near/new-name".to_owned()));
    pass(&world).succeeded();
    assert_eq!(keys(&world), [zip_key("far/p", "main", &repo.head("main").unwrap())]);
}

#[test]
fn a_redirect_to_another_git_server_is_refused_without_a_request_to_it() {
    let world = World::start().unwrap();
    let good = healthy(&world, "good");
    let other = GitServer::start(GitOptions::default()).unwrap();
    other.repo("near/p").unwrap().fill_small(1).unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.source.fault("near/p", GitFault::Redirect(format!("{}/near/p", other.url())));
    pass(&world).failed().logged("it is another server");
    assert_eq!(other.requests().len(), 0);
    assert_eq!(keys(&world), [good]);
}

#[test]
fn a_refused_put_is_reported_and_keeps_the_older_object() {
    let world = World::builder().setting("SYNC_CONCURRENCY", "1").start().unwrap();
    let key = healthy(&world, "p");
    let old = held(&world, "p");
    world.s3().fail("PutObject", "AccessDenied", 1);
    pass(&world).failed().logged("S3 cannot store an object: AccessDenied").logged("check the bucket's policy");
    assert_eq!(keys(&world), [old]);
    pass(&world).succeeded();
    assert_eq!(keys(&world), [key]);
}

#[test]
fn an_upload_that_fails_late_is_aborted() {
    let world = World::start().unwrap();
    let key = large(&world, "p");
    let old = held(&world, "p");
    world.s3().pass("UploadPart", 2);
    // An answer that comes while the part is being sent may be lost with the connection; the part is then sent again.
    world.s3().fail("UploadPart", "AccessDenied", 10);
    pass(&world).failed().logged("S3 cannot store a part of an object: AccessDenied");
    assert_eq!(keys(&world), [old]);
    assert_eq!(world.s3().uploads(), []);
    assert!(s3_writes(&world).contains(&"AbortMultipartUpload".to_owned()));

    world.s3().clear_failures();
    pass(&world).succeeded();
    assert_eq!(keys(&world), [key]);
}

#[test]
fn an_upload_that_cannot_be_completed_is_aborted() {
    let world = World::start().unwrap();
    large(&world, "p");
    let old = held(&world, "p");
    world.s3().fail("CompleteMultipartUpload", "AccessDenied", 1);
    pass(&world).failed().logged("S3 cannot complete an upload: AccessDenied");
    assert_eq!(keys(&world), [old]);
    assert_eq!(world.s3().uploads(), []);
}

#[test]
fn an_upload_that_cannot_be_aborted_is_remembered_and_aborted_at_the_next_start() {
    let world = World::start().unwrap();
    let key = large(&world, "p");
    world.s3().fail("UploadPart", "AccessDenied", 3);
    world.s3().fail("AbortMultipartUpload", "AccessDenied", 1);
    pass(&world).failed();
    assert_eq!(world.s3().uploads().len(), 1);
    world.s3().clear_failures();
    pass(&world).succeeded();
    assert_eq!(world.s3().uploads(), []);
    assert_eq!(keys(&world), [key]);
}

#[test]
fn an_object_that_cannot_be_deleted_is_reported_and_swept_by_the_next_pass() {
    let world = World::start().unwrap();
    let key = healthy(&world, "p");
    let old = held(&world, "p");
    world.s3().fail("DeleteObject", "AccessDenied", 1);
    pass(&world).failed().logged("published, but outdated objects stay beside it").logged("AccessDenied");
    assert_eq!(keys(&world), sorted(vec![key.clone(), old]));
    world.s3().clear_requests();
    pass(&world).succeeded().logged("swept far/p");
    assert_eq!(keys(&world), [key]);
    assert_eq!(s3_writes(&world), ["DeleteObject"]);
}

#[test]
fn a_bucket_that_cannot_be_listed_fails_the_pass_and_changes_nothing() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    healthy(&world, "p");
    let old = held(&world, "unwanted");
    world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    pass(&world).failed().logged("S3 cannot list the bucket git-sync: AccessDenied").logged("nothing was changed");
    assert_eq!(s3_writes(&world), [""; 0]);
    assert_eq!(keys(&world), [old]);
}

#[test]
fn a_listing_that_breaks_off_at_its_second_page_retires_nothing() {
    let s3 = testbed::s3::S3Options { page_keys: 2, ..Default::default() };
    let world = World::builder().s3(s3).setting("MAX_RETIRE", "100%").start().unwrap();
    healthy(&world, "p");
    let mut old: Vec<String> = (0..5).map(|n| held(&world, &format!("unwanted-{n}"))).collect();
    old.sort();
    world.s3().pass("ListObjectsV2", 1);
    world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    pass(&world).failed().logged("S3 cannot list the bucket");
    assert_eq!(keys(&world), old);
}

#[test]
fn an_overloaded_bucket_is_asked_again() {
    let world = World::start().unwrap();
    let key = healthy(&world, "p");
    world.s3().fail("ListObjectsV2", "SlowDown", 1);
    world.s3().fail("PutObject", "SlowDown", 2);
    pass(&world).succeeded();
    assert_eq!(keys(&world), [key]);
    assert_eq!(s3_writes(&world), ["PutObject"; 3]);
}

#[test]
fn connections_to_the_bucket_that_break_are_made_again() {
    let world = World::start().unwrap();
    let key = large(&world, "p");
    world.s3().cut("UploadPart", 1);
    world.s3().cut("CompleteMultipartUpload", 1);
    pass(&world).succeeded();
    assert_eq!(keys(&world), [key.as_str()]);
    judge::git_fsck(&world.unpack(&key).unwrap()).unwrap();
}

#[test]
fn missing_credentials_are_called_that() {
    let world = World::start().unwrap();
    for arguments in [&["-run-once"][..], &["check"]] {
        let mut command = program(&world, arguments);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        // Nor anywhere else.
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
        let run = Run::from(command.output().unwrap()).failed();
        let said = format!("{}{}", run.out, run.log);
        assert!(said.contains("no AWS credentials were found: set AWS_ACCESS_KEY_ID"), "{arguments:?}: {said}");
        assert!(!said.contains("connection failed"), "{arguments:?}: {said}");
    }
    assert!(world.s3().requests().is_empty());
}

/// A group of projects before the others in the alphabet, without repositories: the test says how they fail. Then a few
/// healthy ones, whose keys are returned.
fn failing_group(world: &World, bad: usize) -> Vec<String> {
    let good = (0..4).map(|n| healthy(world, &format!("good-{n}"))).collect();
    let mut targets = world.graphql.targets();
    let names = (0..bad).map(|n| (format!("aaa/{n:02}"), format!("far/bad-{n:02}")));
    targets.extend(names.map(|(near, far)| SyncTarget::new(&near, "main", &far, "main")));
    world.graphql.set_targets(targets);
    sorted(good)
}

#[test]
fn projects_that_answer_badly_do_not_make_the_others_unreachable() {
    let world = World::start().unwrap();
    // So many that twenty are done before the first of the others begins, if they come first.
    let expected = failing_group(&world, 46);
    (0..46).for_each(|n| world.source.override_status(&format!("aaa/{n:02}"), 503));
    let run = pass_with(&world, "PROBE_CONCURRENCY", "24").failed();
    assert_eq!(keys(&world), expected);
    assert!(!run.log.contains("not tried"), "{}", run.log);
    let blocked = run.lines_with("blocked: ");
    assert_eq!(blocked.len(), 1, "{}", run.log);
    assert!(blocked[0].contains("46 targets for the same reason") && blocked[0].contains("503"), "{}", blocked[0]);
    assert_eq!(blocked[0].matches("far/bad-").count(), 2 * 3, "three examples, in the message and as a field");
}

#[test]
fn a_server_that_answers_nobody_is_given_up_after_a_few_projects() {
    let world = World::start().unwrap();
    let stranger = Authority::new("an unknown authority").unwrap().certify("127.0.0.1", Validity::Good).unwrap();
    let front = Proxy::start_tls(&world.source.url(), &stranger).unwrap();
    failing_group(&world, 56);
    let mut command = program(&world, &["-run-once"]);
    let run: Run = command.env("GITLAB_BASE_URL", front.url()).env("PROBE_CONCURRENCY", "1").output().unwrap().into();
    run.failed()
        .logged("blocked: 20 targets for the same reason")
        .logged("blocked: 40 targets for the same reason")
        .logged("the Git server is unreachable: not tried");
}

#[test]
fn failures_for_an_equal_reason_are_counted_and_few_are_named() {
    let world = World::start().unwrap();
    for n in 0..8 {
        healthy(&world, &format!("p-{n}"));
    }
    world.s3().fail("PutObject", "AccessDenied", 8);
    let run = pass(&world).failed();
    assert_eq!(run.lines_with("failed: far/p-").len(), 3, "{}", run.log);
    run.logged("failed: 5 more for the same reason").logged("failed=8");
}

#[test]
fn a_refused_login_is_one_fact_and_is_tried_less_and_less() {
    let world = World::start().unwrap();
    let expected: Vec<_> = (0..12).map(|n| healthy(&world, &format!("p-{n:02}"))).collect();
    let token = world.scratch().unwrap().join("token");
    fs::write(&token, "expired-1").unwrap();
    let mut command = program(&world, &["-reconcile-sleep-time=10ms", "-metrics-server-port=0"]);
    command.env_remove("GITLAB_TOKEN").env("GITLAB_TOKEN_FILE", &token).env("PROBE_CONCURRENCY", "32");
    let daemon = Daemon::spawn(command);
    let requests = || world.source.requests().len();
    daemon.wait_until_logged("the next pass waits because the login is refused", 1);
    assert_eq!(requests(), 5, "{}", daemon.log());
    assert!(!daemon.log().contains("blocked: "), "{}", daemon.log());
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("the next pass waits because the login is refused", 2);
    assert_eq!(requests(), 6, "one more, because of the signal");
    fs::write(&token, "expired-2").unwrap();
    daemon.wait_until_logged("the next pass waits because the login is refused", 3);
    assert_eq!(requests(), 7, "one more, because of the other token");
    fs::write(&token, world.source.password()).unwrap();
    wait_until("everything is published", || keys(&world) == sorted(expected.clone()));
    assert_eq!(daemon.log().matches("GitLab refuses the login").count(), 3);
    let passes = daemon.log().matches("pass done").count();
    daemon.wait_until_logged("pass done", passes + 2);
    assert_eq!(daemon.log().matches("the next pass waits").count(), 3, "passes go on");
    daemon.stop().succeeded();
}

/// GitLab bans an address after ten failed logins.
#[test]
fn a_token_that_expires_during_a_pass_is_not_tried_for_each_target() {
    let world = World::start().unwrap();
    let mut expected: Vec<_> = (0..20).map(|n| healthy(&world, &format!("p-{n:02}"))).collect();
    let front = Proxy::start(&world.source.url()).unwrap();
    front.on_later(3, |seen| seen.operation() == "fetch", usize::MAX, Fault::status(401));
    let mut command = program(&world, &["-reconcile-sleep-time=1h", "-metrics-server-port=0"]);
    let daemon = Daemon::spawn({
        command.env("GITLAB_BASE_URL", front.url()).env("SYNC_CONCURRENCY", "2");
        command
    });
    daemon.wait_until_logged("pass done", 1);
    assert!((5..=6).contains(&front.hits()), "{} refused fetches", front.hits());
    assert!(daemon.log().contains("not tried: GitLab has refused the login for others"), "{}", daemon.log());
    assert_eq!(keys(&world).len(), 3);
    front.forget();
    daemon.signal(Signal::USR1);
    daemon.wait_until_logged("pass done", 2);
    expected.sort();
    assert_eq!(keys(&world), expected);
    daemon.stop().succeeded();
}

/// Nothing else could tell that it is the login, and an operator waits for the alert.
#[test]
fn a_login_that_each_of_a_few_targets_refuses_fails_the_first_pass() {
    for (projects, said) in [(1, "refuses the login: check"), (2, "refuses the login, 2 times in a row: check")] {
        let world = World::start().unwrap();
        (0..projects).for_each(|n| drop(healthy(&world, &format!("p-{n}"))));
        let mut command = program(&world, &["-reconcile-sleep-time=10ms", "-metrics-server-port=0"]);
        let daemon = Daemon::spawn({
            command.env("GITLAB_TOKEN", "expired");
            command
        });
        daemon.wait_until_logged("the next pass waits because the login is refused", 1);
        assert_eq!(world.source.requests().len(), projects);
        assert!(daemon.log().contains(said), "{}", daemon.log());
        daemon.stop().succeeded();
    }
}

#[test]
fn a_content_type_with_a_parameter_or_in_capitals_is_git_s() {
    for content_type in [
        "application/x-git-upload-pack-result; charset=utf-8",
        "APPLICATION/X-GIT-UPLOAD-PACK-RESULT",
        "Application/x-git-upload-pack-result ;charset=\"utf-8\"",
    ] {
        let world = World::start().unwrap();
        let key = healthy(&world, "p");
        let line = format!("{} refs/heads/main\n", world.source.repo("near/p").unwrap().head("main").unwrap());
        let front = Proxy::start(&world.source.url()).unwrap();
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        let body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
        front.on(|seen| seen.operation() == "ls-refs", 1, Fault::Answer { status: 200, headers, body });
        pass_with(&world, "GITLAB_BASE_URL", &front.url()).succeeded();
        assert_eq!((keys(&world), front.hits()), (vec![key], 1), "{content_type}");
    }
}

#[test]
fn a_branch_at_a_tag_is_said_and_the_project_s_other_branches_are_published() {
    let world = World::start().unwrap();
    let key = healthy(&world, "p");
    let repo = world.source.repo("near/p").unwrap();
    let tagged = repo.head("main").unwrap();
    repo.git(&["-c", "user.name=a", "-c", "user.email=a@b", "tag", "-a", "-m", "one", "v1", &tagged]).unwrap();
    let tag = repo.git(&["rev-parse", "v1"]).unwrap();
    // Git itself would refuse to set a branch to it.
    fs::write(repo.path().join("refs/heads/odd"), tag).unwrap();
    world.sync("near/p", "odd", "far/p", "odd").unwrap();
    let run = pass(&world).failed();
    assert_eq!(run.lines_with("its branch odd points to a tag, not to a commit").len(), 1, "{}", run.log);
    assert_eq!(keys(&world), [key]);
}

#[test]
fn the_reason_in_a_refusal_of_graphql_is_shown() {
    let world = World::start().unwrap();
    let front = Proxy::start(&world.graphql.url()).unwrap();
    let body = r#"{"errors":[{"message":"Cannot query field \"gitlabSync\"."},{"message":"And more."}]}"#;
    let headers = vec![("content-type".to_owned(), "application/graphql-response+json; charset=utf-8".to_owned())];
    front.on(|_| true, usize::MAX, Fault::Answer { status: 400, headers, body: body.into() });
    let run = pass_with(&world, "GRAPHQL_SERVER", &format!("{}/graphql", front.url())).failed();
    run.logged("the server answered 400 Bad Request (it says: Cannot query field \\\"gitlabSync\\\".; And more.)");
}
