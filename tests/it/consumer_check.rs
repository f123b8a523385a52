//! `check` of the consumer: every dependency broken in turn, and what an operator is told.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use testbed::archive::{self, Naming};
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::world::World;

use crate::support::{Run, consumer, keys, s3_writes};

/// A bucket with two projects, of which the far GitLab has that of the newest object.
fn good() -> World {
    let world = World::start().unwrap();
    for name in ["two", "one"] {
        let repo = world.project(&format!("near/{name}")).unwrap();
        world.put_head(&repo, "main", &format!("far/{name}"), "main", Naming::Zip).unwrap();
    }
    world.destination.repo("far/one").unwrap();
    world
}

/// The check in this world, with further variables.
fn check(world: &World, variables: &[(&str, &str)]) -> Run {
    consumer(world, &["check"]).envs(variables.iter().copied()).output().unwrap().into()
}

/// The names of the checks with this mark.
fn marked<'a>(run: &'a Run, mark: &str) -> Vec<&'a str> {
    run.out.lines().filter_map(|line| line.strip_prefix(mark)?.split("  ").next()).map(str::trim).collect()
}

/// Exactly these checks fail, the output says all of this, and no secret.
#[track_caller]
fn assert_fails(world: &World, run: Run, failed: &[&str], said: &[&str]) {
    let run = run.failed();
    assert_eq!(marked(&run, "✗"), failed, "{}", run.out);
    for word in said {
        assert!(run.out.contains(word), "no {word:?} in\n{}", run.out);
    }
    for secret in world.secrets() {
        assert!(!run.out.contains(&secret) && !run.log.contains(&secret), "{}", run.out);
    }
}

const ALL: [&str; 8] =
    ["settings", "identities", "trusted keys", "WORKDIR", "bucket: list", "bucket: read", "GitLab", "right to push"];

#[test]
fn where_all_is_well_each_check_is_one_line_and_nothing_changes_on_either_side() {
    let world = good();
    world.s3().put("notes.txt", "foreign");
    let before = keys(&world);
    world.s3().clear_requests();
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "✓"), ALL, "{}", run.out);
    assert_eq!(run.out.lines().count(), ALL.len() + 2, "{}", run.out);
    let recipient = &world.recipients()[0][..12];
    for said in [
        &format!("1: its recipient is {recipient}"),
        "has 2 objects (2 zip), the newest ",
        ", and 1 object with foreign names, which are left alone; a pass every 1 s",
        "the newest objects of 2 destinations can be opened",
        "granted for far/one; its branch is not there yet",
        "Everything works. `-dry-run -run-once` shows",
    ] {
        assert!(run.out.contains(said), "no {said:?} in\n{}", run.out);
    }
    assert_eq!(s3_writes(&world), [""; 0]);
    assert_eq!(keys(&world), before);
    assert_eq!(world.destination.created(), [""; 0]);
    assert_eq!(world.far_head("far/one", "main"), None);
    assert!(!world.consumer_workdir().join("git-partition-sync-consumer").exists());
}

#[test]
fn a_variable_that_means_nothing_is_a_warning() {
    let run = check(&good(), &[("GITLAB_TOKEN_FIL", "/run/token")]).succeeded();
    assert_eq!(marked(&run, "!"), ["settings"], "{}", run.out);
    for said in [
        "complete, but 1 variable is set and without a meaning",
        "GITLAB_TOKEN_FIL is set and means nothing",
        "with 1 warning",
    ] {
        assert!(run.out.contains(said), "no {said:?} in\n{}", run.out);
    }
}

#[test]
fn how_soon_a_pass_follows_a_new_object_is_told() {
    let world = good();
    let mut command = consumer(&world, &["check"]);
    let run = Run::from(command.env_remove("RECONCILE_SLEEP_TIME").output().unwrap()).succeeded();
    assert!(run.out.contains("; a pass every 10 s"), "{}", run.out);
    (0..1_000).for_each(|n| world.s3().put(&format!("{n}.txt"), "foreign"));
    let run = Run::from(command.output().unwrap()).succeeded();
    assert!(run.out.contains("; a pass every 5 min"), "{}", run.out);

    let run = check(&world, &[("WEBHOOK_SECRET", "s3cret-of-the-hook"), ("METRICS_SERVER_PORT", "9091")]).succeeded();
    assert!(marked(&run, "✓").contains(&"webhook"), "{}", run.out);
    assert!(run.out.contains("POST /webhook on port 9091") && !run.out.contains("s3cret"), "{}", run.out);
    let run = check(&world, &[("WEBHOOK_SECRET", "two words")]).succeeded();
    assert_eq!(marked(&run, "!"), ["webhook"], "{}", run.out);
    assert!(run.out.contains("openssl rand -hex 32") && !run.out.contains("two words"), "{}", run.out);
    let run = check(&world, &[("WEBHOOK_SECRET_FILE", "/nowhere")]).refused();
    assert!(run.log.contains("WEBHOOK_SECRET_FILE: cannot read /nowhere"), "{}", run.log);
}

