//! Git's smart HTTP, as far as pushing one branch needs it: `receive-pack` in protocol version 0, the only one that it has.
//!
//! Invariant: a push counts as taken only if the server reports so for this branch, or the branch is seen there. A pack is sent
//! once; everything read from the server is bounded, and none of its text reaches a terminal unescaped. Protocol:
//! gitprotocol-http(5), gitprotocol-pack(5).

mod advertisement;
mod error;
mod recent;
mod refusal;
mod report;
mod said;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use self::advertisement::{Advertisement, Capabilities};
pub use self::error::PushError;
use self::recent::{Recent, Said};
pub use self::refusal::Refusal;
use self::report::Report;
use super::wire::packets::{FLUSH, Packets, data};
use super::wire::{WireError, project_url};
use crate::model::key::CommitId;
use crate::net::http::upload::Uploads;
pub use crate::net::http::upload::{UploadBody as PackBody, UploadWriter as PackWriter, channel as pack_channel};
use crate::net::http::{self, Login, RequestError};
use crate::text::remote_text;

/// The content types of Git's answers.
const ADVERTISEMENT: &str = "application/x-git-receive-pack-advertisement";
const RESULT: &str = "application/x-git-receive-pack-result";
/// How long the end of an answer is awaited, so that its connection can be used again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The id of a commit that is not there.
const NOTHING: CommitId = CommitId::from_bytes([0; 20]);

/// A GitLab or another Git server that takes pushes.
#[derive(Clone)]
pub struct PushServer {
    uploads: Uploads,
    base: Url,
    login: Login,
    recent: Arc<Recent>,
}

/// What a push does to a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefUpdate<'a> {
    pub branch: &'a str,
    /// Where the branch is now; `None` if there is none.
    pub old: Option<CommitId>,
    pub new: CommitId,
}

impl PushServer {
    /// A server whose projects live at `base`/`group`/`project`.git.
    pub fn new(uploads: Uploads, base: Url, login: Login) -> Self {
        Self { uploads, base, login, recent: Arc::default() }
    }

