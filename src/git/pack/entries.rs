//! The entries of a pack as they stream by.
//!
//! Invariant: a pack is at its end only if its trailer is the checksum of everything before it, and nothing follows.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use flate2::{Decompress, FlushDecompress, Status};
use gix_error::{ErrorExt, message};
use gix_hash::{Hasher, ObjectId};
use gix_pack::data::{self, entry::Header, input};
use gix_pack::index;
use sha1::{Digest, Sha1};

use super::connectivity::Structure;
use super::error::PackError;
use super::{BUFFER_BYTES, HASH};

/// The entries of a pack as they stream by, for the indexer; large blobs are hashed here and left out.
pub(super) struct Entries<R> {
    read: R,
    inflate: Decompress,
    scratch: Box<[u8]>,
    offset: u64,
    pub(super) objects_left: u32,
    /// Of the whole pack. It only finds damage, so the fast implementation is enough; object ids are computed with the one
    /// that detects collision attacks.
    checksum: Sha1,
    large_from: u64,
    held_back: Option<input::Entry>,
    pub(super) outcome: Rc<RefCell<Outcome>>,
}

/// What else a pass over the entries found.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) trailer: Option<ObjectId>,
    pub(super) large: Vec<index::Entry>,
    pub(super) large_offsets: BTreeSet<u64>,
    /// A delta is, or may be, based on a blob that was left out.
    pub(super) based_on_large: bool,
    pub(super) structure: Structure,
    pub(super) io_error: Option<io::Error>,
}

