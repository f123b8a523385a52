//! A GitLab as Git sees it: smart HTTP over the real `git http-backend`, one process per request.
//!
//! Packs stream through in both directions and are never held in memory.
//! Invariant: a request without the right user and password gets 401, whatever it asks for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::io::ReaderStream;

use crate::http::{
    Body, BoxError, Entry, HttpServer, RequestLog, RequestRecord, full, has_basic, lock, plain, unauthorized,
};
use crate::program::{git, git_environment, run};
use crate::repo::Repo;

/// How much of a request is read to tell `ls-refs` from `fetch`; the command is the first packet line.
const COMMAND_BYTES: usize = 32;

/// Size of the pieces in which a pack goes from the process to the connection.
const PIECE_BYTES: usize = 64 * 1024;

/// How much of a pack goes into one packet.
const SIDE_BAND_BYTES: usize = 60_000;

/// Longest header that `git http-backend` may print; it prints four short lines.
const BACKEND_HEADER_BYTES: usize = 16 * 1024;

/// What a path segment keeps unencoded in a URL.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a [`GitServer`] starts. Everything but user, password and port can be changed while it runs.
#[derive(Debug, Clone)]
pub struct GitOptions {
    /// The only user let in.
    pub user: String,
    /// The user's password, or token.
    pub password: String,
    /// Whether `git push` is served.
    pub allow_push: bool,
    /// Whether the `Git-Protocol` header reaches Git; without it the server knows only the old protocol.
    pub protocol_v2: bool,
    /// Waited before each request is served.
    pub latency: Duration,
    /// The port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self {
            user: "git-sync-user".to_owned(),
            password: "glpat-secret-token-5d1f".to_owned(),
            allow_push: false,
            protocol_v2: true,
            latency: Duration::ZERO,
            port: 0,
        }
    }
}

/// What a request asks of a repository. `Display` gives the word in [`RequestRecord::operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GitOperation {
    /// `GET …/info/refs`: the classic advertisement, or the capabilities of version 2.
    InfoRefs,
    /// `command=ls-refs` of protocol version 2.
    LsRefs,
    /// `command=fetch` of protocol version 2, or the single request of the older versions.
    Fetch,
    /// A push.
    ReceivePack,
    /// Anything else; the server answers 404.
    Other,
}

impl fmt::Display for GitOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfoRefs => "info-refs",
            Self::LsRefs => "ls-refs",
            Self::Fetch => "fetch",
            Self::ReceivePack => "receive-pack",
            Self::Other => "other",
        })
    }
}

/// What goes wrong with one project's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitFault {
    /// Answered with this status and a short text.
    Status(u16),
    /// Answered with 301 to the same request at another project's path on this server (`group/name`, as after a
    /// rename) or at another server (`http://…/group/name`).
    Redirect(String),
    /// Served, but the connection is closed after this many bytes of the answer to a fetch; other requests succeed.
    CutFetchAfter(u64),
    /// Accepted and never answered.
    Stall,
}

/// What a test does before a request is served.
type Hook = Box<dyn FnOnce() + Send>;

struct State {
    root: PathBuf,
    backend: PathBuf,
    user: String,
    password: String,
    knobs: Mutex<Knobs>,
    hooks: Mutex<VecDeque<(String, GitOperation, Hook)>>,
    /// Answers of `ls-refs` by path and request.
    answers: Mutex<HashMap<(String, Bytes), Bytes>>,
}

/// What tests change while the server runs.
#[derive(Debug)]
struct Knobs {
    allow_push: bool,
    protocol_v2: bool,
    latency: Duration,
    faults: HashMap<String, GitFault>,
    replay: bool,
}

/// Serves the repositories under its root folder as `/<group>/<sub>/<name>.git`.
pub struct GitServer {
    server: HttpServer,
    log: RequestLog,
    state: Arc<State>,
    _root: TempDir,
}