    /// The heads of those of `branches` that `project` (`group/name`) has. GitLab makes a missing project at this request, if
    /// the user may, so none at all is a usual answer. Fails if the user may not push.
    pub async fn heads_for_push(
        &self,
        project: &str,
        branches: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, CommitId>, WireError> {
        let said = self.advertised(project, branches).await?;
        let heads = said.heads();
        self.recent.note(project, said);
        Ok(heads)
    }

    /// Moves one branch to a commit that `pack` brings, with all that the server lacks of its history. If the branch is there
    /// already, nothing is sent, but the pack is made to its end: what is found out on the way counts.
    pub async fn push(&self, project: &str, update: &RefUpdate<'_>, pack: PackBody) -> Result<(), PushError> {
        let reference = format!("refs/heads/{}", update.branch);
        if !git2::Reference::is_valid_name(&reference) {
            return Err(PushError::NotABranch(remote_text(update.branch.as_bytes())));
        }
        if update.new.is_none() {
            return Err(PushError::Deletes);
        }
        let branches = [update.branch].into();
        let said = match self.recent.take(project, update.branch, update.old, Instant::now()) {
            Some(said) => said,
            None => self.advertised(project, &branches).await?,
        };
        match said.head(update.branch) {
            Some(head) if head == update.new => {
                pack.discard().await;
                return Ok(());
            }
            head if head != update.old => return Err(PushError::moved(head)),
            _ => {}
        }
        if !said.capabilities.report_status {
            return Err(PushError::NoReport);
        }
        match self.send(&said.to, update, said.capabilities, pack).await?.outcome() {
            Ok(()) => {
                self.recent.note(project, said.moved(update.branch, update.new, Instant::now()));
                Ok(())
            }
            // Somebody may have pushed the same since the project was asked.
            Err(error) if error.refusal() == Some(Refusal::Moved) => {
                let Ok(said) = self.advertised(project, &branches).await else { return Err(error) };
                match said.head(update.branch) {
                    Some(head) if head == update.new => {
                        self.recent.note(project, said);
                        Ok(())
                    }
                    head if head != update.old => Err(PushError::moved(head)),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        url: &Url,
        update: &RefUpdate<'_>,
        capabilities: Capabilities,
        pack: PackBody,
    ) -> Result<Report, PushError> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/x-git-receive-pack-request")),
            (ACCEPT, HeaderValue::from_static(RESULT)),
        ]);
        let body = (command(update, capabilities), pack);
        let all_sent = Arc::new(AtomicBool::new(false));
        let sending = self.uploads.post(url, &self.login, &headers, body, &all_sent, async |answer, wait| {
            let packets = Packets::new(expect(answer, RESULT)?);
            Report::read(packets, update.branch, capabilities.side_band, wait).await
        });
        sending.await.map_err(|error| match &error {
            WireError::Request(RequestError::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) => {
                PushError::answered(Refusal::TooLarge, &error)
            }
            WireError::Request(refused @ RequestError::Status { status: StatusCode::FORBIDDEN, .. })
                if !refused.refuses_login() =>
            {
                PushError::answered(Refusal::NotAllowed, &error)
            }
            WireError::Request(RequestError::Status { status, .. }) if status.is_client_error() => {
                PushError::NotTaken(error)
            }
            _ => PushError::During { all_sent: all_sent.load(Ordering::Relaxed), source: error },
        })
    }

    /// What the server says before a push, and where to push to.
    async fn advertised(&self, project: &str, branches: &BTreeSet<&str>) -> Result<Said, WireError> {
        let mut url = project_url(&self.base, project, "info/refs");
        url.set_query(Some("service=git-receive-pack"));
        let (idle, begun) = (self.uploads.idle(), Instant::now());
        let asked = http::get(self.uploads.client(), &url, Some(&self.login));
        let answer = timeout(idle, asked).await.map_err(|_| RequestError::Late(idle))??;
        // After redirects, as Git does: a push itself cannot be redirected.
        let mut to = answer.url().clone();
        let path = to.path().strip_suffix("info/refs").map(|base| format!("{base}git-receive-pack"));
        to.set_path(&path.unwrap_or_default());
        to.set_query(None);
        let packets = Packets::new(expect(answer, ADVERTISEMENT)?);
        Ok(Said::new(&Advertisement::read(packets, branches, idle).await?, branches, to, begun))
    }
}

/// The answer, if it is of this type.
fn expect(answer: Response, content_type: &str) -> Result<Response, WireError> {
    if http::content_type(answer.headers()).as_deref() == Some(content_type) {
        return Ok(answer);
    }
    let other = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    Err(WireError::NotGit(remote_text(other.unwrap_or_default())))
}

/// What a push begins with: the one command. Deltas that name their bases by offset are sent even if the server does not
/// promise to read them (`ofs-delta`): every Git since 2006 does, also where a setting hides that.
fn command(update: &RefUpdate<'_>, server: Capabilities) -> Bytes {
    let RefUpdate { branch, old, new } = update;
    let capabilities = [
        (true, "report-status"),
        (server.side_band, "side-band-64k"),
        (server.quiet, "quiet"),
        (server.object_format, "object-format=sha1"),
        (server.agent, concat!("agent=git-partition-sync-consumer/", env!("CARGO_PKG_VERSION"))),
    ];
    let ours: Vec<_> = capabilities.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
    let mut request = BytesMut::new();
    data(&mut request, &format!("{} {new} refs/heads/{branch}\0 {}", old.unwrap_or(NOTHING), ours.join(" ")));
    request.extend_from_slice(FLUSH);
    request.freeze()
}

/// The next packet, which may be this long in coming.
async fn next(packets: &mut Packets, wait: Duration) -> Result<super::wire::packets::Packet, WireError> {
    timeout(wait, packets.next()).await.map_err(|_| RequestError::Late(wait))?
}

/// Reads the end of an answer, if it comes soon.
async fn drain(mut packets: Packets) {
    // Otherwise its connection is closed.
    drop(timeout(DRAIN_TIMEOUT, packets.drain()).await);
}
