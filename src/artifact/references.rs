//! The references of an archive: read strictly, held in memory, and never unpacked.
//!
//! Invariant: a restored repository has the two reference files that this module writes, and no other: what Git reads there
//! is what was verified.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use super::error::{ArtifactError, in_path};
use super::walk::{ends_early, is_hex};
use crate::files::{create_private_dir, new_private_file};
use crate::model::key::{ArchiveFormat, CommitId};

/// Names and contents of all references of an archive together, in bytes.
const REFERENCES_LIMIT_BYTES: u64 = 16 << 20;
/// What the first line of `packed-refs` begins with, as Git writes it.
const PACKED_HEADER: &str = "# pack-refs with:";

/// Why the references of an archive are not those of the object's name. Each message follows "`<key>`: ".
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    #[error("its {file} cannot be used: {problem}")]
    Malformed { file: String, problem: &'static str },
    #[error("its repository is shallow and cannot be pushed")]
    Shallow,
    #[error("its repository has no branch {0:?}")]
    NoBranch(String),
    #[error("its name says commit {named}, but its branch is at {found}")]
    OtherCommit { named: CommitId, found: String },
    /// In an archive whose branch may have another name.
    #[error("its name says commit {0}, but none of its branches is there")]
    Nowhere(CommitId),
    #[error("refused, its archive holds the reference {0:?} beside its branch")]
    Another(String),
}

/// The reference files of an archive, by their paths in `.git`.
#[derive(Debug, Default)]
pub(super) struct References {
    files: BTreeMap<String, Vec<u8>>,
    bytes: u64,
}

impl References {
    /// Adds a file of `size` bytes.
    pub(super) fn add(&mut self, path: String, content: &mut impl Read, size: u64) -> Result<(), ArtifactError> {
        let taken = |path: String| ArtifactError::Unsafe { path: format!(".git/{path}"), reason: "occurs twice" };
        let below = format!("{path}/");
        let is_a_folder = self.files.range(below.clone()..).next().is_some_and(|(file, _)| file.starts_with(&below));
        let is_in_a_file = path.match_indices('/').any(|(end, _)| self.files.contains_key(&path[..end]));
        if is_a_folder || is_in_a_file || self.files.contains_key(&path) {
            return Err(taken(path));
        }
        let mut bytes = vec![];
        self.bytes = self.bytes.saturating_add(path.len() as u64).saturating_add(size);
        if self.bytes > REFERENCES_LIMIT_BYTES {
            return Err(ArtifactError::TooLarge(format!("{REFERENCES_LIMIT_BYTES} bytes of references")));
        }
        content.take(size).read_to_end(&mut bytes).map_err(ArtifactError::Damaged)?;
        if bytes.len() as u64 != size {
            return Err(ends_early(&path));
        }
        self.files.insert(path, bytes);
        Ok(())
    }

    /// Checks that `branch` is at `commit`, and returns how many other references there are.
    ///
    /// This program's zip archive has no other. In an archive of the Go program (tar.gz) the branch may have another name,
    /// the source's: any reference to the commit is accepted there.
    pub(super) fn check(&self, branch: &str, commit: CommitId, format: ArchiveFormat) -> Result<usize, ReferenceError> {
        let wanted = full_name(branch);
        if self.files.contains_key("shallow") {
            return Err(ReferenceError::Shallow);
        }
        if !git2::Reference::is_valid_name(&wanted) {
            return Err(ReferenceError::NoBranch(branch.to_owned()));
        }
        let head = self.head()?;
        let references = self.read()?;
        let is_named = |id: &String| *id == commit.to_string();
        match (references.get(&wanted), format) {
            (Some(Some(id)), _) if is_named(id) => {}
            (_, ArchiveFormat::TarGz) if references.values().flatten().any(is_named) => {}
            (Some(Some(id)), _) => return Err(ReferenceError::OtherCommit { named: commit, found: id.clone() }),
            (Some(None), ArchiveFormat::Zip) => return Err(malformed(&wanted, "it holds no object id")),
            (None, ArchiveFormat::Zip) => return Err(ReferenceError::NoBranch(branch.to_owned())),
            (_, ArchiveFormat::TarGz) => return Err(ReferenceError::Nowhere(commit)),
        }
        if format == ArchiveFormat::Zip {
            if head != Head::Branch(wanted.clone()) {
                return Err(malformed("HEAD", "it does not name the branch"));
            }
            if self.files.contains_key("packed-refs") {
                return Err(ReferenceError::Another("packed-refs".to_owned()));
            }
            if let Some(other) = references.keys().find(|name| **name != wanted) {
                return Err(ReferenceError::Another(other.clone()));
            }
        }
        Ok(references.len() - usize::from(references.contains_key(&wanted)))
    }

