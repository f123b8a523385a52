//! `check`: every setting and every server that a pass needs, tried one after the other, with what to do about each that
//! fails. It is what one runs first in a new place.
//!
//! Invariant: nothing that a pass or a consumer could see is changed, and one failure never hides the next.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use reqwest::StatusCode;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{pretty, print, signals};
use crate::artifact::encrypt::encrypting;
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config::{self, OutputFormat};
use crate::descriptors::Concurrency;
use crate::files::available_bytes;
use crate::git::wire::{GitServer, WireError};
use crate::graphql::TargetsError;
use crate::model::target::{Head, Target, Targets, Unknown};
use crate::net::http::RequestError;
use crate::net::tls::{self, TrustRoots};
use crate::plan::{Cause, Republish};
use crate::progress::Pulse;
use crate::reconcile::Clients;
use crate::terminal::{Paint, Style};
use crate::text::{error_chain, human_bytes, objects, printable};
use crate::workdir::{Workdir, WorkdirError};

/// How many names are shown of many that have the same trouble.
const NAMES_SHOWN: usize = 10;
/// Less free space than this is worth a word, in bytes.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;
/// What is written to WORKDIR, in bytes.
const TRIAL_FILE_BYTES: usize = 64 << 10;
/// Asked for where there is no target: who may log in is told that there is no such project.
const NO_PROJECT: &str = concat!(env!("CARGO_PKG_NAME"), "/check");
/// Width of the longest name of a check.
const NAME_COLUMN: usize = 15;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Passed,
    /// It works, and is worth a look.
    Warning,
    /// A pass would fail, wholly or for some target.
    Failed,
    /// Not tried: there was nothing to try, or something before it failed.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// The same in words.
    pub finding: String,
    /// What exactly, where that is several things.
    pub details: Vec<String>,
    /// What to do.
    pub advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, finding: impl Into<String>) -> Self {
        Self { name, verdict, finding: finding.into(), details: vec![], advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// For people: a line, and what belongs to it below.
    fn text(&self, paint: Paint) -> String {
        let (style, mark) = match self.verdict {
            Verdict::Passed => (Style::Green, "✓"),
            Verdict::Warning => (Style::Yellow, "!"),
            Verdict::Failed => (Style::Red, "✗"),
            Verdict::Skipped => (Style::Dim, "-"),
        };
        let mut text =
            format!("{} {:NAME_COLUMN$}  {}\n", paint.text(style, mark), self.name, printable(&self.finding));
        let indent = " ".repeat(2 + NAME_COLUMN + 2);
        for detail in &self.details {
            text += &format!("{indent}  {}\n", printable(detail));
        }
        if let Some(advice) = &self.advice {
            text += &format!("{indent}{} {}\n", paint.text(Style::Bold, "→"), printable(advice));
        }
        text
    }
}

/// Tries everything that a pass needs, and prints each check as it is done.
pub(super) async fn command(settings: config::Run, roots: &TrustRoots) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let (output, paint) = (settings.output, Paint::on(&std::io::stdout()));
    let wanted = Concurrency { sync: settings.sync_concurrency, probe: settings.probe_concurrency };
    let concurrency = Concurrency::within_this_process(wanted, 0);
    let clients = Clients::new(&settings, roots, concurrency.probe).await?;
    let show = |check: &Check| {
        if output == OutputFormat::Text {
            print(&check.text(paint), true);
        }
    };
    let Some(checks) = run(&settings, &clients, &stop, show).await else {
        tracing::warn!("stopped before every check was done");
        return Ok(ExitCode::FAILURE);
    };
    let text = match output {
        OutputFormat::Text => summary(&checks),
        OutputFormat::Json => pretty(&json(&checks)),
    };
    Ok(print(&text, is_good(&checks)))
}

/// Whether a pass can be expected to do all it should.
fn is_good(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Failed)
}

