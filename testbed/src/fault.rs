//! Faults on the wire: a proxy to put in front of any HTTP server, and addresses where nothing answers.
//!
//! Rules say which requests are affected, how often, and how. Requests without a rule pass unchanged.
//! Invariant: every request that matched a rule is counted, so that a test can tell whether its fault occurred at all.

mod certificate;
mod dead_end;
mod exchange;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

pub use certificate::{Authority, Certified, Validity};
pub use dead_end::{ClosedPort, FullPort};

use crate::http::{HttpServer, lock};

/// For rules without a limit.
pub const ALWAYS: usize = usize::MAX;

/// A request as rules see it.
#[derive(Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Seen {
    /// What is asked for, in the words of the service: `fetch`, `ls-refs`, `receive-heads`, `receive-pack`, `UploadPart`,
    /// …; `query` is GraphQL's.
    pub fn operation(&self) -> &'static str {
        let has = |parameter: &str| {
            self.query.split('&').any(|pair| pair.split('=').next().is_some_and(|name| name == parameter))
        };
        let says = |text: &[u8]| self.body.windows(text.len()).take(64).any(|window| window == text);
        let service = self.path.rsplit_once(".git/").map_or("", |(_, service)| service);
        match self.method.as_str() {
            "POST" if service == "git-upload-pack" && says(b"command=ls-refs") => "ls-refs",
            "POST" if service == "git-upload-pack" => "fetch",
            "POST" if service == "git-receive-pack" => "receive-pack",
            "GET" if service == "info/refs" && self.query == "service=git-receive-pack" => "receive-heads",
            "POST" if has("uploads") => "CreateMultipartUpload",
            "POST" if has("uploadId") => "CompleteMultipartUpload",
            "POST" => "query",
            "PUT" if has("partNumber") => "UploadPart",
            "PUT" => "PutObject",
            "DELETE" if has("uploadId") => "AbortMultipartUpload",
            "DELETE" => "DeleteObject",
            "GET" if has("uploads") => "ListMultipartUploads",
            "GET" if has("list-type") => "ListObjectsV2",
            "GET" if self.query.split('&').any(|pair| pair == "x-id=GetObject") => "GetObject",
            _ => "other",
        }
    }
}

/// A place in the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// In the middle.
    Half,
    /// At the end of Git's last packet that ends before the middle.
    PacketLine,
}

/// How far an exchange gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request never reaches the server.
    Unsent,
    /// The server has handled the request, but no byte of its answer comes back.
    Unanswered,
    /// The answer's head and its body up to there have come back.
    Within(At),
    /// All of the answer has come back.
    Answered,
}

/// Changes the body of an answer, or of a request.
type Alteration = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// The connection is reset.
    Reset(Moment),
    /// Nothing more comes until [`Proxy::release`], and then the rest. A request that was held at [`Moment::Unsent`]
    /// then meets the rules of that time.
    Hold(Moment),
    /// The connection is closed normally, but the body is shorter than its `Content-Length`.
    Close(At),
    /// Another answer; the request never reaches the server.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers, without `Content-Length`.
        headers: Vec<(String, String)>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Another body, in a well-formed answer.
    Alter(Alteration),
    /// Another body, in the request that reaches the server.
    AlterRequest(Alteration),
    /// The answer comes in this many pieces, with a pause before each.
    Trickle {
        /// How many.
        pieces: usize,
        /// The pause.
        pause: Duration,
    },
}

impl Fault {
    /// An answer of this status with a short text.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: vec![], body: b"refused by the test".to_vec() }
    }

    /// The same with one more header.
    pub fn status_with(status: u16, name: &str, value: &str) -> Self {
        Self::Answer {
            status,
            headers: vec![(name.to_owned(), value.to_owned())],
            body: b"refused by the test".to_vec(),
        }
    }

    /// An error in S3's format.
    pub fn s3_error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>refused by the test</Message><RequestId>1</RequestId></Error>"
        );
        let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
        Self::Answer { status, headers, body: body.into_bytes() }
    }

    /// Changes the body.
    pub fn alter(alteration: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Alter(Arc::new(alteration))
    }

    /// Changes the body of the request.
    pub fn alter_request(alteration: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::AlterRequest(Arc::new(alteration))
    }

    /// The body ends early, and the head says that it is complete.
    pub fn truncate(at: At) -> Self {
        Self::alter(move |mut body| {
            body.truncate(exchange::place(&body, at));
            body
        })
    }

    /// One bit of the body is flipped, this far from its end.
    pub fn flip_bit(bytes_from_end: usize) -> Self {
        Self::alter(move |mut body| {
            let place = body.len().saturating_sub(bytes_from_end);
            if let Some(byte) = body.get_mut(place) {
                *byte ^= 1;
            }
            body
        })
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(moment) => write!(f, "reset {moment:?}"),
            Self::Hold(moment) => write!(f, "hold {moment:?}"),
            Self::Close(at) => write!(f, "close at {at:?}"),
            Self::Answer { status, .. } => write!(f, "answer {status}"),
            Self::Alter(_) => write!(f, "alter"),
            Self::AlterRequest(_) => write!(f, "alter the request"),
            Self::Trickle { pieces, pause } => write!(f, "trickle {pieces} x {pause:?}"),
        }
    }
}

