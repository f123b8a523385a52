//! The far side: lists the bucket, downloads what is new, decrypts, unpacks, pushes.
//!
//! It treats `.tar.age` objects like app-sre's Go consumer, with its limits: one page of the listing, a strict key, a
//! strict tar reader, and one bad object ends the pass. It treats `.zip.age` objects like a documented consumer that
//! unzips.
//! Invariant: decryption is always done by Debian's `age`; credentials are never in an argument or a remote's URL.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tar::EntryType;

use crate::bucket::{Bucket, S3Endpoint, StoredObject};
use crate::git::{GitServer, encode_path};
use crate::http::basic;
use crate::judge;
use crate::program::{git_with, run};

/// What the Go consumer calls the destination.
const REMOTE: &str = "fedramp";

/// A commit that arrived at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The destination's group.
    pub group: String,
    /// The destination's project.
    pub project: String,
    /// The branch that was pushed.
    pub branch: String,
    /// The commit in the object's name.
    pub commit: String,
    /// The commit in the archive, which was pushed.
    pub pushed: String,
    /// The object's key.
    pub key: String,
}

/// The content of an object's key, parsed as strictly as the consumers parse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The destination's group.
    pub group: String,
    /// The destination's project.
    pub project: String,
    /// The commit.
    pub commit: String,
    /// The branch to check out.
    pub local_branch: String,
    /// The branch to push to.
    pub remote_branch: String,
    /// What follows the base64 text, from the first `.` on.
    pub extension: String,
}

impl ObjectName {
    /// Cuts a key at its first `.` and reads the JSON before it. `.zip.age` needs `branch`, `.tar.age` needs
    /// `local_branch` and `remote_branch`; further fields and their order do not matter.
    pub fn parse(key: &str) -> Result<Self> {
        let (encoded, _) = key.split_once('.').context("a key without an extension")?;
        let extension = key[encoded.len()..].to_owned();
        let json = BASE64.decode(encoded).context("the key is not standard base64 with padding")?;
        let json: Value = serde_json::from_slice(&json).context("the key does not hold JSON")?;
        let field = |name: &str| {
            let value = json.get(name).and_then(Value::as_str).unwrap_or_default();
            ensure!(!value.is_empty(), "the key's JSON lacks {name}");
            Ok(value.to_owned())
        };
        let (local_branch, remote_branch) = match extension.as_str() {
            ".tar.age" => (field("local_branch")?, field("remote_branch")?),
            ".zip.age" => (field("branch")?, field("branch")?),
            other => bail!("unknown extension {other}"),
        };
        Ok(Self {
            group: field("group")?,
            project: field("project_name")?,
            commit: field("commit_sha")?,
            local_branch,
            remote_branch,
            extension,
        })
    }
}

/// A far side that remembers what it has seen.
#[derive(Debug)]
pub struct Consumer {
    identity_file: PathBuf,
    bucket: Bucket,
    destination_url: String,
    authorization: String,
    workdir: PathBuf,
    seen: HashMap<String, SystemTime>,
}

/// An object that was downloaded, decrypted and unpacked.
struct Unpacked {
    key: String,
    name: ObjectName,
    folder: PathBuf,
}

impl Consumer {
    /// A consumer that has seen nothing yet. `workdir` is created, and emptied by each pass.
    pub fn new(
        identity_file: impl Into<PathBuf>,
        endpoint: &S3Endpoint,
        destination: &GitServer,
        workdir: impl Into<PathBuf>,
    ) -> Result<Self> {
        Ok(Self {
            identity_file: identity_file.into(),
            bucket: Bucket::new(endpoint)?,
            destination_url: destination.url(),
            authorization: basic(destination.user(), destination.password()),
            workdir: workdir.into(),
            seen: HashMap::new(),
        })
    }

