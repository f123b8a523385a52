//! `restore`: one verdict for each requested object.

mod place;
mod watch;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::place::{Finding, RestoreError, Restored, restore_object};
use self::watch::Watch;
use super::{failed, pretty, print, signals};
use crate::artifact::encrypt::Identities;
use crate::bucket::{Bucket, BucketError};
use crate::config::{self, OutputFormat};
use crate::memory::MemoryBudget;
use crate::model::key::{ArchiveFormat, Destination, HeldObject, Wanted};
use crate::net::tls::TrustRoots;
use crate::terminal::Board;
use crate::text::{error_chain, printable, short_commit};

/// If none of the first objects, this many, is encrypted to the given identities, the others are not downloaded.
const STRANGERS: usize = 5;

/// What `restore` found.
#[derive(Debug, Default, Serialize)]
pub struct Verdicts {
    /// One for each object, by destination, newest first.
    pub objects: Vec<Verdict>,
    /// Arguments that match nothing in the bucket.
    pub not_found: Vec<String>,
    /// Whether a signal ended it before all objects were checked.
    pub interrupted: bool,
    /// How many objects were skipped, or not tried at all. Nothing is known about them.
    pub skipped: usize,
    /// Why the rest was not tried.
    pub not_tried: Option<String>,
}

/// Whether one object is what its name says.
#[derive(Debug, Serialize)]
pub struct Verdict {
    #[serde(flatten)]
    destination: Destination,
    commit: String,
    format: ArchiveFormat,
    key: String,
    good: bool,
    /// Whether nothing was found out about it.
    skipped: bool,
    /// Git objects verified.
    git_objects: Option<u64>,
    /// References of the archive that are not in the repository.
    other_references: usize,
    /// Where the repository is now.
    repository: Option<PathBuf>,
    /// What is wrong, or why it was skipped.
    problem: Option<String>,
}

impl Verdicts {
    /// Whether everything asked for is there and good.
    pub fn are_good(&self) -> bool {
        let all = self.objects.iter().all(|verdict| verdict.good);
        !self.interrupted && self.not_tried.is_none() && self.not_found.is_empty() && all
    }

    /// A line for each, and a sum.
    pub fn text(&self) -> String {
        let mut text: String = self.objects.iter().map(|verdict| verdict.line() + "\n").collect();
        for wanted in &self.not_found {
            text += &format!("MISSING  {}: the bucket holds no such object\n", printable(wanted));
        }
        if self.interrupted {
            text += "STOPPED  by a signal; the rest was not checked\n";
        }
        if let Some(reason) = &self.not_tried {
            text += &format!("STOPPED  {}\n", printable(reason));
        }
        let good = self.objects.iter().filter(|verdict| verdict.good).count();
        let bad = self.objects.iter().filter(|verdict| !verdict.good && !verdict.skipped).count();
        let skipped = if self.skipped == 0 { String::new() } else { format!(", {} skipped", self.skipped) };
        text + &format!("{good} good, {bad} bad, {} missing{skipped}\n", self.not_found.len())
    }
}

impl Verdict {
    fn line(&self) -> String {
        let name = format!("{}  {}", printable(&self.destination.to_string()), short_commit(&self.commit));
        match (&self.problem, &self.repository) {
            (Some(problem), _) if self.skipped => format!("SKIPPED  {name}  {}", printable(problem)),
            (Some(problem), _) => format!("BAD   {name}  {}", printable(problem)),
            (None, place) => {
                let place = place
                    .as_ref()
                    .map_or_else(String::new, |place| format!(" → {}", printable(&place.to_string_lossy())));
                let others = match self.other_references {
                    0 => String::new(),
                    others => format!(", {others} other reference(s) left out"),
                };
                format!("good  {name}  {} Git objects{others}{place}", self.git_objects.unwrap_or_default())
            }
        }
    }
}

/// Restores, and prints the verdicts.
pub(super) async fn command(settings: &config::Restore, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let identities = Identities::from_file(&settings.identity)?;
    let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
    let watch = Arc::new(Watch::default());
    let restoring = run(settings, &bucket, identities, &watch, &stop);
    let verdicts = match board.during(|| watch.scene(), restoring).await {
        Ok(verdicts) => verdicts,
        Err(error) => return Ok(failed(&error)),
    };
    let text = match settings.output {
        OutputFormat::Text => verdicts.text(),
        OutputFormat::Json => pretty(&serde_json::json!(verdicts)),
    };
    Ok(print(&text, verdicts.are_good()))
}

