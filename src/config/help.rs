//! The help pages, made from the list of settings.
//!
//! Invariant: no line is longer than a terminal of 100 columns.

use super::reference::*;

pub(super) const RUN_USAGE: &str = "[SETTING]…";
pub(super) const CHECK_USAGE: &str = "check [SETTING]…";
pub(super) const LIST_USAGE: &str = "list [SETTING]…";
pub(super) const RESTORE_USAGE: &str = "restore -identity FILE [-into DIR] [GROUP/PROJECT[@BRANCH]]…";
/// The commands: the words after the program's name, and what they do.
pub const USAGES: [(&str, &str); 4] = [
    (RUN_USAGE, "Publish what is new, retire what is no longer wanted, sleep, start again."),
    (CHECK_USAGE, "Try every server and permission that this needs, and say what to do about failures."),
    (LIST_USAGE, "Show what the bucket holds."),
    (RESTORE_USAGE, "Download, decrypt, unpack and verify everything, or what is named."),
];
/// What to achieve, and the command line for it.
pub const EXAMPLES: [(&str, &str); 4] = [
    ("Does everything work from here? Try it, change nothing", "check"),
    ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
    ("What is in the bucket, for a script", "list -output json"),
    ("One branch of one project, back from the bucket", "restore -identity key.txt -into restored platform/tools@main"),
];
/// Exit statuses and their meaning.
pub const EXIT_STATUSES: [(u8, &str); 4] = [
    (0, "everything was done, or a signal stopped the daemon"),
    (1, "the pass of -run-once failed, entirely or for a target; check, list or restore failed"),
    (2, "settings are missing or wrong, and nothing was done"),
    (70, "internal error: a bug in this program"),
];
/// Width of the widest flag with its dash, and of the widest variable that has a flag.
const FLAG_COLUMN: usize = 24;
const VARIABLE_COLUMN: usize = 23;
pub(super) const NAMES_COLUMN: usize = FLAG_COLUMN + 2 + VARIABLE_COLUMN;

pub(super) fn usage(arguments: &str) -> String {
    format!("{NAME} {arguments}")
}

pub(super) fn help() -> String {
    let sections: String = reference().iter().map(|section| help_section(section.title, section.settings)).collect();
    let usages: String = USAGES.iter().map(|(usage, what)| format!("  {NAME} {usage}\n      {what}\n")).collect();
    let examples: String = EXAMPLES.iter().map(|(what, words)| format!("  {what}:\n      {NAME} {words}\n")).collect();
    let statuses: String = EXIT_STATUSES.iter().map(|(status, what)| format!("  {status:<2} {what}\n")).collect();
    format!(
        "\
Copies GitLab projects, encrypted with age, into an S3 bucket, and keeps doing so.

Usage:
{usages}  {NAME} -help | -version

A setting is a flag (-name=value or -name value, with one dash or two; a switch alone means true) or
an environment variable. The flag wins; an empty variable counts as unset.
{sections}{}
Examples:
{examples}
Exit status:
{statuses}",
        other_names()
    )
}

pub(super) fn check_help() -> String {
    format!(
        "\
Tries everything that synchronising needs, one after the other: recipients, WORKDIR, target list,
login, every source branch, and the permissions in the bucket. It leaves nothing behind.

Usage:
  {NAME} {CHECK_USAGE}

It reads the same settings as synchronising; `{NAME} -help` explains them."
    )
}

pub(super) fn list_help() -> String {
    format!(
        "\
Shows what the bucket holds: destination, branch, commit, format, size and time of each object.

Usage:
  {NAME} {LIST_USAGE}
{}",
        bucket_help(&[])
    )
}

pub(super) fn restore_help() -> String {
    format!(
        "\
Downloads, decrypts, unpacks and verifies what the bucket holds: everything, or what is named.

Usage:
  {NAME} {RESTORE_USAGE}

Options:
  -identity FILE  age identities, one of which can decrypt
  -into DIR       where to unpack to
{}",
        bucket_help(&[MEMORY_BUDGET_BYTES])
    )
}

/// The settings that `list` and `restore` need, and `more`.
fn bucket_help(more: &[Setting]) -> String {
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
    format!("{section}\nOther settings are ignored. `{NAME} -help` explains all of them.")
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

fn other_names() -> String {
    let pairs = all_settings().flat_map(|setting| setting.also.iter().map(move |other| (other, setting.variable)));
    let rows: String = pairs.map(|(other, variable)| format!("  {other:NAMES_COLUMN$}  {variable}\n")).collect();
    format!("\nOther names, used if the variable on the right is unset:\n{rows}")
}
