//! `check`: every dependency broken in turn, and what an operator is told.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use testbed::git::GitFault;
use testbed::graphql::{Canned, SyncTarget};
use testbed::world::World;

use crate::support::{Daemon, Run, count, keys, program, run, s3_writes, workdir_files};

/// Two projects that are synchronised.
fn good() -> World {
    let world = World::start().unwrap();
    for name in ["one", "two"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    world
}

/// The check in this world, with further variables.
fn check(world: &World, variables: &[(&str, &str)]) -> Run {
    program(world, &["check"]).envs(variables.iter().copied()).output().unwrap().into()
}

/// The lines with this mark, without what follows the name and what was found.
fn marked<'a>(run: &'a Run, mark: &str) -> Vec<&'a str> {
    run.out.lines().filter_map(|line| line.strip_prefix(mark)?.split("  ").next()).map(str::trim).collect()
}

/// Exactly these checks fail, the output says all of this, and no secret.
#[track_caller]
fn assert_fails(world: &World, run: Run, failed: &[&str], words: &[&str]) {
    let run = run.failed();
    assert_eq!(marked(&run, "✗"), failed, "{}", run.out);
    for word in words {
        assert!(run.out.contains(word), "no {word:?} in\n{}", run.out);
    }
    assert!(run.out.ends_with(" failed.\n") || run.out.ends_with("could not be tried.\n"), "{}", run.out);
    for secret in world.secrets() {
        assert!(!run.out.contains(&secret) && !run.log.contains(&secret), "{}", run.out);
    }
}

fn closed_port() -> String {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    format!("http://{address}")
}

const ALL: [&str; 10] = [
    "settings",
    "recipients",
    "WORKDIR",
    "GraphQL",
    "target list",
    "GitLab",
    "source branches",
    "bucket: list",
    "bucket: upload",
    "bucket: delete",
];

#[test]
fn where_all_is_well_each_check_is_one_line_and_nothing_is_left_behind() {
    let world = good();
    world.s3().put("notes.txt", "foreign");
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "✓"), ALL.into_iter().chain(["bucket: uploads"]).collect::<Vec<_>>(), "{}", run.out);
    assert_eq!(run.out.lines().count(), ALL.len() + 3, "{}", run.out);
    assert!(run.out.contains("all 2 are readable") && run.out.contains("1 object with foreign names"), "{}", run.out);
    assert!(!run.out.contains('\u{1b}'), "no colour without a terminal");
    assert_eq!(keys(&world), ["notes.txt"]);
    assert_eq!(world.s3().uploads(), []);
    let asked = ["CreateMultipartUpload", "UploadPart", "AbortMultipartUpload", "DeleteObject"];
    assert_eq!(s3_writes(&world), asked);
    assert_eq!(workdir_files(&world), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn the_same_as_json() {
    let world = good();
    let json = run(&world, &["check", "-output=json"]).succeeded().json();
    assert_eq!(json["good"], true);
    assert_eq!(json["checks"].as_array().unwrap().len(), ALL.len() + 1);
    world.source.fault("near/two", GitFault::Status(404));
    let json = run(&world, &["check", "-output=json"]).failed().json();
    assert_eq!(json["good"], false);
    let branches = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "source branches").unwrap();
    assert_eq!(branches["verdict"], "failed");
    assert_eq!(branches["finding"], "1 of 2 cannot be read");
    assert_eq!(branches["details"].as_array().unwrap().len(), 1);
    assert!(branches["advice"].as_str().unwrap().contains("Reporter"));
}

#[test]
fn settings_that_are_missing_are_named_as_everywhere() {
    let world = good();
    let mut command = program(&world, &["check"]);
    let run = Run::from(command.env_remove("PUBLIC_KEY").env_remove("GITLAB_TOKEN").output().unwrap()).refused();
    assert!(run.log.starts_with("missing: GITLAB_TOKEN or GITLAB_TOKEN_FILE, PUBLIC_KEY"), "{}", run.log);
    assert_eq!(world.s3().requests().len(), 0);
}

#[test]
fn a_workdir_that_cannot_be_used_is_named() {
    let world = good();
    let file = world.scratch().unwrap().join("a-file");
    fs::write(&file, "").unwrap();
    let run = check(&world, &[("WORKDIR", &file.to_string_lossy())]);
    assert_fails(
        &world,
        run,
        &["WORKDIR"],
        &["✗ WORKDIR          cannot create", "a-file", "emptyDir", "sudo install -d -o USER"],
    );
}