/// The last line, for people.
fn summary(checks: &[Check]) -> String {
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let [failed, skipped, warnings] = [Verdict::Failed, Verdict::Skipped, Verdict::Warning].map(count);
    if !is_good(checks) {
        let skipped = if skipped > 0 { format!(", {skipped} could not be tried") } else { String::new() };
        return format!("\n{failed} of {} checks failed{skipped}.\n", checks.len());
    }
    let warnings = match warnings {
        0 => "All is well.".to_owned(),
        1 => "It works, with 1 warning.".to_owned(),
        more => format!("It works, with {more} warnings."),
    };
    format!("\n{warnings} `-dry-run -run-once` shows what the first pass would do.\n")
}

/// The checks as JSON; `docs/contract.md` describes the object.
fn json(checks: &[Check]) -> serde_json::Value {
    serde_json::json!({ "good": is_good(checks), "checks": checks })
}

/// Tries everything; `show` is given each check when it is done. `None` where the program is asked to stop.
async fn run(
    settings: &config::Run,
    clients: &Clients,
    stop: &CancellationToken,
    mut show: impl FnMut(&Check),
) -> Option<Vec<Check>> {
    let mut done = vec![];
    let mut add = |checks: Vec<Check>| {
        checks.iter().for_each(&mut show);
        done.extend(checks);
    };
    add(vec![Check::new("settings", Verdict::Passed, "complete, and each value makes sense")]);
    add(vec![recipients(settings), workdir(&settings.workdir)]);
    let (check, targets) = stop.run_until_cancelled(graphql(clients)).await?;
    add(vec![check]);
    add(targets.as_ref().map(|targets| target_list(targets, &settings.republish)).into_iter().collect());
    let targets = targets.map(|targets| targets.accepted);
    add(stop.run_until_cancelled(gitlab(settings, clients, targets)).await?);
    let (check, reached) = stop.run_until_cancelled(listing(&clients.bucket, settings)).await?;
    add(vec![check]);
    add(writing(&clients.bucket, reached, stop).await);
    (!stop.is_cancelled()).then_some(done)
}

fn recipients(settings: &config::Run) -> Check {
    let recipients = &settings.recipients;
    let sealed = encrypting(recipients, io::sink()).map_err(io::Error::other).and_then(|sealer| sealer.finish());
    if let Err(error) = sealed {
        let finding = format!("cannot encrypt: {}", error_chain(&error));
        return Check::new(RECIPIENTS, Verdict::Failed, finding).advice("Check PUBLIC_KEY.");
    }
    let shown: Vec<_> = recipients.iter().take(NAMES_SHOWN).map(|recipient| short(&recipient.to_string())).collect();
    let finding = format!("{}: {}{}", recipients.len(), shown.join(", "), and_more(recipients.len()));
    Check::new(RECIPIENTS, Verdict::Passed, finding)
}

const RECIPIENTS: &str = "recipients";

/// Both ends of a recipient, enough to tell one from another.
fn short(recipient: &str) -> String {
    match (recipient.get(..12), recipient.get(recipient.len().saturating_sub(6)..)) {
        (Some(start), Some(end)) => format!("{start}…{end}"),
        _ => recipient.to_owned(),
    }
}

fn and_more(count: usize) -> String {
    if count > NAMES_SHOWN { format!(" and {} more", count - NAMES_SHOWN) } else { String::new() }
}

fn workdir(path: &Path) -> Check {
    const NAME: &str = "WORKDIR";
    let opened = Workdir::open(path);
    let workdir = match opened {
        Ok(workdir) => workdir,
        Err(WorkdirError::InUse(_)) => {
            let finding = format!("{}: another process is at work in it, so it was not tried", path.display());
            return Check::new(NAME, Verdict::Warning, finding)
                .advice("Fine where that is the daemon. Any other process needs a WORKDIR of its own.");
        }
        Err(error) => {
            return Check::new(NAME, Verdict::Failed, error_chain(&error))
                .advice("In Kubernetes: mount an emptyDir there, and set fsGroup if it is a volume of its own.");
        }
    };
    if let Err(error) = write_trial_file(&workdir) {
        let finding = format!("{}: cannot write a file: {error}", path.display());
        return Check::new(NAME, Verdict::Failed, finding).advice("Free space on this file system, or give it more.");
    }
    let free = available_bytes(path);
    let finding = format!("{}: writable, {} free", path.display(), human_bytes(free));
    if free < LITTLE_SPACE_BYTES {
        return Check::new(NAME, Verdict::Warning, finding).advice(
            "Plan for the largest repository times 1.2, for each of SYNC_CONCURRENCY, and MIRROR_CACHE_BYTES.",
        );
    }
    Check::new(NAME, Verdict::Passed, finding)
}

