//! The archive of one branch: a repository ready to use after unpacking, written as zip or tar.gz to any `Write`.
//!
//! Invariant: an archive that is written to its end holds what was announced. Each file has the length and the CRC-32
//! it was given, and each pack an index; whatever goes wrong is an error, and then the output never gets the bytes that
//! would make the archive look complete.
//!
//! Packs are compressed already: both formats store them as they are. All metadata is constant, so that equal contents
//! give equal bytes.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use flate2::write::GzEncoder;

use crate::key::{ArchiveFormat, CommitId};
use crate::pack::CheckedFile;

/// The archived repository's whole configuration: no remote, no URL, no credential; not bare, because consumers check
/// out a branch in it.
pub(crate) const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";

/// 1980-01-01T00:00:00Z, the earliest time both formats can hold, in seconds since 1970.
const MODIFIED_SECONDS: u64 = 315_532_800;

const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// Read-ahead of one file, the only one open at a time.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// What goes into an archive.
pub struct Contents {
    /// The destination's branch: the only one in the archive, and what `HEAD` points to.
    pub branch: String,
    /// The commit the branch is at.
    pub commit: CommitId,
    /// Packs that together hold the commit's whole history.
    pub packs: Vec<Pack>,
}

/// A pack and its index.
pub struct Pack {
    /// `pack-` and 40 hexadecimal digits, without an extension.
    pub name: String,
    /// The pack itself, final before the archive is begun.
    pub data: CheckedFile,
    /// Gives the index, once all packs are written; blocks until the index has verified every object of the pack. An
    /// error fails the archive.
    pub index: Box<dyn FnOnce() -> io::Result<CheckedFile> + Send>,
}

/// Writes the archive to `out` and gives `out` back once the last byte is in it.
///
/// The packs' data go first and the indexes last, so that archiving overlaps indexing.
///
/// # Errors
/// Where the branch is no valid branch name, a file cannot be read or is not what its [`CheckedFile`] says, an index
/// fails, or `out` does.
pub fn write<W: Write>(format: ArchiveFormat, contents: Contents, out: W) -> io::Result<W> {
    match format {
        ArchiveFormat::Zip => fill(ZipArchive::new(out, u32::MAX.into()), contents),
        ArchiveFormat::TarGz => fill(TarGzArchive::new(out), contents),
    }
}

fn fill<A: Archive>(mut archive: A, contents: Contents) -> io::Result<A::Output> {
    match lay_out(contents, &mut archive) {
        Ok(()) => archive.finish(),
        Err(error) => {
            archive.abandon();
            Err(error)
        }
    }
}

/// The layout, the same for both formats.
fn lay_out(contents: Contents, archive: &mut impl Archive) -> io::Result<()> {
    const PACKS: &str = ".git/objects/pack";

    let reference = format!("refs/heads/{}", contents.branch);
    if !git2::Reference::is_valid_name(&reference) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{reference:?} is no valid reference name")));
    }
    let branch_file = format!(".git/{reference}");

    // The consumer's untar creates no parents: every directory comes before what is in it.
    for directory in [".git", ".git/objects", PACKS].into_iter().chain(parents(&branch_file).skip(1)) {
        archive.directory(directory)?;
    }
    archive.file(".git/HEAD", Content::Text(&format!("ref: {reference}\n")))?;
    archive.file(".git/config", Content::Text(CONFIG))?;
    archive.file(&branch_file, Content::Text(&format!("{}\n", contents.commit)))?;

    let mut indexes = Vec::with_capacity(contents.packs.len());
    for Pack { name, data, index } in contents.packs {
        archive.file(&format!("{PACKS}/{name}.pack"), Content::File(&data))?;
        indexes.push((name, index));
    }
    for (name, index) in indexes {
        archive.file(&format!("{PACKS}/{name}.idx"), Content::File(&index()?))?;
    }
    Ok(())
}

/// The directories `file` is in, outermost first.
fn parents(file: &str) -> impl Iterator<Item = &str> {
    file.match_indices('/').map(|(end, _)| &file[..end])
}

