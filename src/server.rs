//! The port: metrics, health, the status page and webhooks.
//!
//! Invariant: it only reads the state and asks for passes. No client can hold memory or descriptors for long: connections
//! are few, serve one request each and have a time limit.

mod connections;
mod documents;
mod hook;
mod json;
mod page;
mod rendered;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use url::Url;

use self::connections::{Connections, HasRequest};
pub use self::hook::{Sender, Webhook};
use self::json::Page;
use self::rendered::Rendered;
use crate::status::Status;

/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, request and answer included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest head of a request, in bytes.
const HEAD_LIMIT_BYTES: usize = 16 << 10;
/// Longest body of a request, in bytes. GitLab lists the files of up to 20 commits, and SeaweedFS the chunks of an object.
const BODY_LIMIT_BYTES: usize = 4 << 20;
/// Shorter answers are sent uncompressed, in bytes: they fit into one packet.
const LEAST_COMPRESSED_BYTES: u16 = 1_400;
/// Pause after a connection could not be accepted, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is answered at any other path, and after it the webhook's path, if it is on. It repeats nothing of the request.
const NOTHING_HERE: &str = "404: there is nothing here. These paths exist:
/               the status page
/status.json    the same as JSON
/docs/          the documentation
/metrics        metrics for Prometheus
/healthz        whether the program makes progress
/readyz         whether a pass has made a plan
";

/// The page loads nothing from elsewhere, runs no inline code, and cannot be framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const STYLE: &str = include_str!("../templates/status.css");
const SCRIPT: &str = include_str!("../templates/status.js");
const ICON: &str = include_str!("../templates/icon.svg");

/// What the server needs; handlers get it as [`Shared`].
#[derive(Debug, Clone)]
pub struct Site {
    pub status: Arc<Status>,
    /// `INSTANCE_SHARD`, if it is set.
    pub shard: Option<String>,
    /// `GITLAB_BASE_URL`, for links.
    pub gitlab: Url,
    pub webhook: Option<Webhook>,
}

type Shared = State<Arc<Site>>;
type Pairs = Query<HashMap<String, String>>;

#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Opens the port. An error names the settings.
    pub async fn bind(address: IpAddr, port: u16) -> anyhow::Result<Self> {
        let wanted = SocketAddr::new(address, port);
        let listener = TcpListener::bind(wanted).await.map_err(|error| {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "choose another METRICS_SERVER_PORT",
                _ => "METRICS_SERVER_ADDRESS is the address",
            };
            anyhow!("METRICS_SERVER_PORT: cannot listen on {wanted}: {error} ({advice})")
        })?;
        tracing::info!("metrics and status page on http://{}/", listener.local_addr()?);
        Ok(Self { listener })
    }

    /// Serves until `stop`.
    pub async fn serve(self, site: Site, stop: CancellationToken) {
        let router = router(Arc::new(site));
        let mut connections = Connections::default();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let Ok((stream, peer)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let peer = peer.ip().to_canonical();
            if connections.are_crowded() {
                // Those that were closed get their turn to notice.
                yield_now().await;
            }
            connections.begin(peer, |has_request| connection(stream, router.clone(), has_request));
        }
    }
}

/// Serves one request.
async fn connection(stream: TcpStream, router: Router, has_request: HasRequest) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LIMIT_BYTES).keep_alive(false);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        has_request.store(true, Ordering::Relaxed);
        router.call(request)
    });
    let serving = http.serve_connection(TokioIo::new(stream), service);
    // A client that is gone or too slow gets no answer.
    drop(timeout(CONNECTION_TIMEOUT, serving).await);
}

fn router(site: Arc<Site>) -> Router {
    let router = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async |State(site): Shared| verdict(site.status.alive())))
        .route("/readyz", get(async |State(site): Shared| verdict(site.status.ready())))
        .route("/assets/status.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/assets/status.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/assets/icon.svg", get(async || asset("image/svg+xml", ICON)));
    // Each document lists all of them. The addresses are relative, because a proxy may have put the page under a path.
    let to_the_documents = |path: &'static str| get(async move || Redirect::temporary(path));
    let router = router
        .route("/docs", to_the_documents("docs/operations.md"))
        .route("/docs/", to_the_documents("operations.md"))
        .fallback(async |State(site): Shared| (StatusCode::NOT_FOUND, nothing_here(site.webhook.as_ref())));
    let documents = documents::DOCUMENTS.into_iter();
    let router = documents
        .fold(router, |router, (path, _)| router.route(&format!("/{path}"), get(async move || document(path).await)));
    let router = match site.webhook.clone() {
        Some(webhook) => hook::with(router, webhook),
        None => router,
    };
    let rendered = Arc::new(Rendered::default());
    // It compresses its answers itself, once for all.
    let status = Router::new().route(
        "/status.json",
        get(async move |State(site): Shared, Query(pairs): Pairs, headers: HeaderMap| {
            match Page::asked(|name| pairs.get(name).cloned()) {
                Ok(page) => rendered.answer(&site, page, &headers).await,
                Err(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
            }
        }),
    );
    let program = HeaderValue::from_static(site.status.program().name());
    router
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(LEAST_COMPRESSED_BYTES)),
        )
        .layer(map_response(in_one_piece))
        .merge(status)
        .layer(map_response(move |response| guarded(response, program.clone())))
        .with_state(site)
}

/// Adds the program's name, and security headers for browsers.
async fn guarded(mut response: Response, program: HeaderValue) -> Response {
    response.headers_mut().insert(header::SERVER, program);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A compressed answer would be sent in chunks. All answers are in memory anyway, so this one gets a `Content-Length`.
async fn in_one_piece(response: Response) -> Response {
    let (head, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => Response::from_parts(head, Body::from(bytes)),
        Err(error) => failed(&error),
    }
}

async fn status_page(State(site): Shared, Query(pairs): Pairs) -> Response {
    let html =
        move || page::html(&site.status.snapshot(), site.shard.as_deref(), &site.gitlab, &page::Filter::new(pairs));
    match spawn_blocking(html).await {
        Ok(Ok(html)) => Html(html).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn nothing_here(webhook: Option<&Webhook>) -> String {
    let webhook = webhook.map(|webhook| format!("{:16}the webhook (POST)\n", webhook.path()));
    format!("{NOTHING_HERE}{}", webhook.unwrap_or_default())
}

async fn document(path: &'static str) -> Response {
    match spawn_blocking(move || documents::html(path)).await {
        Ok(html) => html.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |html| Html(html).into_response()),
        Err(error) => failed(&error),
    }
}

async fn metrics(State(site): Shared) -> Response {
    match spawn_blocking(move || site.status.metrics().text(&site.status.snapshot())).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "an answer cannot be written");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}
