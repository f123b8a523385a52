//! The stages of publishing a target.

use std::fmt;

/// A stage of publishing a target. Stages follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The pack is fetched from the source.
    Fetching,
    /// The pack's objects are verified. The first bytes of a fresh pack may be uploaded meanwhile.
    Verifying,
    /// The archive is written, encrypted and uploaded.
    Uploading,
    /// Outdated objects are deleted.
    Deleting,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 4] = [Self::Fetching, Self::Verifying, Self::Uploading, Self::Deleting];

    /// Its name, in metrics and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Uploading => "uploading",
            Self::Deleting => "deleting",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
