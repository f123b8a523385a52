#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use age::x25519::Identity;
use sha1::{Digest, Sha1};
use tar::EntryType;
use testbed::mutate::mutated;

use super::*;
use crate::artifact::archive;
use crate::artifact::encrypt::encrypting;
use crate::artifact::fixture::Keys;
use crate::artifact::references::ReferenceError;
use crate::artifact::signature::{SignedManifest, Trust, TrustError};
use crate::git::fixture::{Project, git, run};
use crate::model::key::Destination;
use crate::model::manifest::{Manifest, ManifestError, Origin};
use crate::plan::delivery::Window;

const BRANCH: &str = "release/1";

/// A project with one pack, and the only one who can read its objects.
struct Case {
    project: Project,
    identity: Identity,
    destination: Destination,
}

fn destination(branch: &str) -> Destination {
    Destination { group: "far".into(), project: "app".into(), branch: branch.into() }
}

/// What a receiver got: nothing if the pack was not begun.
type Got = Option<(u64, Vec<u8>)>;

impl Case {
    fn new() -> Self {
        let project = Project::new();
        git(project.dir.path(), &["repack", "-adq"]);
        Self { project, identity: Identity::generate(), destination: destination(BRANCH) }
    }

    /// The pack has several pieces.
    fn large() -> Self {
        let mut project = Project::new();
        let at = project.dir.path();
        let mut noise = vec![0; 3 * BUFFER_BYTES];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        fs::write(at.join("noise"), noise).unwrap();
        git(at, &["add", "noise"]);
        git(at, &["commit", "-q", "-m", "noise"]);
        git(at, &["repack", "-adq"]);
        project.commit = git(at, &["rev-parse", "HEAD"]).parse().unwrap();
        Self { project, identity: Identity::generate(), destination: destination(BRANCH) }
    }

    fn archive(&self, format: ArchiveFormat) -> Vec<u8> {
        self.project.archive(format, BRANCH)
    }

    fn pack(&self) -> Vec<u8> {
        fs::read(&self.project.contents(BRANCH).packs[0].data.path).unwrap()
    }

    fn encrypted(&self, archive: &[u8]) -> Vec<u8> {
        let mut sealer = encrypting(&[self.identity.to_public()], vec![]).unwrap();
        sealer.write_all(archive).unwrap();
        sealer.finish().unwrap()
    }

    fn expected(&self, format: ArchiveFormat) -> Expected<'_> {
        let trust = Trust { destination: &self.destination, keys: None, window: None };
        Expected { format, commit: self.project.commit, bytes: None, trust }
    }

    fn stream(&self, expected: &Expected<'_>, object: impl Read) -> (Result<Streamed, StreamError>, Got) {
        let mut got = None;
        let identities = self.identity.clone().into();
        let outcome = stream_pack(object, expected, &identities, Limits::default(), |bytes, _| {
            let (_, received) = got.insert((bytes, vec![]));
            Ok(received)
        });
        (outcome, got)
    }

    /// Streams the archive encrypted, and its length known.
    fn stream_archive(&self, format: ArchiveFormat, archive: &[u8]) -> (Result<Streamed, StreamError>, Got) {
        let object = self.encrypted(archive);
        self.stream(&Expected { bytes: Some(object.len() as u64), ..self.expected(format) }, &object[..])
    }
}

/// The pack as it is, or zeros at its end, or nothing at all.
#[track_caller]
fn assert_whole_or_spoiled(outcome: &Result<Streamed, StreamError>, got: &Got, pack: &[u8]) {
    match (outcome, got) {
        (Ok(streamed), Some((announced, received))) => {
            assert!(received == pack && *announced == pack.len() as u64 && streamed.pack_bytes == *announced);
        }
        (Ok(_), None) => panic!("nothing was passed on"),
        (Err(_), None) => {}
        (Err(error), Some((announced, received))) => {
            assert_eq!(received.len() as u64, *announced, "{error}");
            assert!(received.ends_with(&[0; 20]), "{error}");
        }
    }
}

