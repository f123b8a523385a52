//! What an object says about itself, apart from its name: which commit of which destination it brings, and when it was
//! published. A signature covers these bytes.
//!
//! Invariant: `parse` returns what `to_json` was given, and refuses everything that no version of this program writes.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::{CommitId, Destination};
use crate::text::{json, remote_text};

/// The longest manifest that is read, in bytes. A key of 1,024 bytes leaves names of less than 1 KiB, so ours are below 2 KiB.
pub const MANIFEST_LIMIT_BYTES: usize = 16 << 10;
/// What is signed begins with these bytes, so that a signature of something else never fits a manifest.
const SIGNED_PREFIX: &[u8] = b"git-partition-sync manifest v1\0";
/// The version that this program writes, and the only one that it reads.
const VERSION: u64 = 1;

/// What an object brings, and when that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Where it goes.
    pub destination: Destination,
    /// Where the branch is with it.
    pub commit: CommitId,
    /// The commit that a receiver must have, if it is an increment.
    pub base: Option<CommitId>,
    /// The commit of the object that was the destination's newest before, if it is known and another one. Only a whole history
    /// can replace a commit, so an increment does not name one.
    pub previous: Option<CommitId>,
    /// When it was published, in whole milliseconds. It grows from object to object of a destination.
    pub published: SystemTime,
}

/// Why a manifest cannot be used. Each message follows "`<key>`: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_LIMIT_BYTES`].
    #[error("its manifest is longer than {MANIFEST_LIMIT_BYTES} bytes")]
    TooLong,
    /// Written by a program of the future.
    #[error("its manifest has version {0}, and this program knows only version {VERSION}: update it")]
    Version(u64),
    /// Not what a producer writes.
    #[error("its manifest cannot be read: {0}")]
    Malformed(String),
    /// It belongs to another object.
    #[error("its manifest is of another {what} than its name says ({named}): somebody put it under this name")]
    Another {
        /// What differs.
        what: &'static str,
        /// What the name says.
        named: String,
    },
}

impl Manifest {
    /// When it was published, as it says: RFC 3339 in UTC, with milliseconds.
    pub fn published_text(&self) -> String {
        time_text(self.published)
    }

    /// Compact JSON, its fields in the contract's order.
    pub fn to_json(&self) -> Vec<u8> {
        let written = Written {
            version: VERSION,
            group: &self.destination.group,
            project_name: &self.destination.project,
            branch: &self.destination.branch,
            commit_sha: self.commit,
            base_sha: self.base,
            previous_sha: self.previous,
            published: time_text(self.published),
        };
        #[expect(clippy::expect_used, reason = "a struct of strings has no state that JSON cannot hold")]
        serde_json::to_vec(&written).expect("strings serialize")
    }

    /// Reads a manifest. Fields that it does not know are ignored.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MANIFEST_LIMIT_BYTES {
            return Err(ManifestError::TooLong);
        }
        // A list would be read as the fields in their order.
        if !json.starts_with(b"{") {
            return Err(malformed("it is not a JSON object"));
        }
        let Versioned { version } = from_json(json)?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let read: Read = from_json(json)?;
        if [&read.group, &read.project_name, &read.branch].iter().any(|name| name.is_empty()) {
            return Err(malformed("a name is empty"));
        }
        Ok(Self {
            destination: Destination { group: read.group, project: read.project_name, branch: read.branch },
            commit: commit(&read.commit_sha)?,
            base: read.base_sha.as_deref().map(commit).transpose()?,
            previous: read.previous_sha.as_deref().map(commit).transpose()?,
            published: time(&read.published)?,
        })
    }

    /// Whether it is the manifest of the object whose name says this; `base` is that of an increment.
    ///
    /// # Errors
    /// [`ManifestError::Another`].
    pub fn agrees_with(
        &self,
        destination: &Destination,
        commit: CommitId,
        base: Option<CommitId>,
    ) -> Result<(), ManifestError> {
        let another = |what, named| Err(ManifestError::Another { what, named });
        if self.destination != *destination {
            return another("destination", destination.to_string());
        }
        if self.commit != commit {
            return another("commit", commit.to_string());
        }
        if self.base != base {
            return another("base", base.map_or_else(|| "a whole history".to_owned(), |base| base.to_string()));
        }
        Ok(())
    }
}

/// What a signature of these bytes covers.
pub fn signed_bytes(manifest: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, manifest].concat()
}

/// Which key signed: the first bytes of the SHA-256 of its raw public part. It tells keys apart and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Its length, in bytes.
    pub const BYTES: usize = 8;

    /// The id from its raw bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is known of the program that made an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It has no signature, and none is needed here.
    Unsigned,
    /// A trusted key signed it.
    Signed {
        /// Which one.
        key: KeyId,
    },
    /// It has a signature that nobody checked, because no keys are trusted here.
    Unchecked {
        /// The key that it names.
        key: KeyId,
    },
}

