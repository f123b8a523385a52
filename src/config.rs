//! Settings: the command line and the environment in; checked [`Settings`], or one message with every problem, out.
//!
//! Invariant: the environment is read only through the function given to [`parse`], and no message holds a secret.

mod command_line;
mod completion;
mod consumer;
mod duration;
mod help;
mod keys;
mod man;
mod manual;
mod misspelt;
mod reader;
mod reference;
mod settings;
mod sharding;
mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use age::x25519::Recipient;
use clap::ArgMatches;
use url::Url;

pub use self::consumer::{Consume, ConsumerCommand};
pub use self::keys::Trusted;
pub use self::manual::{CONSUMER, Manual, PRODUCER, reference};
use self::reader::{Environment, Reader, Reported};
use self::reference::DETAILED_EXITCODE;
pub use self::reference::{Fallback, Kind, Section, Setting};
use crate::artifact::signature::SigningKey;
use crate::bucket::S3;
use crate::graphql::QuerySource;
use crate::graphql::file::TargetsFile;
use crate::model::key::Wanted;
use crate::model::shard::Shard;
use crate::net::Timeouts;
use crate::plan::{Crossing, FormatChoice, MaxRetire, OnRewrite, Republish};
use crate::secret::Secret;
use crate::status::metrics::DEFAULT_SHARD;
use crate::telemetry::LogFormat;
use crate::terminal::{self, CANNOT_PRINT};

/// What to do and how. Everything that needs no request is checked.
#[derive(Debug, Clone)]
pub struct Settings<C = Command> {
    /// What to do.
    pub command: C,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `PROGRESS`: show progress on a terminal.
    pub progress: bool,
    /// What is set and means nothing, a line each, for the log.
    pub warnings: Vec<String>,
    /// Whether the command ends by itself.
    ends: bool,
}

impl<C> Settings<C> {
    /// Whether to show progress: for commands that end. A log in JSON is for programs, even on a terminal.
    pub fn shows_progress(&self) -> bool {
        self.progress && self.ends && self.log_format == LogFormat::Text
    }
}

/// What the producer is to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Synchronise: the program without a command.
    Run(Run),
    /// Try everything that synchronising needs.
    Check(Run),
    /// Show what the bucket holds.
    List(List),
    /// Download, decrypt, unpack and verify.
    Restore(Restore),
    /// Ask the daemon on this machine whether it is healthy.
    Health(Health),
}

impl Command {
    fn ends(&self) -> bool {
        match self {
            Self::Run(run) => run.common.run_once,
            Self::Check(_) | Self::List(_) | Self::Restore(_) | Self::Health(_) => true,
        }
    }
}

/// All that synchronising needs.
#[derive(Debug, Clone)]
pub struct Run {
    /// What the consumer needs as well. Its GitLab is where projects come from, its bucket where objects go.
    pub common: Common,
    /// Where the target list comes from.
    pub targets: TargetList,
    /// `PUBLIC_KEY`: who can decrypt; at least one, each once.
    pub recipients: Vec<Recipient>,
    /// `SIGNING_KEY_FILE`: what objects are signed with.
    pub signing_key: Option<SigningKey>,
    /// `RECONCILE_SLEEP_TIME`: from when the last action of a pass has begun to the start of the next; above zero.
    pub sleep: Duration,
    /// `ARCHIVE_FORMAT`.
    pub archive_format: FormatChoice,
    /// `CROSSING`.
    pub crossing: Crossing,
    /// `MAX_INCREMENTS`: how many increments follow each other at most, up to 64.
    pub max_increments: NonZeroUsize,
    /// `MAX_RETIRE`.
    pub max_retire: MaxRetire,
    /// `REPUBLISH`.
    pub republish: Republish,
    /// `MIRROR_CACHE_BYTES`: limit for all kept mirrors together; 0 keeps none.
    pub mirror_cache_bytes: u64,
}

