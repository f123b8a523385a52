//! The bucket: listing, uploading, deleting.

use tokio_util::sync::CancellationToken;

use super::finding::Check;
use crate::bucket::{Bucket, BucketError, Foreign, Listing};
use crate::config;
use crate::model::key::ArchiveFormat;
use crate::model::program::Program;
use crate::plan::Crossing;
use crate::reconcile::WITH_TAR_GZ;
use crate::text::{error_chain, objects};

/// The bucket's listing, and whether S3 answers at all.
pub(super) async fn listing(bucket: &Bucket, settings: &config::Run) -> (Check, bool) {
    const NAME: &str = "bucket: list";
    let name = &settings.common.s3.bucket;
    match bucket.list().await {
        Ok(Listing { held, .. }) if let Err(error) = settings.archive_format.resolve(&held) => {
            let check = Check::failed(NAME, format!("{name}: {error}"));
            (check.advice("Set ARCHIVE_FORMAT to the format that the consumer reads."), true)
        }
        Ok(Listing { held, .. })
            if settings.crossing == Crossing::Incremental
                && settings.archive_format.resolve(&held) == Ok(ArchiveFormat::TarGz) =>
        {
            let check = Check::warning(NAME, format!("{name} has {}", objects(held.len())));
            (check.advice(format!("{WITH_TAR_GZ}.")), true)
        }
        Ok(Listing { held, foreign }) => {
            let finding = format!("{name} has {}{}", objects(held.len()), and_foreign(&foreign));
            (Check::passed(NAME, finding), true)
        }
        Err(error) => {
            let check = Check::failed(NAME, error_chain(&error)).advice(error.listing_advice(Program::Producer));
            (check, error.is_access_denied())
        }
    }
}

/// How many foreign objects there are as well, if any.
pub(super) fn and_foreign(foreign: &Foreign) -> String {
    match foreign.count {
        0 => String::new(),
        count => format!(", and {} with foreign names, which are left alone", objects(count)),
    }
}

const UPLOAD: &str = "bucket: upload";
const DELETE: &str = "bucket: delete";
const UNFINISHED: &str = "bucket: uploads";

/// What a pass does to the bucket, if that does not answer.
pub(super) fn not_tried() -> [Check; 3] {
    [UPLOAD, DELETE, UNFINISHED].map(|name| Check::skipped(name, "before the bucket answers"))
}

/// An upload that leaves nothing behind.
pub(super) async fn uploading(bucket: &Bucket, stop: &CancellationToken) -> Check {
    match bucket.try_upload(stop).await {
        Ok(()) => Check::passed(UPLOAD, "an upload was started and aborted; it left nothing in the bucket"),
        Err(error) => failed(UPLOAD, &error, "s3:PutObject and s3:AbortMultipartUpload", Program::Producer),
    }
}

/// The removal of an object that is not there.
pub(super) async fn deleting(bucket: &Bucket, stop: &CancellationToken) -> Check {
    match stop.run_until_cancelled(bucket.try_delete()).await.unwrap_or(Err(BucketError::Stopped)) {
        Ok(()) => Check::passed(DELETE, "allowed; nothing was deleted"),
        Err(error) => failed(DELETE, &error, "s3:DeleteObject", Program::Producer),
    }
}

/// Finding uploads that were left unfinished.
pub(super) async fn unfinished(bucket: &Bucket, stop: &CancellationToken) -> Check {
    match stop.run_until_cancelled(bucket.try_list_uploads()).await.unwrap_or(Err(BucketError::Stopped)) {
        Ok(()) => Check::passed(UNFINISHED, "uploads that a killed process leaves behind can be found"),
        Err(error) => {
            let right = "s3:ListBucketMultipartUploads";
            Check::warning(UNFINISHED, error_chain(&error)).advice(error.advice(right, Program::Producer))
        }
    }
}

pub(super) fn failed(name: &'static str, error: &BucketError, right: &str, program: Program) -> Check {
    Check::failed(name, error_chain(error)).advice(error.advice(right, program))
}