#[test]
fn a_project_that_is_not_there_is_not_made_even_if_the_user_could() {
    let world = good();
    world.destination.remove("far/one").unwrap();
    world.destination.group("far").unwrap();
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "!"), ["right to push"], "{}", run.out);
    assert!(run.out.contains("not tried: of 2 projects in the bucket, none can be seen in GitLab yet"), "{}", run.out);
    assert!(run.out.contains("GitLab creates a missing project at the first push"), "{}", run.out);
    assert_eq!(world.destination.created(), [""; 0]);
    assert!(!world.destination.repo_path("far/one").exists());
}

#[test]
fn projects_that_are_not_there_are_counted_beside_one_that_is() {
    let world = good();
    world.destination.remove("far/one").unwrap();
    world.destination.repo("far/two").unwrap();
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "!"), ["right to push"], "{}", run.out);
    let said = "granted for far/two; its branch is not there yet; 1 other project cannot be seen in GitLab yet";
    assert!(run.out.contains(said), "{}", run.out);
    assert_eq!(world.destination.created(), [""; 0]);
}

#[test]
fn of_many_projects_that_are_not_there_only_the_first_are_looked_for() {
    let world = World::start().unwrap();
    let object = archive::encrypt(b"of which only the header is read", &world.recipients()).unwrap();
    for number in 0..30 {
        let key = archive::key(&format!("far/{number}"), "main", &"a".repeat(40), Naming::Zip).unwrap();
        world.s3().put(&key, object.clone());
    }
    let run = check(&world, &[]).succeeded();
    assert!(run.out.contains("of 30 projects in the bucket, none of the first ones can be seen"), "{}", run.out);
    assert_eq!(world.destination.requests().len(), 20);
    assert!(run.out.contains("the newest objects of 5 destinations can be opened"), "{}", run.out);
}

#[test]
fn the_same_as_json() {
    let world = good();
    let run = Run::from(consumer(&world, &["check", "-output=json"]).output().unwrap()).succeeded();
    let json = run.json();
    assert_eq!((&json["good"], json["checks"].as_array().unwrap().len()), (&true.into(), ALL.len()));
    world.destination.set_allow_push(false);
    let json = Run::from(consumer(&world, &["check", "-output=json"]).output().unwrap()).failed().json();
    let push = json["checks"].as_array().unwrap().last().unwrap();
    assert_eq!((&push["name"], &push["verdict"]), (&"right to push".into(), &"failed".into()));
    assert!(push["advice"].as_str().unwrap().contains("Maintainer"), "{push}");
}

#[test]
fn a_login_that_is_refused_a_token_that_may_only_read_and_a_role_that_is_too_low_are_told_apart() {
    let world = good();
    world.destination.set_expired(true);
    assert_fails(&world, check(&world, &[]), &["GitLab"], &["401", "GITLAB_TOKEN", "scope write_repository"]);
    world.destination.set_expired(false);
    let run = check(&world, &[("GITLAB_TOKEN", "wrong-token")]);
    assert_eq!(run.out.matches("401 Unauthorized").count(), 1, "{}", run.out);
    assert_fails(&world, run, &["GitLab"], &["cannot be tried before GitLab answers"]);
    world.destination.set_read_only(true);
    assert_fails(&world, check(&world, &[]), &["right to push"], &["far/one: ", "403", "the scope write_repository"]);
    world.destination.set_read_only(false);
    world.destination.set_allow_push(false);
    assert_fails(&world, check(&world, &[]), &["right to push"], &["far/one: ", "403", "or Maintainer to push"]);
}

#[test]
fn another_identity_than_the_producer_s_is_noticed_before_the_first_pass() {
    let world = good();
    let other = World::start().unwrap();
    let theirs = fs::read_to_string(other.identity_file()).unwrap();
    let run = check(&world, &[("PRIVATE_KEY", theirs.trim())]);
    let said = ["2 of 2 objects cannot be opened", "far/one@main: none of the given identities", "PUBLIC_KEY"];
    assert_fails(&other, run, &["bucket: read"], &said);
    // Beside the right one it does no harm.
    let ours = fs::read_to_string(world.identity_file()).unwrap();
    let run = check(&world, &[("PRIVATE_KEY", &format!("{theirs}{ours}"))]).succeeded();
    assert!(run.out.contains("2: their recipients are age1"), "{}", run.out);
}

