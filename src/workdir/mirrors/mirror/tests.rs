//! Mirrors that are brought forward by thin packs, and the increments that are made of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use testbed::mutate::mutated;
use testbed::repo::Repo;

use super::*;
use crate::git::fixture::{git, git_with_input, thin_pack, whole_pack};
use crate::git::pack::thin::receive_thin;
use crate::git::pack::{IndexTurns, receive};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A source with one branch, and its mirror.
struct Near {
    _dir: tempfile::TempDir,
    repo: Repo,
    store: Arc<MirrorStore>,
    source: Source,
    memory: MemoryBudget,
    turns: IndexTurns,
}

impl Near {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::init(dir.path().join("source")).unwrap();
        let mirrors = dir.path().join("mirrors");
        create_private_dir(&mirrors).unwrap();
        let store = Arc::new(MirrorStore::open(mirrors, u64::MAX).unwrap());
        let source = Source { project: "g/p".to_owned(), branch: "main".to_owned() };
        let memory = MemoryBudget::new(Some(64 << 20));
        Self { _dir: dir, repo, store, source, memory, turns: IndexTurns::default() }
    }

    fn limits(&self) -> ReceiveLimits<'_> {
        ReceiveLimits { pack_bytes: 1 << 30, interrupt: &GO_ON, memory: &self.memory, turns: &self.turns }
    }

    fn commit(&self, files: &[(&str, String)]) -> CommitId {
        self.repo.commit("main", files, "change").unwrap().parse().unwrap()
    }

    async fn lease(&self) -> Mirror {
        self.store.lease(&self.source).await
    }

    /// Brings the mirror to this commit. Returns the thin pack that came.
    fn update(&self, mirror: &mut Mirror, commit: CommitId) -> Result<Vec<u8>, MirrorError> {
        let Some(have) = mirror.commit() else {
            mirror.start_afresh()?;
            let whole = whole_pack(self.repo.path(), commit);
            let (pack, index) = receive(&whole[..], &mirror.pack_dir(), &self.limits(), drop)?;
            mirror.finish_fresh(commit, StoredPack::new(&pack, &index), &self.limits())?;
            return Ok(whole);
        };
        let thin = thin_pack(self.repo.path(), commit, have);
        let (pack, index) = receive_thin(&thin[..], &mirror.pack_dir(), &self.limits(), || {})?;
        assert!(mirror.finish_increment(commit, StoredPack::new(&pack, &index), &self.limits())?);
        self.nothing_is_held();
        Ok(thin)
    }

    fn nothing_is_held(&self) {
        self.memory.alone(self.memory.bytes(), 0, &AtomicBool::new(true)).unwrap();
    }

    fn increment(&self, mirror: &Mirror, from: CommitId, to: CommitId) -> Result<IncrementPack, MirrorError> {
        let written = mirror.write_increment(from, to, &self.memory, &GO_ON);
        self.nothing_is_held();
        written
    }

    /// Git completes a repository that has `from`, and nothing else, with the increment.
    fn check(&self, increment: &[u8], from: CommitId, to: CommitId) {
        let far = tempfile::tempdir().unwrap();
        git(far.path(), &["init", "-q", "--bare", "."]);
        git_with_input(far.path(), &["index-pack", "--stdin"], &whole_pack(self.repo.path(), from));
        git_with_input(far.path(), &["index-pack", "--strict", "--fix-thin", "--stdin"], increment);
        git(far.path(), &["update-ref", "refs/heads/main", &to.to_string()]);
        git(far.path(), &["fsck", "--full", "--strict", "--no-progress"]);
    }
}

fn sizes(mirror: &Mirror) -> HashMap<String, u64> {
    let packs = mirror.state.iter().flat_map(|state| &state.packs);
    packs.map(|pack| (pack.name.clone(), pack.pack_bytes)).collect()
}

/// Lines of which each differs from the others, `changed` in one of them.
fn text(lines: usize, seed: u64, changed: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let line = |line| format!("{line} {:016x}{:016x}\n", random.u64(..), random.u64(..));
    let mut text: Vec<_> = (0..lines).map(line).collect();
    text[changed % lines] = format!("changed {changed}\n");
    text.concat()
}