/// What a pass of either program needs.
#[derive(Debug, Clone)]
pub struct Common {
    /// This side's GitLab.
    pub gitlab: Gitlab,
    /// The bucket.
    pub s3: S3,
    /// `WORKDIR`.
    pub workdir: PathBuf,
    /// `DRY_RUN`: print the plan, change nothing.
    pub dry_run: bool,
    /// `RUN_ONCE`: one pass, then exit.
    pub run_once: bool,
    /// `DETAILED_EXITCODE`: a dry run tells by its exit status whether there is something to do.
    pub detailed_exitcode: bool,
    /// `OUTPUT`: how plan and report are printed.
    pub output: OutputFormat,
    /// `ON_REWRITE`: what to do with a branch that would not move forward.
    pub on_rewrite: OnRewrite,
    /// `SYNC_CONCURRENCY`: destinations worked on at the same time.
    pub sync_concurrency: NonZeroUsize,
    /// `PROBE_CONCURRENCY`: projects probed at the same time.
    pub probe_concurrency: NonZeroUsize,
    /// `TARGET_TIMEOUT`: the limit for one destination, from its first byte to its last; above zero.
    pub target_timeout: Duration,
    /// How long to wait for connections and servers.
    pub timeouts: Timeouts,
    /// `MAX_REPOSITORY_BYTES`: a larger repository is refused; above zero.
    pub max_repository_bytes: u64,
    /// `MEMORY_BUDGET_BYTES`: what the objects of repositories may take in memory; above zero. Without it, it is found from
    /// the memory limit.
    pub memory_budget_bytes: Option<u64>,
    /// `SHARD_COUNT` and `SHARD_INDEX`: this replica's share of all destinations.
    pub share: Shard,
    /// `INSTANCE_SHARD`.
    pub instance: Instance,
    /// `METRICS_SERVER_PORT`; 0 takes any free one.
    pub metrics_port: u16,
    /// `METRICS_SERVER_ADDRESS`: where the port is opened.
    pub metrics_address: IpAddr,
    /// `STALL_TIMEOUT`: a pass without progress for this long counts as stuck; above zero.
    pub stall_timeout: Duration,
    /// `WEBHOOK_SECRET` or `WEBHOOK_SECRET_FILE`; without it, the webhook is off.
    pub webhook_secret: Option<Secret>,
}

/// `INSTANCE_SHARD`: the label `shard_id` of every metric, and the name on the status page. Without it the label is the Go
/// programs' own, and there is no name to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(Option<String>);

impl Instance {
    /// The label.
    pub fn label(&self) -> &str {
        self.name().unwrap_or(DEFAULT_SHARD)
    }

    /// The name, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// A GitLab: the producer's source, or the consumer's destination.
#[derive(Debug, Clone)]
pub struct Gitlab {
    /// `GITLAB_BASE_URL`: no credentials, query or fragment; possibly a path, with or without a `/` at its end.
    pub base_url: Url,
    /// `GITLAB_USERNAME`.
    pub username: String,
    /// `GITLAB_TOKEN` or `GITLAB_TOKEN_FILE`.
    pub token: Secret,
}

/// Where the target list comes from.
#[derive(Debug, Clone)]
pub enum TargetList {
    /// `GRAPHQL_SERVER`.
    Server(Box<Graphql>),
    /// `TARGETS_FILE`.
    File(TargetsFile),
}

/// The server of the target list.
#[derive(Debug, Clone)]
pub struct Graphql {
    /// `GRAPHQL_SERVER`: the address queries are posted to.
    pub server: Url,
    /// `GRAPHQL_QUERY_FILE`.
    pub query: QuerySource,
    /// `GRAPHQL_USERNAME` and `GRAPHQL_PASSWORD`, if the server needs a login.
    pub login: Option<(String, Secret)>,
    /// The pull-request check, if asked for. It comes before everything else.
    pub pr_check: Option<PrCheck>,
}

/// A pull request, whose change may not concern this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrCheck {
    /// `PREVIOUS_BUNDLE_SHA`: the bundle to compare with; letters and digits.
    pub previous: String,
    /// `GRAPHQL_PRCHECK_QUERY_FILE`.
    pub query: QuerySource,
    /// `GIT_PARTITION_SAAS_NAME`: the SaaS file that deploys this program.
    pub saas_file: String,
}

/// See [`Command::List`].
#[derive(Debug, Clone)]
pub struct List {
    /// The bucket to show.
    pub s3: S3,
    /// How long to wait for S3.
    pub timeouts: Timeouts,
    /// `OUTPUT`.
    pub output: OutputFormat,
    /// What to show; empty means everything.
    pub wanted: Vec<Wanted>,
    /// The order. Without one, a table is sorted by name, and JSON is in the bucket's order.
    pub sort: Option<Sort>,
    /// Show times instead of ages.
    pub dates: bool,
    /// Show objects that do not count any more, too.
    pub outdated: bool,
    /// Show the names of foreign objects, too.
    pub foreign: bool,
    /// Show who signed each object.
    pub signatures: Option<Keys>,
}

/// What opens objects, and whose signatures count.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `PRIVATE_KEY` or `PRIVATE_KEY_FILE`: the age identities.
    pub(crate) private_key: Secret,
    /// `TRUSTED_KEYS` or `TRUSTED_KEYS_FILE`. Without them, objects need no signature.
    pub(crate) trusted: Option<Trusted>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// By destination.
    Name,
    /// The largest first.
    Size,
    /// The newest first.
    Age,
}

/// See [`Command::Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Where the daemon listens.
    pub address: SocketAddr,
}

