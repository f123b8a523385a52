//! The format tar.gz: a tar archive in gzip's stored blocks.
//!
//! Invariant: an abandoned archive does not look complete.

use std::io::{self, Read, Write};

use flate2::write::GzEncoder;

use super::{Archive, Content, DIRECTORY_MODE, FILE_MODE, MODIFIED_SECONDS};

pub(super) struct TarGzArchive<W: Write>(tar::Builder<GzEncoder<Abandonable<W>>>);

impl<W: Write> TarGzArchive<W> {
    pub(super) fn new(out: W) -> Self {
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

/// An output that can be abandoned. [`tar::Builder`] and [`GzEncoder`] complete what they write when they are dropped, even
/// after an error. Once the output is abandoned, or has failed, what they write is discarded.
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
