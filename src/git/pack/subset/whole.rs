//! Objects that are written whole, not as deltas.
//!
//! Invariant: an object is written only if it hashes to its id.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use gix_hash::oid;
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};

use super::SubsetError;
use super::objects::Place;
use super::reader::{Reader, Stop};
use crate::git::pack::walk::{WalkError, damaged};
use crate::git::pack::{BUFFER_BYTES, HASH};

/// Writes an object, and returns its length. If it is stored whole, its bytes are copied and never held in memory.
pub(in crate::git::pack) fn write_whole(
    reader: &mut Reader<'_>,
    object: u32,
    out: &mut impl Write,
) -> Result<u64, Stop> {
    let id = reader.objects.id(object).to_owned();
    if let Place::Packed(pack, offset) = reader.objects.place(object) {
        let (entry, compressed) = reader.entry(pack, offset)?;
        if let Some(kind) = entry.header.as_kind() {
            return copy(reader, &id, kind, &entry, compressed, out);
        }
    }
    let decoded = reader.read(object)?;
    let hashed = gix_object::compute_hash(HASH, decoded.kind, &decoded.bytes);
    if hashed.map_err(|error| damaged(error.to_string()))? != id {
        return Err(another(&id).into());
    }
    let len = decoded.bytes.len() as u64;
    deflate(reader, decoded.kind, len, &mut &decoded.bytes[..], out)?;
    Ok(len)
}

/// Copies an entry that is not a delta.
fn copy(
    reader: &Reader<'_>,
    id: &oid,
    kind: Kind,
    entry: &data::Entry,
    compressed: &[u8],
    out: &mut impl Write,
) -> Result<u64, Stop> {
    let (mut hash, mut len) = (gix_hash::hasher(HASH), 0);
    hash.update(format!("{kind} {}\0", entry.decompressed_size).as_bytes());
    let compressed_len = inflate_each(reader, compressed, |piece| {
        hash.update(piece);
        len += piece.len() as u64;
    })?;
    if len != entry.decompressed_size || hash.try_finalize().map_err(|error| damaged(error.to_string()))? != id {
        return Err(another(id).into());
    }
    entry.header.write_to(len, &mut *out).map_err(SubsetError::Receiver)?;
    out.write_all(compressed.get(..compressed_len).unwrap_or_default()).map_err(SubsetError::Receiver)?;
    Ok(len)
}

/// Inflates what `compressed` begins with, piece by piece. Returns how many bytes of it that was.
pub(super) fn inflate_each(
    reader: &Reader<'_>,
    compressed: &[u8],
    mut each: impl FnMut(&[u8]),
) -> Result<usize, WalkError> {
    let mut content = ZlibDecoder::new(compressed);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        reader.go_on()?;
        match content.read(&mut buffer).map_err(|_| damaged("an object does not decompress"))? {
            0 => break,
            read => each(&buffer[..read]),
        }
    }
    usize::try_from(content.total_in()).map_err(|_| damaged("an object does not decompress"))
}

/// Writes an object of `len` bytes.
pub(super) fn deflate(
    reader: &Reader<'_>,
    kind: Kind,
    len: u64,
    content: &mut dyn Read,
    out: &mut impl Write,
) -> Result<(), Stop> {
    let header = match kind {
        Kind::Commit => Header::Commit,
        Kind::Tree => Header::Tree,
        Kind::Blob => Header::Blob,
        Kind::Tag => Header::Tag,
    };
    header.write_to(len, &mut *out).map_err(SubsetError::Receiver)?;
    let mut deflated = ZlibEncoder::new(out, Compression::default());
    let (mut buffer, mut left) = (vec![0; BUFFER_BYTES], len);
    loop {
        reader.go_on()?;
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

fn another(id: &oid) -> WalkError {
    damaged(format!("its object {id} is another one"))
}

fn other_length() -> WalkError {
    damaged("an object is shorter or longer than it says")
}
