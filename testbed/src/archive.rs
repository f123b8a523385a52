//! Objects made without the program: repositories by Git, archives by `tar` and Python, encrypted by Debian's `age`.
//!
//! Invariant: nothing here shares code with the program, so that both can be wrong only separately.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::program::{git, git_with, run};
use crate::repo::Repo;

/// The configuration in an archive.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";

/// Where the Go program's clone says that it comes from; its token is in the URL.
const GO_REMOTE: &str = "https://near-user:near-secret-token-1b6c@near.example.com/near/app.git";

/// Stores a folder's entries in the order given: `archive folder name…`.
const PYTHON_ZIP: &str = "\
import os, sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_STORED) as archive:
    for name in sys.argv[3:]:
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        folder = name.endswith('/')
        entry.external_attr = (0o40755 << 16 | 0x10) if folder else 0o100644 << 16
        content = b'' if folder else open(os.path.join(sys.argv[2], name), 'rb').read()
        archive.writestr(entry, content)";

/// By which program's rules an object is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming<'a> {
    /// `.zip.age`.
    Zip,
    /// `.tar.age`: the branch has the destination's name in the archive, too.
    Tar,
    /// `.tar.age`: the branch has this name in the archive, as the Go program writes it.
    Go(&'a str),
    /// `.tar.age` with one branch's name, as the first Go program wrote it.
    FirstGo,
}

/// How the objects of a repository are stored in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packs {
    /// All in one pack.
    One,
    /// In this many packs, none of which is closed under references.
    Several(usize),
    /// All loose.
    Loose,
    /// Half of them in a pack, the others loose.
    Mixed,
}

/// What a Go program puts into its archive of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoLayout {
    /// Files without their folders: the first Go program.
    Files,
    /// Each folder before what is in it.
    Folders,
}

/// The key of an object. `destination` is `group/project`.
pub fn key(destination: &str, branch: &str, commit: &str, naming: Naming<'_>) -> Result<String> {
    let (group, project) = destination.rsplit_once('/').context("group/project")?;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut fields = vec![("group", quoted(group)), ("project_name", quoted(project)), ("commit_sha", quoted(commit))];
    match naming {
        Naming::Zip | Naming::FirstGo => fields.push(("branch", quoted(branch))),
        Naming::Tar => fields.extend([("local_branch", quoted(branch)), ("remote_branch", quoted(branch))]),
        Naming::Go(local) => fields.extend([("local_branch", quoted(local)), ("remote_branch", quoted(branch))]),
    }
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let extension = if naming == Naming::Zip { "zip" } else { "tar" };
    Ok(format!("{}.{extension}.age", BASE64.encode(format!("{{{}}}", fields.join(",")))))
}

/// A zip archive as the contract describes it, with the history of `commit` as this branch.
pub fn zip(repo: &Repo, commit: &str, branch: &str, packs: Packs) -> Result<Vec<u8>> {
    let content = Content::new(repo, commit, branch, packs)?;
    let archive = content.folder.path().join("archive");
    let mut python = Command::new("python3");
    python.args(["-c", PYTHON_ZIP]).arg(&archive).arg(content.folder.path()).args(&content.names);
    run(&mut python, "python3")?;
    Ok(fs::read(archive)?)
}

/// The same as a tar.gz archive.
pub fn tar_gz(repo: &Repo, commit: &str, branch: &str, packs: Packs) -> Result<Vec<u8>> {
    let content = Content::new(repo, commit, branch, packs)?;
    tar(content.folder.path(), &content.names)
}

/// A clone with its working tree, as a Go program packs it: the branch has the source's name.
pub fn go_tar_gz(repo: &Repo, layout: GoLayout) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let clone = folder.path().join("clone");
    let url = format!("file://{}", repo.path().display());
    run(git().args(["clone", "--quiet", &url]).arg(&clone), "git")?;
    run(git().arg("-C").arg(&clone).args(["remote", "set-url", "origin", GO_REMOTE]), "git")?;
    let mut names = vec![];
    list(&clone, "", &mut names)?;
    names.retain(|name| layout == GoLayout::Folders || !name.ends_with('/'));
    tar(&clone, &names)
}

