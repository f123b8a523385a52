//! The testbed's own tests: real programs use each part, which shows that it is real.

mod archive;
mod consumer;
mod far;
mod git;
mod graphql;
mod repo;
mod s3;
mod seaweed;
mod world;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// Runs a program to its end and returns its output; if it fails, its standard error is the error.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that must fail, and returns its standard error.
fn fails(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(!output.status.success(), "{command:?} succeeded\n{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The error that a call must return, including its causes.
fn complaint<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> Result<String> {
    match result {
        Ok(_) => bail!("it succeeded"),
        Err(error) => Ok(format!("{:#}", error.into())),
    }
}

/// Real Git without any user's configuration, with Basic credentials for a server of the testbed.
fn git(user: &str, password: &str) -> Command {
    use base64::Engine as _;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {credentials}"));
    git
}

/// The size of all files below a folder.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

/// How many processes have this text in their environment.
fn processes_with(text: &str) -> Result<usize> {
    let environments =
        std::fs::read_dir("/proc")?.filter_map(|entry| std::fs::read(entry.ok()?.path().join("environ")).ok());
    Ok(environments.filter(|environment| String::from_utf8_lossy(environment).contains(text)).count())
}

fn wait_until(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition()? {
        ensure!(Instant::now() < deadline, "it did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
