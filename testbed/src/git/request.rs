//! What a request asks for: its project, and the operation in Git's terms.

use std::fmt;
use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use crate::http::{Body, BoxError};

/// How much of a request is read to tell `ls-refs` from `fetch`; the command is the first packet line.
const COMMAND_BYTES: usize = 32;

/// What a request asks of a repository. `Display` gives the word in
/// [`RequestRecord::operation`](crate::http::RequestRecord::operation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GitOperation {
    /// `GET …/info/refs` for fetching: the classic advertisement, or the capabilities of version 2.
    InfoRefs,
    /// `command=ls-refs` of protocol version 2.
    LsRefs,
    /// `command=fetch` of protocol version 2, or the single request of the older versions.
    Fetch,
    /// `GET …/info/refs` for pushing: the heads, and the right to push.
    ReceiveHeads,
    /// A push.
    ReceivePack,
    /// Anything else; the server answers 404.
    Other,
}

impl GitOperation {
    pub(super) fn of(method: &Method, action: &str, query: Option<&str>, headers: &HeaderMap, start: &[u8]) -> Self {
        match (method.as_str(), action) {
            ("GET", "info/refs") if query == Some("service=git-receive-pack") => Self::ReceiveHeads,
            ("GET", "info/refs") if query.is_some_and(|query| query.starts_with("service=git-")) => Self::InfoRefs,
            ("POST", "git-receive-pack") => Self::ReceivePack,
            ("POST", "git-upload-pack") => {
                let command = command(headers, start);
                if command.windows(7).any(|window| window == b"ls-refs") { Self::LsRefs } else { Self::Fetch }
            }
            _ => Self::Other,
        }
    }

    /// Whether it needs the right to push.
    pub(super) fn pushes(self) -> bool {
        matches!(self, Self::ReceiveHeads | Self::ReceivePack)
    }
}

impl fmt::Display for GitOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfoRefs => "info-refs",
            Self::LsRefs => "ls-refs",
            Self::Fetch => "fetch",
            Self::ReceiveHeads => "receive-heads",
            Self::ReceivePack => "receive-pack",
            Self::Other => "other",
        })
    }
}

/// `/group/sub/name.git/info/refs` → (`group/sub/name`, `info/refs`).
pub(super) fn split_path(path: &str) -> Option<(&str, &str)> {
    let (project, action) = path.strip_prefix('/')?.split_once(".git/")?;
    let safe = project.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    safe.then_some((project, action))
}

/// Reads the first piece of a body, which holds the command.
pub(super) async fn read_start(mut body: Body) -> Result<(Bytes, Body), BoxError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data()
            && !data.is_empty()
        {
            return Ok((data, body));
        }
    }
    Ok((Bytes::new(), body))
}

/// The first bytes of a request as Git will see them.
fn command(headers: &HeaderMap, start: &[u8]) -> Vec<u8> {
    let zipped = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes().ends_with(b"gzip"));
    let mut command = Vec::new();
    if zipped {
        // The piece may end within the compressed data; what was read until then is enough.
        let _ = GzDecoder::new(start).take(COMMAND_BYTES as u64).read_to_end(&mut command);
    } else {
        command.extend_from_slice(&start[..start.len().min(COMMAND_BYTES)]);
    }
    command
}