/// Git's receiving side, as servers run it.
struct Far {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Far {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "--bare"]);
        Self { dir, child: None }
    }

    /// Asks for a push that creates the branch; its pack is to follow.
    fn push(&mut self, commit: &str, unpack_limit: u32) -> ChildStdin {
        let command = format!("{} {commit} refs/heads/{BRANCH}\0report-status", "0".repeat(40));
        let mut child = Command::new("git")
            .args(["-c", "receive.fsckObjects=true", "-c", &format!("receive.unpackLimit={unpack_limit}")])
            .args(["receive-pack", "--stateless-rpc"])
            .arg(self.dir.path())
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        write!(stdin, "{:04x}{command}0000", command.len() + 4).unwrap();
        self.child = Some(child);
        stdin
    }

    /// Git's answer, if it was asked.
    fn report(&mut self) -> Option<String> {
        let output = self.child.take()?.wait_with_output().unwrap();
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[track_caller]
    fn assert_empty(&self, what: &str) {
        assert_eq!(git(self.dir.path(), &["for-each-ref"]), "", "{what}");
        let left =
            run(self.dir.path(), "find", &["objects", "-mindepth", "1", "!", "-name", "info", "!", "-name", "pack"]);
        assert_eq!(left, "", "{what}");
    }
}

/// Streams an object to Git, and returns what both say.
fn judged(
    case: &Case,
    expected: &Expected<'_>,
    object: impl Read,
    far: &mut Far,
    unpack_limit: u32,
) -> (Result<Streamed, StreamError>, Option<String>) {
    let commit = case.project.commit.to_string();
    let identities = case.identity.clone().into();
    let outcome =
        stream_pack(object, expected, &identities, Limits::default(), |_, _| Ok(far.push(&commit, unpack_limit)));
    (outcome, far.report())
}

#[track_caller]
fn assert_arrived(case: &Case, far: &Far, report: Option<String>) {
    let report = report.unwrap();
    assert!(report.contains("unpack ok\n") && report.contains(&format!("ok refs/heads/{BRANCH}\n")), "{report}");
    let at = far.dir.path();
    assert_eq!(git(at, &["rev-parse", &format!("refs/heads/{BRANCH}")]), case.project.commit.to_string());
    git(at, &["fsck", "--full", "--strict"]);
}

#[test]
fn the_pack_of_an_object_is_passed_on_as_it_is_and_git_takes_it() {
    for case in [Case::new(), Case::large()] {
        let wide = (ArchiveFormat::Zip, case.project.zip64_archive(BRANCH));
        for (format, archive) in
            ArchiveFormat::ALL.map(|format| (format, case.archive(format))).into_iter().chain([wide])
        {
            let (outcome, got) = case.stream_archive(format, &archive);
            assert_eq!(outcome.as_ref().unwrap().said.other_references, 0);
            assert_whole_or_spoiled(&outcome, &got, &case.pack());
            for unpack_limit in [1, 1_000] {
                let (mut far, object) = (Far::new(), case.encrypted(&archive));
                let (outcome, report) = judged(&case, &case.expected(format), &object[..], &mut far, unpack_limit);
                outcome.unwrap();
                assert_arrived(&case, &far, report);
            }
        }
    }
}

/// The Go program's archive: a clone with its working tree, in which references follow the pack.
fn archive_of_clone(case: &Case, change: impl FnOnce(&Path)) -> Vec<u8> {
    let parent = tempfile::tempdir().unwrap();
    let at = parent.path().join("clone");
    git(parent.path(), &["clone", "-q", &format!("file://{}", case.project.dir.path().display()), "clone"]);
    change(&at);
    run(parent.path(), "tar", &["czf", "clone.tar.gz", "--sort=name", "-C", "clone", "."]);
    fs::read(parent.path().join("clone.tar.gz")).unwrap()
}

#[test]
fn an_archive_of_the_go_program_is_passed_on_without_its_working_tree() {
    let case = Case::large();
    let archive = archive_of_clone(&case, |_| {});
    let (mut far, object) = (Far::new(), case.encrypted(&archive));
    let (outcome, report) = judged(&case, &case.expected(ArchiveFormat::TarGz), &object[..], &mut far, 1);
    assert_eq!(outcome.unwrap().said.other_references, 4, "the source's branch, and three of the remote's");
    assert_arrived(&case, &far, report);
}

