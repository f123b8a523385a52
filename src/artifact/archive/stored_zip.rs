//! The format zip: stored files, written front to back.
//!
//! Invariant: every byte is what the `zip` crate would write into a file, and a test compares the two.

use std::io::{self, Write};

use super::{Archive, Content, DIRECTORY_MODE, FILE_MODE, READ_BUFFER_BYTES};

/// Size and CRC-32 come before each file. The `zip` crate seeks back to write them, or else writes them after the file in a
/// data descriptor, which streaming readers refuse for stored files. Without compression the format is a few records;
/// numbers in brackets are sections of PKWARE's APPNOTE 6.3.10.
pub(super) struct ZipArchive<W> {
    out: W,
    /// Bytes written: the offset of what comes next.
    written: u64,
    /// Records for the archive's end, one for each entry.
    central_directory: Vec<u8>,
    entries: u64,
    /// Sizes and offsets from here on go into zip64 fields: [`u32::MAX`], and less in tests.
    zip64_from: u64,
}

const ZIP_FILE_VERSION: u16 = 10;
const ZIP_DIRECTORY_VERSION: u16 = 20;
const ZIP64_VERSION: u16 = 45;
const ZIP_MADE_ON_UNIX: u16 = 3 << 8;
const ZIP_NAME_IS_UTF8: u16 = 1 << 11;
const ZIP_1980_01_01: u16 = 1 << 5 | 1;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

struct ZipEntry<'a> {
    name: &'a str,
    /// File type and permissions, as in `st_mode`.
    mode: u32,
    len: u64,
    crc32: u32,
}

impl ZipEntry<'_> {
    /// The format version that a reader of a header with this zip64 extra field must know.
    fn version_needed(&self, zip64_extra: &[u8]) -> u16 {
        match self.mode & S_IFDIR {
            _ if !zip64_extra.is_empty() => ZIP64_VERSION,
            S_IFDIR => ZIP_DIRECTORY_VERSION,
            _ => ZIP_FILE_VERSION,
        }
    }
}

impl<W: Write> ZipArchive<W> {
    pub(super) fn new(out: W, zip64_from: u64) -> Self {
        Self { out, written: 0, central_directory: Vec::new(), entries: 0, zip64_from }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes the entry's local header [4.3.7] and notes its central one [4.3.12].
    fn begin(&mut self, entry: &ZipEntry<'_>) -> io::Result<()> {
        let offset = self.written;
        let local_extra = self.zip64_extra(&[entry.len, entry.len]);
        let local = self.shared_fields(Record::new(*b"PK\x03\x04"), entry, &local_extra)?;
        self.write(&local.bytes(entry.name.as_bytes()).bytes(&local_extra).0)?;

        let central_extra = self.zip64_extra(&[entry.len, entry.len, offset]);
        let central = Record::new(*b"PK\x01\x02").u16(ZIP_MADE_ON_UNIX | entry.version_needed(&central_extra));
        let central = self
            .shared_fields(central, entry, &central_extra)?
            .u16(0) // no comment
            .u16(0) // disk
            .u16(0) // internal attributes
            .u32(entry.mode << 16)
            .u32(self.field(offset))
            .bytes(entry.name.as_bytes())
            .bytes(&central_extra);
        self.central_directory.extend(central.0);
        self.entries += 1;
        Ok(())
    }

    /// The fields both headers have, from the version needed to the length of the extra field.
    fn shared_fields(&self, record: Record, entry: &ZipEntry<'_>, extra: &[u8]) -> io::Result<Record> {
        let name_len = u16::try_from(entry.name.len()).map_err(io::Error::other)?;
        let size = self.field(entry.len);
        Ok(record
            .u16(entry.version_needed(extra))
            .u16(if entry.name.is_ascii() { 0 } else { ZIP_NAME_IS_UTF8 })
            .u16(0) // stored
            .u16(0) // 00:00:00
            .u16(ZIP_1980_01_01)
            .u32(entry.crc32)
            .u32(size) // compressed
            .u32(size) // uncompressed
            .u16(name_len)
            .u16(extra.len() as u16))
    }

    /// The extra field with the values that do not fit a header's fields [4.5.3]; empty if all fit.
    fn zip64_extra(&self, values: &[u64]) -> Vec<u8> {
        let large = values.iter().filter(|&&value| value >= self.zip64_from);
        let large: Vec<u8> = large.flat_map(|value| value.to_le_bytes()).collect();
        if large.is_empty() {
            return large;
        }
        [&1_u16.to_le_bytes(), &(large.len() as u16).to_le_bytes(), &large[..]].concat()
    }

    /// A size or an offset as a field of 32 bits; all ones if a zip64 field holds it.
    fn field(&self, value: u64) -> u32 {
        u32::try_from(value).ok().filter(|_| value < self.zip64_from).unwrap_or(u32::MAX)
    }
}

impl<W: Write> Archive for ZipArchive<W> {
    type Output = W;

    fn directory(&mut self, path: &str) -> io::Result<()> {
        let name = &format!("{path}/");
        self.begin(&ZipEntry { name, mode: S_IFDIR | DIRECTORY_MODE, len: 0, crc32: 0 })
    }

    fn file(&mut self, path: &str, content: Content<'_>) -> io::Result<()> {
        self.begin(&ZipEntry { name: path, mode: S_IFREG | FILE_MODE, len: content.len(), crc32: content.crc32() })?;
        let mut reader = content.open()?;
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.write(&buffer[..n])?,
            }
        }
    }

    fn finish(mut self) -> io::Result<W> {
        let offset = self.written;
        let directory = std::mem::take(&mut self.central_directory);
        self.write(&directory)?;
        let size = directory.len() as u64;
        let zip64_end = self.written;
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        if size >= self.zip64_from || offset >= self.zip64_from || entries == u16::MAX {
            let end = Record::new(*b"PK\x06\x06") // zip64 end of central directory [4.3.14]
                .u64(44) // bytes that follow
                .u16(ZIP_MADE_ON_UNIX | ZIP64_VERSION)
                .u16(ZIP64_VERSION)
                .u32(0) // disk
                .u32(0)
                .u64(self.entries)
                .u64(self.entries)
                .u64(size)
                .u64(offset);
            self.write(&end.0)?;
            let locator = Record::new(*b"PK\x06\x07").u32(0).u64(zip64_end).u32(1); // [4.3.15]
            self.write(&locator.0)?;
        }
        let end = Record::new(*b"PK\x05\x06") // end of central directory [4.3.16]
            .u16(0) // disk
            .u16(0)
            .u16(entries)
            .u16(entries)
            .u32(self.field(size))
            .u32(self.field(offset))
            .u16(0); // no comment
        self.write(&end.0)?;
        Ok(self.out)
    }

    /// An archive without its central directory is not one.
    fn abandon(self) {}
}

/// A record of the zip format, little-endian.
struct Record(Vec<u8>);

impl Record {
    fn new(signature: [u8; 4]) -> Self {
        Self(signature.into())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }
}
