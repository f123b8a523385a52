//! What the producer reads, setting by setting, and which settings must fit each other.
//!
//! Invariant: everything is read before the first `?`, so that one problem does not hide the next.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use clap::ArgMatches;
use secrecy::ExposeSecret;
use url::Url;

use super::reader::{Given, Reader, Reported};
use super::reference::*;
use super::values::{
    InsecureHttp, above_zero, base_url, boolean, bucket, bundle_sha, byte_size, choice, count, credential, gitlab_url,
    header_text, http_url, insecure_http, ip_address, is_loopback, memory_budget, not_blank, one_line, port,
    query_file, query_file_or_built_in, recipients, some_bytes, targets_file, username,
};
use super::{
    Command, Common, Gitlab, Graphql, Health, Instance, List, OutputFormat, PrCheck, Restore, Run, Settings, Sort,
    TargetList,
};
use crate::bucket::S3;
use crate::graphql::file::TargetsFile;
use crate::graphql::{self, QuerySource, pr_check};
use crate::model::key::Wanted;
use crate::net::Timeouts;
use crate::plan::{Crossing, OnRewrite, Republish};
use crate::secret::Secret;
use crate::telemetry::LogFormat;
use crate::text::hide;

/// What a pass may take without visible progress, in addition to the time limit of one target: listing the bucket,
/// asking for targets and heads, each with all its attempts.
const STALL_MARGIN: Duration = Duration::from_secs(300);

/// What is missing if neither is set.
const NO_TOKEN: &str = "GITLAB_TOKEN or GITLAB_TOKEN_FILE";
const NO_TARGET_LIST: &str = "GRAPHQL_SERVER or TARGETS_FILE";
/// What makes sense with a GraphQL server alone.
const OF_A_SERVER: [&Setting; 6] = [
    &GRAPHQL_QUERY_FILE,
    &GRAPHQL_USERNAME,
    &GRAPHQL_PASSWORD,
    &GRAPHQL_PASSWORD_FILE,
    &PREVIOUS_BUNDLE_SHA,
    &GRAPHQL_PRCHECK_QUERY_FILE,
];
/// The spellings of `CROSSING`.
const CROSSINGS: &[(&str, Crossing)] = &[("whole", Crossing::Whole), ("incremental", Crossing::Incremental)];
/// The login for a container's AWS credentials.
const CONTAINER_TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";

