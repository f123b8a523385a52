//! The far side accepts good artifacts, made here by outside programs, and refuses bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use testbed::consumer::{ObjectName, untar};
use testbed::repo::Repo;
use testbed::world::World;
use testbed::{judge, repo};

use crate::{complaint, run};

/// A folder with the `.git` that an artifact holds: one branch, no working tree.
fn content(world: &World, repo: &Repo, branch: &str) -> Result<PathBuf> {
    let folder = tempfile::tempdir_in(world.scratch()?)?.keep();
    let git = folder.join(".git");
    let clone = ["clone", "-q", "--bare", "--single-branch", "--no-tags", "--template="];
    run(Command::new("git").args(clone).arg(repo.path()).arg(&git))?;
    fs::write(git.join("config"), "[core]\n\trepositoryformatversion = 0\n\tbare = false\n")?;
    let commit = repo.head("main").context("no main")?;
    fs::remove_file(git.join("packed-refs"))?;
    let reference = git.join("refs/heads").join(branch);
    fs::create_dir_all(reference.parent().context("no folder")?)?;
    fs::write(reference, format!("{commit}\n"))?;
    fs::write(git.join("HEAD"), format!("ref: refs/heads/{branch}\n"))?;
    fs::create_dir_all(git.join("objects/pack"))?;
    Ok(folder)
}

fn encrypt(world: &World, archive: &Path) -> Result<Vec<u8>> {
    let encrypted = archive.with_extension("age");
    run(Command::new("age").arg("-r").arg(world.recipients()[0]).arg("-o").arg(&encrypted).arg(archive))?;
    Ok(fs::read(encrypted)?)
}

/// Packs, encrypts and puts a project's `main` for `far/project`'s branch; returns the key.
fn publish(world: &World, repo: &Repo, branch: &str, zip: bool) -> Result<String> {
    let folder = content(world, repo, branch)?;
    let archive = folder.join("archive");
    let commit = repo.head("main").context("no main")?;
    let key = if zip {
        run(Command::new("python3").current_dir(&folder).args(["-m", "zipfile", "-c", "archive.zip", ".git"]))?;
        fs::rename(folder.join("archive.zip"), &archive)?;
        let name = json!({ "group": "far", "project_name": "project", "commit_sha": commit, "branch": branch });
        format!("{}.zip.age", BASE64.encode(name.to_string()))
    } else {
        run(Command::new("tar").arg("-C").arg(&folder).arg("-czf").arg(&archive).arg(".git"))?;
        let name = json!({ "group": "far", "project_name": "project", "commit_sha": commit,
            "local_branch": branch, "remote_branch": branch });
        format!("{}.tar.age", BASE64.encode(name.to_string()))
    };
    world.s3().put(&key, encrypt(world, &archive)?);
    Ok(key)
}

#[test]
fn a_tar_is_delivered_once() -> Result<()> {
    let world = World::start()?;
    let source = world.project("src/project")?;
    let destination = world.sync("src/project", "main", "far/project", "rel/1")?;
    let key = publish(&world, &source, "rel/1", false)?;
    let mut consumer = world.consumer()?;
    let delivered = consumer.pass()?;
    assert_eq!(delivered.len(), 1);
    assert_eq!((delivered[0].group.as_str(), delivered[0].project.as_str()), ("far", "project"));
    assert_eq!((delivered[0].branch.as_str(), delivered[0].key.as_str()), ("rel/1", key.as_str()));
    assert_eq!(delivered[0].commit, delivered[0].pushed);
    assert_eq!(destination.head("rel/1"), source.head("main"));
    destination.fsck()?;
    assert_eq!(consumer.pass()?, []);

    source.force_root("main", &[("new", "history")])?;
    world.s3().delete(&key);
    publish(&world, &source, "rel/1", false)?;
    assert_eq!(consumer.pass()?.len(), 1);
    assert_eq!(destination.head("rel/1"), source.head("main"), "a rewritten history is forced");
    Ok(())
}