#[track_caller]
fn assert_needs_disk(outcome: &Result<Streamed, StreamError>, what: &str) {
    assert!(matches!(outcome, Err(StreamError::NeedsDisk(reason)) if reason.contains(what)), "{outcome:?}");
}

#[test]
fn several_packs_need_the_disk_and_a_zip_tells_before_the_first_begins() {
    let case = Case { project: Project::new(), identity: Identity::generate(), destination: destination(BRANCH) };
    for zip in [case.archive(ArchiveFormat::Zip), case.project.zip64_archive(BRANCH)] {
        let (outcome, got) = case.stream_archive(ArchiveFormat::Zip, &zip);
        assert_needs_disk(&outcome, "several packs");
        assert!(got.is_none());
    }
    // If nobody knows how long the object is, and in the other format: once the second pack is there.
    for format in ArchiveFormat::ALL {
        let (outcome, got) = case.stream(&case.expected(format), &case.encrypted(&case.archive(format))[..]);
        assert_needs_disk(&outcome, "several packs");
        assert!(got.is_some());
        assert_whole_or_spoiled(&outcome, &got, &[]);
    }
}

#[test]
fn the_smallest_second_pack_is_noticed_and_a_long_branch_is_not_taken_for_one() {
    let mut case = Case::new();
    let at = case.project.dir.path().to_owned();
    let segments = vec!["s".repeat(60); 12].join("/");
    let long = case.project.archive(ArchiveFormat::Zip, &segments);
    let object = case.encrypted(&long);
    let destination = destination(&segments);
    let trust = Trust { destination: &destination, keys: None, window: None };
    let expected = Expected { bytes: Some(object.len() as u64), trust, ..case.expected(ArchiveFormat::Zip) };
    case.stream(&expected, &object[..]).0.unwrap();

    git(&at, &["commit", "-q", "--allow-empty", "-m", "."]);
    git(&at, &["repack", "-dq"]);
    case.project.commit = git(&at, &["rev-parse", "HEAD"]).parse().unwrap();
    let mut contents = case.project.contents(BRANCH);
    assert_eq!(contents.packs.len(), 2);
    contents.packs.sort_by_key(|pack| std::cmp::Reverse(pack.data.len));
    let archive = archive::write(ArchiveFormat::Zip, contents, vec![]).unwrap();
    let (outcome, got) = case.stream_archive(ArchiveFormat::Zip, &archive);
    assert_needs_disk(&outcome, "several packs");
    assert!(got.is_none());
}

#[test]
fn loose_objects_and_two_indexes_are_noticed_before_a_pack_begins() {
    let case = Case::new();
    let loose = archive_of_clone(&case, |at| {
        git(at, &["commit", "-q", "--allow-empty", "-m", "more"]);
    });
    let (outcome, got) = case.stream_archive(ArchiveFormat::TarGz, &loose);
    assert_needs_disk(&outcome, "objects outside of a pack");
    assert!(got.is_none());
    let pack = case.pack();
    let of_two = tar_gz(&[(PACKS, "pack-a.idx", b"x"), (PACKS, "pack-b.pack", &pack)]);
    let (outcome, got) = case.stream_archive(ArchiveFormat::TarGz, &of_two);
    assert_needs_disk(&outcome, "several packs");
    assert!(got.is_none());
}

const PACKS: &str = ".git/objects/pack/";

