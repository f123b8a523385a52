//! The entries of a pack as they stream by.
//!
//! Invariant: a pack is at its end only if its trailer is the checksum of everything before it, and nothing follows.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};
use gix_hash::{Hasher, ObjectId};
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};
use sha1::{Digest, Sha1};

use super::delta::{HEADER_BYTES, Sizes};
use super::error::PackError;
use super::table::{Base, Noted, Table};
use super::{BUFFER_BYTES, HASH, LARGE_BLOB_BYTES};

/// The entries of a pack as they stream by.
pub(super) struct Entries<R> {
    read: R,
    inflate: Decompress,
    scratch: Box<[u8]>,
    offset: u64,
    objects: u32,
    /// Of the whole pack. It only finds damage, so the fast implementation is enough; object ids are computed with the one
    /// that detects collision attacks.
    checksum: Sha1,
}

impl<R: BufRead> Entries<R> {
    /// Reads the header.
    pub(super) fn new(mut read: R) -> Result<Self, PackError> {
        let mut header = [0; 12];
        read.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PackError::Damaged("it ends inside its header".to_owned()),
            _ => error.downcast().unwrap_or_else(PackError::Io),
        })?;
        let (_, objects) = data::header::decode(&header)
            .map_err(|_| PackError::Damaged("it does not begin like a pack".to_owned()))?;
        let checksum = Sha1::new_with_prefix(header);
        let (inflate, scratch) = (Decompress::new(true), vec![0; BUFFER_BYTES].into());
        Ok(Self { read, inflate, scratch, offset: header.len() as u64, objects, checksum })
    }

    /// How many objects the header announces.
    pub(super) fn objects(&self) -> u32 {
        self.objects
    }

    /// Reads everything to the end: the entries into the table. Returns the trailer.
    pub(super) fn read_into(mut self, table: &mut Table) -> Result<ObjectId, PackError> {
        let read = (0..self.objects).try_for_each(|_| {
            let noted = self.next_entry()?;
            if table.push(noted) { Ok(()) } else { Err(corrupt("the base of a delta is not in it")) }
        });
        let trailer = read.and_then(|()| self.finish()).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PackError::Damaged("it ends too early".to_owned()),
            _ => error.downcast().unwrap_or_else(PackError::Io),
        })?;
        table.link(self.offset);
        Ok(trailer)
    }

    /// Reads one entry to its end, and hashes its content if it is a large blob.
    fn next_entry(&mut self) -> io::Result<Noted> {
        let mut head = Recorded { inner: &mut self.read, bytes: vec![], failed: false };
        let entry = data::Entry::from_read(&mut head, self.offset, HASH.len_in_bytes());
        let entry = entry.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => error,
            _ if head.failed => error,
            _ => corrupt("an object is of a kind that no pack has"),
        })?;
        let head = head.bytes;
        let mut crc32 = crc32fast::Hasher::new();
        crc32.update(&head);
        self.checksum.update(&head);
        let mut content =
            (matches!(entry.header, Header::Blob) && entry.decompressed_size >= LARGE_BLOB_BYTES).then(|| {
                let mut hash = gix_hash::hasher(HASH);
                hash.update(format!("blob {}\0", entry.decompressed_size).as_bytes());
                hash
            });
        // The first bytes of a delta say how large its object is.
        let mut start = Vec::with_capacity(if entry.header.is_delta() { HEADER_BYTES } else { 0 });

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
            let wanted = start.capacity() - start.len();
            start.extend_from_slice(&self.scratch[..produced.min(wanted)]);
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
        let offset = self.offset;
        self.offset += head.len() as u64 + compressed_size;
        let id = content.map(Hasher::try_finalize).transpose().map_err(io::Error::other)?;
        let id = id.map(|id| id.as_slice().try_into()).transpose().map_err(io::Error::other)?;
        noted(&entry, offset, &start, crc32.finalize(), id).ok_or_else(|| corrupt("a delta is malformed"))
    }

    /// Checks the trailer, and that nothing follows it.
    fn finish(&mut self) -> io::Result<ObjectId> {
        let mut trailer = [0; 20];
        self.read.read_exact(&mut trailer)?;
        let computed: [u8; 20] = self.checksum.finalize_reset().into();
        if computed != trailer {
            return Err(corrupt("its checksum does not match its content"));
        }
        if !self.read.fill_buf()?.is_empty() {
            return Err(corrupt("something follows its end"));
        }
        Ok(ObjectId::from(trailer))
    }
}

/// An entry as the table notes it; `start` is what a delta begins with. `None` if it is malformed.
pub(super) fn noted(entry: &data::Entry, offset: u64, start: &[u8], crc32: u32, id: Option<[u8; 20]>) -> Option<Noted> {
    let (base, size, instructions) = match entry.header {
        Header::OfsDelta { base_distance } => {
            let base = Header::verified_base_pack_offset(offset, base_distance)?;
            (Base::Offset(base), Sizes::of(start)?.result, entry.decompressed_size)
        }
        Header::RefDelta { base_id } => {
            let base = base_id.as_slice().try_into().ok()?;
            (Base::Id(base), Sizes::of(start)?.result, entry.decompressed_size)
        }
        Header::Blob => (Base::None(Kind::Blob), entry.decompressed_size, 0),
        Header::Tree => (Base::None(Kind::Tree), entry.decompressed_size, 0),
        Header::Commit => (Base::None(Kind::Commit), entry.decompressed_size, 0),
        Header::Tag => (Base::None(Kind::Tag), entry.decompressed_size, 0),
    };
    Some(Noted { offset, crc32, size, instructions, base, id })
}

fn corrupt(why: &str) -> io::Error {
    io::Error::other(PackError::Damaged(why.to_owned()))
}

/// Keeps what is read, for an entry's few header bytes.
struct Recorded<'a, R> {
    inner: &'a mut R,
    bytes: Vec<u8>,
    failed: bool,
}

impl<R: Read> Read for Recorded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).inspect_err(|_| self.failed = true)?;
        self.bytes.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}
