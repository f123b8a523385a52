//! The stages of publishing a target, and of delivering an object.

use std::fmt;

use super::program::Program;

/// A stage of publishing a target, or of delivering an object. Those of one program follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The pack is fetched from the source.
    Fetching,
    /// The object is downloaded from the bucket.
    Downloading,
    /// The pack's objects are verified. The first bytes of a fresh pack may be uploaded meanwhile.
    Verifying,
    /// The archive is written, encrypted and uploaded.
    Uploading,
    /// Outdated objects are deleted.
    Deleting,
    /// The pack is sent to the far side. A whole one comes straight from the bucket.
    Pushing,
}

impl Stage {
    /// The stages of both programs, in order.
    pub const ALL: [Self; 6] =
        [Self::Fetching, Self::Downloading, Self::Verifying, Self::Uploading, Self::Deleting, Self::Pushing];

    /// The stages of one program, in order.
    pub const fn of(program: Program) -> &'static [Self] {
        match program {
            Program::Producer => &[Self::Fetching, Self::Verifying, Self::Uploading, Self::Deleting],
            Program::Consumer => &[Self::Downloading, Self::Verifying, Self::Pushing],
        }
    }

    /// Its name, in metrics and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Uploading => "uploading",
            Self::Deleting => "deleting",
            Self::Pushing => "pushing",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
