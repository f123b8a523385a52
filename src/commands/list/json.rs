//! A list as JSON, written object by object; `docs/contract.md` describes it.
//!
//! Invariant: a list that is not complete is not JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::bucket::Foreign;
use crate::commands::{exit_if_written, of_destination};
use crate::model::key::{Content, HeldObject};
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
    pub(super) fn object(&mut self, object: &HeldObject) -> bool {
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        self.write(&format!("{comma}\n{}", described(object)));
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

fn described(HeldObject { key, name, last_modified, bytes }: &HeldObject) -> Value {
    let base = match name.content {
        Content::Whole(_) => None,
        Content::Increment { base } => Some(base),
    };
    let fields = json!({
        "commit": name.commit,
        "format": name.content.to_string(),
        "base": base,
        "bytes": bytes,
        "last_modified": timestamp(*last_modified),
        "key": key,
    });
    of_destination(&name.destination, fields)
}