fn write_trial_file(workdir: &Workdir) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(workdir.mirrors())?;
    file.write_all(&[0; TRIAL_FILE_BYTES])?;
    file.sync_all()
}

async fn graphql(clients: &Clients) -> (Check, Option<Targets>) {
    const NAME: &str = "GraphQL";
    let failed = |finding, advice: &str| (Check::new(NAME, Verdict::Failed, finding).advice(advice), None);
    let server = match clients.graphql().and_then(|server| Ok((server, clients.query()?))) {
        Ok(server) => server,
        Err(error) => return failed(error_chain(&error), "Correct the file, or its path."),
    };
    let (server, query) = server;
    match server.targets(&query).await {
        Ok(targets) => {
            let count = targets.accepted.len() + targets.refused.len();
            let finding = format!("{} answers, and the query fits: {}", server.url, counted(count, "target"));
            (Check::new(NAME, Verdict::Passed, finding), Some(targets))
        }
        Err(error) => failed(format!("{}: {}", server.url, error_chain(&error)), &graphql_advice(&error)),
    }
}

fn graphql_advice(error: &TargetsError) -> String {
    match error {
        TargetsError::Request(error) => request_advice(
            error,
            "GRAPHQL_SERVER",
            "GRAPHQL_USERNAME and GRAPHQL_PASSWORD (leave both out for no login)",
        ),
        TargetsError::Shape { .. } => {
            "Check GRAPHQL_SERVER: it is the whole address, such as https://HOST/graphql. Where \
                                       it is right, check the query in GRAPHQL_QUERY_FILE: it must ask for what \
                                       docs/contract.md shows."
                .to_owned()
        }
        TargetsError::Reported(_) => {
            "The server does not know what the query asks for: its schema is another one, or the query in \
             GRAPHQL_QUERY_FILE is wrong."
                .to_owned()
        }
        TargetsError::NoList(_) => "Check the query in GRAPHQL_QUERY_FILE, and whether the server has data.".to_owned(),
    }
}

/// What to do where a request brought no answer that counts.
fn request_advice(error: &RequestError, address: &str, login: &str) -> String {
    match error {
        RequestError::Transport(error) if tls::refusal(error).is_some() => {
            format!("Put the authority's certificate into SSL_CERT_FILE, or check the host's name in {address}.")
        }
        RequestError::Transport(_) | RequestError::Late(_) => format!(
            "Check {address}; then name resolution, network policies and firewalls, HTTPS_PROXY and NO_PROXY: nobody \
             answers there."
        ),
        RequestError::Status { status, .. }
            if *status == StatusCode::UNAUTHORIZED || *status == StatusCode::FORBIDDEN =>
        {
            format!("Check {login}.")
        }
        RequestError::Status { status, .. } if status.is_server_error() => {
            "The server itself is in trouble: look there, and try again.".to_owned()
        }
        RequestError::Status { .. } | RequestError::Redirect { .. } | RequestError::TooLong { .. } => {
            format!("Check {address}, also its path.")
        }
    }
}

fn target_list(targets: &Targets, republish: &Republish) -> Check {
    const NAME: &str = "target list";
    if let Err(error) = republish.among(targets.destinations()) {
        return Check::new(NAME, Verdict::Failed, error.to_string()).advice("Correct REPUBLISH, or leave it out.");
    }
    let all = targets.accepted.len() + targets.refused.len();
    if all == 0 {
        return Check::new(NAME, Verdict::Warning, "empty: there is nothing to publish")
            .advice("Define `gitlabSync` for the code components that shall go to the far side.");
    }
    let refused: Vec<_> = targets
        .refused
        .iter()
        .map(|refused| (refused.target.destination.to_string(), refused.problem.clone()))
        .collect();
    if refused.is_empty() {
        return Check::new(NAME, Verdict::Passed, "each target can be used");
    }
    let finding = format!("{} of {} cannot be used", refused.len(), counted(all, "target"));
    Check::new(NAME, Verdict::Failed, finding).details(by_reason(refused)).advice(Cause::Refused.advice())
}

