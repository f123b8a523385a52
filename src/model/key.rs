//! Object names: the only authority on how keys are built and what they mean.
//!
//! Invariant: `decode` returns what `encode` was given. Nothing else in the program builds or parses a key.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::text::json;

/// The longest key S3 accepts, in bytes of UTF-8 ("Creating object key names", Amazon S3 user guide).
pub const MAX_KEY_BYTES: usize = 1024;

/// What the key of an increment ends with.
const INCREMENT_EXTENSION: &str = ".inc.age";

/// How a project is packed; it decides an object's extension and the fields of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ArchiveFormat {
    /// `.zip.age`: this project's own format.
    #[serde(rename = "zip")]
    Zip,
    /// `.tar.age`: a gzipped tar archive, for app-sre's consumer.
    #[serde(rename = "tar.gz")]
    TarGz,
}

impl ArchiveFormat {
    /// Both formats, for loops over them.
    pub const ALL: [Self; 2] = [Self::Zip, Self::TarGz];

    /// The rest of a key from its first `.` on.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Zip => ".zip.age",
            Self::TarGz => ".tar.age",
        }
    }

    fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }
}

impl fmt::Display for ArchiveFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zip => "zip",
            Self::TarGz => "tar.gz",
        })
    }
}

/// A SHA-1 commit id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId([u8; 20]);

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a commit id: expected 40 hexadecimal digits")]
pub struct NotACommitId;

impl CommitId {
    /// The id from its 20 raw bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Whether it is all zeros, by which Git means that there is no commit. To push it to a branch deletes the branch.
    pub fn is_none(&self) -> bool {
        self.0 == [0; 20]
    }

    /// The 20 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl FromStr for CommitId {
    type Err = NotACommitId;

    fn from_str(text: &str) -> Result<Self, NotACommitId> {
        let digits = text.as_bytes();
        if digits.len() != 40 {
            return Err(NotACommitId);
        }
        let mut id = [0; 20];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(NotACommitId);
            let value = nibble(pair[0])? * 16 + nibble(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| NotACommitId)?;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a project goes on the far side. Objects, actions and reports belong to a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// Group path, with subgroups: `platform/tools`.
    pub group: String,
    /// The project's own path segment.
    pub project: String,
    /// The branch the consumer pushes to.
    pub branch: String,
}

/// A path as GitLab compares it: case does not matter. All spellings of a path have one such form.
pub fn folded_path(path: &str) -> String {
    // Most are ASCII, and there can be very many.
    if path.is_ascii() { path.to_ascii_lowercase() } else { folded(path).collect() }
}

/// Whether these are one path to GitLab.
pub fn is_same_path(one: &str, other: &str) -> bool {
    if one.is_ascii() && other.is_ascii() { one.eq_ignore_ascii_case(other) } else { folded(one).eq(folded(other)) }
}

fn folded(path: &str) -> impl Iterator<Item = char> {
    path.chars().flat_map(char::to_lowercase)
}

impl Destination {
    /// `group/project`, the path of the far side's repository.
    pub fn path(&self) -> String {
        format!("{}/{}", self.group, self.project)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.group, self.project, self.branch)
    }
}

/// `GROUP`, `GROUP/PROJECT` or `GROUP/PROJECT@BRANCH`: everything below a group, all branches of a project, or one
/// destination. A path does not tell whether it is a group's or a project's, and in GitLab it cannot be both. As in GitLab, case
/// does not matter in paths, and matters in branches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// A group with the groups above it, or a project with its group.
    pub path: String,
    /// One branch of a project.
    pub branch: Option<String>,
}

impl Wanted {
    /// Whether this destination is meant.
    pub fn matches(&self, destination: &Destination) -> bool {
        let path = destination.path();
        let mut segments = path.split('/');
        let begins_so = self.path.split('/').all(|wanted| segments.next().is_some_and(|it| is_same_path(it, wanted)));
        let is_below = segments.next().is_some();
        begins_so && self.branch.as_ref().is_none_or(|branch| !is_below && *branch == destination.branch)
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The first `@` is the separator: GitLab allows none in a path, Git allows it in a branch.
        let (path, branch) = text.split_once('@').map_or((text, None), |(path, branch)| (path, Some(branch)));
        let has_no_project = branch.is_some() && !path.contains('/');
        if path.split('/').any(str::is_empty) || branch == Some("") || has_no_project {
            return Err(format!("{text:?} is not a destination: write GROUP, GROUP/PROJECT or GROUP/PROJECT@BRANCH"));
        }
        Ok(Self { path: path.to_owned(), branch: branch.map(str::to_owned) })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.branch.iter().try_for_each(|branch| write!(f, "@{branch}"))
    }
}

