//! Increments written and read, damaged and foreign ones, and Git as the outside judge of bundles.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::metadata;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use age::x25519::Identity;
use testbed::mutate::mutated;

use super::*;
use crate::artifact::archive::fixture::sized;
use crate::artifact::encrypt::encrypting;
use crate::artifact::fixture::Keys;
use crate::artifact::signature::{TrustError, TrustedKeys};
use crate::git::fixture::{Project, git, git_with_input, run};
use crate::model::key::Destination;
use crate::model::manifest::ManifestError;

const BRANCH: &str = "release/1";

/// A project with one commit more than its base, and the thin pack between the two.
struct Case {
    project: Project,
    base: CommitId,
    pack: CheckedFile,
    destination: Destination,
    identity: Identity,
    /// Where packs are read to.
    dir: tempfile::TempDir,
}

impl Case {
    /// The new commit changes one line of `README`, and brings `noise` bytes that cannot be compressed.
    fn with(noise: usize) -> Self {
        let (mut project, dir) = (Project::new(), tempfile::tempdir().unwrap());
        let (at, base) = (project.dir.path(), project.commit);
        fs::write(at.join("README"), format!("{}one more\n", fs::read_to_string(at.join("README")).unwrap())).unwrap();
        let mut bytes = vec![0; noise];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        fs::write(at.join("noise"), bytes).unwrap();
        git(at, &["add", "-A"]);
        git(at, &["commit", "-q", "-m", "more"]);
        let commit: CommitId = git(at, &["rev-parse", "HEAD"]).parse().unwrap();
        let pack = dir.path().join("thin.pack");
        let script = format!("git pack-objects --revs --thin --stdout -q > {}", pack.display());
        run_revs(at, &script, &format!("{commit}\n^{base}\n"));
        project.commit = commit;
        let destination = Destination { group: "far".into(), project: "app".into(), branch: BRANCH.into() };
        Self { project, base, pack: sized(&pack), destination, identity: Identity::generate(), dir }
    }

    fn new() -> Self {
        Self::with(100)
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            destination: self.destination.clone(),
            commit: self.project.commit,
            base: Some(self.base),
            previous: None,
            published: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        }
    }

    fn found(&self, keys: Option<&Keys>) -> SignedManifest {
        SignedManifest::new(&self.manifest(), keys.map(Keys::signing).as_ref()).unwrap()
    }

    /// The archive as the program writes it.
    fn archive(&self, manifest: &SignedManifest) -> Vec<u8> {
        write(manifest, BRANCH, self.project.commit, self.base, &self.pack, vec![]).unwrap()
    }

    fn encrypted(&self, archive: &[u8]) -> Vec<u8> {
        let mut sealer = encrypting(&[self.identity.to_public()], vec![]).unwrap();
        sealer.write_all(archive).unwrap();
        sealer.finish().unwrap()
    }

    fn expected<'a>(&'a self, keys: Option<&'a TrustedKeys>) -> ExpectedIncrement<'a> {
        let trust = Trust { destination: &self.destination, keys, window: None };
        ExpectedIncrement { commit: self.project.commit, base: self.base, bytes: None, trust }
    }

    /// Reads an object. After an error, nothing is left.
    #[track_caller]
    fn read_as(&self, expected: &ExpectedIncrement<'_>, object: impl Read) -> Result<Increment, ArtifactError> {
        self.read_within(expected, object, Limits::default())
    }

    #[track_caller]
    fn read_within(
        &self,
        expected: &ExpectedIncrement<'_>,
        object: impl Read,
        limits: Limits,
    ) -> Result<Increment, ArtifactError> {
        let path = self.dir.path().join("read.pack");
        let read = read(object, expected, &self.identity.clone().into(), limits, &path);
        match &read {
            Ok(increment) => {
                assert!(
                    fs::read(&path).unwrap() == fs::read(&self.pack.path).unwrap(),
                    "it is the pack as it was written"
                );
                assert_eq!(increment.pack, CheckedFile { path: path.clone(), ..self.pack.clone() });
                assert_eq!(metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
                fs::remove_file(&path).unwrap();
            }
            Err(_) => assert!(!path.exists(), "{read:?}"),
        }
        read
    }

    #[track_caller]
    fn read_archive(&self, archive: &[u8]) -> Result<Increment, ArtifactError> {
        self.read_as(&self.expected(None), &self.encrypted(archive)[..])
    }

    /// The bundle in the archive.
    fn bundle(&self) -> Vec<u8> {
        let header = bundle_header(BRANCH, self.project.commit, self.base);
        [header.as_bytes(), &fs::read(&self.pack.path).unwrap()[..]].concat()
    }
}

