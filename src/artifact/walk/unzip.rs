//! Reads a zip archive as this program writes it: stored entries, each after its sizes and CRC-32.
//!
//! Invariant: every byte from the first to the last is accounted for. The table of contents and the last records say
//! what was read before them, so a reader that begins with them sees the same files.
//!
//! Numbers in brackets are sections of PKWARE's APPNOTE 6.3.10.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::{Entry, EntryKind, damaged, drain, occurs_twice, refused};
use crate::artifact::error::ArtifactError;

/// The longest table of contents, in bytes. Its names are in memory until it is read. The longest branch takes 300 KiB.
pub(super) const MAX_ZIP_TABLE_BYTES: u64 = 4 << 20;

type Signature = [u8; 4];
const LOCAL_HEADER: Signature = *b"PK\x03\x04"; // [4.3.7]
const CENTRAL_HEADER: Signature = *b"PK\x01\x02"; // [4.3.12]
const END64: Signature = *b"PK\x06\x06"; // [4.3.14]
const LOCATOR: Signature = *b"PK\x06\x07"; // [4.3.15]
const END: Signature = *b"PK\x05\x06"; // [4.3.16]

/// What each entry takes in the table beside its name.
const CENTRAL_HEADER_BYTES: u64 = 46;
const END_BYTES: u64 = 22;
const END64_REMAINING_BYTES: u64 = 44;
const NAME_IS_UTF8: u64 = 1 << 11;
const MADE_ON_UNIX: u64 = 3;

const S_IFMT: u64 = 0o170_000;
const S_IFREG: u64 = 0o100_000;
const S_IFDIR: u64 = 0o040_000;
const S_IFLNK: u64 = 0o120_000;

const CONTRADICTION: &str = "the archive's table of contents contradicts its entries";

/// Gives each entry to `each`, which reads all its content.
pub(in crate::artifact) fn unzip<E: From<ArtifactError>>(
    reader: impl Read,
    archive_bytes: Option<u64>,
    mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut zip, mut table) = (Zip { reader, at: 0 }, Table::default());
    let mut signature = zip.signature()?;
    while signature == LOCAL_HEADER {
        let (name, header) = zip.local_header()?;
        let size = header.size;
        let kind = match (name.ends_with(b"/"), size) {
            (false, _) => Ok(EntryKind::File),
            (true, 0) => Ok(EntryKind::Directory),
            (true, _) => Err("is a directory with content"),
        };
        let crc32 = header.crc32;
        table.add(&name, header)?;
        let behind = [zip.at, size, table.bytes, END_BYTES].into_iter().fold(0, u64::saturating_add);
        let room_behind = archive_bytes.map(|bytes| bytes.saturating_sub(behind));
        let mut content = Content { zip: &mut zip, left: size, crc32: crc32fast::Hasher::new() };
        each(Entry { path: &name, kind, size, content: &mut content, room_behind })?;
        content.finish(crc32)?;
        signature = zip.signature()?;
    }
    Ok(table.check(zip, signature)?)
}

/// An archive being read.
struct Zip<R> {
    reader: R,
    /// Bytes read: the offset of what comes next.
    at: u64,
}

/// What both headers of an entry say about it.
#[derive(PartialEq, Eq)]
struct Header {
    /// Of the local header.
    offset: u64,
    /// Flags, method, time and date as they are.
    plain: Vec<u8>,
    crc32: u64,
    size: u64,
}

impl<R: Read> Zip<R> {
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, ArtifactError> {
        let mut bytes = vec![];
        let read = self.reader.by_ref().take(count).read_to_end(&mut bytes).map_err(ArtifactError::Damaged)? as u64;
        self.at += read;
        if read == count { Ok(bytes) } else { Err(ends_early()) }
    }

    fn fields(&mut self, count: u64) -> Result<Fields, ArtifactError> {
        self.bytes(count).map(Fields)
    }

    fn signature(&mut self) -> Result<Signature, ArtifactError> {
        let bytes = self.bytes(4)?;
        bytes.try_into().map_err(|_| ends_early())
    }

