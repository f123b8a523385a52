//! A GitLab as Git sees it: smart HTTP over the real `git http-backend`, one process per request.
//!
//! | module | what it has of GitLab |
//! |---|---|
//! | `request` | what a request asks for |
//! | `backend` | Git, and the nginx in front of it |
//! | `receive` | the receive side: rights, protected branches, checks, limits, projects made by a push |
//!
//! Packs stream through in both directions and are never held in memory.
//! Invariant: a request without the right user and password gets 401, whatever it asks for.

mod backend;
mod receive;
mod request;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;

use crate::cpu;
use crate::http::{
    Body, BoxError, Entry, HttpServer, RequestLog, RequestRecord, challenge, full, has_basic, lock, plain,
};
use crate::repo::Repo;
use receive::Receiving;
pub use receive::{Protection, words};
pub use request::GitOperation;

/// How much of a pack goes into one packet.
const SIDE_BAND_BYTES: usize = 60_000;

/// What a path segment keeps unencoded in a URL.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a [`GitServer`] starts. Everything but user, password and port can be changed while it runs.
#[derive(Debug, Clone)]
pub struct GitOptions {
    /// The only user let in.
    pub user: String,
    /// The user's password, or token.
    pub password: String,
    /// Whether `git push` is served. If not, the user's role is too low for it.
    pub allow_push: bool,
    /// Whether the token may only read.
    pub read_only: bool,
    /// Whether Git checks each object that is pushed, as strictly as on GitLab: `receive.fsckObjects`.
    pub fsck_objects: bool,
    /// Whether `info/refs` for a push makes a missing project of a group that exists.
    pub create_projects: bool,
    /// Whether new Git LFS pointers are refused. This server has no objects for them.
    pub refuse_lfs: bool,
    /// The longest request in bytes that nginx takes (`client_max_body_size`). It answers others before it reads them.
    pub max_body_bytes: Option<u64>,
    /// The longest pack in bytes that Git takes (GitLab's maximum push size). It reads this much of others.
    pub max_push_bytes: Option<u64>,
    /// Whether the `Git-Protocol` header reaches Git; without it the server knows only the old protocol.
    pub protocol_v2: bool,
    /// Waited before each request is served.
    pub latency: Duration,
    /// The port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// The CPU that it and its processes run on, as on a machine of their own.
    pub cpu: Option<usize>,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self {
            user: "git-sync-user".to_owned(),
            password: "glpat-secret-token-5d1f".to_owned(),
            allow_push: false,
            read_only: false,
            fsck_objects: false,
            create_projects: false,
            refuse_lfs: false,
            max_body_bytes: None,
            max_push_bytes: None,
            protocol_v2: true,
            latency: Duration::ZERO,
            port: 0,
            cpu: None,
        }
    }
}

/// What goes wrong with one project's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitFault {
    /// Answered with this status and a short text.
    Status(u16),
    /// Answered with this status and text, for example one of [`words`].
    Answer(u16, String),
    /// Answered with 301 to the same request at another project's path on this server (`group/name`, as after a
    /// rename) or at another server (`http://…/group/name`).
    Redirect(String),
    /// Served, but the connection is closed after this many bytes of the answer to a fetch; other requests succeed.
    CutFetchAfter(u64),
    /// A push is given to Git up to this many bytes of its body, and the connection is closed once Git has ended; other
    /// requests succeed.
    CutPushAfter(u64),
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
    /// Projects made by a push, oldest first.
    created: Mutex<Vec<String>>,
}

/// What tests change while the server runs.
#[derive(Debug, Clone)]
struct Knobs {
    receiving: Receiving,
    protocol_v2: bool,
    latency: Duration,
    expired: bool,
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
        let knobs = Knobs {
            receiving: Receiving::new(&options),
            protocol_v2: options.protocol_v2,
            latency: options.latency,
            expired: false,
            faults: HashMap::new(),
            replay: false,
        };
        let state = Arc::new(State {
            root: root.path().to_owned(),
            backend: backend::locate()?,
            user: options.user,
            password: options.password,
            knobs: Mutex::new(knobs),
            hooks: Mutex::default(),
            answers: Mutex::default(),
            created: Mutex::default(),
        });
        let log = RequestLog::default();
        let served = Arc::clone(&state);
        let start = || {
            HttpServer::start("git-server", options.port, log.clone(), move |request, entry| {
                serve(Arc::clone(&served), request, entry)
            })
        };
        let server = match options.cpu {
            Some(cpu) => cpu::on(cpu, start)??,
            None => start()?,
        };
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