fn tar_gz(files: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
    for (folder, name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if *name == "a-link" { EntryType::Symlink } else { EntryType::Regular });
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, format!("{folder}{name}"), *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn what_makes_an_archive_bad_spoils_the_pack_wherever_it_is() {
    let case = Case::new();
    let (pack, commit) = (case.pack(), case.project.commit.to_string());
    let (head, branch) = (format!("ref: refs/heads/{BRANCH}\n"), format!("{commit}\n"));
    let other = format!("{}\n", "7".repeat(40));
    let references = [(".git/", "HEAD", head.as_bytes()), (".git/refs/heads/", BRANCH, branch.as_bytes())];
    let good = [(PACKS, "pack-a.idx", &b"x"[..]), (PACKS, "pack-a.pack", &pack), references[0], references[1]];
    let stream = |files: &[(&str, &str, &[u8])]| {
        let (outcome, got) = case.stream_archive(ArchiveFormat::TarGz, &tar_gz(files));
        assert_whole_or_spoiled(&outcome, &got, &pack);
        (outcome, got.is_some())
    };
    stream(&good).0.unwrap();
    // Behind the pack.
    let with = |more| stream(&[&good[..], &[more]].concat());
    assert!(matches!(with((".git/", "a-link", b"")), (Err(StreamError::Artifact(ArtifactError::Unsafe { .. })), true)));
    assert!(matches!(with(("", "a\\b", b"")), (Err(StreamError::Artifact(ArtifactError::Unsafe { .. })), true)));
    assert!(matches!(with(good[1]), (Err(StreamError::Artifact(ArtifactError::Unsafe { .. })), true)));
    assert!(matches!(with(good[0]), (Err(StreamError::Artifact(ArtifactError::Unsafe { .. })), true)));
    assert!(matches!(with((".git/hooks/", "update", b"")), (Err(_), true)));
    assert!(matches!(with((".git/", "shallow", other.as_bytes())), (Err(_), true)));
    assert!(matches!(with((PACKS, "pack-b.idx", b"")), (Err(StreamError::NeedsDisk(_)), true)));
    assert!(matches!(stream(&good[..3]), (Err(StreamError::Artifact(ArtifactError::References(_))), true)));
    assert!(matches!(stream(&good[1..]), (Err(StreamError::Artifact(ArtifactError::Damaged(_))), true)), "no index");
    let elsewhere = (".git/refs/heads/", BRANCH, other.as_bytes());
    assert!(matches!(stream(&[good[0], good[1], good[2], elsewhere]), (Err(_), true)));
    // Before it, or instead of it.
    assert!(matches!(stream(&[good[0], good[2], good[3]]), (Err(_), false)), "no pack");
    for short in [&b""[..], &pack[..31]] {
        assert!(matches!(stream(&[good[0], (PACKS, "pack-a.pack", short)]), (Err(_), false)));
    }
    assert!(matches!(stream(&[good[0], (PACKS, "pack-a.pack", &[b'x'; 100])]), (Err(_), false)), "not a pack");
}

#[test]
fn a_zip_whose_references_are_not_those_of_its_name_begins_nothing() {
    let case = Case::new();
    let object = case.encrypted(&case.archive(ArchiveFormat::Zip));
    let expected = case.expected(ArchiveFormat::Zip);
    let other = Expected { commit: "7".repeat(40).parse().unwrap(), ..expected };
    let (outcome, got) = case.stream(&other, &object[..]);
    let is_right = |error: &ReferenceError| matches!(error, ReferenceError::OtherCommit { .. });
    assert!(matches!(&outcome, Err(StreamError::Artifact(ArtifactError::References(error))) if is_right(error)));
    assert!(got.is_none());
    let main = destination("main");
    let elsewhere = Expected { trust: Trust { destination: &main, ..expected.trust }, ..expected };
    let (outcome, got) = case.stream(&elsewhere, &object[..]);
    assert!(outcome.is_err() && got.is_none());
    // The other format's references may follow.
    let object = case.encrypted(&case.archive(ArchiveFormat::TarGz));
    let (outcome, got) = case.stream(&Expected { format: ArchiveFormat::TarGz, ..other }, &object[..]);
    assert!(outcome.is_err() && got.is_some());
    assert_whole_or_spoiled(&outcome, &got, &[]);
}

#[test]
fn an_archive_above_the_limit_begins_nothing() {
    let case = Case::new();
    let bytes = case.pack().len() as u64 - 1;
    for format in ArchiveFormat::ALL {
        let (object, limits) = (case.encrypted(&case.archive(format)), Limits { bytes, ..Limits::default() });
        let begin = |_, _: &Judged| -> io::Result<Vec<u8>> { panic!("begun") };
        let outcome = stream_pack(&object[..], &case.expected(format), &case.identity.clone().into(), limits, begin);
        assert!(matches!(outcome, Err(StreamError::Artifact(ArtifactError::TooLarge(_)))), "{outcome:?}");
    }
}

#[test]
fn an_object_that_is_damaged_or_cut_anywhere_never_shows_the_pack_s_end() {
    let case = Case::new();
    let pack = case.pack();
    for format in ArchiveFormat::ALL {
        let object = case.encrypted(&case.archive(format));
        let (expected, length) = (case.expected(format), object.len());
        let places = || (0..400).chain((400..length - 100).step_by(61)).chain(length - 100..length);
        for at in places() {
            let mut changed = object.clone();
            changed[at] ^= 1 << (at % 8);
            for damaged in [&changed[..], &object[..at]] {
                let (outcome, got) = case.stream(&expected, damaged);
                assert!(matches!(outcome, Err(StreamError::Artifact(_))), "{format} {at}: {outcome:?}");
                assert_whole_or_spoiled(&outcome, &got, &pack);
            }
        }
    }
}

#[test]
fn an_archive_that_was_damaged_before_it_was_encrypted_never_shows_the_pack_s_end() {
    let case = Case::new();
    let pack = case.pack();
    for format in ArchiveFormat::ALL {
        let archive = case.archive(format);
        let start = archive.windows(4).position(|window| window == b"PACK").unwrap();
        // Some bytes everywhere, and every one in front of the pack, around its end, and at the archive's end.
        let end = start + pack.len();
        let all = (start - 120..start + 20).chain(end - 30..end + 40).chain(archive.len() - 100..archive.len());
        let (mut good, mut places) = (0, 0);
        for at in all.chain((0..archive.len()).step_by(29)) {
            let mut changed = archive.clone();
            changed[at] ^= 1 << (at % 8);
            let (outcome, got) = case.stream_archive(format, &changed);
            assert_whole_or_spoiled(&outcome, &got, &pack);
            assert!(outcome.is_err() || !(start..start + pack.len()).contains(&at), "{format} {at}");
            good += usize::from(outcome.is_ok());
            places += 1;
            let (outcome, got) = case.stream_archive(format, &archive[..at]);
            assert!(outcome.is_err(), "{format} {at}");
            assert_whole_or_spoiled(&outcome, &got, &pack);
        }
        assert!(good < places / 10, "{good} of {places}");
    }
}

#[test]
fn random_damage_leaves_everything_as_it_was_or_a_wrong_end() {
    let case = Case::new();
    let pack = case.pack();
    let zip = case.archive(ArchiveFormat::Zip);
    let mut tar = vec![];
    flate2::read::GzDecoder::new(&case.archive(ArchiveFormat::TarGz)[..]).read_to_end(&mut tar).unwrap();
    // Damage inside of gzip, whose checksum fits it.
    let zipped = |tar: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::none());
        gzip.write_all(tar).unwrap();
        gzip.finish().unwrap()
    };
    let mut whole = 0;
    for seed in 0..400 {
        for (format, archive) in
            [(ArchiveFormat::Zip, mutated(&zip, seed)), (ArchiveFormat::TarGz, zipped(&mutated(&tar, seed)))]
        {
            let (outcome, got) = case.stream_archive(format, &archive);
            let Some((announced, received)) = got else {
                assert!(outcome.is_err());
                continue;
            };
            assert_eq!(received.len() as u64, announced, "{format} {seed}");
            let (content, end) = received.split_at(received.len() - 20);
            // In a tar archive, only the pack's own end tells whether the pack is whole.
            let has_right_end = Sha1::digest(content)[..] == *end;
            assert_eq!(outcome.is_ok() && received == pack, has_right_end, "{format} {seed}: {outcome:?}");
            whole += usize::from(has_right_end);
        }
        let object = mutated(&case.encrypted(&zip), seed);
        let (outcome, got) = case.stream(&case.expected(ArchiveFormat::Zip), &object[..]);
        assert!(outcome.is_err(), "{seed}");
        assert_whole_or_spoiled(&outcome, &got, &pack);
    }
    assert!((1..400).contains(&whole), "{whole} of 800");
}

