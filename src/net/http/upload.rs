//! A POST whose body is sent while it is still being made.
//!
//! Invariant: exactly as many bytes are sent as were announced, or the request breaks off. They are sent once: no redirect is
//! followed, and nothing is tried again.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use tokio::sync::mpsc;
use tokio::time::timeout;
use url::Url;

use super::{Login, RequestError, builder, finish, redirected, refused, shown};
use crate::net::Timeouts;
use crate::net::proxy;
use crate::net::tls::TrustRoots;

/// Only the consumer uploads.
const USER_AGENT: &str = concat!("git/2.0 (git-partition-sync-consumer ", env!("CARGO_PKG_VERSION"), ")");
/// The largest piece of a body on its way, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// How many pieces wait for the connection.
const WAITING_PIECES: usize = 16;
/// A server that has the whole body may be silent for a second more for each of these bytes: what stands in front of it may
/// pass nothing on until it has received, or taken in, all of them.
const DIGESTED_BYTES_PER_SECOND: u64 = 1 << 20;

/// The client for uploads, and for the requests that precede them on the same connection. It speaks HTTP/1.1: there, a
/// server's window never slows an upload down.
#[derive(Clone)]
pub struct Uploads {
    client: reqwest::Client,
    idle: Duration,
}

impl Uploads {
    /// `max_idle` bounds the connections kept open to one host.
    pub fn new(roots: &TrustRoots, timeouts: Timeouts, max_idle: usize) -> anyhow::Result<Self> {
        // No read timeout: it would count from the beginning of a request, and an upload may take hours.
        let builder = builder(timeouts, max_idle).http1_only().user_agent(USER_AGENT);
        // Ends the connection to a server that takes nothing any more, even if the request was given up.
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(timeouts.idle);
        Ok(Self { client: finish(builder, roots)?, idle: timeouts.idle })
    }

    /// The client, for other requests. It does not time out by itself: see [`Self::idle`].
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// How long the server may be silent.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Sends `head` and then `body`, and lets `read` read an answer of status 2xx. A server may answer before it has
    /// everything; sending goes on meanwhile. `all_sent` is set when the last byte is given to the connection.
    pub async fn post<T, E: From<RequestError>>(
        &self,
        url: &Url,
        login: &Login,
        headers: &HeaderMap,
        (head, body): (Bytes, UploadBody),
        all_sent: &Arc<AtomicBool>,
        read: impl AsyncFnOnce(Response, Duration) -> Result<T, E>,
    ) -> Result<T, E> {
        let (feed, pieces) = mpsc::channel(1);
        let left = head.len() as u64 + body.bytes;
        let digesting = self.idle + Duration::from_secs(left / DIGESTED_BYTES_PER_SECOND);
        let stream = Pieces { pieces, left, all_sent: Arc::clone(all_sent) };
        let request = self.client.post(url.clone()).headers(headers.clone()).body(reqwest::Body::wrap(stream));
        let mut answer = pin!(request.header(AUTHORIZATION, &login.0).send());
        let mut feeding = pin!(pass_on(head, body, feed, self.idle));

        let (answered, mut is_fed) = tokio::select! {
            // What the server says comes before what became of the body.
            biased;
            answered = &mut answer => (answered, false),
            fed = &mut feeding => {
                fed?;
                let late = |_| RequestError::Late(digesting);
                (timeout(digesting, &mut answer).await.map_err(late)?, true)
            }
        };
        let proxy = proxy::for_url(url);
        let response = answered.map_err(|error| RequestError::Transport { source: error.without_url(), proxy })?;
        let mut reading = pin!(async { read(expect_success(url, response).await?, digesting).await });
        loop {
            tokio::select! {
                biased;
                outcome = &mut reading => return outcome,
                fed = &mut feeding, if !is_fed => match fed {
                    Err(RequestError::Unfed) => return Err(RequestError::Unfed.into()),
                    // The answer tells more, or its end.
                    Ok(()) | Err(_) => is_fed = true,
                },
            }
        }
    }
}

/// The answer, if its status is 2xx.
async fn expect_success(url: &Url, response: Response) -> Result<Response, RequestError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status.is_redirection() {
        let to = shown(&redirected(url, response.headers(), status)?);
        return Err(RequestError::Redirect { to, why: "an upload cannot be sent a second time" });
    }
    Err(refused(response, true).await)
}

/// Gives everything to the connection, piece by piece.
async fn pass_on(head: Bytes, body: UploadBody, feed: mpsc::Sender<Bytes>, idle: Duration) -> Result<(), RequestError> {
    let UploadBody { mut pieces, bytes } = body;
    let mut left = bytes;
    let mut piece = head;
    loop {
        match timeout(idle, feed.send(piece)).await {
            Ok(Ok(())) => {}
            // The connection takes no more. Its error, or the answer, says why.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(RequestError::Late(idle)),
        }
        if left == 0 {
            return Ok(());
        }
        piece = pieces.recv().await.ok_or(RequestError::Unfed)?;
        left = left.checked_sub(piece.len() as u64).ok_or(RequestError::Unfed)?;
    }
}

/// A body of known length on its way. Dropping it lets the writer fail.
#[derive(Debug)]
pub struct UploadBody {
    pieces: mpsc::Receiver<Bytes>,
    bytes: u64,
}

impl UploadBody {
    /// Takes everything and sends nothing.
    pub async fn discard(mut self) {
        while self.pieces.recv().await.is_some() {}
    }
}

/// Where a blocking thread writes a body. Once the server has answered, or the request has ended, it fails with
/// [`io::ErrorKind::BrokenPipe`]. Dropping it before everything is written breaks the request off.
#[derive(Debug)]
pub struct UploadWriter {
    pieces: mpsc::Sender<Bytes>,
    left: u64,
}

/// A body of this many bytes, and where to write it. At most 1 MiB of it waits for the connection.
pub fn channel(bytes: u64) -> (UploadWriter, UploadBody) {
    let (sender, receiver) = mpsc::channel(WAITING_PIECES);
    (UploadWriter { pieces: sender, left: bytes }, UploadBody { pieces: receiver, bytes })
}

impl Write for UploadWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let left = self.left.checked_sub(piece.len() as u64);
        let left = left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than was announced"))?;
        if !piece.is_empty() {
            let sent = self.pieces.blocking_send(Bytes::copy_from_slice(piece));
            sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the request has ended"))?;
        }
        self.left = left;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The body as the connection takes it.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    all_sent: Arc<AtomicBool>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = ready!(self.pieces.poll_recv(cx));
        if let Some(piece) = &piece {
            self.left = self.left.saturating_sub(piece.len() as u64);
            if self.left == 0 {
                self.all_sent.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    /// Exact, so that the length is in the request's header: some proxies refuse a body of unknown length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