/// An archive being written, entry by entry.
trait Archive {
    type Output;

    /// Adds a directory; `path` has no slash at its end.
    fn directory(&mut self, path: &str) -> io::Result<()>;

    /// Adds a regular file.
    fn file(&mut self, path: &str, content: Content<'_>) -> io::Result<()>;

    /// Completes the archive.
    fn finish(self) -> io::Result<Self::Output>;

    /// Ends it incomplete.
    fn abandon(self);
}

/// What a regular file of the archive holds.
enum Content<'a> {
    Text(&'a str),
    File(&'a CheckedFile),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(file) => file.len,
        }
    }

    fn crc32(&self) -> u32 {
        match self {
            Self::Text(text) => crc32fast::hash(text.as_bytes()),
            Self::File(file) => file.crc32,
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Text(text) => Box::new(text.as_bytes()),
            Self::File(file) => Box::new(ExactFile::open(file)?),
        })
    }
}

/// Reads a file that must be exactly what was announced: its length is in the archive before its content, and in a zip
/// its CRC-32 is too. Its end is reached without an error only where both are right.
struct ExactFile<'a> {
    announced: &'a CheckedFile,
    file: BufReader<File>,
    read: u64,
    crc32: crc32fast::Hasher,
}

impl<'a> ExactFile<'a> {
    fn open(announced: &'a CheckedFile) -> io::Result<Self> {
        let opened = File::open(&announced.path).map_err(|error| in_file(&announced.path, error))?;
        let file = BufReader::with_capacity(READ_BUFFER_BYTES, opened);
        Ok(Self { announced, file, read: 0, crc32: crc32fast::Hasher::new() })
    }
}

impl Read for ExactFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let CheckedFile { path, len, crc32 } = self.announced;
        let n = self.file.read(buffer).map_err(|error| in_file(path, error))?;
        self.crc32.update(&buffer[..n]);
        self.read += n as u64;
        let changed = |how| Err(in_file(path, io::Error::new(io::ErrorKind::InvalidData, how)));
        let at_end = n == 0 && !buffer.is_empty();
        match self.read.cmp(len) {
            Ordering::Greater => changed("longer than it was"),
            Ordering::Less if at_end => changed("shorter than it was"),
            Ordering::Equal if at_end && self.crc32.clone().finalize() != *crc32 => changed("not what its CRC-32 says"),
            Ordering::Less | Ordering::Equal => Ok(n),
        }
    }
}

fn in_file(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A gzipped tar archive.
struct TarGzArchive<W: Write>(tar::Builder<GzEncoder<Abandonable<W>>>);

impl<W: Write> TarGzArchive<W> {
    fn new(out: W) -> Self {
        let out = Abandonable { out, abandoned: false };
        // flate2's gzip header holds no time and no name; compression level 0 stores.
        Self(tar::Builder::new(GzEncoder::new(out, flate2::Compression::none())))
    }

    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, len: u64, data: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(len);
        header.set_mtime(MODIFIED_SECONDS);
        header.set_uid(0);
        header.set_gid(0);
        // A path that is too long for the header gets a GNU long name entry.
        self.0.append_data(&mut header, path, data)
    }
}

impl<W: Write> Archive for TarGzArchive<W> {
    type Output = W;

    fn directory(&mut self, path: &str) -> io::Result<()> {
        self.append(&format!("{path}/"), tar::EntryType::Directory, DIRECTORY_MODE, 0, io::empty())
    }

    fn file(&mut self, path: &str, content: Content<'_>) -> io::Result<()> {
        self.append(path, tar::EntryType::Regular, FILE_MODE, content.len(), content.open()?)
    }

    fn finish(self) -> io::Result<W> {
        Ok(self.0.into_inner()?.finish()?.out)
    }

    fn abandon(mut self) {
        self.0.get_mut().get_mut().abandoned = true;
    }
}