#[test]
fn git_refuses_a_spoiled_pack_and_keeps_nothing_of_it() {
    let case = Case::large();
    for format in ArchiveFormat::ALL {
        let archive = case.archive(format);
        let object = case.encrypted(&archive);
        let pack_at = archive.windows(4).position(|window| window == b"PACK").unwrap();
        let changed = |bytes: &[u8], at: usize| {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            changed
        };
        let expected = case.expected(format);
        let main = destination("main");
        let trust = Trust { destination: &main, ..expected.trust };
        let elsewhere = Expected { commit: "7".repeat(40).parse().unwrap(), trust, ..expected };
        let cases = [
            ("pack", expected, case.encrypted(&changed(&archive, pack_at + 400_000))),
            ("the pack's end", expected, case.encrypted(&changed(&archive, pack_at + case.pack().len() - 1))),
            ("index", expected, case.encrypted(&changed(&archive, pack_at + case.pack().len() + 700))),
            ("the archive's end", expected, case.encrypted(&changed(&archive, archive.len() - 5))),
            ("cut archive", expected, case.encrypted(&archive[..archive.len() - 1])),
            ("chunk", expected, changed(&object, object.len() / 2)),
            ("the last byte", expected, changed(&object, object.len() - 1)),
            ("cut object", expected, object[..object.len() / 2].to_vec()),
            ("cut at its end", expected, object[..object.len() - 1].to_vec()),
            ("name", elsewhere, object.clone()),
        ];
        for (what, expected, object) in cases {
            let mut far = Far::new();
            let (outcome, report) = judged(&case, &expected, &object[..], &mut far, 1);
            assert!(matches!(outcome, Err(StreamError::Artifact(_) | StreamError::Receiver(_))), "{what}: {outcome:?}");
            match report {
                Some(report) => {
                    assert!(report.contains("unpack ") && !report.contains("unpack ok"), "{what}: {report}")
                }
                None => assert_eq!((what, format), ("name", ArchiveFormat::Zip), "only this is known before"),
            }
            far.assert_empty(what);
        }
    }
}

