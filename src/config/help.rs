//! The help pages, made from the list of settings.
//!
//! Invariant: no line is longer than a terminal of 80 columns.

use super::consumer::{PRIVATE_KEY, PRIVATE_KEY_FILE};
use super::manual::Manual;
use super::reference::*;
use crate::model::program::Program;

pub(super) const RUN_USAGE: &str = "[SETTING]…";
pub(super) const CHECK_USAGE: &str = "check [SETTING]…";
pub(super) const LIST_USAGE: &str = "list [OPTION]… [NAME]…";
pub(super) const RESTORE_USAGE: &str = "restore -identity FILE [-into DIR] [NAME]…";
pub(super) const HEALTH_USAGE: &str = "health";
pub(super) const COMPLETION_USAGE: &str = "completion bash|fish|zsh";
pub(super) const MAN_USAGE: &str = "man";
pub(super) const VERSION_USAGE: &str = "version";

/// What the names of `list` and `restore` can be.
pub(super) const NAMES: &str = "NAME is GROUP, GROUP/PROJECT or GROUP/PROJECT@BRANCH. Case matters in BRANCH.";
/// The options of `list`, and what they do. Only the consumer has what opens objects.
pub(super) const fn list_options(program: Program) -> &'static [(&'static str, &'static str)] {
    match program {
        Program::Producer => LIST_OPTIONS.split_at(LIST_OPTIONS.len() - 1).0,
        Program::Consumer => LIST_OPTIONS,
    }
}
const LIST_OPTIONS: &[(&str, &str)] = &[
    ("-sort name|size|age", "by destination, the largest first, or the newest first"),
    ("-dates", "times (UTC) instead of ages"),
    ("-outdated", "objects that do not count any more, too"),
    ("-foreign", "the names of foreign objects, too"),
    ("-signatures", "who signed each object, from its first 256 KiB"),
];
/// The options of `restore`, and what they do.
pub(super) const RESTORE_OPTIONS: &[(&str, &str)] =
    &[("-identity FILE", "age identities, one of which can decrypt"), ("-into DIR", "where to unpack to")];
/// Width of the widest option.
const OPTION_COLUMN: usize = 19;

pub(super) fn help(manual: &Manual) -> String {
    let Manual { about, usages, examples, exit_statuses, sections, .. } = manual;
    let sections: String = sections.iter().map(|section| help_section(section.title, section.settings)).collect();
    let usages: String =
        usages.iter().map(|(usage, what)| format!("  {}\n      {what}\n", manual.usage(usage))).collect();
    let examples: String =
        examples.iter().map(|(what, words)| format!("  {what}:\n      {}\n", manual.usage(words))).collect();
    let statuses: String = exit_statuses.iter().map(|(status, what)| format!("  {status:<2} {what}\n")).collect();
    format!(
        "\
{about}

Usage:
{usages}
{NAMES}
`{}` explains a command.

A setting is a flag (-name=value or -name value, with one dash or two; a switch
alone means true) or an environment variable. The flag wins; an empty variable
counts as unset.
{sections}{}
Examples:
{examples}
Exit status:
{statuses}",
        manual.usage("COMMAND -help"),
        other_names(manual)
    )
}

pub(super) fn check_help(manual: &Manual) -> String {
    format!(
        "\
{}

Usage:
  {}

It reads the same settings as synchronising; `{}`
explains them.",
        manual.about_check,
        manual.usage(CHECK_USAGE),
        manual.usage("-help")
    )
}

pub(super) fn list_help(manual: &Manual) -> String {
    let keys: &[Setting] = match manual.program {
        Program::Producer => &[],
        Program::Consumer => &[PRIVATE_KEY, PRIVATE_KEY_FILE, TRUSTED_KEYS, TRUSTED_KEYS_FILE],
    };
    format!(
        "\
Shows what the bucket holds: for each destination the commit that it brings, the
format and how many increments follow, the size of all of that, and its age. On
a terminal, long names lose their beginning; a wider terminal, a pipe and JSON
have them whole. With -output json, each object is printed as it is listed.

Usage:
  {}

{NAMES}

Options:
{}{}",
        manual.usage(LIST_USAGE),
        options(list_options(manual.program)),
        bucket_help(manual, keys)
    )
}