    /// Reads a local header behind its signature, and the name in it.
    fn local_header(&mut self) -> Result<(Vec<u8>, Header), ArtifactError> {
        let offset = self.at - LOCAL_HEADER.len() as u64;
        let fields = self.fields(26)?;
        let (name, extra) = (self.bytes(fields.u16(22))?, self.bytes(fields.u16(24))?);
        let [flags, method] = [fields.u16(2), fields.u16(4)];
        if flags & !NAME_IS_UTF8 != 0 || method != 0 {
            return Err(damaged("an entry of the archive is compressed, encrypted or without its size in front"));
        }
        let [size, compressed] = wide([fields.u32(18), fields.u32(14)], &extra)?;
        if size != compressed {
            return Err(damaged("an entry of the archive has two sizes"));
        }
        let header = Header { offset, plain: fields.0[2..10].to_vec(), crc32: fields.u32(10), size };
        Ok((name, header))
    }

    /// Reads a header of the table of contents behind its signature: the name, what it says, and what is wrong with the
    /// entry's type.
    fn central_header(&mut self) -> Result<(Vec<u8>, Header, Option<&'static str>), ArtifactError> {
        let fields = self.fields(CENTRAL_HEADER_BYTES - CENTRAL_HEADER.len() as u64)?;
        let (name, extra) = (self.bytes(fields.u16(24))?, self.bytes(fields.u16(26))?);
        let [comment_bytes, disk] = [fields.u16(28), fields.u16(30)];
        let [size, compressed, offset] = wide([fields.u32(20), fields.u32(16), fields.u32(38)], &extra)?;
        if [comment_bytes, disk] != [0, 0] || size != compressed {
            return Err(damaged(CONTRADICTION));
        }
        let mode = if fields.u16(0) >> 8 == MADE_ON_UNIX { fields.u16(36) & S_IFMT } else { 0 };
        let wrong = match (mode, name.ends_with(b"/")) {
            (S_IFDIR, true) | (S_IFREG, false) => None,
            (S_IFLNK, _) => Some("is a link"),
            _ => Some("is of an unknown type"),
        };
        Ok((name, Header { offset, plain: fields.0[4..12].to_vec(), crc32: fields.u32(12), size }, wrong))
    }
}

/// The entries read so far, to be compared with the table of contents.
#[derive(Default)]
struct Table {
    entries: BTreeMap<Vec<u8>, Header>,
    /// What they take in the table at least.
    bytes: u64,
}

impl Table {
    fn add(&mut self, name: &[u8], header: Header) -> Result<(), ArtifactError> {
        self.bytes += CENTRAL_HEADER_BYTES + name.len() as u64;
        if self.bytes > MAX_ZIP_TABLE_BYTES {
            return Err(ArtifactError::TooLarge(format!("{MAX_ZIP_TABLE_BYTES} bytes of names")));
        }
        match self.entries.insert(name.to_owned(), header) {
            None => Ok(()),
            Some(_) => Err(occurs_twice(name)),
        }
    }

    /// Reads the table of contents, whose first signature was read already, and what follows it.
    fn check<R: Read>(mut self, mut zip: Zip<R>, mut signature: Signature) -> Result<(), ArtifactError> {
        let (entries, offset) = (self.entries.len() as u64, zip.at - signature.len() as u64);
        while signature == CENTRAL_HEADER {
            let (name, header, wrong) = zip.central_header()?;
            if self.entries.remove(&name) != Some(header) {
                return Err(damaged(CONTRADICTION));
            }
            if let Some(reason) = wrong {
                return Err(refused(&name, reason));
            }
            signature = zip.signature()?;
        }
        if !self.entries.is_empty() {
            return Err(damaged(CONTRADICTION));
        }
        let size = zip.at - signature.len() as u64 - offset;
        check_end(&mut zip, signature, [entries, size, offset])?;
        if drain(&mut zip.reader.take(1))? > 0 {
            return Err(damaged("something follows the archive's end"));
        }
        Ok(())
    }
}