#[test]
fn a_failed_download_is_told_from_damage_and_spoils_the_pack() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the network is gone"))
        }
    }
    let case = Case::large();
    for format in ArchiveFormat::ALL {
        let object = case.encrypted(&case.archive(format));
        for length in [0, 300, object.len() / 2, object.len() - 1, object.len()] {
            let (outcome, got) = case.stream(&case.expected(format), object[..length].chain(Broken));
            let Err(StreamError::Artifact(ArtifactError::Download(error))) = &outcome else {
                panic!("{format} {length}: {outcome:?}")
            };
            assert_eq!(error.to_string(), "the network is gone");
            assert_eq!(got.is_some(), length >= object.len() / 2);
            assert_whole_or_spoiled(&outcome, &got, &[]);
        }
    }
}

/// Takes so many bytes, then fails, and counts the attempts.
struct Failing<'a> {
    room: usize,
    failures: &'a mut u32,
}

impl Write for Failing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            *self.failures += 1;
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "answered"));
        }
        let n = bytes.len().min(self.room);
        self.room -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_receiver_that_fails_gets_nothing_more_and_is_the_reason() {
    let case = Case::large();
    let length = case.pack().len();
    let identities = case.identity.clone().into();
    for format in ArchiveFormat::ALL {
        let archive = case.archive(format);
        let damaged = case.encrypted(&archive[..archive.len() - 1]);
        let object = case.encrypted(&archive);
        for room in [0, 1, BUFFER_BYTES, BUFFER_BYTES + 1, length - 21, length - 20, length - 1] {
            let mut failures = 0;
            let outcome = stream_pack(&object[..], &case.expected(format), &identities, Limits::default(), |_, _| {
                Ok(Failing { room, failures: &mut failures })
            });
            assert!(matches!(&outcome, Err(StreamError::Receiver(error)) if error.to_string() == "answered"), "{room}");
            assert_eq!(failures, 1);
        }
        // If the object is bad, that stays the reason.
        let mut failures = 0;
        let outcome = stream_pack(&damaged[..], &case.expected(format), &identities, Limits::default(), |_, _| {
            Ok(Failing { room: length - 20, failures: &mut failures })
        });
        assert!(matches!(outcome, Err(StreamError::Artifact(ArtifactError::Damaged(_)))), "{outcome:?}");
        assert_eq!(failures, 1);
        let begin = |_, _: &Judged| -> io::Result<Cursor<Vec<u8>>> { Err(io::Error::other("no connection")) };
        let outcome = stream_pack(&object[..], &case.expected(format), &identities, Limits::default(), begin);
        assert!(matches!(&outcome, Err(StreamError::Receiver(error)) if error.to_string() == "no connection"));
    }
}

