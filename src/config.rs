//! Settings: the command line and the environment in, checked [`Settings`] or one message with every problem out.
//!
//! Invariant: the environment is seen through the function given to [`parse`] and nothing else, and no message holds the
//! value of a secret. [`reference()`] is the one list of settings: flags, help and the README's table come from it.

mod duration;
mod reference;
mod sharding;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use age::x25519::Recipient;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use url::Url;

use self::reference::*;
pub use self::reference::{EXAMPLES, EXIT_STATUSES, Fallback, Kind, NAME, Section, Setting, USAGES, reference};
use self::values::{
    above_zero, base_url, boolean, bucket, bundle_sha, byte_size, choice, count, http_url, ip_address, is_loopback,
    one_line, port, query_file, query_file_or_built_in, recipients, some_bytes, username,
};
use crate::bucket::S3;
use crate::graphql::QuerySource;
use crate::model::key::Wanted;
use crate::model::shard::Shard;
use crate::net::Timeouts;
use crate::plan::{FormatChoice, MaxRetire, OnRewrite, Republish};
use crate::secret::Secret;
use crate::secret::without_line_end;
use crate::telemetry::LogFormat;

/// What to do and how, after every check that needs no request.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to do.
    pub command: Command,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `PROGRESS`: on a terminal, show how far the work is.
    pub progress: bool,
}

impl Settings {
    /// Whether to show how far the work is: of what comes to an end, and is not shown line by line already. Whoever wants
    /// the log as JSON has a program read it, also from what it takes for a terminal.
    pub fn shows_progress(&self) -> bool {
        let ends = match &self.command {
            Command::Run(run) => run.run_once,
            Command::List(_) | Command::Restore(_) => true,
            Command::Check(_) => false,
        };
        self.progress && ends && self.log_format == LogFormat::Text
    }
}

/// What to do.
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
}

/// All that synchronising needs.
#[derive(Debug, Clone)]
pub struct Run {
    /// Where projects come from.
    pub gitlab: Gitlab,
    /// Where the target list comes from.
    pub graphql: Graphql,
    /// The pull-request check that comes before anything else, where one is asked for.
    pub pr_check: Option<PrCheck>,
    /// Where artifacts go.
    pub s3: S3,
    /// `PUBLIC_KEY`: who can decrypt; at least one, each once.
    pub recipients: Vec<Recipient>,
    /// `WORKDIR`.
    pub workdir: PathBuf,
    /// `RECONCILE_SLEEP_TIME`: from the end of a pass to the start of the next; above zero.
    pub sleep: Duration,
    /// `DRY_RUN`: print the plan, change nothing.
    pub dry_run: bool,
    /// `RUN_ONCE`: one pass, then exit.
    pub run_once: bool,
    /// `OUTPUT`: how plan and report are printed.
    pub output: OutputFormat,
    /// `ARCHIVE_FORMAT`.
    pub archive_format: FormatChoice,
    /// `MAX_RETIRE`.
    pub max_retire: MaxRetire,
    /// `ON_REWRITE`.
    pub on_rewrite: OnRewrite,
    /// `REPUBLISH`.
    pub republish: Republish,
    /// `SYNC_CONCURRENCY`: targets at work at the same time.
    pub sync_concurrency: NonZeroUsize,
    /// `PROBE_CONCURRENCY`: probes under way at the same time.
    pub probe_concurrency: NonZeroUsize,
    /// `TARGET_TIMEOUT`: the limit for one target, from fetch to upload; above zero.
    pub target_timeout: Duration,
    /// How long connections and servers are waited for.
    pub timeouts: Timeouts,
    /// `MIRROR_CACHE_BYTES`: what kept mirrors may take together; 0 keeps none.
    pub mirror_cache_bytes: u64,
    /// `MAX_REPOSITORY_BYTES`: a larger repository is refused; above zero.
    pub max_repository_bytes: u64,
    /// `SHARD_COUNT` and `SHARD_INDEX`: this replica's share of all destinations.
    pub share: Shard,
    /// `INSTANCE_SHARD`: a label of every metric.
    pub shard: String,
    /// `METRICS_SERVER_PORT`; 0 takes any free one.
    pub metrics_port: u16,
    /// `METRICS_SERVER_ADDRESS`: where the port is opened.
    pub metrics_address: IpAddr,
    /// `STALL_TIMEOUT`: without any progress for this long the program calls itself stuck; above zero.
    pub stall_timeout: Duration,
    /// `WEBHOOK_SECRET` or `WEBHOOK_SECRET_FILE`; without it no webhook is taken.
    pub webhook_secret: Option<Secret>,
}

