//! Archives of all kinds, unpacked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::EntryType;

use super::untar::MAX_TAR_HEADER_BYTES;
use super::unzip::MAX_ZIP_TABLE_BYTES;
use super::*;
use crate::artifact::unpack::Unpacker;
use crate::artifact::{archive, references};
use crate::git::fixture::{Project, git, run};

/// An entry of an archive made by somebody else: type, name, content.
type Entry<'a> = (EntryType, &'a [u8], &'a [u8]);

const HEAD: Entry<'static> = (EntryType::Regular, b".git/HEAD", b"ref: refs/heads/main\n");

/// A tar.gz archive with names that `tar::Builder` would not take.
fn tar_gz(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A zip archive whose writer takes names as they are; a mode holds the type.
fn zip_of(entries: &[(u32, &str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(vec![]));
    for (mode, name, content) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, options.external_attributes(mode << 16)).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// As [`open`](crate::artifact::open) unpacks an archive, without references.
fn unpack(format: ArchiveFormat, archive: &[u8], dir: &Path, limits: Limits) -> Result<Walked, ArtifactError> {
    let mut unpacker = Unpacker::new(dir)?;
    let walked = walk(format, archive, Some(archive.len() as u64), limits, |file| unpacker.take(file))?;
    unpacker.finish()?;
    Ok(walked)
}

/// The outcome, and the paths that were written.
fn unpack_within(
    format: ArchiveFormat,
    archive: &[u8],
    limits: Limits,
) -> (Result<Walked, ArtifactError>, Vec<String>) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("repository");
    fs::create_dir(&dir).unwrap();
    let outcome = unpack(format, archive, &dir, limits);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left beside it");
    let written = run(&dir, "find", &[".", "-not", "-type", "d"]);
    (outcome, written.lines().map(|path| path.trim_start_matches("./").to_owned()).collect())
}

fn unpacked(format: ArchiveFormat, archive: &[u8]) -> (Result<Walked, ArtifactError>, Vec<String>) {
    unpack_within(format, archive, Limits::default())
}

#[track_caller]
fn assert_refused(format: ArchiveFormat, archive: &[u8]) {
    let (outcome, written) = unpacked(format, archive);
    assert!(matches!(outcome, Err(ArtifactError::Unsafe { .. })), "{format}: {outcome:?}");
    assert!(written.is_empty(), "{format}: {written:?}");
}

const UNSAFE_PATHS: [&str; 12] = [
    "/etc/passwd",
    "../outside",
    ".git/../../outside",
    ".git/refs/heads/../../../../outside",
    ".git/refs/heads/..",
    ".git/./HEAD",
    ".git//HEAD",
    "//HEAD",
    ".git\\HEAD",
    "..\\outside",
    "./../outside",
    ".git/refs/heads//",
];

#[test]
fn our_own_archives_are_unpacked_whole() {
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        let parent = tempfile::tempdir().unwrap();
        let archive = project.archive(format, "release/1");
        let unpacked = unpack(format, &archive, parent.path(), Limits::default()).unwrap();
        assert_eq!(unpacked.entries, 13, "{format}");
        assert_eq!(unpacked.references.check("release/1", project.commit, format).unwrap(), 0);
        references::write(&parent.path().join(".git"), "release/1", project.commit).unwrap();
        assert_eq!(git(parent.path(), &["rev-parse", "release/1"]), project.commit.to_string());
        git(parent.path(), &["fsck", "--full", "--strict"]);
        assert_eq!(run(parent.path(), "find", &[".", "-type", "f", "-perm", "/077"]), "");
        assert_eq!(run(parent.path(), "find", &[".git", "-type", "d", "-perm", "/077"]), "");
    }
}

const MANIFEST: &str = ".git/git-partition-sync/manifest.json";
const SIGNATURE: &str = ".git/git-partition-sync/manifest.sig";

