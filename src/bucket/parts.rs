//! An object on its way up, in parts.
//!
//! Invariant: the parts of all uploads together stay within one bound on memory, and an upload has an end only where its
//! writer said so.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The usual size of a part, in bytes. S3's least is 5 MiB.
const PART_SIZE_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts; with a margin, because a part's size is fixed before the object's size is exact.
const MAX_PARTS: u64 = 7_500;
/// One permit of the semaphore that bounds all parts in memory, in bytes.
const PERMIT_BYTES: u64 = 1 << 20;
/// The bound on all parts in memory, of all uploads together: 64 MiB.
const UPLOAD_MEMORY_PERMITS: u32 = 64;

/// A piece of an object, and the share of the memory it takes until S3 has it.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) last: bool,
    pub(super) _memory: OwnedSemaphorePermit,
}

/// What an upload reads from.
pub struct Parts(mpsc::Receiver<Part>);

impl Parts {
    /// The next part; `None` where the writer is gone.
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
    // A small object takes only its own share of the memory.
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

/// Cuts what is written into parts. Blocking: for a thread that may wait. Dropped without [`Self::finish`], it leaves
/// the upload without an end, and the upload is aborted.
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
    /// Marks the end. Returns how many bytes were written.
    ///
    /// # Errors
    /// Where the upload has ended already, by an error of its own.
    pub fn finish(mut self) -> io::Result<u64> {
        self.buffer()?;
        self.send(true)?;
        Ok(self.written)
    }

    /// The part being filled. While none is, this one waits for memory holding none itself, so that uploads cannot
    /// block each other for good.
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
        // A full part goes out only when another byte comes: the last one has to be marked.
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