impl GitServer {
    /// Starts a server over an empty temporary folder.
    pub fn start(options: GitOptions) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("testbed-git-").tempdir()?;
        let state = Arc::new(State {
            root: root.path().to_owned(),
            backend: backend()?,
            user: options.user,
            password: options.password,
            knobs: Mutex::new(Knobs {
                allow_push: options.allow_push,
                protocol_v2: options.protocol_v2,
                latency: options.latency,
                faults: HashMap::new(),
                replay: false,
            }),
            hooks: Mutex::default(),
            answers: Mutex::default(),
        });
        let log = RequestLog::default();
        let served = Arc::clone(&state);
        let server = HttpServer::start("git-server", options.port, log.clone(), move |request, entry| {
            serve(Arc::clone(&served), request, entry)
        })?;
        Ok(Self { server, log, state, _root: root })
    }

    /// `http://127.0.0.1:<port>`, without a final slash or credentials.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The URL that Git clones a project from, without credentials.
    pub fn clone_url(&self, project: &str) -> String {
        format!("{}/{}.git", self.url(), encode_path(project))
    }

    /// The only user let in.
    pub fn user(&self) -> &str {
        &self.state.user
    }

    /// The user's password.
    pub fn password(&self) -> &str {
        &self.state.password
    }

    /// The folder that holds the repositories.
    pub fn root(&self) -> &Path {
        &self.state.root
    }

    /// The repository of a project (`group/sub/name`); if there is none, an empty one is made.
    pub fn repo(&self, project: &str) -> Result<Repo> {
        let path = self.state.repository(project);
        if path.join("HEAD").exists() { Repo::open(path) } else { Repo::init(path) }
    }

    /// Where the repository of a project is, or would be: for [`Repo`]'s constructors, which take a path.
    pub fn repo_path(&self, project: &str) -> PathBuf {
        self.state.repository(project)
    }

    /// Removes a project's repository, as if it had been deleted.
    pub fn remove(&self, project: &str) -> Result<()> {
        let path = self.state.repository(project);
        std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// All requests since the start or the last [`GitServer::clear_requests`], oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.log.records()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.log.clear();
    }

    /// Makes every request wait this long before it is served.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state.knobs).latency = latency;
    }

    /// Allows or refuses pushes from now on.
    pub fn set_allow_push(&self, allow: bool) {
        lock(&self.state.knobs).allow_push = allow;
    }

    /// Passes protocol version 2 on to Git, or withholds it as an old server would.
    pub fn set_protocol_v2(&self, speaks: bool) {
        lock(&self.state.knobs).protocol_v2 = speaks;
    }

    /// Answers a repeated `ls-refs` with Git's first answer, without starting Git: for measuring clients on a machine
    /// that also runs the server. References must not change meanwhile.
    pub fn set_replay(&self, replay: bool) {
        lock(&self.state.knobs).replay = replay;
        lock(&self.state.answers).clear();
    }

    /// Makes every authenticated request for this project (`group/sub/name`) fail until
    /// [`GitServer::clear_overrides`].
    pub fn fault(&self, project: &str, fault: GitFault) {
        lock(&self.state.knobs).faults.insert(project.to_owned(), fault);
    }

    /// Answers every request for this project with a status, for example 401, 403, 404 or 503.
    pub fn override_status(&self, project: &str, status: u16) {
        self.fault(project, GitFault::Status(status));
    }

    /// Serves all projects normally again.
    pub fn clear_overrides(&self) {
        lock(&self.state.knobs).faults.clear();
    }

    /// Runs `hook` once, before the next request of this kind for this project is served: for races, such as a
    /// push between probe and fetch. The hook may use any server of the testbed.
    pub fn before(&self, project: &str, operation: GitOperation, hook: impl FnOnce() + Send + 'static) {
        lock(&self.state.hooks).push_back((project.to_owned(), operation, Box::new(hook)));
    }
}

impl State {
    fn repository(&self, project: &str) -> PathBuf {
        self.root.join(format!("{project}.git"))
    }

    fn take_hook(&self, project: &str, operation: GitOperation) -> Option<Hook> {
        let mut hooks = lock(&self.hooks);
        let index = hooks.iter().position(|(path, kind, _)| path == project && *kind == operation)?;
        hooks.remove(index).map(|(_, _, hook)| hook)
    }
}

/// Percent-encodes a project's path segment by segment.
pub fn encode_path(project: &str) -> String {
    let segments: Vec<String> =
        project.split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
    segments.join("/")
}

/// The body of an answer to `fetch` that brings this pack.
pub fn fetch_answer(pack: &[u8]) -> Vec<u8> {
    let mut body = b"000dpackfile\n".to_vec();
    for piece in pack.chunks(SIDE_BAND_BYTES) {
        body.extend_from_slice(format!("{:04x}\x01", piece.len() + 5).as_bytes());
        body.extend_from_slice(piece);
    }
    body.extend_from_slice(b"0000");
    body
}