fn run_revs(at: &Path, script: &str, revisions: &str) {
    let revs = at.join(".git/revs");
    fs::write(&revs, revisions).unwrap();
    run(at, "sh", &["-c", &format!("{script} < .git/revs")]);
}

/// An archive of these files, in this order.
fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    write_files(files.iter().map(|(name, content)| (*name, Content::Bytes(content))), vec![]).unwrap()
}

#[test]
fn what_is_written_is_read_and_git_makes_the_commit_of_it() {
    let keys = Keys::new();
    // A pack of one piece, and one of several.
    for case in [Case::new(), Case::with(3 * BUFFER_BYTES)] {
        for keys in [None, Some(&keys)] {
            let object = case.encrypted(&case.archive(&case.found(keys)));
            let expected = ExpectedIncrement { bytes: Some(object.len() as u64), ..case.expected(None) };
            let read = case.read_as(&expected, &object[..]).unwrap();
            assert_eq!(read.manifest, case.manifest());
            let key = keys.map(|keys| keys.signing().id());
            assert_eq!(read.origin, key.map_or(Origin::Unsigned, |key| Origin::Unchecked { key }));
        }
        let trusted = keys.trusted();
        let object = case.encrypted(&case.archive(&case.found(Some(&keys))));
        let read = case.read_as(&case.expected(Some(&trusted)), &object[..]).unwrap();
        assert_eq!(read.origin, Origin::Signed { key: keys.signing().id() });

        let far = tempfile::tempdir().unwrap();
        git(far.path(), &["init", "-q", "--bare"]);
        let source = case.project.dir.path().to_str().unwrap();
        git(far.path(), &["fetch", "-q", source, &format!("{}:refs/heads/{BRANCH}", case.base)]);
        let pack = fs::read(&case.pack.path).unwrap();
        git_with_input(far.path(), &["index-pack", "--stdin", "--fix-thin"], &pack);
        git(far.path(), &["update-ref", &format!("refs/heads/{BRANCH}"), &case.project.commit.to_string()]);
        git(far.path(), &["fsck", "--full", "--strict"]);
    }
}

#[test]
fn the_archive_has_these_entries_and_outside_programs_and_git_take_them() {
    let (case, keys) = (Case::new(), Keys::new());
    let at = case.dir.path();
    for (name, keys) in [("unsigned", None), ("signed", Some(&keys))] {
        fs::write(at.join(name), case.archive(&case.found(keys))).unwrap();
        let listed = run(at, "unzip", &["-Z1", name]);
        let expected = match keys {
            None => "manifest.json\nincrement.bundle",
            Some(_) => "manifest.json\nmanifest.sig\nincrement.bundle",
        };
        assert_eq!(listed, expected);
        run(at, "unzip", &["-tq", name]);
        run(at, "python3", &["-c", "import sys, zipfile; assert zipfile.ZipFile(sys.argv[1]).testzip() is None", name]);
    }
    run(at, "unzip", &["-q", "signed"]);
    assert!(fs::read(at.join("increment.bundle")).unwrap() == case.bundle());
    let far = tempfile::tempdir().unwrap();
    git(far.path(), &["init", "-q"]);
    let bundle = at.join("increment.bundle");
    let bundle = bundle.to_str().unwrap();
    let source = case.project.dir.path().to_str().unwrap();
    git(far.path(), &["fetch", "-q", source, &format!("{}:refs/heads/{BRANCH}", case.base)]);
    git(far.path(), &["bundle", "verify", "-q", bundle]);
    git(far.path(), &["fetch", "-q", bundle, &format!("{BRANCH}:{BRANCH}")]);
    assert_eq!(git(far.path(), &["rev-parse", BRANCH]), case.project.commit.to_string());
    git(far.path(), &["fsck", "--full", "--strict"]);
}

