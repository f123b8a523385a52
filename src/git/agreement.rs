//! Publishing and `restore` agree: a pack is received if, and only if, it is verified as good.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use fastrand::Rng;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_hash::ObjectId;
use gix_object::Kind;
use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::fixture::git;
use super::pack::{HASH, IndexTurns, ReceiveLimits, receive};
use super::store::Store;
use super::verify::verify;
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;

/// What is wrong with a pack, and whether it is good nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Missing,
    Twice,
    TreeForABlob,
    BlobForATree,
    TreeForAParent,
    BlobForACommitsTree,
    TagForAParent,
    TagOfAnotherKind,
    UnknownMode,
    Malformed,
    CommitWithoutAuthor,
}

const ALL: [(Wrong, bool); 12] = [
    (Wrong::Nothing, true),
    (Wrong::Missing, false),
    (Wrong::Twice, true),
    (Wrong::TreeForABlob, false),
    (Wrong::BlobForATree, false),
    (Wrong::TreeForAParent, false),
    (Wrong::BlobForACommitsTree, false),
    (Wrong::TagForAParent, false),
    (Wrong::TagOfAnotherKind, false),
    (Wrong::UnknownMode, true),
    (Wrong::Malformed, false),
    (Wrong::CommitWithoutAuthor, true),
];

type Object = (Kind, Vec<u8>);

fn id((kind, content): &Object) -> ObjectId {
    gix_object::compute_hash(HASH, *kind, content).unwrap()
}

fn entry(mode: &str, name: &str, id: ObjectId) -> Vec<u8> {
    [mode.as_bytes(), b" ", name.as_bytes(), b"\0", id.as_slice()].concat()
}

fn commit(tree: ObjectId, parents: &[ObjectId], text: &str) -> Object {
    let parents: String = parents.iter().map(|parent| format!("parent {parent}\n")).collect();
    (Kind::Commit, format!("tree {tree}\n{parents}author a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\n{text}").into())
}

/// The objects of each version of a history with one thing wrong in it, and its head.
fn history(wrong: Wrong, random: &mut Rng) -> (Vec<Vec<Object>>, CommitId) {
    let mut history = vec![];
    let mut old = None;
    let mut parents = vec![];
    let versions = random.usize(2..6);
    let broken = random.usize(1..versions);
    for version in 0..versions {
        let is = |what| what == wrong && version == broken;
        let blob = (Kind::Blob, format!("blob {version} {}\n", "x".repeat(random.usize(0..300))).into_bytes());
        let folder = (Kind::Tree, entry("100644", "file", id(&blob)));
        let mut root = entry("100755", "a", id(&blob));
        root.extend(entry("40000", "dir", id(&folder)));
        if is(Wrong::TreeForABlob) {
            root.extend(entry("100644", "wrong", id(&folder)));
        }
        if is(Wrong::BlobForATree) {
            // One of its own version, or of the one before.
            root.extend(entry("40000", "wrong", old.filter(|_| random.bool()).unwrap_or(id(&blob))));
        }
        old = Some(id(&blob));
        if is(Wrong::UnknownMode) {
            for (name, mode) in ["0", "755", "20000", "140000"].into_iter().enumerate() {
                root.extend(entry(mode, &format!("odd{name}"), ObjectId::Sha1([9; 20])));
            }
        }
        if is(Wrong::Malformed) {
            root.extend(b"100644 half");
        }
        let root = (Kind::Tree, root);
        let object_kind = if is(Wrong::TagOfAnotherKind) { "commit" } else { "tree" };
        let tag = format!("object {}\ntype {object_kind}\ntag v{version}\ntagger a <a@b> 0 +0000\n\n", id(&root));
        let tag = (Kind::Tag, tag.into_bytes());
        if is(Wrong::TreeForAParent) {
            parents.push(id(&root));
        }
        if is(Wrong::TagForAParent) {
            parents.push(id(&tag));
        }
        let tree = if is(Wrong::BlobForACommitsTree) { id(&blob) } else { id(&root) };
        let mut head = commit(tree, &parents, &format!("version {version}"));
        if is(Wrong::CommitWithoutAuthor) {
            head.1 = format!("tree {tree}\nparent {}\n\nno author", parents[0]).into();
        }
        parents = vec![id(&head)];
        history.push(vec![blob, folder, root, tag, head]);
    }
    if wrong == Wrong::Missing {
        // Anything that something refers to: not a tag.
        history[broken].remove([0, 1, 2, 4][random.usize(..4)]);
    }
    (history, CommitId::from_bytes(parents[0].as_slice().try_into().unwrap()))
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy)]
enum Stored {
    Whole,
    /// As a delta on another object, by its distance. That one comes before it.
    ByOffset(usize),
    /// As a delta on another object, by its id. That one is before or after it.
    ById(usize),
}

