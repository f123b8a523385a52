//! The target list in a file, `TARGETS_FILE`, in place of a GraphQL server: the JSON that a server would answer.
//!
//! Invariant: the file is used as a whole or not at all. No schema checks how its fields are spelled, so one that is absent
//! is an error: a misspelled name must not take a target off the list.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::{ANSWER_LIMIT_BYTES, Unusable, data, targets};
use crate::model::target::Targets;
use crate::text::human_bytes;

/// Editors of Windows begin a file with a byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// How the list is written.
const FORM: &str = r#"{"data": {"apps_v1": […]}}"#;

/// A file with the target list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetsFile(pub PathBuf);

/// Why there is no target list in the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is absent or cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// Where it was looked for.
        path: String,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// It is too long.
    #[error("{path} has more than {}", human_bytes(ANSWER_LIMIT_BYTES as u64))]
    TooLong {
        /// Where it is.
        path: String,
    },
    /// It is not JSON, or does not have the shape of an answer.
    #[error("{path} is not a target list: {why}")]
    Shape {
        /// Where it is.
        path: String,
        /// What is wrong, and where.
        why: String,
    },
    /// It is the answer of a server that could not answer the query.
    #[error("{path} has `errors`, so the list beside them may lack something: {errors}")]
    Reported {
        /// Where it is.
        path: String,
        /// The first of the errors.
        errors: String,
    },
    /// `data` or `apps_v1` is absent or null.
    #[error("{path} has no {part}, so it says nothing about the targets")]
    NoList {
        /// Where it is.
        path: String,
        /// What is absent.
        part: &'static str,
    },
    /// A field is absent.
    #[error("{path} is not a target list: {what} (is it misspelled? Write null for none)")]
    Absent {
        /// Where it is.
        path: String,
        /// Which field, and where.
        what: String,
    },
}

impl FileError {
    /// What to do about it.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "Mount the file, or correct the path in TARGETS_FILE.",
            Self::TooLong { .. } | Self::Shape { .. } | Self::NoList { .. } | Self::Absent { .. } => {
                "Correct the file in TARGETS_FILE: docs/targets.md shows its form. To change it, write a new file and move \
                 it to its place."
            }
            Self::Reported { .. } => "Save the server's answer again, once it has no `errors`.",
        }
    }
}

impl TargetsFile {
    /// Opens the file to show that a pass will be able to. An error says why it will not.
    pub fn try_open(&self) -> io::Result<()> {
        open(&self.0).map(drop)
    }

    /// Reads the targets.
    ///
    /// # Errors
    /// [`FileError`]: nothing is known, so nothing may change.
    pub async fn targets(&self) -> Result<Targets, FileError> {
        let path = self.0.clone();
        let reading = spawn_blocking(move || read(&path));
        reading.await.unwrap_or_else(|error| Err(self.unreadable(error.into())))
    }

    fn unreadable(&self, source: io::Error) -> FileError {
        FileError::Unreadable { path: self.0.display().to_string(), source }
    }
}

/// Opens a file, and nothing else: a pipe could let a pass wait for ever.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

