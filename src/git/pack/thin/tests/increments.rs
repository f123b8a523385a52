//! Increments out of packs that came one after the other: what they bring, to whom, and how large they are.

use std::io::Write as _;

use super::*;
use crate::git::fixture::run;
use crate::git::pack::subset::{Sent, write_increment};
use crate::git::pack::thin::history::leads_to;

impl Kept {
    fn increment(&self, base: CommitId, commit: CommitId) -> Result<Vec<u8>, SubsetError> {
        let memory = MemoryBudget::new(Some(64 << 20));
        let written = write_increment(&self.packs, base, commit, &memory, &GO_ON, || Ok(vec![]));
        memory.alone(memory.bytes(), 0, &AtomicBool::new(true)).unwrap();
        let (Sent { bytes, objects, .. }, pack) = written?;
        assert_eq!((bytes, objects), (pack.len() as u64, count(&pack)));
        Ok(pack)
    }
}

/// A repository with a working tree in which random things happen.
struct Random {
    dir: tempfile::TempDir,
    random: fastrand::Rng,
    /// What was pushed, in this order.
    pushed: Vec<CommitId>,
}

impl Random {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "-b", "main"]);
        git(dir.path(), &["config", "gc.auto", "0"]);
        Self { dir, random: fastrand::Rng::with_seed(seed), pushed: vec![] }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn some(&mut self) -> CommitId {
        self.pushed[self.random.usize(..self.pushed.len())]
    }

    fn name(&mut self) -> PathBuf {
        let name = format!("d{}/e{}/f{}", self.random.u8(..2), self.random.u8(..2), self.random.u8(..4));
        self.path().join(name)
    }

    fn write(&mut self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Changes something in the working tree.
    fn change(&mut self) {
        let name = self.name();
        match self.random.u8(..8) {
            0..3 => {
                let lines = 50 + self.random.usize(..150);
                let seed = u64::from(self.random.u8(..3));
                let line = format!("\n7 {} ", self.random.u16(..));
                self.write(&name, text(lines, seed).replacen("\n7 ", &line, 1).as_bytes());
            }
            3 => {
                let mut binary = vec![0; 1_000 + self.random.usize(..8_000)];
                self.random.fill(&mut binary);
                self.write(&name, &binary);
            }
            4 => drop(fs::remove_file(name)),
            5 => {
                // A renamed folder.
                let to = format!("d{}", self.random.u8(2..5));
                let (from, to) = (self.path().join("d0"), self.path().join(to));
                if from.exists() && !to.exists() {
                    fs::rename(from, to).unwrap();
                }
            }
            6 if !self.pushed.is_empty() => {
                // Everything is as it was once.
                let old = self.some().to_string();
                git(self.path(), &["read-tree", "-u", "--reset", &old]);
            }
            _ => {
                let entry = format!("160000,{:040x},module", self.random.u64(1..));
                git(self.path(), &["update-index", "--add", "--cacheinfo", &entry]);
                // That of a submodule which is not cloned.
                fs::create_dir_all(self.path().join("module")).unwrap();
            }
        }
    }

    /// A commit on what is checked out. Some clocks are wrong.
    fn commit(&mut self) -> CommitId {
        self.change();
        git(self.path(), &["add", "-A"]);
        let date = 1_700_000_000 + u64::from(self.random.u16(..));
        let date = format!("GIT_COMMITTER_DATE=@{date} +0000");
        let message = self.random.u32(..).to_string();
        run(self.path(), "env", &[&date, "git", "commit", "-q", "--allow-empty", "-m", &message]);
        id(git(self.path(), &["rev-parse", "HEAD"]))
    }

    /// Moves the branch on, and pushes it.
    fn push(&mut self) -> CommitId {
        for _ in 0..self.random.usize(1..4) {
            self.commit();
            if self.random.u8(..4) == 0 && !self.pushed.is_empty() {
                self.merge();
            }
        }
        let head = id(git(self.path(), &["rev-parse", "HEAD"]));
        git(self.path(), &["update-ref", &format!("refs/pushed/{}", self.pushed.len()), "HEAD"]);
        self.pushed.push(head);
        head
    }

    /// Merges a branch that began somewhere in the history.
    fn merge(&mut self) {
        let main = git(self.path(), &["rev-parse", "HEAD"]);
        let old = self.some().to_string();
        git(self.path(), &["checkout", "-q", "-f", "--detach", &old]);
        let side = self.commit().to_string();
        let mut parents = vec![main.clone(), side];
        if self.random.u8(..3) == 0 {
            parents.push(self.commit().to_string());
        }
        let tree = match self.random.bool() {
            true => git(self.path(), &["rev-parse", &format!("{main}^{{tree}}")]),
            false => git(self.path(), &["rev-parse", "HEAD^{tree}"]),
        };
        let mut arguments = vec!["commit-tree", &tree, "-m", "merge"];
        parents.iter().for_each(|parent| arguments.extend(["-p", parent]));
        let merge = git(self.path(), &arguments);
        git(self.path(), &["checkout", "-q", "-f", "-B", "main", &merge]);
    }

    /// All that a commit reaches.
    fn reachable(&self, commit: CommitId) -> BTreeSet<String> {
        let listed = git(self.path(), &["rev-list", "--objects", "--no-object-names", &commit.to_string()]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Git takes the increment, as a bundle, into a repository that has the base and nothing else. So do we.
    fn check(&self, base: CommitId, commit: CommitId, pack: &[u8]) {
        let far = tempfile::tempdir().unwrap();
        git(far.path(), &["init", "-q", "--bare", "."]);
        git_with_input(far.path(), &["index-pack", "--stdin"], &whole_pack(self.path(), base));
        git(far.path(), &["update-ref", "refs/heads/base", &base.to_string()]);
        let bundle = far.path().join("increment.bundle");
        let mut file = fs::File::create(&bundle).unwrap();
        write!(file, "# v2 git bundle\n-{base}\n{commit} refs/heads/main\n\n").unwrap();
        file.write_all(pack).unwrap();
        let bundle = bundle.to_str().unwrap();
        git(far.path(), &["bundle", "verify", bundle]);
        let fetch = ["-c", "fetch.fsckObjects=true", "fetch", "-q", bundle, "refs/heads/main:refs/heads/main"];
        git(far.path(), &fetch);
        assert_eq!(git(far.path(), &["rev-parse", "refs/heads/main"]), commit.to_string());
        git(far.path(), &["fsck", "--full", "--strict", "--no-progress", "--connectivity-only"]);
        git(far.path(), &["fsck", "--full", "--strict", "--no-progress"]);

        let mut kept = Kept::with(&whole_pack(self.path(), base));
        if count(pack) > 0 {
            kept.take(pack).unwrap();
            let (own, reachable) = (kept.ids(1), self.reachable(commit));
            let own = &own[..count(pack) as usize];
            assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len(), "each once");
            assert!(own.iter().all(|id| reachable.contains(id)), "nothing else");
        }
        kept.check(commit);

        let path = far.path().join("pack");
        fs::write(&path, pack).unwrap();
        let memory = MemoryBudget::new(Some(64 << 20));
        assert!(leads_to(&path, commit, base, &memory, &GO_ON).unwrap());
        assert!(base == commit || !leads_to(&path, base, commit, &memory, &GO_ON).unwrap());
    }
}

/// Random histories arrive in random steps, some thin, some not, and some of the packs are joined.
#[test]
fn whatever_came_in_whatever_packs_increments_complete_what_they_are_based_on() {
    let (mut ours, mut theirs, mut joined) = (0, 0, 0);
    for seed in 0..6 {
        let mut source = Random::new(seed);
        for _ in 0..source.random.usize(1..4) {
            source.push();
        }
        let first = source.push();
        let mut kept = Kept::with(&whole_pack(source.path(), first));
        let mut have = first;
        for _ in 0..14 {
            let new = source.push();
            let revisions = format!("{new}\n^{have}\n");
            let thin = match source.random.u8(..5) {
                0 => {
                    let ids = revisions_of(&Repo::open(source.path().join(".git")).unwrap(), &revisions);
                    Repo::open(source.path().join(".git")).unwrap().pack_of(&ids, true).unwrap()
                }
                _ => thin_pack(source.path(), new, have),
            };
            kept.take(&thin).unwrap();
            have = new;
            if kept.packs.len() > 3 && source.random.u8(..3) == 0 {
                let from = source.random.usize(1..kept.packs.len() - 1);
                let upto = source.random.usize(from + 2..=kept.packs.len());
                kept.join(from..upto);
                joined += upto - from;
            }
            for _ in 0..2 {
                let to = source.random.usize(..source.pushed.len());
                let from = source.random.usize(..=to);
                let (base, commit) = (source.pushed[from], source.pushed[to]);
                let pack = kept.increment(base, commit).unwrap();
                source.check(base, commit, &pack);
                ours += pack.len();
                theirs += thin_pack(source.path(), commit, base).len();
            }
        }
        kept.check(have);
    }
    println!("{ours} bytes of ours, {theirs} of Git's; {joined} packs were joined");
    assert!(joined > 20);
    assert!(ours < theirs * 2, "{ours} bytes of ours, {theirs} of Git's");
}