impl Origin {
    /// Its name, in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed { .. } => "signed",
            Self::Unchecked { .. } => "unchecked",
        }
    }

    /// The key that it was signed with, or that it names.
    pub const fn key(self) -> Option<KeyId> {
        match self {
            Self::Unsigned => None,
            Self::Signed { key } | Self::Unchecked { key } => Some(key),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("unsigned"),
            Self::Signed { key } => write!(f, "signed by {key}"),
            Self::Unchecked { key } => write!(f, "signed by {key}, not checked"),
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    group: &'a str,
    project_name: &'a str,
    branch: &'a str,
    commit_sha: CommitId,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_sha: Option<CommitId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_sha: Option<CommitId>,
    published: String,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Deserialize)]
struct Read {
    group: String,
    project_name: String,
    branch: String,
    commit_sha: String,
    base_sha: Option<String>,
    previous_sha: Option<String>,
    published: String,
}

fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ManifestError> {
    // The error may quote what it could not use.
    json::from_slice(json).map_err(|error| malformed(&remote_text(json::why(&error).as_bytes())))
}

fn malformed(why: &str) -> ManifestError {
    ManifestError::Malformed(why.to_owned())
}

/// A commit as this program writes it.
fn commit(text: &str) -> Result<CommitId, ManifestError> {
    let commit = text.parse::<CommitId>().ok().filter(|commit| commit.to_string() == text);
    commit.ok_or_else(|| malformed("a commit is not 40 hexadecimal digits in lower case"))
}

/// RFC 3339 in UTC, with three digits after the point.
fn time_text(time: SystemTime) -> String {
    format!("{:.3}", Timestamp::try_from(time).unwrap_or(Timestamp::MAX))
}