/// The key to write for one commit of one destination.
///
/// # Errors
/// [`KeyTooLong`] if S3 would refuse the key.
pub fn encode(destination: &Destination, commit: CommitId, format: ArchiveFormat) -> Result<String, KeyTooLong> {
    let json = match format {
        ArchiveFormat::Zip => to_json(&ZipName {
            group: &destination.group,
            project_name: &destination.project,
            commit_sha: commit,
            branch: &destination.branch,
        }),
        ArchiveFormat::TarGz => escape_like_go(&to_json(&TarName {
            group: &destination.group,
            project_name: &destination.project,
            commit_sha: commit,
            local_branch: &destination.branch,
            remote_branch: &destination.branch,
        })),
    };
    to_key(&json, format.extension())
}

/// The key to write for what `commit` has and `base` has not.
///
/// # Errors
/// [`KeyTooLong`] if S3 would refuse the key.
pub fn encode_increment(destination: &Destination, base: CommitId, commit: CommitId) -> Result<String, KeyTooLong> {
    let json = to_json(&IncrementName {
        group: &destination.group,
        project_name: &destination.project,
        commit_sha: commit,
        branch: &destination.branch,
        base_sha: base,
    });
    to_key(&json, INCREMENT_EXTENSION)
}

fn to_key(json: &str, extension: &str) -> Result<String, KeyTooLong> {
    let mut key = String::with_capacity(json.len().div_ceil(3) * 4 + extension.len());
    BASE64_STANDARD.encode_string(json, &mut key);
    key.push_str(extension);
    if key.len() > MAX_KEY_BYTES {
        return Err(KeyTooLong { bytes: key.len() });
    }
    Ok(key)
}

/// The object's name would be longer than S3 allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its object name would be {bytes} bytes long, and S3 allows {MAX_KEY_BYTES}: shorten the destination's group, name or branch"
)]
pub struct KeyTooLong {
    /// Length the key would have, in bytes.
    pub bytes: usize,
}

/// What a key in the bucket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedKey {
    /// Where the object's project goes.
    pub destination: Destination,
    /// The source commit, as written; names by older programs may not hold 40 digits.
    pub commit: String,
    /// What the object brings of the commit's history.
    pub content: Content,
}

/// What an object brings of its commit's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// All of it, in this format.
    Whole(ArchiveFormat),
    /// What the commit `base` does not have.
    Increment {
        /// An earlier commit of the branch.
        base: CommitId,
    },
}

impl Content {
    /// The format, if it is a whole history.
    pub fn format(self) -> Option<ArchiveFormat> {
        match self {
            Self::Whole(format) => Some(format),
            Self::Increment { .. } => None,
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(format) => format.fmt(f),
            Self::Increment { .. } => f.write_str("increment"),
        }
    }
}

/// An object of the bucket whose key decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldObject {
    /// Its whole key.
    pub key: String,
    /// What the key says.
    pub name: DecodedKey,
    /// When it was written, by the server's clock.
    pub last_modified: SystemTime,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Reads a key of either format and either set of fields, or that of an increment. `None` means a foreign object, which is
/// never touched.
pub fn decode(key: &str) -> Option<DecodedKey> {
    // The first dot ends the encoded name: base64 has no dots.
    let (encoded, extension) = key.split_at(key.find('.')?);
    let is_increment = extension == INCREMENT_EXTENSION;
    let format = ArchiveFormat::of_extension(extension).filter(|_| !is_increment);
    let name: AnyName = json::from_slice(&BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let content = match (format, name.base_sha) {
        (Some(format), _) => Content::Whole(format),
        // No older program wrote these, so commits are written in one way.
        (None, Some(base)) if is_increment && is_written_as_now(&name.commit_sha) => {
            Content::Increment { base: base.parse().ok()? }
        }
        (None, _) => return None,
    };
    let branch = name.remote_branch.or(name.branch)?;
    let complete = [&name.group, &name.project_name, &name.commit_sha, &branch].iter().all(|field| !field.is_empty());
    complete.then_some(DecodedKey {
        destination: Destination { group: name.group, project: name.project_name, branch },
        commit: name.commit_sha,
        content,
    })
}

/// Whether a commit is written as this program writes it.
fn is_written_as_now(commit: &str) -> bool {
    commit.len() == 40 && commit.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[derive(Serialize)]
struct ZipName<'a> {
    group: &'a str,
    project_name: &'a str,
    commit_sha: CommitId,
    branch: &'a str,
}

#[derive(Serialize)]
struct TarName<'a> {
    group: &'a str,
    project_name: &'a str,
    commit_sha: CommitId,
    local_branch: &'a str,
    remote_branch: &'a str,
}

#[derive(Serialize)]
struct IncrementName<'a> {
    group: &'a str,
    project_name: &'a str,
    commit_sha: CommitId,
    branch: &'a str,
    base_sha: CommitId,
}