#[test]
fn beside_a_daemon_at_work_its_workdir_is_only_a_warning() {
    let world = good();
    let daemon = Daemon::start(&world, &[]);
    daemon.wait_until_logged("pass done", 1);
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "!"), ["WORKDIR"], "{}", run.out);
    assert!(run.out.contains("It works, with 1 warning."), "{}", run.out);
}

#[test]
fn a_graphql_server_that_refuses_the_login_or_the_query_is_told_apart() {
    let world = good();
    let wrong = check(&world, &[("GRAPHQL_PASSWORD", "wrong-password")]);
    assert_fails(&world, wrong, &["GraphQL"], &["401 Unauthorized", "Check GRAPHQL_USERNAME and GRAPHQL_PASSWORD"]);
    world.graphql.respond_with(Canned::errors("Cannot query field gitlabSync"));
    assert_fails(&world, check(&world, &[]), &["GraphQL"], &["Cannot query field gitlabSync", "GRAPHQL_QUERY_FILE"]);
    world.graphql.respond_with(Canned::html(200));
    assert_fails(&world, check(&world, &[]), &["GraphQL"], &["not what the query asks for", "Check GRAPHQL_SERVER"]);
    world.graphql.respond_with(Canned::html(404));
    assert_fails(&world, check(&world, &[]), &["GraphQL"], &["404 Not Found", "Check GRAPHQL_SERVER"]);
}

#[test]
fn without_a_target_list_the_login_to_gitlab_is_tried_all_the_same() {
    let world = good();
    world.graphql.respond_with(Canned::errors("no"));
    let run = check(&world, &[]).failed();
    assert_eq!((marked(&run, "✗"), marked(&run, "-")), (vec!["GraphQL"], vec!["source branches"]), "{}", run.out);
    assert!(marked(&run, "✓").contains(&"GitLab"), "{}", run.out);
    let run = check(&world, &[("GITLAB_TOKEN", "wrong-token")]);
    assert_fails(&world, run, &["GraphQL", "GitLab"], &["Check GITLAB_USERNAME and GITLAB_TOKEN"]);
}

#[test]
fn an_empty_target_list_is_worth_a_word() {
    let world = World::start().unwrap();
    let run = check(&world, &[]).succeeded();
    assert_eq!((marked(&run, "!"), marked(&run, "-")), (vec!["target list"], vec!["source branches"]), "{}", run.out);
}

#[test]
fn a_target_that_cannot_be_used_is_shown_with_its_problem() {
    let world = good();
    world.sync("near/one", "HEAD", "far/bad", "main").unwrap();
    let run = check(&world, &[]);
    assert_fails(&world, run, &["target list"], &["1 of 3 targets cannot be used", "far/bad@main", "\"HEAD\""]);
}

#[test]
fn a_wrong_token_is_said_once_and_not_for_every_project() {
    let world = good();
    let run = check(&world, &[("GITLAB_TOKEN", "wrong-token")]);
    assert_eq!(run.out.matches("401 Unauthorized").count(), 1, "{}", run.out);
    assert_fails(&world, run, &["GitLab"], &["read_repository"]);
}

#[test]
fn servers_that_are_away_are_all_named_at_once() {
    let world = good();
    let away = closed_port();
    let variables = ["GITLAB_BASE_URL", "GRAPHQL_SERVER", "AWS_ENDPOINT_URL_S3"].map(|name| (name, away.as_str()));
    let begun = Instant::now();
    let run = check(&world, &variables);
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    let advice = ["Check GRAPHQL_SERVER;", "Check GITLAB_BASE_URL;", "Check AWS_ENDPOINT_URL_S3"];
    assert!(run.out.contains(&format!("(tried {away}: check AWS_ENDPOINT_URL_S3")), "{}", run.out);
    assert_fails(&world, run, &["GraphQL", "GitLab", "bucket: list"], &advice);
}

#[test]
fn a_server_in_trouble_is_asked_twice_and_one_that_refuses_once() {
    let world = good();
    world.graphql.respond_with(Canned::html(503));
    world.source.fault("near/one", GitFault::Status(503));
    world.source.fault("near/two", GitFault::Status(503));
    world.s3().fail("ListObjectsV2", "ServiceUnavailable", 9);
    check(&world, &[]).failed();
    assert_eq!((world.graphql.requests().len(), count(&world.s3().requests(), "ListObjectsV2")), (2, 2));
    world.graphql.respond_with(Canned::html(403));
    world.graphql.clear_requests();
    check(&world, &[]).failed();
    assert_eq!(world.graphql.requests().len(), 1);
}

#[test]
fn an_address_that_is_no_gitlab_is_recognised() {
    let world = good();
    let run = check(&world, &[("GITLAB_BASE_URL", &format!("{}/wrong", world.source.url()))]);
    // Under another path there is nothing: each project is as good as absent.
    assert_fails(&world, run, &["source branches"], &["2 of 2 cannot be read", "404 Not Found"]);
}

