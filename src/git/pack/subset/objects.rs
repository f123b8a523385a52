//! All objects of a repository on the disk, each by one number: pack by pack, in the order of the indexes, then loose ones.
//!
//! Invariant: an object that is there several times has one place, by which it is found: the first.

use std::cmp::{Ordering, Reverse};
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use gix_hash::{ObjectId, oid};
use gix_pack::{data, index};

use super::SubsetError;
use crate::git::pack::HASH;
use crate::git::pack::walk::{WalkError, damaged};

/// The most packs that a repository may have. An archive of this program has a few. Each takes two mappings, of which Linux
/// gives a process 65,530, and all of them are asked for an object that is not there.
const MAX_PACKS: usize = 4096;

pub(in crate::git::pack) struct Objects {
    pub(super) packs: Vec<Pack>,
    dir: PathBuf,
    /// Sorted.
    loose: Vec<ObjectId>,
    packed: u32,
}

pub(super) struct Pack {
    pub(super) data: data::File,
    pub(super) index: index::File,
    /// The number of its first object.
    pub(super) first: u32,
}

/// Where an object is.
pub(super) enum Place<'a> {
    /// In this pack, at this offset.
    Packed(usize, u64),
    Loose(&'a oid),
}

impl Objects {
    /// What is below `.git/objects`.
    pub(super) fn open(dir: &Path) -> Result<Self, SubsetError> {
        let (mut packs, mut loose) = (vec![], vec![]);
        for folder in list(dir)? {
            let (name, path) = (folder.file_name(), folder.path());
            for file in if path.is_dir() { list(&path)? } else { vec![] } {
                let path = file.path();
                if name == "pack" && path.extension().is_some_and(|extension| extension == "pack") {
                    packs.push(path);
                } else if let Some(id) = loose_id(&name.to_string_lossy(), &file.file_name().to_string_lossy()) {
                    loose.push(id);
                }
            }
        }
        loose.sort_unstable();
        Self::of(largest_first(open_all(&packs)?), loose, dir)
    }

    /// The packs in `dir` that have an index.
    pub(in crate::git::pack) fn in_folder(dir: &Path) -> Result<Self, SubsetError> {
        let files = list(dir)?.into_iter().map(|file| file.path());
        let indexes = files.filter(|path| path.extension().is_some_and(|extension| extension == "idx"));
        let packs: Vec<_> = indexes.map(|index| index.with_extension("pack")).collect();
        Self::of(largest_first(open_all(&packs)?), vec![], dir)
    }

    /// What is in these packs. Of an object that several of them hold, the place is in the first one.
    pub(super) fn of_packs(packs: &[PathBuf]) -> Result<Self, SubsetError> {
        Self::of(open_all(packs)?, vec![], Path::new(""))
    }

    fn of(mut packs: Vec<Pack>, loose: Vec<ObjectId>, dir: &Path) -> Result<Self, SubsetError> {
        let mut packed = 0_u32;
        for pack in &mut packs {
            pack.first = packed;
            packed = packed.checked_add(pack.index.num_objects()).ok_or_else(too_many)?;
        }
        u32::try_from(loose.len()).ok().and_then(|loose| packed.checked_add(loose)).ok_or_else(too_many)?;
        Ok(Self { packs, dir: dir.to_owned(), loose, packed })
    }

    /// How many there are, and one more than the highest number.
    pub(super) fn len(&self) -> u32 {
        self.packed + self.loose.len() as u32
    }

    /// The only pack, if it holds everything.
    pub(super) fn only_pack(&self) -> Option<&data::File> {
        match &self.packs[..] {
            [pack] if self.loose.is_empty() => Some(&pack.data),
            _ => None,
        }
    }

    /// The number of the object with this id.
    pub(in crate::git::pack) fn find(&self, id: &oid) -> Option<u32> {
        let packed = self.packs.iter().find_map(|pack| Some(pack.first + pack.position(id)?));
        packed.or_else(|| Some(self.packed + self.loose.binary_search_by(|it| it.as_ref().cmp(id)).ok()? as u32))
    }

