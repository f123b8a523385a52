//! Counts the Git LFS pointers of a commit, whose content is not part of the repository.
//!
//! Invariant: the work is bounded, whatever the repository holds.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use git2::{ObjectType, Odb, Oid};
use gix_object::Kind;

use super::references::{tree_entries, tree_of};
use super::store::{Store, oid, read};
use crate::model::key::CommitId;

/// Files and directories that are searched; a larger tree is searched in part.
const MAX_TREE_ENTRIES: usize = 1_000_000;
/// The largest tree that is read, in bytes; one of 100,000 files takes about 5 MB.
const MAX_TREE_BYTES: usize = 64 << 20;
/// The largest attributes file that is read, in bytes; Git itself stops at 100 MB.
const MAX_ATTRIBUTES_BYTES: usize = 1 << 20;
/// The largest blob that can be a pointer, in bytes (the specification's limit).
const MAX_POINTER_BYTES: usize = 1_024;
/// How long the search may take: a small blob can be a delta on a huge one. The object being read when the time is over is
/// still read to its end.
const LFS_TIMEOUT: Duration = Duration::from_secs(5);
/// How many bytes of trees and blobs the search may read.
const LFS_LIMIT_BYTES: u64 = 1 << 30;
/// What a pointer begins with, now and in the first version of the specification.
const POINTER_STARTS: [&[u8]; 2] =
    [b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"];

/// Paths that are Git LFS pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfsPaths {
    pub found: usize,
    /// Whether these are all: the bounds above may have ended the search.
    pub all: bool,
}

/// How many paths of the commit are Git LFS pointers. Without `filter=lfs` in any of its `.gitattributes` there are none,
/// and no other blob is read.
pub fn lfs_paths(store: &Store, commit: CommitId) -> Result<LfsPaths, git2::Error> {
    lfs_paths_within(&store.odb, commit, Budget::new(LFS_TIMEOUT, LFS_LIMIT_BYTES))
}

fn lfs_paths_within(odb: &Odb<'_>, commit: CommitId, mut budget: Budget) -> Result<LfsPaths, git2::Error> {
    let root = Oid::from_bytes(&tree_of(read(odb, oid(commit)?, ObjectType::Commit)?.data())?)?;
    let mut uses_lfs = false;
    folders(odb, root, &mut budget, |name, blob, budget| {
        uses_lfs = uses_lfs || name == b".gitattributes" && asks_for_lfs(odb, blob, budget)?;
        Ok(())
    })?;
    if !uses_lfs {
        return Ok(LfsPaths { found: 0, all: !budget.is_spent() });
    }
    let mut pointers = HashSet::new();
    let folders = folders(odb, root, &mut budget, |_, blob, budget| {
        if is_pointer(odb, blob, budget)? {
            pointers.insert(blob);
        }
        Ok(())
    })?;
    Ok(LfsPaths { found: paths(&folders, root, &pointers), all: !budget.is_spent() })
}

struct Budget {
    deadline: Instant,
    left_bytes: u64,
}

impl Budget {
    fn new(time: Duration, bytes: u64) -> Self {
        Self { deadline: Instant::now() + time, left_bytes: bytes }
    }

    /// Whether an object may be read: it has at most `limit` bytes, and the budget is not spent.
    fn allows(&mut self, odb: &Odb<'_>, id: Oid, limit: usize) -> Result<bool, git2::Error> {
        if self.is_spent() {
            return Ok(false);
        }
        let (bytes, _) = odb.read_header(id)?;
        if bytes > limit {
            return Ok(false);
        }
        self.left_bytes = self.left_bytes.saturating_sub(bytes as u64);
        Ok(true)
    }

    fn is_spent(&self) -> bool {
        self.left_bytes == 0 || Instant::now() >= self.deadline
    }
}

#[derive(Default)]
struct Folder {
    files: Vec<Oid>,
    folders: Vec<Oid>,
}