#[test]
fn a_manifest_and_its_signature_are_read_and_not_unpacked() {
    let (project, json) = (Project::new(), b"{}".to_vec());
    for format in ArchiveFormat::ALL {
        let plain = unpacked(format, &project.archive(format, "main"));
        assert_eq!(plain.0.unwrap().manifest, None);
        for signature in [None, Some(vec![7; SIGNATURE_BYTES])] {
            let found = SignedManifest { json: json.clone(), signature };
            let (walked, written) = unpacked(format, &project.signed_archive(format, "main", found.clone()));
            let walked = walked.unwrap();
            assert_eq!(walked.entries, 14 + usize::from(found.signature.is_some()), "{format}");
            assert_eq!(walked.manifest, Some(found));
            assert_eq!(written, plain.1);
        }
    }
}

#[test]
fn a_manifest_is_there_once_before_the_packs_and_short() {
    let (json, signature) = (vec![b' '; MANIFEST_LIMIT_BYTES + 1], vec![0; SIGNATURE_BYTES + 1]);
    let pack = ".git/objects/pack/pack-a.pack";
    let loose = format!(".git/objects/ab/{}", "c".repeat(38));
    let good = [(MANIFEST, &json[1..]), (SIGNATURE, &signature[1..])];
    let read = |format, files: &[(&str, &[u8])]| {
        let archive = match format {
            ArchiveFormat::Zip => zip_of(&files.iter().map(|(name, it)| (0o100_644, *name, *it)).collect::<Vec<_>>()),
            ArchiveFormat::TarGz => {
                tar_gz(&files.iter().map(|(name, it)| (EntryType::Regular, name.as_bytes(), *it)).collect::<Vec<_>>())
            }
        };
        unpacked(format, &archive).0
    };
    for format in ArchiveFormat::ALL {
        read(format, &[good[0], good[1], (pack, b"")]).unwrap();
        read(format, &[good[0]]).unwrap();
        let mut bad = vec![
            vec![good[1]],
            vec![good[1], good[0]],
            vec![(pack, &b""[..]), good[0]],
            vec![(&loose, b""), good[0]],
            vec![good[0], (pack, b""), good[1]],
        ];
        if format == ArchiveFormat::TarGz {
            // The zip crate does not write them.
            bad.extend([vec![good[0], good[0]], vec![good[0], good[1], good[1]]]);
        } else {
            bad.push(vec![(".git/git-partition-sync/other", b"")]);
        }
        for files in bad {
            let refused = read(format, &files);
            assert!(matches!(refused, Err(ArtifactError::Unsafe { .. })), "{format} {files:?}: {refused:?}");
        }
        for long in [vec![(MANIFEST, &json[..])], vec![good[0], (SIGNATURE, &signature)]] {
            assert!(matches!(read(format, &long), Err(ArtifactError::TooLarge(_))), "{format}");
        }
    }
}

#[test]
fn an_ordinary_clone_is_taken_from_tar_without_what_git_would_run_or_read_elsewhere() {
    let (project, parent) = (Project::new(), tempfile::tempdir().unwrap());
    let at = &parent.path().join("clone");
    git(parent.path(), &["clone", "-q", &format!("file://{}", project.dir.path().display()), "clone"]);
    fs::write(at.join(".git/hooks/post-checkout.sample"), "#!/bin/sh").unwrap();
    fs::write(at.join(".git/objects/info/alternates"), "/elsewhere\n").unwrap();
    fs::write(at.join("caf\u{e9}"), "").unwrap();
    git(at, &["config", "core.fsmonitor", "touch /tmp/run"]);
    run(at, "tar", &["czf", "../clone.tar.gz", "."]);
    let (outcome, mut written) = unpacked(ArchiveFormat::TarGz, &fs::read(parent.path().join("clone.tar.gz")).unwrap());
    outcome.unwrap();
    written.retain(|path| !path.starts_with(".git/objects/pack/"));
    written.sort();
    assert_eq!(written, [".git/config"], "references are only read");
}

