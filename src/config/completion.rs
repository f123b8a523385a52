//! Completions for shells, from a program's command line.
//!
//! Invariant: the script completes what the command line takes, and nothing else.

use clap_complete::{Shell, generate};

use super::manual::Manual;

/// The shells that are known, by their names.
pub(super) const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("fish", Shell::Fish), ("zsh", Shell::Zsh)];

/// The script that completes commands and flags, which have two dashes there.
pub(super) fn completion(manual: &Manual, shell: Shell) -> String {
    let mut script = vec![];
    generate(shell, &mut manual.command_line(), manual.program.name(), &mut script);
    with_one_name(&String::from_utf8_lossy(&script), manual.program.name())
}

/// For bash, clap_complete writes a name with dashes in two ways, so the script finds no flags of a command.
fn with_one_name(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}
