//! The fixture's repository as an archive, for tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use super::*;
use crate::git::fixture::Project;

impl Project {
    pub(crate) fn contents(&self, branch: &str) -> Contents {
        let mut packs: Vec<_> = fs::read_dir(self.dir.path().join(".git/objects/pack"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
            .map(|path| pack(&path))
            .collect();
        packs.sort_by(|a, b| a.name.cmp(&b.name));
        Contents { branch: branch.into(), commit: self.commit, manifest: None, packs }
    }

    pub(crate) fn archive(&self, format: ArchiveFormat, branch: &str) -> Vec<u8> {
        write(format, self.contents(branch), Vec::new()).unwrap()
    }

    /// With a manifest.
    pub(crate) fn signed_archive(&self, format: ArchiveFormat, branch: &str, manifest: SignedManifest) -> Vec<u8> {
        write(format, Contents { manifest: Some(manifest), ..self.contents(branch) }, Vec::new()).unwrap()
    }

    /// With zip64 fields where none is needed.
    pub(crate) fn zip64_archive(&self, branch: &str) -> Vec<u8> {
        fill(ZipArchive::new(Vec::new(), 0), self.contents(branch)).unwrap()
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