/// See [`Command::Restore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The bucket to restore from.
    pub s3: S3,
    /// How long to wait for S3.
    pub timeouts: Timeouts,
    /// A file of age identities; it could be opened when the settings were checked.
    pub identity: PathBuf,
    /// `TRUSTED_KEYS` or `TRUSTED_KEYS_FILE`: whose signatures count. Without them, objects need none.
    pub trusted: Option<Trusted>,
    /// Where to unpack to.
    pub into: Option<PathBuf>,
    /// `MEMORY_BUDGET_BYTES`, as in [`Common`].
    pub memory_budget_bytes: Option<u64>,
    /// What to restore; empty means everything.
    pub wanted: Vec<Wanted>,
    /// `OUTPUT`.
    pub output: OutputFormat,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Exit status after a panic.
pub const EXIT_INTERNAL: u8 = 70;
/// Exit status if settings are missing or wrong.
pub const EXIT_SETTINGS: u8 = 2;
/// Exit status of a dry run with `DETAILED_EXITCODE` if there is something to do.
pub const EXIT_CHANGES: u8 = 2;
/// Exit status if a pass or a command fails.
const EXIT_FAILURE: u8 = 1;

/// Why there are no settings: text for the terminal, without a final newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Help or the version was asked for.
    Answer(String),
    /// Something is missing or wrong.
    Problem(String),
}

/// Reads the producer's command line, whose first word is the program's name, and the environment, whose variables have
/// these `names`. Its only side effect is reading the files that settings name.
///
/// # Errors
/// [`Exit::Problem`] names everything that is missing or wrong; [`Exit::Answer`] is what commands like `-help` print that
/// need no settings.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
    names: &[OsString],
) -> Result<Settings, Exit> {
    parse_for(&PRODUCER, arguments, (environment, names), |reader, matches| reader.command(matches), Command::ends)
}

/// The same for the consumer.
///
/// # Errors
/// Like [`parse`].
pub fn parse_consumer(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
    names: &[OsString],
) -> Result<Settings<ConsumerCommand>, Exit> {
    let command = |reader: &mut Reader<'_>, matches: &ArgMatches| reader.consumer_command(matches);
    parse_for(&CONSUMER, arguments, (environment, names), command, ConsumerCommand::ends)
}

/// The exit status if settings are missing or wrong: [`EXIT_SETTINGS`], unless `DETAILED_EXITCODE` asks for a status that
/// means changes alone. Its value is not checked here: one that is neither true nor false asks for it as well.
pub fn exit_if_unusable(arguments: impl IntoIterator<Item = OsString>, environment: Environment<'_>) -> u8 {
    let words = command_line::double_dashed(arguments);
    let variable = || environment(DETAILED_EXITCODE.variable).filter(|value| !value.is_empty());
    let given = command_line::value_of_switch("--detailed-exitcode", &words).or_else(variable);
    let is_off = |value: OsString| value.to_str().is_some_and(|value| values::boolean(value) == Ok(false));
    if given.is_none_or(is_off) { EXIT_SETTINGS } else { EXIT_FAILURE }
}

fn parse_for<C>(
    manual: &Manual,
    arguments: impl IntoIterator<Item = OsString>,
    (environment, names): (Environment<'_>, &[OsString]),
    command: impl FnOnce(&mut Reader<'_>, &ArgMatches) -> Result<C, Reported>,
    ends: impl FnOnce(&C) -> bool,
) -> Result<Settings<C>, Exit> {
    let arguments = command_line::double_dashed(arguments);
    if let Some(problem) = command_line::value_apart(manual, &arguments) {
        return Err(Exit::Problem(format!("{problem}\n{}", manual.pointer(None))));
    }
    let matches = manual.command_line().try_get_matches_from(arguments).map_err(|error| manual.refused(error))?;
    if let Some(answer) = manual.answer(&matches) {
        return Err(Exit::Answer(answer));
    }
    let settings = |reader: &mut Reader<'_>| reader.settings(|reader| command(reader, &matches), ends);
    let (settings, warnings) = Reader::read(manual, &matches, environment, names, settings)?;
    Ok(Settings { warnings, ..settings })
}

impl Exit {
    /// Prints an answer to standard output or a problem to standard error. Returns the exit status; `unusable` is that for a
    /// problem.
    pub fn print(&self, unusable: u8) -> ExitCode {
        let (problem, status) = match self {
            Self::Answer(text) => match terminal::print(&format!("{text}\n")) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => (format!("{CANNOT_PRINT}: {error}"), ExitCode::FAILURE),
            },
            Self::Problem(text) => (text.clone(), ExitCode::from(unusable)),
        };
        // If nobody reads it, the status stays the same.
        drop(writeln!(io::stderr(), "{problem}"));
        status
    }
}

impl From<clap::Error> for Exit {
    fn from(error: clap::Error) -> Self {
        // As people write flags here, and as the rest of the program names them. `--` alone stays what it is.
        let text = error.render().to_string().replace("'-- --", "'--\0-").replace("'--", "'-").replace("'-\0", "'-- ");
        let text = text.trim_end().to_owned();
        if error.use_stderr() { Self::Problem(text) } else { Self::Answer(text) }
    }
}

#[cfg(test)]
mod tests;
