//! From an object of the bucket to a repository in its place, or to the verdict that it is not one.
//!
//! Invariant: a repository appears under its final name only after every object of it was verified, and never in place
//! of something else.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::artifact::Limits;
use crate::artifact::encrypt::Identities;
use crate::artifact::error::{ArtifactError, in_path};
use crate::artifact::increment::{self, ExpectedIncrement};
use crate::artifact::open::{Expected, Opened, Said, unpack};
use crate::artifact::signature::{Trust, TrustError, TrustedKeys};
use crate::git::pack::PackError;
use crate::git::verify::{Verified, VerifyError, verify};
use crate::memory::MemoryBudget;
use crate::model::key::{ArchiveFormat, CommitId, Content, Destination, HeldObject};
use crate::model::manifest::ManifestError;
use crate::model::target::{branch_problem, path_problem, project_problem};

/// The longest name of a file or folder that common file systems take, in bytes.
const MAX_FILE_NAME_BYTES: usize = 255;

/// What objects are opened with.
#[derive(Debug)]
pub struct Means {
    /// One of them has to decrypt.
    pub identities: Identities,
    /// Whose signatures count. Without them, objects need none.
    pub trusted: Option<TrustedKeys>,
    /// What decoding objects may take.
    pub memory: MemoryBudget,
}

/// What the name of an object with a whole history says.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// How it is packed.
    pub format: ArchiveFormat,
    /// Where it goes.
    pub destination: &'a Destination,
    /// The commit, as written.
    pub commit: &'a str,
}

/// The increments on top of a whole history, the first one first, and how to download one.
pub type OnTop<'a> = (&'a [HeldObject], &'a dyn Fn(&HeldObject) -> Result<Box<dyn Read>, ArtifactError>);

/// A good object.
#[derive(Debug)]
pub struct Restored {
    /// Where the repository is now, if it is kept.
    pub repository: Option<PathBuf>,
    /// What was found in the object.
    pub opened: Opened,
}

/// Decrypts, unpacks and verifies the object read from `reader`, a whole history, and what is on top of it. `download` brings
/// each of these.
///
/// With `into`, the repository is kept as `<into>/<group>/<project>@<branch>`, which must not exist yet; until it is
/// verified, it is in a hidden folder of `into`. Without, it is unpacked in `scratch` and removed. Both folders are created
/// if missing. On the disk it takes the size of the archive's objects.
///
/// # Errors
/// [`RestoreError`]; nothing of the object stays on the disk.
pub fn restore_object(
    reader: impl Read,
    Named { format, destination, commit }: Named<'_>,
    (on_top, download): OnTop<'_>,
    means: &Means,
    into: Option<&Path>,
    scratch: &Path,
) -> Result<Restored, RestoreError> {
    let commit = parse(commit)?;
    let place = into.map(|into| free_place(into, destination)).transpose()?;

    if let Some(into) = into {
        fs::create_dir_all(into).map_err(in_path(into))?;
    }
    let staging = into.unwrap_or(scratch);
    fs::create_dir_all(staging).map_err(in_path(staging))?;
    let staging = tempfile::Builder::new().prefix(".restore-").tempdir_in(staging).map_err(in_path(staging))?;
    let repository = staging.path().join("repository");
    DirBuilder::new().mode(0o700).create(&repository).map_err(in_path(&repository))?;

    let Means { identities, trusted, memory } = means;
    let trust = Trust { destination, keys: trusted.as_ref(), window: None };
    let expected = Expected { format, commit, bytes: None, trust };
    let mut said = unpack(reader, &expected, identities, Limits::default(), &repository)?;
    let mut tip = commit;
    for object in on_top {
        let Content::Increment { base } = object.name.content else { continue };
        let commit = parse(&object.name.commit)?;
        let expected = ExpectedIncrement { commit, base, bytes: Some(object.bytes), trust };
        let pack = staging.path().join(format!("{commit}.pack"));
        let limits = Limits::default();
        let increment = increment::read(download(object)?, &expected, identities, limits, &pack)?;
        let never = AtomicBool::new(false);
        increment::apply(&increment.pack, &repository, &destination.branch, commit, limits.bytes, memory, &never)?;
        fs::remove_file(&pack).map_err(in_path(&pack))?;
        said = Said { origin: increment.origin, manifest: Some(increment.manifest), ..said };
        tip = commit;
    }
    let Verified { objects: git_objects } = verify(&repository, tip, memory).map_err(ArtifactError::from)?;
    let opened = Opened { git_objects, said };

    if let Some(place) = &place {
        move_to(place, &repository)?;
    }
    let path = staging.path().to_owned();
    staging.close().map_err(in_path(&path))?;
    Ok(Restored { repository: place, opened })
}

