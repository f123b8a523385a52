//! What a fetched repository is found to be, besides good: a rewritten branch, a user of Git LFS.
//!
//! Invariant: nothing here decides or changes anything, and the work is bounded whatever the repository holds.

use std::collections::{HashMap, HashSet};

use git2::{ObjectType, Odb, Oid, Repository};

use crate::key::CommitId;

/// Files and directories that are looked at for LFS pointers; a larger tree is looked at in part.
const MAX_TREE_ENTRIES: usize = 1_000_000;
/// The largest tree that is read, in bytes; one of 100,000 files takes about 5 MB.
const MAX_TREE_BYTES: usize = 64 << 20;
/// The largest attributes file that is read, in bytes; Git itself reads none that is larger than 100 MB.
const MAX_ATTRIBUTES_BYTES: usize = 1 << 20;
/// The largest blob that can be a pointer, in bytes (the specification's limit).
const MAX_POINTER_BYTES: usize = 1_024;
/// What a pointer begins with, now and in the first version of the specification.
const POINTER_STARTS: [&[u8]; 2] =
    [b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"];

/// Whether the branch was rewritten: `published` is not in the history of the commit that the repository was fetched
/// for, which holds that history and nothing else. What an older program wrote in a commit's place says nothing.
///
/// # Errors
/// Where the repository cannot be read.
pub fn rewritten_from(repository: &Repository, published: Option<&str>) -> Result<Option<CommitId>, git2::Error> {
    let Some(published) = published.and_then(|commit| commit.parse::<CommitId>().ok()) else { return Ok(None) };
    let kept = repository.odb()?.exists(Oid::from_bytes(published.as_bytes())?);
    Ok((!kept).then_some(published))
}

/// How many paths of the commit are Git LFS pointers. Without `filter=lfs` in any of its `.gitattributes` that is none,
/// and no other blob is looked at.
///
/// # Errors
/// Where the repository cannot be read.
pub fn lfs_paths(repository: &Repository, commit: CommitId) -> Result<usize, git2::Error> {
    let odb = repository.odb()?;
    let root = repository.find_commit(Oid::from_bytes(commit.as_bytes())?)?.tree_id();
    let mut uses_lfs = false;
    folders(repository, &odb, root, |name, blob| {
        uses_lfs = uses_lfs || name == b".gitattributes" && asks_for_lfs(&odb, blob)?;
        Ok(())
    })?;
    if !uses_lfs {
        return Ok(0);
    }
    let mut pointers = HashSet::new();
    let folders = folders(repository, &odb, root, |_, blob| {
        if is_pointer(&odb, blob)? {
            pointers.insert(blob);
        }
        Ok(())
    })?;
    Ok(paths(&folders, root, &pointers))
}

/// What is in a directory: its files and its directories.
#[derive(Default)]
struct Folder {
    files: Vec<Oid>,
    folders: Vec<Oid>,
}

/// Every directory of a tree, one that is there twice only once, within the bounds above; `visit` sees the files. libgit2's
/// own walk has no bounds, and goes as deep on the stack as the tree does.
fn folders(
    repository: &Repository,
    odb: &Odb<'_>,
    root: Oid,
    mut visit: impl FnMut(&[u8], Oid) -> Result<(), git2::Error>,
) -> Result<HashMap<Oid, Folder>, git2::Error> {
    let (mut found, mut waiting, mut left) = (HashMap::new(), vec![root], MAX_TREE_ENTRIES);
    while let Some(id) = waiting.pop() {
        if found.contains_key(&id) || odb.read_header(id)?.0 > MAX_TREE_BYTES {
            continue;
        }
        let mut folder = Folder::default();
        for entry in repository.find_tree(id)?.iter().take(left) {
            left -= 1;
            match entry.kind() {
                Some(ObjectType::Tree) => folder.folders.push(entry.id()),
                Some(ObjectType::Blob) => {
                    visit(entry.name_bytes(), entry.id())?;
                    folder.files.push(entry.id());
                }
                // A submodule's commit is not here.
                Some(_) | None => {}
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

fn asks_for_lfs(odb: &Odb<'_>, blob: Oid) -> Result<bool, git2::Error> {
    if odb.read_header(blob)?.0 > MAX_ATTRIBUTES_BYTES {
        return Ok(false);
    }
    let attributes = odb.read(blob)?;
    let mut words = attributes.data().split(|byte| byte.is_ascii_whitespace());
    Ok(words.any(|word| word == b"filter=lfs"))
}

fn is_pointer(odb: &Odb<'_>, blob: Oid) -> Result<bool, git2::Error> {
    if odb.read_header(blob)?.0 > MAX_POINTER_BYTES {
        return Ok(false);
    }
    let content = odb.read(blob)?;
    Ok(POINTER_STARTS.iter().any(|start| content.data().starts_with(start)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use git2::{Signature, Time};

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

        fn commit(&self, tree: Oid, parent: Option<CommitId>) -> CommitId {
            let who = Signature::new("a", "a@example.com", &Time::new(0, 0)).unwrap();
            let tree = self.repository.find_tree(tree).unwrap();
            let parent = parent.map(|id| self.repository.find_commit(Oid::from_bytes(id.as_bytes()).unwrap()).unwrap());
            let parents: Vec<_> = parent.iter().collect();
            let id = self.repository.commit(None, &who, &who, "x", &tree, &parents).unwrap();
            CommitId::from_bytes(id.as_bytes().try_into().unwrap())
        }
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
        assert_eq!(lfs_paths(&it.repository, it.commit(plain, None)).unwrap(), 0);
        let attributes = it.tree(&[(".gitattributes", it.blob(ATTRIBUTES), FILE)]);
        let with = it.tree(&[("x", files, FOLDER), ("y", files, FOLDER), ("z", attributes, FOLDER)]);
        assert_eq!(lfs_paths(&it.repository, it.commit(with, None)).unwrap(), 2);
    }

    #[test]
    fn a_tree_that_is_deeper_than_the_stack_is_walked() {
        let it = Fixture::new();
        let mut tree = it.tree(&[(".gitattributes", it.blob(ATTRIBUTES), FILE), ("p", it.blob(POINTER), FILE)]);
        for _ in 0..20_000 {
            tree = it.tree(&[("d", tree, FOLDER)]);
        }
        assert_eq!(lfs_paths(&it.repository, it.commit(tree, None)).unwrap(), 1);
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
        assert_eq!(lfs_paths(&it.repository, it.commit(tree, None)).unwrap(), 10_usize.pow(12));
    }

    #[test]
    fn a_commit_that_is_not_in_the_history_was_rewritten() {
        let it = Fixture::new();
        let tree = it.tree(&[]);
        let first = it.commit(tree, None);
        it.commit(tree, Some(first));
        let published = |commit: &str| rewritten_from(&it.repository, Some(commit)).unwrap();
        assert_eq!(published(&first.to_string()), None);
        let gone = CommitId::from_bytes([9; 20]);
        assert_eq!(published(&gone.to_string()), Some(gone));
        assert_eq!(published("v1.2"), None, "an older program's name says nothing");
        assert_eq!(rewritten_from(&it.repository, None).unwrap(), None);
    }
}
