//! Writes the pack, or only counts its bytes.
//!
//! Invariant: writing makes exactly the bytes that counting counts.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use gix_pack::data::{self, entry::Header};
use sha1::{Digest, Sha1};

use super::SubsetError;
use super::chains::Chains;
use super::marks::Marks;
use super::objects::Place;
use super::reader::{Reader, Stop, open_loose};
use super::rows::{How, Rows};
use super::whole::{deflate, inflate_each, write_whole};
use crate::git::pack::walk::damaged;

/// How much is written at a time, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// What was written, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) objects: u32,
}

/// What a pack is written for.
pub(super) enum Purpose {
    /// A server, which verifies all of it.
    Push,
    /// An archive. What is copied is compared with its checksum in the index, and as much as possible is a delta on what the
    /// other side has.
    Increment,
    /// It replaces the packs that it is made of.
    Join(Chains),
}

pub(super) struct Writer<'a, 'b, W: Write> {
    reader: &'a mut Reader<'b>,
    marks: &'a Marks,
    objects: u32,
    purpose: Purpose,
    out: Out<W>,
}

impl<'a, 'b> Writer<'a, 'b, io::Sink> {
    /// Writes nothing.
    pub(super) fn counting(reader: &'a mut Reader<'b>, marks: &'a Marks, objects: u32) -> Self {
        let out = Out { to: None, bytes: 0, checksum: Sha1::new() };
        Self { reader, marks, objects, purpose: Purpose::Push, out }
    }
}

impl<'a, 'b, W: Write> Writer<'a, 'b, W> {
    pub(super) fn new(reader: &'a mut Reader<'b>, marks: &'a Marks, objects: u32, purpose: Purpose, out: W) -> Self {
        let to = Some(BufWriter::with_capacity(PIECE_BYTES, out));
        Self { reader, marks, objects, purpose, out: Out { to, bytes: 0, checksum: Sha1::new() } }
    }

    /// Writes all of it. Returns where it went, too, unless it was only counted.
    pub(super) fn write(mut self) -> Result<(Counted, Option<W>), Stop> {
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
        let (bytes, out) = self.out.finish().map_err(SubsetError::Receiver)?;
        Ok((Counted { bytes, objects: self.objects }, out))
    }

    fn pack(&mut self, pack: usize) -> Result<(), Stop> {
        let mut rows = Rows::of(self.reader, pack, self.marks)?;
        for at in 0..rows.len() {
            self.reader.go_on()?;
            rows.place(at, self.out.bytes);
            match self.how(&rows, at)? {
                How::Copied => self.copy(rows.stored(at, self.reader)?)?,
                How::Delta(header) => {
                    let bytes = rows.stored(at, self.reader)?;
                    let (entry, _) = self.reader.entry(pack, rows.offset(at))?;
                    header.write_to(entry.decompressed_size, &mut self.out).map_err(SubsetError::Receiver)?;
                    self.copy(bytes.get(entry.header_size()..).unwrap_or_default())?;
                }
                How::Whole => {
                    let bytes = write_whole(self.reader, rows.object(at), &mut self.out)?;
                    if let Purpose::Join(chains) = &mut self.purpose {
                        chains.start(rows.object(at), bytes);
                    }
                }
                How::CopiedFrom(pack, position) => self.copy_from(pack, position)?,
            }
        }
        Ok(())
    }

    /// How an entry is written for this purpose.
    fn how(&mut self, rows: &Rows, at: usize) -> Result<How, Stop> {
        let how = rows.how(at, self.reader, self.marks)?;
        match &mut self.purpose {
            Purpose::Push => Ok(how),
            Purpose::Join(chains) => match how {
                How::Delta(_) if !chains.extend(self.reader, rows.object(at), rows.base(at))? => Ok(How::Whole),
                _ => Ok(how),
            },
            Purpose::Increment => {
                let thin = match how {
                    How::Copied | How::Whole => self.delta_on_held(rows.object(at))?,
                    How::Delta(_) | How::CopiedFrom(..) => None,
                };
                if let Some((pack, position)) = thin {
                    return Ok(How::CopiedFrom(pack, position));
                }
                if how != How::Whole {
                    self.check(rows.pack(), rows.object(at), rows.stored(at, self.reader)?)?;
                }
                Ok(how)
            }
        }
    }

    /// Where an object is a delta on what the other side has: it came once more, after it had been replaced. The pack, and
    /// the place in its index.
    fn delta_on_held(&self, object: u32) -> Result<Option<(usize, u32)>, Stop> {
        let objects = self.reader.objects;
        let Place::Packed(first, _) = objects.place(object) else { return Ok(None) };
        if self.marks.is_commit(object) {
            return Ok(None);
        }
        for (at, pack) in objects.packs.iter().enumerate().skip(first + 1) {
            let Some(position) = pack.position(objects.id(object)) else { continue };
            let (entry, _) = self.reader.entry(at, pack.index.pack_offset_at_index(position))?;
            if let Header::RefDelta { base_id } = entry.header
                && objects.find(&base_id).is_some_and(|base| self.marks.is_held(base))
            {
                return Ok(Some((at, position)));
            }
        }
        Ok(None)
    }

    /// Copies an entry as it is, without its neighbours' places being known.
    fn copy_from(&mut self, at: usize, position: u32) -> Result<(), Stop> {
        let pack = &self.reader.objects.packs[at];
        let offset = pack.index.pack_offset_at_index(position);
        let (entry, compressed) = self.reader.entry(at, offset)?;
        let len = entry.header_size() as u64 + inflate_each(self.reader, compressed, |_| {})? as u64;
        let bytes = pack.data.entry_slice(offset..offset + len).ok_or_else(|| damaged("it ends too early"))?;
        self.check(at, pack.first + position, bytes)?;
        self.copy(bytes)
    }

    /// Compares an entry with its checksum in the index.
    fn check(&self, pack: usize, object: u32, bytes: &[u8]) -> Result<(), Stop> {
        let pack = &self.reader.objects.packs[pack];
        let known = pack.index.crc32_at_index(object - pack.first);
        if known.is_some_and(|crc32| crc32 != crc32fast::hash(bytes)) {
            let id = self.reader.objects.id(object);
            return Err(damaged(format!("its object {id} does not have the checksum in the index")).into());
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
        deflate(self.reader, kind, len, &mut content, &mut self.out)
    }
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
    /// Writes the checksum that a pack ends with. Returns the length of all, and where it went.
    fn finish(mut self) -> io::Result<(u64, Option<W>)> {
        let checksum: [u8; 20] = self.checksum.finalize_reset().into();
        let bytes = self.bytes + checksum.len() as u64;
        let Some(mut to) = self.to else { return Ok((bytes, None)) };
        to.write_all(&checksum)?;
        let mut to = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        to.flush()?;
        Ok((bytes, Some(to)))
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