/// The source GitLab.
#[derive(Debug, Clone)]
pub struct Gitlab {
    /// `GITLAB_BASE_URL`: no credentials, query or fragment; possibly a path, with or without a `/` at its end.
    pub base_url: Url,
    /// `GITLAB_USERNAME`.
    pub username: String,
    /// `GITLAB_TOKEN` or `GITLAB_TOKEN_FILE`.
    pub token: Secret,
}

/// The server that has the target list.
#[derive(Debug, Clone)]
pub struct Graphql {
    /// `GRAPHQL_SERVER`: the whole address queries are posted to.
    pub server: Url,
    /// `GRAPHQL_QUERY_FILE`.
    pub query: QuerySource,
    /// `GRAPHQL_USERNAME` and `GRAPHQL_PASSWORD`, where the server wants a login.
    pub login: Option<(String, Secret)>,
}

/// A pull request whose change may be none of this program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrCheck {
    /// `PREVIOUS_BUNDLE_SHA`: letters and digits, the bundle to compare with.
    pub previous: String,
    /// `GRAPHQL_PRCHECK_QUERY_FILE`.
    pub query: QuerySource,
    /// `GIT_PARTITION_SAAS_NAME`: the SaaS file that deploys this program.
    pub saas_file: String,
}

/// See [`Command::List`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The bucket to show.
    pub s3: S3,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// `OUTPUT`.
    pub output: OutputFormat,
}

/// See [`Command::Restore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The bucket to restore from.
    pub s3: S3,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// A file of age identities. It could be opened when the settings were checked.
    pub identity: PathBuf,
    /// Where to unpack to.
    pub into: Option<PathBuf>,
    /// What to restore; everything where this is empty.
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

/// What a pass may take without visible progress besides the time limit of one target: looking at target list, branches
/// and bucket, with all attempts at each.
const STALL_MARGIN: Duration = Duration::from_secs(300);

/// Exit status where settings are missing or wrong.
pub const EXIT_SETTINGS: u8 = 2;

/// Why there are no settings: text for the terminal, without the last line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Help or the version was asked for.
    Answer(String),
    /// Something is missing or wrong.
    Problem(String),
}

/// How the environment is looked up, by the variable's name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Reads a command line, whose first word is the program's name, and the environment.
///
/// Files that settings name are opened, and nothing else happens.
///
/// # Errors
/// [`Exit::Problem`] names everything that is missing or wrong; [`Exit::Answer`] is what `-help` or `-version` prints.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, environment: Environment<'_>) -> Result<Settings, Exit> {
    let matches = command_line().try_get_matches_from(double_dashed(arguments))?;
    let mut reader = Reader { matches: &matches, environment, missing: Vec::new(), problems: Vec::new() };
    let settings = reader.settings();
    reader.finish(settings)
}

impl Exit {
    /// Prints it, an answer to standard output and a problem to standard error, and says how to leave.
    pub fn print(&self) -> ExitCode {
        let (printed, status) = match self {
            Self::Answer(text) => (writeln!(io::stdout(), "{text}"), ExitCode::SUCCESS),
            Self::Problem(text) => (writeln!(io::stderr(), "{text}"), ExitCode::from(EXIT_SETTINGS)),
        };
        // A reader that has gone away, such as `head`, changes nothing about the status.
        drop(printed);
        status
    }
}

impl From<clap::Error> for Exit {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string().trim_end().to_owned();
        if error.use_stderr() { Self::Problem(text) } else { Self::Answer(text) }
    }
}

// ---- The command line ----

/// Go's `flag` package takes `-name` and `--name` for the same; clap reads the first as a bundle of short options.
/// There is no short option but `-h` here, so a second dash is all it needs.
fn double_dashed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
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

