#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::fixture::sized;
use super::*;
use crate::git::fixture::{Project, git, run};
use std::cell::Cell;
use std::fs;
use std::rc::Rc;

use sha2::{Digest, Sha256};
use zip::read::read_zipfile_from_stream;

/// 600 bytes and not ASCII.
fn long_branch() -> String {
    "équipe/".to_owned() + &vec!["x".repeat(200); 3].join("/")
}

/// A pack of `bytes`, which need not be one: archiving does not look into packs.
fn contents_of(data: &Path, index: impl FnOnce() -> io::Result<CheckedFile> + Send + 'static) -> Contents {
    let pack = Pack { name: format!("pack-{}", "a".repeat(40)), data: sized(data), index: Box::new(index) };
    Contents { branch: "main".into(), commit: CommitId::from_bytes([0xab; 20]), manifest: None, packs: vec![pack] }
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn saved(dir: &Path, name: &str, archive: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, archive).unwrap();
    path.to_str().unwrap().into()
}

fn unpacked(format: ArchiveFormat, archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = saved(dir.path(), "archive", archive);
    match format {
        ArchiveFormat::Zip => run(dir.path(), "unzip", &["-q", &file]),
        ArchiveFormat::TarGz => run(dir.path(), "tar", &["xzf", &file]),
    };
    fs::remove_file(&file).unwrap();
    dir
}

fn zip64(contents: Contents, zip64_from: u64) -> Vec<u8> {
    fill(ZipArchive::new(Vec::new(), zip64_from), contents).unwrap()
}

/// Whether a reader that sees only the bytes, not how writing them ended, takes them for a whole archive.
fn looks_complete(format: ArchiveFormat, archive: &[u8]) -> bool {
    match format {
        ArchiveFormat::Zip => zip::ZipArchive::new(io::Cursor::new(archive)).is_ok(),
        ArchiveFormat::TarGz => io::copy(&mut flate2::read::GzDecoder::new(archive), &mut io::sink()).is_ok(),
    }
}

#[test]
fn git_works_in_the_unpacked_repository() {
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        for branch in ["main", "release/2024/1", &long_branch()] {
            let unpacked = unpacked(format, &project.archive(format, branch));
            let at = unpacked.path();
            assert_eq!(fs::read_dir(at).unwrap().count(), 1, "only .git");
            git(at, &["fsck", "--full", "--strict"]);
            git(at, &["checkout", "-q", branch]);
            assert_eq!(git(at, &["symbolic-ref", "HEAD"]), format!("refs/heads/{branch}"));
            assert_eq!(git(at, &["rev-parse", "HEAD"]), project.commit.to_string());
            assert_eq!(git(at, &["log", "--format=%s"]).lines().count(), 5);
            assert_eq!(git(at, &["status", "--porcelain"]), "");
            let far = tempfile::tempdir().unwrap();
            git(far.path(), &["init", "-q", "--bare"]);
            git(at, &["push", "-q", far.path().to_str().unwrap(), branch]);
            git(far.path(), &["rev-parse", "--verify", &format!("refs/heads/{branch}")]);
        }
    }
}

#[test]
fn outside_programs_open_both_formats() {
    let (project, dir) = (Project::new(), tempfile::tempdir().unwrap());
    let contents = || project.contents(&long_branch());
    for (name, archive) in [("plain", zip64(contents(), u64::MAX)), ("zip64", zip64(contents(), 0))] {
        let file = saved(dir.path(), name, &archive);
        run(dir.path(), "unzip", &["-tq", &file]);
        let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; \
                      print(*sorted({(e.date_time, oct(e.external_attr >> 16), e.flag_bits & 8) for e in z.infolist()}))";
        let seen = run(dir.path(), "python3", &["-c", script, &file]);
        assert_eq!(seen, "((1980, 1, 1, 0, 0, 0), '0o100644', 0) ((1980, 1, 1, 0, 0, 0), '0o40755', 0)");
    }
    let file = saved(dir.path(), "tar", &project.archive(ArchiveFormat::TarGz, "main"));
    let listing = run(dir.path(), "tar", &["tvzf", &file, "--utc", "--full-time"]);
    for line in listing.lines() {
        assert!(line.starts_with(if line.ends_with('/') { "drwxr-xr-x 0/0" } else { "-rw-r--r-- 0/0" }), "{line}");
        assert!(line.contains(" 1980-01-01 00:00:00 "), "{line}");
    }
}