    /// The requests without a login, oldest first. Git's own clients begin with one; a program that has a token need not.
    pub fn anonymous_requests(&self) -> Vec<RequestRecord> {
        self.requests().into_iter().filter(|request| !request.authorization).collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.log.clear();
    }

    /// Makes every request wait this long before it is served.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state.knobs).latency = latency;
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

async fn serve(state: Arc<State>, request: Request<Body>, entry: Arc<Entry>) -> Result<Response<Body>, BoxError> {
    let (latency, expired, limit) = {
        let knobs = lock(&state.knobs);
        (knobs.latency, knobs.expired, knobs.receiving.max_body_bytes)
    };
    tokio::time::sleep(latency).await;

    let (head, body) = request.into_parts();
    let body = backend::lingering(body);
    let place = request::split_path(entry.path());
    let ask = |start: &[u8]| {
        let action = place.map_or("", |(_, action)| action);
        let operation = GitOperation::of(&head.method, action, head.uri.query(), &head.headers, start);
        entry.set_operation(&operation.to_string());
        operation
    };
    if announced_bytes(&head).zip(limit).is_some_and(|(bytes, limit)| bytes > limit) {
        ask(&[]);
        return Ok(receive::too_large());
    }
    if expired || !has_basic(&head.headers, &state.user, &state.password) {
        return Ok(challenge("Basic realm=\"GitLab\"", words::BAD_LOGIN));
    }
    let Some((project, action)) = place else {
        ask(&[]);
        return Ok(plain(StatusCode::NOT_FOUND, "no such page"));
    };
    let (start, body) = request::read_start(body).await?;
    let operation = ask(&start);

    if let Some(hook) = state.take_hook(project, operation) {
        tokio::task::spawn_blocking(hook).await?;
    }
    let knobs = lock(&state.knobs).clone();
    let fault = knobs.faults.get(project);
    match fault {
        None | Some(GitFault::CutFetchAfter(_) | GitFault::CutPushAfter(_)) => {}
        Some(GitFault::Status(status)) => return Ok(plain(StatusCode::from_u16(*status)?, "refused by the test")),
        Some(GitFault::Answer(status, text)) => return Ok(plain(StatusCode::from_u16(*status)?, text)),
        Some(GitFault::Redirect(target)) => return redirect(target, action, head.uri.query()),
        Some(GitFault::Stall) => std::future::pending().await,
    }
    if let Some(refusal) = receive::refusal(&state, &knobs.receiving, project, operation).await? {
        return Ok(refusal);
    }

    let mut environment = knobs.receiving.environment(operation, project);
    environment.extend(backend::cgi_environment(&state, &head, entry.path(), operation, knobs.protocol_v2));
    match (fault, operation) {
        (_, GitOperation::LsRefs) if knobs.replay => replayed(&state, environment, entry.path(), start, body).await,
        (Some(GitFault::CutFetchAfter(bytes)), GitOperation::Fetch) => {
            let answer = backend::exchange(&state.backend, environment, start, body).await?;
            Ok(answer.map(|body| backend::cut(body, *bytes)))
        }
        (Some(GitFault::CutPushAfter(bytes)), GitOperation::ReceivePack) => {
            backend::exchange_cut(&state.backend, environment, start, body, *bytes).await?;
            Err("cut by the test".into())
        }
        _ => match limit.filter(|_| announced_bytes(&head).is_none()) {
            None => backend::exchange(&state.backend, environment, start, body).await,
            Some(limit) => match backend::buffered(start, body, limit).await? {
                None => Ok(receive::too_large()),
                Some(whole) => backend::exchange(&state.backend, environment, whole, full(Bytes::new())).await,
            },
        },
    }
}

/// How long the request says that its body is.
fn announced_bytes(head: &Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
            let asked = backend::exchange(&state.backend, environment, question.1.clone(), full(Bytes::new())).await?;
            let answer = asked.into_body().collect().await?.to_bytes();
            lock(&state.answers).insert(question, answer.clone());
            answer
        }
    };
    let mut response = Response::new(full(answer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-result"));
    Ok(response)
}

fn redirect(target: &str, action: &str, query: Option<&str>) -> Result<Response<Body>, BoxError> {
    let base = if target.contains("://") { target.to_owned() } else { format!("/{}", encode_path(target)) };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "moved");
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&format!("{base}.git/{action}{query}"))?);
    Ok(response)
}
