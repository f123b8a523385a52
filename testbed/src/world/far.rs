//! The far side of a world: the consumer's settings, and objects that no producer made.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::World;
use crate::archive::{self, Naming, Packs};
use crate::repo::Repo;

impl World {
    /// The consumer's whole environment: its settings, and the search path.
    pub fn consumer_env(&self) -> Vec<(String, String)> {
        let mut variables = self.s3_env();
        variables.extend([
            ("GITLAB_BASE_URL", self.destination.url()),
            ("GITLAB_USERNAME", self.destination.user().to_owned()),
            ("GITLAB_TOKEN", self.destination.password().to_owned()),
            ("WORKDIR", self.consumer_workdir().to_string_lossy().into_owned()),
        ]);
        variables.extend(self.common_env());
        variables.push(if self.identities_in_file {
            ("PRIVATE_KEY_FILE", self.identities_file().to_string_lossy().into_owned())
        } else {
            ("PRIVATE_KEY", self.keys[0].identity.clone())
        });
        overridden(variables, &self.consumer_settings)
    }

    /// A command with [`World::consumer_env`] as its whole environment.
    pub fn consumer_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.consumer_env());
        command
    }

    /// The consumer's working directory; it is not created.
    pub fn consumer_workdir(&self) -> PathBuf {
        self.folder.path().join("far-working")
    }

    /// A file with all recipients' identities, a line each.
    pub fn identities_file(&self) -> PathBuf {
        self.folder.path().join(super::IDENTITIES_FILE)
    }

    /// The commit that a branch of the far GitLab is at; `None` if there is no such project or branch.
    pub fn far_head(&self, destination: &str, branch: &str) -> Option<String> {
        Repo::open(self.destination.repo_path(destination)).ok()?.head(branch)
    }

    /// Encrypts an archive for all recipients and puts it into the bucket; returns its key.
    pub fn put_object(
        &self,
        destination: &str,
        branch: &str,
        commit: &str,
        naming: Naming<'_>,
        archive: &[u8],
    ) -> Result<String> {
        self.put_object_for(&self.recipients(), destination, branch, commit, naming, archive)
    }

    /// The same for some recipients.
    pub fn put_object_for(
        &self,
        recipients: &[&str],
        destination: &str,
        branch: &str,
        commit: &str,
        naming: Naming<'_>,
        archive: &[u8],
    ) -> Result<String> {
        let key = archive::key(destination, branch, commit, naming)?;
        self.bucket()?.put(&key, archive::encrypt(archive, recipients)?)?;
        Ok(key)
    }

    /// Puts the head of a source's branch into the bucket, as a producer would: in one pack. Returns the key.
    pub fn put_head(
        &self,
        source: &Repo,
        source_branch: &str,
        destination: &str,
        branch: &str,
        naming: Naming<'_>,
    ) -> Result<String> {
        let commit = source.head(source_branch).with_context(|| format!("no branch {source_branch}"))?;
        let archive = match naming {
            Naming::Zip => archive::zip(source, &commit, branch, Packs::One)?,
            Naming::Tar => archive::tar_gz(source, &commit, branch, Packs::One)?,
            Naming::Go(_) => archive::go_tar_gz(source, archive::GoLayout::Folders)?,
            Naming::FirstGo => archive::go_tar_gz(source, archive::GoLayout::Files)?,
        };
        self.put_object(destination, branch, &commit, naming, &archive)
    }
}

/// Variables, of which these settings replace those of the same name.
pub(super) fn overridden(variables: Vec<(&str, String)>, settings: &[(String, String)]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in settings {
        variables.retain(|(existing, _)| existing != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

/// Writes all identities into one file.
pub(super) fn write_identities(folder: &Path, identities: &[&str]) -> Result<()> {
    Ok(fs::write(folder.join(super::IDENTITIES_FILE), identities.join("\n") + "\n")?)
}
