//! The far GitLab: the login, and the right to push to one of the bucket's projects.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Check;
use super::gitlab::{Answer, GITLAB, NO_PROJECT, ask};
use crate::config;
use crate::git::heads::why_no_push;
use crate::git::push::PushServer;
use crate::git::wire::GitServer;
use crate::model::key::HeldObject;
use crate::net::http::Login;
use crate::net::http::upload::Uploads;
use crate::plan::delivery::Obstacle;
use crate::text::{counted, error_chain};

/// How many of the bucket's projects are looked up until one is found that exists.
const PROJECTS_TRIED: usize = 20;
const PUSH: &str = "right to push";
const LOGIN: &str =
    "GITLAB_USERNAME and GITLAB_TOKEN: the token must not have expired, and needs the scope write_repository";

const MISSING_PROJECT: &str = "GitLab creates a missing project at the first push, private, if its group is there and the user \
    may create projects in it. If the project is there, make the user a member with the role Developer, or Maintainer to \
    push to protected branches.";

/// The login, and the right to push. `held` is what the bucket holds, the newest first.
pub(super) async fn gitlab(
    settings: &config::Consume,
    http: &reqwest::Client,
    uploads: &Uploads,
    held: &[HeldObject],
) -> Vec<Check> {
    let (git, push) = match servers(settings, http, uploads) {
        Ok(servers) => servers,
        Err(error) => {
            let check = Check::failed(GITLAB, error_chain(error.as_ref()));
            return vec![check.advice("Correct the file, or its path."), Check::skipped(PUSH, "without a login")];
        }
    };
    let base = &settings.common.gitlab.base_url;
    let projects = projects(held);
    let (mut found, mut missing) = (None, 0);
    // One request shows whether the login is accepted, even if there is no project to ask for.
    let names = projects.iter().map(|(project, _)| project.as_str()).take(PROJECTS_TRIED);
    for project in names.chain(projects.is_empty().then_some(NO_PROJECT)) {
        match ask(&git, project, LOGIN).await {
            Answer::Project => {
                found = projects.iter().find(|(name, _)| name == project);
                break;
            }
            Answer::NoProject => missing += 1,
            Answer::Trouble { why, advice, .. } => {
                let check = Check::failed(GITLAB, format!("{base}: {why}")).advice(advice);
                return vec![check, Check::skipped(PUSH, "before GitLab answers")];
            }
        }
    }
    let login = Check::passed(GITLAB, format!("{base} answers, and accepts the login"));
    let push = match found {
        Some((project, branches)) => right_to_push(&push, project, branches, missing).await,
        None if projects.is_empty() => Check::skipped(PUSH, "without an object"),
        None => nothing_there(missing, projects.len()),
    };
    vec![login, push]
}

/// The far GitLab, for reading and for pushing, with the login as it is now.
fn servers(
    settings: &config::Consume,
    http: &reqwest::Client,
    uploads: &Uploads,
) -> anyhow::Result<(GitServer, PushServer)> {
    let config::Gitlab { base_url, username, token } = &settings.common.gitlab;
    let login = Login::new(username, &token.read()?)?;
    let push = PushServer::new(uploads.clone(), base_url.clone(), login.clone());
    Ok((GitServer::new(http.clone(), base_url.clone(), login), push))
}

/// The projects of the objects with their branches, that of the newest object first.
fn projects(held: &[HeldObject]) -> Vec<(String, BTreeSet<&str>)> {
    let (mut order, mut branches) = (vec![], BTreeMap::<_, BTreeSet<_>>::new());
    for object in held {
        let project = object.name.destination.path();
        let known = branches.entry(project.clone()).or_default();
        if known.is_empty() {
            order.push(project);
        }
        known.insert(object.name.destination.branch.as_str());
    }
    order.into_iter().filter_map(|project| branches.remove_entry(&project)).collect()
}

/// Asks for the branches of a project that exists, as a push does first. GitLab answers only if the user may push. So many
/// others were asked for before, and are `missing`.
async fn right_to_push(git: &PushServer, project: &str, branches: &BTreeSet<&str>, missing: usize) -> Check {
    let heads = match git.heads_for_push(project, branches).await {
        Ok(heads) => heads,
        Err(error) => {
            let finding = format!("{project}: {}", error_chain(&error));
            return Check::failed(PUSH, finding).advice(Obstacle::from(why_no_push(project, &error)).advice());
        }
    };
    let there = match (heads.len(), branches.len()) {
        (0, 1) => "its branch is not there yet".to_owned(),
        (1, 1) => "its branch is there already".to_owned(),
        (there, all) => format!("{there} of its {all} branches in the bucket are there already"),
    };
    let finding = format!("granted for {project}; {there}");
    if missing == 0 {
        return Check::passed(PUSH, finding);
    }
    let finding = format!("{finding}; {} cannot be seen in GitLab yet", counted(missing, "other project"));
    Check::warning(PUSH, finding).advice(MISSING_PROJECT)
}

fn nothing_there(asked: usize, all: usize) -> Check {
    let which = if asked == all { "none" } else { "none of the first ones" };
    let finding = format!("not tried: of {} in the bucket, {which} can be seen in GitLab yet", counted(all, "project"));
    Check::warning(PUSH, finding).advice(MISSING_PROJECT)
}