impl<R: BufRead> Entries<R> {
    /// Reads the header. Blobs from `large_from` bytes on are left out.
    pub(super) fn new(mut read: R, large_from: u64) -> Result<Self, PackError> {
        let mut header = [0; 12];
        read.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PackError::Damaged("it ends inside its header".to_owned()),
            _ => PackError::Io(error),
        })?;
        let (_, objects) = data::header::decode(&header)
            .map_err(|_| PackError::Damaged("it does not begin like a pack".to_owned()))?;
        let checksum = Sha1::new_with_prefix(header);
        Ok(Self {
            read,
            inflate: Decompress::new(true),
            scratch: vec![0; BUFFER_BYTES].into(),
            offset: header.len() as u64,
            objects_left: objects,
            checksum,
            large_from,
            held_back: None,
            outcome: Rc::default(),
        })
    }

    pub(super) fn needs_large_blobs(&self) -> bool {
        let outcome = self.outcome.borrow();
        outcome.based_on_large && !outcome.large.is_empty() && outcome.trailer.is_some()
    }

    /// The next entry for the indexer; `None` after the last. One entry is held back, because the last one must carry the
    /// trailer.
    fn next_indexed(&mut self) -> io::Result<Option<input::Entry>> {
        while self.objects_left > 0 {
            let (entry, large) = self.next_entry()?;
            if self.objects_left == 0 {
                self.finish()?;
            }
            let Some(oid) = large else {
                match self.held_back.replace(entry) {
                    Some(previous) => return Ok(Some(previous)),
                    None => continue,
                }
            };
            let mut outcome = self.outcome.borrow_mut();
            outcome.large_offsets.insert(entry.pack_offset);
            outcome.large.push(index::Entry { oid, crc32: entry.crc32, pack_offset: entry.pack_offset });
        }
        let trailer = self.outcome.borrow().trailer;
        Ok(self.held_back.take().map(|last| input::Entry { trailer, ..last }))
    }

    /// Reads one entry to its end, and hashes its content if it is a large blob.
    fn next_entry(&mut self) -> io::Result<(input::Entry, Option<ObjectId>)> {
        self.objects_left -= 1;
        let mut head = Recorded { inner: &mut self.read, bytes: vec![] };
        let entry = data::Entry::from_read(&mut head, self.offset, HASH.len_in_bytes())?;
        let head = head.bytes;
        let mut crc32 = crc32fast::Hasher::new();
        crc32.update(&head);
        self.checksum.update(&head);
        let mut content =
            (matches!(entry.header, Header::Blob) && entry.decompressed_size >= self.large_from).then(|| {
                let mut hash = gix_hash::hasher(HASH);
                hash.update(format!("blob {}\0", entry.decompressed_size).as_bytes());
                hash
            });
        self.note_kind(&entry);

        self.inflate.reset(true);
        let compressed_size = loop {
            let input = self.read.fill_buf()?;
            if input.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut self.scratch, FlushDecompress::None)
                .map_err(|_| corrupt("an object does not decompress"))?;
            let consumed = usize::try_from(self.inflate.total_in() - before_in).map_err(io::Error::other)?;
            let produced = usize::try_from(self.inflate.total_out() - before_out).map_err(io::Error::other)?;
            crc32.update(&input[..consumed]);
            self.checksum.update(&input[..consumed]);
            self.read.consume(consumed);
            if let Some(content) = &mut content {
                content.update(&self.scratch[..produced]);
            }
            if self.inflate.total_out() > entry.decompressed_size {
                return Err(corrupt("an object is longer than it says"));
            }
            match status {
                Status::StreamEnd => break self.inflate.total_in(),
                Status::Ok | Status::BufError if consumed == 0 && produced == 0 => {
                    return Err(corrupt("an object does not decompress"));
                }
                Status::Ok | Status::BufError => {}
            }
        };
        if self.inflate.total_out() != entry.decompressed_size {
            return Err(corrupt("an object is shorter than it says"));
        }
        let pack_offset = self.offset;
        self.offset += head.len() as u64 + compressed_size;
        let id = content.map(Hasher::try_finalize).transpose().map_err(io::Error::other)?;
        let entry = input::Entry {
            header: entry.header,
            header_size: u16::try_from(head.len()).map_err(io::Error::other)?,
            pack_offset,
            compressed: None,
            compressed_size,
            crc32: Some(crc32.finalize()),
            decompressed_size: entry.decompressed_size,
            trailer: None,
        };
        Ok((entry, id))
    }

    /// Notes the object's kind, and whether a delta needs a blob that was left out.
    fn note_kind(&mut self, entry: &data::Entry) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.structure.note(self.offset, entry.header);
        outcome.based_on_large |= match entry.header {
            Header::OfsDelta { base_distance } => {
                self.offset.checked_sub(base_distance).is_some_and(|base| outcome.large_offsets.contains(&base))
            }
            Header::RefDelta { .. } => true,
            Header::Blob | Header::Tree | Header::Commit | Header::Tag => false,
        };
    }

    /// Checks the trailer, and that nothing follows it.
    fn finish(&mut self) -> io::Result<()> {
        let mut trailer = [0; 20];
        self.read.read_exact(&mut trailer)?;
        let computed: [u8; 20] = self.checksum.finalize_reset().into();
        if computed != trailer {
            return Err(corrupt("its checksum does not match its content"));
        }
        if !self.read.fill_buf()?.is_empty() {
            return Err(corrupt("something follows its end"));
        }
        self.outcome.borrow_mut().trailer = Some(ObjectId::from(trailer));
        Ok(())
    }
}

fn corrupt(why: &str) -> io::Error {
    io::Error::other(PackError::Damaged(why.to_owned()))
}

impl<R: BufRead> Iterator for Entries<R> {
    type Item = gix_error::Result<input::Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_indexed().transpose()?;
        Some(next.map_err(|error| {
            self.objects_left = 0;
            let error = match error.kind() {
                io::ErrorKind::UnexpectedEof => corrupt("it ends too early"),
                _ => error,
            };
            self.outcome.borrow_mut().io_error = Some(error);
            message("the pack could not be read").raise()
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.objects_left as usize))
    }
}

/// Keeps what is read, for an entry's few header bytes.
struct Recorded<'a, R> {
    inner: &'a mut R,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Recorded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}