#[tokio::test]
async fn packs_of_increments_are_joined_into_less_than_they_are() {
    let near = Near::new();
    let names: Vec<_> = (0..30).map(|n| format!("dir-{}/file-{n}", n % 5)).collect();
    let all: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), text(80, n, 0))).collect();
    near.commit(&all);
    let mut mirror = near.lease().await;
    near.update(&mut mirror, near.repo.head("main").unwrap().parse().unwrap()).unwrap();
    let mut commits = vec![mirror.commit().unwrap()];
    let (mut joins, mut before_bytes, mut after_bytes, mut came) = (0, 0, 0, 0);
    for n in 1..=60_usize {
        let files = (n..n + 1 + n % 3).map(|at| (&*names[at * 7 % 30], text(80, (at * 7 % 30) as u64, n)));
        let commit = near.commit(&files.collect::<Vec<_>>());
        let before = sizes(&mirror);
        came += near.update(&mut mirror, commit).unwrap().len();
        commits.push(commit);
        let after = sizes(&mirror);
        assert!(after.len() <= MAX_PACKS);
        let gone: Vec<_> = before.iter().filter(|(name, _)| !after.contains_key(*name)).collect();
        if !gone.is_empty() {
            joins += 1;
            // The pack that came last is not joined.
            let newest = mirror.state.as_ref().unwrap().packs.last().unwrap().name.clone();
            let new = after.iter().filter(|(name, _)| !before.contains_key(*name) && **name != newest);
            let (sum, joined): (u64, u64) =
                (gone.iter().map(|(_, bytes)| *bytes).sum(), new.map(|(_, bytes)| bytes).sum());
            assert!(joined <= sum && joined > 0, "step {n}: {joined} bytes instead of {sum} in {}", gone.len());
            before_bytes += sum;
            after_bytes += joined;
        }
        let files = fs::read_dir(mirror.pack_dir()).unwrap().count();
        assert_eq!(files, 2 * after.len(), "nothing else is left");
    }
    println!("{joins} joins made {after_bytes} bytes of {before_bytes}; {came} came; {:?}", sizes(&mirror));
    assert!(joins > 5);
    for (from, to) in [(0, 60), (17, 60), (59, 60), (30, 31), (3, 41), (60, 60)] {
        let increment = near.increment(&mirror, commits[from], commits[to]).unwrap();
        near.check(&fs::read(&increment.file().path).unwrap(), commits[from], commits[to]);
    }
}

#[tokio::test]
async fn an_increment_is_as_thin_as_git_makes_it_and_the_mirror_stays_small() {
    let near = Near::new();
    let names: Vec<_> = (0..3_000).map(|n| format!("file-{n:05}.txt")).collect();
    let all: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), text(5, n, 0))).collect();
    near.commit(&all);
    let mut mirror = near.lease().await;
    near.update(&mut mirror, near.repo.head("main").unwrap().parse().unwrap()).unwrap();
    let first = mirror.state.as_ref().unwrap().bytes();
    let mut commits = vec![mirror.commit().unwrap()];
    let (mut most, mut ours, mut theirs) = (0, 0, 0);
    let steps = std::env::var("STEPS").map_or(60, |steps| steps.parse().unwrap());
    for n in 1..=steps {
        let at = n * 37 % 3_000;
        let commit = near.commit(&[(&names[at], text(5, at as u64, n))]);
        let before = *commits.last().unwrap();
        let thin = near.update(&mut mirror, commit).unwrap().len() as u64;
        commits.push(commit);
        let increment = near.increment(&mirror, before, commit).unwrap().file().len;
        assert!(increment <= thin + 100, "step {n}: {increment} bytes instead of {thin}");
        most = most.max(increment.saturating_sub(thin));
        ours += increment;
        theirs += thin;
        assert!(sizes(&mirror).len() <= MAX_PACKS);
    }
    let mirror_bytes = mirror.state.as_ref().unwrap().bytes() - first;
    println!(
        "{steps} steps: {ours} bytes of ours, {theirs} of Git's, at most {most} more; the mirror has grown by {mirror_bytes} \
         from {first}: {:?}",
        sizes(&mirror)
    );
    // Several steps at once, over packs that were joined.
    for from in [0, steps / 2, steps - 9] {
        let (base, last) = (commits[from], *commits.last().unwrap());
        let increment = near.increment(&mirror, base, last).unwrap();
        let thin = thin_pack(near.repo.path(), last, base).len() as u64;
        println!("{} steps at once: {} bytes of ours, {thin} of Git's", steps - from, increment.file().len);
        assert!(increment.file().len <= thin + thin / 4 + 300);
        near.check(&fs::read(&increment.file().path).unwrap(), base, last);
    }
    // Seven versions of a tree that is stored whole once for each, and their deltas.
    assert!(mirror_bytes < 10 * 80_000 + 4 * ours, "{mirror_bytes}");
}