/// Which requests a rule is for.
type Matcher = Box<dyn Fn(&Seen) -> bool + Send>;

/// Which fault happens to which requests, and how often.
struct Rule {
    matches: Matcher,
    skip: usize,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    hits: AtomicUsize,
    held: AtomicUsize,
    connections: AtomicUsize,
    released: Notify,
}

impl State {
    /// What happens to this request: the first matching rule that is not used up decides.
    fn take(&self, seen: &Seen) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        for rule in rules.iter_mut().filter(|rule| rule.times > 0) {
            if !(rule.matches)(seen) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            if rule.times != ALWAYS {
                rule.times -= 1;
            }
            self.hits.fetch_add(1, Ordering::SeqCst);
            return Some(rule.fault.clone());
        }
        None
    }

    /// Waits for the release, or until this future is dropped because the client has disconnected.
    async fn hold(&self) {
        let released = self.released.notified();
        let _held = Held::new(&self.held);
        released.await;
    }
}

/// Counts a request while it is held.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A proxy on 127.0.0.1 in front of one server. Dropping it closes every connection.
pub struct Proxy {
    server: HttpServer,
    tls: bool,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy in front of the server at `http://<address>`; a path after it is ignored.
    pub fn start(upstream: &str) -> Result<Self> {
        Self::start_with(upstream, None)
    }

    /// The same, with TLS towards the client.
    pub fn start_tls(upstream: &str, certified: &Certified) -> Result<Self> {
        Self::start_with(upstream, Some(certified.acceptor()?))
    }

    fn start_with(upstream: &str, tls: Option<TlsAcceptor>) -> Result<Self> {
        let address = upstream.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        let upstream: SocketAddr = address.with_context(|| format!("{upstream} is not http://"))?.parse()?;
        let state = Arc::new(State::default());
        let (serving, encrypted) = (Arc::clone(&state), tls.is_some());
        let server = HttpServer::listen("fault-proxy", 0, move |stream| {
            let (state, tls) = (Arc::clone(&serving), tls.clone());
            async move {
                state.connections.fetch_add(1, Ordering::SeqCst);
                if let Err(error) = exchange::serve(&state, stream, tls, upstream).await {
                    tracing::debug!(%error, "a proxied connection ended");
                }
            }
        })?;
        Ok(Self { server, tls: encrypted, state })
    }

    /// Where it listens: `http://127.0.0.1:<port>`, or `https://`.
    pub fn url(&self) -> String {
        if self.tls { format!("https://{}", self.server.address()) } else { self.server.url() }
    }

    /// From now on `fault` happens to the first `times` matching requests that no earlier rule covers.
    pub fn on(&self, matches: impl Fn(&Seen) -> bool + Send + 'static, times: usize, fault: Fault) {
        self.on_later(0, matches, times, fault);
    }

    /// The same after `skip` such requests have passed.
    pub fn on_later(&self, skip: usize, matches: impl Fn(&Seen) -> bool + Send + 'static, times: usize, fault: Fault) {
        lock(&self.state.rules).push(Rule { matches: Box::new(matches), skip, times, fault });
    }

    /// Forgets all rules; held requests stay held.
    pub fn forget(&self) {
        lock(&self.state.rules).clear();
    }

    /// Forgets all rules and lets held requests continue.
    pub fn clear(&self) {
        self.forget();
        self.release();
    }

    /// Lets held requests continue.
    pub fn release(&self) {
        self.state.released.notify_waiters();
    }

    /// How many requests matched a rule.
    pub fn hits(&self) -> usize {
        self.state.hits.load(Ordering::SeqCst)
    }

    /// How many requests are held right now.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}
