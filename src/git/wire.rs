//! Git's smart HTTP, protocol version 2, as much of it as a reader of branches needs: `ls-refs` and `fetch`, one POST each.
//!
//! Invariant: what a fetch brings is exactly the commit it was asked for, whole, or an error; everything read from the
//! server is bounded and none of its text reaches a terminal unescaped. Protocol: gitprotocol-v2(5), gitprotocol-pack(5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use gix_packetline::PacketLineRef;
use gix_packetline::decode::{Stream, streaming};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::model::key::CommitId;
use crate::net::http::{self, Login, RequestError, Retryable};
use crate::text::remote_text;

/// Longest answer to `ls-refs` that is read, in bytes: room for every branch whose name begins like a wanted one.
const LS_REFS_LIMIT_BYTES: usize = 64 << 20;
/// What stands unescaped in a segment of a URL's path: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why Git over HTTP did not work.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The exchange itself failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer is no Git answer.
    #[error("the answer is not Git's (its content type is {0:?}): is GITLAB_BASE_URL the base of a GitLab?")]
    NotGit(String),
    /// The server answered in an older protocol.
    #[error("the server does not speak Git's protocol version 2, which Git servers have done since 2018")]
    NotVersion2,
    /// An answer without a word.
    #[error(
        "the server's answer is empty: it is overloaded, or does not speak Git's protocol version 2, which Git servers \
         have done since 2018"
    )]
    Empty,
    /// The server's own error message.
    #[error("the Git server says: {0}")]
    Remote(String),
    /// The commit is gone: the branch moved and the old commit was pruned.
    #[error("the server no longer has the commit {0}")]
    NotOurRef(CommitId),
    /// The repository uses SHA-256 object names.
    #[error("the repository uses SHA-256 object names, and only SHA-1 repositories can be synchronised")]
    Sha256,
    /// The repository on the server is shallow.
    #[error(
        "the repository is shallow on the server: its history breaks off, and nobody could push it. Complete it there with \
         git fetch --unshallow"
    )]
    Shallow,
    /// Bytes that are not what the protocol says.
    #[error("the server's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The connection ended before the answer did.
    #[error("the server's answer ended before it was complete")]
    Truncated,
}

impl Retryable for WireError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Request(error) => error.retry(),
            Self::Truncated | Self::Empty => (true, Duration::ZERO),
            _ => (false, Duration::ZERO),
        }
    }
}

/// One GitLab, or any other Git server: where it is and how to log in.
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

    /// The commits of those of `branches` that exist in `project` (`group/name`). Unlisted: the branch does not exist.
    ///
    /// # Errors
    /// [`WireError`] where the project cannot be read at all.
    pub async fn ls_refs(
        &self,
        project: &str,
        branches: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, CommitId>, WireError> {
        let mut request = BytesMut::new();
        command(&mut request, "ls-refs");
        for branch in branches {
            data(&mut request, &format!("ref-prefix refs/heads/{branch}\n"));
        }
        request.extend_from_slice(FLUSH);

        let answer = Packets::new(self.upload_pack(project, request.freeze()).await?);
        match read_refs(answer, branches).await? {
            Some(heads) => Ok(heads),
            None => Err(self.why_silent(project).await),
        }
    }

    /// Why there is no answer at all to a command. Git ends without a word where a repository's object names are of
    /// another kind than the client's, and answers a client that speaks of the right kind.
    async fn why_silent(&self, project: &str) -> WireError {
        let mut request = BytesMut::new();
        command_with(&mut request, "ls-refs", &["object-format=sha256\n"]);
        data(&mut request, "ref-prefix HEAD\n");
        request.extend_from_slice(FLUSH);
        let Ok(answer) = self.upload_pack(project, request.freeze()).await else { return WireError::Empty };
        match Packets::new(answer).next().await {
            Ok(Packet::Data(_) | Packet::Flush) => WireError::Sha256,
            Ok(Packet::Delimiter | Packet::ResponseEnd | Packet::End) | Err(_) => WireError::Empty,
        }
    }

    /// Asks for `want` with all its history, or with what it has beyond `have`; the pack is read from what comes back.
    ///
    /// # Errors
    /// [`WireError::NotOurRef`] where the server has pruned the commit, and the other kinds.
    pub async fn fetch(&self, project: &str, want: CommitId, have: Option<CommitId>) -> Result<PackStream, WireError> {
        let mut request = BytesMut::new();
        fetch_request(&mut request, want, have);
        find_pack(Packets::new(self.upload_pack(project, request.freeze()).await?), want).await
    }

    async fn upload_pack(&self, project: &str, request: Bytes) -> Result<Response, WireError> {
        let url = self.service_url(project);
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("git-protocol"), HeaderValue::from_static("version=2")),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-request")),
            (ACCEPT, HeaderValue::from_static("application/x-git-upload-pack-result")),
        ]);
        let response = http::post(&self.client, &url, Some(&self.login), &headers, request).await?;
        match response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(b"application/x-git-upload-pack-result") => Ok(response),
            other => Err(WireError::NotGit(remote_text(other.unwrap_or_default()))),
        }
    }

    fn service_url(&self, project: &str) -> Url {
        let encoded: Vec<_> =
            project.split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}.git/git-upload-pack", self.base.path().trim_end_matches('/'), encoded.join("/")));
        url
    }
}

