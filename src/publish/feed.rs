//! Carries a pack from the wire (async) to the indexer (a blocking thread).
//!
//! Invariant: only an explicit end marker ends the pack. A feed that stops without it is an error.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::git::wire::{PackStream, WireError};
use crate::progress::Progress;

/// Pieces of a pack, 64 KiB at most each, between the wire and the indexer.
const FEED_PIECES: usize = 32;

/// The two ends of a feed.
pub(super) fn channel() -> (mpsc::Sender<Option<Bytes>>, Pieces) {
    let (feed, pieces) = mpsc::channel(FEED_PIECES);
    (feed, Pieces { pieces, current: Bytes::new(), ended: false })
}

/// Passes the pack on piece by piece, then the end marker.
pub(super) async fn feed_pack(
    mut stream: PackStream,
    feed: mpsc::Sender<Option<Bytes>>,
    progress: &Progress,
) -> Result<(), WireError> {
    loop {
        let piece = stream.next().await?;
        progress.received(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        let end = piece.is_none();
        // If the receiver is gone, the indexer has failed and reports why.
        if feed.send(piece).await.is_err() || end {
            return Ok(());
        }
    }
}

/// The pack as the indexer reads it.
pub(super) struct Pieces {
    pieces: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the connection broke off")),
            }
        }
        let read = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
