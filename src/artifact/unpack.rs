//! Unpacks an archive without trusting anything it says about itself.
//!
//! Invariant: all that is written are new regular files below the given directory, and only a history's objects: packs and
//! loose objects. References are only read. Anything that makes git run or read something else (configuration, hooks,
//! alternates) is left out.

mod untar;
mod unzip;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use self::untar::untar;
use self::unzip::unzip;
use super::archive;
use super::error::{ArtifactError, in_path};
use super::references::References;
use crate::files::{create_private_dir, new_private_file};
use crate::model::key::ArchiveFormat;

/// The longest path of an entry, in bytes: Linux's `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;
const COPY_BUFFER_BYTES: usize = 64 << 10;

/// Bounds of an archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackLimits {
    /// Entries of any kind.
    pub(super) entries: usize,
    /// Content of all files together.
    pub(super) bytes: u64,
}

impl Default for UnpackLimits {
    /// Far above real repositories: one million entries (archives of the Go program hold a working tree) and 256 GiB.
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 256 << 30 }
    }
}

/// What an archive held.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Entries of any kind.
    pub(super) entries: usize,
    /// Content of all files together.
    pub(super) bytes: u64,
    /// Not written to the disk.
    pub(super) references: References,
}

/// Unpacks the repository in the archive `reader` brings into the empty directory `dir`, and reads `reader` to its end.
/// After an error, `dir` may hold a part of the archive.
///
/// A zip archive is kept in a nameless file beside `dir` meanwhile, because its table of contents is at its end. It may
/// hold only what this program puts into one. A tar archive may be one of the Go program's: the rest of an ordinary clone
/// is accepted, but not unpacked.
pub(super) fn unpack(
    format: ArchiveFormat,
    reader: impl Read,
    dir: &Path,
    limits: UnpackLimits,
) -> Result<Unpacked, ArtifactError> {
    let mut unpacker = Unpacker { format, dir, limits, unpacked: Unpacked::default() };
    // Git recognises a repository by these two, and refs/ may be empty if references are packed.
    for needed in [".git/objects", ".git/refs"] {
        let needed = dir.join(needed);
        create_private_dir(&needed).map_err(in_path(&needed))?;
    }
    match format {
        ArchiveFormat::Zip => unzip(reader, &mut unpacker),
        ArchiveFormat::TarGz => untar(reader, &mut unpacker),
    }?;
    unpacker.write(".git/config", &mut archive::CONFIG.as_bytes(), archive::CONFIG.len() as u64)?;
    Ok(unpacker.unpacked)
}

enum Kind {
    File,
    Directory,
}

struct Unpacker<'a> {
    format: ArchiveFormat,
    dir: &'a Path,
    limits: UnpackLimits,
    unpacked: Unpacked,
}

impl Unpacker<'_> {
    /// Judges an entry, and unpacks it if it is needed.
    fn entry(
        &mut self,
        path: &[u8],
        kind: Result<Kind, &'static str>,
        size: u64,
        content: &mut impl Read,
    ) -> Result<(), ArtifactError> {
        let refused = |reason| ArtifactError::Unsafe { path: String::from_utf8_lossy(path).into_owned(), reason };
        self.count(size)?;
        let kind = kind.map_err(refused)?;
        let segments = safe_segments(path).map_err(refused)?;
        match (kind, role_of(&segments), self.format) {
            (_, Role::Hook, _) => Err(refused("is a hook")),
            (_, Role::Other, ArchiveFormat::Zip) => Err(refused("does not belong in a repository's history")),
            (Kind::File, Role::Needed(path), _) => self.write(&path, content, size),
            (Kind::File, Role::Reference(path), _) => self.unpacked.references.add(path, content, size),
            (Kind::File | Kind::Directory, _, _) => copy(content, &mut io::sink(), self.dir).map(drop),
        }
    }

    fn count(&mut self, size: u64) -> Result<(), ArtifactError> {
        let Unpacked { entries, bytes, .. } = &mut self.unpacked;
        *entries += 1;
        *bytes = bytes.saturating_add(size);
        if *entries > self.limits.entries {
            return Err(too_many_entries(self.limits.entries));
        }
        if *bytes > self.limits.bytes {
            return Err(too_many_bytes(self.limits.bytes));
        }
        Ok(())
    }

    fn write(&self, path: &str, content: &mut impl Read, size: u64) -> Result<(), ArtifactError> {
        let taken = || ArtifactError::Unsafe { path: path.to_owned(), reason: "occurs twice" };
        let file = self.dir.join(path);
        let mut out = create_new(&file).map_err(|error| match error {
            // The directory was empty, so another entry is in the way.
            ArtifactError::Disk { source, .. } if is_in_the_way(source.kind()) => taken(),
            other => other,
        })?;
        if copy(content, &mut out, &file)? == size { Ok(()) } else { Err(ends_early(path)) }
    }
}