#[test]
fn a_zip_is_delivered() -> Result<()> {
    let world = World::start()?;
    let source = world.project("src/project")?;
    let destination = world.sync("src/project", "main", "far/project", "größe")?;
    let key = publish(&world, &source, "größe", true)?;
    assert_eq!(world.consumer()?.pass()?.len(), 1);
    assert_eq!(destination.head("größe"), source.head("main"));

    let unpacked = world.unpack(&key)?;
    judge::git_fsck(&unpacked)?;
    assert_eq!(judge::object_names(&unpacked, "HEAD")?, judge::object_names(source.path(), "main")?);
    Ok(())
}

#[test]
fn one_bad_object_ends_the_pass_and_nothing_is_remembered() -> Result<()> {
    let world = World::start()?;
    let source = world.project("src/project")?;
    world.sync("src/project", "main", "far/project", "main")?;
    publish(&world, &source, "main", false)?;
    world.s3().put("not base64.tar.age", "x");
    let mut consumer = world.consumer()?;
    let error = complaint(consumer.pass())?;
    assert!(error.contains("not base64"), "{error}");
    world.s3().delete("not base64.tar.age");
    assert_eq!(consumer.pass()?.len(), 1);
    Ok(())
}

#[test]
fn keys_are_read_strictly() -> Result<()> {
    let key = |json: &str, extension: &str| format!("{}{extension}", BASE64.encode(json));
    let five = r#"{"more":1,"commit_sha":"c","group":"g","local_branch":"l","remote_branch":"r","project_name":"p"}"#;
    let name = ObjectName::parse(&key(five, ".tar.age"))?;
    assert_eq!((name.local_branch.as_str(), name.remote_branch.as_str()), ("l", "r"));
    let branch_only = r#"{"group":"g","project_name":"p","commit_sha":"c","branch":"b"}"#;
    ObjectName::parse(&key(branch_only, ".zip.age"))?;
    for bad in [
        key(branch_only, ".tar.age"),
        key(five, ".zip.age"),
        key(five, ".tar"),
        key(five, ".tar.age").replace('=', ""),
        format!("prefix/{}", key(five, ".tar.age")),
        "no-extension".to_owned(),
    ] {
        complaint(ObjectName::parse(&bad))?;
    }
    Ok(())
}

#[test]
fn the_tar_reader_is_as_simple_as_the_go_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("dir"))?;
    fs::write(tree.join("dir/file"), "content")?;
    std::os::unix::fs::symlink("file", tree.join("dir/link"))?;
    let pack = |name: &str, arguments: &[&str]| -> Result<PathBuf> {
        let archive = folder.path().join(name);
        run(Command::new("tar").current_dir(&tree).arg("-czf").arg(&archive).args(arguments))?;
        Ok(archive)
    };
    let unpacked = folder.path().join("out");
    untar(&pack("good", &["--exclude=link", "dir"])?, &unpacked)?;
    assert_eq!(fs::read(unpacked.join("dir/file"))?, b"content");

    let refused: [(&str, &str, &[&str]); 5] = [
        ("link", "are refused", &["dir"]),
        ("orphan", "no entry for its directory", &["dir/file"]),
        (
            "global",
            "are refused",
            &["--format=pax", "--pax-option=globexthdr.name=g,comment=x", "--exclude=link", "dir"],
        ),
        ("parent", "leaves the folder", &["-P", "--transform=s,^dir,../dir,", "--exclude=link", "dir"]),
        ("absolute", "leaves the folder", &["-P", "--transform=s,^dir,/tmp/dir,", "--exclude=link", "dir"]),
    ];
    for (name, why, arguments) in refused {
        let error = complaint(untar(&pack(name, arguments)?, &folder.path().join(format!("{name}-out"))))?;
        assert!(error.contains(why), "{name}: {error}");
    }
    Ok(())
}

#[test]
fn judges_tell_good_from_bad() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broken = folder.path().join("broken.zip");
    fs::write(&broken, b"PK\x03\x04 this is not a zip file")?;
    complaint(judge::unzip_test(&broken))?;
    complaint(judge::python_zip_test(&broken))?;
    complaint(judge::tar_list(&broken))?;
    complaint(judge::age_decrypt(b"not age", Path::new("/nowhere")))?;
    let good = repo::Repo::small(folder.path().join("good"), 1)?;
    judge::git_fsck(good.path())?;
    fs::write(good.path().join("refs/heads/broken"), format!("{}\n", "1".repeat(40)))?;
    complaint(judge::git_fsck(good.path())).map(drop)
}
