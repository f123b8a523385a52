//! An object's only pack as a stream, passed on while the object is read, without the disk.
//!
//! Invariant: the receiver gets the last bytes of the announced size, the pack's trailer, only after everything else was
//! good. Otherwise it gets zeros in their place, which no receiver takes for the SHA-1 of a pack.
//!
//! In memory are, whatever the object's size: one buffer of [`BUFFER_BYTES`], two of age's chunks of 64 KiB, for tar.gz 64
//! KiB more of input, and what [`walk`](super::walk) bounds: references, a zip's names, a tar's headers.

use std::io::{self, Read, Write};
use std::mem;

use super::encrypt::Identities;
use super::error::ArtifactError;
use super::open::{Expected, Said, read_archive};
use super::signature::Judged;
use super::walk::{BUFFER_BYTES, Limits, ObjectFile, ObjectFileKind, damaged, drain, ends_early, fill, occurs_twice};
use crate::model::key::ArchiveFormat;

/// `PACK`, the version, and the number of objects.
pub(super) const PACK_HEADER_BYTES: u64 = 12;
/// The SHA-1 of everything before it.
pub(super) const PACK_TRAILER_BYTES: u64 = 20;
/// The pack that holds no object.
pub(super) const LEAST_PACK_BYTES: u64 = PACK_HEADER_BYTES + PACK_TRAILER_BYTES;

/// An index (version 2) of no object.
const INDEX_BYTES: u64 = 8 + 1024 + 40;
/// What each object takes in an index.
const INDEX_OBJECT_BYTES: u64 = 20 + 4 + 4;
/// What an object takes there in addition if its offset in the pack is this one or more.
const INDEX_LARGE_OFFSET_BYTES: u64 = 8;
const LARGE_OFFSET: u64 = 1 << 31;
/// What an index takes in an archive beside its content, with room to spare: less than another pack and its index.
const ENTRY_BYTES: u64 = 1 << 10;

const SEVERAL_PACKS: &str = "several packs";
const LOOSE_OBJECTS: &str = "objects outside of a pack";

/// A pack that was passed on whole.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) pack_bytes: u64,
    /// What the archive says about itself.
    pub(crate) said: Said,
}

/// Why a pack was not passed on whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Nothing is wrong with the object, as far as it was read.
    #[error("its archive has to be unpacked first, because it holds {0}")]
    NeedsDisk(&'static str),
    /// An error of what `begin` returned, or of `begin`.
    #[error("cannot pass the pack on")]
    Receiver(#[source] io::Error),
}

/// Decrypts the object that `reader` brings and reads its archive to the end. The archive's only pack goes to what
/// `begin(size, origin)` returns, as it is read; with trusted keys, only after its origin was proven. The last 20 bytes follow
/// once age's end, every checksum, the archive's end and the references were good, and its index was there.
///
/// After an error, what `begin` returned has got as many bytes as were announced, unless it failed itself; the last 20 of
/// them are not the pack's. If somebody made an archive in which the pack ends before its entry does, a receiver may accept
/// it early. So a push has succeeded only if the receiver says so and this function does, too.
pub(crate) fn stream_pack<W: Write>(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    begin: impl FnOnce(u64, &Judged) -> io::Result<W>,
) -> Result<Streamed, StreamError> {
    let mut forwarder = Forwarder::new(expected, begin);
    let read = read_archive(reader, expected, identities, limits, |file, judged| forwarder.take(file, judged));
    let read = read.and_then(|said| forwarder.is_complete().map(|()| said));
    match read {
        Ok(said) => forwarder.complete(said),
        Err(error) => {
            if !matches!(error, StreamError::Receiver(_)) {
                forwarder.spoil();
            }
            Err(error)
        }
    }
}

/// Passes a pack on, except for its end.
struct Forwarder<'a, W, B> {
    expected: &'a Expected<'a>,
    begin: Option<B>,
    /// Path of the pack and its index, without an extension.
    name: Option<String>,
    has_index: bool,
    pack: Option<Forwarded<W>>,
    buffer: Box<[u8]>,
}

/// A pack that has begun.
struct Forwarded<W> {
    receiver: W,
    bytes: u64,
    /// What the receiver has not got yet.
    left: u64,
    trailer: [u8; 20],
}