#[derive(Deserialize)]
struct AnyName {
    group: String,
    project_name: String,
    commit_sha: String,
    branch: Option<String>,
    remote_branch: Option<String>,
    base_sha: Option<String>,
}

/// Compact JSON of a struct of strings.
fn to_json(name: &impl Serialize) -> String {
    #[expect(clippy::expect_used, reason = "a struct of strings has no state that JSON cannot hold")]
    serde_json::to_string(name).expect("strings serialize")
}

/// Go's `encoding/json` escapes these five characters, so that JSON can be embedded in HTML and JavaScript. Our names must
/// have the same bytes, or they would be other objects. In compact JSON the characters occur only inside strings.
fn escape_like_go(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut out, c| {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    fn destination(group: &str, project: &str, branch: &str) -> Destination {
        Destination { group: group.into(), project: project.into(), branch: branch.into() }
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn key_of_json(json: &str, extension: &str) -> String {
        BASE64_STANDARD.encode(json) + extension
    }

    #[test]
    fn zip_key_is_base64_of_compact_json_in_the_contract_s_order() {
        let key = encode(&destination("g/s", "p", "main"), COMMIT.parse().unwrap(), ArchiveFormat::Zip).unwrap();
        let json = format!(r#"{{"group":"g/s","project_name":"p","commit_sha":"{COMMIT}","branch":"main"}}"#);
        assert_eq!(key, key_of_json(&json, ".zip.age"));
    }

    #[test]
    fn tar_key_names_the_destination_branch_twice_and_escapes_like_go() {
        let branch = "a<b>&c\u{2028}\u{2029}é";
        let key = encode(&destination("g", "p", branch), COMMIT.parse().unwrap(), ArchiveFormat::TarGz).unwrap();
        let escaped = r"a\u003cb\u003e\u0026c\u2028\u2029é";
        let json = format!(
            r#"{{"group":"g","project_name":"p","commit_sha":"{COMMIT}","local_branch":"{escaped}","remote_branch":"{escaped}"}}"#
        );
        assert_eq!(key, key_of_json(&json, ".tar.age"));
        assert_eq!(decode(&key).unwrap().destination.branch, branch);
    }

    #[test]
    fn an_increment_s_key_names_its_base_last() {
        let (base, commit) = (CommitId::from_bytes([7; 20]), COMMIT.parse().unwrap());
        let key = encode_increment(&destination("g/s", "p", "main"), base, commit).unwrap();
        let json = format!(
            r#"{{"group":"g/s","project_name":"p","commit_sha":"{COMMIT}","branch":"main","base_sha":"{base}"}}"#
        );
        assert_eq!(key, key_of_json(&json, ".inc.age"));
        for foreign in [
            key_of_json(&json.replace(COMMIT, "c"), ".inc.age"),
            key_of_json(&json.replace(COMMIT, &COMMIT.to_uppercase()), ".inc.age"),
            key_of_json(&json.replace("base_sha", "base"), ".inc.age"),
            key_of_json(&json.replace(&base.to_string(), "main"), ".inc.age"),
        ] {
            assert_eq!(decode(&foreign), None, "{foreign}");
        }
    }

    #[test]
    fn either_set_of_fields_is_read_under_either_extension() {
        for format in ArchiveFormat::ALL {
            for branches in [r#""branch":"b""#, r#""local_branch":"x","remote_branch":"b""#] {
                let json = format!(r#"{{"extra":[1],"commit_sha":"c","project_name":"p",{branches},"group":"g"}}"#);
                let read = decode(&key_of_json(&json, format.extension())).unwrap();
                assert_eq!(
                    read,
                    DecodedKey {
                        destination: destination("g", "p", "b"),
                        commit: "c".into(),
                        content: Content::Whole(format)
                    }
                );
            }
        }
    }

    #[test]
    fn remote_branch_wins_over_branch() {
        let json = r#"{"group":"g","project_name":"p","commit_sha":"c","branch":"old","remote_branch":"new"}"#;
        assert_eq!(decode(&key_of_json(json, ".tar.age")).unwrap().destination.branch, "new");
    }

    #[test]
    fn what_lacks_a_field_or_the_shape_is_foreign() {
        let good = format!(r#"{{"group":"g","project_name":"p","commit_sha":"{COMMIT}","branch":"main"}}"#);
        assert!(decode(&key_of_json(&good, ".zip.age")).is_some());
        for foreign in [
            key_of_json(&good, ".zip"),
            key_of_json(&good, ".zip.age.bak"),
            key_of_json(&good, ""),
            format!("prefix/{}", key_of_json(&good, ".zip.age")),
            key_of_json(r#"{"group":"g","project_name":"p","commit_sha":"c","local_branch":"b"}"#, ".tar.age"),
            key_of_json(r#"{"group":"","project_name":"p","commit_sha":"c","branch":"b"}"#, ".zip.age"),
            key_of_json(r#"{"group":1,"project_name":"p","commit_sha":"c","branch":"b"}"#, ".zip.age"),
            key_of_json("[]", ".zip.age"),
            key_of_json(r#"["g","p","c","b"]"#, ".zip.age"),
            key_of_json(r#"["g","p","c",null,"b",null]"#, ".tar.age"),
            "README.md".into(),
            ".zip.age".into(),
            String::new(),
        ] {
            assert_eq!(decode(&foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_slash_inside_the_base64_text_does_not_split_the_key() {
        let destination = destination("???", "~~~???", "o?o?");
        let key = encode(&destination, COMMIT.parse().unwrap(), ArchiveFormat::Zip).unwrap();
        assert!(key.contains('/'), "{key}");
        assert_eq!(decode(&key).unwrap().destination, destination);
    }

    #[test]
    fn a_key_of_1024_bytes_is_accepted_and_a_longer_one_is_refused_with_its_length() {
        let commit = COMMIT.parse().unwrap();
        let longest = (1..1024)
            .take_while(|&n| encode(&destination("g", "p", &"b".repeat(n)), commit, ArchiveFormat::Zip).is_ok())
            .last()
            .unwrap();
        let key = encode(&destination("g", "p", &"b".repeat(longest)), commit, ArchiveFormat::Zip).unwrap();
        assert_eq!(key.len(), MAX_KEY_BYTES);
        let refused = encode(&destination("g", "p", &"b".repeat(longest + 1)), commit, ArchiveFormat::Zip).unwrap_err();
        assert_eq!(refused.bytes, 1028);
        assert!(refused.to_string().contains("1028") && refused.to_string().contains("1024"), "{refused}");
    }

    #[test]
    fn a_group_or_a_project_is_meant_in_any_case_and_a_branch_as_it_is_written() {
        let destination = destination("Far/Tools", "API", "Main");
        for (wanted, is_meant) in [
            ("far", true),
            ("FAR/tools", true),
            ("far/tools/api", true),
            ("far/tools/api/x", false),
            ("Far/Tools/API@Main", true),
            ("far/tools/api@Main", true),
            ("far/tools/api@main", false),
            ("far/tool", false),
            ("tools", false),
        ] {
            assert_eq!(wanted.parse::<Wanted>().unwrap().matches(&destination), is_meant, "{wanted}");
        }
    }

    #[test]
    fn commit_ids_are_40_hexadecimal_digits() {
        assert_eq!(COMMIT.parse::<CommitId>().unwrap().to_string(), COMMIT);
        for bad in ["", "0123", &COMMIT[1..], &format!("{COMMIT}0"), &COMMIT.replace('0', "g"), &"é".repeat(20)] {
            assert_eq!(bad.parse::<CommitId>(), Err(NotACommitId), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_round_trips(group in "\\PC{1,40}", project in "\\PC{1,40}", branch in "\\PC{1,40}", id: [u8; 20], base: [u8; 20]) {
            let destination = destination(&group, &project, &branch);
            let base = CommitId::from_bytes(base);
            let read = decode(&encode_increment(&destination, base, CommitId::from_bytes(id)).unwrap()).unwrap();
            prop_assert_eq!(&read.destination, &destination);
            prop_assert_eq!(read.commit, CommitId::from_bytes(id).to_string());
            prop_assert_eq!(read.content, Content::Increment { base });
            for format in ArchiveFormat::ALL {
                let key = encode(&destination, CommitId::from_bytes(id), format).unwrap();
                let read = decode(&key).unwrap();
                prop_assert_eq!(&read.destination, &destination);
                prop_assert_eq!(read.commit, CommitId::from_bytes(id).to_string());
                prop_assert_eq!(read.content, Content::Whole(format));
            }
        }

        #[test]
        fn a_damaged_key_is_foreign_or_complete(seed: u64) {
            let key = encode(&destination("group/sub", "project", "main"), COMMIT.parse().unwrap(), ArchiveFormat::Zip).unwrap();
            // What stands in the base64 text is damaged too, which random changes of the key seldom leave decodable.
            let name = testbed::mutate::mutated(&BASE64_STANDARD.decode(key.split('.').next().unwrap()).unwrap(), seed);
            for damaged in [testbed::mutate::mutated(key.as_bytes(), seed), (BASE64_STANDARD.encode(name) + ".zip.age").into()] {
                if let Some(DecodedKey { destination: Destination { group, project, branch }, commit, .. }) =
                    decode(&String::from_utf8_lossy(&damaged))
                {
                    prop_assert!([group, project, branch, commit].iter().all(|field| !field.is_empty()));
                }
            }
        }

        #[test]
        fn any_text_is_read_without_panicking(key in "\\PC{0,200}") {
            let _ = decode(&key);
        }
    }
}