impl Reader<'_> {
    /// The settings of a command; `ends` tells whether it ends by itself, and prints nothing before.
    pub(super) fn settings<C>(
        &mut self,
        command: impl FnOnce(&mut Self) -> Result<C, Reported>,
        ends: impl FnOnce(&C) -> bool,
    ) -> Result<Settings<C>, Reported> {
        let log_format = self.value(&LOG_FORMAT, choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
        let progress = self.value(&PROGRESS, boolean);
        let command = command(self)?;
        let (ends, warnings) = (ends(&command), vec![]);
        Ok(Settings { ends, command, log_format: log_format?, progress: progress?, warnings })
    }

    /// The command that was given to the producer.
    pub(super) fn command(&mut self, matches: &ArgMatches) -> Result<Command, Reported> {
        match matches.subcommand() {
            Some(("check", _)) => self.run().map(Command::Check),
            Some(("list", matches)) => self.list(matches).map(Command::List),
            Some(("restore", matches)) => self.restore(matches).map(Command::Restore),
            Some(("health", _)) => self.health().map(Command::Health),
            Some(_) | None => self.run().map(Command::Run),
        }
    }

    fn run(&mut self) -> Result<Run, Reported> {
        let insecure = self.insecure_http();
        let common = self.common(insecure);
        let targets = self.target_list(insecure);
        let recipients = self.value(&PUBLIC_KEY, recipients);
        let signing_key = self.signing_key();
        let sleep = self.value(&RECONCILE_SLEEP_TIME, above_zero);
        let archive_format = self.value(&ARCHIVE_FORMAT, str::parse);
        let crossing = self.value(&CROSSING, choice(CROSSINGS));
        let max_increments = self.value(&MAX_INCREMENTS, count(1..=64));
        let max_retire = self.value(&MAX_RETIRE, str::parse);
        let republish = self.optional(&REPUBLISH, str::parse);
        let mirror_cache_bytes = self.value(&MIRROR_CACHE_BYTES, byte_size);
        Ok(Run {
            common: common?,
            targets: targets?,
            recipients: recipients?,
            signing_key: signing_key?,
            sleep: sleep?,
            archive_format: archive_format?,
            crossing: crossing?,
            max_increments: max_increments?,
            max_retire: max_retire?,
            republish: republish?.unwrap_or(Republish::Named(vec![])),
            mirror_cache_bytes: mirror_cache_bytes?,
        })
    }

    /// What a pass of either program needs.
    // Longer than a screen, because it reads one setting per line.
    pub(super) fn common(&mut self, insecure: InsecureHttp) -> Result<Common, Reported> {
        let s3 = self.s3(insecure);
        let gitlab = self.gitlab(insecure);
        let workdir = self.value(&WORKDIR, one_line);
        let dry_run = self.value(&DRY_RUN, boolean);
        let run_once = self.value(&RUN_ONCE, boolean);
        let detailed_exitcode = self.detailed_exitcode(dry_run, run_once);
        let output = self.output();
        let on_rewrite = [("publish", OnRewrite::Publish), ("hold", OnRewrite::Hold)];
        let on_rewrite = self.value(&ON_REWRITE, choice(&on_rewrite));
        let sync_concurrency = self.optional(&SYNC_CONCURRENCY, count(1..=64));
        let probe_concurrency = self.value(&PROBE_CONCURRENCY, count(1..=256));
        let target_timeout = self.value(&TARGET_TIMEOUT, above_zero);
        let timeouts = self.timeouts();
        let max_repository_bytes = self.value(&MAX_REPOSITORY_BYTES, some_bytes);
        let memory_budget_bytes = self.optional(&MEMORY_BUDGET_BYTES, memory_budget);
        let share = self.share();
        let instance = self.optional(&INSTANCE_SHARD, one_line);
        let metrics_port = self.value(&METRICS_SERVER_PORT, port);
        let metrics_address = self.value(&METRICS_SERVER_ADDRESS, ip_address);
        let stall_timeout = self.optional(&STALL_TIMEOUT, above_zero);
        let webhook_secret = self.secret(&WEBHOOK_SECRET, &WEBHOOK_SECRET_FILE);
        let target_timeout = target_timeout?;
        Ok(Common {
            gitlab: gitlab?,
            s3: s3?,
            workdir: workdir?.into(),
            dry_run: dry_run?,
            run_once: run_once?,
            detailed_exitcode: detailed_exitcode?,
            output: output?,
            on_rewrite: on_rewrite?,
            sync_concurrency: sync_concurrency?.unwrap_or_else(default_sync_concurrency),
            probe_concurrency: probe_concurrency?,
            target_timeout,
            timeouts: timeouts?,
            max_repository_bytes: max_repository_bytes?,
            memory_budget_bytes: memory_budget_bytes?,
            share: share?,
            instance: Instance(instance?),
            metrics_port: metrics_port?,
            metrics_address: metrics_address?,
            stall_timeout: stall_timeout?.unwrap_or(target_timeout.saturating_add(STALL_MARGIN)),
            webhook_secret: webhook_secret?,
        })
    }

    /// It would tell nothing of a pass that changes things, or of one of many.
    fn detailed_exitcode(
        &mut self,
        dry_run: Result<bool, Reported>,
        run_once: Result<bool, Reported>,
    ) -> Result<bool, Reported> {
        let detailed = self.value(&DETAILED_EXITCODE, boolean);
        match (detailed, dry_run, run_once) {
            (Ok(true), Ok(false), _) | (Ok(true), _, Ok(false)) => {
                let why = "is for a single dry run: set DRY_RUN and RUN_ONCE too, or leave it out";
                Err(self.problem(DETAILED_EXITCODE.variable, why))
            }
            (detailed, _, _) => detailed,
        }
    }

    pub(super) fn list(&mut self, matches: &ArgMatches) -> Result<List, Reported> {
        let insecure = self.insecure_http();
        let (s3, timeouts, output) = (self.s3(insecure), self.timeouts(), self.output());
        let wanted = self.wanted("list", matches);
        let sort = match matches.get_one::<String>("sort").map(String::as_str) {
            Some("name") => Some(Sort::Name),
            Some("size") => Some(Sort::Size),
            Some("age") => Some(Sort::Age),
            // The command line knows no other.
            Some(_) | None => None,
        };
        let [dates, outdated, foreign] = ["dates", "outdated", "foreign"].map(|flag| matches.get_flag(flag));
        Ok(List {
            s3: s3?,
            timeouts: timeouts?,
            output: output?,
            wanted: wanted?,
            sort,
            dates,
            outdated,
            foreign,
            signatures: None,
        })
    }

    /// Where the daemon on this machine listens.
    pub(super) fn health(&mut self) -> Result<Health, Reported> {
        let (address, port) = (self.value(&METRICS_SERVER_ADDRESS, ip_address), self.value(&METRICS_SERVER_PORT, port));
        let (address, port) = (address?, port?);
        if port == 0 {
            let why = "0 is any free port, so nobody knows where to ask: set the port";
            return Err(self.problem(METRICS_SERVER_PORT.variable, why));
        }
        let address = match address {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        Ok(Health { address: SocketAddr::new(address, port) })
    }

    /// The destinations, projects and groups that are named.
    fn wanted(&mut self, command: &str, matches: &ArgMatches) -> Result<Vec<Wanted>, Reported> {
        let words = matches.get_many::<OsString>("wanted").unwrap_or_default();
        let wanted: Vec<Result<Wanted, Reported>> = words
            .map(|word| {
                let wanted = word.to_str().ok_or_else(|| format!("{word:?} is not UTF-8 text")).and_then(str::parse);
                wanted.map_err(|why| self.problem(command, why))
            })
            .collect();
        wanted.into_iter().collect()
    }

    fn restore(&mut self, matches: &ArgMatches) -> Result<Restore, Reported> {
        let insecure = self.insecure_http();
        let (s3, timeouts, output) = (self.s3(insecure), self.timeouts(), self.output());
        let memory_budget_bytes = self.optional(&MEMORY_BUDGET_BYTES, memory_budget);
        let trusted = self.trusted();
        let identity = match matches.get_one::<PathBuf>("identity") {
            None => Err(self.missing("-identity")),
            Some(path) => match fs::File::open(path) {
                Ok(_) => Ok(path.clone()),
                Err(why) => Err(self.problem("-identity", format_args!("cannot read {}: {why}", path.display()))),
            },
        };
        let wanted = self.wanted("restore", matches);
        Ok(Restore {
            s3: s3?,
            timeouts: timeouts?,
            identity: identity?,
            trusted: trusted?,
            into: matches.get_one::<PathBuf>("into").cloned(),
            memory_budget_bytes: memory_budget_bytes?,
            wanted: wanted?,
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

    pub(super) fn insecure_http(&mut self) -> InsecureHttp {
        // If the setting itself is wrong, one message about it is enough.
        let program = self.program();
        self.value(&ALLOW_INSECURE_HTTP, insecure_http(program)).unwrap_or(InsecureHttp::EVERY_SERVER)
    }

    pub(super) fn s3(&mut self, insecure: InsecureHttp) -> Result<S3, Reported> {
        let bucket = self.value(&AWS_S3_BUCKET, bucket);
        let region = self.optional(&AWS_REGION, one_line);
        let endpoint_url = match self.optional(&AWS_ENDPOINT_URL, base_url) {
            Ok(Some(url)) => self.confidential(&AWS_ENDPOINT_URL, url, ("s3", insecure.s3)).map(Some),
            none => none,
        };
        let force_path_style = self.optional(&AWS_S3_FORCE_PATH_STYLE, boolean);
        let sign_payload = self.optional(&AWS_S3_SIGN_PAYLOAD, boolean);
        let use_fips = self.value(&AWS_USE_FIPS_ENDPOINT, boolean);
        let use_fips = match (&endpoint_url, use_fips) {
            (Ok(Some(_)), Ok(true)) => {
                let why = "AWS has FIPS endpoints for its own servers alone, and an endpoint is set: keep one of the two \
                           (the endpoint can be a FIPS server's address)";
                Err(self.problem(AWS_USE_FIPS_ENDPOINT.variable, why))
            }
            (Ok(_) | Err(_), use_fips) => use_fips,
        };
        let region_elsewhere = matches!(region, Ok(None));
        self.access_key().and(self.header_texts(region_elsewhere))?;
        if region_elsewhere && self.has_no_region() {
            self.doubt(
                "AWS_REGION is not set either: it is needed, except on a machine of AWS's that knows its region",
            );
        }
        let endpoint_url = endpoint_url?;
        Ok(S3 {
            bucket: bucket?,
            region: region?,
            force_path_style: force_path_style?.unwrap_or(endpoint_url.is_some()),
            // Over TLS or loopback, signing the payload would add nothing.
            sign_payload: sign_payload?
                .unwrap_or(endpoint_url.as_ref().is_some_and(|url| url.scheme() == "http" && !is_loopback(url))),
            endpoint_url,
            use_fips: use_fips?,
        })
    }

    /// Whether nothing here names the region. A machine of AWS's may know it, which only a request would show; where an
    /// access key is given, there is most likely no such machine.
    fn has_no_region(&mut self) -> bool {
        let is_set = |name: &str| self.variable(name).is_some_and(|text| !text.is_empty());
        let has_file = || Path::new(&self.variable("HOME").unwrap_or_default()).join(".aws/config").exists();
        let elsewhere = ["AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CONFIG_FILE"].into_iter().any(is_set) || has_file();
        !elsewhere && matches!(self.given(&AWS_ACCESS_KEY_ID), Ok(Some(_)))
    }

    /// The SDK reads the pair itself. With half a pair it would silently look for credentials elsewhere.
    fn access_key(&mut self) -> Result<(), Reported> {
        let (fit, there) =
            (self.optional(&AWS_ACCESS_KEY_ID, credential), self.optional(&AWS_SECRET_ACCESS_KEY, not_blank));
        // The SDK takes a blank token for none.
        let blank_or_fit = |text: &str| not_blank(text).map_or(Ok(()), |()| credential(text));
        let token = self.optional(&AWS_SESSION_TOKEN, blank_or_fit);
        fit.and(there).and(token)?;
        let (id, key) = (self.given(&AWS_ACCESS_KEY_ID), self.given(&AWS_SECRET_ACCESS_KEY));
        if let Ok(Some(key)) = &key {
            hide(key.text.trim());
        }
        // Requests carry it as it is.
        self.variable("AWS_SESSION_TOKEN").iter().for_each(|token| hide(token.trim()));
        let (alone, other) = match (id?, key?) {
            (Some(id), None) => (id.name, AWS_SECRET_ACCESS_KEY.variable),
            (None, Some(key)) => (key.name, AWS_ACCESS_KEY_ID.variable),
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        Err(self.problem(alone, format_args!("set without {other}: set both, or none to use another AWS login")))
    }

    /// The SDK reads these itself, and fails at each request if they fit no header.
    fn header_texts(&mut self, region_elsewhere: bool) -> Result<(), Reported> {
        let region = if region_elsewhere { "AWS_DEFAULT_REGION" } else { "" };
        let mut fit = Ok(());
        for name in [CONTAINER_TOKEN, "AWS_EXECUTION_ENV", "AWS_SDK_UA_APP_ID", region] {
            let Some(text) = self.variable(name) else { continue };
            if name == CONTAINER_TOKEN {
                hide(text.trim());
            }
            if let Err(why) = header_text(&text) {
                fit = Err(self.problem(name, why));
            }
        }
        fit
    }

    pub(super) fn gitlab(&mut self, insecure: InsecureHttp) -> Result<Gitlab, Reported> {
        let base_url = self.value(&GITLAB_BASE_URL, gitlab_url);
        let base_url = base_url.and_then(|url| self.confidential(&GITLAB_BASE_URL, url, ("gitlab", insecure.gitlab)));
        let username = self.value(&GITLAB_USERNAME, username);
        let token = self.secret(&GITLAB_TOKEN, &GITLAB_TOKEN_FILE);
        let token = token.and_then(|token| token.ok_or_else(|| self.missing(NO_TOKEN)));
        Ok(Gitlab { base_url: base_url?, username: username?, token: token? })
    }

    /// From a server or from a file.
    fn target_list(&mut self, insecure: InsecureHttp) -> Result<TargetList, Reported> {
        let (server, file) = (self.given(&GRAPHQL_SERVER), self.given(&TARGETS_FILE));
        match (server?, file?) {
            (Some(_), None) => self.graphql(insecure).map(|graphql| TargetList::Server(Box::new(graphql))),
            (None, Some(_)) => self.targets_file().map(TargetList::File),
            (Some(_), Some(file)) => {
                Err(self.problem(file.name, "set together with GRAPHQL_SERVER: keep the one that has the target list"))
            }
            (None, None) => Err(self.missing(NO_TARGET_LIST)),
        }
    }

    /// The file, if no setting of a server is beside it: it would do nothing.
    fn targets_file(&mut self) -> Result<TargetsFile, Reported> {
        let mut file = self.value(&TARGETS_FILE, targets_file);
        for setting in OF_A_SERVER {
            match self.given(setting) {
                Ok(None) => {}
                Ok(Some(Given { name, .. })) => {
                    let why = "needs GRAPHQL_SERVER, and the target list is in TARGETS_FILE: leave it out";
                    file = Err(self.problem(name, why));
                }
                Err(reported) => file = Err(reported),
            }
        }
        file
    }

    fn graphql(&mut self, insecure: InsecureHttp) -> Result<Graphql, Reported> {
        let server = self.value(&GRAPHQL_SERVER, http_url);
        let query = self.query(&GRAPHQL_QUERY_FILE, DEFAULT_QUERY_FILE, graphql::BUILT_IN_QUERY);
        let login = self.graphql_login();
        let sends_login = matches!(login, Ok(Some(_)));
        let allowed = ("graphql", insecure.graphql || !sends_login);
        let server = server.and_then(|url| self.confidential(&GRAPHQL_SERVER, url, allowed));
        let pr_check = self.pr_check();
        Ok(Graphql { server: server?, query: query?, login: login?, pr_check: pr_check? })
    }

    fn query(&mut self, setting: &Setting, default: &str, built_in: &'static str) -> Result<QuerySource, Reported> {
        match self.optional(setting, |path| query_file(Path::new(path)))? {
            Some(query) => Ok(query),
            None => {
                query_file_or_built_in(Path::new(default), built_in).map_err(|why| self.problem(setting.variable, why))
            }
        }
    }

    /// Settings that only the check needs are read only if it is asked for.
    fn pr_check(&mut self) -> Result<Option<PrCheck>, Reported> {
        let Some(previous) = self.optional(&PREVIOUS_BUNDLE_SHA, bundle_sha)? else { return Ok(None) };
        let query = self.query(&GRAPHQL_PRCHECK_QUERY_FILE, DEFAULT_PRCHECK_QUERY_FILE, pr_check::BUILT_IN_QUERY);
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

    /// The address, if credentials may be sent to it: `server` is its name in `ALLOW_INSECURE_HTTP`, and whether that names it.
    fn confidential(&mut self, setting: &Setting, url: Url, server: (&str, bool)) -> Result<Url, Reported> {
        let (name, allowed) = server;
        if url.scheme() == "https" || is_loopback(&url) || allowed {
            return Ok(url);
        }
        // S3's secret key is never sent.
        let what = if name == "s3" { "everything but the secret key" } else { "credentials" };
        let why =
            format!("{what} would cross the network in the clear: use https://, or name {name} in ALLOW_INSECURE_HTTP");
        Err(self.problem(setting.variable, why))
    }
}

/// Qontract's development settings use this pair for servers without a login.
fn is_placeholder(username: &str, password: &Secret) -> bool {
    username == "dev" && password.read().is_ok_and(|password| password.expose_secret() == "dev")
}

fn default_sync_concurrency() -> NonZeroUsize {
    // A target mostly waits for the network, so a few at a time make sense on a single core too.
    const FEWEST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
    const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
    available_parallelism().unwrap_or(FEWEST).clamp(FEWEST, MOST)
}