/// Every distinct directory of a tree, within the bounds above; `visit` is called with the files. libgit2's own walk has no
/// bounds, recurses as deep as the tree, and does not read all the trees that Git reads.
fn folders(
    odb: &Odb<'_>,
    root: Oid,
    budget: &mut Budget,
    mut visit: impl FnMut(&[u8], Oid, &mut Budget) -> Result<(), git2::Error>,
) -> Result<HashMap<Oid, Folder>, git2::Error> {
    let (mut found, mut waiting, mut left) = (HashMap::new(), vec![root], MAX_TREE_ENTRIES);
    while let Some(id) = waiting.pop() {
        if found.contains_key(&id) || !budget.allows(odb, id, MAX_TREE_BYTES)? {
            continue;
        }
        let mut folder = Folder::default();
        for entry in tree_entries(read(odb, id, ObjectType::Tree)?.data()).take(left) {
            left -= 1;
            let entry = entry?;
            let id = Oid::from_bytes(entry.id)?;
            match entry.kind {
                Some(Kind::Tree) => folder.folders.push(id),
                Some(_) => {
                    visit(entry.name, id, budget)?;
                    folder.files.push(id);
                }
                // A submodule's commit is in another repository.
                None => {}
            }
        }
        waiting.extend(&folder.folders);
        found.insert(id, folder);
    }
    Ok(found)
}

/// How many paths below `root` lead to one of `blobs`. Each directory is counted once, however many paths lead to it.
fn paths(folders: &HashMap<Oid, Folder>, root: Oid, blobs: &HashSet<Oid>) -> usize {
    let (mut counted, mut waiting) = (HashMap::<Oid, usize>::new(), vec![root]);
    while let Some(&id) = waiting.last() {
        let Some(folder) = folders.get(&id).filter(|_| !counted.contains_key(&id)) else {
            counted.entry(id).or_default();
            waiting.pop();
            continue;
        };
        let before = waiting.len();
        waiting.extend(folder.folders.iter().filter(|inner| !counted.contains_key(*inner)));
        if waiting.len() == before {
            let inner = folder.folders.iter().filter_map(|inner| counted.get(inner));
            let own = folder.files.iter().filter(|file| blobs.contains(*file)).count();
            let sum = inner.fold(own, |sum, inner| sum.saturating_add(*inner));
            counted.insert(id, sum);
        }
    }
    counted.get(&root).copied().unwrap_or_default()
}

fn asks_for_lfs(odb: &Odb<'_>, blob: Oid, budget: &mut Budget) -> Result<bool, git2::Error> {
    if !budget.allows(odb, blob, MAX_ATTRIBUTES_BYTES)? {
        return Ok(false);
    }
    let attributes = odb.read(blob)?;
    let mut words = attributes.data().split(|byte| byte.is_ascii_whitespace());
    Ok(words.any(|word| word == b"filter=lfs"))
}