#[test]
fn objects_that_are_no_objects_are_named_beside_good_ones() {
    let world = good();
    let commit = "a".repeat(40);
    let key = archive::key("far/broken", "main", &commit, Naming::Zip).unwrap();
    world.s3().put(&key, "not encrypted");
    let run = check(&world, &[]);
    let said = ["1 of 3 objects cannot be opened", "far/broken@main: it is not encrypted with age", "REPUBLISH="];
    assert_fails(&world, run, &["bucket: read"], &said);
}

#[test]
fn each_right_in_the_bucket_that_is_missing_is_named() {
    let world = good();
    world.s3().fail("GetObject", "AccessDenied", 1);
    assert_fails(&world, check(&world, &[]), &["bucket: read"], &["AccessDenied", "Allow s3:GetObject to"]);
    world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    let run = check(&world, &[]);
    assert_eq!(marked(&run, "-"), ["bucket: read", "right to push"], "{}", run.out);
    assert_fails(
        &world,
        run,
        &["bucket: list"],
        &[
            "AccessDenied",
            "cannot list the bucket git-sync: ",
            "Is AWS_S3_BUCKET right? Then allow s3:ListBucket to",
            "docs/consumer.md",
        ],
    );
    let run = check(&world, &[("AWS_S3_BUCKET", "no-such-bucket")]);
    assert_fails(&world, run, &["bucket: list"], &["NoSuchBucket", "check AWS_S3_BUCKET and AWS_REGION"]);
}

#[test]
fn a_bucket_with_nothing_in_it_is_worth_a_word() {
    let world = World::start().unwrap();
    let run = check(&world, &[]).succeeded();
    assert_eq!(marked(&run, "!"), ["bucket: list"], "{}", run.out);
    assert_eq!(marked(&run, "-"), ["bucket: read", "right to push"], "{}", run.out);
    assert!(marked(&run, "✓").contains(&"GitLab"), "the login is tried all the same: {}", run.out);
    assert!(run.out.contains("what copies the bucket"), "{}", run.out);
}

#[test]
fn a_server_that_is_away_and_a_workdir_that_cannot_be_used_do_not_hide_each_other() {
    let world = good();
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let away = format!("http://{address}");
    let file = world.scratch().unwrap().join("a-file");
    fs::write(&file, "").unwrap();
    let variables = [("GITLAB_BASE_URL", away.as_str()), ("WORKDIR", file.to_str().unwrap())];
    world.s3().fail("GetObject", "NoSuchKey", 1);
    let said = ["Check GITLAB_BASE_URL;", "a-file", "emptyDir", "1 of 2 objects cannot be opened"];
    assert_fails(&world, check(&world, &variables), &["WORKDIR", "bucket: read", "GitLab"], &said);
}

#[test]
fn only_the_share_of_this_replica_is_tried() {
    let world = good();
    // Of these two destinations each shard has one.
    let shards = ["0", "1"].map(|index| {
        let run = check(&world, &[("SHARD_COUNT", "2"), ("SHARD_INDEX", index)]).succeeded();
        assert!(run.out.contains("has 2 objects"), "the bucket is one for all: {}", run.out);
        run.out.lines().filter(|line| line.contains("can be opened")).map(str::to_owned).collect::<Vec<_>>()
    });
    let tried: usize =
        shards.iter().flatten().map(|line| if line.contains("the newest object can") { 1 } else { 2 }).sum();
    assert_eq!(tried, 2, "{shards:?}");
}

#[test]
fn a_download_that_breaks_or_never_comes_is_not_called_a_bad_object() {
    let world = good();
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    for (fault, why) in [
        (Fault::Close(At::Half), "it could not be downloaded"),
        (Fault::Hold(Moment::Within(At::Half)), "it could not be downloaded: timed out"),
    ] {
        s3.on(|seen| seen.operation() == "GetObject", ALWAYS, fault);
        let run = check(&world, &[("AWS_ENDPOINT_URL_S3", s3.url().as_str()), ("IDLE_TIMEOUT", "2s")]);
        let said = ["2 of 2 objects cannot be opened", why, "Allow s3:GetObject"];
        assert_fails(&world, run, &["bucket: read"], &said);
        s3.clear();
    }
}
