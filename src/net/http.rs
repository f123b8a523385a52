//! HTTP for GraphQL and Git: one client, one set of limits, one rule for retries.
//!
//! Invariant: credentials go only to the host they were given for; every wait and every answer is bounded.

pub mod upload;

use std::time::{Duration, SystemTime};

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{ClientBuilder, Method, Response, StatusCode, redirect};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::net::Timeouts;
use crate::net::proxy::{self, Proxy};
use crate::net::tls::{self, TrustRoots};
use crate::retries::{Flaw, Retry, Trouble};
use crate::text::{hide, json, remote_text};

/// How often a request is sent in total before its failure counts.
pub const MAX_ATTEMPTS: usize = 5;
/// How many redirects one request follows, each within the same host.
const MAX_REDIRECTS: usize = 3;

/// How much of a refusal is read for its reason, in bytes, and for how long.
const REASON_LIMIT_BYTES: usize = 16 << 10;
const REASON_TIMEOUT: Duration = Duration::from_secs(5);
/// How many reasons of one refusal are shown.
const MAX_REASONS: usize = 3;
/// The whole body of GitLab's answer to an address that it has banned.
const BAN_TEXTS: [&[u8]; 2] = [b"", b"Forbidden"];

/// A user name and password for HTTP Basic authentication, kept as the header they make.
#[derive(Clone)]
pub struct Login(HeaderValue);

impl Login {
    pub fn new(username: &str, password: &SecretString) -> anyhow::Result<Self> {
        use base64::Engine;
        let pair = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
        hide(&pair);
        let text = Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(pair.as_bytes()));
        let mut header = HeaderValue::from_str(&Zeroizing::new(format!("Basic {}", text.as_str())))
            .context("the user name and password do not fit a header")?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

impl Login {
    pub fn on(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request.header(AUTHORIZATION, &self.0)
    }
}

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No answer, or not all of it.
    #[error("{}{}", describe_transport(source), through(source, *proxy))]
    Transport { source: reqwest::Error, proxy: Option<&'static Proxy> },
    /// The whole exchange took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// Any status other than 2xx.
    #[error("the server answered {status}{}{}", hint(*.status, *.refuses_login), in_its_words(.said))]
    Status {
        status: StatusCode,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// The server's reason in its own words; empty if it gives none that a program can read.
        said: String,
        /// Whether it refuses the login, or this machine, whatever the request is for.
        refuses_login: bool,
    },
    /// `to` has no query, and is cut and escaped like all text of a server.
    #[error("the server redirects to {to}, which is not followed: {why}")]
    Redirect { to: String, why: &'static str },
    #[error("the answer is longer than {limit} bytes")]
    TooLong { limit: usize },
    /// The body of an upload ended before its announced length.
    #[error("what was to be sent ended too early")]
    Unfed,
}

fn describe_transport(error: &reqwest::Error) -> &'static str {
    if let Some(refusal) = tls::refusal(error) {
        refusal
    } else if error.is_timeout() {
        "the server did not answer in time"
    } else if error.is_connect() {
        "no connection to the server"
    } else {
        "the connection broke off"
    }
}

/// Where a connection through a proxy fails, the proxy may be what fails.
fn through(error: &reqwest::Error, proxy: Option<&Proxy>) -> String {
    match proxy.filter(|_| error.is_connect()) {
        Some(proxy) => format!(", through the proxy {proxy}"),
        None => String::new(),
    }
}

fn in_its_words(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" (it says: {reason})") }
}

fn hint(status: StatusCode, refuses_login: bool) -> &'static str {
    match status {
        StatusCode::FORBIDDEN if refuses_login => {
            ": it refuses this machine, as GitLab does for a while after many failed logins"
        }
        StatusCode::UNAUTHORIZED => ": the user name or the token is not accepted",
        StatusCode::FORBIDDEN => ": the user is not allowed to do this",
        StatusCode::NOT_FOUND => ": nothing by this name is visible to the user",
        StatusCode::TOO_MANY_REQUESTS => ": too many requests; the next pass tries again",
        _ if status.is_server_error() => ": it is broken or overloaded; the next pass tries again",
        _ => "",
    }
}

