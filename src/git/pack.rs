//! A pack from the wire onto the disk: written once, checked object by object, indexed beside it.
//!
//! Invariant: a pack stays only if every object's bytes hash to its name, the whole hashes to the trailer, and everything
//! its objects name is there. Memory does not grow with the size of blobs: those stored whole are hashed as they stream by,
//! and only delta chains and small objects are decompressed into memory.

pub(crate) mod connectivity;
mod entries;
mod gate;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::Duration;

use gix_hash::{Hasher, ObjectId};
use gix_pack::data;
use gix_utils::progress::Discard;

use self::entries::Entries;
pub use self::gate::IndexGate;
use crate::files::CheckedFile;
use crate::files::private_file;

/// Blobs of at least this size that are stored whole are hashed while they stream by, and never held in memory.
const LARGE_BLOB_BYTES: u64 = 16 << 20;
/// No single object that has to be held in memory may be larger than this.
pub const OBJECT_LIMIT_BYTES: usize = 2 << 30;
/// A pack with fewer objects is indexed on one thread: starting more costs more than it saves.
const SINGLE_THREAD_OBJECTS: usize = 2_000;
/// A large pack waits for its turn no longer than this, or one that takes hours would use up the others' time limits.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// The buffer between the wire and the inflater, and the one behind it.
const BUFFER_BYTES: usize = 64 << 10;
pub(crate) const HASH: gix_hash::Kind = gix_hash::Kind::Sha1;
/// Names of files until they are complete.
const INCOMING_PACK: &str = "incoming.pack";
const INCOMING_INDEX: &str = "incoming.idx";

/// A pack whose last byte has arrived, trailer checked; its objects are not verified yet.
#[derive(Debug, Clone)]
pub struct ReceivedPack {
    /// `pack-<40 hex digits>`.
    pub name: String,
    /// The pack file, under its final name.
    pub file: CheckedFile,
}

/// Why a pack was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading from the wire or writing to the disk failed.
    #[error("cannot store the pack under WORKDIR")]
    Io(#[from] io::Error),
    /// The pack is damaged or not a pack.
    #[error("the pack that the server sent is damaged: {0}")]
    Damaged(String),
    /// The pack has no object.
    #[error("the server sent an empty pack")]
    Empty,
    /// Something that an object in it names is not there.
    #[error(
        "the history that the server sent is incomplete: the {what} {id} is missing; run git fsck on the project in GitLab"
    )]
    Incomplete {
        /// What kind of object it is.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It would be larger than allowed.
    #[error("the repository's pack is larger than MAX_REPOSITORY_BYTES allows ({limit} bytes)")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

/// Bounds of one reception.
pub struct Limits<'a> {
    /// Longest pack accepted, in bytes.
    pub pack_bytes: u64,
    /// Set to give up.
    pub interrupt: &'a AtomicBool,
    /// Keeps two large packs from being resolved at the same time, each with all the threads.
    pub gate: &'a IndexGate,
}

/// Writes the pack that `source` brings into `dir` (a repository's `objects/pack`) and indexes it. `received` is called
/// when the pack's last byte is on the disk, before its objects are verified. What they name may be in the packs that are
/// in `dir` already, which must have come in by this function.
///
/// Returns the pack and its index. Nothing is left behind after an error.
///
/// # Errors
/// [`PackError`].
pub fn receive(
    source: impl Read,
    dir: &Path,
    limits: &Limits<'_>,
    received: impl FnOnce(ReceivedPack),
) -> Result<(ReceivedPack, CheckedFile), PackError> {
    let mut pack = None;
    match store_and_index(source, dir, limits, received, &mut pack) {
        Ok(index) => pack.map(|pack| (pack, index)).ok_or(PackError::Empty),
        Err(error) => {
            let refused = pack.into_iter().flat_map(|pack| [pack.file.path.with_extension("idx"), pack.file.path]);
            let incoming = [INCOMING_PACK, INCOMING_INDEX].map(|name| dir.join(name));
            for leftover in incoming.into_iter().chain(refused) {
                // What cannot be removed is not in the repository's list of packs either.
                drop(fs::remove_file(leftover));
            }
            Err(error)
        }
    }
}