/// A pack of these objects in a random order, some of them as deltas on others.
fn random_pack(objects: &[Object], twice: bool, random: &mut Rng) -> Vec<u8> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    random.shuffle(&mut order);
    if twice {
        order.push(random.usize(..objects.len()));
    }
    let mut written = vec![];
    let entries = order.into_iter().map(|at| {
        // A base comes before in the history, wherever it is in the pack: no circles. Git refuses a delta that names a
        // base that is there twice.
        let possible = |base: &usize| objects[*base].0 == objects[at].0 && (!twice || written.contains(base));
        let bases: Vec<_> = (0..at).filter(possible).collect();
        let stored = match bases.get(random.usize(..2 * bases.len() + 1)) {
            Some(&base) if twice || written.contains(&base) && random.bool() => Stored::ByOffset(base),
            Some(&base) => Stored::ById(base),
            None => Stored::Whole,
        };
        written.push(at);
        (at, stored)
    });
    let entries: Vec<_> = entries.collect();
    pack(objects, &entries)
}

/// A pack of these entries, in this order.
fn pack(objects: &[Object], entries: &[(usize, Stored)]) -> Vec<u8> {
    let mut pack = [&b"PACK\0\0\0\x02"[..], &u32::try_from(entries.len()).unwrap().to_be_bytes()].concat();
    let mut offsets = vec![None; objects.len()];
    for (at, stored) in entries {
        let (kind, content) = &objects[*at];
        let offset = pack.len();
        let number = match (stored, kind) {
            (Stored::ByOffset(_), _) => 6,
            (Stored::ById(_), _) => 7,
            (Stored::Whole, Kind::Commit) => 1,
            (Stored::Whole, Kind::Tree) => 2,
            (Stored::Whole, Kind::Blob) => 3,
            (Stored::Whole, Kind::Tag) => 4,
        };
        let stored_content = match stored {
            Stored::Whole => content.clone(),
            Stored::ByOffset(base) | Stored::ById(base) => delta(objects[*base].1.len(), content),
        };
        head(&mut pack, number, stored_content.len());
        match stored {
            Stored::Whole => {}
            Stored::ByOffset(base) => pack.extend(distance(offset - offsets[*base].unwrap())),
            Stored::ById(base) => pack.extend(id(&objects[*base]).as_slice()),
        }
        deflate(&mut pack, &stored_content);
        offsets[*at] = Some(offset);
    }
    let checksum = Sha1::digest(&pack);
    pack.extend(checksum);
    pack
}

/// An entry's header: its type and size (gitformat-pack(5)).
fn head(pack: &mut Vec<u8>, kind: u8, size: usize) {
    let first = kind << 4 | u8::try_from(size & 0xf).unwrap();
    pack.extend(continued(first, size >> 4));
}

fn continued(first: u8, mut rest: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    while rest > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    bytes
}

fn distance(mut distance: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(distance & 0x7f).unwrap()];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        bytes.insert(0, 0x80 | u8::try_from(distance & 0x7f).unwrap());
    }
    bytes
}

/// A delta that takes nothing from its base.
fn delta(base_size: usize, content: &[u8]) -> Vec<u8> {
    let size = |size: usize| continued(u8::try_from(size & 0x7f).unwrap(), size >> 7);
    let inserted = content.chunks(127).flat_map(|chunk| [&[u8::try_from(chunk.len()).unwrap()], chunk].concat());
    [size(base_size), size(content.len()), inserted.collect()].concat()
}

fn deflate(pack: &mut Vec<u8>, content: &[u8]) {
    let mut zlib = ZlibEncoder::new(pack, Compression::fast());
    zlib.write_all(content).unwrap();
    zlib.finish().unwrap();
}

/// Whether publishing takes the packs, one after the other, for the commit's history.
fn are_received(packs: &[Vec<u8>], commit: CommitId, git_dir: &Path) -> bool {
    let dir = git_dir.join("objects/pack");
    fs::create_dir_all(&dir).unwrap();
    let (interrupt, turns, memory) = (AtomicBool::new(false), IndexTurns::default(), MemoryBudget::new(None));
    let limits = ReceiveLimits { pack_bytes: u64::MAX, interrupt: &interrupt, memory: &memory, turns: &turns };
    let all = packs.iter().all(|pack| receive(&pack[..], &dir, &limits, |_| {}).is_ok());
    all && Store::open(git_dir).unwrap().require_commit(commit).is_ok()
}

/// Whether `restore` finds the same packs good, with indexes that Git made.
fn are_verified(packs: &[Vec<u8>], commit: CommitId, dir: &Path) -> bool {
    let folder = dir.join(".git/objects/pack");
    fs::create_dir_all(&folder).unwrap();
    for (number, pack) in packs.iter().enumerate() {
        let name = format!("pack-{number}.pack");
        fs::write(folder.join(&name), pack).unwrap();
        git(&folder, &["index-pack", &name]);
    }
    verify(dir, commit, &MemoryBudget::new(None)).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn packs_are_received_if_and_only_if_they_are_verified_as_good(
        (wrong, good) in proptest::sample::select(&ALL[..]), seed in any::<u64>(),
    ) {
        let mut random = Rng::with_seed(seed);
        let (history, commit) = history(wrong, &mut random);
        // A whole history and sometimes an increment.
        let (first, second) = history.split_at(random.usize(1..=history.len()));
        let packs: Vec<_> = [first, second]
            .iter()
            .filter(|versions| !versions.is_empty())
                .map(|versions| random_pack(&versions.concat(), wrong == Wrong::Twice, &mut random))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let verified = are_verified(&packs, commit, dir.path());
        let received = are_received(&packs, commit, &dir.path().join("mirror"));
        prop_assert_eq!((received, verified), (good, good), "{:?}", wrong);
    }
}