fn backend() -> Result<PathBuf> {
    let output = run(git().arg("--exec-path"), "git")?;
    let folder = String::from_utf8(output.stdout)?;
    let backend = Path::new(folder.trim()).join("git-http-backend");
    ensure!(backend.is_file(), "{} is missing; it is part of Git", backend.display());
    Ok(backend)
}

async fn serve(state: Arc<State>, request: Request<Body>, entry: Arc<Entry>) -> Result<Response<Body>, BoxError> {
    let latency = lock(&state.knobs).latency;
    tokio::time::sleep(latency).await;

    if !has_basic(request.headers(), &state.user, &state.password) {
        return Ok(unauthorized("Basic realm=\"GitLab\""));
    }
    let (head, body) = request.into_parts();
    let Some((project, action)) = split_path(entry.path()) else {
        entry.set_operation(&GitOperation::Other.to_string());
        return Ok(plain(StatusCode::NOT_FOUND, "no such page"));
    };
    let (start, body) = read_start(body).await?;
    let operation = operation(&head.method, action, head.uri.query(), &head.headers, &start);
    entry.set_operation(&operation.to_string());

    if let Some(hook) = state.take_hook(project, operation) {
        tokio::task::spawn_blocking(hook).await?;
    }
    let (fault, allow_push, protocol_v2, replay) = {
        let knobs = lock(&state.knobs);
        (knobs.faults.get(project).cloned(), knobs.allow_push, knobs.protocol_v2, knobs.replay)
    };
    let mut cut_after = None;
    match fault {
        None => {}
        Some(GitFault::Status(status)) => return Ok(plain(StatusCode::from_u16(status)?, "refused by the test")),
        Some(GitFault::Redirect(target)) => return redirect(&target, action, head.uri.query()),
        Some(GitFault::CutFetchAfter(bytes)) => cut_after = (operation == GitOperation::Fetch).then_some(bytes),
        Some(GitFault::Stall) => std::future::pending().await,
    }
    if operation == GitOperation::Other || !state.repository(project).join("HEAD").is_file() {
        return Ok(plain(StatusCode::NOT_FOUND, "The project you were looking for could not be found."));
    }
    let pushes = operation == GitOperation::ReceivePack || head.uri.query() == Some("service=git-receive-pack");
    if pushes && !allow_push {
        return Ok(plain(StatusCode::FORBIDDEN, "You are not allowed to push code to this project."));
    }

    let mut environment = git_environment(&[]);
    environment.extend(cgi_environment(&state, &head, entry.path(), protocol_v2));
    if replay && operation == GitOperation::LsRefs {
        return replayed(&state, environment, entry.path(), start, body).await;
    }
    let response = run_backend(&state.backend, environment, start, body).await?;
    Ok(match cut_after {
        None => response,
        Some(bytes) => response.map(|body| cut(body, bytes)),
    })
}

/// Git's first answer to this request.
async fn replayed(
    state: &State,
    environment: Vec<(String, String)>,
    path: &str,
    start: Bytes,
    body: Body,
) -> Result<Response<Body>, BoxError> {
    let request = Bytes::from([start, body.collect().await?.to_bytes()].concat());
    let question = (path.to_owned(), request);
    let known = lock(&state.answers).get(&question).cloned();
    let answer = match known {
        Some(answer) => answer,
        None => {
            let asked = run_backend(&state.backend, environment, question.1.clone(), full(Bytes::new())).await?;
            let answer = asked.into_body().collect().await?.to_bytes();
            lock(&state.answers).insert(question, answer.clone());
            answer
        }
    };
    let mut response = Response::new(full(answer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-result"));
    Ok(response)
}

/// `/group/sub/name.git/info/refs` → (`group/sub/name`, `info/refs`).
fn split_path(path: &str) -> Option<(&str, &str)> {
    let (project, action) = path.strip_prefix('/')?.split_once(".git/")?;
    let safe = project.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    safe.then_some((project, action))
}

/// Reads the first piece of a body, which holds the command.
async fn read_start(mut body: Body) -> Result<(Bytes, Body), BoxError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data()
            && !data.is_empty()
        {
            return Ok((data, body));
        }
    }
    Ok((Bytes::new(), body))
}

