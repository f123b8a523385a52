//! Thin packs as Git makes them, completed and judged by Git.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod increments;
mod odd;
mod server;

use std::collections::BTreeSet;
use std::fs;

use testbed::mutate::mutated;
use testbed::repo::Repo;

use super::*;
use crate::git::fixture::{git, git_with_input, thin_pack, whole_pack};
use crate::git::pack::{IndexTurns, Shortage, WalkError, index, join, receive};
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// Packs that are kept in the order in which they came, as in a mirror.
struct Kept {
    dir: tempfile::TempDir,
    packs: Vec<PathBuf>,
}

impl Kept {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), packs: vec![] }
    }

    fn with(pack: &[u8]) -> Self {
        let mut kept = Self::new();
        kept.take(pack).unwrap();
        kept
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Takes a pack that may be thin. Of one that is refused, nothing is left.
    fn take(&mut self, pack: &[u8]) -> Result<Vec<u8>, PackError> {
        self.take_within(pack, 1 << 30, 64 << 20, &GO_ON)
    }

    fn take_within(
        &mut self,
        pack: &[u8],
        pack_bytes: u64,
        budget: u64,
        interrupt: &AtomicBool,
    ) -> Result<Vec<u8>, PackError> {
        let before = self.files();
        let (memory, turns) = (MemoryBudget::new(Some(budget)), IndexTurns::default());
        let limits = ReceiveLimits { pack_bytes, interrupt, memory: &memory, turns: &turns };
        let mut told = false;
        let taken = receive_thin(pack, self.dir(), &limits, || told = true);
        // Everything was given back.
        memory.alone(memory.bytes(), 0, &AtomicBool::new(true)).unwrap();
        match taken {
            Ok((pack, index)) => {
                assert!(told);
                let bytes = fs::read(&pack.file.path).unwrap();
                assert_eq!((bytes.len() as u64, crc32fast::hash(&bytes)), (pack.file.len, pack.file.crc32));
                assert_eq!(index.path, pack.file.path.with_extension("idx"));
                self.packs.push(pack.file.path);
                Ok(bytes)
            }
            Err(error) => {
                assert_eq!(self.files(), before);
                Err(error)
            }
        }
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        fs::read_dir(self.dir()).unwrap().map(|file| file.unwrap().path()).collect()
    }

    /// The ids in a pack, in the order of its entries.
    fn ids(&self, pack: usize) -> Vec<String> {
        let index = index::open(&self.packs[pack].with_extension("idx")).unwrap();
        let mut ids: Vec<_> = index.iter().map(|entry| (entry.pack_offset, entry.oid.to_string())).collect();
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Puts one pack in the place of these.
    fn join(&mut self, packs: std::ops::Range<usize>) {
        let (memory, turns) = (MemoryBudget::new(Some(64 << 20)), IndexTurns::default());
        let limits = ReceiveLimits { pack_bytes: 1 << 30, interrupt: &GO_ON, memory: &memory, turns: &turns };
        let (pack, _) = join(&self.packs[packs.clone()], self.dir(), &limits).unwrap();
        memory.alone(memory.bytes(), 0, &AtomicBool::new(true)).unwrap();
        for old in self.packs.splice(packs, [pack.file.path.clone()]).filter(|old| *old != pack.file.path) {
            fs::remove_file(old.with_extension("idx")).unwrap();
            fs::remove_file(old).unwrap();
        }
    }

    /// Git finds everything complete and well-formed at `commit`.
    fn check(&self, commit: CommitId) {
        let repository = tempfile::tempdir().unwrap();
        git(repository.path(), &["init", "-q", "--bare", "."]);
        for file in self.files() {
            fs::copy(&file, repository.path().join("objects/pack").join(file.file_name().unwrap())).unwrap();
        }
        git(repository.path(), &["update-ref", "refs/heads/main", &commit.to_string()]);
        git(repository.path(), &["fsck", "--full", "--strict", "--no-progress"]);
    }
}

fn id(commit: String) -> CommitId {
    commit.parse().unwrap()
}

/// Text in which each line differs.
fn text(lines: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..lines).map(|line| format!("{line} {:016x}{:016x}\n", random.u64(..), random.u64(..))).collect()
}

