//! What a server says before a push: its branches and what it can do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::wire::packets::{Packet, Packets};
use super::super::wire::{LS_REFS_LIMIT_BYTES, Tip, WireError, parse_ref};
use super::{drain, next};
use crate::model::key::CommitId;
use crate::net::http::RequestError;

/// The line that an answer for pushes begins with.
const SERVICE: &[u8] = b"# service=git-receive-pack";

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advertisement {
    pub(super) heads: BTreeMap<String, CommitId>,
    pub(super) capabilities: Capabilities,
}

/// What the server can do, as far as it matters here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) report_status: bool,
    pub(super) side_band: bool,
    pub(super) quiet: bool,
    pub(super) object_format: bool,
    pub(super) agent: bool,
}

impl Advertisement {
    /// Reads what the answer says of `branches`. `wait` bounds each packet.
    pub(super) async fn read(
        mut packets: Packets,
        branches: &BTreeSet<&str>,
        wait: Duration,
    ) -> Result<Self, WireError> {
        match next(&mut packets, wait).await? {
            Packet::Data(line) if line.trim_ascii_end() == SERVICE => {}
            Packet::End => return Err(WireError::Truncated),
            _ => return Err(WireError::Malformed("not what a server says before a push")),
        }
        if !matches!(next(&mut packets, wait).await?, Packet::Flush) {
            return Err(WireError::Malformed("nothing ends the name of the service"));
        }
        let (mut advertised, mut read, mut is_first) = (Self::default(), 0, true);
        loop {
            match next(&mut packets, wait).await? {
                Packet::Data(line) => {
                    read += line.len();
                    if read > LS_REFS_LIMIT_BYTES {
                        return Err(RequestError::TooLong { limit: LS_REFS_LIMIT_BYTES }.into());
                    }
                    advertised.line(&line, std::mem::take(&mut is_first), branches)?;
                }
                Packet::Flush => {
                    drain(packets).await;
                    return Ok(advertised);
                }
                Packet::Delimiter | Packet::ResponseEnd => {
                    return Err(WireError::Malformed("a delimiter inside a list of refs"));
                }
                Packet::End => return Err(WireError::Truncated),
            }
        }
    }

    /// A ref, after which the first line has the capabilities. The commits of other repositories (`.have`), those at which a
    /// history is cut off (`shallow`), and the line in place of the first ref (`capabilities^{}`) are not branches. What a
    /// shallow repository lacks is sent with the whole history, as after every refusal for missing objects.
    pub(super) fn line(&mut self, line: &[u8], is_first: bool, branches: &BTreeSet<&str>) -> Result<(), WireError> {
        let (line, capabilities) = match line.iter().position(|byte| *byte == 0) {
            Some(end) => (&line[..end], &line[end + 1..]),
            None => (line, &[][..]),
        };
        if is_first {
            self.capabilities = Capabilities::read(capabilities)?;
        }
        if let Some((branch, Tip::Commit(head))) = parse_ref(line)?
            && branches.contains(branch.as_str())
        {
            self.heads.insert(branch, head);
        }
        Ok(())
    }
}

impl Capabilities {
    fn read(words: &[u8]) -> Result<Self, WireError> {
        let mut read = Self::default();
        for word in words.trim_ascii().split(|byte| *byte == b' ') {
            match word {
                b"report-status" => read.report_status = true,
                b"side-band-64k" => read.side_band = true,
                b"quiet" => read.quiet = true,
                b"object-format=sha1" => read.object_format = true,
                _ if word.starts_with(b"object-format=") => return Err(WireError::Sha256),
                _ if word.starts_with(b"agent=") => read.agent = true,
                _ => {}
            }
        }
        Ok(read)
    }
}