/// The source GitLab: the login, and every source branch where there are any.
async fn gitlab(settings: &config::Run, clients: &Clients, targets: Option<Vec<Target>>) -> Vec<Check> {
    let git = match clients.git() {
        Ok(git) => git,
        Err(error) => {
            let check = Check::new(GITLAB, Verdict::Failed, error_chain(&error));
            return vec![check.advice("Correct the file, or its path."), skipped(BRANCHES, "without a login")];
        }
    };
    let base = &settings.gitlab.base_url;
    let mut targets = targets.unwrap_or_default();
    targets.sort_by(|a, b| a.source.cmp(&b.source));
    targets.dedup_by(|a, b| a.source == b.source);
    let heads = clients.heads(&git, targets, &Pulse::default()).await;
    let unreadable: Vec<_> = heads.iter().filter_map(unreadable).collect();
    let readable = heads.len() - unreadable.len();
    if readable == 0 {
        // What kind of trouble it is, one request more tells.
        let project = heads.first().map_or(NO_PROJECT, |(target, _)| &target.source.project);
        if let Some((why, advice)) = login_trouble(&git, project).await {
            let check = Check::new(GITLAB, Verdict::Failed, format!("{base}: {why}")).advice(advice);
            return vec![check, skipped(BRANCHES, "before GitLab answers")];
        }
    }
    let login = Check::new(GITLAB, Verdict::Passed, format!("{base} answers, and takes the login"));
    let branches = match (heads.len(), unreadable.is_empty()) {
        (0, _) => skipped(BRANCHES, "without a target"),
        (all, true) => Check::new(BRANCHES, Verdict::Passed, format!("{} readable", all_of(all))),
        (all, false) => {
            let finding = format!("{} of {all} cannot be read", unreadable.len());
            let check = Check::new(BRANCHES, Verdict::Failed, finding);
            check.details(by_reason(unreadable)).advice(Cause::Unreadable.advice())
        }
    };
    vec![login, branches]
}

const GITLAB: &str = "GitLab";
const BRANCHES: &str = "source branches";

fn skipped(name: &'static str, why: &str) -> Check {
    Check::new(name, Verdict::Skipped, format!("cannot be tried {why}"))
}

fn all_of(count: usize) -> String {
    if count == 1 { "the only one is".to_owned() } else { format!("all {count} are") }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A branch that is not readable, and why, without the project's name in it: the same reason is said once.
fn unreadable((target, head): &(Target, Head)) -> Option<(String, String)> {
    let reason = match head {
        Head::At(_) => return None,
        Head::Unknown(Unknown::Unreadable { why, .. }) => why.clone(),
        Head::Unknown(Unknown::NoBranch(_)) => "there is no such branch".to_owned(),
        Head::Unknown(unknown @ Unknown::NotTried) => unknown.to_string(),
    };
    Some((target.source.to_string(), reason))
}

/// Names with the same reason together, each reason once. The most frequent comes first.
fn by_reason(troubles: Vec<(String, String)>) -> Vec<String> {
    let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, reason) in troubles {
        grouped.entry(reason).or_default().push(name);
    }
    let mut grouped: Vec<_> = grouped.into_iter().collect();
    grouped.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let lines = grouped.into_iter().flat_map(|(reason, names)| {
        let shown = names.len().min(NAMES_SHOWN);
        let rest = (names.len() > shown).then(|| format!("and {} more: {reason}", names.len() - shown));
        let named = names.into_iter().take(shown).map(move |name| format!("{name}: {reason}"));
        named.chain(rest).collect::<Vec<_>>()
    });
    lines.collect()
}

