//! Writes the pack, or only counts its bytes.
//!
//! Invariant: writing makes exactly the bytes that counting counts.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};
use sha1::{Digest, Sha1};

use super::SubsetError;
use super::marks::Marks;
use super::objects::Place;
use super::reader::{Reader, Stop, open_loose};
use super::rows::{How, Rows};
use crate::git::pack::BUFFER_BYTES;
use crate::git::pack::walk::{WalkError, damaged};

/// How much is written at a time, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// What was written, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) objects: u32,
}

pub(super) struct Writer<'a, 'b, W: Write> {
    reader: &'a mut Reader<'b>,
    marks: &'a Marks,
    objects: u32,
    out: Out<W>,
}

impl<'a, 'b> Writer<'a, 'b, io::Sink> {
    /// Writes nothing.
    pub(super) fn counting(reader: &'a mut Reader<'b>, marks: &'a Marks, objects: u32) -> Self {
        Self { reader, marks, objects, out: Out { to: None, bytes: 0, checksum: Sha1::new() } }
    }
}

impl<'a, 'b, W: Write> Writer<'a, 'b, W> {
    pub(super) fn new(reader: &'a mut Reader<'b>, marks: &'a Marks, objects: u32, out: W) -> Self {
        let to = Some(BufWriter::with_capacity(PIECE_BYTES, out));
        Self { reader, marks, objects, out: Out { to, bytes: 0, checksum: Sha1::new() } }
    }

    pub(super) fn write(mut self) -> Result<Counted, Stop> {
        let header = [b"PACK\0\0\0\x02".as_slice(), &self.objects.to_be_bytes()].concat();
        self.out.write_all(&header).map_err(SubsetError::Receiver)?;
        for pack in 0..self.reader.objects.packs.len() {
            self.pack(pack)?;
        }
        for object in self.reader.objects.loose() {
            if self.marks.is_new(object) {
                self.loose(object)?;
            }
        }
        let bytes = self.out.finish().map_err(SubsetError::Receiver)?;
        Ok(Counted { bytes, objects: self.objects })
    }

    fn pack(&mut self, pack: usize) -> Result<(), Stop> {
        let mut rows = Rows::of(self.reader, pack, self.marks)?;
        let data = &self.reader.objects.packs[pack].data;
        for at in 0..rows.len() {
            self.reader.go_on()?;
            rows.place(at, self.out.bytes);
            let bytes = data.entry_slice(rows.range(at)).ok_or_else(|| damaged("it ends too early"))?;
            match rows.how(at, self.reader, self.marks)? {
                How::Copied => self.copy(bytes)?,
                How::Delta(header) => {
                    let (entry, _) = self.reader.entry(pack, rows.range(at).start)?;
                    header.write_to(entry.decompressed_size, &mut self.out).map_err(SubsetError::Receiver)?;
                    self.copy(bytes.get(entry.header_size()..).unwrap_or_default())?;
                }
                How::Whole => {
                    let decoded = self.reader.read(rows.object(at))?;
                    self.deflate(decoded.kind, decoded.bytes.len() as u64, &mut &decoded.bytes[..])?;
                }
            }
        }
        Ok(())
    }

    /// Large blobs take a while.
    fn copy(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.out.to.is_none() {
            self.out.bytes += bytes.len() as u64;
            return Ok(());
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            self.reader.go_on()?;
            self.out.write_all(piece).map_err(SubsetError::Receiver)?;
        }
        Ok(())
    }

    fn loose(&mut self, object: u32) -> Result<(), Stop> {
        let Place::Loose(id) = self.reader.objects.place(object) else { return Ok(()) };
        let (kind, len, mut content) = open_loose(self.reader.objects, id)?;
        self.deflate(kind, len, &mut content)
    }

    fn deflate(&mut self, kind: Kind, len: u64, content: &mut dyn io::Read) -> Result<(), Stop> {
        let header = match kind {
            Kind::Commit => Header::Commit,
            Kind::Tree => Header::Tree,
            Kind::Blob => Header::Blob,
            Kind::Tag => Header::Tag,
        };
        header.write_to(len, &mut self.out).map_err(SubsetError::Receiver)?;
        let mut deflated = ZlibEncoder::new(&mut self.out, Compression::default());
        let (mut buffer, mut left) = (vec![0; BUFFER_BYTES], len);
        loop {
            self.reader.go_on()?;
            let read = content.read(&mut buffer).map_err(|_| damaged("an object does not decompress"))?;
            if read == 0 && left == 0 {
                break;
            }
            left = left.checked_sub(read as u64).filter(|_| read > 0).ok_or_else(other_length)?;
            deflated.write_all(&buffer[..read]).map_err(SubsetError::Receiver)?;
        }
        deflated.finish().map_err(SubsetError::Receiver)?;
        Ok(())
    }
}

fn other_length() -> WalkError {
    damaged("an object is shorter or longer than it says")
}

/// Writes a pack's file as it is.
pub(super) fn copy(pack: &data::File, out: &mut impl Write, interrupt: &AtomicBool) -> Result<(), SubsetError> {
    let bytes = pack.entry_slice(0..pack.data_len() as u64).unwrap_or_default();
    for piece in bytes.chunks(PIECE_BYTES) {
        if interrupt.load(Ordering::Relaxed) {
            return Err(SubsetError::Stopped);
        }
        out.write_all(piece).map_err(SubsetError::Receiver)?;
    }
    out.flush().map_err(SubsetError::Receiver)
}

/// Where the pack goes; nowhere if its bytes are only counted.
struct Out<W: Write> {
    to: Option<BufWriter<W>>,
    bytes: u64,
    /// It only finds damage on the way, so the fast implementation is enough.
    checksum: Sha1,
}

impl<W: Write> Out<W> {
    /// Writes the checksum that a pack ends with. Returns the length of all.
    fn finish(mut self) -> io::Result<u64> {
        let checksum: [u8; 20] = self.checksum.finalize_reset().into();
        self.bytes += checksum.len() as u64;
        if let Some(to) = &mut self.to {
            to.write_all(&checksum)?;
            to.flush()?;
        }
        Ok(self.bytes)
    }
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.to {
            Some(to) => {
                let written = to.write(bytes)?;
                self.checksum.update(&bytes[..written]);
                written
            }
            None => bytes.len(),
        };
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