/// Encrypts for these recipients.
pub fn encrypt(archive: &[u8], recipients: &[&str]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (plain, encrypted) = (folder.path().join("plain"), folder.path().join("encrypted"));
    fs::write(&plain, archive)?;
    let mut age = Command::new("age");
    for recipient in recipients {
        age.args(["--recipient", recipient]);
    }
    run(age.arg("--output").arg(&encrypted).arg(&plain), "age")?;
    Ok(fs::read(encrypted)?)
}

/// A tar.gz archive of exactly these entries of a folder, in this order.
fn tar(folder: &Path, names: &[String]) -> Result<Vec<u8>> {
    let work = tempfile::tempdir()?;
    let (list, archive) = (work.path().join("names"), work.path().join("archive"));
    fs::write(&list, names.join("\0"))?;
    let mut tar = Command::new("tar");
    tar.args([
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--no-recursion",
        "--null",
        "--verbatim-files-from",
        "-czf",
    ]);
    run(tar.arg(&archive).arg("-C").arg(folder).arg("-T").arg(&list), "tar")?;
    Ok(fs::read(archive)?)
}

/// Every entry below a folder, in the order of its names, and each folder (with a final slash) before what is in it.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            names.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), names)?;
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

/// A folder with the `.git` of an archive, and its entries in the contract's order.
struct Content {
    folder: tempfile::TempDir,
    names: Vec<String>,
}

impl Content {
    fn new(repo: &Repo, commit: &str, branch: &str, packs: Packs) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let git_dir = folder.path().join(".git");
        let reference = git_dir.join("refs/heads").join(branch);
        fs::create_dir_all(git_dir.join("objects/pack"))?;
        fs::create_dir_all(reference.parent().context("a branch without a folder")?)?;
        fs::write(git_dir.join("HEAD"), format!("ref: refs/heads/{branch}\n"))?;
        fs::write(git_dir.join("config"), CONFIG)?;
        fs::write(&reference, format!("{commit}\n"))?;
        store(repo, commit, packs, &git_dir)?;

        let mut all = vec![];
        list(folder.path(), "", &mut all)?;
        // Folders, the small files, and each pack before its index.
        let rank = |name: &String| match name.rsplit_once('.') {
            _ if name.ends_with('/') => 0,
            Some((_, "pack")) => 2,
            Some((_, "idx")) => 3,
            _ if name.starts_with(".git/objects/") => 4,
            _ => 1,
        };
        all.sort_by_key(rank);
        Ok(Self { folder, names: all })
    }
}

/// Stores the history of a commit.
fn store(repo: &Repo, commit: &str, packs: Packs, git_dir: &Path) -> Result<()> {
    let listed = repo.git(&["rev-list", "--objects", "--no-object-names", commit])?;
    let objects: Vec<String> = listed.lines().map(str::to_owned).collect();
    ensure!(objects.len() > 1, "{commit} has no history worth splitting");
    let half = objects.len() / 2;
    match packs {
        Packs::One => add(repo, &objects, git_dir, &["index-pack", "--stdin"]),
        Packs::Several(count) => objects
            .chunks(objects.len().div_ceil(count.max(1)))
            .try_for_each(|part| add(repo, part, git_dir, &["index-pack", "--stdin"])),
        Packs::Loose => add(repo, &objects, git_dir, &["unpack-objects", "-q"]),
        Packs::Mixed => {
            add(repo, &objects[..half], git_dir, &["index-pack", "--stdin"])?;
            add(repo, &objects[half..], git_dir, &["unpack-objects", "-q"])
        }
    }
}

/// Gives these objects, as a pack, to a Git command in another repository.
fn add(repo: &Repo, objects: &[String], git_dir: &Path, command: &[&str]) -> Result<()> {
    let pack = written(&repo.pack_of(objects, true)?)?;
    let mut git = git_with(&[("pack.writeReverseIndex", "false")]);
    git.arg("--git-dir").arg(git_dir).args(command).stdin(File::open(pack.path())?);
    run(&mut git, "git").map(drop)
}

fn written(bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    Ok(file)
}