#[test]
fn directories_come_before_what_is_in_them_and_indexes_last() {
    let data = file_of(b"pack");
    let index = data.path().to_owned();
    let contents = Contents { branch: "a/b".into(), ..contents_of(data.path(), move || Ok(sized(&index))) };
    let archive = write(ArchiveFormat::TarGz, contents, Vec::new()).unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
    let names = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned());
    let pack = format!(".git/objects/pack/pack-{}", "a".repeat(40));
    let expected = [
        ".git/",
        ".git/objects/",
        ".git/objects/pack/",
        ".git/refs/",
        ".git/refs/heads/",
        ".git/refs/heads/a/",
        ".git/HEAD",
        ".git/config",
        ".git/refs/heads/a/b",
        &format!("{pack}.pack"),
        &format!("{pack}.idx"),
    ];
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

#[test]
fn a_manifest_and_its_signature_come_after_the_references_and_before_the_packs() {
    let (project, dir) = (Project::new(), tempfile::tempdir().unwrap());
    let manifest = SignedManifest { json: b"{\"version\":1}".to_vec(), signature: Some(vec![7; 72]) };
    for format in ArchiveFormat::ALL {
        let archive = project.signed_archive(format, "main", manifest.clone());
        let file = saved(dir.path(), "archive", &archive);
        let listing = match format {
            ArchiveFormat::Zip => run(dir.path(), "unzip", &["-Z1", &file]),
            ArchiveFormat::TarGz => run(dir.path(), "tar", &["tzf", &file]),
        };
        let names: Vec<&str> = listing.lines().skip_while(|name| *name != ".git/refs/heads/main").collect();
        let folder = ".git/git-partition-sync/";
        let expected = [folder.to_owned(), format!("{folder}manifest.json"), format!("{folder}manifest.sig")];
        assert_eq!(names[1..4], expected, "{format}");
        assert!(names[4].ends_with(".pack"), "{listing}");

        let at = unpacked(format, &archive);
        assert_eq!(fs::read(at.path().join(".git/git-partition-sync/manifest.json")).unwrap(), manifest.json);
        assert_eq!(fs::read(at.path().join(".git/git-partition-sync/manifest.sig")).unwrap(), vec![7; 72]);
        git(at.path(), &["fsck", "--full", "--strict"]);
        git(at.path(), &["checkout", "-q", "main"]);
        assert_eq!(git(at.path(), &["status", "--porcelain", "--ignored"]), "");
    }
}

/// Their SHA-256 was computed before archives could have a manifest.
#[test]
fn without_a_manifest_the_bytes_are_those_of_before() {
    let data = file_of(b"PACK");
    for (format, expected) in [(ArchiveFormat::Zip, ZIP_SHA256), (ArchiveFormat::TarGz, TAR_SHA256)] {
        let index = data.path().to_owned();
        let archive = write(format, contents_of(data.path(), move || Ok(sized(&index))), Vec::new()).unwrap();
        let sha256: String = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sha256, expected, "{format}");
    }
}

const ZIP_SHA256: &str = "e782a2d7539c0517cbe0aa59828054112dbc8ebdb3f8daab29d6d8fe18896864";
const TAR_SHA256: &str = "3038572c130810da45397bb1a9a1c7ac353ef348ff6f127861238808922ce7f8";

#[test]
fn a_zip_is_read_as_a_stream() {
    let project = Project::new();
    for archive in [zip64(project.contents("main"), u64::MAX), zip64(project.contents("main"), 0)] {
        let seekable = zip::ZipArchive::new(io::Cursor::new(&archive)).unwrap();
        let mut stream = &archive[..];
        let mut streamed = Vec::new();
        while let Some(mut file) = read_zipfile_from_stream(&mut stream).unwrap() {
            assert_eq!(io::copy(&mut file, &mut io::sink()).unwrap(), file.size());
            streamed.push(file.name().unwrap().into_owned());
        }
        assert_eq!(streamed.len(), seekable.len());
    }
}

/// Compared with the crate's writer on a file, which can seek back to complete its headers.
#[test]
fn a_zip_has_the_bytes_that_the_zip_crate_writes() {
    let project = Project::new();
    let ours = zip64(project.contents(&long_branch()), u32::MAX.into());
    let mut source = zip::ZipArchive::new(io::Cursor::new(&ours)).unwrap();
    let mut theirs = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for i in 0..source.len() {
        let mut file = source.by_index(i).unwrap();
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let name = file.name().unwrap().into_owned();
        if file.is_dir() {
            theirs.add_directory(name, options.unix_permissions(DIRECTORY_MODE)).unwrap();
        } else {
            theirs.start_file(name, options.unix_permissions(FILE_MODE)).unwrap();
            io::copy(&mut file, &mut theirs).unwrap();
        }
    }
    let theirs = theirs.finish().unwrap().into_inner();
    assert!(ours == theirs);
}