/// Reads the last records. They have to say how many entries the table has, how long it is, and where.
fn check_end<R: Read>(zip: &mut Zip<R>, signature: Signature, table: [u64; 3]) -> Result<(), ArtifactError> {
    let contradiction = || damaged("the archive's last records contradict its table of contents");
    let [entries, size, offset] = table;
    let (mut signature, is_wide) = (signature, signature == END64);
    if is_wide {
        let end64_at = zip.at - signature.len() as u64;
        let end64 = zip.fields(52)?;
        let says = [end64.u64(20), end64.u64(28), end64.u64(36), end64.u64(44)];
        let disks = [end64.u32(12), end64.u32(16)];
        if end64.u64(0) != END64_REMAINING_BYTES || disks != [0; 2] || says != [entries, entries, size, offset] {
            return Err(contradiction());
        }
        let is_located = zip.signature()? == LOCATOR && {
            let locator = zip.fields(16)?;
            (locator.u32(0), locator.u64(4), locator.u32(12)) == (0, end64_at, 1)
        };
        if !is_located {
            return Err(contradiction());
        }
        signature = zip.signature()?;
    }
    if signature != END {
        return Err(damaged("a record of the archive is not where this program writes it"));
    }
    let end = zip.fields(END_BYTES - END.len() as u64)?;
    let [disk, disk_of_table, comment_bytes] = [end.u16(0), end.u16(2), end.u16(16)];
    // A field of all ones refers to the wide record.
    let says = |field: u64, value: u64, ones: u64| if field == ones { is_wide } else { field == value };
    let is_right = [disk, disk_of_table, comment_bytes] == [0; 3]
        && [end.u16(4), end.u16(6)].into_iter().all(|field| says(field, entries, u16::MAX.into()))
        && says(end.u32(8), size, u32::MAX.into())
        && says(end.u32(12), offset, u32::MAX.into());
    if is_right { Ok(()) } else { Err(contradiction()) }
}

/// The values of fields of 32 bits: a field of all ones refers to the extra field of zip64 [4.5.3]. Another extra field is
/// not accepted, nor a part of this one that no field refers to.
fn wide<const N: usize>(fields: [u64; N], extra: &[u8]) -> Result<[u64; N], ArtifactError> {
    let is_wide = |field| field == u64::from(u32::MAX);
    let extra = Fields(extra.to_vec());
    let bytes = 8 * fields.into_iter().filter(|field| is_wide(*field)).count();
    let is_right = match bytes {
        0 => extra.0.is_empty(),
        _ => extra.0.len() == 4 + bytes && [extra.u16(0), extra.u16(2)] == [1, bytes as u64],
    };
    if !is_right {
        return Err(damaged("an entry of the archive has an extra field that does not belong there"));
    }
    let mut at = (4..).step_by(8);
    Ok(fields.map(|field| if is_wide(field) { extra.u64(at.next().unwrap_or_default()) } else { field }))
}

/// An entry's content, checksummed as it is read.
struct Content<'a, R> {
    zip: &'a mut Zip<R>,
    left: u64,
    crc32: crc32fast::Hasher,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.zip.reader.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.crc32.update(&buffer[..n]);
        self.zip.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R> Content<'_, R> {
    fn finish(self, crc32: u64) -> Result<(), ArtifactError> {
        let is_right = self.left == 0 && u64::from(self.crc32.finalize()) == crc32;
        if is_right { Ok(()) } else { Err(damaged("an entry of the archive does not have its CRC-32")) }
    }
}

fn ends_early() -> ArtifactError {
    ArtifactError::Damaged(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends early"))
}

/// A record of the zip format, little-endian. Fields beyond its end are 0.
struct Fields(Vec<u8>);

impl Fields {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        let field = self.0.iter().skip(at).take(bytes);
        field.rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn u16(&self, at: usize) -> u64 {
        self.number(at, 2)
    }

    fn u32(&self, at: usize) -> u64 {
        self.number(at, 4)
    }

    fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }
}
