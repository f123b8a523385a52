//! `git http-backend`, one process per request, with its input and output streamed.
//!
//! Invariant: the answer may come before the request was read, as behind nginx: what is left of the request is then read
//! and dropped, so that the client gets the answer.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio_util::io::ReaderStream;

use super::{GitOperation, State};
use crate::http::{Body, BoxError, full};
use crate::program::{git, run};

/// Size of the pieces in which a pack goes from the process to the connection.
const PIECE_BYTES: usize = 64 * 1024;

/// Longest header that `git http-backend` may print; it prints four short lines.
const BACKEND_HEADER_BYTES: usize = 16 * 1024;

/// How long the rest of a request is read after its answer: nginx's `lingering_time`.
const LINGERING_TIME: Duration = Duration::from_secs(30);

/// How long the next piece of such a rest may take: nginx's `lingering_timeout`.
const LINGERING_TIMEOUT: Duration = Duration::from_secs(5);

/// Where `git http-backend` is.
pub(super) fn locate() -> Result<PathBuf> {
    let output = run(git().arg("--exec-path"), "git")?;
    let folder = String::from_utf8(output.stdout)?;
    let backend = Path::new(folder.trim()).join("git-http-backend");
    ensure!(backend.is_file(), "{} is missing; it is part of Git", backend.display());
    Ok(backend)
}

/// The request as CGI variables. Anything not listed here does not reach Git.
pub(super) fn cgi_environment(
    state: &State,
    head: &Parts,
    path: &str,
    operation: GitOperation,
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
        // With a length, `git http-backend` waits for a push's missing bytes for ever, and never tells Git of the end.
        ("CONTENT_LENGTH", header(CONTENT_LENGTH).filter(|_| operation != GitOperation::ReceivePack)),
        ("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING)),
        ("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol")).filter(|_| protocol_v2)),
    ];
    variables.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Runs `git http-backend` over one request. If the client goes away, Git gets a signal, as on GitLab. Since Git 2.39 a push
/// then leaves its quarantine behind, for housekeeping.
pub(super) async fn exchange(
    backend: &Path,
    environment: Vec<(String, String)>,
    start: Bytes,
    mut body: Body,
) -> Result<Response<Body>, BoxError> {
    let (child, mut input, output) = spawn(backend, environment)?;
    let group = Group::of(&child);
    let reader = Group(group.0);
    tokio::spawn(async move {
        match feed(&mut input, start, &mut body).await {
            // The signal comes before the end of the input does.
            Err(Unfed::Client(error)) => {
                drop(reader);
                tracing::debug!(%error, "the client went away within its request");
            }
            Err(Unfed::Git(error)) => {
                reader.forget();
                tracing::debug!(%error, "git http-backend took only part of the request");
            }
            Ok(()) => reader.forget(),
        }
    });

    let mut output = BufReader::with_capacity(PIECE_BYTES, output);
    let mut response = Response::new(full(Bytes::new()));
    read_backend_header(&mut output, &mut response).await?;
    let pieces = ReaderStream::with_capacity(output, PIECE_BYTES).map_ok(Frame::data).map_err(BoxError::from);
    // The group is the first to be dropped.
    let answer = stream::unfold((group, Box::pin(pieces), child), async |(group, mut pieces, child)| {
        if let Some(piece) = pieces.next().await {
            return Some((piece, (group, pieces, child)));
        }
        reap(child).await;
        group.forget();
        None
    });
    *response.body_mut() = StreamBody::new(answer).boxed_unsync();
    Ok(response)
}

/// Runs `git http-backend` over the first `bytes` of a request's body, as if the connection had broken there, and
/// returns when it has ended.
pub(super) async fn exchange_cut(
    backend: &Path,
    environment: Vec<(String, String)>,
    start: Bytes,
    body: Body,
    bytes: u64,
) -> Result<(), BoxError> {
    let (child, mut input, output) = spawn(backend, environment)?;
    // Without a reader, Git would be stopped by its output, not by the end of its input.
    let output = tokio::spawn(ReaderStream::new(output).for_each(|_| async {}));
    let whole = stream::once(async { Ok(Frame::data(start)) }).chain(body.into_data_stream().map_ok(Frame::data));
    // Alive until Git has ended: the client must not get rid of the rest.
    let mut part = cut(StreamBody::new(whole).boxed_unsync(), bytes);
    if let Err(error) = feed(&mut input, Bytes::new(), &mut part).await {
        tracing::debug!(?error, "git http-backend got only part of the request");
    }
    drop(input);
    reap(child).await;
    Ok(output.await?)
}

/// The processes of one request. Dropping it asks those that still run to stop.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Lets them run to their end.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // They may have ended just now.
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

fn spawn(backend: &Path, environment: Vec<(String, String)>) -> Result<(Child, ChildStdin, ChildStdout), BoxError> {
    let mut child = Command::new(backend)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("git http-backend without pipes".into());
    };
    Ok((child, input, output))
}

/// Why a request did not reach Git as a whole.
#[derive(Debug)]
enum Unfed {
    /// The client did not send it.
    Client(BoxError),
    /// Git did not take it.
    Git(std::io::Error),
}

async fn feed(input: &mut ChildStdin, start: Bytes, body: &mut Body) -> Result<(), Unfed> {
    input.write_all(&start).await.map_err(Unfed::Git)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Unfed::Client)?.into_data() {
            input.write_all(&data).await.map_err(Unfed::Git)?;
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
pub(super) fn cut(body: Body, bytes: u64) -> Body {
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

/// Reads a whole body of unknown length, as nginx buffers it; `None` if it is longer than `limit` bytes.
pub(super) async fn buffered(start: Bytes, mut body: Body, limit: u64) -> Result<Option<Bytes>, BoxError> {
    let mut whole = start.to_vec();
    while whole.len() as u64 <= limit {
        let Some(frame) = body.frame().await else { return Ok(Some(whole.into())) };
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(None)
}

/// A body whose rest is read and dropped if nobody reads it to its end: nginx's lingering close. Closing a connection
/// with unread data resets it, and the client would lose the answer.
pub(super) fn lingering(body: Body) -> Body {
    Lingering(Some(body)).boxed_unsync()
}

struct Lingering(Option<Body>);

impl hyper::body::Body for Lingering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(hyper::body::Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime, the server is stopping.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(LINGERING_TIME, async move {
            while let Ok(Some(Ok(_))) = tokio::time::timeout(LINGERING_TIMEOUT, body.frame()).await {}
        }));
    }
}