/// Why nobody can read anything; `None` where the server lets this user in.
async fn login_trouble(git: &GitServer, project: &str) -> Option<(String, String)> {
    const LOGIN: &str = "GITLAB_USERNAME and GITLAB_TOKEN: the token must not have expired, and needs the scope \
                         read_repository";
    let error = git.ls_refs(project, &["HEAD"].into()).await.err()?;
    let advice = match &error {
        WireError::Request(RequestError::Status { status, .. }) if *status == StatusCode::NOT_FOUND => return None,
        WireError::Request(error) => request_advice(error, "GITLAB_BASE_URL", LOGIN),
        WireError::NotGit(_)
        | WireError::Malformed(_)
        | WireError::Truncated
        | WireError::Empty
        | WireError::NotVersion2 => {
            "Check GITLAB_BASE_URL: it is the address that clone addresses begin with.".to_owned()
        }
        // Git answers, for this user.
        WireError::Remote(_) | WireError::NotOurRef(_) | WireError::Sha256 | WireError::Shallow => return None,
    };
    Some((error_chain(&error), advice))
}

/// The bucket's listing, and whether S3 answers at all.
async fn listing(bucket: &Bucket, settings: &config::Run) -> (Check, bool) {
    const NAME: &str = "bucket: list";
    let name = &settings.s3.bucket;
    match bucket.list().await {
        Ok(Listing { held, .. }) if let Err(error) = settings.archive_format.resolve(&held) => {
            let check = Check::new(NAME, Verdict::Failed, format!("{name}: {error}"));
            (check.advice("Set ARCHIVE_FORMAT to the one that the consumer reads."), true)
        }
        Ok(Listing { held, foreign }) => {
            let foreign = match foreign.len() {
                0 => String::new(),
                count => format!(", and {} with foreign names, which are left alone", objects(count)),
            };
            let finding = format!("{name} has {}{foreign}", objects(held.len()));
            (Check::new(NAME, Verdict::Passed, finding), true)
        }
        Err(error) => (refused(NAME, Verdict::Failed, &error, "s3:ListBucket"), error.is_access_denied()),
    }
}

/// What a pass does to the bucket.
async fn writing(bucket: &Bucket, reached: bool, stop: &CancellationToken) -> Vec<Check> {
    const UPLOAD: &str = "bucket: upload";
    const DELETE: &str = "bucket: delete";
    const UNFINISHED: &str = "bucket: uploads";
    if !reached {
        return [UPLOAD, DELETE].map(|name| skipped(name, "before the bucket answers")).into();
    }
    let passed = |name, finding: &str| Check::new(name, Verdict::Passed, finding);
    let upload = match bucket.try_upload(stop).await {
        Ok(()) => passed(UPLOAD, "an upload was begun and aborted; nothing of it is in the bucket"),
        Err(error) => refused(UPLOAD, Verdict::Failed, &error, "s3:PutObject and s3:AbortMultipartUpload"),
    };
    let delete = match stop.run_until_cancelled(bucket.try_delete()).await.unwrap_or(Err(BucketError::Stopped)) {
        Ok(()) => passed(DELETE, "allowed; nothing was deleted"),
        Err(error) => refused(DELETE, Verdict::Failed, &error, "s3:DeleteObject"),
    };
    let listed = stop.run_until_cancelled(bucket.try_list_uploads()).await.unwrap_or(Err(BucketError::Stopped));
    let unfinished = match listed {
        Ok(()) => passed(UNFINISHED, "those left behind by a killed process can be found"),
        Err(error) => refused(UNFINISHED, Verdict::Warning, &error, "s3:ListBucketMultipartUploads"),
    };
    vec![upload, delete, unfinished]
}

fn refused(name: &'static str, verdict: Verdict, error: &BucketError, right: &str) -> Check {
    let advice = match error {
        _ if error.is_access_denied() => {
            format!("Allow {right} to these credentials: docs/contract.md has the whole policy.")
        }
        _ if let Some(advice) = error.advice() => advice.to_owned(),
        _ => "Check AWS_ENDPOINT_URL_S3 and AWS_REGION; then the AWS credentials, name resolution, network policies, \
              HTTPS_PROXY and NO_PROXY."
            .to_owned(),
    };
    Check::new(name, verdict, error_chain(error)).advice(advice)
}
