//! Verifies a repository: every object's bytes hash to its name, and everything an object refers to is there.
//!
//! Invariant: only what is in the directory counts. No git program runs, no configuration is read, and alternates,
//! replacements and grafts are not followed.
//!
//! One pass over each pack decodes every object once, on all cores. Each reference to an object marks it with the kind it
//! is expected to be, one bit for each kind; marks are compared with the real kinds once all objects are decoded. So memory
//! is one byte for each object, plus what decoding takes, within the memory budget.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use flate2::read::ZlibDecoder;
use gix_hash::{ObjectId, oid};
use gix_object::Kind;
use gix_pack::{data, index};
use parking_lot::Mutex;

use super::pack::{self, HASH, OBJECT_LIMIT_BYTES, Shortage, WalkError};
use super::references::{Malformed, each_reference};
use crate::memory::MemoryBudget;
use crate::model::key::{ArchiveFormat, CommitId};

/// The longest file of references read, in bytes.
const REFERENCES_LIMIT_BYTES: u64 = 64 << 20;

/// How often a loose object is in memory: its buffer may have twice its size, and the content is copied out of it.
const LOOSE_COPIES: u64 = 3;

/// What was found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Objects, in packs and loose.
    pub objects: u64,
}

/// Why a repository is not what it should be. Each message follows "`<key>`: ".
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {}", path.display())]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("its repository cannot be used: {problem}")]
    Unusable { problem: String },
    #[error("its repository is shallow and cannot be pushed")]
    Shallow,
    #[error("its repository has no branch {0:?}")]
    NoBranch(String),
    #[error("its name says commit {named}, but its branch is at {found}")]
    OtherCommit { named: CommitId, found: ObjectId },
    #[error("its {pack} is damaged")]
    Pack { pack: String, source: WalkError },
    #[error(transparent)]
    Memory(#[from] Shortage),
    #[error("its object {object} is missing ({needed_by} refers to it)")]
    MissingObject { object: String, needed_by: String },
    #[error("its object {object} {problem}")]
    BadObject { object: String, problem: &'static str },
}

/// Verifies the repository in `dir/.git`: `branch` is at `commit`, its history is complete, and all objects are intact.
/// Objects outside of that history are verified too. The error is the first problem found.
///
/// In an archive of the Go program (tar.gz) the branch may have another name, the source's: any reference to the commit
/// is accepted there.
pub(crate) fn verify(
    dir: &Path,
    branch: &str,
    commit: CommitId,
    format: ArchiveFormat,
    memory: &MemoryBudget,
) -> Result<Verified, VerifyError> {
    let git_dir = dir.join(".git");
    if git_dir.join("shallow").exists() {
        return Err(VerifyError::Shallow);
    }
    let references = read_references(&git_dir)?;
    check_branch(&references, branch, commit, format)?;
    let objects = Objects::open(&git_dir.join("objects"))?;
    objects.require(&ObjectId::Sha1(*commit.as_bytes()), Some(Kind::Commit), &"the branch");
    for (name, id) in &references {
        objects.require(id, None, name);
    }
    objects.verify(memory)
}

/// All references by their full names, and `HEAD`.
fn read_references(git_dir: &Path) -> Result<BTreeMap<String, ObjectId>, VerifyError> {
    let mut references = BTreeMap::new();
    if let Some(packed) = read_text(&git_dir.join("packed-refs"))? {
        // `#` begins a comment, and `^` the target of the tag above.
        for line in packed.lines().filter(|line| !line.starts_with(['#', '^'])) {
            let (id, name) = line.split_once(' ').ok_or_else(|| unusable(format!("packed-refs says {line:?}")))?;
            references.insert(name.to_owned(), parse_id(id, name)?);
        }
    }
    let mut directories = vec!["refs".to_owned()];
    while let Some(directory) = directories.pop() {
        for (name, path) in list(&git_dir.join(&directory))? {
            let name = format!("{directory}/{name}");
            if path.is_dir() {
                directories.push(name);
                continue;
            }
            let content = read_text(&path)?.unwrap_or_default();
            // A symbolic one, like refs/remotes/origin/HEAD, refers to no object itself.
            if !content.starts_with("ref: ") {
                references.insert(name.clone(), parse_id(content.trim_end(), &name)?);
            }
        }
    }
    let head = read_text(&git_dir.join("HEAD"))?.ok_or_else(|| unusable("it has no HEAD".to_owned()))?;
    let head = match head.trim_end().strip_prefix("ref: ") {
        Some(target) => *references
            .get(target)
            .ok_or_else(|| unusable(format!("HEAD points to {target:?}, which does not exist")))?,
        None => parse_id(head.trim_end(), "HEAD")?,
    };
    references.insert("HEAD".to_owned(), head);
    Ok(references)
}

fn check_branch(
    references: &BTreeMap<String, ObjectId>,
    branch: &str,
    commit: CommitId,
    format: ArchiveFormat,
) -> Result<(), VerifyError> {
    let named = ObjectId::Sha1(*commit.as_bytes());
    let found = match (references.get(&format!("refs/heads/{branch}")), format) {
        (Some(&id), _) if id == named => return Ok(()),
        (_, ArchiveFormat::TarGz) if references.values().any(|&id| id == named) => return Ok(()),
        (Some(id), _) => id,
        (None, ArchiveFormat::TarGz) => &references["HEAD"],
        (None, ArchiveFormat::Zip) => return Err(VerifyError::NoBranch(branch.to_owned())),
    };
    Err(VerifyError::OtherCommit { named: commit, found: *found })
}

fn in_path(path: &Path) -> impl FnOnce(std::io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Disk { path, source }
}

fn parse_id(text: &str, reference: &str) -> Result<ObjectId, VerifyError> {
    ObjectId::from_hex(text.as_bytes()).map_err(|_| unusable(format!("{reference} holds no object id")))
}

fn unusable(problem: String) -> VerifyError {
    VerifyError::Unusable { problem }
}

/// A file's text, or `None` if there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, VerifyError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(REFERENCES_LIMIT_BYTES).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_path(path)(error)),
    }
}

