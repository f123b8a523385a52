//! What a terminal is shown, and nobody else.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU16;
use std::process::Command;
use std::time::Duration;

use testbed::graphql::Canned;
use testbed::world::World;

use crate::support::{Run, pass, program};

const PRODUCER: &str = env!("CARGO_BIN_EXE_git-partition-sync-producer");
const CONSUMER: &str = env!("CARGO_BIN_EXE_git-partition-sync-consumer");

/// The producer on a terminal of its own, which `script` makes: what it shows there.
fn on_a_terminal(world: &World, arguments: &str, variables: &[(&str, &str)]) -> String {
    shown_by(PRODUCER, world.command("script"), arguments, variables)
}

/// The consumer, too.
fn on_the_far_terminal(world: &World, arguments: &str) -> String {
    shown_by(CONSUMER, world.consumer_command("script"), arguments, &[])
}

fn shown_by(program: &str, mut command: Command, arguments: &str, variables: &[(&str, &str)]) -> String {
    command.env("TERM", "xterm").envs(variables.iter().copied());
    command.args(["--quiet", "--return", "--command", &format!("{program} {arguments}"), "/dev/null"]);
    Run::from(command.output().expect("util-linux has script")).out
}

const COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";
const ESCAPE: char = '\u{1b}';

#[test]
fn results_have_colour_on_a_terminal_and_nowhere_else() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    for (arguments, coloured) in [
        ("check", "\u{1b}[32m✓\u{1b}[0m settings"),
        ("-dry-run -run-once", "\u{1b}[32mWill publish (1):\u{1b}[0m"),
        ("-dry-run -run-once", "\u{1b}[1mPlan (zip):\u{1b}[0m 1 to publish"),
        ("list", "\u{1b}[1mDESTINATION"),
    ] {
        if arguments == "list" {
            pass(&world).succeeded();
        }
        let shown = on_a_terminal(&world, arguments, &[]);
        assert!(shown.contains(coloured), "{arguments}: {shown:?}");
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let shown = on_a_terminal(&world, arguments, &[plain]);
            assert!(!shown.contains(ESCAPE), "{arguments}, {plain:?}: {shown:?}");
        }
        let words: Vec<_> = arguments.split(' ').collect();
        let piped = Run::from(program(&world, &words).env("TERM", "xterm").output().unwrap());
        assert!(!piped.out.contains(ESCAPE) && !piped.log.contains(ESCAPE), "{arguments}: {}", piped.out);
    }
}

/// An address that refuses connections.
fn closed_port() -> String {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    format!("http://{address}")
}

/// What is on a screen after all this was written to it, and what was on it at any time. It has 80 columns, which is what
/// programs take a terminal for that does not say how wide it is.
struct Screen {
    parser: vt100::Parser,
    seen: Vec<String>,
}

impl Screen {
    fn of(shown: &str) -> Self {
        let [rows, columns] = [40, 80].map(|cells| NonZeroU16::new(cells).unwrap());
        let mut screen = Self { parser: vt100::Parser::new(rows, columns, 0), seen: vec![] };
        // Byte by byte would be slow, and a line is whole when the cursor moves on.
        for piece in shown.split_inclusive(['\n', '\r']) {
            screen.parser.process(piece.as_bytes());
            screen.seen.extend(screen.lines());
        }
        screen
    }

