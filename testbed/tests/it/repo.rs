//! Repositories are what their builders promise, and the same every time.

use anyhow::{Context, Result};
use tempfile::tempdir;
use testbed::repo::Repo;

use crate::{complaint, folder_bytes};

#[test]
fn same_calls_give_same_commits() -> Result<()> {
    let folder = tempdir()?;
    let make = |name: &str| -> Result<Repo> {
        let repo = Repo::init(folder.path().join(name))?;
        repo.commit("main", &[("a.txt", "one")], "One")?;
        repo.commit("main", &[("b/c.txt", "two")], "Two")?;
        repo.commits("other/branch", 30)?;
        Ok(repo)
    };
    assert_eq!(make("one")?.refs()?, make("two")?.refs()?);
    assert_eq!(
        Repo::small(folder.path().join("small-1"), 7)?.head("main"),
        Repo::small(folder.path().join("small-2"), 7)?.head("main"),
    );
    assert_ne!(
        Repo::small(folder.path().join("small-3"), 8)?.head("main"),
        Repo::small(folder.path().join("small-4"), 9)?.head("main"),
    );
    Ok(())
}

#[test]
fn commits_build_on_each_other() -> Result<()> {
    let folder = tempdir()?;
    let repo = Repo::init(folder.path().join("r"))?;
    assert_eq!(repo.head("main"), None);
    let first = repo.commit("main", &[("a", "1")], "First")?;
    let second = repo.commit("main", &[("b", "2")], "Second")?;
    assert_eq!(repo.head("main").as_ref(), Some(&second));
    assert_eq!(repo.git(&["rev-parse", "main^"])?, first);
    assert_eq!(repo.git(&["ls-tree", "-r", "--name-only", "main"])?, "a\nb");

    repo.commits("main", 300)?;
    assert_eq!(repo.git(&["rev-list", "--count", "main"])?, "302");

    repo.branch_from("copy", "main")?;
    assert_eq!(repo.head("copy"), repo.head("main"));
    repo.force_root("main", &[("new", "history")])?;
    assert_eq!(repo.git(&["rev-list", "--count", "main"])?, "1");
    complaint(repo.git(&["merge-base", "main", "copy"]))?;
    repo.delete_branch("copy")?;
    assert_eq!(repo.head("copy"), None);
    repo.prune()?;
    assert_eq!(repo.git(&["rev-list", "--all", "--count"])?, "1");
    repo.fsck()
}

#[test]
fn odd_has_everything_odd() -> Result<()> {
    let folder = tempdir()?;
    let repo = Repo::odd(folder.path().join("odd"))?;
    repo.fsck()?;
    let listed = repo.git(&["-c", "core.quotePath=false", "ls-tree", "-r", "-z", "wörk/分支"])?;
    for expected in
        ["100755", "120000", "160000 commit", "数据/文件.txt", "new\nline.txt", "quo\"te\\.txt", "ветка.txt"]
    {
        assert!(listed.contains(expected), "{expected:?} in {listed:?}");
    }
    assert_eq!(repo.git(&["rev-list", "--max-parents=0", "--count", "main"])?, "3");
    assert_eq!(repo.git(&["rev-list", "--min-parents=2", "--count", "main"])?, "2");
    assert_eq!(repo.git(&["cat-file", "-t", "v1.0"])?, "tag");
    assert_eq!(repo.git(&["cat-file", "-t", "light"])?, "commit");
    let root = repo.git(&["rev-list", "--max-parents=0", "--first-parent", "main"])?;
    assert_eq!(repo.git(&["ls-tree", &root])?, "", "the first commit is empty");
    Ok(())
}

#[test]
fn incompressible_is_as_large_as_asked() -> Result<()> {
    let folder = tempdir()?;
    let repo = Repo::incompressible(folder.path().join("big"), 40, 1)?;
    let megabytes = repo.pack_bytes()? / (1024 * 1024);
    assert!((40..42).contains(&megabytes), "{megabytes} MB");
    assert!(folder_bytes(repo.path())? < 43 * 1024 * 1024);
    repo.fsck()
}

#[test]
fn deep_has_long_delta_chains() -> Result<()> {
    let folder = tempdir()?;
    let repo = Repo::deep(folder.path().join("deep"), 200, 2, 1)?;
    repo.fsck()?;
    let pack = repo.git(&["count-objects", "-v"])?;
    assert!(pack.contains("packs: 1"), "{pack}");
    let index = std::fs::read_dir(repo.path().join("objects/pack"))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "idx"))
        .context("no index")?;
    let verified = repo.git(&["verify-pack", "-v", &index.to_string_lossy()])?;
    assert!(verified.contains("chain length = 30"), "{verified}");
    Ok(())
}

#[test]
fn many_refs_are_many() -> Result<()> {
    let folder = tempdir()?;
    let repo = Repo::many_refs(folder.path().join("many"), 5_000)?;
    assert_eq!(repo.refs()?.len(), 5_001);
    assert_eq!(repo.head("many/004999"), repo.head("main"));
    repo.fsck()
}
