//! `make image-test`: runs an image's programs from the image's root file system against real servers.
//!
//! Its arguments are a command that enters the root file system; the program to start there follows, and its arguments. The
//! programs' settings are in the environment. `WORKDIR` is `/working` in there. The documents' `docker run` lines are run as
//! they are printed, in the current folder.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use testbed::judge;
use testbed::world::World;

const PROJECTS: usize = 5;
const PRODUCER: &str = "/usr/local/bin/git-partition-sync-producer";
const CONSUMER: &str = "/usr/local/bin/git-partition-sync-consumer";

fn main() -> Result<()> {
    let enter: Vec<String> = std::env::args().skip(1).collect();
    let (enter, arguments) = enter.split_first().context("missing: the command that enters the root file system")?;
    let world = World::builder().setting("WORKDIR", "/working").consumer_setting("WORKDIR", "/working").start()?;
    for number in 0..PROJECTS {
        world.project(&format!("near/p{number}"))?;
        world.sync(&format!("near/p{number}"), "main", &format!("far/p{number}"), "main")?;
    }
    let run_with = |environment: Vec<(String, String)>, program: &str, further: &[&str]| -> Result<Output> {
        let mut command = Command::new(enter);
        command.args(arguments).arg(program).args(further).env_clear().envs(environment);
        command.output().with_context(|| format!("starting {program}"))
    };
    let run = |further: &[&str]| run_with(world.env(), PRODUCER, further);
    let deliver = |further: &[&str]| run_with(world.consumer_env(), CONSUMER, further);

    let preview = said(run(&["-dry-run=true", "-run-once=true"])?)?;
    ensure!(preview.contains(&format!("{PROJECTS} to publish")), "the dry run planned something else:\n{preview}");
    for document in ["README.md", "docs/deploying.md"] {
        let line = documented_line(document)?;
        let preview = said(run_documented(&line, world.env())?)?;
        ensure!(preview.contains(&format!("{PROJECTS} to publish")), "{document}: {preview}");
    }
    ensure!(world.bucket()?.keys()?.is_empty(), "the dry run changed the bucket");

    said(run(&["-run-once"])?)?;
    let keys = world.bucket()?.keys()?;
    ensure!(keys.len() == PROJECTS, "{} objects instead of {PROJECTS}", keys.len());
    for key in &keys {
        judge::git_fsck(&world.unpack(key)?)?;
    }

    said(deliver(&["-dry-run=true", "-run-once=true"])?)?;
    said(deliver(&["check"])?)?;
    let far_head = |number: usize| world.far_head(&format!("far/p{number}"), "main");
    ensure!((0..PROJECTS).all(|number| far_head(number).is_none()), "a dry run or a check pushed something");
    said(deliver(&["-run-once"])?)?;
    for number in 0..PROJECTS {
        let head = world.source.repo(&format!("near/p{number}"))?.head("main");
        ensure!(far_head(number) == head, "far/p{number} is not at {head:?}");
        judge::git_fsck(&world.destination.repo_path(&format!("far/p{number}")))?;
    }
    let delivered = world.consumer()?.pass()?;
    ensure!(delivered.len() == PROJECTS, "{} projects reached the far side instead of {PROJECTS}", delivered.len());

    let quiet = said(run(&["-run-once", "-output=json"])?)?;
    let report: serde_json::Value = serde_json::from_str(&quiet)?;
    ensure!(report["unchanged"] == PROJECTS, "the second pass was not quiet: {quiet}");
    Ok(())
}

/// The command of a document that begins with `docker run`.
fn documented_line(document: &str) -> Result<String> {
    let text = std::fs::read_to_string(document)?;
    let line = text
        .split("```sh\n")
        .skip(1)
        .find(|block| block.starts_with("docker run"))
        .map(|block| block.split("```").next());
    Ok(line.flatten().with_context(|| format!("{document} has no `docker run`"))?.to_owned())
}

/// Runs it in a shell. `docker` is a stand-in there, which enters the image by way of `ENTER` (scripts/image-test).
fn run_documented(line: &str, environment: Vec<(String, String)>) -> Result<Output> {
    // The image has a WORKDIR of its own, and a caller rarely sets one.
    let environment = environment.into_iter().filter(|(name, _)| name != "WORKDIR");
    let mut command = Command::new("bash");
    command.args(["-euc", line]).envs(environment).env_remove("WORKDIR");
    command.output().context("starting bash")
}

/// What a run that succeeded printed.
fn said(output: Output) -> Result<String> {
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {log}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
