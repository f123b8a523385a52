//! `make image-test`: runs an image's program from the image's root file system against real servers.
//!
//! Its arguments are a command that enters the root file system and starts the program there. The program's settings
//! are in the environment, and its arguments follow at the end. `WORKDIR` is `/working` in there.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use testbed::judge;
use testbed::world::World;

const PROJECTS: usize = 5;

fn main() -> Result<()> {
    let enter: Vec<String> = std::env::args().skip(1).collect();
    let (program, arguments) = enter.split_first().context("missing: the command that starts the program")?;
    let world = World::builder().setting("WORKDIR", "/working").start()?;
    for number in 0..PROJECTS {
        world.project(&format!("near/p{number}"))?;
        world.sync(&format!("near/p{number}"), "main", &format!("far/p{number}"), "main")?;
    }
    let run = |further: &[&str]| -> Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments).args(further).env_clear().envs(world.env());
        command.output().with_context(|| format!("starting {program}"))
    };

    let preview = said(run(&["-dry-run=true", "-run-once=true"])?)?;
    ensure!(preview.contains(&format!("{PROJECTS} to publish")), "the dry run planned something else:\n{preview}");
    ensure!(world.bucket()?.keys()?.is_empty(), "the dry run changed the bucket");

    said(run(&["-run-once"])?)?;
    let keys = world.bucket()?.keys()?;
    ensure!(keys.len() == PROJECTS, "{} objects instead of {PROJECTS}", keys.len());
    for key in &keys {
        judge::git_fsck(&world.unpack(key)?)?;
    }
    let delivered = world.consumer()?.pass()?;
    ensure!(delivered.len() == PROJECTS, "{} projects reached the far side instead of {PROJECTS}", delivered.len());

    let quiet = said(run(&["-run-once", "-output=json"])?)?;
    let report: serde_json::Value = serde_json::from_str(&quiet)?;
    ensure!(report["unchanged"] == PROJECTS, "the second pass was not quiet: {quiet}");
    Ok(())
}

/// What a run that succeeded printed.
fn said(output: Output) -> Result<String> {
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {log}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