#[test]
fn the_archive_s_configuration_is_replaced_by_ours() {
    let evil = b"[core]\n\tfsmonitor = touch /tmp/run\n";
    for (format, archive) in [
        (ArchiveFormat::TarGz, tar_gz(&[HEAD, (EntryType::Regular, b".git/config", evil)])),
        (ArchiveFormat::Zip, zip_of(&[(0o100_644, ".git/config", evil)])),
    ] {
        let dir = tempfile::tempdir().unwrap();
        unpack(format, &archive, dir.path(), Limits::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(".git/config")).unwrap(), archive::CONFIG);
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in UNSAFE_PATHS {
        assert_refused(ArchiveFormat::TarGz, &tar_gz(&[HEAD, (EntryType::Regular, path.as_bytes(), b"x")]));
        assert_refused(ArchiveFormat::TarGz, &tar_gz(&[HEAD, (EntryType::Directory, path.as_bytes(), b"")]));
        assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_644, ".git/HEAD", b"x"), (0o100_644, path, b"x")]));
    }
    assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_644, ".git/refs/heads/a\0b", b"x")]));
    let nul_in_a_long_name = tar_gz(&[(EntryType::GNULongName, b"././@LongLink", b".git/refs/heads/a\0b"), HEAD]);
    assert_refused(ArchiveFormat::TarGz, &nul_in_a_long_name);
    assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_644, &format!(".git/refs/heads/{}", "a/".repeat(2500)), b"")]));
}

#[test]
fn only_regular_files_and_directories_are_accepted() {
    let types = [
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::XGlobalHeader,
        EntryType::new(b'Q'),
    ];
    for kind in types {
        for name in [&b".git/refs/heads/main"[..], b"work"] {
            assert_refused(ArchiveFormat::TarGz, &tar_gz(&[HEAD, (kind, name, b"")]));
        }
    }
    for mode in [0o120_777, 0o020_644, 0o010_644, 0o040_755] {
        assert_refused(ArchiveFormat::Zip, &zip_of(&[(mode, ".git/refs/heads/main", b"/etc/passwd")]));
    }
}

#[test]
fn a_path_is_there_once() {
    assert_refused(ArchiveFormat::TarGz, &tar_gz(&[HEAD, HEAD]));
    let below_a_file = (EntryType::Regular, &b".git/refs/heads/a/b"[..], &b""[..]);
    let the_file = (EntryType::Regular, &b".git/refs/heads/a"[..], &b""[..]);
    for entries in [[below_a_file, the_file], [the_file, below_a_file]] {
        let (outcome, _) = unpacked(ArchiveFormat::TarGz, &tar_gz(&entries));
        assert!(matches!(outcome, Err(ArtifactError::Unsafe { .. })), "{outcome:?}");
    }
    // The zip crate does not write duplicates: rename the second entry behind its back.
    let zip = zip_of(&[(0o100_644, ".git/refs/heads/a", b""), (0o100_644, ".git/refs/heads/b", b"")]);
    let mut twice = zip.clone();
    for at in 0..zip.len() {
        if zip[..at].ends_with(b"heads/b") {
            twice[at - 1] = b'a';
        }
    }
    assert_refused(ArchiveFormat::Zip, &twice);
}

#[test]
fn hooks_are_refused_and_their_samples_are_not_unpacked() {
    let hook = (EntryType::Regular, &b".git/hooks/post-checkout"[..], &b"#!/bin/sh"[..]);
    assert_refused(ArchiveFormat::TarGz, &tar_gz(&[HEAD, hook]));
    assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_755, ".git/hooks/post-checkout", b"#!/bin/sh")]));
    assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_755, ".git/hooks/post-checkout.sample", b"#!/bin/sh")]));
}