/// Two commits; the second one's tree, or the second commit itself, refers to what is in no pack.
fn with_a_gap(of_the_tree: bool) -> (Vec<Object>, CommitId) {
    let gone = ObjectId::Sha1([7; 20]);
    let blob = (Kind::Blob, b"blob".to_vec());
    let first = (Kind::Tree, entry("100644", "a", id(&blob)));
    let middle = (Kind::Tree, entry("100644", "b", id(&blob)));
    let last = (Kind::Tree, entry("100644", "c", if of_the_tree { gone } else { id(&blob) }));
    let root = commit(id(&first), &[], "root");
    let next = commit(id(&middle), &[id(&root)], "next");
    let parents = if of_the_tree { vec![id(&next)] } else { vec![id(&next), gone] };
    let top = commit(id(&last), &parents, "top");
    let head = CommitId::from_bytes(id(&top).as_slice().try_into().unwrap());
    (vec![blob, first, middle, last, root, next, top], head)
}

#[test]
fn a_gap_that_only_a_delta_names_is_found_however_the_delta_names_its_base() {
    use Stored::{ById, ByOffset, Whole};
    let (one, two, three) = (1, 2, 3);
    // Trees are 1, 2 and 3, the last with the gap; commits 4, 5 and 6.
    type Shape = [(usize, Stored); 3];
    let shapes: [(&str, [Shape; 2]); 5] = [
        (
            "the base before it",
            [[(one, Whole), (two, Whole), (three, ById(one))], [(4, Whole), (5, Whole), (6, ById(4))]],
        ),
        (
            "the base after it",
            [[(three, ById(one)), (two, Whole), (one, Whole)], [(6, ById(4)), (5, Whole), (4, Whole)]],
        ),
        (
            "by offset on one that names a base before it",
            [[(one, Whole), (two, ById(one)), (three, ByOffset(two))], [(4, Whole), (5, ById(4)), (6, ByOffset(5))]],
        ),
        (
            "by offset on one that names a base after it",
            [[(two, ById(one)), (three, ByOffset(two)), (one, Whole)], [(5, ById(4)), (6, ByOffset(5)), (4, Whole)]],
        ),
        (
            "by id on one by id on a base after both",
            [[(three, ById(two)), (two, ById(one)), (one, Whole)], [(6, ById(5)), (5, ById(4)), (4, Whole)]],
        ),
    ];
    for (what, [trees, commits]) in shapes {
        let entries = [&commits[..], &trees[..], &[(0, Whole)]].concat();
        for of_the_tree in [true, false] {
            let (objects, head) = with_a_gap(of_the_tree);
            let dir = tempfile::tempdir().unwrap();
            let packs = [pack(&objects, &entries)];
            assert!(!are_received(&packs, head, &dir.path().join("mirror")), "{what}");
            assert!(!are_verified(&packs, head, dir.path()), "{what}");
        }
        // The same without a gap.
        let (mut objects, _) = with_a_gap(true);
        objects[3].1 = entry("100644", "c", id(&objects[0]));
        objects[6] = commit(id(&objects[3]), &[id(&objects[5])], "top");
        let head = CommitId::from_bytes(id(&objects[6]).as_slice().try_into().unwrap());
        let dir = tempfile::tempdir().unwrap();
        assert!(are_received(&[pack(&objects, &entries)], head, &dir.path().join("mirror")), "{what}");
    }
}

#[test]
fn copies_of_an_object_that_are_deltas_on_each_other_are_decoded_once() {
    use Stored::{ById, Whole};
    let (mut objects, _) = with_a_gap(true);
    objects[3].1 = entry("100644", "c", id(&objects[0]));
    objects[6] = commit(id(&objects[3]), &[id(&objects[5])], "top");
    let head = CommitId::from_bytes(id(&objects[6]).as_slice().try_into().unwrap());
    let others = [(0, Whole), (3, Whole), (4, Whole), (5, Whole), (6, Whole)];
    for circle in [
        [(1, ById(2)), (2, ById(1)), (1, Whole)],
        [(1, Whole), (2, ById(1)), (1, ById(2))],
        [(2, ById(1)), (1, Whole), (1, ById(2))],
    ] {
        // Git refuses such a pack, so the index is ours.
        let dir = tempfile::tempdir().unwrap();
        let pack = pack(&objects, &[&circle[..], &others].concat());
        assert!(are_received(&[pack], head, &dir.path().join(".git")));
        verify(dir.path(), head, &MemoryBudget::new(None)).unwrap();
    }
}
