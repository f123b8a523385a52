//! Verifies a repository's objects: the bytes of each hash to its name, and everything that it refers to is there.
//!
//! Invariant: only what is in the directory counts. No git program runs, no configuration is read, and alternates,
//! replacements and grafts are not followed.
//!
//! One pass over each pack decodes every object once, on all cores. Each reference to an object marks it with the kind it
//! is expected to be, one bit for each kind; marks are compared with the real kinds once all objects are decoded. So memory
//! is one byte for each object, plus what decoding takes, within the memory budget. Large blobs are hashed as they are
//! inflated, unless a delta is based on one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;
use gix_hash::{ObjectId, oid};
use gix_object::Kind;
use gix_pack::{data, index};
use parking_lot::Mutex;

use super::marks::{Marks, WRONG_KIND};
use super::pack::{self, HASH, OBJECT_LIMIT_BYTES, Shortage, WalkError};
use super::references::{Malformed, each_reference};
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;

/// Holds back a file's or an entry's content while it is hashed.
const BUFFER_BYTES: usize = 64 << 10;
/// The longest header of a loose object, in bytes, as Git has it.
const LOOSE_HEADER_LIMIT_BYTES: usize = 32;
/// How often a loose object is in memory: its buffer may have twice its size.
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
    Disk { path: PathBuf, source: io::Error },
    #[error("its repository cannot be used: {problem}")]
    Unusable { problem: String },
    #[error("its {pack} is damaged")]
    Pack { pack: String, source: WalkError },
    #[error(transparent)]
    Memory(#[from] Shortage),
    #[error("its object {object} is missing ({needed_by} refers to it)")]
    MissingObject { object: String, needed_by: String },
    #[error("its object {object} {problem}")]
    BadObject { object: String, problem: &'static str },
}

/// Verifies all objects in `dir/.git`, and that `commit` and its history are among them. The error is the first problem
/// found.
pub(crate) fn verify(dir: &Path, commit: CommitId, memory: &MemoryBudget) -> Result<Verified, VerifyError> {
    let objects = Objects::open(&dir.join(".git/objects"))?;
    objects.require(&ObjectId::Sha1(*commit.as_bytes()), Kind::Commit, &"the branch");
    objects.verify(memory)
}

fn in_path(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Disk { path, source }
}

fn unusable(problem: String) -> VerifyError {
    VerifyError::Unusable { problem }
}

/// Names and paths in a directory, sorted; none if there is no such directory.
fn list(directory: &Path) -> Result<BTreeMap<String, PathBuf>, VerifyError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
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
                        let id = ObjectId::from_hex(format!("{fan}{name}").as_bytes())
                            .map_err(|_| unusable(format!("objects/{fan}/{name} is not named like an object")))?;
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
    fn require(&self, id: &oid, kind: Kind, needed_by: &dyn Display) {
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
            self.require(referred.into(), expected, &format_args!("{kind} {id}"));
            Ok(())
        });
        if let Err(Malformed(_)) = visited {
            self.fault(|| VerifyError::BadObject { object: id.to_string(), problem: "is malformed" });
        }
    }

    fn verify(self, memory: &MemoryBudget) -> Result<Verified, VerifyError> {
        for pack in &self.packs {
            pack.verify(&self, memory).map_err(|error| match error {
                WalkError::Memory(shortage) => shortage.into(),
                source => VerifyError::Pack { pack: pack.name.clone(), source },
            })?;
        }
        for (id, loose) in &self.loose {
            let kind = self.verify_loose(id, &loose.path, memory)?;
            loose.marks.found(kind);
        }
        if let Some(fault) = self.fault.into_inner() {
            return Err(fault);
        }
        let packed = self.packs.iter().flat_map(Pack::marked);
        let loose = self.loose.iter().map(|(id, loose)| (*id, Some(&loose.marks)));
        let mut objects = 0;
        for (id, marks) in packed.chain(loose) {
            objects += 1;
            let problem = match marks.filter(|marks| marks.is_found()) {
                None => "is not where its index says",
                Some(marks) if !marks.agree() => WRONG_KIND,
                Some(_) => continue,
            };
            return Err(VerifyError::BadObject { object: id.to_string(), problem });
        }
        Ok(Verified { objects })
    }

    /// Reads a loose object, which must hash to its name.
    fn verify_loose(&self, id: &oid, path: &Path, memory: &MemoryBudget) -> Result<Kind, VerifyError> {
        let bad = |problem| VerifyError::BadObject { object: id.to_string(), problem };
        let file = File::open(path).map_err(in_path(path))?;
        let mut content = BufReader::with_capacity(BUFFER_BYTES, ZlibDecoder::new(file));
        let mut header = vec![];
        let read = content.by_ref().take(LOOSE_HEADER_LIMIT_BYTES as u64).read_until(0, &mut header);
        read.map_err(|_| bad("cannot be inflated"))?;
        let (kind, len, _) = gix_object::decode::loose_header(&header).map_err(|_| bad("is malformed"))?;
        if kind == Kind::Blob {
            let hashed = hash_blob(len, &mut content).map_err(|_| bad("cannot be inflated"))?;
            return if hashed.as_deref() == Some(id) { Ok(kind) } else { Err(bad("does not hash to its name")) };
        }
        let needed = len.saturating_mul(LOOSE_COPIES);
        if len > OBJECT_LIMIT_BYTES as u64 {
            return Err(Shortage::Object { limit: OBJECT_LIMIT_BYTES as u64 }.into());
        } else if needed > memory.bytes() {
            return Err(Shortage::Loose { needed, budget: memory.bytes() }.into());
        }
        let mut bytes = vec![];
        content.take(len + 1).read_to_end(&mut bytes).map_err(|_| bad("cannot be inflated"))?;
        let intact = gix_object::Data::new(&bytes, kind, HASH).verify_checksum(id).is_ok();
        if bytes.len() as u64 != len || !intact {
            return Err(bad("does not hash to its name"));
        }
        self.visit(id, kind, &bytes);
        Ok(kind)
    }
}

