//! Git's smart HTTP, protocol version 2, as far as reading branches needs it: `ls-refs` and `fetch`, one POST each.
//!
//! Invariant: a fetch brings exactly the commit it was asked for, whole, or an error; everything read from the server is
//! bounded, and none of its text reaches a terminal unescaped. Protocol: gitprotocol-v2(5), gitprotocol-pack(5).

mod error;
pub(super) mod packets;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

pub use self::error::WireError;
pub use self::packets::PackStream;
use self::packets::{DELIMITER, FLUSH, Packet, Packets, data};
use crate::model::key::CommitId;
use crate::net::http::{self, Login, RequestError};
use crate::text::remote_text;

/// The content type of Git's answers.
const GIT_ANSWER: &str = "application/x-git-upload-pack-result";
/// Longest answer to `ls-refs` that is read, in bytes: room for every branch whose name starts with a wanted one's.
pub(super) const LS_REFS_LIMIT_BYTES: usize = 64 << 20;
/// A URL's path segment keeps RFC 3986's unreserved characters and escapes all others.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a branch points to. Anything but a tag passes for a commit here; fetching shows what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tip {
    Commit(CommitId),
    /// An annotated tag, which no push could have put there.
    Tag,
}

/// A GitLab or another Git server: where it is and how to log in.
#[derive(Clone)]
pub struct GitServer {
    client: reqwest::Client,
    base: Url,
    login: Login,
}

impl GitServer {
    /// A server whose projects live at `base`/`group`/`project`.git.
    pub fn new(client: reqwest::Client, base: Url, login: Login) -> Self {
        Self { client, base, login }
    }

    /// What those of `branches` that exist in `project` (`group/name`) point to.
    pub async fn ls_refs(&self, project: &str, branches: &BTreeSet<&str>) -> Result<BTreeMap<String, Tip>, WireError> {
        let prefixes = branches.iter().map(|branch| format!("ref-prefix refs/heads/{branch}"));
        let arguments = ["peel".to_owned()].into_iter().chain(prefixes);
        let answer = self.upload_pack(project, request("ls-refs", None, arguments)).await?;
        match read_refs(Packets::new(answer), branches).await? {
            Some(heads) => Ok(heads),
            None => Err(self.why_silent(project).await),
        }
    }

    /// Why a command got an empty answer. Git ends without a word if the repository's object format is not the client's,
    /// and answers a client that asks for the right one.
    async fn why_silent(&self, project: &str) -> WireError {
        let request = request("ls-refs", Some("object-format=sha256"), ["ref-prefix HEAD".to_owned()]);
        let Ok(answer) = self.upload_pack(project, request).await else { return WireError::Empty };
        match Packets::new(answer).next().await {
            Ok(Packet::Data(_) | Packet::Flush) => WireError::Sha256,
            Ok(Packet::Delimiter | Packet::ResponseEnd | Packet::End) | Err(_) => WireError::Empty,
        }
    }

    /// Asks for `want` with all its history, or with what it has beyond `have`.
    pub async fn fetch(&self, project: &str, want: CommitId, have: Option<CommitId>) -> Result<PackStream, WireError> {
        self.fetch_pack(project, fetch_request(want, have, false), want).await
    }

    /// Asks for what `want` has beyond `have`. Objects in the pack may be deltas on objects that `have` reaches and that the
    /// server leaves out. It may also send a pack without gaps, or all of the history.
    pub async fn fetch_thin(&self, project: &str, want: CommitId, have: CommitId) -> Result<PackStream, WireError> {
        self.fetch_pack(project, fetch_request(want, Some(have), true), want).await
    }

    async fn fetch_pack(&self, project: &str, request: Bytes, want: CommitId) -> Result<PackStream, WireError> {
        find_pack(Packets::new(self.upload_pack(project, request).await?), want).await
    }

    async fn upload_pack(&self, project: &str, request: Bytes) -> Result<Response, WireError> {
        let url = self.service_url(project);
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("git-protocol"), HeaderValue::from_static("version=2")),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-request")),
            (ACCEPT, HeaderValue::from_static(GIT_ANSWER)),
        ]);
        let response = http::post(&self.client, &url, Some(&self.login), &headers, request).await?;
        if http::content_type(response.headers()).as_deref() == Some(GIT_ANSWER) {
            return Ok(response);
        }
        let other = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        Err(WireError::NotGit(remote_text(other.unwrap_or_default())))
    }

    fn service_url(&self, project: &str) -> Url {
        project_url(&self.base, project, "git-upload-pack")
    }
}