fn parse(commit: &str) -> Result<CommitId, RestoreError> {
    commit.parse().map_err(|_| RestoreError::NotACommit(commit.to_owned()))
}

/// Where a destination's repository goes: one folder for each segment of its group, and one for project and branch.
///
/// `@` separates these two. `@` and `/` inside a name are escaped, so no two destinations share a place, and none is inside
/// another's.
fn free_place(into: &Path, destination: &Destination) -> Result<PathBuf, RestoreError> {
    let Destination { group, project, branch } = destination;
    let escape = |name: &str| name.replace('%', "%25").replace('@', "%40").replace('/', "%2F");
    if path_problem(group).or_else(|| project_problem(project)).or_else(|| branch_problem(branch)).is_some() {
        return Err(RestoreError::UnsafeName(destination.clone()));
    }
    let folder = format!("{}@{}", escape(project), escape(branch));
    let mut place = into.to_owned();
    for segment in group.split('/').map(escape).chain([folder]) {
        if segment.len() > MAX_FILE_NAME_BYTES {
            return Err(RestoreError::LongName(segment));
        }
        place.push(segment);
    }
    ensure_free(&place)?;
    Ok(place)
}

fn move_to(place: &Path, repository: &Path) -> Result<(), RestoreError> {
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).map_err(in_path(parent))?;
    }
    // Renaming replaces empty folders only; this check gives a better message.
    ensure_free(place)?;
    Ok(fs::rename(repository, place).map_err(in_path(place))?)
}

fn ensure_free(place: &Path) -> Result<(), RestoreError> {
    match fs::symlink_metadata(place) {
        Ok(_) => Err(RestoreError::Occupied(place.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(in_path(place)(error).into()),
    }
}

/// Why an object was not restored. Each message is printed after the object's name.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The name holds something else instead of a commit.
    #[error("its name says {0:?} instead of the 40 hexadecimal digits of a commit: it cannot be verified")]
    NotACommit(String),
    /// The name cannot become a path.
    #[error("its destination {0} is not a safe folder name: restore it without -into")]
    UnsafeName(Destination),
    /// The name is too long for file systems.
    #[error("its folder's name would be longer than {MAX_FILE_NAME_BYTES} bytes: restore it without -into ({0})")]
    LongName(String),
    /// Something exists there already.
    #[error("{} exists already: move it away, or restore into another folder", .0.display())]
    Occupied(PathBuf),
}

/// What a failure says about the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is not what it should be.
    Bad,
    /// It does not come from where it has to.
    Refused,
    /// Nothing: the reason is outside of it.
    Skipped,
    /// Nothing: it is encrypted to others.
    NotForUs,
}

impl RestoreError {
    pub(super) fn finding(&self) -> Finding {
        match self {
            Self::UnsafeName(_) | Self::LongName(_) | Self::Occupied(_) => Finding::Skipped,
            Self::NotACommit(_) => Finding::Bad,
            Self::Artifact(error) => match error {
                ArtifactError::OtherRecipients => Finding::NotForUs,
                ArtifactError::Origin(_) | ArtifactError::NoManifest { .. } => Finding::Refused,
                ArtifactError::Download(_)
                | ArtifactError::Disk { .. }
                | ArtifactError::Pack(PackError::Io(_) | PackError::Memory(_))
                | ArtifactError::Repository(VerifyError::Disk { .. } | VerifyError::Memory(_)) => Finding::Skipped,
                ArtifactError::NotEncrypted(_)
                | ArtifactError::Damaged(_)
                | ArtifactError::Unsafe { .. }
                | ArtifactError::TooLarge(_)
                | ArtifactError::References(_)
                | ArtifactError::Bundle(_)
                | ArtifactError::Pack(_)
                | ArtifactError::Repository(_) => Finding::Bad,
            },
        }
    }