/// A repository with some files, and commits that each change one line in one of them.
fn history(commits: usize) -> (tempfile::TempDir, Repo, Vec<CommitId>) {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::init(dir.path()).unwrap();
    let files: Vec<_> = (0..40).map(|n| (format!("dir-{}/file-{n}", n % 4), text(60, n))).collect();
    let mut ids = vec![id(repo.commit("main", &files, "first").unwrap())];
    for n in 1..commits {
        let changed = text(60, (n % 3) as u64).replacen("\n7 ", &format!("\n7 changed in {n} "), 1);
        let file = (format!("dir-{}/file-{}", n % 3, n % 3), changed);
        ids.push(id(repo.commit("main", &[file], &format!("change {n}")).unwrap()));
    }
    (dir, repo, ids)
}

/// The objects of a pack's header.
fn count(pack: &[u8]) -> u32 {
    u32::from_be_bytes(pack[8..12].try_into().unwrap())
}

/// A pack with this content and a good checksum.
fn sealed(mut pack: Vec<u8>) -> Vec<u8> {
    let trailer = Sha1::digest(&pack);
    pack.extend_from_slice(&trailer);
    pack
}

#[test]
fn the_objects_that_a_thin_pack_lacks_stand_at_its_end() {
    let (_dir, repo, commits) = history(5);
    let mut kept = Kept::with(&whole_pack(repo.path(), commits[0]));
    for two in commits.windows(2) {
        let thin = thin_pack(repo.path(), two[1], two[0]);
        let completed = kept.take(&thin).unwrap();
        let own = count(&thin);
        assert!(count(&completed) > own, "{} objects of {own}", count(&completed));
        let entries = 12..thin.len() - 20;
        assert_eq!(thin[entries.clone()], completed[entries], "its entries are copied");
        // As Git completes it.
        let judge = tempfile::tempdir().unwrap();
        git(judge.path(), &["init", "-q", "--bare", "."]);
        git_with_input(judge.path(), &["index-pack", "--stdin"], &whole_pack(repo.path(), two[0]));
        let named = git_with_input(judge.path(), &["index-pack", "--strict", "--fix-thin", "--stdin"], &thin);
        let index = judge.path().join(format!("objects/pack/pack-{}.idx", named.rsplit('\t').next().unwrap()));
        let theirs: BTreeSet<_> = index::open(&index).unwrap().iter().map(|entry| entry.oid.to_string()).collect();
        let ours = kept.ids(kept.packs.len() - 1);
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(ours.into_iter().collect::<BTreeSet<_>>(), theirs);
        let pack = kept.packs.last().unwrap();
        git(kept.dir(), &["verify-pack", pack.to_str().unwrap()]);
    }
    kept.check(*commits.last().unwrap());
}

#[test]
fn a_pack_that_lacks_nothing_is_taken_as_it_is() {
    let (_dir, repo, commits) = history(3);
    let whole = whole_pack(repo.path(), commits[2]);
    let revisions = format!("{}\n^{}\n", commits[2], commits[1]);
    let not_thin = repo.pack_of(&revisions_of(&repo, &revisions), true).unwrap();
    // The deltas of this one name their bases by id, as those of a thin pack do.
    let by_id = repo.pack_of(&revisions_of(&repo, &format!("{}\n", commits[2])), false).unwrap();
    for pack in [whole, not_thin, by_id] {
        let mut kept = Kept::with(&whole_pack(repo.path(), commits[1]));
        let taken = kept.take(&pack).unwrap();
        assert_eq!(taken, pack);
        kept.check(commits[2]);
        // The same as without the possibility that it is thin.
        let other = Kept::with(&whole_pack(repo.path(), commits[1]));
        let (memory, turns) = (MemoryBudget::new(None), IndexTurns::default());
        let limits = ReceiveLimits { pack_bytes: 1 << 30, interrupt: &GO_ON, memory: &memory, turns: &turns };
        receive(&pack[..], other.dir(), &limits, drop).unwrap();
        let contents = |kept: &Kept| -> Vec<_> { kept.files().iter().map(|file| fs::read(file).unwrap()).collect() };
        assert_eq!(contents(&kept), contents(&other));
    }
}

