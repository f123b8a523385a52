//! The GraphQL server, or the file in its place, and the target list.

use super::finding::{Check, by_reason};
use crate::graphql::GraphqlServer;
use crate::graphql::file::TargetsFile;
use crate::model::program::Program;
use crate::model::target::Targets;
use crate::plan::{Cause, Republish};
use crate::reconcile::{Clients, TargetList};
use crate::text::{counted, error_chain};

const GRAPHQL: &str = "GraphQL";
pub(super) async fn source(clients: &Clients) -> (Check, Option<Targets>) {
    match clients.target_list() {
        Ok(TargetList::Server { server, query }) => graphql(&server, &query).await,
        Ok(TargetList::File(file)) => targets_file(&file).await,
        Err(error) => {
            let check = Check::failed(GRAPHQL, error_chain(&error));
            (check.advice("Correct the file, or its path."), None)
        }
    }
}

async fn graphql(server: &GraphqlServer, query: &str) -> (Check, Option<Targets>) {
    match server.targets(query).await {
        Ok(targets) => {
            let finding = format!("{} answers, and the query fits: {}", server.url, all(&targets));
            (Check::passed(GRAPHQL, finding), Some(targets))
        }
        Err(error) => {
            let check = Check::failed(GRAPHQL, format!("{}: {}", server.url, error_chain(&error)));
            (check.advice(error.advice()), None)
        }
    }
}

async fn targets_file(file: &TargetsFile) -> (Check, Option<Targets>) {
    const NAME: &str = "targets file";
    match file.targets().await {
        Ok(targets) => {
            let finding = format!("{} is a target list: {}", file.0.display(), all(&targets));
            (Check::passed(NAME, finding), Some(targets))
        }
        Err(error) => (Check::failed(NAME, error_chain(&error)).advice(error.advice()), None),
    }
}

fn all(targets: &Targets) -> String {
    counted(targets.accepted.len() + targets.refused.len(), "target")
}

pub(super) fn targets(targets: &Targets, republish: &Republish) -> Check {
    const NAME: &str = "target list";
    if let Err(error) = republish.among(targets.destinations()) {
        return Check::failed(NAME, error.to_string()).advice("Correct REPUBLISH, or leave it out.");
    }
    let all = targets.accepted.len() + targets.refused.len();
    if all == 0 {
        return Check::warning(NAME, "empty: there is nothing to publish")
            .advice("Define `gitlabSync` for the code components that should go to the far side: docs/targets.md.");
    }
    let refused: Vec<_> = targets
        .refused
        .iter()
        .map(|refused| (refused.target.destination.to_string(), refused.problem.clone()))
        .collect();
    if refused.is_empty() {
        return Check::passed(NAME, "each target can be used");
    }
    let finding = format!("{} of {} cannot be used", refused.len(), counted(all, "target"));
    Check::failed(NAME, finding).details(by_reason(refused)).advice(Cause::Refused.advice(Program::Producer))
}
