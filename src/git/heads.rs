//! Heads of source branches: one small request for each project, however many of its branches are wanted.
//!
//! Invariant: every requested branch gets an answer; a branch that was not found is as unknown as one that could not be
//! looked up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::wire::{GitServer, WireError};
use crate::model::key::CommitId;
use crate::model::target::{Head, Source, Target, Unknown};
use crate::net::http;
use crate::progress::Pulse;
use crate::text::error_chain;

/// How long one project's probe may take, including retries.
const PROBE_BUDGET: Duration = Duration::from_secs(90);
/// After this many projects in a row without a proper answer, the server counts as unreachable and the rest is not tried:
/// a GitLab that is down must not hold up a pass for hours.
const UNREACHABLE_AFTER: usize = 20;

/// The heads of a project's wanted branches.
type Found = Result<BTreeMap<String, CommitId>, Unknown>;

/// The targets with their source branches' heads, in the given order. At most `concurrency` projects are looked up at a
/// time, and each takes one of `slots`, which other passes share. `pulse` beats with every answer.
pub async fn heads(
    server: &GitServer,
    targets: Vec<Target>,
    slots: &Semaphore,
    concurrency: NonZeroUsize,
    pulse: &Pulse,
) -> Vec<(Target, Head)> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Target { source, .. } in &targets {
        wanted.entry(&source.project).or_default().insert(&source.branch);
    }
    let silent_in_a_row = AtomicUsize::new(0);
    let probes = wanted.into_iter().map(|(project, branches)| {
        let silent_in_a_row = &silent_in_a_row;
        async move {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            let found = if silent_in_a_row.load(Ordering::Relaxed) >= UNREACHABLE_AFTER {
                Err(Unknown::NotTried)
            } else {
                let found = http::retrying(PROBE_BUDGET, async || server.ls_refs(project, &branches).await).await;
                match &found {
                    Err(WireError::Request(error)) if error.is_transient() => {
                        silent_in_a_row.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => silent_in_a_row.swap(0, Ordering::Relaxed),
                };
                found.map_err(|error| Unknown::Unreadable { project: project.to_owned(), why: error_chain(&error) })
            };
            pulse.beat();
            (project.to_owned(), found)
        }
    });
    let found: HashMap<String, Found> = stream::iter(probes).buffer_unordered(concurrency.get()).collect().await;
    let head = |source: &Source| match found.get(&source.project) {
        Some(Ok(heads)) => match heads.get(&source.branch) {
            Some(commit) => Head::At(*commit),
            None => Head::Unknown(Unknown::NoBranch(source.clone())),
        },
        Some(Err(why)) => Head::Unknown(why.clone()),
        None => Head::Unknown(Unknown::NotTried),
    };
    let heads: Vec<_> = targets.iter().map(|target| head(&target.source)).collect();
    targets.into_iter().zip(heads).collect()
}
