//! Outside programs that check whether uploads are good: Debian's `age`, `unzip`, Python, `tar`, Git.
//!
//! Invariant: nothing here reads or writes a format itself. A judge that is not installed is an error that names its
//! package.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::program::{git, git_with, run};

/// Python's check of a zip file: `testzip` reads every member and compares its CRC.
const PYTHON_ZIP_TEST: &str = "\
import sys, zipfile
bad = zipfile.ZipFile(sys.argv[1]).testzip()
sys.exit(f'corrupt member: {bad}' if bad else 0)";

/// Decrypts with Debian's `age`, from memory to memory.
pub fn age_decrypt(encrypted: &[u8], identity_file: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in.age"), folder.path().join("out"));
    fs::write(&input, encrypted)?;
    age_decrypt_file(&input, &output, identity_file)?;
    Ok(fs::read(output)?)
}

/// Decrypts with Debian's `age`, from file to file.
pub fn age_decrypt_file(encrypted: &Path, decrypted: &Path, identity_file: &Path) -> Result<()> {
    let mut age = Command::new("age");
    age.arg("--decrypt").arg("--identity").arg(identity_file).arg("--output").arg(decrypted).arg(encrypted);
    run(&mut age, "age").map(drop)
}

/// `unzip -t`: every member can be read and matches its CRC.
pub fn unzip_test(archive: &Path) -> Result<()> {
    run(Command::new("unzip").arg("-tqq").arg(archive), "unzip").map(drop)
}

/// Python's `zipfile`: every member can be read and matches its CRC.
pub fn python_zip_test(archive: &Path) -> Result<()> {
    run(Command::new("python3").args(["-c", PYTHON_ZIP_TEST]).arg(archive), "python3").map(drop)
}

/// The names in a zip archive, in its order, by `unzip -Z1`.
pub fn zip_list(archive: &Path) -> Result<Vec<String>> {
    lines(&run(Command::new("unzip").arg("-Z1").arg(archive), "unzip")?)
}

/// The names in a tar.gz archive, in its order, by `tar -tz`.
pub fn tar_list(archive: &Path) -> Result<Vec<String>> {
    lines(&run(Command::new("tar").args(["--quoting-style=literal", "-tzf"]).arg(archive), "tar")?)
}

/// Unpacks a decrypted archive into a folder, which it creates: with `unzip` or `tar`, depending on the first bytes.
pub fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut magic = [0; 2];
    fs::File::open(archive)?.read_exact(&mut magic).context("an archive of less than two bytes")?;
    match &magic {
        b"PK" => run(Command::new("unzip").arg("-q").arg(archive).arg("-d").arg(folder), "unzip")?,
        [0x1f, 0x8b] => run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder), "tar")?,
        other => bail!("{}: neither zip nor gzip, it begins with {other:02x?}", archive.display()),
    };
    Ok(())
}

/// `git fsck --full` in a folder that holds `.git`, or in a bare repository.
pub fn git_fsck(folder: &Path) -> Result<()> {
    // Without these settings it would start processes that check files which a repository here does not have.
    let mut git = git_with(&[("core.multiPackIndex", "false"), ("core.commitGraph", "false")]);
    run(git.arg("-C").arg(folder).args(["fsck", "--full", "--no-progress", "--no-dangling"]), "git").map(drop)
}

/// The commit that a name points to in a repository (`HEAD`, `refs/heads/main`).
pub fn git_commit(folder: &Path, name: &str) -> Result<String> {
    let commit = format!("{name}^{{commit}}");
    let output = run(git().arg("-C").arg(folder).args(["rev-parse", "--verify", "--quiet", &commit]), "git")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// All references of a repository by name.
pub fn git_refs(folder: &Path) -> Result<Vec<String>> {
    lines(&run(git().arg("-C").arg(folder).args(["for-each-ref", "--format=%(refname)"]), "git")?)
}

/// The ids of all objects reachable from a name, sorted: equal for two repositories with the same history.
pub fn object_names(folder: &Path, name: &str) -> Result<Vec<String>> {
    let output = run(git().arg("-C").arg(folder).args(["rev-list", "--objects", "--no-object-names", name]), "git")?;
    let mut names = lines(&output)?;
    names.sort_unstable();
    Ok(names)
}

fn lines(output: &Output) -> Result<Vec<String>> {
    Ok(std::str::from_utf8(&output.stdout)?.lines().map(str::to_owned).collect())
}