fn time(text: &str) -> Result<SystemTime, ManifestError> {
    let time = text.parse::<Timestamp>().ok().map(SystemTime::from).filter(|time| time_text(*time) == text);
    time.ok_or_else(|| malformed("its time is not RFC 3339 in UTC with milliseconds"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    fn manifest() -> Manifest {
        Manifest {
            destination: Destination { group: "far/sub".into(), project: "app".into(), branch: "release/1".into() },
            commit: id(1),
            base: None,
            previous: None,
            published: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        }
    }

    fn text(manifest: &Manifest) -> String {
        String::from_utf8(manifest.to_json()).unwrap()
    }

    #[test]
    fn its_time_has_milliseconds_also_when_they_end_in_zero() {
        let published = UNIX_EPOCH + Duration::from_millis(1_700_000_000_120);
        assert_eq!(Manifest { published, ..manifest() }.published_text(), "2023-11-14T22:13:20.120Z");
    }

    #[test]
    fn a_manifest_is_compact_json_in_the_contract_s_order() {
        let one = "01".repeat(20);
        assert_eq!(
            text(&manifest()),
            format!(
                r#"{{"version":1,"group":"far/sub","project_name":"app","branch":"release/1","commit_sha":"{one}","published":"2023-11-14T22:13:20.123Z"}}"#
            )
        );
        let published = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let whole = Manifest { previous: Some(id(2)), published, ..manifest() };
        let increment = Manifest { base: Some(id(2)), published, ..manifest() };
        for (manifest, field) in [(whole, "previous_sha"), (increment, "base_sha")] {
            let two = "02".repeat(20);
            assert_eq!(
                text(&manifest),
                format!(
                    r#"{{"version":1,"group":"far/sub","project_name":"app","branch":"release/1","commit_sha":"{one}","{field}":"{two}","published":"2023-11-14T22:13:20.000Z"}}"#
                )
            );
            assert_eq!(Manifest::parse(text(&manifest).as_bytes()).unwrap(), manifest);
        }
    }

    #[test]
    fn other_fields_are_ignored_in_any_order() {
        let json = text(&manifest());
        let more = json.replacen('{', r#"{"x":[{"y":1}],"#, 1);
        assert_eq!(Manifest::parse(more.as_bytes()).unwrap(), manifest());
        let fields: Vec<&str> = json.trim_matches(['{', '}']).split(',').collect();
        let turned = format!("{{{}}}", fields.into_iter().rev().collect::<Vec<_>>().join(","));
        assert_eq!(Manifest::parse(turned.as_bytes()).unwrap(), manifest());
    }

    #[test]
    fn another_version_says_what_to_do_and_nothing_else_is_read() {
        for json in [r#"{"version":2}"#, r#"{"version":2,"commit_sha":7}"#, r#"{"version":0}"#] {
            let error = Manifest::parse(json.as_bytes()).unwrap_err();
            assert!(matches!(error, ManifestError::Version(0 | 2)), "{json}: {error}");
            assert!(error.to_string().ends_with("update it"), "{error}");
        }
    }

    #[test]
    fn what_no_producer_writes_is_refused() {
        let good = text(&Manifest { base: Some(id(0xab)), previous: Some(id(0xcd)), ..manifest() });
        let [ab, cd] = ["ab", "cd"].map(|byte| byte.repeat(20));
        for (from, to) in [
            (r#""version":1"#, r#""version":"1""#),
            (r#""version":1,"#, ""),
            (r#""version":1"#, r#""version":-1"#),
            (r#""group":"far/sub""#, r#""group":"""#),
            (r#""group":"far/sub","#, ""),
            (r#""branch":"release/1""#, r#""branch":null"#),
            (&ab, &ab.to_uppercase()),
            (&ab, &ab[1..]),
            (&ab, "main"),
            (&cd, ""),
            (".123Z", "Z"),
            (".123Z", ".1234Z"),
            (".123Z", ".123+00:00"),
            ("2023-11-14T22", "2023-11-14 22"),
            ("2023-11-14", "2023-11-31"),
            ("2023", "12023"),
            (r#"{"version""#, r#"{"commit_sha":"x","version""#),
            ("}", "} x"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = Manifest::parse(good.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(matches!(error, ManifestError::Malformed(_)), "{from} as {to}: {error}");
        }
        for json in ["", "[1]", "null", "{}", " {\"version\":1}", &"[".repeat(10_000), &"{\"a\":".repeat(1_000)] {
            assert!(matches!(Manifest::parse(json.as_bytes()), Err(ManifestError::Malformed(_))), "{json}");
        }
    }

    #[test]
    fn a_manifest_has_a_limit() {
        let padded = |bytes: usize| {
            let mut json = manifest().to_json();
            json.resize(bytes, b' ');
            Manifest::parse(&json)
        };
        assert_eq!(padded(MANIFEST_LIMIT_BYTES).unwrap(), manifest());
        assert_eq!(padded(MANIFEST_LIMIT_BYTES + 1).unwrap_err(), ManifestError::TooLong);
    }

    #[test]
    fn a_manifest_of_another_object_is_told_by_what_differs() {
        let manifest = Manifest { base: Some(id(2)), ..manifest() };
        let of = |destination: &Destination, commit, base| manifest.agrees_with(destination, commit, base);
        of(&manifest.destination, id(1), Some(id(2))).unwrap();
        for other in ["main", "Release/1"] {
            let other = Destination { branch: other.into(), ..manifest.destination.clone() };
            assert!(of(&other, id(1), Some(id(2))).unwrap_err().to_string().contains("another destination"));
        }
        assert!(of(&manifest.destination, id(7), Some(id(2))).unwrap_err().to_string().contains("another commit"));
        for base in [None, Some(id(7))] {
            assert!(of(&manifest.destination, id(1), base).unwrap_err().to_string().contains("another base"));
        }
    }

    #[test]
    fn a_signature_covers_the_bytes_as_they_stand() {
        assert_eq!(signed_bytes(b"{}"), b"git-partition-sync manifest v1\0{}");
    }

    #[test]
    fn origins_and_keys_are_shown_in_words() {
        let key = KeyId::from_bytes([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);
        assert_eq!(Origin::Signed { key }.to_string(), "signed by 00010203fcfdfeff");
        assert_eq!(Origin::Unchecked { key }.to_string(), "signed by 00010203fcfdfeff, not checked");
        assert_eq!(serde_json::to_string(&Origin::Unchecked { key }.key()).unwrap(), "\"00010203fcfdfeff\"");
    }

    proptest! {
        #[test]
        fn any_manifest_round_trips(
            names: (String, String, String),
            ids: [[u8; 20]; 3],
            is_increment: bool,
            has_previous: bool,
            millis in 0..253_370_764_800_000_u64,
        ) {
            let [commit, base, previous] = ids.map(CommitId::from_bytes);
            let name = |name: String| format!("n{}", name.chars().take(300).collect::<String>());
            let manifest = Manifest {
                destination: Destination { group: name(names.0), project: name(names.1), branch: name(names.2) },
                commit,
                base: is_increment.then_some(base),
                previous: has_previous.then_some(previous),
                published: UNIX_EPOCH + Duration::from_millis(millis),
            };
            prop_assert_eq!(Manifest::parse(&manifest.to_json()), Ok(manifest));
        }

        #[test]
        fn a_damaged_manifest_is_refused_or_complete(seed: u64) {
            let whole = Manifest { base: Some(id(2)), previous: Some(id(3)), ..manifest() };
            if let Ok(read) = Manifest::parse(&testbed::mutate::mutated(&whole.to_json(), seed)) {
                prop_assert_eq!(Manifest::parse(&read.to_json()), Ok(read));
            }
        }
    }
}