/// Names and paths in a directory, sorted; none if there is no such directory.
fn list(directory: &Path) -> Result<BTreeMap<String, PathBuf>, VerifyError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(in_path(directory))?,
    };
    let named = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    entries.map(|entry| entry.map(named)).collect::<Result<_, _>>().map_err(in_path(directory))
}

/// All objects of a repository, and what is known about each.
struct Objects {
    packs: Vec<Pack>,
    loose: BTreeMap<ObjectId, Loose>,
    /// The first problem found.
    fault: Mutex<Option<VerifyError>>,
}

struct Pack {
    name: String,
    data: data::File,
    index: index::File,
    /// In the index's order.
    marks: Vec<Marks>,
}

struct Loose {
    path: PathBuf,
    marks: Marks,
}

/// An object's kind, and the kinds that references expect.
#[derive(Default)]
struct Marks(AtomicU8);

impl Marks {
    fn found(&self, kind: Kind) {
        self.0.fetch_or(bit(kind), Ordering::Relaxed);
    }

    fn required(&self, kind: Option<Kind>) {
        self.0.fetch_or(kind.map_or(0, bit) << 4, Ordering::Relaxed);
    }

    /// What is wrong with the object, if anything is.
    fn problem(&self) -> Option<&'static str> {
        let marks = self.0.load(Ordering::Relaxed);
        let (found, required) = (marks & 0xf, marks >> 4);
        if found == 0 {
            Some("is not where its index says")
        } else if required & !found != 0 {
            Some("is not of the kind that references to it expect")
        } else {
            None
        }
    }
}

fn bit(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 4,
        Kind::Tag => 8,
    }
}

impl Objects {
    fn open(objects: &Path) -> Result<Self, VerifyError> {
        let mut packs = vec![];
        let mut loose = BTreeMap::new();
        for (directory, path) in list(objects)?.into_iter().filter(|(_, path)| path.is_dir()) {
            for (name, path) in list(&path)? {
                match directory.as_str() {
                    "pack" if name.ends_with(".pack") => packs.push(Pack::open(name, &path)?),
                    "pack" | "info" => {}
                    fan => {
                        let id = parse_id(&format!("{fan}{name}"), &format!("objects/{fan}/{name}"))?;
                        loose.insert(id, Loose { path, marks: Marks::default() });
                    }
                }
            }
        }
        Ok(Self { packs, loose, fault: Mutex::new(None) })
    }

    fn marks(&self, id: &oid) -> Option<&Marks> {
        self.packs.iter().find_map(|pack| pack.marks(id)).or_else(|| self.loose.get(id).map(|loose| &loose.marks))
    }

    /// Notes that `needed_by` refers to an object, as one of this kind.
    fn require(&self, id: &oid, kind: Option<Kind>, needed_by: &dyn Display) {
        match self.marks(id) {
            Some(marks) => marks.required(kind),
            None => {
                self.fault(|| VerifyError::MissingObject { object: id.to_string(), needed_by: needed_by.to_string() })
            }
        }
    }

