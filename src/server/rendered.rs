//! The status in JSON, rendered once for all who ask for it, away from the threads that answer other requests.
//!
//! Invariant: one rendering at a time. Its bytes are shared by all answers that are being sent, and dropped soon after the
//! last request.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use tokio::sync::Mutex;

use super::json::{self, Page};
use super::{Site, failed};

/// Bytes of progress and the like are no older than this.
const FRESH_FOR: Duration = Duration::from_millis(500);
/// A rendering that took longer than this is long.
const LONG: Duration = Duration::from_millis(100);
/// A long one is used for this many times as long as it took, whatever has changed: rendering takes a small share of a core.
const LONG_IS_FRESH_FOR: u32 = 20;
/// How long a rendering is kept, whether it is still fresh or not.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// The pieces in which it is kept and sent, in bytes.
const PIECE_BYTES: usize = 64 << 10;

type Pieces = Arc<Vec<Bytes>>;

/// The last rendering, plain and compressed.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    plain: Arc<Mutex<Option<Kept>>>,
    compressed: Arc<Mutex<Option<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    pieces: Pieces,
    changes: u64,
    made: Instant,
    took: Duration,
}

impl Kept {
    fn is_fresh(&self, changes: u64) -> bool {
        let age = self.made.elapsed();
        let long = self.took >= LONG && age < self.took * LONG_IS_FRESH_FOR;
        long || self.changes == changes && age < FRESH_FOR
    }
}

impl Rendered {
    /// `GET /status.json`: all targets, or a page of them.
    pub(super) async fn answer(&self, site: &Arc<Site>, page: Option<Page>, headers: &HeaderMap) -> Response {
        let compress = takes_gzip(headers);
        let render = {
            let site = Arc::clone(site);
            move || rendered(&site, page, compress)
        };
        let kept = if compress { &self.compressed } else { &self.plain };
        let pieces = match page {
            None => shared(kept, site.status.changes(), render).await,
            Some(_) => away(render).await.map(Arc::new),
        };
        match pieces {
            Ok(pieces) => response(&pieces, compress),
            Err(error) => failed(&error),
        }
    }
}

/// What is kept, if it is fresh; else a new rendering, for which others wait, too.
async fn shared(
    kept: &Arc<Mutex<Option<Kept>>>,
    changes: u64,
    render: impl FnOnce() -> io::Result<Vec<Bytes>> + Send + 'static,
) -> io::Result<Pieces> {
    let mut slot = kept.lock().await;
    if let Some(kept) = slot.as_ref().filter(|kept| kept.is_fresh(changes)) {
        return Ok(Arc::clone(&kept.pieces));
    }
    let begun = Instant::now();
    let pieces = Arc::new(away(render).await?);
    *slot = Some(Kept { pieces: Arc::clone(&pieces), changes, made: begun, took: begun.elapsed() });
    let kept = Arc::downgrade(kept);
    tokio::spawn(async move {
        tokio::time::sleep(KEPT_FOR).await;
        if let Some(kept) = kept.upgrade() {
            kept.lock().await.take_if(|kept| kept.made == begun);
        }
    });
    Ok(pieces)
}

async fn away<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn rendered(site: &Site, page: Option<Page>, compress: bool) -> io::Result<Vec<Bytes>> {
    let now = site.status.snapshot();
    let pieces = PieceWriter::default();
    if !compress {
        let mut pieces = pieces;
        json::write(&mut pieces, &now, site.shard.as_deref(), page)?;
        return Ok(pieces.finish());
    }
    let mut compressing = GzEncoder::new(pieces, Compression::fast());
    json::write(&mut compressing, &now, site.shard.as_deref(), page)?;
    Ok(compressing.finish()?.finish())
}

fn response(pieces: &Pieces, compressed: bool) -> Response {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let pieces = Arc::clone(pieces);
    let sent = (0..pieces.len()).map(move |at| Ok::<_, Infallible>(pieces[at].clone()));
    let mut response = (StatusCode::OK, Body::from_stream(stream::iter(sent))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether the client takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)));
        is_gzip && !refused
    })
}

/// Collects what is written in pieces, so that growing never copies it.
#[derive(Debug, Default)]
struct PieceWriter {
    full: Vec<Bytes>,
    last: BytesMut,
}

impl PieceWriter {
    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.last.freeze());
        self.full
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() >= PIECE_BYTES {
            self.full.push(self.last.split().freeze());
        }
        if self.last.capacity() == 0 {
            self.last.reserve(PIECE_BYTES);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.last.len());
        self.last.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread")]
    async fn many_requests_are_one_rendering_until_something_changes() {
        let (kept, renderings) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let ask = |changes: u64| {
            let renderings = Arc::clone(&renderings);
            shared(&kept, changes, move || {
                renderings.fetch_add(1, Ordering::Relaxed);
                // Long, so that the renderings of slow machines are alike.
                std::thread::sleep(LONG);
                Ok(vec![Bytes::from_static(b"rendered")])
            })
        };
        let asked: Vec<_> = (0..50).map(|_| ask(1)).collect();
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.iter().all(|answer| Arc::ptr_eq(answer.as_ref().unwrap(), answers[0].as_ref().unwrap())));
        ask(2).await.unwrap();
        assert_eq!(renderings.load(Ordering::Relaxed), 1, "a long rendering outlives a change");
        kept.lock().await.as_mut().unwrap().took = Duration::ZERO;
        ask(2).await.unwrap();
        assert_eq!(renderings.load(Ordering::Relaxed), 2, "a short one does not");
    }

    #[test]
    fn what_is_written_is_kept_in_pieces() {
        let mut pieces = PieceWriter::default();
        let text: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for part in text.chunks(1_000) {
            pieces.write_all(part).unwrap();
        }
        let pieces = pieces.finish();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES) && pieces.len() == 5, "{}", pieces.len());
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(["gzip", "br, GZIP", "gzip;q=0.5", "br;q=1.0, gzip; q=0.8"].into_iter().all(takes));
        assert!(!["", "br", "gzip;q=0", "gzip; q=0.0, br", "xgzip"].into_iter().any(takes));
    }
}