#[test]
fn a_bundle_that_git_makes_is_read_if_it_says_the_same() {
    let case = Case::new();
    let at = case.project.dir.path();
    git(at, &["branch", BRANCH]);
    let bundle = at.join("theirs.bundle");
    git(at, &["bundle", "create", "-q", bundle.to_str().unwrap(), &format!("{}..{BRANCH}", case.base)]);
    let theirs = fs::read(&bundle).unwrap();
    // Git adds the base's title, which is not part of the format here.
    let end = theirs.windows(4).position(|window| window == b"PACK").unwrap();
    let header = String::from_utf8(theirs[..end].to_vec()).unwrap();
    let ours = bundle_header(BRANCH, case.project.commit, case.base);
    assert_eq!(header.replace(" merge", ""), ours);
    let manifest = case.found(None);
    let archive = |bundle: &[u8]| zip_of(&[(MANIFEST_FILE, &manifest.json), (BUNDLE_FILE, bundle)]);
    assert!(matches!(case.read_archive(&archive(&theirs)), Err(ArtifactError::Bundle(_))));
}

#[test]
fn only_these_entries_are_taken_in_this_order() {
    let (case, keys) = (Case::new(), Keys::new());
    let SignedManifest { json, signature } = case.found(Some(&keys));
    let (bundle, signature) = (case.bundle(), signature.unwrap());
    let (m, s, b) = ((MANIFEST_FILE, &json[..]), (SIGNATURE_FILE, &signature[..]), (BUNDLE_FILE, &bundle[..]));
    for good in [&[m, b][..], &[m, s, b]] {
        case.read_archive(&zip_of(good)).unwrap();
    }
    for bad in [
        &[b][..],
        &[s, b],
        &[m, b, s],
        &[s, m, b],
        &[b, m],
        &[("", b""), m, b],
        &[("x", b""), m, b],
        &[m, ("x", b""), b],
        &[m, s, b, ("x", b"")],
        &[("manifest.json/", b""), m, b],
        &[("./manifest.json", m.1), b],
        &[m, ("../increment.bundle", b.1)],
        &[(".git/git-partition-sync/manifest.json", m.1), b],
        &[m, ("increment.bundle/", b"")],
    ] {
        let refused = case.read_archive(&zip_of(bad)).unwrap_err();
        assert!(matches!(refused, ArtifactError::Unsafe { .. }), "{bad:?}: {refused:?}");
    }
    for incomplete in [&[][..], &[m], &[m, s]] {
        assert!(matches!(case.read_archive(&zip_of(incomplete)), Err(ArtifactError::Damaged(_))), "{incomplete:?}");
    }
}

#[test]
fn sizes_are_bounded_before_anything_is_kept() {
    let (case, keys) = (Case::new(), Keys::new());
    let SignedManifest { mut json, signature } = case.found(Some(&keys));
    let (bundle, mut signature) = (case.bundle(), signature.unwrap());
    let archive = |json: &[u8], signature: &[u8]| {
        zip_of(&[(MANIFEST_FILE, json), (SIGNATURE_FILE, signature), (BUNDLE_FILE, &bundle)])
    };
    let within = |bytes| {
        let object = case.encrypted(&archive(&json, &signature));
        case.read_within(&case.expected(None), &object[..], Limits { bytes, ..Limits::default() })
    };
    within(bundle.len() as u64).unwrap();
    assert!(matches!(within(bundle.len() as u64 - 1), Err(ArtifactError::TooLarge(_))));
    json.resize(MANIFEST_LIMIT_BYTES, b' ');
    case.read_archive(&archive(&json, &signature)).unwrap();
    signature.push(0);
    assert!(matches!(case.read_archive(&archive(&json, &signature)), Err(ArtifactError::TooLarge(_))));
    json.push(b' ');
    assert!(matches!(case.read_archive(&archive(&json, b"")), Err(ArtifactError::TooLarge(_))));
}

