//! Outside programs: how they are run, and Git's environment.
//!
//! Invariant: Git never sees the configuration of the user or the system, and leaves nothing running in the
//! background.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// `git` in the environment of [`git_environment`].
pub(crate) fn git() -> Command {
    git_with(&[])
}

/// `git` with additional settings. They are not in its arguments, which every user of the machine can read.
pub(crate) fn git_with(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new("git");
    command.env_clear().envs(git_environment(settings));
    command
}

/// Git's whole environment, with additional settings; only the search path is inherited.
pub(crate) fn git_environment(further: &[(&str, &str)]) -> Vec<(String, String)> {
    let quiet = [
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("receive.autogc", "false"),
        ("advice.detachedHead", "false"),
        // Nothing here outlives a test.
        ("core.fsync", "none"),
    ];
    let settings: Vec<_> = quiet.iter().chain(further).collect();
    let mut environment = vec![
        ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
        ("LC_ALL".to_owned(), "C".to_owned()),
        ("GIT_CONFIG_NOSYSTEM".to_owned(), "1".to_owned()),
        ("GIT_CONFIG_GLOBAL".to_owned(), "/dev/null".to_owned()),
        ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        ("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string()),
    ];
    for (index, (key, value)) in settings.into_iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{index}"), (*key).to_owned()));
        environment.push((format!("GIT_CONFIG_VALUE_{index}"), (*value).to_owned()));
    }
    environment
}

/// Runs a program to its end; its error output becomes the error. `package` is its Debian package.
pub(crate) fn run(command: &mut Command, package: &str) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("starting {program}, which is in the Debian package {package}"))?;
    ensure!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        command.get_args().collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    Ok(output)
}