pub(super) fn ends_early(path: &str) -> ArtifactError {
    ArtifactError::Damaged(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} ends early")))
}

fn too_many_entries(limit: usize) -> ArtifactError {
    ArtifactError::TooLarge(format!("{limit} entries"))
}

fn too_many_bytes(limit: u64) -> ArtifactError {
    ArtifactError::TooLarge(format!("{limit} bytes"))
}

/// What an entry is to the repository.
enum Role {
    /// A part of its history, at this path.
    Needed(String),
    /// A file of references, at this path in `.git`.
    Reference(String),
    /// Written by this program and not taken from an archive: directories, the configuration.
    Usual,
    Hook,
    Other,
}

fn role_of(segments: &[&[u8]]) -> Role {
    let Some((b".git", inside)) = segments.split_first().map(|(first, rest)| (*first, rest)) else {
        return Role::Other;
    };
    let is_pack_file =
        |name: &[u8]| name.starts_with(b"pack-") && (name.ends_with(b".pack") || name.ends_with(b".idx"));
    let path = |segments: &[&[u8]]| String::from_utf8(segments.join(&b'/')).ok();
    match inside {
        [b"HEAD" | b"packed-refs" | b"shallow"] | [b"refs", _, _, ..] => {
            path(inside).map_or(Role::Other, Role::Reference)
        }
        [b"objects", b"pack", name] if is_pack_file(name) => path(segments).map_or(Role::Other, Role::Needed),
        [b"objects", fan, name] if is_hex(fan, 2) && is_hex(name, 38) => {
            path(segments).map_or(Role::Other, Role::Needed)
        }
        [] | [b"config" | b"objects" | b"refs"] | [b"objects", b"pack"] | [b"refs", b"heads"] => Role::Usual,
        [b"hooks", name, ..] if !name.ends_with(b".sample") => Role::Hook,
        _ => Role::Other,
    }
}

/// As Git writes names: it would not find an object under a name in upper case.
pub(super) fn is_hex(text: &[u8], digits: usize) -> bool {
    text.len() == digits && text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The segments of a relative path that stays inside the directory. A leading `./` and a trailing `/` are usual in tar
/// archives.
fn safe_segments(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("has a name that is too long");
    }
    if path.contains(&b'\\') || path.contains(&0) {
        return Err("has a backslash or a NUL in its name");
    }
    if path.starts_with(b"/") {
        return Err("has an absolute path");
    }
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if matches!(path, b"" | b".") {
        return Ok(vec![]);
    }
    let segments: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    if segments.iter().any(|&segment| matches!(segment, b"" | b"." | b"..")) {
        return Err("has an empty, `.` or `..` segment in its path");
    }
    Ok(segments)
}

fn create_new(path: &Path) -> Result<File, ArtifactError> {
    if let Some(parent) = path.parent() {
        create_private_dir(parent).map_err(in_path(parent))?;
    }
    new_private_file(path).map_err(in_path(path))
}