fn revisions_of(repo: &Repo, revisions: &str) -> Vec<String> {
    let listed =
        git_with_input(repo.path(), &["rev-list", "--objects", "--no-object-names", "--stdin"], revisions.as_bytes());
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn what_is_nowhere_is_the_error_that_it_always_was() {
    let (_dir, repo, commits) = history(4);
    let thin = thin_pack(repo.path(), commits[3], commits[2]);
    let nowhere = Kept::new().take(&thin).unwrap_err();
    assert!(matches!(&nowhere, PackError::Damaged(why) if why == "the base of a delta is not in it"), "{nowhere:?}");
    // Some are there, others are not.
    let partly = Kept::with(&whole_pack(repo.path(), commits[0])).take(&thin).unwrap_err();
    assert!(matches!(partly, PackError::Damaged(_) | PackError::Incomplete { .. }), "{partly:?}");
    let empty = sealed(b"PACK\0\0\0\x02\0\0\0\0".to_vec());
    assert!(matches!(Kept::new().take(&empty), Err(PackError::Empty)));
}

#[test]
fn it_ends_at_its_limits_and_when_it_is_to_give_up() {
    let (_dir, repo, commits) = history(2);
    let whole = whole_pack(repo.path(), commits[0]);
    let thin = thin_pack(repo.path(), commits[1], commits[0]);
    let completed = Kept::with(&whole).take(&thin).unwrap().len() as u64;
    let within = |bytes, interrupt| Kept::with(&whole).take_within(&thin, bytes, 64 << 20, interrupt);
    within(completed, &GO_ON).unwrap();
    for limit in [completed - 1, thin.len() as u64, thin.len() as u64 - 1] {
        let refused = within(limit, &GO_ON).unwrap_err();
        assert!(matches!(refused, PackError::TooLarge { limit: told } if told == limit), "{refused:?}");
    }
    let stopped = within(1 << 30, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(&stopped, PackError::Io(error) if error.kind() == io::ErrorKind::Interrupted), "{stopped:?}");
}

#[test]
fn a_base_is_decoded_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::init(dir.path()).unwrap();
    let lines = |changed: usize| text(160_000, 1).replacen("\n7 ", &format!("\n7 {changed} "), 1);
    let commits: Vec<_> = (0..3).map(|n| id(repo.commit("main", &[("large", lines(n))], "change").unwrap())).collect();
    let mut kept = Kept::with(&whole_pack(repo.path(), commits[0]));
    // This one's base is stored whole.
    kept.take(&thin_pack(repo.path(), commits[1], commits[0])).unwrap();
    let thin = thin_pack(repo.path(), commits[2], commits[1]);
    assert!(thin.len() < 2_000);
    let refused = kept.take_within(&thin, 1 << 30, 0, &GO_ON).unwrap_err();
    assert!(matches!(refused, PackError::Memory(Shortage::Objects { .. } | Shortage::Deltas { .. })), "{refused:?}");
    kept.take(&thin).unwrap();
    kept.check(commits[2]);
}

#[test]
fn a_base_that_was_damaged_since_it_came_is_named_as_such() {
    let (_dir, repo, commits) = history(2);
    let thin = thin_pack(repo.path(), commits[1], commits[0]);
    let whole = whole_pack(repo.path(), commits[0]);
    let (mut named, mut taken) = (0, 0);
    for seed in 0..200 {
        let mut kept = Kept::with(&whole);
        for extension in ["pack", "idx"] {
            let file = kept.packs[0].with_extension(extension);
            let damaged = mutated(&fs::read(&file).unwrap(), seed);
            fs::remove_file(&file).unwrap();
            fs::write(file, damaged).unwrap();
        }
        match kept.take(&thin) {
            // What is damaged is not needed for it.
            Ok(_) => taken += 1,
            Err(PackError::Kept(SubsetError::Objects(WalkError::Damaged(_)))) => named += 1,
            // An index that was damaged does not have all that was there.
            Err(PackError::Damaged(_) | PackError::Incomplete { .. }) => {}
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(named > 50, "{named} named, {taken} taken");
}

#[test]
fn a_damaged_thin_pack_is_refused_or_harmless() {
    let (_dir, repo, commits) = history(6);
    let whole = whole_pack(repo.path(), commits[0]);
    let thin = thin_pack(repo.path(), commits[5], commits[0]);
    let mut taken = 0;
    for seed in 0..400 {
        let copy = match seed % 2 {
            0 => mutated(&thin, seed),
            // The sender has sealed the damage with a good checksum.
            _ => sealed(mutated(&thin[..thin.len() - 20], seed)),
        };
        let mut kept = Kept::with(&whole);
        if kept.take(&copy).is_ok() {
            taken += 1;
            let index = kept.packs[1].to_str().unwrap().to_owned();
            git(kept.dir(), &["verify-pack", &index]);
            if kept.ids(1).contains(&commits[5].to_string()) {
                kept.check(commits[5]);
            }
        }
    }
    assert!(taken < 40, "{taken}");
}