#[test]
fn a_bundle_says_what_its_name_says_and_nothing_else() {
    let case = Case::new();
    let manifest = case.found(None);
    let (good, other) = (bundle_header(BRANCH, case.project.commit, case.base), "7".repeat(40));
    let (base, commit) = (case.base.to_string(), case.project.commit.to_string());
    let read = |header: &str, pack: &[u8]| {
        let bundle = [header.as_bytes(), pack].concat();
        case.read_archive(&zip_of(&[(MANIFEST_FILE, &manifest.json), (BUNDLE_FILE, &bundle)]))
    };
    let pack = fs::read(&case.pack.path).unwrap();
    read(&good, &pack).unwrap();
    for (header, explanation) in [
        (good.replace("v2", "v3"), "not a Git bundle of version 2"),
        (String::new(), "not a Git bundle of version 2"),
        (good.replace('\n', "\r\n"), "not a Git bundle of version 2"),
        (good.replace(&base, &other), "another base"),
        (good.replace(&format!("-{base}\n"), ""), "another base"),
        (good.replace(&base, &format!("{base} a title")), "another base"),
        (good.replace(&base, &base.to_uppercase()), "another base"),
        (good.replace(&format!("-{base}\n"), &format!("-{base}\n-{other}\n")), "another commit or branch"),
        (good.replace(&commit, &other), "another commit or branch"),
        (good.replace(BRANCH, "main"), "another commit or branch"),
        (good.replace("refs/heads/", "refs/tags/"), "another commit or branch"),
        (good.replace("\n\n", &format!("\n{commit} HEAD\n\n")), "more than one"),
        (good.replace("\n\n", "\n"), "more than one"),
        (good[..50].to_owned(), "another base"),
    ] {
        let refused = read(&header, &pack).unwrap_err();
        assert!(matches!(refused, ArtifactError::Bundle(why) if why.contains(explanation)), "{header}: {refused}");
    }
    let mut changed = pack.clone();
    *changed.last_mut().unwrap() ^= 1;
    let version = [b"PACK\0\0\0\x03", &pack[8..]].concat();
    let empty = [&pack[..8], &[0; 4], &pack[12..]].concat();
    let longer = [&pack[..], b"x"].concat();
    for (what, bad) in
        [("changed", &changed), ("version", &version), ("empty", &empty), ("longer", &longer), ("none", &vec![])]
    {
        assert!(matches!(read(&good, bad), Err(ArtifactError::Damaged(_))), "{what}");
    }
    for length in (0..40).chain([pack.len() - 20, pack.len() - 1]) {
        assert!(matches!(read(&good, &pack[..length]), Err(ArtifactError::Damaged(_))), "{length}");
    }
}

#[test]
fn a_manifest_is_that_of_the_name_whether_or_not_it_is_signed() {
    let (case, keys) = (Case::new(), Keys::new());
    let trusted = keys.trusted();
    let object = case.encrypted(&case.archive(&case.found(Some(&keys))));
    let other: CommitId = "7".repeat(40).parse().unwrap();
    let elsewhere = Destination { project: "other".into(), ..case.destination.clone() };
    for keys in [None, Some(&trusted)] {
        let expected = case.expected(keys);
        case.read_as(&expected, &object[..]).unwrap();
        for wrong in [
            ExpectedIncrement { commit: other, ..expected },
            ExpectedIncrement { base: other, ..expected },
            ExpectedIncrement { trust: Trust { destination: &elsewhere, ..expected.trust }, ..expected },
        ] {
            let refused = case.read_as(&wrong, &object[..]).unwrap_err();
            let is_named =
                matches!(&refused, ArtifactError::Origin(TrustError::Manifest(ManifestError::Another { .. })));
            assert!(is_named, "{refused:?}");
        }
    }
    let of = |manifest: &SignedManifest, keys: Option<&TrustedKeys>| {
        let object = case.encrypted(&case.archive(manifest));
        case.read_as(&case.expected(keys), &object[..]).unwrap_err()
    };
    let unsigned = of(&case.found(None), Some(&trusted));
    assert!(matches!(unsigned, ArtifactError::Origin(TrustError::Unsigned)), "{unsigned:?}");
    let theirs = of(&case.found(Some(&Keys::new())), Some(&trusted));
    assert!(matches!(theirs, ArtifactError::Origin(TrustError::UnknownKey(_))), "{theirs:?}");
    let unreadable = of(&SignedManifest { json: b"{}".into(), signature: None }, None);
    assert!(matches!(unreadable, ArtifactError::Origin(TrustError::Manifest(_))), "{unreadable:?}");
    let whole = SignedManifest::new(&Manifest { base: None, ..case.manifest() }, None).unwrap();
    assert!(matches!(of(&whole, None), ArtifactError::Origin(TrustError::Manifest(ManifestError::Another { .. }))));
}