fn is_in_the_way(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// Like [`io::copy`], but tells read errors from write errors.
fn copy(from: &mut impl Read, to: &mut impl Write, to_path: &Path) -> Result<u64, ArtifactError> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArtifactError::Damaged(error)),
        };
        to.write_all(&buffer[..n]).map_err(in_path(to_path))?;
        copied += n as u64;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::untar::MAX_TAR_HEADER_BYTES;
    use super::unzip::{MAX_ZIP_TABLE_BYTES, check_table};
    use super::*;
    use crate::artifact::references;
    use crate::git::fixture::{Project, git, run};
    use std::fs;
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::PermissionsExt;
    use tar::EntryType;

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

    /// The outcome, and the paths that were written.
    fn unpack_within(
        format: ArchiveFormat,
        archive: &[u8],
        limits: UnpackLimits,
    ) -> (Result<Unpacked, ArtifactError>, Vec<String>) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("repository");
        fs::create_dir(&dir).unwrap();
        let outcome = unpack(format, archive, &dir, limits);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left beside it");
        let written = run(&dir, "find", &[".", "-not", "-type", "d"]);
        (outcome, written.lines().map(|path| path.trim_start_matches("./").to_owned()).collect())
    }

    fn unpacked(format: ArchiveFormat, archive: &[u8]) -> (Result<Unpacked, ArtifactError>, Vec<String>) {
        unpack_within(format, archive, UnpackLimits::default())
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
            let unpacked = unpack(format, &archive[..], parent.path(), UnpackLimits::default()).unwrap();
            assert_eq!(unpacked.entries, 13, "{format}");
            assert_eq!(unpacked.references.check("release/1", project.commit, format).unwrap(), 0);
            references::write(&parent.path().join(".git"), "release/1", project.commit).unwrap();
            assert_eq!(git(parent.path(), &["rev-parse", "release/1"]), project.commit.to_string());
            git(parent.path(), &["fsck", "--full", "--strict"]);
            assert_eq!(run(parent.path(), "find", &[".", "-type", "f", "-perm", "/077"]), "");
            assert_eq!(run(parent.path(), "find", &[".git", "-type", "d", "-perm", "/077"]), "");
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
        let (outcome, mut written) =
            unpacked(ArchiveFormat::TarGz, &fs::read(parent.path().join("clone.tar.gz")).unwrap());
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
            unpack(format, &archive[..], dir.path(), UnpackLimits::default()).unwrap();
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
        assert_refused(
            ArchiveFormat::Zip,
            &zip_of(&[(0o100_644, &format!(".git/refs/heads/{}", "a/".repeat(2500)), b"")]),
        );
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
        let (outcome, _) = unpacked(ArchiveFormat::Zip, &twice);
        assert!(
            matches!(&outcome, Err(ArtifactError::Damaged(error)) if error.to_string().contains("duplicate")),
            "{outcome:?}"
        );
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
        for path in
            ["README", ".gitmodules", ".git/index", ".git/info/grafts", ".git/objects/info/alternates", ".GIT/HEAD"]
        {
            assert_refused(ArchiveFormat::Zip, &zip_of(&[(0o100_644, path, b"")]));
        }
    }

    #[test]
    fn bounds_are_kept() {
        let project = Project::new();
        for format in ArchiveFormat::ALL {
            let archive = project.archive(format, "main");
            let Unpacked { entries, bytes, .. } = unpacked(format, &archive).0.unwrap();
            // A zip archive is bounded as a file first.
            let room = if format == ArchiveFormat::Zip { archive.len() as u64 } else { bytes };
            let within = |entries, bytes| unpack_within(format, &archive, UnpackLimits { entries, bytes }).0;
            within(entries, room).unwrap();
            assert!(matches!(within(entries - 1, room), Err(ArtifactError::TooLarge(_))), "{format}");
            assert!(matches!(within(entries, bytes - 1), Err(ArtifactError::TooLarge(_))), "{format}");
        }
    }

    #[test]
    fn a_zip_archive_with_a_table_of_contents_that_would_fill_the_memory_is_refused_before_it_is_read() {
        let empty = zip_of(&[]);
        let limits = UnpackLimits { entries: 10, bytes: 1 << 20 };
        let of_many = |entries: u16, size: u32, offset: u32| {
            let mut archive = empty.clone();
            archive[8..10].copy_from_slice(&entries.to_le_bytes());
            archive[10..12].copy_from_slice(&entries.to_le_bytes());
            archive[12..16].copy_from_slice(&size.to_le_bytes());
            archive[16..20].copy_from_slice(&offset.to_le_bytes());
            archive
        };
        // A table that is there as announced, of headers without a name.
        let header = [&b"PK\x01\x02"[..], &[0; 42]].concat();
        let table = |entries: usize| header.repeat(entries);
        let with_table = |entries: usize| {
            let size = u32::try_from(header.len() * entries).unwrap();
            [table(entries), of_many(u16::try_from(entries).unwrap(), size, 0)].concat()
        };
        let outcome = |archive: &[u8]| unpack_within(ArchiveFormat::Zip, archive, limits).0;
        let too_large = outcome(&with_table(11));
        assert!(matches!(&too_large, Err(ArtifactError::TooLarge(what)) if what == "10 entries"), "{too_large:?}");
        assert!(matches!(outcome(&with_table(10)), Err(ArtifactError::Damaged(_) | ArtifactError::Unsafe { .. })));

        // The same in zip64 records, which can announce any number.
        let zip64 = |entries: u64, size: u64| {
            let fields = [entries, entries, size, 0].map(u64::to_le_bytes).concat();
            let end = [&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &fields].concat();
            let locator = [&b"PK\x06\x07"[..], &[0; 4], &size.to_le_bytes(), &1_u32.to_le_bytes()].concat();
            [end, locator, of_many(u16::MAX, u32::MAX, u32::MAX)].concat()
        };
        let refused = outcome(&[table(11), zip64(40_000_000, header.len() as u64 * 11)].concat());
        assert!(matches!(refused, Err(ArtifactError::TooLarge(_))), "{refused:?}");

        // Records that a reader might pass over, to find others further up.
        let behind = |records: Vec<u8>| outcome(&[with_table(11), records].concat());
        for evasive in [of_many(1, 46, 0), of_many(0, 1, 0), of_many(u16::MAX, 0, 0), zip64(1, 46), b"x".to_vec()] {
            assert!(matches!(behind(evasive), Err(ArtifactError::Damaged(_))));
        }
    }

    #[test]
    fn a_table_of_contents_with_too_many_bytes_of_names_is_refused() {
        let mut end = zip_of(&[]);
        end[8] = 1;
        end[10] = 1;
        let size = u32::try_from(MAX_ZIP_TABLE_BYTES + 1).unwrap();
        end[12..16].copy_from_slice(&size.to_le_bytes());
        let folder = tempfile::tempdir().unwrap();
        let mut file = create_new(&folder.path().join("zip")).unwrap();
        // Only its end is ever read.
        file.set_len(size.into()).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&end).unwrap();
        let mut file = File::open(folder.path().join("zip")).unwrap();
        assert!(matches!(check_table(&mut file, 10), Err(ArtifactError::TooLarge(_))));
    }

    #[test]
    fn a_compressed_bomb_is_not_unpacked() {
        let bomb = tar_gz(&[(EntryType::Regular, b"zeros", &vec![0; 10 << 20])]);
        let (outcome, _) = unpack_within(ArchiveFormat::TarGz, &bomb, UnpackLimits { entries: 10, bytes: 1 << 20 });
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
        unpack(ArchiveFormat::TarGz, &tar_gz(&[HEAD])[..], dir.path(), UnpackLimits::default()).unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(".git"), mode(".git/config")), (0o700, 0o600));
    }
}