/// The command line as clap knows it: which flags there are and which of them take a value. Values are checked by `Reader`, which
/// sees the environment's too.
pub fn command_line() -> clap::Command {
    let flags = all_settings().filter_map(argument);
    let check = clap::Command::new("check")
        .about("Tries everything that a pass needs")
        .override_usage(usage(CHECK_USAGE))
        .override_help(check_help());
    let list = clap::Command::new("list")
        .about("Shows what the bucket holds")
        .override_usage(usage(LIST_USAGE))
        .override_help(list_help());
    let restore = clap::Command::new("restore")
        .about("Brings repositories back from the bucket")
        .override_usage(usage(RESTORE_USAGE))
        .override_help(restore_help())
        .arg(
            Arg::new("identity")
                .long("identity")
                .help("age identities")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("into")
                .long("into")
                .help("where to unpack to")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(Arg::new("wanted").action(ArgAction::Append).value_parser(value_parser!(OsString)));
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .arg(Arg::new("version").long("version").action(ArgAction::Version))
        .args_override_self(true)
        .args(flags)
        .subcommands([check, list, restore])
        .override_usage(usage(RUN_USAGE))
        .override_help(help())
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
        Kind::Text | Kind::Secret | Kind::Library => argument,
    })
}

// ---- From text to settings ----

/// Proof that a problem was noted: whoever holds one need not report anything.
#[derive(Debug, Clone, Copy)]
struct Reported(());

/// A value as it was given, with the name to complain under.
struct Given {
    name: &'static str,
    text: String,
}