#[test]
fn an_object_for_others_begins_nothing() {
    let case = Case::new();
    let object = Case::new().encrypted(&case.archive(ArchiveFormat::Zip));
    let (outcome, got) = case.stream(&case.expected(ArchiveFormat::Zip), &object[..]);
    assert!(matches!(outcome, Err(StreamError::Artifact(ArtifactError::OtherRecipients))) && got.is_none());
}

/// The manifest of the case's archives.
fn manifest(case: &Case) -> Manifest {
    Manifest {
        destination: case.destination.clone(),
        commit: case.project.commit,
        base: None,
        previous: None,
        published: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    }
}

#[test]
fn with_trusted_keys_a_pack_begins_only_after_its_manifest_was_verified() {
    let (case, keys, others) = (Case::large(), Keys::new(), Keys::new());
    let (trusted, pack, manifest) = (keys.trusted(), case.pack(), manifest(&case));
    let signed = |manifest: &Manifest, keys: Option<&Keys>| {
        SignedManifest::new(manifest, keys.map(Keys::signing).as_ref()).unwrap()
    };
    let mut forged = signed(&manifest, Some(&keys));
    *forged.signature.as_mut().unwrap().last_mut().unwrap() ^= 1;
    let elsewhere = Manifest { destination: destination("main"), ..manifest.clone() };
    let other = Manifest { commit: "7".repeat(40).parse().unwrap(), ..manifest.clone() };
    for format in ArchiveFormat::ALL {
        let expected = case.expected(format);
        let trusting = Expected { trust: Trust { keys: Some(&trusted), ..expected.trust }, ..expected };
        let stream = |expected: &Expected<'_>, found: SignedManifest| {
            let object = case.encrypted(&case.project.signed_archive(format, BRANCH, found));
            let expected = Expected { bytes: Some(object.len() as u64), ..*expected };
            let (outcome, got) = case.stream(&expected, &object[..]);
            assert_whole_or_spoiled(&outcome, &got, &pack);
            (outcome, got.is_some())
        };
        let refused = |expected: &Expected<'_>, found: SignedManifest| match stream(expected, found) {
            (Err(StreamError::Artifact(ArtifactError::Origin(error))), false) => error,
            other => panic!("{format}: {other:?}"),
        };
        let key = keys.signing().id();
        let streamed = stream(&trusting, signed(&manifest, Some(&keys))).0.unwrap();
        assert_eq!(
            streamed.said,
            Said { other_references: 0, origin: Origin::Signed { key }, manifest: Some(manifest.clone()) }
        );
        assert!(matches!(refused(&trusting, signed(&manifest, None)), TrustError::Unsigned));
        assert!(matches!(refused(&trusting, signed(&manifest, Some(&others))), TrustError::UnknownKey(_)));
        assert!(matches!(refused(&trusting, forged.clone()), TrustError::BadSignature(_)));
        for wrong in [&elsewhere, &other] {
            let error = refused(&trusting, signed(wrong, Some(&keys)));
            assert!(matches!(error, TrustError::Manifest(ManifestError::Another { .. })), "{error}");
        }
        let window = |time| Window { not_before: Some(time), now: manifest.published };
        let after = |time| Expected { trust: Trust { window: Some(window(time)), ..trusting.trust }, ..trusting };
        stream(&after(manifest.published), signed(&manifest, Some(&keys))).0.unwrap();
        let later = after(manifest.published + Duration::from_millis(1));
        assert!(matches!(refused(&later, signed(&manifest, Some(&keys))), TrustError::Untimely(_)));
        // Without a manifest at all.
        let plain = case.encrypted(&case.archive(format));
        let (outcome, got) = case.stream(&trusting, &plain[..]);
        assert!(
            matches!(outcome, Err(StreamError::Artifact(ArtifactError::Origin(TrustError::Unsigned)))) && got.is_none()
        );

        // Nobody checks it here.
        for (found, origin) in [
            (signed(&manifest, None), Origin::Unsigned),
            (signed(&manifest, Some(&keys)), Origin::Unchecked { key }),
            (forged.clone(), Origin::Unchecked { key }),
            (signed(&other, Some(&keys)), Origin::Unchecked { key }),
            (SignedManifest { json: b"{".into(), signature: None }, Origin::Unsigned),
        ] {
            assert_eq!(stream(&expected, found).0.unwrap().said.origin, origin);
        }
    }
}