#[test]
fn a_zip_holds_nothing_but_the_repository() {
    for path in ["README", ".gitmodules", ".git/index", ".git/info/grafts", ".git/objects/info/alternates", ".GIT/HEAD"]
    {
        assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_644, path, b"")]));
    }
}

#[test]
fn bounds_are_kept() {
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        let archive = project.archive(format, "main");
        let Walked { entries, bytes, .. } = unpacked(format, &archive).0.unwrap();
        let within = |entries, bytes| unpack_within(format, &archive, Limits { entries, bytes }).0;
        within(entries, bytes).unwrap();
        assert!(matches!(within(entries - 1, bytes), Err(ArtifactError::TooLarge(_))), "{format}");
        assert!(matches!(within(entries, bytes - 1), Err(ArtifactError::TooLarge(_))), "{format}");
    }
}

#[test]
fn names_of_a_zip_archive_are_bounded_as_they_come() {
    let name = |number: u32| format!(".git/refs/heads/{number:08}/{}", "a/".repeat(2_000));
    let local_header = |number: u32| {
        let name = name(number).into_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        [&b"PK\x03\x04"[..], &[0; 22], &length, &[0; 2], &name].concat()
    };
    let entries = u32::try_from(MAX_ZIP_TABLE_BYTES / name(0).len() as u64).unwrap();
    // Without an end: it is refused before.
    let many: Vec<u8> = (0..=entries).flat_map(local_header).collect();
    let (outcome, _) = unpacked(ArchiveFormat::Zip, &many);
    assert!(matches!(&outcome, Err(ArtifactError::TooLarge(what)) if what.ends_with("of names")), "{outcome:?}");
}

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const END: &[u8; 4] = b"PK\x05\x06";

/// Where the records of a zip archive are, and their signatures.
fn records(zip: &[u8]) -> Vec<(usize, &'static [u8; 4])> {
    let signature_of = |start: &[u8]| [LOCAL, CENTRAL, END64, LOCATOR, END].into_iter().find(|known| *known == start);
    zip.windows(4).enumerate().filter_map(|(at, start)| Some((at, signature_of(start)?))).collect()
}

/// A copy in which a field of the last record of a kind has other bytes. It is counted from the record's signature.
fn with_field(zip: &[u8], signature: &[u8; 4], at: usize, field: &[u8]) -> Vec<u8> {
    let (start, _) = records(zip).into_iter().rfind(|(_, found)| *found == signature).unwrap();
    let mut zip = zip.to_vec();
    zip[start + at..][..field.len()].copy_from_slice(field);
    zip
}

#[track_caller]
fn assert_damaged(archive: &[u8], explanation: &str) {
    let (outcome, _) = unpacked(ArchiveFormat::Zip, archive);
    let Err(ArtifactError::Damaged(why)) = &outcome else { panic!("{explanation}: {outcome:?}") };
    assert!(why.to_string().contains(explanation), "{explanation}: {why}");
}