    fn lines(&self) -> Vec<String> {
        self.parser.screen().rows(0, 80).map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    #[track_caller]
    fn showed(&self, parts: &[&str]) {
        let found = self.seen.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} among {:#?}", self.seen.iter().collect::<BTreeSet<_>>());
    }

    /// Whether anything of what goes on is left at the end.
    #[track_caller]
    fn is_left_clean(&self) {
        for line in self.lines() {
            assert!(
                !["⠁", "looking at", "destinations", "uploading  "].iter().any(|part| line.contains(part)),
                "{line}"
            );
        }
    }
}

#[test]
fn a_pass_shows_how_far_it_is_and_leaves_log_lines_readable() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(40, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    world.source.set_latency(Duration::from_millis(400));
    world.s3().set_latency(Duration::from_millis(400));
    let shown = on_a_terminal(&world, "-run-once", &[]);
    let screen = Screen::of(&shown);
    screen.showed(&["reading targets, branches and bucket"]);
    screen.showed(&["of 2 destinations"]);
    screen.showed(&["far/large@main", "fetching"]);
    screen.showed(&["far/large@main", "uploading", "MiB of", "/s"]);
    screen.is_left_clean();
    let lines = screen.lines();
    for logged in ["published far/p@main", "published far/large@main", "pass done"] {
        let whole = lines.iter().filter(|line| line.contains(logged) && line.contains("INFO")).count();
        assert_eq!(whole, 1, "{logged}: {lines:#?}");
    }
}

#[test]
fn list_and_restore_show_how_far_they_are() {
    let world = World::start().unwrap();
    world.source.repo("near/large").unwrap().fill_incompressible(40, 3).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    pass(&world).succeeded();
    world.s3().set_latency(Duration::from_millis(400));
    let screen = Screen::of(&on_a_terminal(&world, "list", &[]));
    screen.showed(&["listing the bucket: 0 objects"]);
    screen.is_left_clean();
    assert!(screen.lines().iter().any(|line| line.contains("far/large")), "{:#?}", screen.lines());

    let restore = format!("restore -identity {}", world.identity_file().display());
    let screen = Screen::of(&on_a_terminal(&world, &restore, &[]));
    screen.showed(&["0 of 1 objects"]);
    screen.showed(&["far/large@main", "downloading", "of 4"]);
    screen.is_left_clean();
    assert!(screen.lines().iter().any(|line| line.starts_with("good  far/large@main")), "{:#?}", screen.lines());
}

#[test]
fn nothing_is_drawn_where_nobody_wants_it() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.source.set_latency(Duration::from_millis(300));
    let restore = format!("restore -identity {}", world.identity_file().display());
    for arguments in ["-run-once -progress=false", "list -progress=false", &format!("{restore} -progress=false")] {
        let shown = on_a_terminal(&world, arguments, &[]);
        assert!(!shown.contains("\u{1b}[2K") && !shown.contains("looking at"), "{arguments}: {shown:?}");
    }
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb"), ("PROGRESS", "false")] {
        let shown = on_a_terminal(&world, "-run-once", &[plain]);
        assert!(!shown.contains("\u{1b}[2K") && !shown.contains("looking at"), "{plain:?}: {shown:?}");
    }
    for arguments in [&["-run-once", "-progress=true"][..], &["list"]] {
        let piped = Run::from(program(&world, arguments).env("TERM", "xterm").output().unwrap());
        assert!(!piped.log.contains(ESCAPE) && !piped.log.contains("looking at"), "{arguments:?}: {}", piped.log);
    }
}

#[test]
fn a_check_shows_which_one_is_running() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    pass(&world).succeeded();
    world.source.set_latency(Duration::from_millis(400));
    world.destination.set_latency(Duration::from_millis(400));
    world.s3().set_latency(Duration::from_millis(400));
    let screen = Screen::of(&on_a_terminal(&world, "check", &[]));
    for name in ["GitLab and source branches", "bucket: list", "bucket: upload", "bucket: delete", "bucket: uploads"] {
        screen.showed(&["⠁", name]);
    }
    screen.is_left_clean();
    assert_eq!(screen.lines().iter().filter(|line| line.starts_with("✓")).count(), 11, "{:#?}", screen.lines());

    let screen = Screen::of(&on_the_far_terminal(&world, "check"));
    for name in ["bucket: list", "bucket: read", "GitLab and the right to push"] {
        screen.showed(&["⠁", name]);
    }
    screen.is_left_clean();
}

#[test]
fn a_terminal_is_told_that_a_server_is_asked_again() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let away = closed_port();
    let screen = Screen::of(&on_a_terminal(&world, "-run-once", &[("GRAPHQL_SERVER", &away)]));
    for attempt in 2..=5 {
        screen.showed(&[&format!("no answer from GraphQL, trying again ({attempt} of 5)")]);
    }
    screen.is_left_clean();
    world.graphql.respond_with(Canned::html(503));
    let screen = Screen::of(&on_a_terminal(&world, "check", &[]));
    screen.showed(&["GraphQL answers with status 503, trying again (2 of 2)"]);
    screen.is_left_clean();
    let screen = Screen::of(&on_a_terminal(&world, "list", &[("AWS_ENDPOINT_URL_S3", &away)]));
    screen.showed(&["no answer from S3, trying again (2 of 5)"]);
    screen.is_left_clean();
}

#[test]
fn a_list_fits_the_terminal() {
    let world = World::start().unwrap();
    let key =
        crate::support::zip_key(&format!("far/{}/tool", "long-group/".repeat(9).trim_end_matches('/')), "main", COMMIT);
    world.s3().put(&key, "x");
    for (arguments, shown) in
        [("list", on_a_terminal(&world, "list", &[])), ("list", on_the_far_terminal(&world, "list"))]
    {
        let lines: Vec<String> = Screen::of(&shown).lines();
        assert_eq!(lines.len(), 3, "{arguments}: {lines:#?}");
        assert!(lines[1].starts_with('…') && lines[1].contains("/long-group/tool@main  cccc"), "{lines:#?}");
    }
    let piped = Run::from(program(&world, &["list"]).output().unwrap()).succeeded();
    assert!(piped.out.contains(&"long-group/".repeat(9)), "{}", piped.out);
}
