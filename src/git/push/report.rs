//! What a server reports after a push: `report-status`, usually inside `side-band-64k`.
//!
//! Invariant: only lines about the pushed branch count, and no more than a bounded number of bytes is read into memory.

use std::time::Duration;

use bytes::BytesMut;

use super::super::wire::WireError;
use super::super::wire::packets::{Packet, Packets, take_packet};
use super::error::PushError;
use super::refusal::Refusal;
use super::said::Said;
use super::{drain, next};
use crate::net::http::RequestError;
use crate::text::remote_text;

/// The longest report about one branch that is read, in bytes. Hooks cannot make it longer.
const REPORT_LIMIT_BYTES: usize = 64 << 10;

/// What the server says about one push.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What became of the pack: `ok`, or why not.
    unpack: Option<String>,
    /// What became of the branch.
    branch: Option<Result<(), String>>,
    /// Whether the report's own end was there.
    is_complete: bool,
    said: Said,
}

impl Report {
    /// Reads an answer. `wait` bounds each packet.
    pub(super) async fn read(
        mut packets: Packets,
        branch: &str,
        side_band: bool,
        wait: Duration,
    ) -> Result<Self, WireError> {
        let (mut report, mut reported, mut read) = (Self::default(), BytesMut::new(), 0);
        loop {
            let line = match next(&mut packets, wait).await {
                Ok(Packet::Data(line)) => line,
                Ok(Packet::Flush) => {
                    drain(packets).await;
                    return Ok(report);
                }
                // All that matters was there.
                Ok(Packet::End) | Err(_) if report.is_complete => return Ok(report),
                Ok(Packet::End) => return Err(WireError::Truncated),
                Ok(Packet::Delimiter | Packet::ResponseEnd) => {
                    return Err(WireError::Malformed("a delimiter inside a report"));
                }
                Err(error) => return Err(error),
            };
            let own = match (side_band, line.split_first()) {
                (false, _) => {
                    report.line(&line, branch);
                    line.len()
                }
                (true, Some((1, part))) => {
                    reported.extend_from_slice(part);
                    report.take_lines(&mut reported, branch)?;
                    part.len()
                }
                (true, Some((2, text))) => {
                    report.said.add(text);
                    0
                }
                (true, Some((3, text))) => return Err(WireError::Remote(remote_text(text))),
                (true, _) => return Err(WireError::Malformed("an unknown side band in a report")),
            };
            read += own;
            if read > REPORT_LIMIT_BYTES {
                return Err(RequestError::TooLong { limit: REPORT_LIMIT_BYTES }.into());
            }
        }
    }

    /// The packets inside the side band, which cuts them anywhere.
    fn take_lines(&mut self, reported: &mut BytesMut, branch: &str) -> Result<(), WireError> {
        while let Some(packet) = take_packet(reported)? {
            match packet {
                Packet::Data(line) => self.line(&line, branch),
                Packet::Flush => self.is_complete = true,
                Packet::Delimiter | Packet::ResponseEnd | Packet::End => {
                    return Err(WireError::Malformed("a delimiter inside a report"));
                }
            }
        }
        Ok(())
    }

    /// `unpack <outcome>`, `ok <ref>` or `ng <ref> <reason>`.
    fn line(&mut self, line: &[u8], branch: &str) {
        let line = line.trim_ascii_end();
        let is_ours = |name: &[u8]| name.strip_prefix(b"refs/heads/") == Some(branch.as_bytes());
        let (word, rest) = split(line);
        let (name, reason) = split(rest);
        match word {
            b"unpack" => self.unpack = Some(remote_text(rest)),
            b"ok" if is_ours(name) => self.branch = Some(Ok(())),
            b"ng" if is_ours(name) => self.branch = Some(Err(remote_text(reason))),
            _ => {}
        }
    }

    /// Whether the push was taken.
    pub(super) fn outcome(self) -> Result<(), PushError> {
        let refused = |refusal, reason: String| PushError::Refused { refusal, reason, said: self.said.shown() };
        match (self.unpack, self.branch) {
            (Some(unpack), Some(Ok(()))) if unpack == "ok" => Ok(()),
            (Some(unpack), Some(Err(reason))) if unpack == "ok" => {
                Err(refused(Refusal::of_branch(&reason, &self.said), reason))
            }
            (Some(unpack), _) if unpack != "ok" => Err(refused(Refusal::of_pack(&unpack, &self.said), unpack)),
            _ => Err(refused(Refusal::Other, "it does not report what became of the branch".to_owned())),
        }
    }
}

/// What is before the first space, and behind it.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}
