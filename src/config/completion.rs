//! Completions for shells, from a program's command line.
//!
//! Invariant: the script completes what the command line takes, and nothing else.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ValueHint};
use clap_complete::{Shell, generate};

use super::manual::Manual;
use super::reference::{Kind, WORKDIR};

/// The shells that are known, by their names.
pub(super) const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("fish", Shell::Fish), ("zsh", Shell::Zsh)];

/// The script that completes commands, flags, which have two dashes there, and their values.
pub(super) fn completion(manual: &Manual, shell: Shell) -> String {
    let mut script = vec![];
    let mut command_line = manual.command_line().mut_args(|argument| with_values(manual, argument));
    generate(shell, &mut command_line, manual.program.name(), &mut script);
    let script = with_one_name(&String::from_utf8_lossy(&script), manual.program.name());
    match shell {
        Shell::Bash => script.replacen(BASH_WORDS, &format!("{BASH_WORDS}{BASH_FLAGS}"), 1),
        _ => script,
    }
}

/// What the script for bash begins with.
const BASH_WORDS: &str = "    prev=\"$3\"\n";
/// To bash, `=` is a word. Values are also completed after a flag with one dash.
const BASH_FLAGS: &str = r#"    if [[ "${prev}" == "=" && ${COMP_CWORD} -gt 1 ]]; then
        prev="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    if [[ "${prev}" == -[!-]?* ]]; then
        prev="-${prev}"
    fi
"#;

/// A setting's flag with the values that it takes, as far as a shell can know them: files are only offered for files.
fn with_values(manual: &Manual, argument: Arg) -> Arg {
    let found =
        manual.settings().find_map(|setting| Some((setting, setting.flag?)).filter(|it| argument.get_id() == it.1));
    let Some((setting, flag)) = found else { return argument };
    let hint = match setting.variable {
        name if name.ends_with("_FILE") => ValueHint::FilePath,
        name if name == WORKDIR.variable => ValueHint::DirPath,
        _ => ValueHint::Other,
    };
    match setting.kind {
        Kind::Choice(values) => argument.value_parser(PossibleValuesParser::new(values.iter().copied())),
        // A word after it is not its value.
        Kind::Switch => Arg::new(flag).long(flag).help(setting.meaning).global(true).action(ArgAction::SetTrue),
        Kind::Text | Kind::Secret | Kind::Library => argument.value_hint(hint),
    }
}

/// For bash, clap_complete writes a name with dashes in two ways, so the script finds no flags of a command.
fn with_one_name(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}