/// The same without the clearing up. `pack` is set as soon as the pack is whole.
fn store_and_index(
    source: impl Read,
    dir: &Path,
    limits: &Limits<'_>,
    received: impl FnOnce(ReceivedPack),
    pack: &mut Option<ReceivedPack>,
) -> Result<CheckedFile, PackError> {
    let incoming = dir.join(INCOMING_PACK);
    let tee = Rc::new(RefCell::new(Tee {
        source,
        file: truncated(&incoming)?,
        crc32: crc32fast::Hasher::new(),
        len: 0,
        limit: limits.pack_bytes,
    }));
    let mut entries =
        Entries::new(BufReader::with_capacity(BUFFER_BYTES, SharedTee(Rc::clone(&tee))), LARGE_BLOB_BYTES)?;
    let place = |trailer: ObjectId| -> io::Result<ReceivedPack> {
        let tee = tee.borrow();
        let name = format!("pack-{trailer}");
        let path = dir.join(format!("{name}.pack"));
        fs::rename(&incoming, &path)?;
        Ok(ReceivedPack { name, file: CheckedFile { path, len: tee.len, crc32: tee.crc32.clone().finalize() } })
    };

    let first = write_index(dir, &mut entries, limits, |trailer| {
        let placed = place(trailer)?;
        received(placed.clone());
        Ok(pack.insert(placed).file.path.clone())
    });
    match (first, pack) {
        (Err(PackError::Damaged(_)), Some(pack)) if entries.needs_large_blobs() => {
            // Rare: a delta is based on a large blob. Once more from the file, with every object in memory.
            let file = BufReader::with_capacity(BUFFER_BYTES, File::open(&pack.file.path)?);
            let path = pack.file.path.clone();
            write_index(dir, &mut Entries::new(file, u64::MAX)?, limits, |_| Ok(path))
        }
        (first, _) => first,
    }
}

/// Runs the entries through the indexer, writes `pack-<trailer>.idx`, and checks that the history is whole.
fn write_index<R: BufRead>(
    dir: &Path,
    entries: &mut Entries<R>,
    limits: &Limits<'_>,
    pack_path: impl FnOnce(ObjectId) -> io::Result<PathBuf>,
) -> Result<CheckedFile, PackError> {
    if entries.objects_left == 0 {
        return Err(PackError::Empty);
    }
    let small = (entries.objects_left as usize) < SINGLE_THREAD_OBJECTS;
    let threads = if small { 1 } else { available_parallelism().map_or(1, usize::from) };
    let shared = Rc::clone(&entries.outcome);
    let mut turn = None;
    let partial = dir.join(INCOMING_INDEX);
    let mut out = BufWriter::new(Checked::new(truncated(&partial)?));
    let written = gix_pack::index::write_data_iter_to_stream(
        gix_pack::index::Version::V2,
        || {
            let trailer = shared.borrow().trailer.ok_or_else(|| io::Error::other("the pack has no trailer"))?;
            let path = pack_path(trailer)?;
            turn = (!small).then(|| limits.gate.enter(TURN_TIMEOUT, limits.interrupt)).flatten();
            let pack = data::File::at(path, HASH).map_err(io::Error::other)?;
            Ok((entry_bytes, pack))
        },
        entries,
        Some(threads),
        &mut Discard,
        &mut out,
        limits.interrupt,
        HASH,
        Some(OBJECT_LIMIT_BYTES),
        data::Version::V2,
    );
    let structure = std::mem::take(&mut entries.outcome.borrow_mut().structure);
    let outcome = entries.outcome.borrow();
    let trailer = match (written, outcome.trailer) {
        // The wire's or the disk's own error says more than what the indexer makes of it.
        (Err(_), _) if outcome.io_error.borrow().is_some() => {
            let error = outcome.io_error.borrow_mut().take().unwrap_or_else(|| io::Error::other("unknown"));
            return Err(match error.downcast::<PackError>() {
                Ok(error) => error,
                Err(error) => PackError::Io(error),
            });
        }
        (Err(error), _) => return Err(damaged(error)),
        (Ok(_), None) => return Err(PackError::Damaged("it has no trailer".to_owned())),
        (Ok(_), Some(trailer)) => trailer,
    };
    let Checked { crc32, len, .. } = out.into_inner().map_err(|error| error.into_error())?;
    let path = dir.join(format!("pack-{trailer}.idx"));
    let index = if outcome.large.is_empty() {
        fs::rename(&partial, &path)?;
        CheckedFile { path, len, crc32: crc32.finalize() }
    } else {
        let merged = merge_index(&partial, &outcome.large, trailer, &path);
        fs::remove_file(&partial)?;
        merged?
    };
    let pack = index.path.with_extension("pack");
    let opened = open_index(&index.path)?;
    connectivity::check(&pack, &opened, structure, &older_indexes(dir, &index.path)?, threads, limits.interrupt)?;
    drop(turn);
    Ok(index)
}