/// An output that can be given up: [`tar::Builder`] and [`GzEncoder`] complete what they write when they are dropped,
/// after an error too. Once the output is abandoned, by an error of its own as well, what they write goes nowhere.
struct Abandonable<W> {
    out: W,
    abandoned: bool,
}

impl<W: Write> Write for Abandonable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.abandoned {
            return Ok(bytes.len());
        }
        let written = self.out.write(bytes);
        self.abandoned = written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.abandoned { Ok(()) } else { self.out.flush() }
    }
}

/// A zip archive of stored files, written front to back.
///
/// Size and CRC-32 stand in front of each file. The `zip` crate puts them there by seeking back, or else into a data
/// descriptor behind the file, which streaming readers refuse for stored files. What is left of the format without
/// compression is a few records (numbers in brackets are sections of PKWARE's APPNOTE 6.3.10), and a test holds them to
/// the bytes that the crate writes into a file.
struct ZipArchive<W> {
    out: W,
    /// Bytes written: the offset of what comes next.
    written: u64,
    /// The records that end the archive, one for each entry.
    central_directory: Vec<u8>,
    entries: u64,
    /// Sizes and offsets from here on go into zip64 fields: [`u32::MAX`], and less in tests.
    zip64_from: u64,
}

const ZIP_FILE_VERSION: u16 = 10;
const ZIP_DIRECTORY_VERSION: u16 = 20;
const ZIP64_VERSION: u16 = 45;
const ZIP_MADE_ON_UNIX: u16 = 3 << 8;
const ZIP_NAME_IS_UTF8: u16 = 1 << 11;
const ZIP_1980_01_01: u16 = 1 << 5 | 1;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// What the headers of an entry say.
struct ZipEntry<'a> {
    name: &'a str,
    /// File type and permissions, as in `st_mode`.
    mode: u32,
    len: u64,
    crc32: u32,
}

impl ZipEntry<'_> {
    /// The version of the format that a reader of a header with this zip64 extra field must know.
    fn version_needed(&self, zip64_extra: &[u8]) -> u16 {
        match self.mode & S_IFDIR {
            _ if !zip64_extra.is_empty() => ZIP64_VERSION,
            S_IFDIR => ZIP_DIRECTORY_VERSION,
            _ => ZIP_FILE_VERSION,
        }
    }
}

impl<W: Write> ZipArchive<W> {
    fn new(out: W, zip64_from: u64) -> Self {
        Self { out, written: 0, central_directory: Vec::new(), entries: 0, zip64_from }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes the entry's local header [4.3.7] and notes its central one [4.3.12].
    fn begin(&mut self, entry: &ZipEntry<'_>) -> io::Result<()> {
        let offset = self.written;
        let local_extra = self.zip64_extra(&[entry.len, entry.len]);
        let local = self.shared_fields(Record::new(*b"PK\x03\x04"), entry, &local_extra)?;
        self.write(&local.bytes(entry.name.as_bytes()).bytes(&local_extra).0)?;

        let central_extra = self.zip64_extra(&[entry.len, entry.len, offset]);
        let central = Record::new(*b"PK\x01\x02").u16(ZIP_MADE_ON_UNIX | entry.version_needed(&central_extra));
        let central = self
            .shared_fields(central, entry, &central_extra)?
            .u16(0) // no comment
            .u16(0) // disk
            .u16(0) // internal attributes
            .u32(entry.mode << 16)
            .u32(self.field(offset))
            .bytes(entry.name.as_bytes())
            .bytes(&central_extra);
        self.central_directory.extend(central.0);
        self.entries += 1;
        Ok(())
    }

    /// The fields both headers have, from the version needed to the length of the extra field.
    fn shared_fields(&self, record: Record, entry: &ZipEntry<'_>, extra: &[u8]) -> io::Result<Record> {
        let name_len = u16::try_from(entry.name.len()).map_err(io::Error::other)?;
        let size = self.field(entry.len);
        Ok(record
            .u16(entry.version_needed(extra))
            .u16(if entry.name.is_ascii() { 0 } else { ZIP_NAME_IS_UTF8 })
            .u16(0) // stored
            .u16(0) // 00:00:00
            .u16(ZIP_1980_01_01)
            .u32(entry.crc32)
            .u32(size) // compressed
            .u32(size) // uncompressed
            .u16(name_len)
            .u16(extra.len() as u16))
    }

    /// The extra field with those of a header's values that do not fit it [4.5.3]; empty where all do.
    fn zip64_extra(&self, values: &[u64]) -> Vec<u8> {
        let large = values.iter().filter(|&&value| value >= self.zip64_from);
        let large: Vec<u8> = large.flat_map(|value| value.to_le_bytes()).collect();
        if large.is_empty() {
            return large;
        }
        [&1_u16.to_le_bytes(), &(large.len() as u16).to_le_bytes(), &large[..]].concat()
    }

    /// A size or an offset as a field of 32 bits, all ones where a zip64 field has it.
    fn field(&self, value: u64) -> u32 {
        u32::try_from(value).ok().filter(|_| value < self.zip64_from).unwrap_or(u32::MAX)
    }
}

impl<W: Write> Archive for ZipArchive<W> {
    type Output = W;