/// The address of what Git asks for in a project below `base`.
pub(super) fn project_url(base: &Url, project: &str, what: &str) -> Url {
    let encoded: Vec<_> = project.split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
    let mut url = base.clone();
    url.set_path(&format!("{}/{}.git/{what}", base.path().trim_end_matches('/'), encoded.join("/")));
    url
}

/// What those of `branches` that an answer to `ls-refs` lists point to; `None` if the answer is empty.
async fn read_refs(mut answer: Packets, branches: &BTreeSet<&str>) -> Result<Option<BTreeMap<String, Tip>>, WireError> {
    let mut heads = BTreeMap::new();
    let mut read = 0;
    loop {
        match answer.next().await? {
            Packet::Data(line) => {
                read += line.len();
                if read > LS_REFS_LIMIT_BYTES {
                    return Err(RequestError::TooLong { limit: LS_REFS_LIMIT_BYTES }.into());
                }
                // A prefix matches longer names too: only the whole name counts.
                if let Some((branch, tip)) = parse_ref(&line)?
                    && branches.contains(branch.as_str())
                {
                    heads.insert(branch, tip);
                }
            }
            Packet::Flush => {
                answer.drain().await;
                return Ok(Some(heads));
            }
            Packet::Delimiter | Packet::ResponseEnd => {
                return Err(WireError::Malformed("a delimiter inside a list of refs"));
            }
            Packet::End if read == 0 => return Ok(None),
            Packet::End => return Err(WireError::Truncated),
        }
    }
}

/// The pack in an answer to `fetch`.
async fn find_pack(mut packets: Packets, want: CommitId) -> Result<PackStream, WireError> {
    let mut at_start_of_section = true;
    loop {
        match packets.next().await.map_err(|error| not_our_ref(error, want))? {
            Packet::Data(line) if at_start_of_section && line.trim_ascii_end() == b"packfile" => {
                return Ok(PackStream { packets });
            }
            // A server whose repository is shallow says so unasked.
            Packet::Data(line) if line.starts_with(b"shallow ") => return Err(WireError::Shallow),
            // Other sections may come before the pack; after `done` they need no answer.
            Packet::Data(_) => at_start_of_section = false,
            Packet::Delimiter => at_start_of_section = true,
            Packet::Flush | Packet::ResponseEnd => {
                return Err(WireError::Malformed("no pack in the answer to a fetch"));
            }
            Packet::End => return Err(WireError::Truncated),
        }
    }
}

fn fetch_request(want: CommitId, have: Option<CommitId>, thin: bool) -> Bytes {
    let options = ["ofs-delta", "no-progress"].into_iter().chain(thin.then_some("thin-pack")).map(str::to_owned);
    let have = have.map(|have| format!("have {have}"));
    request("fetch", None, options.chain([format!("want {want}")]).chain(have).chain(["done".to_owned()]))
}

/// A command with its arguments, one line each.
fn request(command: &str, capability: Option<&str>, arguments: impl IntoIterator<Item = String>) -> Bytes {
    let mut request = BytesMut::new();
    data(&mut request, &format!("command={command}\n"));
    data(&mut request, concat!("agent=", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), "\n"));
    capability.into_iter().for_each(|capability| data(&mut request, &format!("{capability}\n")));
    request.extend_from_slice(DELIMITER);
    arguments.into_iter().for_each(|argument| data(&mut request, &format!("{argument}\n")));
    request.extend_from_slice(FLUSH);
    request.freeze()
}

