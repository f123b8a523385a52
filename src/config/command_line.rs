//! The command line as clap sees it: commands, flags, and which of them take a value.
//!
//! Invariant: clap checks no values of settings. The reader does, because it also sees the environment's.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, value_parser};

use super::completion::SHELLS;
use super::help;
use super::manual::Manual;
use super::reference::{Kind, Setting};
use super::values::boolean;
use crate::model::program::Program;

/// Turns `-name` into `--name`. Go's `flag` package accepts both; clap reads the first as a bundle of short options, and
/// the only short options here are `-h` and `-V`.
pub(super) fn double_dashed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut words: Vec<OsString> = arguments.next().into_iter().collect();
    for word in arguments.by_ref() {
        match word.as_encoded_bytes() {
            b"--" => {
                words.push(word);
                break;
            }
            [b'-', first, _, ..] if *first != b'-' => {
                let mut dashed = OsString::from("-");
                dashed.push(word);
                words.push(dashed);
            }
            _ => words.push(word),
        }
    }
    words.extend(arguments);
    words
}

/// The value that a switch was given last, if it is there.
pub(super) fn value_of_switch(switch: &str, words: &[OsString]) -> Option<OsString> {
    let words = words.iter().map_while(|word| Some(word).filter(|word| *word != "--"));
    let value = |word: &OsString| match word.to_string_lossy().strip_prefix(switch)? {
        "" => Some("true".into()),
        rest => rest.strip_prefix('=').map(OsString::from),
    };
    words.filter_map(value).last()
}

/// A switch whose value follows as a word of its own, which Go's `flag` package does not take for its value either.
pub(super) fn value_apart(manual: &Manual, words: &[OsString]) -> Option<String> {
    let words = words.iter().map_while(|word| word.to_str().filter(|word| *word != "--")).collect::<Vec<_>>();
    words.windows(2).find_map(|pair| {
        let flag = pair[0].strip_prefix("--")?;
        let is_switch = manual.settings().any(|it| it.kind == Kind::Switch && it.flag == Some(flag));
        let value = pair[1];
        let is_apart = is_switch && boolean(value).is_ok();
        is_apart
            .then(|| format!("-{flag} {value}: the value of a switch follows an equals sign: write -{flag}={value}"))
    })
}

/// The command line of a program.
pub(super) fn command_line(manual: &Manual) -> clap::Command {
    let command = |name: &'static str, about: &'static str, usage, text: String| {
        clap::Command::new(name).about(about).override_usage(manual.usage(usage)).override_help(text)
    };
    let check = command("check", "Tries everything that a pass needs", help::CHECK_USAGE, help::check_help(manual));
    let wanted = || Arg::new("wanted").action(ArgAction::Append).value_parser(value_parser!(OsString));
    let list = command("list", "Shows what the bucket holds", help::LIST_USAGE, help::list_help(manual))
        .arg(Arg::new("sort").long("sort").help("the order").value_name("ORDER").value_parser(["name", "size", "age"]))
        .arg(on_request("dates", "times instead of ages"))
        .arg(on_request("outdated", "what does not count any more, too"))
        .arg(on_request("foreign", "names of foreign objects, too"))
        .args((manual.program == Program::Consumer).then(|| on_request("signatures", "who signed each object")))
        .arg(wanted());
    let restore = || {
        let about = "Brings repositories back from the bucket";
        command("restore", about, help::RESTORE_USAGE, help::restore_help(manual))
            .arg(path("identity", "FILE", "age identities"))
            .arg(path("into", "DIR", "where to unpack to"))
            .arg(wanted())
    };
    let health = command("health", "Asks whether the daemon is healthy", help::HEALTH_USAGE, help::health_help(manual));
    let completion = "Prints completions for a shell";
    let completion = command("completion", completion, help::COMPLETION_USAGE, help::completion_help(manual))
        .arg(Arg::new("shell").required(true).value_parser(SHELLS.map(|(name, _)| name)));
    let man = command("man", "Prints the man page", help::MAN_USAGE, help::man_help(manual));
    let version = command("version", "Prints the version", help::VERSION_USAGE, help::version_help(manual));
    clap::Command::new(manual.program.name())
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .arg(Arg::new("version").long("version").short('V').action(ArgAction::Version))
        .args_override_self(true)
        .args(manual.settings().filter_map(argument))
        .subcommands([check, list])
        .subcommands((manual.program == Program::Producer).then(restore))
        .subcommands([health, completion, man, version])
        .override_usage(manual.usage(help::RUN_USAGE))
        .override_help(help::help(manual))
}

fn path(name: &'static str, value: &'static str, meaning: &'static str) -> Arg {
    Arg::new(name).long(name).help(meaning).value_name(value).value_parser(value_parser!(PathBuf))
}

fn on_request(name: &'static str, meaning: &'static str) -> Arg {
    Arg::new(name).long(name).help(meaning).action(ArgAction::SetTrue)
}

fn argument(setting: &Setting) -> Option<Arg> {
    let flag = setting.flag?;
    let argument = Arg::new(flag)
        .long(flag)
        .help(setting.meaning)
        .global(true)
        .value_name("VALUE")
        .value_parser(value_parser!(OsString));
    Some(match setting.kind {
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Text | Kind::Choice(_) | Kind::Secret | Kind::Library => argument,
    })
}