    fn directory(&mut self, path: &str) -> io::Result<()> {
        let name = &format!("{path}/");
        self.begin(&ZipEntry { name, mode: S_IFDIR | DIRECTORY_MODE, len: 0, crc32: 0 })
    }

    fn file(&mut self, path: &str, content: Content<'_>) -> io::Result<()> {
        self.begin(&ZipEntry { name: path, mode: S_IFREG | FILE_MODE, len: content.len(), crc32: content.crc32() })?;
        let mut reader = content.open()?;
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.write(&buffer[..n])?,
            }
        }
    }

    fn finish(mut self) -> io::Result<W> {
        let offset = self.written;
        let directory = std::mem::take(&mut self.central_directory);
        self.write(&directory)?;
        let size = directory.len() as u64;
        let zip64_end = self.written;
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        if size >= self.zip64_from || offset >= self.zip64_from || entries == u16::MAX {
            let end = Record::new(*b"PK\x06\x06") // zip64 end of central directory [4.3.14]
                .u64(44) // bytes that follow
                .u16(ZIP_MADE_ON_UNIX | ZIP64_VERSION)
                .u16(ZIP64_VERSION)
                .u32(0) // disk
                .u32(0)
                .u64(self.entries)
                .u64(self.entries)
                .u64(size)
                .u64(offset);
            self.write(&end.0)?;
            let locator = Record::new(*b"PK\x06\x07").u32(0).u64(zip64_end).u32(1); // [4.3.15]
            self.write(&locator.0)?;
        }
        let end = Record::new(*b"PK\x05\x06") // end of central directory [4.3.16]
            .u16(0) // disk
            .u16(0)
            .u16(entries)
            .u16(entries)
            .u32(self.field(size))
            .u32(self.field(offset))
            .u16(0); // no comment
        self.write(&end.0)?;
        Ok(self.out)
    }

    /// Without its central directory it is none.
    fn abandon(self) {}
}

/// A record of the zip format, little-endian.
struct Record(Vec<u8>);

impl Record {
    fn new(signature: [u8; 4]) -> Self {
        Self(signature.into())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }
}

/// Repositories made and packed by the git program, for tests.
#[cfg(test)]
pub(crate) mod fixture {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::fs;
    use std::io::Seek;
    use std::process::Command;