impl RequestError {
    /// What to do about it. `address` is the setting that holds the server's, and `login` what to check if the login is
    /// refused.
    pub fn advice(&self, address: &str, login: &str) -> String {
        match self {
            Self::Transport { source, .. } if tls::refusal(source).is_some() => {
                format!("Put the authority's certificate into SSL_CERT_FILE, or check the host's name in {address}.")
            }
            Self::Transport { .. } | Self::Late(_) | Self::Unfed => format!(
                "Check {address}; then name resolution, network policies and firewalls, HTTPS_PROXY and NO_PROXY: there \
                 is no answer."
            ),
            Self::Status { status, .. } if *status == StatusCode::UNAUTHORIZED || *status == StatusCode::FORBIDDEN => {
                format!("Check {login}.")
            }
            Self::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
                "The server limits requests: wait a while, and try again.".to_owned()
            }
            Self::Status { status, .. } if status.is_server_error() => {
                "The server has a problem: check it, and try again.".to_owned()
            }
            Self::Status { .. } | Self::Redirect { .. } | Self::TooLong { .. } => {
                format!("Check {address}, including its path.")
            }
        }
    }

    /// Whether nothing came back, so that nothing shows that the server can be reached.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !(source.is_body() || source.is_decode()),
            Self::Late(_) => true,
            Self::Status { .. } | Self::Redirect { .. } | Self::TooLong { .. } | Self::Unfed => false,
        }
    }

    /// Whether the server refuses the login, or this machine, whatever the request is for.
    pub fn refuses_login(&self) -> bool {
        matches!(self, Self::Status { refuses_login: true, .. })
    }

    /// What was wrong with the answer.
    pub fn flaw(&self) -> Flaw {
        match self {
            Self::Status { status, .. } => Flaw::Status(status.as_u16()),
            _ if self.is_unanswered() => Flaw::Silent,
            _ => Flaw::Broken,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => tls::refusal(source).is_none(),
            Self::Late(_) => true,
            Self::Status { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::Redirect { .. } | Self::TooLong { .. } | Self::Unfed => false,
        }
    }
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport { source: error.without_url(), proxy: None }
    }
}

/// The client for GraphQL and Git. A server may stay silent for [`Timeouts::idle`] before its answer's head and between two
/// pieces of the body: Git servers send a sign of life every five seconds while they prepare a pack. `max_idle` bounds the
/// connections kept open to one host.
pub fn client(roots: &TrustRoots, timeouts: Timeouts, max_idle: usize) -> anyhow::Result<reqwest::Client> {
    finish(builder(timeouts, max_idle).read_timeout(timeouts.idle), roots)
}

/// What all clients have in common.
fn builder(timeouts: Timeouts, max_idle: usize) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("git/2.0 (", env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), ")"))
        .connect_timeout(timeouts.connect)
        .pool_max_idle_per_host(max_idle)
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        // `send` follows them itself: a POST must stay a POST, and never reach another host.
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
}

/// The client, with the proxies and certificates that all of them have.
fn finish(mut builder: ClientBuilder, roots: &TrustRoots) -> anyhow::Result<reqwest::Client> {
    proxy::check()?;
    // The client reads no proxy from the environment itself.
    builder = builder.no_proxy().proxy(reqwest::Proxy::custom(|url| proxy::for_url(url).map(|it| it.url().clone())));
    if let Some(pem) = roots.pem() {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).context("the CA certificates")?);
    }
    builder.build().context("cannot set up the HTTP client")
}