fn operation(method: &Method, action: &str, query: Option<&str>, headers: &HeaderMap, start: &[u8]) -> GitOperation {
    match (method.as_str(), action) {
        ("GET", "info/refs") if query.is_some_and(|query| query.starts_with("service=git-")) => GitOperation::InfoRefs,
        ("POST", "git-receive-pack") => GitOperation::ReceivePack,
        ("POST", "git-upload-pack") => {
            let command = command(headers, start);
            if command.windows(7).any(|window| window == b"ls-refs") {
                GitOperation::LsRefs
            } else {
                GitOperation::Fetch
            }
        }
        _ => GitOperation::Other,
    }
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

fn redirect(target: &str, action: &str, query: Option<&str>) -> Result<Response<Body>, BoxError> {
    let base = if target.contains("://") { target.to_owned() } else { format!("/{}", encode_path(target)) };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "moved");
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&format!("{base}.git/{action}{query}"))?);
    Ok(response)
}

/// The request as CGI variables. Anything not listed here does not reach Git.
fn cgi_environment(
    state: &State,
    head: &hyper::http::request::Parts,
    path: &str,
    protocol_v2: bool,
) -> Vec<(String, String)> {
    let header =
        |name: HeaderName| head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut variables = vec![
        ("GIT_PROJECT_ROOT", state.root.to_string_lossy().into_owned()),
        ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
        ("REQUEST_METHOD", head.method.to_string()),
        ("PATH_INFO", path.to_owned()),
        ("QUERY_STRING", head.uri.query().unwrap_or_default().to_owned()),
        // Git allows pushes by any user that the web server names.
        ("REMOTE_USER", state.user.clone()),
        ("REMOTE_ADDR", "127.0.0.1".to_owned()),
    ];
    let optional = [
        ("CONTENT_TYPE", header(CONTENT_TYPE)),
        ("CONTENT_LENGTH", header(CONTENT_LENGTH)),
        ("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING)),
        ("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol")).filter(|_| protocol_v2)),
    ];
    variables.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Runs `git http-backend` over one request. The process is killed when the answer is dropped unread.
async fn run_backend(
    backend: &Path,
    environment: Vec<(String, String)>,
    start: Bytes,
    body: Body,
) -> Result<Response<Body>, BoxError> {
    let mut child = Command::new(backend)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("git http-backend without pipes".into());
    };
    tokio::spawn(async move {
        if let Err(error) = feed(input, start, body).await {
            tracing::debug!(%error, "git http-backend took only part of the request");
        }
    });

    let mut output = BufReader::with_capacity(PIECE_BYTES, output);
    let mut response = Response::new(full(Bytes::new()));
    read_backend_header(&mut output, &mut response).await?;
    *response.body_mut() = StreamBody::new(
        ReaderStream::with_capacity(output, PIECE_BYTES)
            .map_ok(Frame::data)
            .map_err(BoxError::from)
            .chain(stream::once(reap(child)).filter_map(|()| async { None })),
    )
    .boxed_unsync();
    Ok(response)
}

async fn feed(mut input: ChildStdin, start: Bytes, mut body: Body) -> Result<(), BoxError> {
    input.write_all(&start).await?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            input.write_all(&data).await?;
        }
    }
    Ok(())
}

/// Reads `Status: 404 Not Found` and the other lines before the empty one into the response.
async fn read_backend_header(
    output: &mut BufReader<impl AsyncRead + Unpin>,
    response: &mut Response<Body>,
) -> Result<(), BoxError> {
    let mut read = 0;
    loop {
        let mut line = String::new();
        read += output.read_line(&mut line).await?;
        if line.is_empty() || read > BACKEND_HEADER_BYTES {
            return Err("git http-backend printed no proper header".into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(());
        }
        let (name, value) = line.split_once(':').ok_or("git http-backend printed a line that is no header")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *response.status_mut() = StatusCode::from_bytes(code.as_bytes())?;
        } else {
            response.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
    }
}

/// Waits for the process after its output has ended. The status is ignored: Git has reported errors to the client in
/// the protocol.
async fn reap(mut child: Child) {
    match child.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::debug!(%status, "git http-backend ended"),
        Err(error) => tracing::debug!(%error, "waiting for git http-backend"),
    }
}

/// Passes the first `bytes` of a body and then breaks the connection.
fn cut(body: Body, bytes: u64) -> Body {
    let mut left = bytes;
    let pieces = body.into_data_stream().map(move |piece| {
        let piece = piece?;
        if left == 0 {
            return Err(BoxError::from("cut by the test"));
        }
        let passed = piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        left -= passed.len() as u64;
        Ok(Frame::data(passed))
    });
    StreamBody::new(pieces).boxed_unsync()
}