/// The id of a blob that is read to its end; `None` if it has another length than this.
fn hash_blob(len: u64, content: &mut impl Read) -> io::Result<Option<ObjectId>> {
    let mut hash = gix_hash::hasher(HASH);
    hash.update(format!("blob {len}\0").as_bytes());
    let (mut buffer, mut read) = (vec![0; BUFFER_BYTES], 0_u64);
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                read += n as u64;
            }
        }
        if read > len {
            return Ok(None);
        }
    }
    let id = hash.try_finalize().map_err(io::Error::other)?;
    Ok((read == len).then_some(id))
}

impl Pack {
    fn open(name: String, path: &Path) -> Result<Self, VerifyError> {
        let damaged = |error: gix_error::Error| VerifyError::Pack { pack: name.clone(), source: error.into() };
        let data = data::File::at(path, HASH).map_err(damaged)?;
        let index = index::File::at(path.with_extension("idx"), HASH).map_err(damaged)?;
        if data.num_objects() != index.num_objects() {
            return Err(unusable(format!("{name} and its index hold different numbers of objects")));
        }
        let marks = Marks::none(index.num_objects());
        Ok(Self { name, data, index, marks })
    }

    /// Looked up as git does: an object that git would not find stays unmarked.
    fn marks(&self, id: &oid) -> Option<&Marks> {
        self.marks.get(self.index.lookup(id)? as usize)
    }

    /// Each object and its marks. One that is in the pack twice has those of the one that git finds.
    fn marked(&self) -> impl Iterator<Item = (ObjectId, Option<&Marks>)> {
        let entries = (0..).zip(&self.marks).map(|(place, marks)| (self.index.oid_at_index(place), marks));
        entries.map(|(id, marks)| (id.to_owned(), if marks.is_found() { Some(marks) } else { self.marks(id) }))
    }

    fn verify(&self, objects: &Objects, memory: &MemoryBudget) -> Result<(), WalkError> {
        if self.data.checksum() != self.index.pack_checksum() {
            return Err(WalkError::Damaged("its index belongs to another pack".to_owned()));
        }
        pack::visit_all(&self.data, &self.index, memory, |id: &oid, kind, bytes: &[u8]| {
            self.found(id, kind);
            objects.visit(id, kind, bytes);
        })
    }