#[test]
fn a_zip_archive_says_the_same_in_front_and_at_its_end() {
    let project = Project::new();
    let (zip, wide) = (project.archive(ArchiveFormat::Zip, "main"), project.zip64_archive("main"));
    let (table, last) = ("table of contents contradicts", "last records contradict");
    for (archive, signature, at, field, explanation) in [
        // Encrypted, with a descriptor, strongly encrypted, compressed.
        (&zip, LOCAL, 6, &[0x01][..], "without its size in front"),
        (&zip, LOCAL, 6, &[0x08], "without its size in front"),
        (&zip, LOCAL, 6, &[0x40], "without its size in front"),
        (&zip, LOCAL, 8, &[8], "compressed"),
        (&zip, LOCAL, 10, &[1], table),
        (&zip, LOCAL, 14, &[0; 4], "CRC-32"),
        (&zip, LOCAL, 18, &[1, 0, 0, 0], "two sizes"),
        (&zip, LOCAL, 22, &[1, 0, 0, 0], "two sizes"),
        (&zip, LOCAL, 22, &[0xff; 4], "extra field"),
        (&wide, LOCAL, 22, &[0; 4], "extra field"),
        (&zip, CENTRAL, 8, &[0x01], table),
        (&zip, CENTRAL, 8, &[0x08], table),
        (&zip, CENTRAL, 10, &[8], table),
        (&zip, CENTRAL, 12, &[1], table),
        (&zip, CENTRAL, 16, &[0; 4], table),
        (&zip, CENTRAL, 20, &[0; 4], table),
        (&zip, CENTRAL, 20, &[0; 8], table),
        (&zip, CENTRAL, 24, &[0; 4], table),
        (&zip, CENTRAL, 32, &[1], table),
        (&zip, CENTRAL, 34, &[1], table),
        (&zip, CENTRAL, 42, &[0; 4], table),
        (&zip, CENTRAL, 46, b"x", table),
        (&zip, END, 4, &[1], last),
        (&zip, END, 6, &[1], last),
        (&zip, END, 8, &[99], last),
        (&zip, END, 10, &[99], last),
        (&zip, END, 12, &[0; 4], last),
        (&zip, END, 12, &[0xff; 4], last),
        (&zip, END, 16, &[0; 4], last),
        (&zip, END, 20, &[1], last),
        (&wide, END64, 4, &[45], last),
        (&wide, END64, 16, &[1], last),
        (&wide, END64, 24, &[99], last),
        (&wide, END64, 32, &[99], last),
        (&wide, END64, 40, &[0; 4], last),
        (&wide, END64, 48, &[0; 4], last),
        (&wide, LOCATOR, 0, b"x", last),
        (&wide, LOCATOR, 8, &[0; 4], last),
        (&wide, LOCATOR, 16, &[2], last),
        (&wide, END, 16, &[0; 4], last),
    ] {
        assert_damaged(&with_field(archive, signature, at, field), explanation);
    }
}