/// The commits of those of `branches` that an answer to `ls-refs` lists; `None` where there is not a word in it.
async fn read_refs(
    mut answer: Packets,
    branches: &BTreeSet<&str>,
) -> Result<Option<BTreeMap<String, CommitId>>, WireError> {
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
                if let Some((branch, commit)) = parse_ref(&line)?
                    && branches.contains(branch.as_str())
                {
                    heads.insert(branch, commit);
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
            // A server whose repository is shallow says unasked where the history of what is wanted breaks off.
            Packet::Data(line) if line.starts_with(b"shallow ") => return Err(WireError::Shallow),
            // Sections that may come before the pack; with `done` there is nothing in them to answer.
            Packet::Data(_) => at_start_of_section = false,
            Packet::Delimiter => at_start_of_section = true,
            Packet::Flush | Packet::ResponseEnd => {
                return Err(WireError::Malformed("no pack in the answer to a fetch"));
            }
            Packet::End => return Err(WireError::Truncated),
        }
    }
}

/// The pack a fetch brings, piece by piece.
pub struct PackStream {
    packets: Packets,
}

impl PackStream {
    /// The next piece; `None` after the last one, when the server has said that the pack is complete.
    ///
    /// # Errors
    /// [`WireError`]; what was received until then is of no use.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            let mut line = match self.packets.next().await? {
                Packet::Data(line) => line,
                Packet::Flush => {
                    self.packets.drain().await;
                    return Ok(None);
                }
                Packet::Delimiter | Packet::ResponseEnd => {
                    return Err(WireError::Malformed("a delimiter inside the pack"));
                }
                Packet::End => return Err(WireError::Truncated),
            };
            match line.first() {
                Some(1) => {
                    line.advance(1);
                    // An empty piece is the server's sign of life while it prepares the pack.
                    if !line.is_empty() {
                        return Ok(Some(line));
                    }
                }
                Some(2) => {}
                Some(3) => return Err(WireError::Remote(remote_text(&line[1..]))),
                Some(_) | None => return Err(WireError::Malformed("an unknown side band in the pack")),
            }
        }
    }
}

const FLUSH: &[u8] = b"0000";
const DELIMITER: &[u8] = b"0001";