#[test]
fn one_unreadable_branch_of_many_is_shown_with_its_project() {
    let world = World::start().unwrap();
    let repo = world.project("near/p").unwrap();
    for number in 0..30 {
        repo.branch_from(&format!("b{number}"), "main").unwrap();
        world.sync("near/p", &format!("b{number}"), "far/p", &format!("b{number}")).unwrap();
    }
    assert!(check(&world, &[]).succeeded().out.contains("all 30 are readable"));
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    world.sync("near/p", "no-such", "far/p", "no-such").unwrap();
    let run = check(&world, &[]);
    let words =
        ["2 of 32 cannot be read", "near/gone@main: the server answered 404", "near/p@no-such: there is no such"];
    assert_fails(&world, run, &["source branches"], &words);
}

#[test]
fn many_branches_with_the_same_trouble_are_not_all_listed() {
    let world = good();
    for number in 0..25 {
        world.sync(&format!("near/gone-{number:02}"), "main", &format!("far/gone-{number}"), "main").unwrap();
    }
    let run = check(&world, &[]);
    assert!(!run.out.contains("near/gone-10"), "{}", run.out);
    assert_fails(
        &world,
        run,
        &["source branches"],
        &["25 of 27", "near/gone-09@main", "and 15 more: the server answered 404"],
    );
}

#[test]
fn each_right_in_the_bucket_that_is_missing_is_named() {
    let world = good();
    for (operation, failed, right) in [
        ("ListObjectsV2", "bucket: list", "Is AWS_S3_BUCKET right? Then allow s3:ListBucket to"),
        ("CreateMultipartUpload", "bucket: upload", "Allow s3:PutObject and s3:AbortMultipartUpload"),
        ("UploadPart", "bucket: upload", "Allow s3:PutObject and s3:AbortMultipartUpload"),
        ("AbortMultipartUpload", "bucket: upload", "Allow s3:PutObject and s3:AbortMultipartUpload"),
        ("DeleteObject", "bucket: delete", "Allow s3:DeleteObject"),
    ] {
        world.s3().fail(operation, "AccessDenied", 1);
        assert_fails(&world, check(&world, &[]), &[failed], &["AccessDenied", right]);
        assert_eq!(keys(&world), [""; 0], "{operation}");
    }
    world.s3().fail("ListMultipartUploads", "AccessDenied", 1);
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "!"), ["bucket: uploads"], "{}", run.out);
    assert!(run.out.contains("s3:ListBucketMultipartUploads"), "{}", run.out);
}

#[test]
fn several_rights_that_are_missing_are_shown_together() {
    let world = good();
    for operation in ["ListObjectsV2", "UploadPart", "DeleteObject"] {
        world.s3().fail(operation, "AccessDenied", 1);
    }
    world.source.fault("near/two", GitFault::Status(403));
    let failed = ["source branches", "bucket: list", "bucket: upload", "bucket: delete"];
    assert_fails(&world, check(&world, &[]), &failed, &["4 of 11 checks failed."]);
    assert_eq!(world.s3().uploads(), [], "the upload is aborted where its part is refused");
}

#[test]
fn a_bucket_that_does_not_exist_is_not_written_to() {
    let world = good();
    let run = check(&world, &[("AWS_S3_BUCKET", "no-such-bucket")]);
    assert_fails(&world, run, &["bucket: list"], &["NoSuchBucket", "check AWS_S3_BUCKET and AWS_REGION"]);
    assert_eq!(s3_writes(&world), [""; 0]);
}

#[test]
fn names_of_the_target_list_cannot_act_on_the_terminal() {
    let world = good();
    let mut targets = world.graphql.targets();
    targets.push(SyncTarget::new("near/\u{1b}[2Jevil", "main", "far/evil\u{202e}", "main"));
    targets.push(SyncTarget::new("near/evil\u{202e}", "main", "far/p", "main"));
    world.graphql.set_targets(targets);
    let run = check(&world, &[]).failed();
    assert!(run.out.contains("evil") && !run.out.contains(['\u{1b}', '\u{202e}']), "{:?}", run.out);
}

#[test]
fn a_store_that_is_not_ours_is_checked_as_well() {
    let world = World::builder().seaweed().start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "✓").len(), ALL.len() + 1, "{}", run.out);
    let bucket = world.bucket().unwrap();
    assert_eq!(bucket.keys().unwrap(), [""; 0]);
    assert_eq!(bucket.list_multipart_uploads().unwrap().len(), 0);
}