/// Reads one setting after the other and collects what is wrong with them.
struct Reader<'a> {
    matches: &'a ArgMatches,
    environment: Environment<'a>,
    missing: Vec<&'static str>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn finish(self, settings: Result<Settings, Reported>) -> Result<Settings, Exit> {
        let missing = (!self.missing.is_empty()).then(|| format!("missing: {}", self.missing.join(", ")));
        let problems: Vec<String> = missing.into_iter().chain(self.problems).collect();
        match settings {
            Ok(settings) if problems.is_empty() => Ok(settings),
            Ok(_) | Err(Reported(())) => {
                Err(Exit::Problem(format!("{}\n`{NAME} -help` explains every setting.", problems.join("; "))))
            }
        }
    }

    fn problem(&mut self, name: &str, why: impl fmt::Display) -> Reported {
        self.problems.push(format!("{name}: {why}"));
        Reported(())
    }

    fn missing(&mut self, name: &'static str) -> Reported {
        self.missing.push(name);
        Reported(())
    }

    /// What was given for a setting, flag before variables. An empty variable is an unset one.
    fn given(&mut self, setting: &Setting) -> Result<Option<Given>, Reported> {
        let flag = setting.flag.and_then(|flag| Some((flag, self.matches.get_one::<OsString>(flag)?)));
        let found = match flag {
            // In a script this is a variable that was never set; to go on without it would be a guess.
            Some((flag, value)) if value.is_empty() => {
                return Err(
                    self.problem(setting.variable, format!("the flag -{flag} is empty: give a value or leave it out"))
                );
            }
            Some((_, value)) => Some((setting.variable, value.clone())),
            None => [setting.variable].into_iter().chain(setting.also.iter().copied()).find_map(|variable| {
                (self.environment)(variable).filter(|value| !value.is_empty()).map(|value| (variable, value))
            }),
        };
        let Some((name, value)) = found else { return Ok(None) };
        let text = value.into_string().map_err(|_| self.problem(name, "is not UTF-8 text"))?;
        Ok(Some(Given { name, text }))
    }

    /// A setting that may be unset.
    fn optional<T>(
        &mut self,
        setting: &Setting,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Reported> {
        let Some(Given { name, text }) = self.given(setting)? else { return Ok(None) };
        check(&text).map(Some).map_err(|why| self.problem(name, why))
    }

    /// A setting that is required or has a default.
    fn value<T>(&mut self, setting: &Setting, check: impl Fn(&str) -> Result<T, String>) -> Result<T, Reported> {
        if let Some(value) = self.optional(setting, &check)? {
            return Ok(value);
        }
        match setting.default {
            Fallback::Value(text) => check(text).map_err(|why| self.problem(setting.variable, why)),
            Fallback::Required | Fallback::Unset | Fallback::Found(_) => Err(self.missing(setting.variable)),
        }
    }

    /// A secret, from its variable or from a file. It is read once, so that a bad file is a problem now.
    fn secret(&mut self, value: &Setting, file: &Setting) -> Result<Option<Secret>, Reported> {
        let (text, path) = (self.given(value), self.given(file));
        let (secret, name) = match (text?, path?) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                let why = format!("set together with {}: keep one of the two", file.variable);
                return Err(self.problem(value.variable, why));
            }
            (None, Some(Given { name, text })) => (Secret::File(PathBuf::from(text)), name),
            (Some(Given { name, text }), None) => match without_line_end(&Zeroizing::new(text)) {
                Some(secret) => (Secret::Value(secret), name),
                None => return Err(self.problem(name, "is blank")),
            },
        };
        match secret.read() {
            Ok(_) => Ok(Some(secret)),
            Err(why) => Err(self.problem(name, format_args!("{:#}", anyhow::Error::from(why)))),
        }
    }

    fn settings(&mut self) -> Result<Settings, Reported> {
        let log_format = self.value(&LOG_FORMAT, choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
        let progress = self.value(&PROGRESS, boolean);
        let command = match self.matches.subcommand() {
            Some(("check", _)) => self.run().map(Command::Check),
            Some(("list", _)) => self.list().map(Command::List),
            Some(("restore", matches)) => self.restore(matches).map(Command::Restore),
            Some(_) | None => self.run().map(Command::Run),
        };
        Ok(Settings { command: command?, log_format: log_format?, progress: progress? })
    }

    // Everything is read before the first `?`: one problem must not hide the next.

    fn run(&mut self) -> Result<Run, Reported> {
        // Where this switch itself is wrong, what it would allow is not worth a second complaint.
        let allow_http = self.value(&ALLOW_INSECURE_HTTP, boolean).unwrap_or(true);
        let s3 = self.s3();
        let gitlab = self.gitlab(allow_http);
        let graphql = self.graphql(allow_http);
        let pr_check = self.pr_check();
        let recipients = self.value(&PUBLIC_KEY, recipients);
        let workdir = self.value(&WORKDIR, one_line);
        let sleep = self.value(&RECONCILE_SLEEP_TIME, above_zero);
        let dry_run = self.value(&DRY_RUN, boolean);
        let run_once = self.value(&RUN_ONCE, boolean);
        let output = self.output();
        let archive_format = self.value(&ARCHIVE_FORMAT, str::parse);
        let max_retire = self.value(&MAX_RETIRE, str::parse);
        let on_rewrite = choice(&[("publish", OnRewrite::Publish), ("hold", OnRewrite::Hold)]);
        let on_rewrite = self.value(&ON_REWRITE, on_rewrite);
        let republish = self.optional(&REPUBLISH, str::parse);
        let sync_concurrency = self.optional(&SYNC_CONCURRENCY, count(1..=64));
        let probe_concurrency = self.value(&PROBE_CONCURRENCY, count(1..=256));
        let target_timeout = self.value(&TARGET_TIMEOUT, above_zero);
        let timeouts = self.timeouts();
        let mirror_cache_bytes = self.value(&MIRROR_CACHE_BYTES, byte_size);
        let max_repository_bytes = self.value(&MAX_REPOSITORY_BYTES, some_bytes);
        let share = self.share();
        let shard = self.value(&INSTANCE_SHARD, one_line);
        let metrics_port = self.value(&METRICS_SERVER_PORT, port);
        let metrics_address = self.value(&METRICS_SERVER_ADDRESS, ip_address);
        let stall_timeout = self.optional(&STALL_TIMEOUT, above_zero);
        let webhook_secret = self.secret(&WEBHOOK_SECRET, &WEBHOOK_SECRET_FILE);
        let target_timeout = target_timeout?;
        Ok(Run {
            gitlab: gitlab?,
            graphql: graphql?,
            pr_check: pr_check?,
            s3: s3?,
            recipients: recipients?,
            workdir: workdir?.into(),
            sleep: sleep?,
            dry_run: dry_run?,
            run_once: run_once?,
            output: output?,
            archive_format: archive_format?,
            max_retire: max_retire?,
            on_rewrite: on_rewrite?,
            republish: republish?.unwrap_or(Republish::Named(vec![])),
            sync_concurrency: sync_concurrency?.unwrap_or_else(default_sync_concurrency),
            probe_concurrency: probe_concurrency?,
            target_timeout,
            timeouts: timeouts?,
            mirror_cache_bytes: mirror_cache_bytes?,
            max_repository_bytes: max_repository_bytes?,
            share: share?,
            shard: shard?,
            metrics_port: metrics_port?,
            metrics_address: metrics_address?,
            stall_timeout: stall_timeout?.unwrap_or(target_timeout.saturating_add(STALL_MARGIN)),
            webhook_secret: webhook_secret?,
        })
    }

    fn list(&mut self) -> Result<List, Reported> {
        let (s3, timeouts, output) = (self.s3(), self.timeouts(), self.output());
        Ok(List { s3: s3?, timeouts: timeouts?, output: output? })
    }

    fn restore(&mut self, matches: &ArgMatches) -> Result<Restore, Reported> {
        let (s3, timeouts, output) = (self.s3(), self.timeouts(), self.output());
        let identity = match matches.get_one::<PathBuf>("identity") {
            None => Err(self.missing("-identity")),
            Some(path) => match fs::File::open(path) {
                Ok(_) => Ok(path.clone()),
                Err(why) => Err(self.problem("-identity", format_args!("cannot read {}: {why}", path.display()))),
            },
        };
        let words = matches.get_many::<OsString>("wanted").unwrap_or_default();
        let wanted: Vec<Result<Wanted, Reported>> = words
            .map(|word| {
                let wanted = word.to_str().ok_or_else(|| format!("{word:?} is not UTF-8 text")).and_then(str::parse);
                wanted.map_err(|why| self.problem("restore", why))
            })
            .collect();
        Ok(Restore {
            s3: s3?,
            timeouts: timeouts?,
            identity: identity?,
            into: matches.get_one::<PathBuf>("into").cloned(),
            wanted: wanted.into_iter().collect::<Result<_, _>>()?,
            output: output?,
        })
    }

    fn timeouts(&mut self) -> Result<Timeouts, Reported> {
        let (connect, idle) = (self.value(&CONNECT_TIMEOUT, above_zero), self.value(&IDLE_TIMEOUT, above_zero));
        Ok(Timeouts { connect: connect?, idle: idle? })
    }

    fn output(&mut self) -> Result<OutputFormat, Reported> {
        self.value(&OUTPUT, choice(&[("text", OutputFormat::Text), ("json", OutputFormat::Json)]))
    }

    fn s3(&mut self) -> Result<S3, Reported> {
        let bucket = self.value(&AWS_S3_BUCKET, bucket);
        let region = self.optional(&AWS_REGION, one_line);
        let endpoint_url = self.optional(&AWS_ENDPOINT_URL, base_url);
        let force_path_style = self.optional(&AWS_S3_FORCE_PATH_STYLE, boolean);
        let sign_payload = self.optional(&AWS_S3_SIGN_PAYLOAD, boolean);
        let use_fips = self.value(&AWS_USE_FIPS_ENDPOINT, boolean);
        let use_fips = match (&endpoint_url, use_fips) {
            (Ok(Some(_)), Ok(true)) => {
                let why = "AWS has FIPS endpoints for its own servers alone, and an endpoint is set: keep one of the two \
                           (an endpoint's address can be that of a FIPS server)";
                Err(self.problem(AWS_USE_FIPS_ENDPOINT.variable, why))
            }
            (Ok(_) | Err(_), use_fips) => use_fips,
        };
        self.access_key()?;
        let endpoint_url = endpoint_url?;
        Ok(S3 {
            bucket: bucket?,
            region: region?,
            force_path_style: force_path_style?.unwrap_or(endpoint_url.is_some()),
            // TLS protects what it carries already, and nobody listens between this machine and itself.
            sign_payload: sign_payload?
                .unwrap_or(endpoint_url.as_ref().is_some_and(|url| url.scheme() == "http" && !is_loopback(url))),
            endpoint_url,
            use_fips: use_fips?,
        })
    }

    /// The SDK reads the pair. Half a pair would make it look elsewhere without a word.
    fn access_key(&mut self) -> Result<(), Reported> {
        let (id, key) = (self.given(&AWS_ACCESS_KEY_ID), self.given(&AWS_SECRET_ACCESS_KEY));
        let (alone, other) = match (id?, key?) {
            (Some(id), None) => (id.name, AWS_SECRET_ACCESS_KEY.variable),
            (None, Some(key)) => (key.name, AWS_ACCESS_KEY_ID.variable),
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        Err(self.problem(alone, format_args!("set without {other}: set both, or none to use another AWS login")))
    }

    fn gitlab(&mut self, allow_http: bool) -> Result<Gitlab, Reported> {
        let base_url = self.value(&GITLAB_BASE_URL, base_url);
        let base_url = base_url.and_then(|url| self.confidential(&GITLAB_BASE_URL, url, allow_http));
        let username = self.value(&GITLAB_USERNAME, username);
        let token = match self.secret(&GITLAB_TOKEN, &GITLAB_TOKEN_FILE) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(self.missing(GITLAB_TOKEN.variable)),
            Err(reported) => Err(reported),
        };
        Ok(Gitlab { base_url: base_url?, username: username?, token: token? })
    }

    fn graphql(&mut self, allow_http: bool) -> Result<Graphql, Reported> {
        let server = self.value(&GRAPHQL_SERVER, http_url);
        let query = self.query(&GRAPHQL_QUERY_FILE, DEFAULT_QUERY_FILE);
        let login = self.graphql_login();
        let server = match login {
            Ok(Some(_)) => server.and_then(|url| self.confidential(&GRAPHQL_SERVER, url, allow_http)),
            Ok(None) | Err(_) => server,
        };
        Ok(Graphql { server: server?, query: query?, login: login? })
    }

    fn query(&mut self, setting: &Setting, default: &str) -> Result<QuerySource, Reported> {
        match self.optional(setting, |path| query_file(Path::new(path)))? {
            Some(query) => Ok(query),
            None => query_file_or_built_in(Path::new(default)).map_err(|why| self.problem(setting.variable, why)),
        }
    }

    /// What only the check needs is not looked at without it.
    fn pr_check(&mut self) -> Result<Option<PrCheck>, Reported> {
        let Some(previous) = self.optional(&PREVIOUS_BUNDLE_SHA, bundle_sha)? else { return Ok(None) };
        let query = self.query(&GRAPHQL_PRCHECK_QUERY_FILE, DEFAULT_PRCHECK_QUERY_FILE);
        let saas_file = self.value(&GIT_PARTITION_SAAS_NAME, one_line);
        Ok(Some(PrCheck { previous, query: query?, saas_file: saas_file? }))
    }

    fn graphql_login(&mut self) -> Result<Option<(String, Secret)>, Reported> {
        let username = self.optional(&GRAPHQL_USERNAME, username);
        let password = self.secret(&GRAPHQL_PASSWORD, &GRAPHQL_PASSWORD_FILE);
        let (alone, other) = match (username?, password?) {
            (None, None) => return Ok(None),
            (Some(username), Some(password)) => {
                return Ok((!is_placeholder(&username, &password)).then_some((username, password)));
            }
            (Some(_), None) => (&GRAPHQL_USERNAME, &GRAPHQL_PASSWORD),
            (None, Some(_)) => (&GRAPHQL_PASSWORD, &GRAPHQL_USERNAME),
        };
        let why = format!("set without {}: set both, or none for a server that wants no login", other.variable);
        Err(self.problem(alone.variable, why))
    }

    /// Lets an address pass that credentials may be sent to.
    fn confidential(&mut self, setting: &Setting, url: Url, allow_http: bool) -> Result<Url, Reported> {
        if url.scheme() == "https" || is_loopback(&url) || allow_http {
            return Ok(url);
        }
        let why = "credentials would cross the network in the clear: use https://, or set ALLOW_INSECURE_HTTP=true";
        Err(self.problem(setting.variable, why))
    }
}

/// qontract's development settings name this pair for servers that ask nobody who they are.
fn is_placeholder(username: &str, password: &Secret) -> bool {
    username == "dev" && password.read().is_ok_and(|password| password.expose_secret() == "dev")
}

fn default_sync_concurrency() -> NonZeroUsize {
    // Most of a target's time is spent waiting for the network, on few cores, too.
    const FEWEST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
    const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
    available_parallelism().unwrap_or(FEWEST).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests;