#[test]
fn a_zip64_archive_has_the_same_files() {
    let project = Project::new();
    let files = |archive: Vec<u8>| {
        let mut zip = zip::ZipArchive::new(io::Cursor::new(archive)).unwrap();
        let mut files = Vec::new();
        for i in 0..zip.len() {
            let mut file = zip.by_index(i).unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            files.push((file.name().unwrap().into_owned(), content));
        }
        files
    };
    assert_eq!(files(zip64(project.contents("main"), 0)), files(zip64(project.contents("main"), u64::MAX)));
}

#[test]
fn equal_contents_give_equal_bytes() {
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        assert_eq!(project.archive(format, "main"), project.archive(format, "main"));
    }
}

#[test]
fn a_file_that_is_not_what_was_announced_fails_the_archive() {
    let data = file_of(&[1; 100_000]);
    for format in ArchiveFormat::ALL {
        for announced in [0, 99_999, 100_001, 1 << 33] {
            let path = data.path().to_owned();
            let mut contents = contents_of(&path.clone(), move || Ok(sized(&path)));
            contents.packs[0].data = CheckedFile { len: announced, crc32: 0, ..sized(data.path()) };
            let mut out = Vec::new();
            let error = write(format, contents, &mut out).unwrap_err();
            assert!(error.to_string().contains("than it was"), "{format} {announced}: {error}");
            assert!(!looks_complete(format, &out), "{format} {announced}");
        }
    }
}

#[test]
fn a_wrong_checksum_fails_the_archive() {
    let data = file_of(b"pack");
    for format in ArchiveFormat::ALL {
        let path = data.path().to_owned();
        let mut contents = contents_of(&path.clone(), move || Ok(sized(&path)));
        contents.packs[0].data.crc32 = 7;
        let mut out = Vec::new();
        let error = write(format, contents, &mut out).unwrap_err();
        assert!(error.to_string().contains("CRC-32"), "{error}");
        assert!(!looks_complete(format, &out), "{format}");
    }
}

#[test]
fn a_failed_index_fails_the_archive() {
    let data = file_of(b"pack");
    for format in ArchiveFormat::ALL {
        let contents = contents_of(data.path(), || Err(io::Error::other("object 7 is corrupt")));
        let mut out = Vec::new();
        assert_eq!(write(format, contents, &mut out).unwrap_err().to_string(), "object 7 is corrupt");
        assert!(!looks_complete(format, &out), "{format}");
    }
}

#[test]
fn an_index_is_asked_for_once_the_pack_is_written() {
    const PACK: &[u8] = b"the pack's last bytes";
    let (sender, written) = std::sync::mpsc::channel();
    let data = file_of(PACK);
    let path = data.path().to_owned();
    let contents = contents_of(data.path(), move || {
        let written: Vec<u8> = written.try_iter().flatten().collect();
        assert!(written.ends_with(PACK));
        Ok(sized(&path))
    });
    struct Tell(std::sync::mpsc::Sender<Vec<u8>>);
    impl Write for Tell {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    write(ArchiveFormat::Zip, contents, Tell(sender)).map(drop).unwrap();
}

#[test]
fn an_output_that_fails_gets_nothing_more() {
    /// Takes so many bytes, then fails, and counts the calls after that.
    struct Failing {
        room: usize,
        calls_after: Rc<Cell<u32>>,
    }
    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.calls_after.set(self.calls_after.get() + 1);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let n = bytes.len().min(self.room);
            self.room -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        let whole = project.archive(format, "main").len();
        for room in (0..whole).step_by(61).chain([whole - 1]) {
            let calls_after = Rc::new(Cell::new(0));
            let out = Failing { room, calls_after: calls_after.clone() };
            let error = write(format, project.contents("main"), out).map(drop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{format} {room}: {error}");
            assert_eq!(calls_after.get(), 1, "{format} {room}");
        }
    }
}

#[test]
fn a_branch_that_is_not_a_reference_name_is_refused() {
    let data = file_of(b"pack");
    for branch in ["", "..", "../../evil", "a/../b", "a//b", "/a", "a/", "a.lock", "a\nb", "a\\b", "a b"] {
        let path = data.path().to_owned();
        let contents = Contents { branch: branch.into(), ..contents_of(data.path(), move || Ok(sized(&path))) };
        let error = write(ArchiveFormat::Zip, contents, Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{branch:?}");
    }
}