    /// Runs a program in `dir` and gives its standard output; no configuration but the repository's own is read.
    pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
        run_with_input(dir, program, arguments, b"")
    }

    pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
        run(dir, "git", arguments)
    }

    pub(crate) fn git_with_input(dir: &Path, arguments: &[&str], input: &[u8]) -> String {
        run_with_input(dir, "git", arguments, input)
    }

    fn run_with_input(dir: &Path, program: &str, arguments: &[&str], input: &[u8]) -> String {
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(input).unwrap();
        stdin.rewind().unwrap();
        let output = Command::new(program)
            .args(arguments)
            .current_dir(dir)
            .stdin(stdin)
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b"), ("GIT_AUTHOR_DATE", "1700000000 +0000")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
        out.trim_end().to_owned()
    }

    /// A repository of five commits with a merge, in two packs.
    pub(crate) struct Project {
        pub(crate) dir: tempfile::TempDir,
        pub(crate) commit: CommitId,
    }

    impl Project {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path();
            git(at, &["init", "-q", "-b", "source"]);
            git(at, &["config", "gc.auto", "0"]);
            let commit = |name: &str, content: &str| {
                fs::create_dir_all(at.join("dir/sub")).unwrap();
                fs::write(at.join("dir/sub").join(name), content).unwrap();
                fs::write(at.join("README"), format!("{content}\n").repeat(200)).unwrap();
                git(at, &["add", "-A"]);
                git(at, &["commit", "-q", "-m", name]);
            };
            commit("one", "1");
            commit("two", "2");
            git(at, &["repack", "-d", "-q"]);
            git(at, &["checkout", "-q", "-b", "side", "HEAD~1"]);
            commit("three", "3");
            git(at, &["checkout", "-q", "source"]);
            commit("four", "4");
            git(at, &["merge", "-q", "-s", "ours", "-m", "merge", "side"]);
            git(at, &["repack", "-d", "-q"]);
            let commit = git(at, &["rev-parse", "HEAD"]).parse().unwrap();
            Self { dir, commit }
        }

        pub(crate) fn contents(&self, branch: &str) -> Contents {
            let mut packs: Vec<_> = fs::read_dir(self.dir.path().join(".git/objects/pack"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
                .map(|path| pack(&path))
                .collect();
            packs.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(packs.len(), 2);
            Contents { branch: branch.into(), commit: self.commit, packs }
        }

        pub(crate) fn archive(&self, format: ArchiveFormat, branch: &str) -> Vec<u8> {
            write(format, self.contents(branch), Vec::new()).unwrap()
        }
    }

    fn pack(path: &Path) -> Pack {
        let index = path.with_extension("idx");
        Pack {
            name: path.file_stem().unwrap().to_str().unwrap().into(),
            data: sized(path),
            index: Box::new(move || Ok(sized(&index))),
        }
    }

    pub(crate) fn sized(path: &Path) -> CheckedFile {
        CheckedFile {
            path: path.into(),
            len: fs::metadata(path).unwrap().len(),
            crc32: crc32fast::hash(&fs::read(path).unwrap()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::fixture::{Project, git, run, sized};
    use super::*;
    use std::cell::Cell;
    use std::fs;
    use std::rc::Rc;
    use zip::read::read_zipfile_from_stream;

    /// 600 bytes and not ASCII.
    fn long_branch() -> String {
        "équipe/".to_owned() + &vec!["x".repeat(200); 3].join("/")
    }

    /// A pack of `bytes`, which need not be one: archiving does not look into packs.
    fn contents_of(data: &Path, index: impl FnOnce() -> io::Result<CheckedFile> + Send + 'static) -> Contents {
        let pack = Pack { name: format!("pack-{}", "a".repeat(40)), data: sized(data), index: Box::new(index) };
        Contents { branch: "main".into(), commit: CommitId::from_bytes([0xab; 20]), packs: vec![pack] }
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

    /// The judge is the crate's writer on a file, where it can seek back to complete its headers.
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
        fs::write("/tmp/ours.zip", &ours).unwrap();
        fs::write("/tmp/theirs.zip", &theirs).unwrap();
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
    fn a_branch_that_is_no_reference_name_is_refused() {
        let data = file_of(b"pack");
        for branch in ["", "..", "../../evil", "a/../b", "a//b", "/a", "a/", "a.lock", "a\nb", "a\\b", "a b"] {
            let path = data.path().to_owned();
            let contents = Contents { branch: branch.into(), ..contents_of(data.path(), move || Ok(sized(&path))) };
            let error = write(ArchiveFormat::Zip, contents, Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{branch:?}");
        }
    }
}