/// Appends one packet. Lines are short: a branch name and a word.
fn data(request: &mut BytesMut, line: &str) {
    request.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

fn command(request: &mut BytesMut, name: &str) {
    command_with(request, name, &[]);
}

fn fetch_request(request: &mut BytesMut, want: CommitId, have: Option<CommitId>) {
    command(request, "fetch");
    data(request, "ofs-delta\n");
    data(request, "no-progress\n");
    data(request, &format!("want {want}\n"));
    if let Some(have) = have {
        data(request, &format!("have {have}\n"));
    }
    data(request, "done\n");
    request.extend_from_slice(FLUSH);
}

fn command_with(request: &mut BytesMut, name: &str, capabilities: &[&str]) {
    data(request, &format!("command={name}\n"));
    data(request, concat!("agent=", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"), "\n"));
    capabilities.iter().for_each(|capability| data(request, capability));
    request.extend_from_slice(DELIMITER);
}

/// `<id> refs/heads/<branch>[ <attribute>…]`; `None` for what is no branch or not in UTF-8, which no target can name.
fn parse_ref(line: &[u8]) -> Result<Option<(String, CommitId)>, WireError> {
    let Ok(line) = std::str::from_utf8(line) else { return Ok(None) };
    let (id, rest) = line.trim_end_matches('\n').split_once(' ').ok_or(WireError::Malformed("a ref without a name"))?;
    if id.len() == 64 {
        return Err(WireError::Sha256);
    }
    let name = rest.split(' ').next().unwrap_or_default();
    let Some(branch) = name.strip_prefix("refs/heads/") else { return Ok(None) };
    let commit = id.parse().map_err(|_| WireError::Malformed("a ref without a commit"))?;
    Ok(Some((branch.to_owned(), commit)))
}

fn not_our_ref(error: WireError, want: CommitId) -> WireError {
    match error {
        WireError::Remote(text) if text.contains("not our ref") => WireError::NotOurRef(want),
        other => other,
    }
}

enum Packet {
    Data(Bytes),
    Flush,
    Delimiter,
    ResponseEnd,
    End,
}

/// The packets of a response. At most one packet, 64 KiB, waits to be completed.
struct Packets {
    response: Response,
    buffer: BytesMut,
}

impl Packets {
    fn new(response: Response) -> Self {
        Self { response, buffer: BytesMut::new() }
    }

    /// Reads the end of the body, which is all that follows the last packet: only then is the connection kept for the
    /// next request. A server that sends more loses its connection.
    async fn drain(&mut self) {
        if self.buffer.is_empty() {
            drop(self.response.chunk().await);
        }
    }

    async fn next(&mut self) -> Result<Packet, WireError> {
        loop {
            if let Some(packet) = take_packet(&mut self.buffer)? {
                return Ok(packet);
            }
            match self.response.chunk().await.map_err(RequestError::from)? {
                Some(chunk) if self.buffer.is_empty() => {
                    self.buffer = chunk.try_into_mut().unwrap_or_else(|shared| shared[..].into())
                }
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(Packet::End),
                None => return Err(WireError::Truncated),
            }
        }
    }
}

/// Cuts one packet off the front of `buffer`; `None` where it is not complete yet.
fn take_packet(buffer: &mut BytesMut) -> Result<Option<Packet>, WireError> {
    let decoded = streaming(buffer).map_err(|_| WireError::Malformed("not a packet line"))?;
    let Stream::Complete { line, bytes_consumed } = decoded else { return Ok(None) };
    let packet = match line {
        PacketLineRef::Flush => Packet::Flush,
        PacketLineRef::Delimiter => Packet::Delimiter,
        PacketLineRef::ResponseEnd => Packet::ResponseEnd,
        PacketLineRef::Data(_) => {
            let mut line = buffer.split_to(bytes_consumed).freeze();
            line.advance(4);
            if let Some(text) = line.strip_prefix(b"ERR ") {
                return Err(remote_error(text));
            }
            return Ok(Some(Packet::Data(line)));
        }
    };
    buffer.advance(bytes_consumed);
    Ok(Some(packet))
}

fn remote_error(text: &[u8]) -> WireError {
    let text = remote_text(text);
    if text.contains("mismatched object format") {
        WireError::Sha256
    } else if text.contains("expected to get object ID, not 'command=") || text.contains("unknown object type") {
        // How an upload-pack of before version 2, or one that was not told the version, takes a version 2 command.
        WireError::NotVersion2
    } else {
        WireError::Remote(text)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::git::pack::{self, IndexGate};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
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
        assert_eq!(parsed, Some(("a/b".to_owned(), id.parse().unwrap())));
        assert_eq!(parse_ref(format!("{id} refs/tags/v1\n").as_bytes()).unwrap(), None);
    }

    #[test]
    fn a_sha256_ref_is_named_as_such() {
        let line = format!("{} refs/heads/main\n", "a".repeat(64));
        assert!(matches!(parse_ref(line.as_bytes()), Err(WireError::Sha256)));
    }

    /// What a real Git server answers: a list of refs, and a fetch.
    fn recorded() -> [Vec<u8>; 2] {
        let git = testbed::git::GitServer::start(Default::default()).unwrap();
        let repo = git.repo("g/p").unwrap();
        repo.fill_small(1).unwrap();
        let head = repo.head("main").unwrap().parse().unwrap();
        let login = Login::new(git.user(), &secrecy::SecretString::from(git.password().to_owned())).unwrap();
        let server = GitServer::new(reqwest::Client::new(), git.url().parse().unwrap(), login);
        let (mut refs, mut fetch) = (BytesMut::new(), BytesMut::new());
        command(&mut refs, "ls-refs");
        data(&mut refs, "ref-prefix refs/heads/\n");
        fetch_request(&mut fetch, head, None);
        refs.extend_from_slice(FLUSH);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        [refs, fetch].map(|request| {
            runtime.block_on(async {
                let answer = server.upload_pack("g/p", request.freeze()).await.unwrap();
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

    /// Whether the pack is taken. One that is not leaves nothing behind, and one that is, no more than itself.
    fn received(pack: &[u8], seed: u64) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let limits =
            pack::Limits { pack_bytes: 1 << 20, interrupt: &AtomicBool::new(false), gate: &IndexGate::default() };
        let taken = pack::receive(pack, folder.path(), &limits, drop).is_ok();
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, if taken { 2 } else { 0 }, "seed {seed}");
        taken
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_grow(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(packet)) = take_packet(&mut buffer) {
                if let Packet::Data(line) = packet {
                    prop_assert!(line.len() <= bytes.len());
                    let _ = parse_ref(&line);
                }
            }
        }

        #[test]
        fn packets_are_read_back_whatever_the_cuts(lines in proptest::collection::vec("[a-z]{1,30}", 0..10), cut in 1_usize..40) {
            let mut wire = BytesMut::new();
            lines.iter().for_each(|line| data(&mut wire, line));
            let (mut buffer, mut read) = (BytesMut::new(), vec![]);
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(Packet::Data(line)) = take_packet(&mut buffer).unwrap() {
                    read.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(read, lines);
        }
    }
}