    fn found(&self, id: &oid, kind: Kind) {
        if let Some(marks) = self.marks(id) {
            marks.found(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::pack::LARGE_BLOB_BYTES;
    use super::*;
    use sha1::Digest;

    use crate::git::fixture::{Project, git, git_with_input, run};

    fn verify_in(dir: &Path, commit: CommitId) -> Result<Verified, VerifyError> {
        verify(dir, commit, &MemoryBudget::new(None))
    }

    fn verified(project: &Project) -> Result<Verified, VerifyError> {
        verify_in(project.dir.path(), project.commit)
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
        let check = || verify_in(dir, head(dir)).unwrap();

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
    fn a_loose_commit_that_takes_more_than_the_memory_budget_is_not_read() {
        let project = Project::new();
        let dir = project.dir.path();
        let text = format!("{}\n", "long words ".repeat(600_000));
        let tree = git(dir, &["rev-parse", "HEAD^{tree}"]);
        let commit = git_with_input(dir, &["commit-tree", &tree, "-p", "HEAD"], text.as_bytes()).parse().unwrap();
        let within = |mib: u64| verify(dir, commit, &MemoryBudget::new(Some(mib << 20)));
        let error = within(16).unwrap_err();
        assert!(matches!(error, VerifyError::Memory(Shortage::Loose { .. })), "{error}");
        assert!(error.to_string().contains("more than MEMORY_BUDGET_BYTES allows (16.0 MiB)"), "{error}");
        within(32).unwrap();
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
    fn a_shallow_history_is_incomplete() {
        let project = Project::new();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", project.dir.path().display());
        git(dir.path(), &["clone", "-q", "--depth=1", &url, "."]);
        assert!(matches!(verify_in(dir.path(), project.commit), Err(VerifyError::MissingObject { .. })));
    }

    #[test]
    fn objects_kept_elsewhere_do_not_count() {
        let project = Project::new();
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["clone", "-q", "--shared", project.dir.path().to_str().unwrap(), "."]);
        let result = verify_in(dir.path(), project.commit);
        assert!(matches!(result, Err(VerifyError::MissingObject { .. })));
    }

    /// A repository with a blob that is hashed as a stream.
    fn with_a_large_blob() -> (Project, String) {
        let project = Project::new();
        let dir = project.dir.path();
        let words = u32::try_from(LARGE_BLOB_BYTES / 4 + 1).unwrap();
        let large: Vec<u8> = (0..words).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(dir.join("large"), &large).unwrap();
        git(dir, &["add", "large"]);
        git(dir, &["commit", "-q", "-m", "large"]);
        let blob = git(dir, &["rev-parse", "HEAD:large"]);
        let commit = head(dir);
        (Project { commit, ..project }, blob)
    }

    #[test]
    fn a_blob_that_is_too_large_for_the_memory_is_verified_loose_and_packed() {
        let (project, blob) = with_a_large_blob();
        let dir = project.dir.path();
        let check = || verify(dir, project.commit, &MemoryBudget::new(Some(LARGE_BLOB_BYTES)));
        let expected = Verified { objects: objects(dir).len() as u64 };
        assert_eq!(check().unwrap(), expected, "loose");
        git(dir, &["repack", "-adfq"]);
        assert_eq!(check().unwrap(), expected, "packed");

        let path = &files_ending(dir, ".pack")[0];
        let good = fs::read(path).unwrap();
        let listed = git(dir, &["verify-pack", "-v", path.to_str().unwrap()]);
        let row: Vec<_> = listed.lines().find(|line| line.starts_with(&blob)).unwrap().split_whitespace().collect();
        let (size, offset): (usize, usize) = (row[3].parse().unwrap(), row[4].parse().unwrap());
        for at in [offset + 10, offset + size - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // With a right trailer, and the old index but for the checksum that names the pack.
            let end = bad.len() - 20;
            let sum: [u8; 20] = sha1::Sha1::digest(&bad[..end]).into();
            bad[end..].copy_from_slice(&sum);
            overwrite(path, &bad);
            let index = path.with_extension("idx");
            let good_index = fs::read(&index).unwrap();
            let mut bad_index = good_index.clone();
            let end = bad_index.len() - 20;
            bad_index[end - 20..end].copy_from_slice(&sum);
            let sum: [u8; 20] = sha1::Sha1::digest(&bad_index[..end]).into();
            bad_index[end..].copy_from_slice(&sum);
            overwrite(&index, &bad_index);
            let error = check().unwrap_err();
            assert!(matches!(&error, VerifyError::Pack { .. }), "{error}");
            let chain = format!("{:#}", anyhow::Error::new(error));
            assert!(chain.contains(&offset.to_string()), "{at}: {chain}");
            overwrite(&index, &good_index);
        }
    }

    #[test]
    fn a_large_blob_that_a_delta_is_based_on_is_verified_too() {
        let (project, _) = with_a_large_blob();
        let dir = project.dir.path();
        let longer = [fs::read(dir.join("large")).unwrap(), b"more".to_vec()].concat();
        fs::write(dir.join("large"), longer).unwrap();
        git(dir, &["commit", "-qam", "longer"]);
        for by_offset in ["true", "false"] {
            git(dir, &["-c", &format!("repack.useDeltaBaseOffset={by_offset}"), "repack", "-adfq"]);
            assert!(
                fs::metadata(&files_ending(dir, ".pack")[0]).unwrap().len() < 2 * LARGE_BLOB_BYTES,
                "one is a delta"
            );
            let found = verify_in(dir, head(dir)).unwrap();
            assert_eq!(found, Verified { objects: objects(dir).len() as u64 });
        }
    }
}