#[test]
fn an_object_that_is_damaged_or_cut_anywhere_leaves_nothing() {
    let (case, keys) = (Case::with(70_000), Keys::new());
    let object = case.encrypted(&case.archive(&case.found(Some(&keys))));
    let length = object.len();
    for at in (0..400).chain((400..length - 100).step_by(301)).chain(length - 100..length) {
        let mut changed = object.clone();
        changed[at] ^= 1 << (at % 8);
        for damaged in [&changed[..], &object[..at]] {
            let refused = case.read_as(&case.expected(None), damaged).unwrap_err();
            let is_damage = matches!(
                refused,
                ArtifactError::Damaged(_) | ArtifactError::NotEncrypted(_) | ArtifactError::OtherRecipients
            );
            assert!(is_damage, "{at}: {refused:?}");
        }
    }
}

#[test]
fn an_archive_that_was_damaged_before_it_was_encrypted_is_refused_or_the_same() {
    let (case, keys) = (Case::new(), Keys::new());
    let trusted = keys.trusted();
    let archive = case.archive(&case.found(Some(&keys)));
    let read = |archive: &[u8]| case.read_as(&case.expected(Some(&trusted)), &case.encrypted(archive)[..]);
    // A pack that differs would not be returned: each good one is compared.
    let (mut good, mut places) = (0, 0);
    for at in 0..archive.len() {
        let mut changed = archive.clone();
        changed[at] ^= 1 << (at % 8);
        good += usize::from(read(&changed).is_ok());
        places += 1;
        if at % 7 == 0 {
            assert!(read(&archive[..at]).is_err(), "{at}");
        }
    }
    assert!(good > 0 && good < places / 10, "{good} of {places}: versions and attributes are free");
    let good = (0..2_000).filter(|seed| read(&mutated(&archive, *seed)).is_ok()).count();
    assert!(good < 200, "{good} of 2000");
}

#[test]
fn a_failed_download_is_not_taken_for_damage() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the network is gone"))
        }
    }
    let case = Case::with(200_000);
    let object = case.encrypted(&case.archive(&case.found(None)));
    for length in [0, 300, object.len() / 2, object.len() - 1, object.len()] {
        let broken = case.read_as(&case.expected(None), object[..length].chain(Broken)).unwrap_err();
        assert!(matches!(broken, ArtifactError::Download(_)), "{length}: {broken:?}");
    }
    let other = Case { identity: Identity::generate(), ..Case::new() };
    assert!(matches!(other.read_as(&case.expected(None), &object[..]), Err(ArtifactError::OtherRecipients)));
}

#[test]
fn what_exists_is_neither_replaced_nor_removed() {
    let case = Case::new();
    let object = case.encrypted(&case.archive(&case.found(None)));
    let path = case.dir.path().join("mine");
    fs::write(&path, "mine").unwrap();
    let identities = case.identity.clone().into();
    let refused = read(&object[..], &case.expected(None), &identities, Limits::default(), &path).unwrap_err();
    assert!(matches!(refused, ArtifactError::Disk { .. }), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_pack_that_is_not_what_was_announced_fails_the_archive() {
    let case = Case::new();
    let manifest = case.found(None);
    for pack in [
        CheckedFile { len: case.pack.len + 1, ..case.pack.clone() },
        CheckedFile { len: case.pack.len - 1, ..case.pack.clone() },
        CheckedFile { crc32: case.pack.crc32 ^ 1, ..case.pack.clone() },
    ] {
        let mut out = vec![];
        write(&manifest, BRANCH, case.project.commit, case.base, &pack, &mut out).unwrap_err();
        assert!(case.read_archive(&out).is_err());
    }
    for branch in ["", "..", "a b", "a\nb"] {
        let refused = write(&manifest, branch, case.project.commit, case.base, &case.pack, vec![]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
