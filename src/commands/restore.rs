//! `restore`: one verdict for each requested object.

mod place;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::place::{Finding, Means, Named, RestoreError, Restored, restore_object};
use self::watch::Watch;
use super::{failed, pretty, print, signals};
use crate::artifact::encrypt::Identities;
use crate::artifact::error::ArtifactError;
use crate::artifact::open::Said;
use crate::bucket::{Bucket, BucketError};
use crate::config::{self, OutputFormat, Trusted};
use crate::memory::MemoryBudget;
use crate::model::key::{Destination, HeldObject, Wanted};
use crate::model::manifest::{KeyId, Origin};
use crate::net::tls::TrustRoots;
use crate::plan::chain::chain;
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
    /// Of the whole history; `increment` if there is none.
    format: String,
    /// How many increments are on top of it.
    increments: usize,
    key: String,
    good: bool,
    /// Whether nothing was found out about it.
    skipped: bool,
    /// Git objects verified.
    git_objects: Option<u64>,
    /// References of the archive that are not in the repository.
    other_references: usize,
    /// Who made it: `signed`, `unchecked` or `unsigned`; `refused` if that is what is wrong with it.
    origin: Option<&'static str>,
    /// The key that it was signed with, or that it names.
    signed_by: Option<KeyId>,
    /// When it was published, as it says.
    published: Option<String>,
    /// The same for people.
    #[serde(skip)]
    maker: Option<Origin>,
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
                let increments = match self.increments {
                    0 => String::new(),
                    1 => ", 1 increment".to_owned(),
                    many => format!(", {many} increments"),
                };
                let origin = self.maker.map_or_else(String::new, |origin| format!(", {origin}"));
                format!(
                    "good  {name}  {} Git objects{increments}{others}{origin}{place}",
                    self.git_objects.unwrap_or_default()
                )
            }
        }
    }
}