/// `<id> refs/heads/<branch>[ <attribute>…]`; `None` for anything but a branch with a UTF-8 name, the only refs that targets can name.
pub(super) fn parse_ref(line: &[u8]) -> Result<Option<(String, Tip)>, WireError> {
    let Ok(line) = std::str::from_utf8(line) else { return Ok(None) };
    let (id, rest) = line.trim_end_matches('\n').split_once(' ').ok_or(WireError::Malformed("a ref without a name"))?;
    if id.len() == 64 {
        return Err(WireError::Sha256);
    }
    let mut words = rest.split(' ');
    let name = words.next().unwrap_or_default();
    let Some(branch) = name.strip_prefix("refs/heads/") else { return Ok(None) };
    let commit = id.parse().map_err(|_| WireError::Malformed("a ref without a commit"))?;
    let tip = if words.any(|word| word.starts_with("peeled:")) { Tip::Tag } else { Tip::Commit(commit) };
    Ok(Some((branch.to_owned(), tip)))
}

fn not_our_ref(error: WireError, want: CommitId) -> WireError {
    match error {
        WireError::Remote(text) if text.contains("not our ref") => WireError::NotOurRef(want),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::git::pack::{self, IndexTurns};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::io;
    use std::sync::atomic::AtomicBool;
    use testbed::mutate::mutated;

    fn server(base: &str) -> GitServer {
        let login = Login::new("u", &secrecy::SecretString::from("p")).unwrap();
        GitServer::new(reqwest::Client::new(), base.parse().unwrap(), login)
    }

    #[test]
    fn project_paths_are_encoded_segment_by_segment() {
        let url = |base: &str, project: &str| server(base).service_url(project).to_string();
        assert_eq!(url("https://git.test", "g/p"), "https://git.test/g/p.git/git-upload-pack");
        assert_eq!(url("https://git.test/gitlab/", "g/s/p"), "https://git.test/gitlab/g/s/p.git/git-upload-pack");
        assert_eq!(
            url("https://git.test", "g/a b?c#d%é"),
            "https://git.test/g/a%20b%3Fc%23d%25%C3%A9.git/git-upload-pack"
        );
    }

    #[test]
    fn a_ref_line_may_carry_attributes() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let parsed = parse_ref(format!("{id} refs/heads/a/b symref-target:x\n").as_bytes()).unwrap();
        assert_eq!(parsed, Some(("a/b".to_owned(), Tip::Commit(id.parse().unwrap()))));
        let parsed = parse_ref(format!("{id} refs/heads/a peeled:{id}\n").as_bytes()).unwrap();
        assert_eq!(parsed, Some(("a".to_owned(), Tip::Tag)));
        assert_eq!(parse_ref(format!("{id} refs/tags/v1\n").as_bytes()).unwrap(), None);
    }

    #[test]
    fn a_sha256_ref_is_named_as_such() {
        let line = format!("{} refs/heads/main\n", "a".repeat(64));
        assert!(matches!(parse_ref(line.as_bytes()), Err(WireError::Sha256)));
    }

    #[test]
    fn only_a_thin_fetch_asks_for_a_thin_pack() {
        let [want, have] = [1, 2].map(|byte| CommitId::from_bytes([byte; 20]));
        let request = |have, thin| String::from_utf8(fetch_request(want, have, thin).to_vec()).unwrap();
        let [id, held] = ["01".repeat(20), "02".repeat(20)];
        let agent = concat!("agent=", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), "\n");
        let start = format!("0012command=fetch\n{:04x}{agent}0001000eofs-delta\n0010no-progress\n", agent.len() + 4);
        let wanted = format!("0032want {id}\n");
        let held = format!("0032have {held}\n");
        assert_eq!(request(None, false), format!("{start}{wanted}0009done\n0000"));
        assert_eq!(request(Some(have), false), format!("{start}{wanted}{held}0009done\n0000"));
        assert_eq!(request(Some(have), true), format!("{start}000ethin-pack\n{wanted}{held}0009done\n0000"));
    }

    /// What a real Git server answers: a list of refs, and a fetch.
    fn recorded() -> [Vec<u8>; 2] {
        let git = testbed::git::GitServer::start(Default::default()).unwrap();
        let repo = git.repo("g/p").unwrap();
        repo.fill_small(1).unwrap();
        let head = repo.head("main").unwrap().parse().unwrap();
        let login = Login::new(git.user(), &secrecy::SecretString::from(git.password().to_owned())).unwrap();
        let server = GitServer::new(reqwest::Client::new(), git.url().parse().unwrap(), login);
        let refs = request("ls-refs", None, ["ref-prefix refs/heads/".to_owned()]);
        let fetch = fetch_request(head, None, false);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        [refs, fetch].map(|request| {
            runtime.block_on(async {
                let answer = server.upload_pack("g/p", request).await.unwrap();
                http::body(answer, 1 << 20).await.unwrap().to_vec()
            })
        })
    }

    /// The packets of a body that arrives in pieces of this many bytes.
    fn packets_of(body: Vec<u8>, piece_bytes: usize) -> Packets {
        let pieces: Vec<_> =
            body.chunks(piece_bytes).map(Bytes::copy_from_slice).map(Frame::data).map(Ok::<_, io::Error>).collect();
        let body = reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(pieces)));
        Packets::new(::http::Response::new(body).into())
    }

    /// The pack in an answer of which `piece_bytes` arrive at a time.
    fn pack_of(answer: Vec<u8>, piece_bytes: usize, runtime: &tokio::runtime::Runtime) -> Result<Vec<u8>, WireError> {
        runtime.block_on(async {
            let mut stream = find_pack(packets_of(answer, piece_bytes), CommitId::from_bytes([1; 20])).await?;
            let mut pack = vec![];
            while let Some(piece) = stream.next().await? {
                pack.extend_from_slice(&piece);
            }
            Ok(pack)
        })
    }

    #[test]
    fn what_the_server_says_on_the_error_band_is_the_error() {
        let packet = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let answer = ["packfile\n", "\u{2}counting", "\u{1}PACK", "\u{3}out of \u{7}memory\n"].map(packet).concat();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let error = pack_of(answer.into_bytes(), 7, &runtime).unwrap_err();
        assert!(matches!(&error, WireError::Remote(text) if text == "out of \\u{7}memory"), "{error}");
        assert_eq!(error.to_string(), "the Git server says: out of \\u{7}memory");
    }

    #[test]
    fn damaged_answers_are_errors() {
        let [refs, fetch] = recorded();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let whole = pack_of(fetch.clone(), 1_000, &runtime).unwrap();
        assert!(received(&whole, 0));
        let (mut listed, mut complete) = (0, 0);
        for seed in 0..300 {
            let piece_bytes = 16 + usize::try_from(seed % 977).unwrap();
            let branches = ["main"].into();
            if let Ok(heads) = runtime.block_on(read_refs(packets_of(mutated(&refs, seed), piece_bytes), &branches)) {
                listed += 1;
                assert!(heads.unwrap_or_default().keys().all(|branch| branch == "main"), "seed {seed}");
            }
            if let Ok(pack) = pack_of(mutated(&fetch, seed), piece_bytes, &runtime) {
                complete += 1;
                assert!(pack.len() <= fetch.len() + 1_000, "seed {seed}");
                assert!(pack == whole || !received(&pack, seed), "seed {seed}");
            }
        }
        assert!((1..300).contains(&listed) && (1..300).contains(&complete), "{listed} lists, {complete} packs");
    }

    #[test]
    fn damage_that_a_server_has_sealed_with_a_good_checksum_is_found_or_does_no_harm() {
        let [_, fetch] = recorded();
        let whole = pack_of(fetch, 1_000, &tokio::runtime::Runtime::new().unwrap()).unwrap();
        let mut taken = 0;
        for seed in 0..300 {
            let mut pack = mutated(&whole[..whole.len() - 20], seed);
            let mut hash = gix_hash::hasher(gix_hash::Kind::Sha1);
            hash.update(&pack);
            pack.extend_from_slice(hash.try_finalize().unwrap().as_slice());
            taken += usize::from(received(&pack, seed));
        }
        assert!(taken < 300);
    }

    /// Whether the pack is accepted. One that is refused leaves nothing behind.
    fn received(pack: &[u8], seed: u64) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let limits = pack::ReceiveLimits {
            pack_bytes: 1 << 20,
            interrupt: &AtomicBool::new(false),
            memory: &crate::memory::MemoryBudget::new(None),
            turns: &IndexTurns::default(),
        };
        let taken = pack::receive(pack, folder.path(), &limits, drop).is_ok();
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, if taken { 2 } else { 0 }, "seed {seed}");
        taken
    }
}