fn is_pointer(odb: &Odb<'_>, blob: Oid, budget: &mut Budget) -> Result<bool, git2::Error> {
    if !budget.allows(odb, blob, MAX_POINTER_BYTES)? {
        return Ok(false);
    }
    let content = odb.read(blob)?;
    Ok(POINTER_STARTS.iter().any(|start| content.data().starts_with(start)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use git2::{Repository, Signature, Time};

    const ATTRIBUTES: &[u8] = b"*.bin\tfilter=lfs diff=lfs\n";
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

    struct Fixture {
        repository: Repository,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let repository = Repository::init_bare(folder.path()).unwrap();
            // Thousands of small files would be the slowest part of the test.
            repository.odb().unwrap().add_new_mempack_backend(1_000).unwrap();
            Self { repository, _folder: folder }
        }

        fn tree(&self, entries: &[(&str, Oid, i32)]) -> Oid {
            let mut builder = self.repository.treebuilder(None).unwrap();
            for (name, id, mode) in entries {
                builder.insert(name, *id, *mode).unwrap();
            }
            builder.write().unwrap()
        }

        fn blob(&self, content: &[u8]) -> Oid {
            self.repository.blob(content).unwrap()
        }

        fn commit(&self, tree: Oid) -> CommitId {
            let who = Signature::new("a", "a@example.com", &Time::new(0, 0)).unwrap();
            let tree = self.repository.find_tree(tree).unwrap();
            let id = self.repository.commit(None, &who, &who, "x", &tree, &[]).unwrap();
            CommitId::from_bytes(id.as_bytes().try_into().unwrap())
        }
    }

    fn all_of(it: &Fixture, commit: CommitId) -> usize {
        let budget = Budget::new(LFS_TIMEOUT, LFS_LIMIT_BYTES);
        let LfsPaths { found, all } = lfs_paths_within(&it.repository.odb().unwrap(), commit, budget).unwrap();
        assert!(all);
        found
    }

    const FILE: i32 = 0o100_644;
    const FOLDER: i32 = 0o040_000;
    const SUBMODULE: i32 = 0o160_000;

    #[test]
    fn pointers_are_counted_by_path_where_an_attribute_asks_for_lfs() {
        let it = Fixture::new();
        let (pointer, other) = (it.blob(POINTER), it.blob(b"version 1"));
        let files = it.tree(&[
            ("a.bin", pointer, FILE),
            ("b", other, FILE),
            ("sub", Oid::from_bytes(&[7; 20]).unwrap(), SUBMODULE),
        ]);
        let plain = it.tree(&[("x", files, FOLDER), ("y", files, FOLDER)]);
        assert_eq!(all_of(&it, it.commit(plain)), 0);
        let attributes = it.tree(&[(".gitattributes", it.blob(ATTRIBUTES), FILE)]);
        let with = it.tree(&[("x", files, FOLDER), ("y", files, FOLDER), ("z", attributes, FOLDER)]);
        assert_eq!(all_of(&it, it.commit(with)), 2);
    }

    #[test]
    fn a_tree_that_is_deeper_than_the_stack_is_walked() {
        let it = Fixture::new();
        let mut tree = it.tree(&[(".gitattributes", it.blob(ATTRIBUTES), FILE), ("p", it.blob(POINTER), FILE)]);
        for _ in 0..20_000 {
            tree = it.tree(&[("d", tree, FOLDER)]);
        }
        assert_eq!(all_of(&it, it.commit(tree)), 1);
    }

    #[test]
    fn a_tree_with_more_paths_than_anybody_can_count_is_counted() {
        let it = Fixture::new();
        let mut tree = it.tree(&[(".gitattributes", it.blob(ATTRIBUTES), FILE), ("p", it.blob(POINTER), FILE)]);
        for _ in 0..12 {
            let names: Vec<_> = (0..10).map(|n| n.to_string()).collect();
            let entries: Vec<_> = names.iter().map(|name| (name.as_str(), tree, FOLDER)).collect();
            tree = it.tree(&entries);
        }
        assert_eq!(all_of(&it, it.commit(tree)), 10_usize.pow(12));
    }

    #[test]
    fn a_search_that_takes_too_long_or_reads_too_much_ends_with_what_it_has_found() {
        let it = Fixture::new();
        // The attributes are in the first folder visited, so some of the pointers are found too.
        let folder = |n: usize| it.tree(&[("p", it.blob(&[POINTER, n.to_string().as_bytes()].concat()), FILE)]);
        let names: Vec<_> = (0..100).map(|n| format!("{n:03}")).collect();
        let mut entries: Vec<_> = (0..100).map(|n| (names[n].as_str(), folder(n), FOLDER)).collect();
        entries.push((".gitattributes", it.blob(ATTRIBUTES), FILE));
        let commit = it.commit(it.tree(&entries));
        assert_eq!(all_of(&it, commit), 100);
        let within =
            |time, bytes| lfs_paths_within(&it.repository.odb().unwrap(), commit, Budget::new(time, bytes)).unwrap();
        assert_eq!(within(Duration::ZERO, u64::MAX), LfsPaths { found: 0, all: false });
        let long = Duration::from_secs(60);
        assert_eq!(within(long, 1), LfsPaths { found: 0, all: false });
        let LfsPaths { found, all } = within(long, 12_000);
        assert!((1..100).contains(&found) && !all, "{found}");
    }
}