    /// What each reference points to: an id, or another reference. A file counts before a line of `packed-refs`.
    fn read(&self) -> Result<BTreeMap<String, Option<String>>, ReferenceError> {
        let mut references = match self.files.get("packed-refs") {
            Some(packed) => read_packed(packed).map_err(|problem| malformed("packed-refs", problem))?,
            None => BTreeMap::new(),
        };
        for (name, content) in self.files.iter().filter(|(name, _)| name.starts_with("refs/")) {
            let target = line(content).ok_or_else(|| malformed(name, "it is not one line"))?;
            let id = match target.strip_prefix("ref: ") {
                Some(other) if git2::Reference::is_valid_name(other) => None,
                _ if is_id(target) => Some(target.to_owned()),
                _ => return Err(malformed(name, "it holds no object id")),
            };
            if !git2::Reference::is_valid_name(name) {
                return Err(malformed(name, "this is not a reference's name"));
            }
            references.insert(name.clone(), id);
        }
        Ok(references)
    }

    fn head(&self) -> Result<Head, ReferenceError> {
        let head = self.files.get("HEAD").ok_or_else(|| malformed("HEAD", "it is not there"))?;
        let target = line(head).ok_or_else(|| malformed("HEAD", "it is not one line"))?;
        match target.strip_prefix("ref: ") {
            Some(name) if git2::Reference::is_valid_name(name) => Ok(Head::Branch(name.to_owned())),
            None if is_id(target) => Ok(Head::Detached),
            _ => Err(malformed("HEAD", "it names neither a branch nor a commit")),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Head {
    Branch(String),
    Detached,
}

/// Reads `packed-refs` as strictly as Git writes it: sorted, each name once, each line ended by a line feed.
fn read_packed(packed: &[u8]) -> Result<BTreeMap<String, Option<String>>, &'static str> {
    let text = str::from_utf8(packed).map_err(|_| "it is not UTF-8")?;
    let mut references = BTreeMap::new();
    let Some(lines) = text.strip_suffix('\n') else {
        return if text.is_empty() { Ok(references) } else { Err("its last line does not end") };
    };
    let mut may_be_peeled = false;
    for (number, line) in lines.split('\n').enumerate() {
        if number == 0 && line.starts_with(PACKED_HEADER) && !line.contains('\r') {
            continue;
        }
        if let Some(peeled) = line.strip_prefix('^') {
            if !may_be_peeled || !is_id(peeled) {
                return Err("a line that begins with ^ does not follow a tag");
            }
            may_be_peeled = false;
            continue;
        }
        let (id, name) = line.split_once(' ').filter(|(id, _)| is_id(id)).ok_or("a line does not begin with an id")?;
        if !git2::Reference::is_valid_name(name) || !name.starts_with("refs/") {
            return Err("a line does not end with a reference's name");
        }
        if references.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= name) {
            return Err("its names are not sorted, or one occurs twice");
        }
        references.insert(name.to_owned(), Some(id.to_owned()));
        may_be_peeled = true;
    }
    Ok(references)
}

/// Writes the only branch of a restored repository, and the `HEAD` that names it.
pub(super) fn write(git_dir: &Path, branch: &str, commit: CommitId) -> Result<(), ArtifactError> {
    let name = full_name(branch);
    let file = git_dir.join(&name);
    let folder = file.parent().unwrap_or(git_dir);
    create_private_dir(folder).map_err(in_path(folder))?;
    for (path, content) in [(file, format!("{commit}\n")), (git_dir.join("HEAD"), format!("ref: {name}\n"))] {
        let written = new_private_file(&path).and_then(|mut out| out.write_all(content.as_bytes()));
        written.map_err(in_path(&path))?;
    }
    Ok(())
}

/// Moves the branch of a restored repository.
pub(super) fn move_branch(git_dir: &Path, branch: &str, commit: CommitId) -> Result<(), ArtifactError> {
    let file = git_dir.join(full_name(branch));
    fs::write(&file, format!("{commit}\n")).map_err(in_path(&file))
}

fn full_name(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// The only line of a file, which ends with a line feed.
fn line(content: &[u8]) -> Option<&str> {
    str::from_utf8(content).ok()?.strip_suffix('\n').filter(|line| !line.contains('\n'))
}

/// Whether this is an object's id as Git writes it: 40 digits, in lower case.
fn is_id(text: &str) -> bool {
    is_hex(text.as_bytes(), 40)
}

fn malformed(file: &str, problem: &'static str) -> ReferenceError {
    ReferenceError::Malformed { file: file.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const GOOD: &str = "11111111111111111111111111111111111111aa";
    const EVIL: &str = "22222222222222222222222222222222222222bb";

    fn references(files: &[(&str, String)]) -> References {
        let mut references = References::default();
        for (path, content) in files {
            references.add((*path).to_owned(), &mut content.as_bytes(), content.len() as u64).unwrap();
        }
        references
    }

    fn check(format: ArchiveFormat, files: &[(&str, String)]) -> Result<usize, ReferenceError> {
        references(files).check("main", GOOD.parse().unwrap(), format)
    }

    fn head() -> (&'static str, String) {
        ("HEAD", "ref: refs/heads/main\n".to_owned())
    }

    fn branch() -> (&'static str, String) {
        ("refs/heads/main", format!("{GOOD}\n"))
    }

    #[test]
    fn a_zip_archive_has_its_branch_and_no_other_reference() {
        assert_eq!(check(ArchiveFormat::Zip, &[head(), branch()]).unwrap(), 0);
        let others = [
            ("packed-refs", String::new()),
            ("packed-refs", format!("{EVIL} refs/replace/{GOOD}\n")),
            ("packed-refs", format!("{GOOD} refs/heads/main\n")),
            ("refs/heads/evil", format!("{EVIL}\n")),
            ("refs/heads/HEAD", format!("{EVIL}\n")),
            ("refs/tags/main", format!("{EVIL}\n")),
            ("refs/remotes/main", format!("{GOOD}\n")),
            ("refs/remotes/origin/HEAD", "ref: refs/remotes/origin/main\n".to_owned()),
            ("refs/replace/x", format!("{EVIL}\n")),
        ];
        for other in others {
            let name = other.0;
            let checked = check(ArchiveFormat::Zip, &[head(), branch(), other.clone()]);
            assert!(matches!(&checked, Err(ReferenceError::Another(_))), "{other:?}: {checked:?}");
            assert!(checked.unwrap_err().to_string().contains(name), "{name} is named");
        }
        for other_head in [format!("{GOOD}\n"), "ref: refs/heads/evil\n".to_owned()] {
            let checked = check(ArchiveFormat::Zip, &[("HEAD", other_head), branch()]);
            assert!(matches!(checked, Err(ReferenceError::Malformed { .. })), "{checked:?}");
        }
        assert!(matches!(check(ArchiveFormat::Zip, &[head()]), Err(ReferenceError::NoBranch(_))));
        let evil = ("refs/heads/main", format!("{EVIL}\n"));
        assert!(matches!(check(ArchiveFormat::Zip, &[head(), evil]), Err(ReferenceError::OtherCommit { .. })));
    }

    #[test]
    fn an_archive_of_the_go_program_may_name_its_branch_otherwise_and_its_other_references_are_counted() {
        let packed = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{GOOD} refs/remotes/origin/x\n{EVIL} refs/tags/v1\n^{GOOD}\n"
        );
        let files = [
            ("HEAD", "ref: refs/heads/source\n".to_owned()),
            ("refs/heads/source", format!("{GOOD}\n")),
            ("refs/heads/other", format!("{EVIL}\n")),
            ("refs/remotes/origin/HEAD", "ref: refs/remotes/origin/x\n".to_owned()),
            ("packed-refs", packed),
        ];
        assert_eq!(check(ArchiveFormat::TarGz, &files).unwrap(), 5);
        assert_eq!(check(ArchiveFormat::TarGz, &[head(), branch()]).unwrap(), 0);
        // A line of packed-refs that a file hides is not a reference to the commit.
        let hidden =
            [head(), ("refs/heads/main", format!("{EVIL}\n")), ("packed-refs", format!("{GOOD} refs/heads/main\n"))];
        assert!(matches!(check(ArchiveFormat::TarGz, &hidden), Err(ReferenceError::OtherCommit { .. })));
        let elsewhere = [head(), ("refs/heads/x", format!("{EVIL}\n"))];
        assert!(matches!(check(ArchiveFormat::TarGz, &elsewhere), Err(ReferenceError::Nowhere(_))));
    }

    #[test]
    fn references_that_git_would_not_write_are_refused() {
        let lines = |lines: &[&str]| ("packed-refs", lines.concat());
        let files = [
            ("HEAD", "ref: refs/heads/main".to_owned()),
            ("HEAD", "nonsense\n".to_owned()),
            ("refs/heads/other", GOOD.to_owned()),
            ("refs/heads/other", format!("{}\n", GOOD.to_uppercase())),
            ("refs/heads/other", format!("{GOOD}\r\n")),
            ("refs/heads/other", format!("{GOOD} \n")),
            ("refs/heads/other", format!("{GOOD}\n{GOOD}\n")),
            ("refs/heads/other", "ref: ../../etc/passwd\n".to_owned()),
            ("refs/heads/a..b", format!("{GOOD}\n")),
            lines(&[GOOD, " refs/heads/a"]),
            lines(&[GOOD, " refs/heads/a\r\n"]),
            lines(&[GOOD, " refs/heads/b\n", GOOD, " refs/heads/a\n"]),
            lines(&[EVIL, " refs/heads/a\n", GOOD, " refs/heads/a\n"]),
            lines(&[&GOOD.to_uppercase(), " refs/heads/a\n"]),
            lines(&[GOOD, "  refs/heads/a\n"]),
            lines(&[GOOD, " refs/heads/../../config\n"]),
            lines(&[GOOD, " HEAD\n"]),
            lines(&["^", GOOD, "\n"]),
            lines(&[GOOD, " refs/heads/a\n^", EVIL, "\n^", EVIL, "\n"]),
            lines(&[GOOD, " refs/heads/a\n# a comment\n"]),
            lines(&[GOOD, " refs/heads/a\n\n"]),
        ];
        for (file, content) in files {
            let mut all = vec![branch(), (file, content.clone())];
            if file != "HEAD" {
                all.push(head());
            }
            let checked = check(ArchiveFormat::TarGz, &all);
            assert!(matches!(checked, Err(ReferenceError::Malformed { .. })), "{file} {content:?}: {checked:?}");
        }
        assert!(matches!(check(ArchiveFormat::TarGz, &[branch()]), Err(ReferenceError::Malformed { .. })), "no HEAD");
        let shallow = [head(), branch(), ("shallow", format!("{GOOD}\n"))];
        assert!(matches!(check(ArchiveFormat::Zip, &shallow), Err(ReferenceError::Shallow)));
    }

    #[test]
    fn all_references_together_are_bounded() {
        let mut references = References::default();
        let half = vec![b'#'; 9 << 20];
        references.add("packed-refs".to_owned(), &mut &half[..], half.len() as u64).unwrap();
        let more = references.add("refs/heads/main".to_owned(), &mut &half[..], half.len() as u64);
        assert!(matches!(more, Err(ArtifactError::TooLarge(_))));
    }
}