    /// Whether the object is found by this number.
    pub(super) fn is_first(&self, object: u32) -> bool {
        let id = self.id(object);
        let before = match self.pack_of(object) {
            Some((at, pack)) if pack.position(id) == Some(object - pack.first) => &self.packs[..at],
            Some(_) => return false,
            None => &self.packs[..],
        };
        before.iter().all(|pack| pack.index.lookup(id).is_none())
    }

    /// The number of an object that must be there.
    pub(super) fn require(&self, id: &oid) -> Result<u32, WalkError> {
        self.find(id).ok_or_else(|| self.missing(id))
    }

    pub(super) fn missing(&self, id: &oid) -> WalkError {
        damaged(format!("its object {id} is missing"))
    }

    pub(super) fn id(&self, object: u32) -> &oid {
        match self.pack_of(object) {
            Some((_, pack)) => pack.index.oid_at_index(object - pack.first),
            None => &self.loose[(object - self.packed) as usize],
        }
    }

    pub(super) fn place(&self, object: u32) -> Place<'_> {
        match self.pack_of(object) {
            Some((at, pack)) => Place::Packed(at, pack.index.pack_offset_at_index(object - pack.first)),
            None => Place::Loose(self.id(object)),
        }
    }

    pub(super) fn loose(&self) -> std::ops::Range<u32> {
        self.packed..self.len()
    }

    pub(super) fn path(&self, loose: &oid) -> PathBuf {
        let digits = loose.to_string();
        self.dir.join(&digits[..2]).join(&digits[2..])
    }

    fn pack_of(&self, object: u32) -> Option<(usize, &Pack)> {
        let at = self.packs.partition_point(|pack| pack.first <= object).checked_sub(1)?;
        (object < self.packed).then(|| (at, &self.packs[at]))
    }
}

impl Pack {
    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.index.num_objects()
    }

    /// Where the index has an object first. A pack may hold one twice; an index that lies, any number of times.
    pub(super) fn position(&self, id: &oid) -> Option<u32> {
        let (mut first, mut known) = (0, self.index.lookup(id)?);
        while first < known {
            let middle = first.midpoint(known);
            match self.index.oid_at_index(middle).cmp(id) {
                Ordering::Less => first = middle + 1,
                Ordering::Equal => known = middle,
                // The index is not sorted.
                Ordering::Greater => break,
            }
        }
        Some(known)
    }
}

fn open_all(packs: &[PathBuf]) -> Result<Vec<Pack>, SubsetError> {
    if packs.len() > MAX_PACKS {
        return Err(damaged(format!("it has more than {MAX_PACKS} packs")).into());
    }
    let open = |path: &PathBuf| {
        let data = data::File::at(path, HASH)?;
        let index = index::File::at(path.with_extension("idx"), HASH)?;
        Ok(Pack { data, index, first: 0 })
    };
    packs.iter().map(open).collect::<Result<_, WalkError>>().map_err(SubsetError::from)
}

/// Most objects are found in the first pack.
fn largest_first(mut packs: Vec<Pack>) -> Vec<Pack> {
    packs.sort_by_key(|pack| Reverse(pack.index.num_objects()));
    packs
}

/// What is in a directory; nothing if there is none.
fn list(directory: &Path) -> Result<Vec<DirEntry>, SubsetError> {
    match fs::read_dir(directory).and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        listed => listed.map_err(in_path(directory)),
    }
}

pub(super) fn in_path(path: &Path) -> impl FnOnce(io::Error) -> SubsetError {
    let path = path.to_owned();
    move |source| SubsetError::Disk { path, source }
}

/// The id of the loose object `folder/name`.
fn loose_id(folder: &str, name: &str) -> Option<ObjectId> {
    ObjectId::from_hex(format!("{folder}{name}").as_bytes()).ok().filter(|_| folder.len() == 2)
}

fn too_many() -> WalkError {
    damaged("it holds more objects than can be counted")
}