impl<'a, W: Write, B: FnOnce(u64, &Judged) -> io::Result<W>> Forwarder<'a, W, B> {
    fn new(expected: &'a Expected<'a>, begin: B) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into();
        Self { expected, begin: Some(begin), name: None, has_index: false, pack: None, buffer }
    }

    fn take(&mut self, file: ObjectFile<'_>, judged: &Judged) -> Result<(), StreamError> {
        let is_known = match file.kind {
            ObjectFileKind::Loose => return Err(StreamError::NeedsDisk(LOOSE_OBJECTS)),
            ObjectFileKind::Index => mem::replace(&mut self.has_index, true),
            ObjectFileKind::Pack => self.pack.is_some(),
        };
        let name = file.path.rsplit_once('.').map_or(file.path, |(name, _)| name);
        if *self.name.get_or_insert_with(|| name.to_owned()) != name {
            return Err(StreamError::NeedsDisk(SEVERAL_PACKS));
        }
        if is_known {
            return Err(occurs_twice(file.path.as_bytes()).into());
        }
        match file.kind {
            ObjectFileKind::Pack => self.forward(file, judged),
            // Nobody needs it: the receiver makes its own.
            _ if drain(file.content)? == file.size => Ok(()),
            _ => Err(ends_early(file.path).into()),
        }
    }

    fn forward(&mut self, file: ObjectFile<'_>, judged: &Judged) -> Result<(), StreamError> {
        let Expected { format, commit, trust, .. } = *self.expected;
        if format == ArchiveFormat::Zip {
            // This program writes references first. If they are wrong, nothing begins.
            file.references.check(&trust.destination.branch, commit, format).map_err(ArtifactError::from)?;
        }
        if file.size < LEAST_PACK_BYTES {
            return Err(damaged("the archive's pack is too short").into());
        }
        let (buffer, mut left) = (&mut self.buffer, file.size - PACK_TRAILER_BYTES);
        let mut piece = |left: u64, buffer: &mut [u8]| {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = fill(file.content, &mut buffer[..wanted])?;
            if n == wanted { Ok(n) } else { Err(ends_early(file.path)) }
        };

        let mut n = piece(left, buffer)?;
        if !buffer.starts_with(b"PACK") {
            return Err(damaged("the archive's pack is not one").into());
        }
        let most_room = most_index_bytes(buffer, file.size).saturating_add(ENTRY_BYTES);
        let begin = self.begin.take().filter(|_| file.room_behind.is_none_or(|room| room <= most_room));
        let begin = begin.ok_or(StreamError::NeedsDisk(SEVERAL_PACKS))?;
        let receiver = begin(file.size, judged).map_err(StreamError::Receiver)?;
        let pack = self.pack.insert(Forwarded { receiver, bytes: file.size, left: file.size, trailer: [0; 20] });
        loop {
            pack.write(&buffer[..n])?;
            left -= n as u64;
            if left == 0 {
                break;
            }
            n = piece(left, buffer)?;
        }
        let read = fill(file.content, &mut pack.trailer)? as u64;
        if read == PACK_TRAILER_BYTES { Ok(()) } else { Err(ends_early(file.path).into()) }
    }

    fn is_complete(&self) -> Result<(), StreamError> {
        match (&self.pack, self.has_index) {
            (Some(_), true) => Ok(()),
            (None, _) => Err(damaged("the archive holds no pack").into()),
            (_, false) => Err(damaged("the archive's pack has no index").into()),
        }
    }

    /// Everything was good.
    fn complete(self, said: Said) -> Result<Streamed, StreamError> {
        let Some(mut pack) = self.pack else { return Err(damaged("the archive holds no pack").into()) };
        let trailer = pack.trailer;
        pack.write(&trailer)?;
        pack.receiver.flush().map_err(StreamError::Receiver)?;
        Ok(Streamed { pack_bytes: pack.bytes, said })
    }

    /// Something was not good: the receiver gets zeros to the end, as long as it takes them.
    fn spoil(mut self) {
        let Some(mut pack) = self.pack else { return };
        self.buffer.fill(0);
        while pack.left > 0 {
            let n = self.buffer.len().min(usize::try_from(pack.left).unwrap_or(usize::MAX));
            if pack.write(&self.buffer[..n]).is_err() {
                return;
            }
        }
        // Its answer says more than an error here.
        let _ = pack.receiver.flush();
    }
}

impl<W: Write> Forwarded<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.receiver.write_all(bytes).map_err(StreamError::Receiver)?;
        self.left -= bytes.len() as u64;
        Ok(())
    }
}

/// The longest index that a pack of `pack_bytes` can have, by the number of objects in its header.
fn most_index_bytes(pack: &[u8], pack_bytes: u64) -> u64 {
    let objects = pack[8..PACK_HEADER_BYTES as usize].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let large = if pack_bytes > LARGE_OFFSET { INDEX_LARGE_OFFSET_BYTES } else { 0 };
    INDEX_BYTES + objects * (INDEX_OBJECT_BYTES + large)
}

#[cfg(test)]
mod tests;