    fn fault(&self, error: impl FnOnce() -> VerifyError) {
        self.fault.lock().get_or_insert_with(error);
    }

    /// Notes what an object refers to; its bytes hash to its name.
    fn visit(&self, id: &oid, kind: Kind, bytes: &[u8]) {
        let visited = each_reference(kind, bytes, |expected, referred| {
            if kind == Kind::Tag && expected.is_none() {
                return Err(Malformed(kind));
            }
            self.require(referred.into(), expected, &format_args!("{kind} {id}"));
            Ok(())
        });
        if visited.is_err() {
            self.fault(|| VerifyError::BadObject { object: id.to_string(), problem: "is malformed" });
        }
    }

    fn verify(self, memory: &MemoryBudget) -> Result<Verified, VerifyError> {
        for pack in &self.packs {
            pack.verify(&self, memory)?;
        }
        for (id, loose) in &self.loose {
            let (kind, bytes) = read_loose(id, &loose.path, memory)?;
            loose.marks.found(kind);
            self.visit(id, kind, &bytes);
        }
        if let Some(fault) = self.fault.into_inner() {
            return Err(fault);
        }
        let packed = self.packs.iter().flat_map(|pack| pack.index.iter().map(|entry| entry.oid).zip(&pack.marks));
        let loose = self.loose.iter().map(|(id, loose)| (*id, &loose.marks));
        let mut objects = 0;
        for (id, marks) in packed.chain(loose) {
            objects += 1;
            if let Some(problem) = marks.problem() {
                return Err(VerifyError::BadObject { object: id.to_string(), problem });
            }
        }
        Ok(Verified { objects })
    }
}

impl Pack {
    fn open(name: String, path: &Path) -> Result<Self, VerifyError> {
        let damaged = |error: gix_error::Error| VerifyError::Pack { pack: name.clone(), source: error.into() };
        let data = data::File::at(path, HASH).map_err(damaged)?;
        let index = index::File::at(path.with_extension("idx"), HASH).map_err(damaged)?;
        if data.num_objects() != index.num_objects() {
            return Err(unusable(format!("{name} and its index hold different numbers of objects")));
        }
        let marks = (0..index.num_objects()).map(|_| Marks::default()).collect();
        Ok(Self { name, data, index, marks })
    }

    fn marks(&self, id: &oid) -> Option<&Marks> {
        self.marks.get(self.index.lookup(id)? as usize)
    }

    fn verify(&self, objects: &Objects, memory: &MemoryBudget) -> Result<(), VerifyError> {
        if self.marks.is_empty() {
            return Ok(());
        }
        let visited = pack::visit_all(&self.data, &self.index, memory, |id: &oid, kind, bytes: &[u8]| {
            // Looked up as git does: an object that git would not find stays unmarked.
            if let Some(marks) = self.marks(id) {
                marks.found(kind);
            }
            objects.visit(id, kind, bytes);
        });
        visited.map_err(|error| match error {
            WalkError::Memory(shortage) => shortage.into(),
            source => VerifyError::Pack { pack: self.name.clone(), source },
        })
    }
}

