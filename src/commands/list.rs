//! `list`: the bucket, decoded for people and programs.
//!
//! Invariant: it only reads. JSON is written as it is listed, so a bucket of any size takes little memory.

mod json;
mod signatures;
mod table;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use self::json::Streamed;
use self::signatures::Signatures;
use self::table::Style;
use super::{failed, listing_scene, print};
use crate::artifact::open::Keys;
use crate::bucket::{Bucket, BucketError, FOREIGN_EXAMPLES, Foreign, Listing};
use crate::config::{self, OutputFormat};
use crate::model::key::{HeldObject, Wanted};
use crate::net::tls::TrustRoots;
use crate::terminal::{Board, Paint, columns};
use crate::text::printable;

/// How many foreign objects are named if somebody asks for them; all are counted.
const FOREIGN_NAMED: usize = 10_000;

/// Lists the bucket and prints it.
pub(super) async fn command(settings: &config::List, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
    let read = |keys: &config::Keys| anyhow::Ok(Keys { identities: keys.identities()?, trusted: keys.trusted_keys()? });
    let keys = settings.signatures.as_ref().map(read).transpose()?;
    Ok(match (settings.output, settings.sort, &keys) {
        (OutputFormat::Json, None, None) => streamed(settings, &bucket, board).await,
        (OutputFormat::Json | OutputFormat::Text, _, _) => whole(settings, &bucket, keys, board).await,
    })
}

/// Prints objects as they are listed.
async fn streamed(settings: &config::List, bucket: &Bucket, board: &Board) -> ExitCode {
    let mut out = Streamed::new(io::BufWriter::new(io::stdout()));
    let mut filter = Filter::new(&settings.wanted);
    let seen = AtomicUsize::new(0);
    let take = |object: HeldObject| {
        if filter.wants(&object) && !out.object(&object, None) {
            return Err(BucketError::Stopped);
        }
        Ok(())
    };
    let listing = bucket.list_each(foreign_names(settings), &seen, take);
    // On a terminal, what is printed shows how far it is.
    let listed = match io::stdout().is_terminal() {
        true => listing.await,
        false => board.during(|| listing_scene(seen.load(Ordering::Relaxed)), listing).await,
    };
    match listed {
        Ok(foreign) => out.end(&foreign, filter.finds_all()),
        // The reader is gone, or cannot be written to.
        Err(BucketError::Stopped) => out.end(&Foreign::default(), true),
        Err(error) => {
            out.breaks_off();
            failed(&error)
        }
    }
}

/// Reads the whole listing, and prints it in order.
async fn whole(settings: &config::List, bucket: &Bucket, keys: Option<Keys>, board: &Board) -> ExitCode {
    let seen = AtomicUsize::new(0);
    let listing = bucket.list_naming(foreign_names(settings), &seen);
    let Listing { mut held, foreign } =
        match board.during(|| listing_scene(seen.load(Ordering::Relaxed)), listing).await {
            Ok(listing) => listing,
            Err(error) => return failed(&error),
        };
    let mut filter = Filter::new(&settings.wanted);
    held.retain(|object| filter.wants(object));
    let all_found = filter.finds_all();
    let signatures = match keys {
        None => None,
        Some(keys) => Some(read_signatures(settings, bucket, keys, &held, board).await),
    };
    let good = all_found && signatures.as_ref().is_none_or(signatures::are_good);
    if settings.output == OutputFormat::Json {
        let mut out = Streamed::new(io::BufWriter::new(io::stdout()));
        table::sort_objects(&mut held, settings.sort);
        // What goes wrong is said at the end.
        let signature = |object: &HeldObject| signatures.as_ref().map(|signatures| signatures.get(&object.key));
        let _ = held.iter().all(|object| out.object(object, signature(object)));
        return out.end(&foreign, good);
    }
    let (out, now) = (io::stdout(), SystemTime::now());
    let style = Style { now, dates: settings.dates, columns: columns(&out), paint: Paint::on(&out) };
    let sort = settings.sort.unwrap_or(config::Sort::Name);
    let is_checked = settings.signatures.as_ref().is_some_and(|signatures| signatures.trusted.is_some());
    let said = |signatures| signatures::summary(&held, signatures, is_checked);
    let rows = table::Rows::of(&held);
    let text = rows.text(sort, settings.outdated, signatures.as_ref(), style)
        + &signatures.as_ref().map(said).unwrap_or_default()
        + &rows.summary(&foreign)
        + &if settings.foreign { table::foreign_names(&foreign) } else { String::new() };
    print(&text, good)
}

/// Reads the beginnings of the objects that count, and of the others if they are shown.
async fn read_signatures(
    settings: &config::List,
    bucket: &Bucket,
    keys: Keys,
    held: &[HeldObject],
    board: &Board,
) -> Signatures {
    let wanted = if settings.outdated { held.iter().collect() } else { table::Rows::of(held).counting() };
    let watch = signatures::Watch::default();
    let reading = signatures::read(bucket, keys, &wanted, &watch);
    board.during(|| watch.scene(wanted.len()), reading).await
}

fn foreign_names(settings: &config::List) -> usize {
    if settings.foreign { FOREIGN_NAMED } else { FOREIGN_EXAMPLES }
}

/// What is asked for, and which of it was found.
struct Filter<'a> {
    wanted: Vec<(&'a Wanted, bool)>,
}

impl<'a> Filter<'a> {
    fn new(wanted: &'a [Wanted]) -> Self {
        Self { wanted: wanted.iter().map(|wanted| (wanted, false)).collect() }
    }

    fn wants(&mut self, object: &HeldObject) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        let mut is_wanted = false;
        for (wanted, found) in &mut self.wanted {
            let matches = wanted.matches(&object.name.destination);
            *found |= matches;
            is_wanted |= matches;
        }
        is_wanted
    }

    /// Whether everything was found. Says what was not.
    fn finds_all(&self) -> bool {
        for (wanted, _) in self.wanted.iter().filter(|(_, found)| !found) {
            tracing::error!("the bucket holds nothing of {}", printable(&wanted.to_string()));
        }
        self.wanted.iter().all(|(_, found)| *found)
    }
}