/// Restores, and prints the verdicts.
pub(super) async fn command(settings: &config::Restore, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let means = Means {
        identities: Identities::from_file(&settings.identity)?,
        trusted: settings.trusted.as_ref().map(Trusted::keys).transpose()?,
        memory: MemoryBudget::new(settings.memory_budget_bytes),
    };
    let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
    let watch = Arc::new(Watch::default());
    let restoring = run(settings, &bucket, means, &watch, &stop);
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

/// Checks the requested objects, or all if none is named, and keeps what counts of each destination under `into`.
///
/// # Errors
/// If the bucket cannot be listed. Problems of single objects are in their verdicts.
async fn run(
    settings: &config::Restore,
    bucket: &Bucket,
    means: Means,
    watch: &Arc<Watch>,
    stop: &CancellationToken,
) -> Result<Verdicts, BucketError> {
    let means = Arc::new(means);
    let Some(listing) = stop.run_until_cancelled(bucket.list_counting(&watch.listed)).await else {
        return Ok(Verdicts { interrupted: true, ..Verdicts::default() });
    };
    let mut held = listing?.held;
    let wants = |wanted: &Wanted, object: &HeldObject| wanted.matches(&object.name.destination);
    let missing = settings.wanted.iter().filter(|wanted| !held.iter().any(|object| wants(wanted, object)));
    let mut verdicts = Verdicts { not_found: missing.map(Wanted::to_string).collect(), ..Verdicts::default() };
    held.retain(|object| settings.wanted.is_empty() || settings.wanted.iter().any(|wanted| wants(wanted, object)));
    let units = units(held);
    watch.wants(units.len());
    let (mut seen, mut strangers, total) = (HashSet::new(), 0, units.len());
    for unit in units {
        let is_newest = seen.insert(unit.tip().name.destination.clone());
        let into = settings.into.clone().filter(|_| is_newest);
        watch.begins(&unit.object);
        let restored = restore(bucket, &unit, &means, into, watch, stop).await;
        watch.ends();
        if stop.is_cancelled() {
            verdicts.interrupted = true;
            // What is there is reported all the same.
            verdicts.objects.extend(restored.is_ok().then(|| verdict(unit, restored)));
            break;
        }
        strangers += usize::from(matches!(&restored, Err((Finding::NotForUs, _))));
        verdicts.objects.push(verdict(unit, restored));
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

/// What is restored as one: a whole history, and the increments on top of it.
struct Unit {
    object: HeldObject,
    increments: Vec<HeldObject>,
}

impl Unit {
    /// The object that brings the commit.
    fn tip(&self) -> &HeldObject {
        self.increments.last().unwrap_or(&self.object)
    }
}

/// By destination: first what counts, then its other objects, the newest first.
fn units(held: Vec<HeldObject>) -> Vec<Unit> {
    let mut destinations: BTreeMap<Destination, Vec<HeldObject>> = BTreeMap::new();
    for object in held {
        destinations.entry(object.name.destination.clone()).or_default().push(object);
    }
    let mut units = vec![];
    for mut objects in destinations.into_values() {
        objects.sort_by(|a, b| (b.last_modified, &a.key).cmp(&(a.last_modified, &b.key)));
        let counting = chain(&objects.iter().collect::<Vec<_>>())
            .map(|chain| (chain.whole.clone(), chain.increments.into_iter().cloned().collect::<Vec<_>>()));
        if let Some((whole, increments)) = counting {
            objects.retain(|object| object.key != whole.key && increments.iter().all(|it| it.key != object.key));
            units.push(Unit { object: whole, increments });
        }
        units.extend(objects.into_iter().map(|object| Unit { object, increments: vec![] }));
    }
    units
}

async fn restore(
    bucket: &Bucket,
    unit: &Unit,
    means: &Arc<Means>,
    into: Option<PathBuf>,
    watch: &Arc<Watch>,
    stop: &CancellationToken,
) -> Result<Restored, (Finding, String)> {
    let skipped = |reason: String| (Finding::Skipped, reason);
    let Some(format) = unit.object.name.content.format() else {
        return Err(skipped(
            "an increment that is not on top of what the bucket holds: no consumer uses it".to_owned(),
        ));
    };
    let counting = Arc::clone(watch);
    let reader = bucket.download(&unit.object.key, stop, move |bytes| counting.downloaded(bytes)).await;
    let reader = reader.map_err(|error| skipped(error_chain(&error)))?;
    let (bucket, stop, watch) = (bucket.clone(), stop.clone(), Arc::clone(watch));
    let (name, increments, means) = (unit.object.name.clone(), unit.increments.clone(), Arc::clone(means));
    let runtime = Handle::current();
    let restored = spawn_blocking(move || {
        let scratch = std::env::temp_dir();
        let named = Named { format, destination: &name.destination, commit: &name.commit };
        let download = |object: &HeldObject| {
            let counting = Arc::clone(&watch);
            let came = move |bytes| counting.downloaded(bytes);
            let reader = runtime.block_on(bucket.download(&object.key, &stop, came));
            let reader = reader.map_err(|error| ArtifactError::Download(io::Error::other(error)))?;
            Ok(Box::new(reader) as Box<dyn Read>)
        };
        restore_object(reader, named, (&increments, &download), &means, into.as_deref(), &scratch)
    });
    let restored: Result<Restored, RestoreError> = restored.await.map_err(|error| skipped(error_chain(&error)))?;
    restored.map_err(|error| {
        let destination = &unit.object.name.destination;
        let advice = error.advice(destination).map_or_else(String::new, |advice| format!("; {advice}"));
        (error.finding(), error_chain(&error) + &advice)
    })
}

fn verdict(unit: Unit, restored: Result<Restored, (Finding, String)>) -> Verdict {
    let HeldObject { key, name, .. } = unit.tip().clone();
    let mut verdict = Verdict {
        destination: name.destination,
        commit: name.commit,
        format: unit.object.name.content.to_string(),
        increments: unit.increments.len(),
        key,
        good: restored.is_ok(),
        skipped: false,
        git_objects: None,
        other_references: 0,
        origin: None,
        signed_by: None,
        published: None,
        maker: None,
        repository: None,
        problem: None,
    };
    match restored {
        Ok(Restored { repository, opened }) => {
            verdict.git_objects = Some(opened.git_objects);
            let Said { other_references, origin, manifest } = opened.said;
            verdict.other_references = other_references;
            (verdict.origin, verdict.signed_by, verdict.maker) = (Some(origin.name()), origin.key(), Some(origin));
            verdict.published = manifest.map(|manifest| manifest.published_text());
            verdict.repository = repository;
        }
        Err((finding, problem)) => {
            verdict.skipped = !matches!(finding, Finding::Bad | Finding::Refused);
            verdict.origin = (finding == Finding::Refused).then_some("refused");
            verdict.problem = Some(problem);
        }
    }
    verdict
}