pub(super) fn restore_help(manual: &Manual) -> String {
    format!(
        "\
Downloads, decrypts, unpacks and verifies what the bucket holds: everything, or
what is named.

Usage:
  {}

{NAMES}

Options:
{}{}",
        manual.usage(RESTORE_USAGE),
        options(RESTORE_OPTIONS),
        bucket_help(manual, &[MEMORY_BUDGET_BYTES, TRUSTED_KEYS, TRUSTED_KEYS_FILE])
    )
}

pub(super) fn health_help(manual: &Manual) -> String {
    format!(
        "\
Asks the daemon on this machine whether it is healthy (/healthz), for the health
checks of containers. The exit status is 0 if it is, and 1 if it is not, or does
not answer within five seconds.

Usage:
  {}
{}",
        manual.usage(HEALTH_USAGE),
        help_section("Settings", &[METRICS_SERVER_PORT, METRICS_SERVER_ADDRESS])
    )
}

pub(super) fn completion_help(manual: &Manual) -> String {
    format!(
        "\
Prints a script that completes commands and flags in a shell.

Usage:
  {}

For this session of bash:
  source <({})",
        manual.usage(COMPLETION_USAGE),
        manual.usage("completion bash")
    )
}

pub(super) fn man_help(manual: &Manual) -> String {
    format!(
        "\
Prints the man page. To read it:
  {} | man -l -

Usage:
  {}",
        manual.usage(MAN_USAGE),
        manual.usage(MAN_USAGE)
    )
}

pub(super) fn version_help(manual: &Manual) -> String {
    format!("Prints the version, as -version and -V do.\n\nUsage:\n  {}", manual.usage(VERSION_USAGE))
}

fn options(options: &[(&str, &str)]) -> String {
    options.iter().map(|(option, meaning)| format!("  {option:OPTION_COLUMN$}  {meaning}\n")).collect()
}

/// The settings that `list` and `restore` need, and `more`.
fn bucket_help(manual: &Manual, more: &[Setting]) -> String {
    let settings = [
        AWS_S3_BUCKET,
        AWS_REGION,
        AWS_ENDPOINT_URL,
        AWS_S3_FORCE_PATH_STYLE,
        AWS_USE_FIPS_ENDPOINT,
        AWS_ACCESS_KEY_ID,
        AWS_SECRET_ACCESS_KEY,
        AWS_SESSION_TOKEN,
        CONNECT_TIMEOUT,
        IDLE_TIMEOUT,
        OUTPUT,
        LOG_FORMAT,
        PROGRESS,
    ];
    let section = help_section("Settings", settings.iter().chain(more));
    format!("{section}\nOther settings are ignored. `{}`\nexplains all of them.", manual.usage("-help"))
}

fn help_section<'a>(title: &str, settings: impl IntoIterator<Item = &'a Setting>) -> String {
    let rows: String = settings.into_iter().map(help_row).collect();
    format!("\n{title}:\n{rows}")
}

/// The names of a setting, and below them what it is for.
fn help_row(setting: &Setting) -> String {
    let Setting { variable, flag, default, meaning, .. } = setting;
    let flag = flag.map_or_else(String::new, |flag| format!("-{flag}, "));
    let default = if *default == Fallback::Unset { String::new() } else { format!(" [{default}]") };
    format!("  {flag}{variable}\n      {meaning}{default}\n")
}

fn other_names(manual: &Manual) -> String {
    let pairs = manual.settings().flat_map(|setting| setting.also.iter().map(move |other| (other, setting.variable)));
    let rows: String = pairs.map(|(other, variable)| format!("  {other:25}  {variable}\n")).collect();
    format!("\nOther names, used if the variable on the right is unset:\n{rows}")
}
