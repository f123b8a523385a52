//! The source GitLab: the login, and every source branch.

use std::time::Duration;

use reqwest::StatusCode;

use super::ATTEMPTS;
use super::finding::{Check, by_reason};
use crate::config;
use crate::git::wire::{GitServer, WireError};
use crate::model::program::Program;
use crate::model::target::{Head, Target, Unknown};
use crate::net::http::{self, RequestError};
use crate::plan::Cause;
use crate::progress::Pulse;
use crate::reconcile::Clients;
use crate::text::error_chain;

/// Asked for if there are no projects: with a valid login, GitLab answers that it does not exist.
pub(super) const NO_PROJECT: &str = concat!(env!("CARGO_PKG_NAME"), "/check");
pub(super) const GITLAB: &str = "GitLab";
const BRANCHES: &str = "source branches";
/// How long reading one project may take, with all attempts.
const ASK_BUDGET: Duration = Duration::from_secs(60);
const LOGIN: &str =
    "GITLAB_USERNAME and GITLAB_TOKEN: the token must not have expired, and needs the scope read_repository";

/// The login, and the source branches of all targets.
pub(super) async fn gitlab(settings: &config::Run, clients: &Clients, mut targets: Vec<Target>) -> Vec<Check> {
    let git = match clients.git() {
        Ok(git) => git,
        Err(error) => {
            let check = Check::failed(GITLAB, error_chain(&error));
            return vec![check.advice("Correct the file, or its path."), Check::skipped(BRANCHES, "without a login")];
        }
    };
    let base = &settings.common.gitlab.base_url;
    targets.sort_by(|a, b| a.source.cmp(&b.source));
    targets.dedup_by(|a, b| a.source == b.source);
    // If nothing comes back for one project, nobody waits for the others.
    let first = targets.first().map_or(NO_PROJECT, |target| &target.source.project);
    if let Answer::Trouble { why, advice, is_silence: true } = ask(&git, first, LOGIN).await {
        let check = Check::failed(GITLAB, format!("{base}: {why}")).advice(advice);
        return vec![check, Check::skipped(BRANCHES, "before GitLab answers")];
    }
    let heads = match clients.heads(&git, targets, &Pulse::default()).await {
        Ok(heads) => heads,
        Err(refused) => {
            let check = Check::failed(GITLAB, format!("{base}: {}", error_chain(&refused)));
            return vec![check.advice(format!("Check {LOGIN}.")), Check::skipped(BRANCHES, "without a login")];
        }
    };
    let unreadable: Vec<_> = heads.iter().filter_map(unreadable).collect();
    let readable = heads.len() - unreadable.len();
    if readable == 0 {
        // One more request tells a wrong login from unreadable projects.
        let project = heads.first().map_or(NO_PROJECT, |(target, _)| &target.source.project);
        if let Answer::Trouble { why, advice, .. } = ask(&git, project, LOGIN).await {
            let check = Check::failed(GITLAB, format!("{base}: {why}")).advice(advice);
            return vec![check, Check::skipped(BRANCHES, "before GitLab answers")];
        }
    }
    let login = Check::passed(GITLAB, format!("{base} answers, and accepts the login"));
    let branches = match (heads.len(), unreadable.is_empty()) {
        (0, _) => Check::skipped(BRANCHES, "without a target"),
        (1, true) => Check::passed(BRANCHES, "the only one is readable"),
        (all, true) => Check::passed(BRANCHES, format!("all {all} are readable")),
        (all, false) => {
            let finding = format!("{} of {all} cannot be read", unreadable.len());
            let check = Check::failed(BRANCHES, finding);
            check.details(by_reason(unreadable)).advice(Cause::Unreadable.advice(Program::Producer))
        }
    };
    vec![login, branches]
}

/// An unreadable branch and why. The reason does not repeat the project's name, so that equal reasons can be grouped.
fn unreadable((target, head): &(Target, Head)) -> Option<(String, String)> {
    let reason = match head {
        Head::At(_) => return None,
        Head::Unknown(Unknown::Unreadable { why, .. }) => why.clone(),
        Head::Unknown(Unknown::NoBranch(_)) => "there is no such branch".to_owned(),
        Head::Unknown(unknown @ Unknown::NotTried) => unknown.to_string(),
    };
    Some((target.source.to_string(), reason))
}

/// What GitLab answers to a request that reads a project.
pub(super) enum Answer {
    /// The project is there, and the login is accepted.
    Project,
    /// The login is accepted, and no such project is visible to the user.
    NoProject,
    Trouble {
        why: String,
        advice: String,
        /// Whether nothing came back.
        is_silence: bool,
    },
}

/// Reads a project. `login` says what to check if the login is refused.
pub(super) async fn ask(git: &GitServer, project: &str, login: &str) -> Answer {
    let head = ["HEAD"].into();
    let asking = http::retrying_at_most(ATTEMPTS, ASK_BUDGET, async || git.ls_refs(project, &head).await);
    let Err(error) = asking.await else { return Answer::Project };
    let is_silence = matches!(&error, WireError::Request(error) if error.is_unanswered());
    let advice = match &error {
        WireError::Request(RequestError::Status { status, .. }) if *status == StatusCode::NOT_FOUND => {
            return Answer::NoProject;
        }
        WireError::Request(error) => error.advice("GITLAB_BASE_URL", login),
        WireError::NotGit(_)
        | WireError::Malformed(_)
        | WireError::Truncated
        | WireError::Empty
        | WireError::NotVersion2 => "Check GITLAB_BASE_URL: it is what clone addresses begin with.".to_owned(),
        // Git answered, so the login is accepted.
        WireError::Remote(_) | WireError::NotOurRef(_) | WireError::Sha256 | WireError::Shallow => {
            return Answer::Project;
        }
    };
    Answer::Trouble { why: error_chain(&error), advice, is_silence }
}
