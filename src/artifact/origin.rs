//! Who made an object, by its beginning.
//!
//! Invariant: nothing behind the manifest is read but the name of the next entry, so the rest of the object may be missing.

use std::io::Read;

use super::encrypt::Identities;
use super::error::ArtifactError;
use super::increment::Front;
use super::open::decrypted;
use super::signature::{SignedManifest, Trust};
use super::walk::{Limits, unzip, walk};
use crate::model::key::{CommitId, Content};
use crate::model::manifest::Origin;

/// How much of an object is read to know, in bytes: the longest header, age's first chunks, and what a Git client may have put
/// before the packs.
pub(crate) const START_BYTES: u64 = 256 << 10;

/// Who made the object of so many bytes that `reader` begins to bring. What its name says is expected of its manifest.
///
/// Whether the rest of the object is good is not known after that.
pub(crate) fn origin(
    reader: impl Read,
    object_bytes: u64,
    content: Content,
    commit: CommitId,
    trust: Trust<'_>,
    identities: &Identities,
) -> Result<Origin, ArtifactError> {
    let read = decrypted::<Origin, _, Stop>(reader, identities, None, |archive, _| match content {
        Content::Whole(format) => {
            let judged = |found: Option<&SignedManifest>| trust.judge(found, commit).map_err(ArtifactError::from);
            let walked = walk::<Stop>(format, archive, None, Limits::default(), |file| {
                Err(Stop::At(judged(file.manifest)?.origin))
            })?;
            Ok(judged(walked.manifest.as_ref())?.origin)
        }
        Content::Increment { base } => {
            let mut front = Front::default();
            unzip::<Stop>(archive, None, |entry| match front.take(entry)? {
                None => Ok(()),
                Some((found, _)) => {
                    let (origin, _) = trust.judge_increment(found, commit, base).map_err(ArtifactError::from)?;
                    Err(Stop::At(origin))
                }
            })?;
            Err(ArtifactError::Bundle("is missing").into())
        }
    });
    match read {
        Ok(origin) | Err(Stop::At(origin)) => Ok(origin),
        Err(Stop::Failed(ArtifactError::Damaged(_))) if object_bytes > START_BYTES => {
            Err(ArtifactError::NoManifest { bytes: START_BYTES })
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why reading ends.
enum Stop {
    /// All that matters was read.
    At(Origin),
    Failed(ArtifactError),
}

impl From<ArtifactError> for Stop {
    fn from(error: ArtifactError) -> Self {
        Self::Failed(error)
    }
}
