//! A list as JSON, written object by object; `docs/contract.md` describes it.
//!
//! Invariant: a list that is not complete is not JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::{Serialize, Serializer};
use serde_json::json;

use super::signatures::Signature;
use crate::bucket::Foreign;
use crate::commands::exit_if_written;
use crate::model::key::{CommitId, Content, Destination, HeldObject};
use crate::model::manifest::KeyId;
use crate::text::timestamp;

/// A list that is being written.
pub(super) struct Streamed<W> {
    out: W,
    is_first: bool,
    /// Why nothing is written any more.
    broken: Option<io::Error>,
}

impl<W: Write> Streamed<W> {
    pub(super) fn new(out: W) -> Self {
        let mut streamed = Self { out, is_first: true, broken: None };
        streamed.write("{\n\"objects\": [");
        streamed
    }

    /// Writes one object, on a line of its own. `false` if nobody reads it.
    ///
    /// `signature`: what was found out of it, if that was asked for.
    pub(super) fn object(&mut self, object: &HeldObject, signature: Option<Option<&Signature>>) -> bool {
        let line_end = if std::mem::take(&mut self.is_first) { "\n" } else { ",\n" };
        self.write(line_end);
        if self.broken.is_none() {
            let line = Line::of(object, signature);
            self.broken = serde_json::to_writer(&mut self.out, &line).err().map(io::Error::from);
        }
        self.broken.is_none()
    }

    /// Completes the list, and returns the exit status: success if `good` and written.
    pub(super) fn end(mut self, foreign: &Foreign, good: bool) -> ExitCode {
        let Foreign { count, examples } = foreign;
        self.write(&format!("\n],\n\"foreign\": {},\n\"foreign_count\": {count}\n}}\n", json!(examples)));
        exit_if_written(self.flushed(), if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Leaves it as it is: what was listed so far can be read, and nobody takes it for all.
    pub(super) fn breaks_off(mut self) {
        self.write("\n");
        drop(self.flushed());
    }

    fn flushed(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.broken.take().map_or(flushed, Err)
    }

    fn write(&mut self, text: &str) {
        if self.broken.is_none() {
            self.broken = self.out.write_all(text.as_bytes()).err();
        }
    }
}

/// An object, by the names that `docs/contract.md` has for its fields.
#[derive(Serialize)]
struct Line<'a> {
    base: Option<CommitId>,
    branch: &'a str,
    bytes: u64,
    commit: &'a str,
    #[serde(serialize_with = "shown")]
    format: Content,
    group: &'a str,
    key: &'a str,
    last_modified: Option<String>,
    project: &'a str,
    // What was found out of its signature: null where nothing was, and left out if nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Option<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<Option<KeyId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Option<&'a str>>,
}

impl<'a> Line<'a> {
    fn of(
        HeldObject { key, name, last_modified, bytes }: &'a HeldObject,
        signature: Option<Option<&'a Signature>>,
    ) -> Self {
        let Destination { group, project, branch } = &name.destination;
        let base = match name.content {
            Content::Whole(_) => None,
            Content::Increment { base } => Some(base),
        };
        let (commit, format, last_modified) = (&name.commit, name.content, timestamp(*last_modified));
        let told = signature.map(|signature| match signature {
            Some(Signature::Good(origin)) => (Some(origin.name()), origin.key(), None),
            Some(Signature::Refused(why)) => (Some("refused"), None, Some(why.as_str())),
            Some(Signature::Unknown(why)) => (None, None, Some(why.as_str())),
            None => (None, None, None),
        });
        let (origin, signed_by, problem) = told.map_or((None, None, None), |(a, b, c)| (Some(a), Some(b), Some(c)));
        let bytes = *bytes;
        Self { base, branch, bytes, commit, format, group, key, last_modified, project, origin, signed_by, problem }
    }
}

fn shown<S: Serializer>(content: &Content, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(content)
}
