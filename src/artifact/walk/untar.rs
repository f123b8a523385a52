//! Reads a tar.gz archive.
//!
//! Invariant: headers are bounded before the tar reader takes them into memory.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

use super::{Entry, EntryKind, drain};
use crate::artifact::error::ArtifactError;

/// What a tar archive may take before an entry's content (headers, a long name, attributes), and after the last one.
pub(super) const MAX_TAR_HEADER_BYTES: u64 = 1 << 20;

/// What is read at once for gzip: one of age's chunks.
const GZIP_BUFFER_BYTES: usize = 64 << 10;

/// Gives each entry to `each`, which reads all its content.
pub(super) fn untar<E: From<ArtifactError>>(
    reader: impl Read,
    mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let ration = Rc::new(Cell::new(0));
    let gzip = MultiGzDecoder::new(BufReader::with_capacity(GZIP_BUFFER_BYTES, reader));
    let mut archive = tar::Archive::new(Rationed { reader: gzip, ration: Rc::clone(&ration) });
    let mut entries = archive.entries().map_err(ArtifactError::Damaged)?;
    loop {
        ration.set(MAX_TAR_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(ArtifactError::Damaged)?;
        let kind = match entry.header().entry_type() {
            EntryType::Regular => Ok(EntryKind::File),
            EntryType::Directory => Ok(EntryKind::Directory),
            EntryType::Symlink | EntryType::Link => Err("is a link"),
            EntryType::Char | EntryType::Block | EntryType::Fifo => Err("is a device"),
            EntryType::XGlobalHeader => Err("is a pax global header"),
            _ => Err("is of an unknown type"),
        };
        let path = entry.path_bytes().into_owned();
        let size = entry.size();
        ration.set(size);
        each(Entry { path: &path, kind, size, content: &mut entry, room_behind: None })?;
    }
    // Up to the stream's end, which tells whether it is whole.
    ration.set(MAX_TAR_HEADER_BYTES);
    drain(&mut archive.into_inner())?;
    Ok(())
}

/// Hands out only the bytes allotted: the tar reader takes whole headers into memory, whatever their length.
struct Rationed<R> {
    reader: R,
    ration: Rc<Cell<u64>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.ration.get();
        let n = self.reader.by_ref().take(left).read(buffer)?;
        if n == 0 && left == 0 && !buffer.is_empty() && self.reader.read(&mut [0])? > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the archive has a header that is too long"));
        }
        self.ration.set(left - n as u64);
        Ok(n)
    }
}