    /// One pass over what is new since the last one that succeeded: all are unpacked, then all are pushed. The
    /// first bad object ends the pass, and the next pass tries it again.
    ///
    /// Objects are taken oldest first. The Go program takes those of one pass in no particular order; a fixed
    /// one keeps tests repeatable.
    pub fn pass(&mut self) -> Result<Vec<Delivered>> {
        if self.workdir.exists() {
            fs::remove_dir_all(&self.workdir)?;
        }
        fs::create_dir_all(&self.workdir)?;

        let updated = self.updated_objects()?;
        let mut unpacked = Vec::new();
        for (index, object) in updated.iter().enumerate() {
            let folder = self.workdir.join(index.to_string());
            unpacked.push(self.unpack(&object.key, &folder).with_context(|| format!("object {}", object.key))?);
        }
        let mut delivered = Vec::new();
        for object in unpacked {
            let key = object.key.clone();
            delivered.push(self.push(object).with_context(|| format!("object {key}"))?);
        }
        self.seen.extend(updated.into_iter().map(|object| (object.key, object.last_modified)));
        Ok(delivered)
    }

    /// The objects on the first page of the bucket with a time not seen before.
    fn updated_objects(&self) -> Result<Vec<StoredObject>> {
        let mut updated = self.bucket.list_first_page()?;
        updated.retain(|object| self.seen.get(&object.key) != Some(&object.last_modified));
        updated.sort_by_key(|object| object.last_modified);
        Ok(updated)
    }

    fn unpack(&self, key: &str, folder: &Path) -> Result<Unpacked> {
        let name = ObjectName::parse(key)?;
        let encrypted = folder.with_extension("age");
        let archive = folder.with_extension("archive");
        fs::write(&encrypted, self.bucket.get(key)?)?;
        judge::age_decrypt_file(&encrypted, &archive, &self.identity_file)?;
        if name.extension == ".tar.age" {
            untar(&archive, folder)?;
        } else {
            judge::unzip_test(&archive)?;
            judge::unpack(&archive, folder)?;
        }
        Ok(Unpacked { key: key.to_owned(), name, folder: folder.to_owned() })
    }

    fn push(&self, object: Unpacked) -> Result<Delivered> {
        let Unpacked { key, name, folder } = object;
        let project = encode_path(&format!("{}/{}", name.group, name.project));
        let url = format!("{}/{project}.git", self.destination_url);
        self.git(&folder, &["remote", "add", REMOTE, &url])?;
        self.git(&folder, &["checkout", "--quiet", &name.local_branch])?;
        let pushed = judge::git_commit(&folder, "HEAD")?;
        self.git(&folder, &["push", "--quiet", "-u", REMOTE, &name.remote_branch, "--force"])?;
        Ok(Delivered {
            group: name.group,
            project: name.project,
            branch: name.remote_branch,
            commit: name.commit,
            pushed,
            key,
        })
    }

    /// Runs Git in an unpacked repository, with the credentials in its environment.
    fn git(&self, folder: &Path, arguments: &[&str]) -> Result<()> {
        let header = format!("Authorization: {}", self.authorization);
        let mut git = git_with(&[("http.extraHeader", &header)]);
        run(git.arg("-C").arg(folder).args(arguments), "git").map(drop)
    }
}

/// Unpacks a tar.gz as a simple Go program does: only regular files and directories, and no file before its directory.
pub fn untar(archive: &Path, folder: &Path) -> Result<()> {
    let file = BufReader::new(File::open(archive)?);
    fs::create_dir_all(folder)?;
    let mut tar = tar::Archive::new(MultiGzDecoder::new(file));
    for entry in tar.entries()? {
        let mut entry = entry.context("reading the tar archive")?;
        let path = entry.path()?.into_owned();
        unpack_entry(&mut entry, folder).with_context(|| format!("tar entry {}", path.display()))?;
    }
    Ok(())
}

fn unpack_entry<R: Read>(entry: &mut tar::Entry<'_, R>, folder: &Path) -> Result<()> {
    let path = entry.path()?.into_owned();
    let safe = path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    ensure!(safe, "it leaves the folder");
    let target = folder.join(&path);
    let mode = entry.header().mode()?;
    match entry.header().entry_type() {
        EntryType::Directory => fs::create_dir_all(&target)?,
        EntryType::Regular => {
            let parent = target.parent().context("a file without a folder")?;
            ensure!(parent.is_dir(), "no entry for its directory comes before it");
            let mut file = File::create(&target)?;
            let copied = std::io::copy(entry, &mut file)?;
            ensure!(copied == entry.size(), "it holds {copied} bytes and says {}", entry.size());
            file.set_permissions(Permissions::from_mode(mode & 0o777))?;
        }
        other => bail!("entries of type {other:?} are refused"),
    }
    Ok(())
}