    /// What to do, if the message does not say it. Nobody should delete an object: a consumer may still need it.
    pub(super) fn advice(&self, destination: &Destination) -> Option<String> {
        let again = || {
            let name = env!("CARGO_PKG_NAME");
            format!(
                "publish it again: on the producer, run REPUBLISH={} {name} -run-once (beside its daemon, with -max-retire=0 and \
                 -workdir=DIR, an empty folder)",
                quoted(destination)
            )
        };
        match (self, self.finding()) {
            (Self::Artifact(ArtifactError::Download(_)), _) => Some("try again".to_owned()),
            (Self::Artifact(ArtifactError::Unsafe { .. }), _) => Some(format!("find out who made it, and {}", again())),
            (Self::Artifact(ArtifactError::TooLarge(_)), _) | (_, Finding::Skipped | Finding::NotForUs) => None,
            (Self::Artifact(ArtifactError::Origin(error)), _) => match error {
                TrustError::Unsigned | TrustError::Manifest(ManifestError::Another { .. }) => Some(again()),
                // The message says it.
                _ => None,
            },
            (_, Finding::Bad | Finding::Refused) => Some(again()),
        }
    }
}

/// A destination as a word of a shell command.
fn quoted(destination: &Destination) -> String {
    let name = destination.to_string();
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/@._-+=".contains(c));
    if is_plain { name } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::artifact::encrypt;
    use crate::artifact::fixture::Keys;
    use crate::artifact::references::ReferenceError;
    use crate::artifact::signature::SignedManifest;
    use crate::git::fixture::{Project, git, run};
    use crate::model::manifest::{Manifest, Origin};
    use age::x25519::Identity;
    use std::io::Write;
    use std::time::{Duration, UNIX_EPOCH};
    use testbed::mutate::mutated;

    /// What one restoration is about.
    struct Case {
        project: Project,
        identity: Identity,
        destination: Destination,
        folder: tempfile::TempDir,
        trusted: Option<TrustedKeys>,
    }

    impl Case {
        fn new() -> Self {
            let destination =
                Destination { group: "group/sub".into(), project: "project".into(), branch: "release/1".into() };
            let (project, folder) = (Project::new(), tempfile::tempdir().unwrap());
            Self { project, identity: Identity::generate(), destination, folder, trusted: None }
        }

        fn encrypted(&self, archive: &[u8]) -> Vec<u8> {
            let mut sealer = encrypt::encrypting(&[self.identity.to_public()], vec![]).unwrap();
            sealer.write_all(archive).unwrap();
            sealer.finish().unwrap()
        }

        fn object(&self, format: ArchiveFormat) -> Vec<u8> {
            self.encrypted(&self.project.archive(format, &self.destination.branch))
        }

        /// Keeps the repository.
        fn restore(&self, format: ArchiveFormat, object: impl Read) -> Result<Restored, RestoreError> {
            self.restore_as(&self.project.commit.to_string(), format, object, Some(self.folder.path()))
        }

        fn restore_as(
            &self,
            commit: &str,
            format: ArchiveFormat,
            object: impl Read,
            into: Option<&Path>,
        ) -> Result<Restored, RestoreError> {
            let means = Means {
                identities: self.identity.clone().into(),
                trusted: self.trusted.clone(),
                memory: MemoryBudget::new(None),
            };
            let named = Named { format, destination: &self.destination, commit };
            let nothing: OnTop<'_> = (&[], &|_| Err(ArtifactError::OtherRecipients));
            restore_object(object, named, nothing, &means, into, self.folder.path())
        }

        #[track_caller]
        fn assert_nothing_left(&self) {
            assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_restored_repository_is_the_published_one_and_usable() {
        for format in ArchiveFormat::ALL {
            let case = Case::new();
            let restored = case.restore(format, &case.object(format)[..]).unwrap();
            let repository = case.folder.path().join("group/sub/project@release%2F1");
            assert_eq!(restored.repository.as_deref(), Some(&*repository));
            assert!(restored.opened.git_objects > 10);
            git(&repository, &["fsck", "--full", "--strict"]);
            git(&repository, &["checkout", "-q", "release/1"]);
            assert_eq!(git(&repository, &["rev-parse", "HEAD"]), case.project.commit.to_string());
            assert_eq!(fs::read_dir(case.folder.path()).unwrap().count(), 1, "only the group's folder");
        }
    }

    #[test]
    fn without_a_folder_only_the_verdict_remains() {
        let case = Case::new();
        for format in ArchiveFormat::ALL {
            let commit = case.project.commit.to_string();
            let restored = case.restore_as(&commit, format, &case.object(format)[..], None).unwrap();
            assert!(restored.repository.is_none());
            case.assert_nothing_left();
        }
    }

    #[test]
    fn the_folder_is_created_if_missing() {
        let case = Case::new();
        let into = case.folder.path().join("not/yet");
        let (commit, object) = (case.project.commit.to_string(), case.object(ArchiveFormat::Zip));
        let restored = case.restore_as(&commit, ArchiveFormat::Zip, &object[..], Some(&into)).unwrap();
        assert!(restored.repository.unwrap().starts_with(into));
    }

    /// The Go program packs a whole clone, and names its branch after the source's.
    #[test]
    fn an_object_of_the_go_program_is_restored() {
        let (case, clone) = (Case::new(), tempfile::tempdir().unwrap());
        let at = clone.path();
        git(at, &["clone", "-q", &format!("file://{}", case.project.dir.path().display()), "clone"]);
        run(at, "tar", &["czf", "clone.tar.gz", "-C", "clone", "."]);
        let object = case.encrypted(&fs::read(at.join("clone.tar.gz")).unwrap());
        let restored = case.restore(ArchiveFormat::TarGz, &object[..]).unwrap();
        let repository = restored.repository.unwrap();
        git(&repository, &["fsck", "--full"]);
        assert_eq!(git(&repository, &["for-each-ref", "--format=%(refname)"]), "refs/heads/release/1");
        assert_eq!(git(&repository, &["rev-parse", "release/1"]), case.project.commit.to_string());
        assert_eq!(restored.opened.said.other_references, 4, "the source's branch, and three of the remote's");
        assert_eq!(git(&repository, &["remote"]), "", "its remote, and a credential in its URL, stay behind");
    }

    #[test]
    fn an_object_under_another_commit_s_name_is_bad() {
        let case = Case::new();
        for format in ArchiveFormat::ALL {
            let result = case.restore_as(&"7".repeat(40), format, &case.object(format)[..], Some(case.folder.path()));
            assert!(
                matches!(
                    result,
                    Err(RestoreError::Artifact(ArtifactError::References(
                        ReferenceError::OtherCommit { .. } | ReferenceError::Nowhere(_)
                    )))
                ),
                "{result:?}"
            );
            case.assert_nothing_left();
        }
        let result = case.restore_as("main", ArchiveFormat::Zip, &case.object(ArchiveFormat::Zip)[..], None);
        assert!(matches!(result, Err(RestoreError::NotACommit(_))));
    }

    #[test]
    fn an_object_of_another_branch_is_bad() {
        let case = Case::new();
        let object = case.encrypted(&case.project.archive(ArchiveFormat::Zip, "other"));
        assert!(matches!(
            case.restore(ArchiveFormat::Zip, &object[..]),
            Err(RestoreError::Artifact(ArtifactError::References(ReferenceError::NoBranch(_))))
        ));
        case.assert_nothing_left();
    }

    #[test]
    fn a_damaged_object_is_bad_and_leaves_nothing() {
        let case = Case::new();
        for format in ArchiveFormat::ALL {
            let object = case.object(format);
            let assert_bad = |damaged: &[u8]| {
                let error = case.restore(format, damaged).unwrap_err();
                let damage =
                    matches!(error, RestoreError::Artifact(ArtifactError::Damaged(_) | ArtifactError::NotEncrypted(_)));
                let advice = error.advice(&case.destination).unwrap();
                assert!(damage && error.finding() == Finding::Bad, "{format}: {error}");
                let command = "REPUBLISH=group/sub/project@release/1 git-partition-sync-producer -run-once";
                assert!(advice.contains(command) && !advice.contains("delete"), "{advice}");
            };
            for len in [0, 10, 300, object.len() / 2, object.len() - 1] {
                assert_bad(&object[..len]);
            }
            for at in [300, object.len() / 2, object.len() - 1] {
                let mut changed = object.clone();
                changed[at] ^= 1;
                assert_bad(&changed);
            }
            assert_bad(b"not encrypted");
            let other = ArchiveFormat::ALL.into_iter().find(|&other| other != format).unwrap();
            assert!(
                matches!(case.restore(other, &object[..]), Err(RestoreError::Artifact(ArtifactError::Damaged(_)))),
                "{format} as {other}"
            );
            case.assert_nothing_left();
        }
    }

    #[test]
    fn with_trusted_keys_only_what_they_signed_is_restored() {
        let (mut case, keys) = (Case::new(), Keys::new());
        let manifest = Manifest {
            destination: case.destination.clone(),
            commit: case.project.commit,
            base: None,
            previous: None,
            published: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        };
        let found = |keys: &Keys| SignedManifest::new(&manifest, Some(&keys.signing())).unwrap();
        for format in ArchiveFormat::ALL {
            let object = |found| case.encrypted(&case.project.signed_archive(format, &case.destination.branch, found));
            let (ours, theirs, plain) = (object(found(&keys)), object(found(&Keys::new())), case.object(format));
            let key = keys.signing().id();
            case.trusted = None;
            let checked = |case: &Case, object: &[u8]| {
                case.restore_as(&manifest.commit.to_string(), format, object, None).map(|it| it.opened.said.origin)
            };
            assert_eq!(checked(&case, &ours).unwrap(), Origin::Unchecked { key });
            assert_eq!(checked(&case, &plain).unwrap(), Origin::Unsigned);
            case.trusted = Some(keys.trusted());
            assert_eq!(checked(&case, &ours).unwrap(), Origin::Signed { key });
            for (object, has_advice) in [(&plain, true), (&theirs, false)] {
                let error = checked(&case, object).unwrap_err();
                assert_eq!(error.finding(), Finding::Refused, "{error}");
                assert_eq!(error.advice(&case.destination).is_some(), has_advice, "{error}");
                case.assert_nothing_left();
            }
        }
    }

    #[test]
    fn an_object_for_other_recipients_says_so() {
        let case = Case::new();
        let object = Case::new().object(ArchiveFormat::Zip);
        assert!(matches!(
            case.restore(ArchiveFormat::Zip, &object[..]),
            Err(RestoreError::Artifact(ArtifactError::OtherRecipients))
        ));
        case.assert_nothing_left();
    }

    #[test]
    fn a_failed_download_is_not_taken_for_damage() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, "the network is gone"))
            }
        }
        let case = Case::new();
        for format in ArchiveFormat::ALL {
            let object = case.object(format);
            for len in [0, 300, object.len() / 2, object.len()] {
                match case.restore(format, object[..len].chain(Broken)).unwrap_err() {
                    RestoreError::Artifact(ArtifactError::Download(error)) => {
                        assert_eq!(error.to_string(), "the network is gone")
                    }
                    other => panic!("{format} {len}: {other}"),
                }
                case.assert_nothing_left();
            }
        }
    }

    #[test]
    fn what_exists_is_never_replaced() {
        let case = Case::new();
        let object = case.object(ArchiveFormat::Zip);
        let place = case.restore(ArchiveFormat::Zip, &object[..]).unwrap().repository.unwrap();
        fs::write(place.join("mine"), "").unwrap();
        assert!(matches!(case.restore(ArchiveFormat::Zip, &object[..]), Err(RestoreError::Occupied(_))));
        assert!(place.join("mine").exists());
        assert_eq!(fs::read_dir(case.folder.path()).unwrap().count(), 1, "only the group's folder");
    }

    fn place(group: &str, project: &str, branch: &str) -> Result<PathBuf, RestoreError> {
        let destination = Destination { group: group.into(), project: project.into(), branch: branch.into() };
        free_place(Path::new("/nonexistent"), &destination)
    }

    #[test]
    fn a_name_that_is_no_safe_path_is_refused() {
        for group in ["", "..", "a/../b", "/a", "a/", "a//b", ".", "-a", "a/-b", "a\nb", "a\0b"] {
            assert!(matches!(place(group, "p", "main"), Err(RestoreError::UnsafeName(_))), "{group:?}");
        }
        for project in ["", "..", ".", "-p", "a/b", "a\u{7f}b"] {
            assert!(matches!(place("g", project, "main"), Err(RestoreError::UnsafeName(_))), "{project:?}");
        }
        for branch in ["", "..", "a/../b", "/a", "a/", "a\nb", "a\\b"] {
            assert!(matches!(place("g", "p", branch), Err(RestoreError::UnsafeName(_))), "{branch:?}");
        }
        assert!(matches!(place("g", "p", &["b"; 101].join("/")), Err(RestoreError::LongName(_))));
    }

    #[test]
    fn different_destinations_have_different_places_and_none_inside_another() {
        let names = [
            ("g", "p", "a"),
            ("g", "p", "a/b"),
            ("g", "p", "a%2Fb"),
            ("g", "p@a", "b"),
            ("g", "p", "a@b"),
            ("g/p@a", "q", "b"),
            ("g", "é", "ü"),
        ];
        let places = names.map(|(group, project, branch)| place(group, project, branch).unwrap());
        for (i, one) in places.iter().enumerate() {
            for other in &places[i + 1..] {
                assert!(!one.starts_with(other) && !other.starts_with(one), "{one:?} {other:?}");
            }
        }
    }

    /// A file of a restored repository, or of nothing at all.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = vec![];
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            assert!(kind.is_dir() || kind.is_file(), "{} is neither file nor folder", path.display());
            if kind.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found
    }

    /// Restores an object, and expects the project as it is, or nothing at all on the disk.
    #[track_caller]
    fn restored_or_nothing(case: &Case, format: ArchiveFormat, seed: u64, object: &[u8]) -> bool {
        let parent = case.folder.path().join(format!("{format}-{seed}"));
        let into = parent.join("into");
        fs::create_dir_all(&into).unwrap();
        let restored = case.restore_as(&case.project.commit.to_string(), format, object, Some(&into));
        let place = into.join("group/sub/project@release%2F1");
        let left = files(&parent);
        match &restored {
            Ok(_) => assert_eq!(git(&place, &["rev-parse", "refs/heads/release/1"]), case.project.commit.to_string()),
            Err(_) => assert!(left.is_empty(), "seed {seed}: {left:?}"),
        }
        assert!(left.iter().all(|file| file.starts_with(&place)), "seed {seed}: {left:?}");
        fs::remove_dir_all(&parent).unwrap();
        case.assert_nothing_left();
        restored.is_ok()
    }

    #[test]
    fn damaged_objects_are_restored_as_they_should_be_or_leave_nothing() {
        let case = Case::new();
        for format in ArchiveFormat::ALL {
            let object = case.object(format);
            assert!(restored_or_nothing(&case, format, 0, &object));
            let good =
                (1..100).filter(|seed| restored_or_nothing(&case, format, *seed, &mutated(&object, *seed))).count();
            assert_eq!(good, 0, "no damage passes for an object");
        }
    }

    #[test]
    fn damaged_archives_in_good_objects_are_restored_as_they_should_be_or_leave_nothing() {
        let case = Case::new();
        let zip = case.project.archive(ArchiveFormat::Zip, "release/1");
        let mut tar = vec![];
        let gzip = case.project.archive(ArchiveFormat::TarGz, "release/1");
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut tar).unwrap();
        // Damage inside of gzip, whose checksum fits it: it is the tar reader's to find.
        let zipped = |tar: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::none());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        };
        let mut good = 0;
        for seed in 0..150 {
            let object = case.encrypted(&mutated(&zip, seed));
            good += usize::from(restored_or_nothing(&case, ArchiveFormat::Zip, seed, &object));
            let object = case.encrypted(&zipped(&mutated(&tar, seed)));
            good += usize::from(restored_or_nothing(&case, ArchiveFormat::TarGz, seed, &object));
        }
        assert!(good < 150, "{good} of 300");
    }
}
