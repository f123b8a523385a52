//! No secret leaves the program, however much it is asked to say.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::graphql::Canned;
use testbed::judge;
use testbed::world::World;

use crate::site::{get, pass_now};
use crate::support::{Daemon, assert_clean, assert_workdir_clean, files_below, keys, program, run, wait_until};

/// A world in which everything happens: healthy targets, a missing project, one that is refused.
fn eventful_world(log_format: &str) -> World {
    let world =
        World::builder().sleep("50ms").setting("RUST_LOG", "trace").setting("LOG_FORMAT", log_format).start().unwrap();
    for name in ["p", "locked"] {
        world.project(&format!("near/{name}")).unwrap();
    }
    for name in ["p", "gone", "locked"] {
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    world.source.override_status("near/locked", 401);
    world
}

#[test]
fn secrets_are_nowhere_though_every_library_logs_at_trace_level() {
    for log_format in ["text", "json"] {
        let world = eventful_world(log_format);
        let daemon = Daemon::spawn(program(&world, &[]));
        let command_line = fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
        assert_clean(&world, "the command line", &command_line);
        daemon.wait_until_logged("published far/p@main", 1);
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "no core dump holds any: {core}");
        wait_until("the first object is up", || {
            assert_workdir_clean(&world);
            !keys(&world).is_empty()
        });
        world.graphql.respond_with(Canned::errors("broken"));
        daemon.wait_until_logged("the server reports: broken", 1);
        world.graphql.respond_with(Canned::html(401));
        daemon.wait_until_logged("the server answered 401", 1);
        world.graphql.respond_normally();
        world.s3().fail("ListObjectsV2", "AccessDenied", 1);
        daemon.wait_until_logged("S3 cannot list the bucket", 1);
        world.source.repo("near/p").unwrap().commits("main", 2).unwrap();
        let before = keys(&world);
        wait_until("the next object is up", || {
            assert_workdir_clean(&world);
            keys(&world) != before
        });
        let run = daemon.stop().succeeded();

        assert!(run.log.contains("TRACE"), "libraries log");
        assert_clean(&world, "standard output", run.out.as_bytes());
        assert_clean(&world, "the log", run.log.as_bytes());
        assert_workdir_clean(&world);
    }
}

#[test]
fn secrets_are_in_no_archive() {
    for format in ["zip", "tar.gz"] {
        let world = World::builder().setting("ARCHIVE_FORMAT", format).start().unwrap();
        world.project("near/p").unwrap();
        world.sync("near/p", "main", "far/p", "main").unwrap();
        run(&world, &["-run-once"]).succeeded();
        let key = keys(&world).remove(0);
        let archive = judge::age_decrypt(&world.bucket().unwrap().get(&key).unwrap(), world.identity_file()).unwrap();
        assert_clean(&world, "the archive", &archive);
        let content = world.unpack(&key).unwrap();
        let mut files = 0;
        for entry in files_below(&content) {
            assert_clean(&world, &entry.display().to_string(), &fs::read(&entry).unwrap());
            files += 1;
        }
        assert!(files > 3, "an unpacked repository has files");
        let objects = judge::object_names(&content, "main").unwrap();
        let all = Command::new("git")
            .arg("-C")
            .arg(&content)
            .args(["cat-file", "--batch", "--batch-all-objects", "--buffer"])
            .output()
            .unwrap();
        assert!(all.status.success() && all.stdout.len() > objects.len());
        assert_clean(&world, "a Git object", &all.stdout);
    }
}

#[test]
fn restoring_shows_neither_the_identity_nor_a_secret() {
    let world = World::builder().setting("RUST_LOG", "trace").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    run(&world, &["-run-once"]).succeeded();
    let identity = world.identity_file().to_str().unwrap();
    let into = world.scratch().unwrap().join("restored");
    let restored = run(&world, &["restore", "-identity", identity, "-into", into.to_str().unwrap()]).succeeded();
    let listed = run(&world, &["list"]).succeeded();
    for text in [restored.out, restored.log, listed.out, listed.log] {
        assert!(!text.is_empty());
        assert_clean(&world, "what is printed", text.as_bytes());
    }
}

/// An answer with this content type and body.
fn answer(status: u16, content_type: &str, body: String) -> Fault {
    let headers = vec![("content-type".to_owned(), content_type.to_owned())];
    Fault::Answer { status, headers, body: body.into_bytes() }
}

#[test]
fn servers_that_send_secrets_back_do_not_get_them_shown() {
    let world = World::builder().sleep("1h").start().unwrap();
    for name in ["type", "words", "band", "p"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let (user, password) = (world.source.user(), world.source.password());
    let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let echo = format!("you sent Basic {basic}, which is {user}:{password}");
    const GIT: &str = "application/x-git-upload-pack-result";
    let git = Proxy::start(&world.source.url()).unwrap();
    git.on(|seen| seen.path.contains("near/type"), ALWAYS, answer(200, &echo, echo.clone()));
    let packet = |text: String| format!("{:04x}{text}", text.len() + 4);
    git.on(|seen| seen.path.contains("near/words"), ALWAYS, answer(200, GIT, packet(format!("ERR {echo}"))));
    let band = packet("packfile\n".to_owned()) + &packet(format!("\u{3}{echo}"));
    let is_fetch = |seen: &testbed::fault::Seen| seen.path.contains("near/band") && seen.operation() == "fetch";
    git.on(is_fetch, ALWAYS, answer(200, GIT, band));
    let s3 = Proxy::start(&world.s3().url()).unwrap();
    let key = world.s3().secret_key().to_owned();
    s3.on(
        |seen| seen.operation() == "PutObject",
        ALWAYS,
        Fault::s3_error(403, &format!("{key} {}", BASE64_STANDARD.encode(&key))),
    );
    let graphql = Proxy::start(&world.graphql.url()).unwrap();
    let (user, password) = world.graphql.basic().unwrap();
    let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let errors = format!(r#"{{"errors":[{{"message":"you sent {basic}, which is {user}:{password}"}}]}}"#);

    let mut command = program(&world, &[]);
    command.env("GITLAB_BASE_URL", git.url()).env("AWS_ENDPOINT_URL_S3", s3.url());
    command.env("GRAPHQL_SERVER", format!("{}/graphql", graphql.url()));
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 1);
    let shown = |daemon: &Daemon| {
        for path in ["/", "/status.json", "/metrics", "/readyz"] {
            assert_clean(&world, path, get(daemon, path).body.as_bytes());
        }
        get(daemon, "/status.json").body
    };
    let targets = shown(&daemon);
    assert_eq!(targets.matches("[secret]").count(), 4 * 2, "each of the four reasons is told without them\n{targets}");
    for status in [200, 400] {
        graphql.clear();
        graphql.on(|_| true, ALWAYS, answer(status, "application/json; charset=utf-8", errors.clone()));
        pass_now(&daemon);
        let shown = shown(&daemon);
        assert!(shown.contains("you sent [secret], which is [secret]"), "{status}: {shown}");
    }
    let run = daemon.stop().succeeded();
    assert_clean(&world, "the log", run.log.as_bytes());
    assert!(run.log.matches("[secret]").count() >= 12, "{}", run.log);
}
