//! Packs of what a far side lacks, judged by Git.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ancestry;
mod cases;
mod limits;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::git::fixture::{git, git_with_input, run};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A repository as it comes out of an archive.
struct Near {
    dir: tempfile::TempDir,
}

impl Near {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "-b", "main"]);
        git(dir.path(), &["config", "gc.auto", "0"]);
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.path(), arguments)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A commit of everything in the working tree.
    fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.at("HEAD")
    }

    fn at(&self, name: &str) -> CommitId {
        self.git(&["rev-parse", name]).parse().unwrap()
    }

    /// Packs what is loose, into one more pack.
    fn pack(&self) {
        self.git(&["repack", "-d", "-q"]);
    }

    /// One more pack, of these revisions, as a fetch brings it: some objects may be there already.
    fn pack_again(&self, revisions: &str) {
        let into = ".git/objects/pack/pack";
        git_with_input(
            self.path(),
            &["pack-objects", "-q", "--revs", "--delta-base-offset", into],
            revisions.as_bytes(),
        );
        self.git(&["prune-packed", "-q"]);
    }

    /// The same as a completed thin pack: its bases follow their deltas, and are in another pack, too.
    fn pack_thin(&self, new: CommitId, have: CommitId) {
        let pack = format!("printf '{new}\n^{have}\n' | git pack-objects --thin --stdout --revs -q");
        run(self.path(), "sh", &["-c", &format!("{pack} | git index-pack --stdin --fix-thin")]);
    }

    fn packs(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path().join(".git/objects/pack")).unwrap();
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "pack")).collect()
    }

    fn subset(&self, new: CommitId, have: Option<CommitId>) -> (Vec<u8>, Sent) {
        let memory = MemoryBudget::new(Some(64 << 20));
        let (mut pack, mut announced) = (vec![], 0);
        let sent = write_subset(self.path(), new, have, &memory, &GO_ON, |bytes| {
            announced = bytes;
            Ok(&mut pack)
        });
        let sent = sent.unwrap();
        assert_eq!((sent.bytes, announced), (pack.len() as u64, pack.len() as u64));
        (pack, sent)
    }

    /// All that these commits reach.
    fn reachable(&self, from: &str) -> BTreeSet<String> {
        let listed = self.git(&["rev-list", "--objects", "--no-object-names", from]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Has Git take what `have` lacks of `new`, and checks that it is all and not too much. Returns how much it is.
    fn check(&self, new: CommitId, have: Option<CommitId>) -> Sent {
        let (pack, sent) = self.subset(new, have);
        let far = Far::with(self, have);
        let known = have.map(|have| self.reachable(&have.to_string())).unwrap_or_default();
        let wanted = self.reachable(&new.to_string());
        let brought = far.take(&pack);
        assert_eq!(brought.len() as u32, sent.objects, "each object once");
        let missing: Vec<_> = wanted.difference(&known).filter(|id| !brought.contains(*id)).collect();
        assert!(missing.is_empty(), "{missing:?} of {new} beyond {have:?}");
        if !sent.is_whole {
            let surplus: Vec<_> = brought.difference(&wanted).collect();
            assert!(surplus.is_empty(), "{surplus:?} of {new} beyond {have:?}");
        }
        git(far.0.path(), &["update-ref", "refs/heads/main", &new.to_string()]);
        git(far.0.path(), &["fsck", "--full", "--strict"]);
        sent
    }
}

/// A far side that has one commit with what it reaches, and nothing else.
struct Far(tempfile::TempDir);

impl Far {
    fn with(near: &Near, have: Option<CommitId>) -> Self {
        let far = tempfile::tempdir().unwrap();
        git(far.path(), &["init", "-q", "--bare", "-b", "main"]);
        if let Some(have) = have {
            let url = far.path().to_str().unwrap();
            near.git(&["push", "-q", url, &format!("{have}:refs/heads/main")]);
        }
        Self(far)
    }

    /// Takes a pack as a server does. Returns the objects in it.
    fn take(&self, pack: &[u8]) -> BTreeSet<String> {
        let file = self.0.path().join("incoming.pack");
        fs::write(&file, pack).unwrap();
        // As a server with `receive.fsckObjects` does.
        let name = git_with_input(self.0.path(), &["index-pack", "--strict", "--fix-thin", "--stdin"], pack);
        let name = name.rsplit('\t').next().unwrap();
        let index = fs::read(self.0.path().join(format!("objects/pack/pack-{name}.idx"))).unwrap();
        let listed = git_with_input(self.0.path(), &["show-index"], &index);
        let ids: Vec<_> = listed.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
        let all: BTreeSet<_> = ids.iter().cloned().collect();
        assert_eq!(ids.len(), all.len(), "no object is there twice");
        // The bases that completed it stand at its end.
        let objects = u32::from_be_bytes(pack[8..12].try_into().unwrap()) as usize;
        let mut by_offset: Vec<(u64, String)> = listed
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|words| (words[0].parse().unwrap(), words[1].to_owned()))
            .collect();
        by_offset.sort();
        by_offset.into_iter().take(objects).map(|(_, id)| id).collect()
    }
}

/// Text in which each line differs, so that deltas are short.
fn text(lines: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..lines).map(|line| format!("{line} {:016x}{:016x}\n", random.u64(..), random.u64(..))).collect()
}
