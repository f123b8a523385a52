//! What full passes remember of earlier ones for retirements, also across restarts: WORKDIR has a copy.
//!
//! Invariant: what a pass is about to retire is on disk before it is deleted, if the disk can be written to.

use std::collections::HashSet;
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::observe::Observed;
use crate::plan::{Memory, Plan};
use crate::text::printable;
use crate::workdir::{self, Workdir};

/// How many held retirements the log names; the rest are only counted.
const HELD_SHOWN: usize = 5;

/// The memory of this process, once it has been read from WORKDIR.
#[derive(Debug, Default)]
pub(super) struct Recall(Mutex<Option<Memory>>);

impl Recall {
    /// The memory. A preview does not write, so it reads again each time.
    pub fn get(&self, workdir: &Path, preview: bool) -> Memory {
        let mut known = self.0.lock();
        if let Some(memory) = &*known {
            return memory.clone();
        }
        let memory = match workdir::kept_memory(workdir) {
            Ok(Some(memory)) => memory,
            Ok(None) => {
                if !preview {
                    tracing::info!("no record of earlier retirements under WORKDIR: the retire guard begins a new one");
                }
                Memory::default()
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot read the record of earlier retirements under WORKDIR: the retire guard begins a new one"
                );
                Memory::default()
            }
        };
        if !preview {
            *known = Some(memory.clone());
        }
        memory
    }

    /// Counts what a pass is about to retire.
    pub fn count(&self, workdir: &Workdir, observed: &Observed, plan: &Plan) {
        let targets = observed.desired.targets.iter().map(|(target, _)| target);
        let refused = observed.desired.refused.iter().map(|refused| &refused.target);
        let held: HashSet<_> = observed.held.iter().map(|object| &object.name.destination).collect();
        let mut known = self.0.lock();
        let memory = known.get_or_insert_default();
        // What an empty or a shortened list says about apps is not to be compared with.
        let unlisted_apps = (!observed.is_doubtful(plan)).then_some(observed.bucket_wide.unlisted_apps);
        memory.confirm(held.iter().copied());
        memory.count(SystemTime::now(), plan.budget.held, plan.retired(), unlisted_apps);
        memory.learn(targets.chain(refused), held.into_iter());
        keep(workdir, memory);
    }
}

fn keep(workdir: &Workdir, memory: &Memory) {
    if let Err(error) = workdir.keep_memory(memory) {
        tracing::warn!(%error, "cannot record under WORKDIR what was retired: a restart would forget it");
    }
}

/// One line for all retirements that wait, and one for how much of the day's limit is used.
pub(super) fn log(plan: &Plan) {
    let held = &plan.held_retirements;
    let names: Vec<_> = held.iter().take(HELD_SHOWN).map(|held| printable(&held.destination.to_string())).collect();
    let (count, examples) = (held.len(), names.join(" "));
    let trouble = held.iter().find(|held| held.reason.is_trouble());
    let reason = trouble.or(held.first()).map(|held| printable(&held.reason.to_string()));
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(count, examples, reason, "destinations without a target are kept for now")
        };
    }
    if trouble.is_some() {
        log!(warn);
    } else if count > 0 {
        log!(info);
    }
    if plan.retired().next().is_some() {
        tracing::info!("retire guard: with this pass, {}", plan.budget);
    }
}
