//! `list`: the bucket, decoded for people.
//!
//! Invariant: it only reads.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{failed, listing_scene, of_destination, pretty, print};
use crate::bucket::{Bucket, Foreign, Listing};
use crate::config::{self, OutputFormat};
use crate::model::key::{Destination, HeldObject};
use crate::net::tls::TrustRoots;
use crate::terminal::{Board, Paint, Style};
use crate::text::{human_bytes, human_duration, objects, short_commit, table, timestamp};

/// Lists the bucket and prints it.
pub(super) async fn command(settings: &config::List, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
    let seen = AtomicUsize::new(0);
    let look = || listing_scene(seen.load(Ordering::Relaxed));
    let listing = match board.during(look, bucket.list_counting(&seen)).await {
        Ok(listing) => listing,
        Err(error) => return Ok(failed(&error)),
    };
    let text = match settings.output {
        OutputFormat::Text => text(listing, SystemTime::now(), Paint::on(&std::io::stdout())),
        OutputFormat::Json => pretty(&as_json(listing)),
    };
    Ok(print(&text, true))
}

/// The listing as an aligned table, by destination.
fn text(mut listing: Listing, now: SystemTime, paint: Paint) -> String {
    sort(&mut listing.held);
    let mut rows = vec![["DESTINATION", "BRANCH", "COMMIT", "FORMAT", "SIZE", "AGE"].map(str::to_owned).to_vec()];
    rows.extend(listing.held.iter().map(|HeldObject { name, last_modified, bytes, .. }| {
        let age = now.duration_since(*last_modified).unwrap_or_default();
        let Destination { branch, .. } = &name.destination;
        vec![
            name.destination.path(),
            branch.clone(),
            short_commit(&name.commit),
            name.content.to_string(),
            human_bytes(*bytes),
            human_duration(age),
        ]
    }));
    let total: u64 = listing.held.iter().map(|object| object.bytes).sum();
    let summary =
        format!("{}, {}; {} foreign\n", objects(listing.held.len()), human_bytes(total), listing.foreign.count);
    if listing.held.is_empty() {
        return summary;
    }
    let table = table("", &rows);
    let (heads, rest) = table.split_once('\n').unwrap_or((&table, ""));
    format!("{}\n{rest}{summary}", paint.text(Style::Bold, heads))
}

/// The listing as JSON; `docs/contract.md` describes the object.
fn as_json(mut listing: Listing) -> Value {
    sort(&mut listing.held);
    let objects = listing.held.iter().map(|HeldObject { key, name, last_modified, bytes }| {
        let fields = json!({
            "commit": name.commit,
            "format": name.content.to_string(),
            "bytes": bytes,
            "last_modified": timestamp(*last_modified),
            "key": key,
        });
        of_destination(&name.destination, fields)
    });
    let Foreign { count, examples } = listing.foreign;
    json!({ "objects": objects.collect::<Vec<_>>(), "foreign": examples, "foreign_count": count })
}

fn sort(held: &mut [HeldObject]) {
    held.sort_by(|a, b| {
        (&a.name.destination, a.last_modified, &a.key).cmp(&(&b.name.destination, b.last_modified, &b.key))
    });
}
