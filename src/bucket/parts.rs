//! The pipe from an object's writer to its upload, in parts.
//!
//! Invariant: the parts of all uploads together stay within one memory limit, and only the writer can mark the last part.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The usual size of a part, in bytes. S3's least is 5 MiB.
const PART_SIZE_BYTES: u64 = 8 << 20;
/// S3 allows 10,000 parts. The margin is there because the part size is fixed before the exact object size is known.
const MAX_PARTS: u64 = 7_500;
/// One permit of the semaphore that bounds all parts in memory, in bytes.
const PERMIT_BYTES: u64 = 1 << 20;
/// The limit on parts in memory, of all uploads together: 64 MiB.
const UPLOAD_MEMORY_PERMITS: u32 = 64;

/// A part of an object, with the memory permit that it holds until S3 has it.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) last: bool,
    pub(super) _memory: OwnedSemaphorePermit,
}

/// The end of the pipe that an upload reads.
pub struct Parts(mpsc::Receiver<Part>);

impl Parts {
    /// The next part; `None` if the writer is gone.
    pub(super) async fn next(&mut self) -> Option<Part> {
        self.0.recv().await
    }
}

/// The memory that all uploads share.
pub(super) fn memory() -> Semaphore {
    Semaphore::new(UPLOAD_MEMORY_PERMITS as usize)
}

/// The two ends of an upload of about `expected_bytes`, within `memory`.
pub(super) fn pipe(expected_bytes: u64, memory: Arc<Semaphore>) -> (PartWriter, Parts) {
    let part_bytes = PART_SIZE_BYTES.max(expected_bytes.div_ceil(MAX_PARTS));
    // A small object needs less memory than a part.
    let buffer_bytes = part_bytes.min(expected_bytes + PERMIT_BYTES);
    let permits = u32::try_from(buffer_bytes.div_ceil(PERMIT_BYTES)).unwrap_or(UPLOAD_MEMORY_PERMITS);
    let (sender, receiver) = mpsc::channel(1);
    let writer = PartWriter {
        sender,
        memory,
        runtime: tokio::runtime::Handle::current(),
        part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX),
        permits: permits.min(UPLOAD_MEMORY_PERMITS),
        capacity: usize::try_from(buffer_bytes).unwrap_or(usize::MAX),
        current: None,
        written: 0,
    };
    (writer, Parts(receiver))
}

/// Splits what is written into parts. It blocks, so it belongs on a thread that may wait. If it is dropped without
/// [`Self::finish`], the upload has no end and is aborted.
pub struct PartWriter {
    sender: mpsc::Sender<Part>,
    memory: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    part_bytes: usize,
    permits: u32,
    capacity: usize,
    current: Option<(BytesMut, OwnedSemaphorePermit)>,
    written: u64,
}

impl PartWriter {
    /// Marks the last part. Returns how many bytes were written.
    ///
    /// # Errors
    /// The upload has already failed.
    pub fn finish(mut self) -> io::Result<u64> {
        self.buffer()?;
        self.send(true)?;
        Ok(self.written)
    }

    /// The part being filled. A new part waits for memory while this writer holds none, so uploads cannot deadlock.
    fn buffer(&mut self) -> io::Result<&mut BytesMut> {
        if self.current.is_none() {
            let memory = self
                .runtime
                .block_on(Arc::clone(&self.memory).acquire_many_owned(self.permits))
                .map_err(io::Error::other)?;
            self.current = Some((BytesMut::with_capacity(self.capacity), memory));
        }
        self.current.as_mut().map(|(buffer, _)| buffer).ok_or_else(upload_over)
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let (buffer, _memory) = self.current.take().ok_or_else(upload_over)?;
        self.written += buffer.len() as u64;
        self.sender.blocking_send(Part { bytes: buffer.freeze(), last, _memory }).map_err(|_| upload_over())
    }
}

fn upload_over() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended")
}

impl io::Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part_bytes = self.part_bytes;
        // A full part is sent only when another byte comes, because the last part has to be marked.
        if self.current.as_ref().is_some_and(|(buffer, _)| buffer.len() == part_bytes) {
            self.send(false)?;
        }
        let buffer = self.buffer()?;
        let taken = bytes.len().min(part_bytes - buffer.len());
        buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
