//! Objects that no producer made are what they say, by the judgement of other programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use testbed::archive::{self, GoLayout, Naming, Packs};
use testbed::consumer::ObjectName;
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

use crate::complaint;

const ALL_PACKS: [Packs; 4] = [Packs::One, Packs::Several(3), Packs::Loose, Packs::Mixed];

fn names(archive: &Path, zip: bool) -> Result<Vec<String>> {
    if zip { judge::zip_list(archive) } else { judge::tar_list(archive) }
}

#[test]
fn archives_of_every_shape_hold_the_whole_history() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = Repo::small(folder.path().join("source"), 1)?;
    let commit = source.head("main").context("no main")?;
    for packs in ALL_PACKS {
        for zip in [true, false] {
            let make = if zip { archive::zip } else { archive::tar_gz };
            let (file, content) = (folder.path().join("archive"), tempfile::tempdir()?);
            fs::write(&file, make(&source, &commit, "release/größe", packs)?)?;
            let listed = names(&file, zip)?;
            let count = |end: &str| listed.iter().filter(|name| name.ends_with(end)).count();
            let expected = match packs {
                Packs::One | Packs::Mixed => 1,
                Packs::Several(count) => count,
                Packs::Loose => 0,
            };
            assert_eq!((count(".pack"), count(".idx")), (expected, expected), "{packs:?}: {listed:?}");
            let loose = listed.iter().filter(|name| name.len() == ".git/objects/12/".len() + 38).count();
            assert_eq!(loose > 0, matches!(packs, Packs::Loose | Packs::Mixed), "{packs:?}: {listed:?}");
            let folders = listed.iter().take_while(|name| name.ends_with('/')).count();
            assert!(listed[folders..].iter().all(|name| !name.ends_with('/')), "{packs:?}: {listed:?}");

            judge::unpack(&file, content.path())?;
            judge::git_fsck(content.path())?;
            assert_eq!(judge::git_refs(content.path())?, ["refs/heads/release/größe"]);
            assert_eq!(judge::git_commit(content.path(), "HEAD")?, commit);
            assert_eq!(judge::object_names(content.path(), "HEAD")?, judge::object_names(source.path(), "main")?);
        }
    }
    Ok(())
}

#[test]
fn zips_are_stored_front_to_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = Repo::small(folder.path().join("source"), 2)?;
    let commit = source.head("main").context("no main")?;
    let file = folder.path().join("archive");
    let zip = archive::zip(&source, &commit, "main", Packs::One)?;
    fs::write(&file, &zip)?;
    judge::unzip_test(&file)?;
    judge::python_zip_test(&file)?;
    // The first local header: no flags, method 0.
    assert_eq!((&zip[..4], &zip[6..10]), (&b"PK\x03\x04"[..], &[0; 4][..]));
    let listed = judge::zip_list(&file)?;
    let end: Vec<&str> = listed.iter().rev().take(2).map(|name| &name[name.len() - 4..]).collect();
    assert_eq!(end, [".idx", "pack"], "the index follows its pack: {listed:?}");
    Ok(())
}

#[test]
fn clones_are_packed_as_either_go_program_does() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = Repo::small(folder.path().join("source"), 3)?;
    for layout in [GoLayout::Files, GoLayout::Folders] {
        let (file, content) = (folder.path().join("archive"), tempfile::tempdir()?);
        fs::write(&file, archive::go_tar_gz(&source, layout)?)?;
        let listed = judge::tar_list(&file)?;
        let folders = listed.iter().filter(|name| name.ends_with('/')).count();
        assert_eq!(folders > 0, layout == GoLayout::Folders, "{listed:?}");
        for name in [".git/HEAD", ".git/index", ".git/refs/heads/main", "README.md"] {
            assert!(listed.iter().any(|listed| listed == name), "{name} is not in {listed:?}");
        }
        judge::unpack(&file, content.path())?;
        if layout == GoLayout::Folders {
            judge::git_fsck(content.path())?;
            assert_eq!(Some(judge::git_commit(content.path(), "HEAD")?), source.head("main"));
        }
        let config = fs::read_to_string(content.path().join(".git/config"))?;
        assert!(config.contains("near-secret-token"), "a credential that must stay where it is: {config}");
    }
    Ok(())
}

#[test]
fn keys_are_those_of_the_programs() -> Result<()> {
    let (commit, branch) = ("0123456789abcdef0123456789abcdef01234567", "release/\"1\"");
    for (naming, extension, local) in [
        (Naming::Zip, ".zip.age", branch),
        (Naming::Tar, ".tar.age", branch),
        (Naming::Go("master"), ".tar.age", "master"),
    ] {
        let name = ObjectName::parse(&archive::key("far/sub/app", branch, commit, naming)?)?;
        assert_eq!((name.group.as_str(), name.project.as_str()), ("far/sub", "app"));
        assert_eq!((name.commit.as_str(), name.extension.as_str()), (commit, extension));
        assert_eq!((name.local_branch.as_str(), name.remote_branch.as_str()), (local, branch));
    }
    let first = archive::key("far/app", "main", commit, Naming::FirstGo)?;
    assert!(first.ends_with(".tar.age"));
    assert!(complaint(ObjectName::parse(&first))?.contains("local_branch"), "a later Go program does not know it");
    Ok(())
}

#[test]
fn objects_put_into_the_bucket_reach_the_far_side() -> Result<()> {
    let world = World::builder().recipients(2).start()?;
    let source = world.project("near/app")?;
    let mut consumer = world.consumer()?;
    for (project, naming) in [("zip", Naming::Zip), ("tar", Naming::Tar), ("go", Naming::Go("main"))] {
        let destination = format!("far/{project}");
        let repo = world.destination.repo(&destination)?;
        let key = world.put_head(&source, "main", &destination, "main", naming)?;
        let delivered = consumer.pass()?;
        assert_eq!(delivered.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), [key]);
        assert_eq!(
            (world.far_head(&destination, "main"), repo.head("main")),
            (source.head("main"), source.head("main"))
        );
    }
    let archive = archive::zip(&source, &source.head("main").context("no main")?, "main", Packs::One)?;
    let key = world.put_object_for(&world.recipients()[1..], "far/other", "main", "c", Naming::Zip, &archive)?;
    let encrypted = world.s3().get(&key)?.context("no object")?;
    complaint(judge::age_decrypt(&encrypted, world.identity_files()[0]))?;
    assert_eq!(judge::age_decrypt(&encrypted, world.identity_files()[1])?, archive);
    Ok(())
}