#[tokio::test]
async fn content_that_returns_is_a_delta_again() {
    let near = Near::new();
    let mut mirror = near.lease().await;
    let mut commits = vec![];
    for changed in [1, 2, 1, 2, 1] {
        commits.push(near.commit(&[("large", text(3_000, 1, changed)), ("other", text(10, 2, commits.len()))]));
        near.update(&mut mirror, *commits.last().unwrap()).unwrap();
    }
    for two in commits.windows(2) {
        let increment = near.increment(&mirror, two[0], two[1]).unwrap();
        let thin = thin_pack(near.repo.path(), two[1], two[0]).len() as u64;
        assert!(increment.file().len <= thin + 300, "{} bytes instead of {thin}", increment.file().len);
        near.check(&fs::read(&increment.file().path).unwrap(), two[0], two[1]);
    }
}

#[tokio::test]
async fn an_increment_is_a_file_for_as_long_as_it_is_used() {
    let near = Near::new();
    let mut mirror = near.lease().await;
    let commits = [1, 2].map(|n| {
        let commit = near.commit(&[("file", text(50, 1, n))]);
        near.update(&mut mirror, commit).unwrap();
        commit
    });
    let increment = near.increment(&mirror, commits[0], commits[1]).unwrap();
    let file = increment.file().clone();
    let bytes = fs::read(&file.path).unwrap();
    assert_eq!((bytes.len() as u64, crc32fast::hash(&bytes)), (file.len, file.crc32));
    assert!(file.path.starts_with(mirror.path()));
    drop(increment);
    assert!(!file.path.exists());
    // That of a process which was killed.
    fs::write(&file.path, bytes).unwrap();
    drop(mirror);
    let mirror = near.lease().await;
    assert!(!file.path.exists() && mirror.commit() == Some(commits[1]));
}

#[tokio::test]
async fn a_base_that_is_not_there_is_named() {
    let near = Near::new();
    let mut mirror = near.lease().await;
    let first = near.commit(&[("file", text(50, 1, 1))]);
    near.update(&mut mirror, first).unwrap();
    let later = near.commit(&[("file", text(50, 1, 2))]);
    let tree: CommitId = near.repo.git(&["rev-parse", "main~1^{tree}"]).unwrap().parse().unwrap();
    for base in [later, tree, CommitId::from_bytes([7; 20])] {
        let refused = near.increment(&mirror, base, first).unwrap_err();
        assert!(matches!(refused, MirrorError::NoBase(named) if named == base), "{refused:?}");
    }
    let refused = near.increment(&mirror, first, later).unwrap_err();
    assert!(matches!(refused, MirrorError::Packs(PackError::Kept(_))), "{refused:?}");
    assert_eq!(fs::read_dir(mirror.path()).unwrap().count(), 2, "state and objects");
    let stopped = mirror.write_increment(first, first, &near.memory, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(stopped, MirrorError::Io(_)), "{stopped:?}");
}