#[test]
fn a_zip_archive_has_nothing_before_between_and_behind_its_records() {
    let project = Project::new();
    for good in [project.archive(ArchiveFormat::Zip, "main"), project.zip64_archive("main")] {
        unpacked(ArchiveFormat::Zip, &good).0.unwrap();
        for length in 1..=4 {
            assert_damaged(&[&good[..], &vec![0; length]].concat(), "something follows");
        }
        assert_damaged(&[&good[..], &good].concat(), "something follows");
        assert_damaged(&[&b"x"[..], &good].concat(), "not where this program writes it");
        let records = records(&good);
        let centrals: Vec<usize> =
            records.iter().filter(|(_, signature)| *signature == CENTRAL).map(|(at, _)| *at).collect();
        let (first, second) = (centrals[0], centrals[1]);
        // A table without an entry, with one twice, and none at all.
        assert_damaged(&[&good[..first], &good[second..]].concat(), "table of contents contradicts");
        assert_damaged(&[&good[..second], &good[first..]].concat(), "table of contents contradicts");
        assert_damaged(&[&good[..first], &zip_of(&[])].concat(), "table of contents contradicts");
        for (at, _) in &records[1..] {
            let (outcome, _) = unpacked(ArchiveFormat::Zip, &[&good[..*at], &[0; 4], &good[*at..]].concat());
            assert!(matches!(outcome, Err(ArtifactError::Damaged(_))), "{at}: {outcome:?}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_zip_archive_s_records_is_refused_or_changes_nothing() {
    let project = Project::new();
    let read = |zip: &[u8]| {
        let mut files = vec![];
        walk::<ArtifactError>(ArchiveFormat::Zip, zip, None, Limits::default(), |file| {
            let mut content = vec![];
            file.content.read_to_end(&mut content).map_err(ArtifactError::Damaged)?;
            files.push((file.path.to_owned(), content));
            Ok(())
        })
        .map(|Walked { entries, bytes, references, manifest }| {
            (files, entries, bytes, format!("{references:?} {manifest:?}"))
        })
    };
    for zip in [project.archive(ArchiveFormat::Zip, "main"), project.zip64_archive("main")] {
        let (good, records, mut flipped) = (read(&zip).unwrap(), records(&zip), zip.clone());
        let mut unchanged = 0;
        for at in 0..zip.len() {
            let (start, signature) = records[records.partition_point(|(start, _)| *start <= at) - 1];
            let at_field = at - start;
            // A local header and the name in it. Contents have a CRC-32.
            if signature == LOCAL && at_field > 150 {
                continue;
            }
            let bit = 1 << (at % 8);
            flipped[at] ^= bit;
            if let Ok(read) = read(&flipped) {
                // Versions, and attributes that are not the type.
                let is_free = (signature == LOCAL && (4..6).contains(&at_field))
                    || (signature == CENTRAL && (at_field == 4 || (6..8).contains(&at_field)))
                    || (signature == CENTRAL && (36..42).contains(&at_field))
                    || (signature == END64 && (12..16).contains(&at_field));
                assert!(is_free && read == good, "bit {bit} of {at_field} in {signature:?} at {start}");
                unchanged += 1;
            }
            flipped[at] ^= bit;
        }
        assert!(unchanged > 0, "the test sees what is accepted");
    }
}

#[test]
fn a_compressed_bomb_is_not_unpacked() {
    let bomb = tar_gz(&[(EntryType::Regular, b"zeros", &vec![0; 10 << 20])]);
    let (outcome, _) = unpack_within(ArchiveFormat::TarGz, &bomb, Limits { entries: 10, bytes: 1 << 20 });
    assert!(matches!(outcome, Err(ArtifactError::TooLarge(_))), "{outcome:?}");
}

#[test]
fn headers_and_padding_of_a_tar_archive_are_bounded() {
    let long = vec![b'a'; MAX_TAR_HEADER_BYTES as usize + 1];
    for kind in [EntryType::GNULongName, EntryType::XHeader] {
        let (outcome, _) = unpacked(ArchiveFormat::TarGz, &tar_gz(&[(kind, b"long", &long), HEAD]));
        assert!(matches!(outcome, Err(ArtifactError::Damaged(_))), "{outcome:?}");
    }
}

#[test]
fn an_archive_cut_short_is_damaged() {
    let project = Project::new();
    for format in ArchiveFormat::ALL {
        let archive = project.archive(format, "main");
        for len in (0..archive.len()).step_by(499).chain([archive.len() - 1]) {
            let (outcome, _) = unpacked(format, &archive[..len]);
            assert!(matches!(outcome, Err(ArtifactError::Damaged(_))), "{format} {len}: {outcome:?}");
        }
    }
}

#[test]
fn what_follows_a_gzip_stream_must_be_one() {
    let archive = Project::new().archive(ArchiveFormat::TarGz, "main");
    let (outcome, _) = unpacked(ArchiveFormat::TarGz, &[&archive[..], b"garbage"].concat());
    assert!(matches!(outcome, Err(ArtifactError::Damaged(_))), "{outcome:?}");
}

#[test]
fn a_changed_byte_in_an_archive_s_files_is_damage() {
    let project = Project::new();
    let zip = project.archive(ArchiveFormat::Zip, "main");
    let at = zip.windows(4).position(|window| window == b"PACK").unwrap();
    let mut changed = zip.clone();
    changed[at + 100] ^= 1;
    let (outcome, _) = unpacked(ArchiveFormat::Zip, &changed);
    assert!(matches!(outcome, Err(ArtifactError::Damaged(_))), "{outcome:?}");
}

#[test]
fn unpacked_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    unpack(ArchiveFormat::TarGz, &tar_gz(&[HEAD]), dir.path(), Limits::default()).unwrap();
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(".git"), mode(".git/config")), (0o700, 0o600));
}
