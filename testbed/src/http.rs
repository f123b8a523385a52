//! The HTTP server for all three services, and the log of requests that tests read.
//!
//! Invariant: a request is in the log once its headers are read, even if it is refused or never answered. Of an
//! `Authorization` header only the user name is kept.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, SizeHint};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// How much of each request's body the log keeps: enough for a GraphQL query or the wants of a fetch.
const KEPT_BODY_BYTES: usize = 64 * 1024;

/// How long a stopping server waits for its blocking work (a test's hooks).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Worker threads of each server's runtime: two, so that one long answer does not delay the others.
const WORKER_THREADS: usize = 2;

/// One request as a server saw it.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// The method, for example `POST`.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The path as it came over the wire.
    pub raw_path: String,
    /// What follows the `?`, as it came; empty if there is nothing.
    pub query: String,
    /// What the request asks for, in the words of its service: `fetch`, `ls-refs`, `UploadPart`, …
    pub operation: Option<String>,
    /// Whether there was an `Authorization` header.
    pub authorization: bool,
    /// The user name of HTTP Basic, if there is one.
    pub user: Option<String>,
    /// The other headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB of the body, as it came (not decompressed).
    pub body: Vec<u8>,
    /// The status answered; `None` while there is no answer.
    pub status: Option<u16>,
    /// Bytes of body received.
    pub request_bytes: u64,
    /// Bytes of body sent.
    pub response_bytes: u64,
    /// When the request's headers had been read.
    pub at: SystemTime,
}

impl RequestRecord {
    /// The value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the operation is the one given.
    pub fn is(&self, operation: &str) -> bool {
        self.operation.as_deref() == Some(operation)
    }

    /// The kept part of the body as text, for assertions.
    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request while it is being served; becomes a [`RequestRecord`] when the log is read.
#[derive(Debug)]
pub(crate) struct Entry {
    method: String,
    path: String,
    raw_path: String,
    query: String,
    operation: Mutex<Option<String>>,
    authorization: bool,
    user: Option<String>,
    headers: Vec<(String, String)>,
    body: Mutex<Vec<u8>>,
    cut: AtomicBool,
    /// 0 while there is no answer.
    status: AtomicU16,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    at: SystemTime,
}

impl Entry {
    fn new<B>(request: &Request<B>) -> Self {
        let raw_path = request.uri().path().to_owned();
        let headers = request
            .headers()
            .iter()
            .filter(|(name, _)| *name != AUTHORIZATION)
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Self {
            method: request.method().to_string(),
            path: decode_path(&raw_path),
            raw_path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            operation: Mutex::new(None),
            authorization: request.headers().contains_key(AUTHORIZATION),
            user: basic_user(request.headers()),
            headers,
            body: Mutex::new(Vec::new()),
            cut: AtomicBool::new(false),
            status: AtomicU16::new(0),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            at: SystemTime::now(),
        }
    }

    /// Records what the request asks for.
    pub(crate) fn set_operation(&self, operation: &str) {
        *lock(&self.operation) = Some(operation.to_owned());
    }

    /// Closes the connection instead of answering.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// The path, percent-decoded.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn received(&self, data: &[u8]) {
        self.request_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        let mut kept = lock(&self.body);
        let room = KEPT_BODY_BYTES - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    fn sent(&self, data: &[u8]) {
        self.response_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
    }

    fn record(&self) -> RequestRecord {
        RequestRecord {
            method: self.method.clone(),
            path: self.path.clone(),
            raw_path: self.raw_path.clone(),
            query: self.query.clone(),
            operation: lock(&self.operation).clone(),
            authorization: self.authorization,
            user: self.user.clone(),
            headers: self.headers.clone(),
            body: lock(&self.body).clone(),
            status: Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
            at: self.at,
        }
    }
}

/// The requests of one server, oldest first. Clones share one log.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestLog(Arc<Mutex<Vec<Arc<Entry>>>>);

impl RequestLog {
    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        lock(&self.0).iter().map(|entry| entry.record()).collect()
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    fn open(&self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        lock(&self.0).push(Arc::clone(&entry));
        entry
    }
}

/// A handler's error; the connection is then closed without (the rest of) an answer.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bodies in both directions.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is complete in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A short answer in plain text.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to missing or wrong credentials.
pub(crate) fn unauthorized(realm: &'static str) -> Response<Body> {
    challenge(realm, "HTTP Basic: Access denied")
}

/// The same with other words.
pub(crate) fn challenge(realm: &'static str, text: &str) -> Response<Body> {
    let mut response = plain(StatusCode::UNAUTHORIZED, text);
    response.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static(realm));
    response
}

/// Whether the headers carry exactly these Basic credentials.
pub(crate) fn has_basic(headers: &HeaderMap, user: &str, password: &str) -> bool {
    let expected = basic(user, password);
    headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes())
}

/// The value of an `Authorization` header for these credentials.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// The user in Basic credentials.
fn basic_user(headers: &HeaderMap) -> Option<String> {
    let pair = BASE64.decode(headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Basic ")?).ok()?;
    let user = pair.split(|byte| *byte == b':').next()?;
    Some(String::from_utf8_lossy(user).into_owned())
}

/// Locks, even if another thread panicked while holding the lock: a second panic must not hide the failing test.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode_path(raw: &str) -> String {
    percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned()
}

/// An HTTP/1.1 server on loopback with its own runtime and thread. Dropping it closes every connection.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on `port` (0: any free one) and answers each request with `handler`.
    pub(crate) fn start<H, F>(name: &str, port: u16, log: RequestLog, handler: H) -> Result<Self>
    where
        H: Fn(Request<Body>, Arc<Entry>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
    {
        Self::listen(name, port, move |stream| {
            let (log, handler) = (log.clone(), handler.clone());
            async move {
                let service = service_fn(|request| answer(request, &log, &handler));
                if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "connection ended");
                }
            }
        })
    }

    /// Listens on `port` (0: any free one) and hands each connection to `serve`.
    pub(crate) fn listen<S, F>(name: &str, port: u16, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("{name}: listening on 127.0.0.1:{port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name(name)
            .enable_all()
            .build()?;

        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = accept(listener, serve) => {
                        if let Err(error) = result {
                            tracing::error!(%error, "the server stopped accepting connections");
                        }
                    }
                }
            });
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, without a final slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // If the receiver is gone, it has already stopped.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept<S, F>(listener: std::net::TcpListener, serve: S) -> std::io::Result<()>
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

async fn answer<H, F>(
    request: Request<hyper::body::Incoming>,
    log: &RequestLog,
    handler: &H,
) -> Result<Response<Body>, BoxError>
where
    H: Fn(Request<Body>, Arc<Entry>) -> F,
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    let entry = log.open(Entry::new(&request));
    let request = request.map(|incoming| {
        let body = incoming.map_err(BoxError::from).boxed_unsync();
        Metered { body, entry: Arc::clone(&entry), count: Entry::received }.boxed_unsync()
    });
    let response = handler(request, Arc::clone(&entry)).await?;
    if entry.cut.load(Ordering::Relaxed) {
        return Err("cut by the test".into());
    }
    entry.status.store(response.status().as_u16(), Ordering::Relaxed);
    Ok(response.map(|body| Metered { body, entry, count: Entry::sent }.boxed_unsync()))
}

/// A body that reports its data to the request's log entry as it passes.
struct Metered {
    body: Body,
    entry: Arc<Entry>,
    count: fn(&Entry, &[u8]),
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            (self.count)(&self.entry, data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