fn read(path: &Path) -> Result<Targets, FileError> {
    let named = || path.display().to_string();
    let mut text = vec![];
    open(path)
        .and_then(|file| file.take(ANSWER_LIMIT_BYTES as u64 + 1).read_to_end(&mut text))
        .map_err(|source| FileError::Unreadable { path: named(), source })?;
    if text.len() > ANSWER_LIMIT_BYTES {
        return Err(FileError::TooLong { path: named() });
    }
    let text = text.strip_prefix(MARK).unwrap_or(&text);
    if text.trim_ascii_start().starts_with(b"[") {
        let why = format!("it begins with [, expected {FORM}");
        return Err(FileError::Shape { path: named(), why });
    }
    let data = data(text).map_err(|unusable| match unusable {
        Unusable::Shape(why) => FileError::Shape { path: named(), why },
        Unusable::Reported(errors) => FileError::Reported { path: named(), errors },
        Unusable::NoData => FileError::NoList { path: named(), part: "data" },
    })?;
    let listed = targets::list(data).map_err(|part| FileError::NoList { path: named(), part })?;
    match listed.absent {
        Some(what) => Err(FileError::Absent { path: named(), what }),
        None => Ok(listed.validated()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// What is read from a file with this content, and what is said of it.
    fn read_text(content: &[u8]) -> Result<Targets, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, content).unwrap();
        read(file.path()).map_err(|error| error.to_string().replace(file.path().to_str().unwrap(), "FILE"))
    }

    #[test]
    fn the_example_is_a_target_list_with_a_byte_order_mark_too() {
        let example = include_bytes!("../../examples/targets.json");
        for content in [example.to_vec(), [MARK, example].concat()] {
            let targets = read_text(&content).unwrap();
            let accepted: Vec<_> = targets.accepted.iter().map(|target| target.destination.to_string()).collect();
            assert_eq!(accepted, ["mirror/platform/api@main", "mirror/platform/website@production"]);
            assert_eq!((targets.refused.len(), targets.unlisted_apps), (0, 0));
        }
    }

    #[test]
    fn what_is_not_a_target_list_is_said_with_its_place() {
        for (content, problem) in [
            ("", "FILE is not a target list: EOF while parsing a value at line 1 column 0"),
            ("[]", r#"FILE is not a target list: it begins with [, expected {"data": {"apps_v1": […]}}"#),
            (
                r#"{"data":[]}"#,
                "FILE is not a target list: invalid type: sequence, expected an object at line 1 column 8",
            ),
            (
                r#"{"data":{"apps_v1":[[[[[["p","g","b"],["p","g","b"]]]]]]}}"#,
                "FILE is not a target list: invalid type: sequence, expected an object at line 1 column 20",
            ),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":[["p","g","b"],["p","g","b"]]}]}]}}"#,
                "FILE is not a target list: invalid type: sequence, expected an object at line 1 column 53",
            ),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":{"sourceProject":["p","g","b"]}}]}]}}"#,
                "FILE is not a target list: invalid type: sequence, expected an object at line 1 column 70",
            ),
            (
                r#"[{"apps_v1":[]},null]"#,
                r#"FILE is not a target list: it begins with [, expected {"data": {"apps_v1": […]}}"#,
            ),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":"x"}]}]}}"#,
                "FILE is not a target list: invalid type: string \"x\", expected an object at line 1 column 56",
            ),
            ("data:\n  apps_v1: []\n", "FILE is not a target list: expected value at line 1 column 1"),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":{"#,
                "FILE is not a target list: EOF while parsing an object at line 1 column 54",
            ),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":{"sourceProject":{"name":"p","group":"g","branch":"b"}}}]}]}}"#,
                "FILE is not a target list: missing field `destinationProject` at line 1 column 108",
            ),
            (r#"{"apps_v1":[]}"#, "FILE has no data, so it says nothing about the targets"),
            (r#"{"data":{"apps":[]}}"#, "FILE has no apps_v1, so it says nothing about the targets"),
            (
                r#"{"data":{"apps_v1":[]},"errors":[{"message":"a part is missing"}]}"#,
                "FILE has `errors`, so the list beside them may lack something: a part is missing",
            ),
            (
                r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabsync":null}]}]}}"#,
                "FILE is not a target list: component 1 of app 1 has no gitlabSync (is it misspelled? Write null for none)",
            ),
        ] {
            assert_eq!(read_text(content.as_bytes()).unwrap_err(), problem, "{content}");
        }
    }

    #[test]
    fn null_for_an_app_s_components_counts_as_in_an_answer() {
        let targets = read_text(br#"{"data":{"apps_v1":[{"codeComponents":null},{"codeComponents":[]}]}}"#).unwrap();
        assert_eq!((targets.accepted.len(), targets.unlisted_apps), (0, 1));
    }

    #[test]
    fn a_file_that_is_too_long_a_folder_and_nothing_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long.json");
        File::create(&long).unwrap().set_len(ANSWER_LIMIT_BYTES as u64 + 1).unwrap();
        assert!(read(&long).unwrap_err().to_string().ends_with("long.json has more than 64.0 MiB"));
        for (path, why) in [(folder.path(), "regular file"), (&folder.path().join("absent"), "No such file")] {
            let FileError::Unreadable { source, .. } = read(path).unwrap_err() else { panic!("{path:?} was read") };
            assert!(source.to_string().contains(why), "{source}");
        }
    }
}