#[test]
fn a_manifest_behind_the_pack_proves_nothing() {
    let (case, keys) = (Case::new(), Keys::new());
    let (trusted, pack, commit) = (keys.trusted(), case.pack(), case.project.commit.to_string());
    let SignedManifest { json, signature } = SignedManifest::new(&manifest(&case), Some(&keys.signing())).unwrap();
    let (head, branch, signature) = (format!("ref: refs/heads/{BRANCH}\n"), format!("{commit}\n"), signature.unwrap());
    let [head, branch] = [(".git/", "HEAD", head.as_bytes()), (".git/refs/heads/", BRANCH, branch.as_bytes())];
    let [index, pack_file] = [(PACKS, "pack-a.idx", &b"x"[..]), (PACKS, "pack-a.pack", &pack[..])];
    const FOLDER: &str = ".git/git-partition-sync/";
    let [manifest, signature] = [(FOLDER, "manifest.json", &json[..]), (FOLDER, "manifest.sig", &signature[..])];
    for (files, is_good) in [
        (vec![head, branch, manifest, signature, pack_file, index], true),
        (vec![manifest, signature, pack_file, index, head, branch], true),
        (vec![head, branch, pack_file, index, manifest, signature], false),
        (vec![head, branch, manifest, pack_file, index, signature], false),
        (vec![head, branch, signature, manifest, pack_file, index], false),
        (vec![head, branch, manifest, signature, manifest, pack_file, index], false),
        (vec![head, branch, manifest, signature, signature, pack_file, index], false),
        (vec![head, branch, manifest, signature, pack_file, index, manifest], false),
    ] {
        let object = case.encrypted(&tar_gz(&files));
        for keys in [None, Some(&trusted)] {
            let expected = case.expected(ArchiveFormat::TarGz);
            let expected = Expected { trust: Trust { keys, ..expected.trust }, ..expected };
            let (outcome, got) = case.stream(&expected, &object[..]);
            assert_eq!(outcome.is_ok(), is_good, "{outcome:?}");
            assert_whole_or_spoiled(&outcome, &got, &pack);
            let is_proven = files.iter().position(|file| file.1 == "manifest.sig")
                < files.iter().position(|file| *file == pack_file);
            assert!(keys.is_none() || is_proven || got.is_none(), "nothing begins before it was verified");
        }
    }
}

#[test]
fn a_damaged_archive_of_a_signed_object_is_never_taken_for_another() {
    let (case, keys) = (Case::new(), Keys::new());
    let (trusted, pack) = (keys.trusted(), case.pack());
    let found = SignedManifest::new(&manifest(&case), Some(&keys.signing())).unwrap();
    let mut whole = 0;
    for format in ArchiveFormat::ALL {
        let archive = case.project.signed_archive(format, BRANCH, found.clone());
        let expected = case.expected(format);
        let expected = Expected { trust: Trust { keys: Some(&trusted), ..expected.trust }, ..expected };
        for seed in 0..400 {
            let object = case.encrypted(&mutated(&archive, seed));
            let (outcome, got) = case.stream(&expected, &object[..]);
            assert_whole_or_spoiled(&outcome, &got, &pack);
            whole += usize::from(outcome.is_ok());
        }
    }
    assert!(whole < 80, "{whole} of 800");
}
