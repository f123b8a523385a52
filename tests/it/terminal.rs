//! What a terminal is shown, and nobody else.

use std::process::Command;

use testbed::world::World;

use crate::support::{Run, pass, program};

/// The program on a terminal of its own, which `script` makes: what it shows there.
fn on_a_terminal(world: &World, arguments: &str, variables: &[(&str, &str)]) -> String {
    let program = env!("CARGO_BIN_EXE_git-partition-sync-producer");
    let mut command: Command = world.command("script");
    command.env("TERM", "xterm").envs(variables.iter().copied());
    command.args(["--quiet", "--return", "--command", &format!("{program} {arguments}"), "/dev/null"]);
    Run::from(command.output().expect("util-linux has script")).out
}

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
