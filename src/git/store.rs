//! Single objects of a repository on disk, read through libgit2.
//!
//! Invariant: no Git configuration is read, neither the user's nor the system's nor the repository's: it could change or
//! prevent what is published. What connectivity has proved is not asked again: libgit2 parses fewer commits and trees than
//! Git.

use std::collections::HashSet;
use std::path::Path;

use git2::{ObjectType, Odb, OdbObject, Oid};
use gix_hash::ObjectId;
use gix_object::Kind;
use gix_pack::index;

use super::pack::HASH;
use super::references::{Malformed, each_reference};
use crate::model::key::CommitId;

/// The objects of one repository.
pub struct Store {
    pub(super) odb: Odb<'static>,
}

impl Store {
    /// The objects below `git_dir/objects`.
    pub fn open(git_dir: &Path) -> Result<Self, git2::Error> {
        Ok(Self { odb: odb_in(&git_dir.join("objects"))? })
    }

    /// Fails unless this commit is there.
    pub fn require_commit(&self, commit: CommitId) -> Result<(), git2::Error> {
        read(&self.odb, oid(commit)?, ObjectType::Commit).map(drop)
    }

    /// Whether `commit` descends from `base`, whose whole history is in the packs of `older`, and nothing else is.
    pub fn descends(&self, commit: CommitId, base: CommitId, older: &Indexes) -> Result<bool, git2::Error> {
        let (mut seen, mut waiting, base) = (HashSet::new(), vec![oid(commit)?], oid(base)?);
        while let Some(id) = waiting.pop() {
            if id == base {
                return Ok(true);
            }
            if older.hold(id) || !seen.insert(id) {
                continue;
            }
            let content = read(&self.odb, id, ObjectType::Commit)?;
            each_reference(Kind::Commit, content.data(), |kind, id| {
                if kind == Kind::Commit {
                    waiting.push(Oid::from_bytes(id)?);
                }
                Ok::<_, git2::Error>(())
            })?;
        }
        Ok(false)
    }
}

fn odb_in(objects: &Path) -> Result<Odb<'static>, git2::Error> {
    let path = objects.to_str().ok_or_else(|| git2::Error::from_str("the path to it is not UTF-8"))?;
    let odb = Odb::new()?;
    odb.add_disk_alternate(path)?;
    Ok(odb)
}

/// Which objects some packs hold, by their indexes.
pub struct Indexes(Vec<index::File>);

impl Indexes {
    /// The indexes in these files.
    pub fn open<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<Self, git2::Error> {
        let open = |file: P| index::File::at(file, HASH).map_err(|error| git2::Error::from_str(&format!("{error:#}")));
        files.into_iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a commit, or anything else by its id, is in one of the packs.
    pub fn hold_commit(&self, commit: CommitId) -> bool {
        self.lookup(ObjectId::Sha1(*commit.as_bytes()))
    }

    fn hold(&self, id: Oid) -> bool {
        ObjectId::try_from(id.as_bytes()).is_ok_and(|id| self.lookup(id))
    }

    fn lookup(&self, id: ObjectId) -> bool {
        self.0.iter().any(|index| index.lookup(id).is_some())
    }
}

/// An object of this kind; its bytes hash to its id.
pub(super) fn read<'a>(odb: &'a Odb<'_>, id: Oid, kind: ObjectType) -> Result<OdbObject<'a>, git2::Error> {
    let object = odb.read(id)?;
    if object.kind() == kind { Ok(object) } else { Err(git2::Error::from_str(&format!("{id} is not a {kind}"))) }
}

pub(super) fn oid(commit: CommitId) -> Result<Oid, git2::Error> {
    Oid::from_bytes(commit.as_bytes())
}

impl From<Malformed> for git2::Error {
    fn from(Malformed(kind): Malformed) -> Self {
        Self::from_str(&format!("a {kind} is malformed"))
    }
}