/// Reads a loose object, which must hash to its name.
fn read_loose(id: &oid, path: &Path, memory: &MemoryBudget) -> Result<(Kind, Vec<u8>), VerifyError> {
    let bad = |problem| VerifyError::BadObject { object: id.to_string(), problem };
    let mut bytes = vec![];
    let file = File::open(path).map_err(in_path(path))?;
    let limit = (memory.bytes() / LOOSE_COPIES).min(OBJECT_LIMIT_BYTES as u64);
    let len = ZlibDecoder::new(file).take(limit).read_to_end(&mut bytes).map_err(|_| bad("cannot be inflated"))?;
    if len as u64 == limit {
        return Err(Shortage::Object { limit }.into());
    }
    let (kind, len, header_len) = gix_object::decode::loose_header(&bytes).map_err(|_| bad("is malformed"))?;
    let content = bytes.split_off(header_len.min(bytes.len()));
    let intact = gix_object::Data::new(&content, kind, HASH).verify_checksum(id).is_ok();
    if content.len() as u64 == len && intact { Ok((kind, content)) } else { Err(bad("does not hash to its name")) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::git::fixture::{Project, git, git_with_input, run};

    const BRANCH: &str = "source";

    fn verify_in(dir: &Path, branch: &str, commit: CommitId, format: ArchiveFormat) -> Result<Verified, VerifyError> {
        verify(dir, branch, commit, format, &MemoryBudget::new(None))
    }

    fn verified(project: &Project) -> Result<Verified, VerifyError> {
        verify_in(project.dir.path(), BRANCH, project.commit, ArchiveFormat::Zip)
    }

    fn head(dir: &Path) -> CommitId {
        git(dir, &["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// Ids and kinds, in git's words.
    fn objects(dir: &Path) -> Vec<(String, String)> {
        let format = "--batch-check=%(objectname) %(objecttype)";
        let all = git(dir, &["cat-file", "--batch-all-objects", format]);
        all.lines().map(|line| line.split_once(' ').unwrap()).map(|(id, kind)| (id.into(), kind.into())).collect()
    }

    /// Replaces all packs and loose objects by one pack of these objects.
    fn keep_only<'a>(dir: &Path, ids: impl IntoIterator<Item = &'a str>) {
        let lines = ids.into_iter().fold(String::new(), |lines, id| lines + id + "\n");
        git_with_input(dir, &["pack-objects", "-q", ".git/kept"], lines.as_bytes());
        let objects = dir.join(".git/objects");
        fs::remove_dir_all(&objects).unwrap();
        fs::create_dir_all(objects.join("pack")).unwrap();
        for (name, path) in list(&dir.join(".git")).unwrap().into_iter().filter(|(name, _)| name.starts_with("kept-")) {
            fs::rename(path, objects.join("pack").join(name.replace("kept-", "pack-"))).unwrap();
        }
    }

    fn files_ending(dir: &Path, ending: &str) -> Vec<PathBuf> {
        let files = list(&dir.join(".git/objects/pack")).unwrap().into_values();
        files.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
    }

    fn overwrite(path: &Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn an_intact_repository_is_verified_whatever_way_its_objects_are_stored() {
        let project = Project::new();
        let dir = project.dir.path();
        git(dir, &["tag", "-a", "-m", "tag", "v1"]);
        git(dir, &["update-index", "--add", "--cacheinfo", &format!("160000,{},submodule", "5".repeat(40))]);
        git(dir, &["commit", "-q", "-m", "a submodule, whose commit is elsewhere"]);
        let expected = Verified { objects: objects(dir).len() as u64 };
        let check = || verify_in(dir, BRANCH, head(dir), ArchiveFormat::Zip).unwrap();

        assert_eq!(check(), expected, "two packs and loose objects");
        git(dir, &["pack-refs", "--all"]);
        git(dir, &["repack", "-adq"]);
        assert_eq!(check(), expected, "one pack, packed references");
        git(dir, &["-c", "repack.useDeltaBaseOffset=false", "repack", "-adfq"]);
        assert_eq!(check(), expected, "deltas that name their base");
        git(dir, &["-c", "pack.indexVersion=1", "repack", "-adfq"]);
        assert_eq!(check(), expected, "an index of version 1");
        let pack = fs::read(&files_ending(dir, ".pack")[0]).unwrap();
        fs::remove_dir_all(dir.join(".git/objects/pack")).unwrap();
        git_with_input(dir, &["unpack-objects", "-q"], &pack);
        assert_eq!(check(), expected, "loose objects");
    }

    #[test]
    fn a_missing_object_is_named_whichever_it_is() {
        let complete = Project::new();
        let all = objects(complete.dir.path());
        for (missing, kind) in &all {
            let dir = tempfile::tempdir().unwrap();
            run(complete.dir.path(), "cp", &["-r", ".git", dir.path().to_str().unwrap()]);
            let incomplete = Project { dir, commit: complete.commit };
            keep_only(incomplete.dir.path(), all.iter().map(|(id, _)| id.as_str()).filter(|id| id != missing));
            match verified(&incomplete).unwrap_err() {
                VerifyError::MissingObject { object, .. } => assert_eq!(&object, missing, "{kind}"),
                other => panic!("{kind} {missing}: {other}"),
            }
        }
    }

    #[test]
    fn a_changed_bit_anywhere_in_a_pack_or_an_index_is_found() {
        let project = Project::new();
        let dir = project.dir.path();
        git(dir, &["repack", "-adq"]);
        for path in [".pack", ".idx"].into_iter().flat_map(|ending| files_ending(dir, ending)) {
            let good = fs::read(&path).unwrap();
            for at in (0..good.len()).step_by(29).chain(good.len() - 20..good.len()) {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                overwrite(&path, &bad);
                assert!(verified(&project).is_err(), "{} at {at}", path.display());
            }
            overwrite(&path, &good[..good.len() - 1]);
            assert!(verified(&project).is_err(), "{} cut short", path.display());
            overwrite(&path, &good);
        }
        verified(&project).unwrap();
    }

    #[test]
    fn a_changed_bit_in_a_loose_object_is_found() {
        let project = Project::new();
        let dir = project.dir.path();
        let blob = git_with_input(dir, &["hash-object", "-w", "--stdin"], b"a loose blob");
        let path = dir.join(".git/objects").join(&blob[..2]).join(&blob[2..]);
        verified(&project).unwrap();
        let good = fs::read(&path).unwrap();
        // The header of the zlib stream has bits without a meaning.
        for at in 2..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            overwrite(&path, &bad);
            assert!(matches!(verified(&project), Err(VerifyError::BadObject { object, .. }) if object == blob), "{at}");
        }
    }

    #[test]
    fn a_pack_without_its_index_is_an_error() {
        let project = Project::new();
        fs::remove_file(&files_ending(project.dir.path(), ".idx")[0]).unwrap();
        assert!(matches!(verified(&project), Err(VerifyError::Pack { .. })));
    }

    #[test]
    fn an_object_of_another_kind_than_its_referrer_says_is_found() {
        let project = Project::new();
        let dir = project.dir.path();
        let blob = git(dir, &["rev-parse", "HEAD:README"]);
        let raw: Vec<u8> = (0..20).map(|i| u8::from_str_radix(&blob[2 * i..2 * i + 2], 16).unwrap()).collect();
        let tree = [b"40000 directory\0", &raw[..]].concat();
        git_with_input(dir, &["hash-object", "-t", "tree", "--literally", "-w", "--stdin"], &tree);
        match verified(&project).unwrap_err() {
            VerifyError::BadObject { object, .. } => assert_eq!(object, blob),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_shallow_repository_is_refused_and_without_its_mark_incomplete() {
        let project = Project::new();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", project.dir.path().display());
        git(dir.path(), &["clone", "-q", "--depth=1", &url, "."]);
        let check = || verify_in(dir.path(), BRANCH, project.commit, ArchiveFormat::Zip);
        assert!(matches!(check(), Err(VerifyError::Shallow)));
        fs::remove_file(dir.path().join(".git/shallow")).unwrap();
        assert!(matches!(check(), Err(VerifyError::MissingObject { .. })));
    }

    #[test]
    fn objects_kept_elsewhere_do_not_count() {
        let project = Project::new();
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["clone", "-q", "--shared", project.dir.path().to_str().unwrap(), "."]);
        let result = verify_in(dir.path(), BRANCH, project.commit, ArchiveFormat::Zip);
        assert!(matches!(result, Err(VerifyError::MissingObject { .. })));
    }

    #[test]
    fn the_branch_must_be_at_the_commit_named() {
        let project = Project::new();
        let (dir, at) =
            (project.dir.path(), |revision: &str| git(project.dir.path(), &["rev-parse", revision]).parse().unwrap());
        for format in ArchiveFormat::ALL {
            let result = verify_in(dir, BRANCH, at("source~1"), format);
            assert!(matches!(result, Err(VerifyError::OtherCommit { .. })), "{format}");
            let result = verify_in(dir, BRANCH, CommitId::from_bytes([7; 20]), format);
            assert!(matches!(result, Err(VerifyError::OtherCommit { .. })), "{format}");
        }
    }

    #[test]
    fn only_an_archive_of_the_go_program_may_name_its_branch_otherwise() {
        let project = Project::new();
        let check = |format| verify_in(project.dir.path(), "destination", project.commit, format);
        assert!(matches!(check(ArchiveFormat::Zip), Err(VerifyError::NoBranch(_))));
        check(ArchiveFormat::TarGz).unwrap();
    }

    #[test]
    fn references_that_git_could_not_read_are_an_error() {
        let files = [
            ("HEAD", "ref: refs/heads/nowhere"),
            ("HEAD", "nonsense"),
            ("refs/heads/other", "nonsense"),
            ("packed-refs", "nonsense"),
            ("packed-refs", "nonsense refs/heads/packed"),
        ];
        for (file, content) in files {
            let project = Project::new();
            fs::write(project.dir.path().join(".git").join(file), content).unwrap();
            assert!(matches!(verified(&project), Err(VerifyError::Unusable { .. })), "{file}: {content}");
        }
    }

    #[test]
    fn a_reference_to_a_missing_object_is_an_error() {
        let project = Project::new();
        fs::write(project.dir.path().join(".git/refs/heads/other"), "7".repeat(40)).unwrap();
        assert!(matches!(verified(&project), Err(VerifyError::MissingObject { .. })));
    }
}