/// Sends one POST, follows redirects within the host, and returns an answer of status 2xx with its body unread.
pub async fn post(
    client: &reqwest::Client,
    url: &Url,
    login: Option<&Login>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, RequestError> {
    send(client, Method::POST, url, login, headers, body).await
}

/// Sends one GET, as [`post`] does. The answer knows where redirects have led to.
pub async fn get(client: &reqwest::Client, url: &Url, login: Option<&Login>) -> Result<Response, RequestError> {
    send(client, Method::GET, url, login, &HeaderMap::new(), Bytes::new()).await
}

async fn send(
    client: &reqwest::Client,
    method: Method,
    url: &Url,
    login: Option<&Login>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, RequestError> {
    let mut to = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let mut request = client.request(method.clone(), to.clone()).headers(headers.clone());
        if method == Method::POST {
            request = request.body(body.clone());
        }
        if let Some(Login(header)) = login {
            request = request.header(AUTHORIZATION, header);
        }
        let proxy = proxy::for_url(&to);
        let sent = request.send().await;
        let response = sent.map_err(|error| RequestError::Transport { source: error.without_url(), proxy })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if !status.is_redirection() {
            return Err(refused(response, method == Method::GET).await);
        }
        to = redirected(&to, response.headers(), status)?;
    }
    Err(RequestError::Redirect { to: shown(&to), why: "too many redirects, one after another" })
}

/// An answer whose status is neither 2xx nor a redirect. A `plain` text is the server's own words, as GitLab's to a push.
async fn refused(response: Response, plain: bool) -> RequestError {
    let (status, retry_after) = (response.status(), retry_after(response.headers()));
    let kind = content_type(response.headers()).unwrap_or_default();
    // A body that does not come changes nothing: the status is known.
    let body = timeout(REASON_TIMEOUT, body(response, REASON_LIMIT_BYTES)).await.ok().and_then(Result::ok);
    // GitLab answers a banned address with 403 and says nothing else. About a project it says why.
    let is_ban = body.as_ref().is_some_and(|body| BAN_TEXTS.contains(&body.trim_ascii()));
    let said = match body {
        Some(body) if kind.ends_with("json") => reason(&body),
        Some(body) if plain && kind == "text/plain" && !is_ban => remote_text(&body),
        Some(_) | None => String::new(),
    };
    let refuses_login = status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN && is_ban;
    RequestError::Status { status, retry_after, said, refuses_login }
}

/// The messages of GraphQL's `errors`; empty for other JSON.
fn reason(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    let Errors { errors } = json::from_slice(body).unwrap_or_default();
    let messages: Vec<_> = errors.iter().take(MAX_REASONS).map(|error| remote_text(error.message.as_bytes())).collect();
    messages.join("; ")
}

/// The kind of an answer's body in lower case, without parameters such as `charset`.
pub fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Where a redirect leads, if that is the same server and the same kind of request.
fn redirected(from: &Url, headers: &HeaderMap, status: StatusCode) -> Result<Url, RequestError> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(to) = location.and_then(|location| from.join(location).ok()) else {
        return Err(RequestError::Status { status, retry_after: None, said: String::new(), refuses_login: false });
    };
    let refuse = |why| Err(RequestError::Redirect { to: shown(&to), why });
    if to.origin() != from.origin() {
        return refuse("it is another server, and credentials stay with the one they were given for");
    }
    if to.path_segments().and_then(|mut path| path.next_back())
        != from.path_segments().and_then(|mut path| path.next_back())
    {
        return refuse(
            "it is another kind of page, which usually means that the user name or the token is not accepted",
        );
    }
    Ok(to)
}

/// A server's address as it is shown: without login and query, and cut.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // This fails only for addresses without a host, which have no login.
    let _ = (url.set_username(""), url.set_password(None));
    remote_text(url.as_str().as_bytes())
}

