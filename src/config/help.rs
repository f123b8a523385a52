//! The help pages, made from the list of settings.
//!
//! Invariant: no line is longer than a terminal of 100 columns.

use super::manual::Manual;
use super::reference::*;

pub(super) const RUN_USAGE: &str = "[SETTING]…";
pub(super) const CHECK_USAGE: &str = "check [SETTING]…";
pub(super) const LIST_USAGE: &str = "list [SETTING]…";
pub(super) const RESTORE_USAGE: &str = "restore -identity FILE [-into DIR] [GROUP/PROJECT[@BRANCH]]…";
/// Width of the widest flag with its dash, and of the widest variable that has a flag.
const FLAG_COLUMN: usize = 24;
const VARIABLE_COLUMN: usize = 23;
pub(super) const NAMES_COLUMN: usize = FLAG_COLUMN + 2 + VARIABLE_COLUMN;

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
{usages}  {}

A setting is a flag (-name=value or -name value, with one dash or two; a switch alone means true) or
an environment variable. The flag wins; an empty variable counts as unset.
{sections}{}
Examples:
{examples}
Exit status:
{statuses}",
        manual.usage("-help | -version"),
        other_names(manual)
    )
}

pub(super) fn check_help(manual: &Manual) -> String {
    format!(
        "\
{}

Usage:
  {}

It reads the same settings as synchronising; `{}` explains them.",
        manual.about_check,
        manual.usage(CHECK_USAGE),
        manual.usage("-help")
    )
}

pub(super) fn list_help(manual: &Manual) -> String {
    format!(
        "\
Shows what the bucket holds: destination, branch, commit, format, size and time of each object.

Usage:
  {}
{}",
        manual.usage(LIST_USAGE),
        bucket_help(manual, &[])
    )
}

pub(super) fn restore_help(manual: &Manual) -> String {
    format!(
        "\
Downloads, decrypts, unpacks and verifies what the bucket holds: everything, or what is named.

Usage:
  {}

Options:
  -identity FILE  age identities, one of which can decrypt
  -into DIR       where to unpack to
{}",
        manual.usage(RESTORE_USAGE),
        bucket_help(manual, &[MEMORY_BUDGET_BYTES, TRUSTED_KEYS, TRUSTED_KEYS_FILE])
    )
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
    format!("{section}\nOther settings are ignored. `{}` explains all of them.", manual.usage("-help"))
}

fn help_section<'a>(title: &str, settings: impl IntoIterator<Item = &'a Setting>) -> String {
    let rows: String = settings.into_iter().map(help_row).collect();
    format!("\n{title}:\n{rows}")
}

fn help_row(setting: &Setting) -> String {
    let Setting { variable, flag, default, meaning, .. } = setting;
    let names = match flag {
        Some(flag) => format!("{:FLAG_COLUMN$}  {variable:VARIABLE_COLUMN$}", format!("-{flag}")),
        None => format!("{variable:NAMES_COLUMN$}"),
    };
    let default = if *default == Fallback::Unset { String::new() } else { format!(" [{default}]") };
    format!("  {names}  {meaning}{default}\n")
}

fn other_names(manual: &Manual) -> String {
    let pairs = manual.settings().flat_map(|setting| setting.also.iter().map(move |other| (other, setting.variable)));
    let rows: String = pairs.map(|(other, variable)| format!("  {other:NAMES_COLUMN$}  {variable}\n")).collect();
    format!("\nOther names, used if the variable on the right is unset:\n{rows}")
}
