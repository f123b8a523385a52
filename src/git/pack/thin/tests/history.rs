//! What a thin pack tells of its commits.

use super::*;
use crate::git::pack::thin::history::leads_to;

/// What the pack alone proves.
fn proves(pack: &[u8], commit: CommitId, ancestor: CommitId) -> bool {
    asked(pack, commit, ancestor).unwrap()
}

fn asked(pack: &[u8], commit: CommitId, ancestor: CommitId) -> Result<bool, PackError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack");
    fs::write(&path, pack).unwrap();
    let memory = MemoryBudget::new(Some(64 << 20));
    let proven = leads_to(&path, commit, ancestor, &memory, &GO_ON);
    memory.alone(memory.bytes(), 0, &AtomicBool::new(true)).unwrap();
    proven
}

#[test]
fn a_pack_tells_that_its_commits_follow_each_other_and_its_base() {
    let (_dir, repo, commits) = history(9);
    let thin = thin_pack(repo.path(), commits[8], commits[3]);
    for (at, commit) in commits.iter().enumerate() {
        for (before, ancestor) in commits.iter().enumerate() {
            // What the pack's first commit is based on is known, and nothing before it.
            let expected = at == before || at > 3 && (3..at).contains(&before);
            assert_eq!(proves(&thin, *commit, *ancestor), expected, "{before} to {at}");
        }
    }
    let nowhere = CommitId::from_bytes([7; 20]);
    assert!(!proves(&thin, commits[8], nowhere) && !proves(&thin, nowhere, commits[3]));
}

#[test]
fn merges_lead_to_all_their_parents() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::odd(dir.path()).unwrap();
    let listed = repo.git(&["rev-list", "main"]).unwrap();
    let commits: Vec<CommitId> = listed.lines().map(|line| line.parse().unwrap()).collect();
    let whole = whole_pack(repo.path(), commits[0]);
    for commit in &commits {
        for ancestor in &commits {
            let (commit_name, ancestor_name) = (commit.to_string(), ancestor.to_string());
            let is = repo.git(&["merge-base", "--is-ancestor", &ancestor_name, &commit_name]).is_ok();
            assert_eq!(proves(&whole, *commit, *ancestor), is, "{ancestor} to {commit}");
        }
    }
}

#[test]
fn a_commit_of_very_many_parents_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::init(dir.path()).unwrap();
    let first = id(repo.commit("main", &[("a", "1")], "first").unwrap());
    let tree = repo.git(&["rev-parse", "main^{tree}"]).unwrap();
    let parents = |count: usize| -> String {
        (0..count).map(|n| format!("parent {n:040x}\n")).chain([format!("parent {first}\n")]).collect()
    };
    let commit = |count: usize| {
        let content = format!("tree {tree}\n{}author a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n", parents(count));
        let arguments = ["hash-object", "-t", "commit", "-w", "--literally", "--stdin"];
        id(git_with_input(dir.path(), &arguments, content.as_bytes()))
    };
    for (count, proven) in [(500, true), (100_000, false)] {
        let commit = commit(count);
        let pack = repo.pack_of(&[commit.to_string()], true).unwrap();
        assert_eq!(proves(&pack, commit, first), proven, "{count}");
    }
}

#[test]
fn damage_proves_nothing_that_is_not_true() {
    let (_dir, repo, commits) = history(6);
    let thin = thin_pack(repo.path(), commits[5], commits[2]);
    // What the damage makes very large does not fit into memory.
    let proves = |pack: &[u8], from, to| match asked(pack, from, to) {
        Err(PackError::Memory(_)) => false,
        proven => proven.unwrap(),
    };
    let mut proven = 0;
    for seed in 0..300 {
        let copy = sealed(mutated(&thin[..thin.len() - 20], seed));
        proven += usize::from(proves(&copy, commits[5], commits[2]));
        assert!(!proves(&copy, commits[5], commits[1]) && !proves(&copy, commits[2], commits[5]), "seed {seed}");
        assert!(!proves(&mutated(&thin, seed), commits[4], commits[5]));
    }
    assert!(proven < 150, "{proven}");
}

#[test]
fn it_does_not_take_more_than_the_budget() {
    // A header that announces more objects than there is memory for.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack");
    fs::write(&path, [b"PACK\0\0\0\x02".as_slice(), &5_000_000_u32.to_be_bytes()].concat()).unwrap();
    let memory = MemoryBudget::new(Some(64 << 20));
    let [a, b] = [1, 2].map(|byte| CommitId::from_bytes([byte; 20]));
    let refused = leads_to(&path, a, b, &memory, &GO_ON);
    assert!(matches!(refused, Err(PackError::Memory(Shortage::Objects { .. }))), "{refused:?}");
    let (_dir, repo, commits) = history(3);
    fs::write(&path, thin_pack(repo.path(), commits[2], commits[0])).unwrap();
    let stopped = leads_to(&path, commits[2], commits[0], &memory, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(PackError::Io(_))), "{stopped:?}");
}