/// `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// The whole body, which may have `limit` bytes.
pub async fn body(mut response: Response, limit: usize) -> Result<Bytes, RequestError> {
    let mut whole = BytesMut::new();
    while let Some(piece) = response.chunk().await? {
        if whole.len() + piece.len() > limit {
            return Err(RequestError::TooLong { limit });
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Makes up to five attempts while failures are transient, with growing, jittered delays or longer ones that the server
/// asks for. All of it ends within `budget`.
pub async fn retrying<T, E, F>(budget: Duration, attempt: F) -> Result<T, E>
where
    E: Retryable,
    F: AsyncFnMut() -> Result<T, E>,
{
    retrying_at_most(MAX_ATTEMPTS, budget, attempt).await
}

/// The same, with another number of attempts.
pub async fn retrying_at_most<T, E, F>(attempts: usize, budget: Duration, mut attempt: F) -> Result<T, E>
where
    E: Retryable,
    F: AsyncFnMut() -> Result<T, E>,
{
    let deadline = Instant::now() + budget;
    let attempts = Attempts { most: attempts, budget, are_short: true };
    again(&CancellationToken::new(), attempts, async || {
        timeout_at(deadline, attempt()).await.unwrap_or_else(|_| Err(RequestError::Late(budget).into()))
    })
    .await
}

/// Makes up to five attempts. A running one is never cut off: it may have to clean up, and watches `stop` itself. No other
/// attempt begins once `stop` is cancelled or `budget` is used up.
pub async fn retrying_until<T, E, F>(stop: &CancellationToken, budget: Duration, attempt: F) -> Result<T, E>
where
    E: Retryable,
    F: AsyncFnMut() -> Result<T, E>,
{
    again(stop, Attempts { most: MAX_ATTEMPTS, budget, are_short: false }, attempt).await
}

/// How something is tried again.
struct Attempts {
    most: usize,
    budget: Duration,
    /// Whether an attempt is a single request, so that a terminal shows until its end that it is another one.
    are_short: bool,
}

async fn again<T, E, F>(stop: &CancellationToken, attempts: Attempts, mut attempt: F) -> Result<T, E>
where
    E: Retryable,
    F: AsyncFnMut() -> Result<T, E>,
{
    let Attempts { most, budget, are_short } = attempts;
    let deadline = Instant::now() + budget;
    let (mut made, mut shown) = (0, None);
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_factor(3.0)
        .with_jitter()
        .with_max_times(most - 1)
        .build();
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        drop(shown);
        made += 1;
        let (transient, asked) = error.retry();
        let left = deadline.saturating_duration_since(Instant::now());
        let delay = delays.next().filter(|_| transient).map(|delay| delay.max(asked));
        let Some(delay) = delay.filter(|delay| *delay < left) else { return Err(error) };
        tracing::debug!(delay_ms = delay.as_millis(), "a request failed and is sent again");
        shown = error.trouble().map(|trouble| Retry::begins(trouble, made + 1, most));
        if stop.run_until_cancelled(sleep(delay)).await.is_none() {
            return Err(error);
        }
        shown = shown.filter(|_| are_short);
    }
}

/// An error that may be transient.
pub trait Retryable: From<RequestError> {
    /// Whether another attempt makes sense, and how long the server asks to wait before it.
    fn retry(&self) -> (bool, Duration);

    /// Which server's answer was not good, if that is known, for a person who waits.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

impl Retryable for RequestError {
    fn retry(&self) -> (bool, Duration) {
        let asked = match self {
            Self::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        (self.is_transient(), asked)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::text::{REMOTE_TEXT_LIMIT_CHARS, error_chain};

    fn busy(retry_after: &str) -> RequestError {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, retry_after.parse().unwrap())]);
        let (status, retry_after) = (StatusCode::TOO_MANY_REQUESTS, super::retry_after(&headers));
        RequestError::Status { status, retry_after, said: String::new(), refuses_login: false }
    }

    #[test]
    fn a_server_may_ask_for_seconds_or_a_date() {
        assert_eq!(busy("7").retry(), (true, Duration::from_secs(7)));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let (_, asked) = busy(&later).retry();
        assert!((90..=100).contains(&asked.as_secs()), "{asked:?}");
        for nothing in ["soon", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(busy(nothing).retry(), (true, Duration::ZERO), "{nothing}");
        }
    }

    #[test]
    fn a_redirect_is_shown_without_secrets_and_cut() {
        let from: Url = "https://git.test/g/p.git/git-upload-pack".parse().unwrap();
        let redirect = |to: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, to.parse().unwrap())]);
            redirected(&from, &headers, StatusCode::FOUND).unwrap_err().to_string()
        };
        let elsewhere = redirect("https://user:secret@other.test/sign_in?token=secret#secret");
        assert!(elsewhere.contains("https://other.test/sign_in,") && !elsewhere.contains("secret"), "{elsewhere}");
        let long = redirect(&format!("https://other.test/{}", "x".repeat(50_000)));
        assert!(long.len() < 2 * REMOTE_TEXT_LIMIT_CHARS, "{} bytes", long.len());
    }

    #[test]
    fn the_login_is_marked_so_that_libraries_do_not_show_it() {
        let Login(header) = Login::new("some-user", &SecretString::from("some-password")).unwrap();
        assert!(header.is_sensitive());
        assert!(!format!("{header:?}").contains("Basic"), "{header:?}");
    }

    #[tokio::test]
    async fn an_error_of_the_connection_holds_no_url() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = reqwest::Client::new();
        let post = |path: &str| {
            let url = format!("http://{address}/{path}").parse().unwrap();
            let client = client.clone();
            async move { post(&client, &url, None, &HeaderMap::new(), Bytes::new()).await }
        };
        // One breaks off in the middle of the body, and the next before any answer.
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1_000]).await.unwrap();
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
            tokio::io::AsyncWriteExt::write_all(&mut stream, half).await.unwrap();
            drop(stream);
            drop(listener.accept().await.unwrap());
            drop(listener);
        };
        let asking = async {
            let broken = body(post("hidden-one").await.unwrap(), 1 << 20).await.unwrap_err();
            [broken, post("hidden-two").await.unwrap_err(), post("hidden-three").await.unwrap_err()]
        };
        let ((), errors) = tokio::join!(serving, asking);
        for error in errors {
            let chain = format!("{} {error:?}", error_chain(&error));
            assert!(!chain.contains("hidden"), "{chain}");
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_too_long_a_wait_gets_no_retry() {
        let asked = u64::MAX.to_string();
        let ended: Result<(), _> = retrying(Duration::from_secs(60), async || Err(busy(&asked))).await;
        assert!(matches!(ended, Err(RequestError::Status { .. })));
    }
}
