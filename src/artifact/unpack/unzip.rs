//! Reads a zip archive.
//!
//! Invariant: the table of contents is bounded before the zip reader takes it into memory.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::{COPY_BUFFER_BYTES, Kind, Unpacker, copy, too_many_bytes, too_many_entries};
use crate::artifact::error::{ArtifactError, in_path};

/// The longest table of contents, in bytes: the zip reader takes it into memory whole, several times over.
pub(super) const MAX_ZIP_TABLE_BYTES: u64 = 64 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

pub(super) fn unzip(reader: impl Read, unpacker: &mut Unpacker<'_>) -> Result<(), ArtifactError> {
    let beside = unpacker.dir.parent().unwrap_or(unpacker.dir);
    let mut file = tempfile::tempfile_in(beside).map_err(in_path(beside))?;
    let limit = unpacker.limits.bytes;
    if copy(&mut reader.take(limit.saturating_add(1)), &mut file, beside)? > limit {
        return Err(too_many_bytes(limit));
    }
    check_table(&mut file, unpacker.limits.entries)?;
    let damaged = |error: zip::result::ZipError| ArtifactError::Damaged(error.into());
    let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
    let file = BufReader::with_capacity(COPY_BUFFER_BYTES, file);
    let mut archive = zip::ZipArchive::with_config(config, file).map_err(damaged)?;
    if archive.len() > unpacker.limits.entries {
        return Err(too_many_entries(unpacker.limits.entries));
    }
    archive.validate_header_consistency().map_err(damaged)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(damaged)?;
        let path = entry.name_raw().to_owned();
        let kind = match entry.unix_mode().map_or(0, |mode| mode & S_IFMT) {
            S_IFDIR if entry.is_dir() => Ok(Kind::Directory),
            S_IFREG if !entry.is_dir() => Ok(Kind::File),
            S_IFLNK => Err("is a link"),
            _ => Err("is of an unknown type"),
        };
        let size = entry.size();
        unpacker.entry(&path, kind, size, &mut entry)?;
    }
    Ok(())
}

/// Checks the table of contents by the archive's last records, before anything takes it into memory.
///
/// If the zip reader cannot use these records, it searches for others. So they have to be as strict writers make them: at
/// the very end, without a comment, right behind the table they describe. Section numbers in brackets are those of PKWARE's
/// APPNOTE 6.3.10.
pub(super) fn check_table(file: &mut (impl Read + Seek), max_entries: usize) -> Result<(), ArtifactError> {
    const END_BYTES: u64 = 22; // end of central directory [4.3.16]
    const LOCATOR_BYTES: u64 = 20; // zip64 end of central directory locator [4.3.15]
    const END64_BYTES: u64 = 56; // zip64 end of central directory [4.3.14]
    let damaged = |why| ArtifactError::Damaged(io::Error::new(io::ErrorKind::InvalidData, why));
    let len = file.seek(SeekFrom::End(0)).map_err(ArtifactError::Damaged)?;
    let mut read = |at: Option<u64>, bytes: u64, signature: &[u8]| -> Result<Fields, ArtifactError> {
        let mut record = vec![];
        let at = at.ok_or_else(|| damaged("the archive is too short"))?;
        file.seek(SeekFrom::Start(at)).map_err(ArtifactError::Damaged)?;
        file.by_ref().take(bytes).read_to_end(&mut record).map_err(ArtifactError::Damaged)?;
        match record.len() as u64 == bytes && record.starts_with(signature) {
            true => Ok(Fields(record)),
            false => Err(damaged("the archive does not end with its table of contents")),
        }
    };

    let mut table_end = len.checked_sub(END_BYTES);
    let end = read(table_end, END_BYTES, b"PK\x05\x06")?;
    let (mut numbers, mut entries) = ([end.u16(4), end.u16(6), end.u16(20)], [end.u16(8), end.u16(10)]);
    let (mut size, mut offset) = (end.u32(12), end.u32(16));
    if entries[1] == u64::from(u16::MAX) || [size, offset].contains(&u64::from(u32::MAX)) {
        let locator_at = table_end.and_then(|at| at.checked_sub(LOCATOR_BYTES));
        let locator = read(locator_at, LOCATOR_BYTES, b"PK\x06\x07")?;
        table_end = locator_at.and_then(|at| at.checked_sub(END64_BYTES));
        let end64 = read(table_end, END64_BYTES, b"PK\x06\x06")?;
        let is_here = end64.u64(4) == END64_BYTES - 12 && Some(locator.u64(8)) == table_end;
        if !is_here || [locator.u32(4), locator.u32(16)] != [0, 1] {
            return Err(damaged("the archive's last records contradict each other"));
        }
        (numbers, entries) = ([end64.u32(16), end64.u32(20), end.u16(20)], [end64.u64(24), end64.u64(32)]);
        (size, offset) = (end64.u64(40), end64.u64(48));
    }
    if numbers != [0; 3] || entries[0] != entries[1] || offset.checked_add(size) != table_end {
        return Err(damaged("the archive's last records contradict each other"));
    }
    if entries[1] > max_entries as u64 {
        return Err(too_many_entries(max_entries));
    }
    if size > MAX_ZIP_TABLE_BYTES {
        return Err(ArtifactError::TooLarge(format!("{MAX_ZIP_TABLE_BYTES} bytes of names")));
    }
    match entries[1] {
        0 => Ok(()),
        _ => read(Some(offset), 4, b"PK\x01\x02").map(drop),
    }
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