/// Checks the requested objects, or all if none is named, and keeps the newest of each destination under `into`.
///
/// # Errors
/// If the bucket cannot be listed. Problems of single objects are in their verdicts.
async fn run(
    settings: &config::Restore,
    bucket: &Bucket,
    identities: Identities,
    watch: &Arc<Watch>,
    stop: &CancellationToken,
) -> Result<Verdicts, BucketError> {
    let identities = Arc::new(identities);
    let memory = Arc::new(MemoryBudget::new(settings.memory_budget_bytes));
    let Some(listing) = stop.run_until_cancelled(bucket.list_counting(&watch.listed)).await else {
        return Ok(Verdicts { interrupted: true, ..Verdicts::default() });
    };
    let mut held = listing?.held;
    let wants = |wanted: &Wanted, object: &HeldObject| {
        wanted.matches(&object.name.destination.path(), &object.name.destination.branch)
    };
    let missing = settings.wanted.iter().filter(|wanted| !held.iter().any(|object| wants(wanted, object)));
    let mut verdicts = Verdicts { not_found: missing.map(Wanted::to_string).collect(), ..Verdicts::default() };
    held.retain(|object| settings.wanted.is_empty() || settings.wanted.iter().any(|wanted| wants(wanted, object)));
    held.sort_by(|a, b| {
        (&a.name.destination, b.last_modified, &a.key).cmp(&(&b.name.destination, a.last_modified, &b.key))
    });

    watch.wants(held.len());
    let (mut seen, mut strangers, total) = (HashSet::new(), 0, held.len());
    for object in held {
        let is_newest = seen.insert(object.name.destination.clone());
        let into = settings.into.clone().filter(|_| is_newest);
        watch.begins(&object);
        let restored = restore(bucket, &object, &identities, &memory, into, watch, stop).await;
        watch.ends();
        if stop.is_cancelled() {
            verdicts.interrupted = true;
            break;
        }
        strangers += usize::from(matches!(&restored, Err((Finding::NotForUs, _))));
        verdicts.objects.push(verdict(object, restored));
        let left = total - verdicts.objects.len();
        if strangers == STRANGERS && strangers == verdicts.objects.len() && left > 0 {
            verdicts.not_tried = Some(other_identity(&settings.identity, left));
            verdicts.skipped = left;
            break;
        }
    }
    verdicts.skipped += verdicts.objects.iter().filter(|verdict| verdict.skipped).count();
    Ok(verdicts)
}

fn other_identity(identity: &Path, left: usize) -> String {
    let file = identity.display();
    format!(
        "none of the first {STRANGERS} objects is encrypted to an identity in {file}, so {left} more were not tried; \
         give the identity of one of the recipients in PUBLIC_KEY"
    )
}

async fn restore(
    bucket: &Bucket,
    object: &HeldObject,
    identities: &Arc<Identities>,
    memory: &Arc<MemoryBudget>,
    into: Option<PathBuf>,
    watch: &Arc<Watch>,
    stop: &CancellationToken,
) -> Result<Restored, (Finding, String)> {
    let skipped = |reason: String| (Finding::Skipped, reason);
    let counting = Arc::clone(watch);
    let reader = bucket.download(&object.key, stop, move |bytes| counting.downloaded(bytes)).await;
    let reader = reader.map_err(|error| skipped(error_chain(&error)))?;
    let (name, identities, memory) = (object.name.clone(), Arc::clone(identities), Arc::clone(memory));
    let restored = spawn_blocking(move || {
        let scratch = std::env::temp_dir();
        let (to, into) = (&name.destination, into.as_deref());
        restore_object(reader, name.format, to, &name.commit, &identities, into, &scratch, &memory)
    });
    let restored: Result<Restored, RestoreError> = restored.await.map_err(|error| skipped(error_chain(&error)))?;
    restored.map_err(|error| {
        let advice = error.advice(&object.name.destination).map_or_else(String::new, |advice| format!("; {advice}"));
        (error.finding(), error_chain(&error) + &advice)
    })
}

fn verdict(HeldObject { key, name, .. }: HeldObject, restored: Result<Restored, (Finding, String)>) -> Verdict {
    let mut verdict = Verdict {
        destination: name.destination,
        commit: name.commit,
        format: name.format,
        key,
        good: restored.is_ok(),
        skipped: false,
        git_objects: None,
        other_references: 0,
        repository: None,
        problem: None,
    };
    match restored {
        Ok(Restored { repository, opened }) => {
            verdict.git_objects = Some(opened.git_objects);
            verdict.other_references = opened.other_references;
            verdict.repository = repository;
        }
        Err((finding, problem)) => {
            verdict.skipped = finding != Finding::Bad;
            verdict.problem = Some(problem);
        }
    }
    verdict
}