/// The indexes in `dir` besides `own`. What is in one that cannot be read counts as missing.
fn older_indexes(dir: &Path, own: &Path) -> io::Result<Vec<gix_pack::index::File>> {
    let mut older = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "idx") && path != own {
            older.extend(open_index(&path));
        }
    }
    Ok(older)
}

fn open_index(path: &Path) -> Result<gix_pack::index::File, PackError> {
    gix_pack::index::File::at(path, HASH).map_err(damaged)
}

pub(crate) fn damaged(error: gix_error::Error) -> PackError {
    PackError::Damaged(format!("{:#}", anyhow::Error::new(error)))
}

pub(crate) fn entry_bytes(range: data::EntryRange, pack: &data::File) -> Option<&[u8]> {
    pack.entry_slice(range)
}

fn truncated(path: &Path) -> io::Result<File> {
    let file = private_file(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// One object for the index.
struct IndexRow {
    id: ObjectId,
    crc32: u32,
    offset: u64,
}

/// Writes the index again with the large blobs in it, which the indexer never saw. Format: gitformat-pack(5), version 2.
fn merge_index(partial: &Path, large: &[IndexRow], trailer: ObjectId, path: &Path) -> Result<CheckedFile, PackError> {
    let small = open_index(partial)?;
    let mut rows: Vec<IndexRow> = small
        .iter()
        .map(|entry| IndexRow { id: entry.oid, crc32: entry.crc32.unwrap_or_default(), offset: entry.pack_offset })
        .collect();
    rows.extend(large.iter().map(|row| IndexRow { ..*row }));
    rows.sort_by_key(|row| row.id);

    let mut out = HashedWrite { inner: BufWriter::new(Checked::new(truncated(path)?)), hash: gix_hash::hasher(HASH) };
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    let mut upto = 0;
    for first_byte in 0..=u8::MAX {
        upto += rows[upto..].iter().take_while(|row| row.id.first_byte() == first_byte).count();
        out.write_all(&count(upto)?.to_be_bytes())?;
    }
    rows.iter().try_for_each(|row| out.write_all(row.id.as_slice()))?;
    rows.iter().try_for_each(|row| out.write_all(&row.crc32.to_be_bytes()))?;
    // Offsets from 2 GiB on stand in a table of their own, and here their place in it with the highest bit set.
    let mut far = vec![];
    for row in &rows {
        let word = if row.offset < 1 << 31 {
            count(usize::try_from(row.offset).unwrap_or(usize::MAX))?
        } else {
            far.push(row.offset);
            count(far.len() - 1)? | 1 << 31
        };
        out.write_all(&word.to_be_bytes())?;
    }
    far.iter().try_for_each(|offset| out.write_all(&offset.to_be_bytes()))?;
    out.write_all(trailer.as_slice())?;
    let HashedWrite { mut inner, hash } = out;
    inner.write_all(hash.try_finalize().map_err(damaged)?.as_slice())?;
    let Checked { crc32, len, .. } = inner.into_inner().map_err(|error| error.into_error())?;
    Ok(CheckedFile { path: path.to_owned(), len, crc32: crc32.finalize() })
}

fn count(objects: usize) -> Result<u32, PackError> {
    u32::try_from(objects).map_err(|_| PackError::Damaged("it holds more objects than a pack can".to_owned()))
}

/// Everything read goes into the file too.
struct Tee<R> {
    source: R,
    file: File,
    crc32: crc32fast::Hasher,
    len: u64,
    limit: u64,
}

struct SharedTee<R>(Rc<RefCell<Tee<R>>>);

impl<R: Read> Read for SharedTee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tee = &mut *self.0.borrow_mut();
        let read = tee.source.read(buffer)?;
        tee.len += read as u64;
        if tee.len > tee.limit {
            return Err(io::Error::other(PackError::TooLarge { limit: tee.limit }));
        }
        tee.crc32.update(&buffer[..read]);
        tee.file.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// Counts and checksums what is written.
struct Checked<W> {
    inner: W,
    crc32: crc32fast::Hasher,
    len: u64,
}

impl<W> Checked<W> {
    fn new(inner: W) -> Self {
        Self { inner, crc32: crc32fast::Hasher::new(), len: 0 }
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc32.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct HashedWrite<W> {
    inner: W,
    hash: Hasher,
}

impl<W: Write> Write for HashedWrite<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