/// Changes a mirror's files as a bad disk does, and asks for what needs them.
#[tokio::test]
async fn a_damaged_mirror_makes_no_increment_that_is_wrong() {
    let near = Near::new();
    let commits: Vec<_> = (0..4)
        .map(|n| {
            near.commit(&[("dir/file", text(60, 1, n)), ("dir/other", text(60, 2, n / 2)), ("same", text(60, 3, 1))])
        })
        .collect();
    let (mut written, mut refused) = (0, 0);
    for seed in 0..150 {
        let mut mirror = near.lease().await;
        mirror.discard().unwrap();
        commits.iter().for_each(|commit| drop(near.update(&mut mirror, *commit).unwrap()));
        let mut files: Vec<_> = fs::read_dir(mirror.pack_dir()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let file = &files[seed as usize % files.len()];
        let damaged = mutated(&fs::read(file).unwrap(), seed);
        fs::remove_file(file).unwrap();
        fs::write(file, damaged).unwrap();
        match near.increment(&mirror, commits[1], commits[3]) {
            Ok(increment) => {
                written += 1;
                near.check(&fs::read(&increment.file().path).unwrap(), commits[1], commits[3]);
            }
            Err(MirrorError::Packs(_) | MirrorError::NoBase(_)) => refused += 1,
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(written > 10 && refused > 50, "{written} written, {refused} refused");
}

#[tokio::test]
async fn damaged_packs_are_not_joined() {
    let near = Near::new();
    let mut mirror = near.lease().await;
    for n in 0..MAX_PACKS {
        let commit = near.commit(&[("dir/file", text(60, 1, n))]);
        near.update(&mut mirror, commit).unwrap();
    }
    assert_eq!(sizes(&mirror).len(), MAX_PACKS);
    let pack = mirror.state.as_ref().unwrap().packs[5].files(&mirror.pack_dir())[0].path.clone();
    let mut bytes = fs::read(&pack).unwrap();
    // In its commit: what stands at its end came before, and is not copied.
    bytes[40] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let files = || fs::read_dir(mirror.pack_dir()).unwrap().count();
    let before = files();
    let commit = near.commit(&[("dir/other", text(60, 2, 1))]);
    let thin = thin_pack(near.repo.path(), commit, mirror.commit().unwrap());
    let (new, index) = receive_thin(&thin[..], &mirror.pack_dir(), &near.limits(), || {}).unwrap();
    let refused = mirror.finish_increment(commit, StoredPack::new(&new, &index), &near.limits()).unwrap_err();
    assert!(matches!(refused, MirrorError::Packs(_)), "{refused:?}");
    let files = fs::read_dir(mirror.pack_dir()).unwrap().count();
    assert_eq!(files, before + 2, "only what came");
}

#[test]
fn packs_are_joined_as_they_grow() {
    let joined = |sizes: &[u64]| to_join(sizes);
    assert_eq!(joined(&[]), None);
    assert_eq!(joined(&[9; 8]), None);
    assert_eq!(joined(&[9; 9]), Some(1..8), "all but the first and the last");
    assert_eq!(joined(&[1_000, 100, 1, 1, 1, 1, 1, 1, 1]), Some(2..8), "not a much larger one");
    assert_eq!(joined(&[1_000, 6, 1, 1, 1, 1, 1, 1, 1]), Some(1..8));
    assert_eq!(joined(&[900, 800, 700, 600, 50, 40, 30, 2, 1]), Some(6..8), "two at least");
    // However it goes on, there are never many, and nothing is copied often.
    let (mut sizes, mut copied) = (vec![1_000_000_u64], 0);
    for step in 1..=2_000_u64 {
        sizes.push(10 + step % 7);
        if let Some(joined) = to_join(&sizes) {
            let bytes = sizes[joined.clone()].iter().sum();
            copied += bytes;
            sizes.splice(joined, [bytes]);
        }
        assert!(sizes.len() <= MAX_PACKS);
    }
    let bytes: u64 = sizes[1..].iter().sum();
    assert!(copied < 10 * bytes, "{copied} bytes were copied for {bytes}");
}
