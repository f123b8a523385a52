//! Why a request to S3 failed, with a hint at what to check.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::answer::{CHECKSUMS, GIVE_CREDENTIALS, NO_CREDENTIALS, credentials_error, why, why_no_credentials};
use super::list::MAX_OBJECTS;
use super::proof::{Unproven, unproven};
use crate::model::program::Program;
use crate::text::remote_text;

/// Why a request to S3 failed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("S3 cannot {action}: {why}{}", hint(code.as_deref(), *status, *uploads))]
    Request {
        action: Cow<'static, str>,
        code: Option<String>,
        status: Option<u16>,
        why: String,
        /// Whether the request belongs to an upload. Only these have checksums.
        uploads: bool,
    },
    /// There is nothing to sign a request with.
    #[error("S3 cannot {action}: {NO_CREDENTIALS}: {GIVE_CREDENTIALS}")]
    NoCredentials { action: Cow<'static, str> },
    /// The same, although something names a source of credentials.
    #[error("S3 cannot {action}: could not load the AWS credentials: {why}")]
    UnusableCredentials { action: Cow<'static, str>, why: String },
    /// The answer lacks a field that every S3 server sends.
    #[error("S3 answered the request to {action} without {missing}")]
    Incomplete { action: &'static str, missing: &'static str },
    /// The bucket is used for much else.
    #[error("the bucket holds more than {MAX_OBJECTS} objects: give this program a bucket of its own")]
    TooManyObjects,
    #[error("S3 answered the request to {action} with {what} of more than {limit_bytes} bytes")]
    TooLong { action: &'static str, what: &'static str, limit_bytes: usize },
    /// What is stored is damaged.
    #[error("S3 cannot {action}: {}: nothing is deleted for it", Unproven::OtherBytes)]
    OtherBytes { action: Cow<'static, str> },
    #[error("S3 took longer than {} s to {action}", limit.as_secs())]
    TooSlow { action: &'static str, limit: Duration },
    /// The archive's writer gave up; its own error says why.
    #[error("the archive was not completed")]
    WriterGone,
    #[error("stopped")]
    Stopped,
    #[error("cannot record the upload under WORKDIR")]
    Record(#[source] io::Error),
}

/// What listing needs.
const LIST_RIGHT: &str = "s3:ListBucket";

impl BucketError {
    /// What to do if the bucket cannot be listed.
    pub fn listing_advice(&self, program: Program) -> String {
        self.advice(LIST_RIGHT, program)
    }

    /// What to do about it. `right` is what the request needs.
    pub fn advice(&self, right: &str, program: Program) -> String {
        let policy = match program {
            Program::Producer => "docs/contract.md",
            Program::Consumer => "docs/consumer.md",
        };
        match self {
            // Without this right, S3 does not say whether there is such a bucket.
            _ if self.is_access_denied() && right == LIST_RIGHT => {
                format!("Is AWS_S3_BUCKET right? Then allow {right} to these credentials: {policy} has the whole policy.")
            }
            _ if self.is_access_denied() => {
                format!("Allow {right} to these credentials: {policy} has the whole policy.")
            }
            Self::Request { code: Some(code), status, uploads, .. } => {
                let known = about(code, *uploads).1.or_else(|| about_status(*status, *uploads).map(|(_, advice)| advice));
                known.unwrap_or("The S3 server reported this: check its configuration and its log.").to_owned()
            }
            Self::Request { code: None, status, uploads, .. }
                if let Some((_, advice)) = about_status(*status, *uploads) =>
            {
                advice.to_owned()
            }
            Self::NoCredentials { .. } | Self::UnusableCredentials { .. } => {
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod or the machine a role.".to_owned()
            }
            _ => "Check AWS_ENDPOINT_URL_S3 and AWS_REGION; then the AWS credentials, name resolution, network policies, \
                  HTTPS_PROXY and NO_PROXY."
                .to_owned(),
        }
    }

    /// Whether S3 answered that there is no such object.
    pub fn is_no_such_object(&self) -> bool {
        matches!(self, Self::Request { code: Some(code), .. } if code == "NoSuchKey")
    }

    /// Whether S3 answered that the credentials have no right to this.
    pub fn is_access_denied(&self) -> bool {
        matches!(self, Self::Request { code: Some(code), .. } if code == "AccessDenied" || code == "AllAccessDisabled")
    }
}

/// What an S3 error code means here: the hint that follows the error, and the advice that `check` gives.
fn about(code: &str, uploads: bool) -> (&'static str, Option<&'static str>) {
    match code {
        // Only the caller knows which right is missing.
        "AccessDenied" | "AllAccessDisabled" => {
            (" (the credentials have no right to this: check the bucket's policy)", None)
        }
        "NoSuchBucket" => (
            " (check AWS_S3_BUCKET and AWS_REGION)",
            Some("Check AWS_S3_BUCKET and AWS_REGION: there is no such bucket."),
        ),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
            (" (check AWS_REGION: it must be the bucket's)", Some("Set AWS_REGION to the bucket's own region."))
        }
        "IllegalLocationConstraintException" => ("", Some("Set AWS_REGION to the bucket's own region.")),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => (
            " (check the AWS credentials)",
            Some("Check the AWS credentials: the server does not know them, or they are wrong or have expired."),
        ),
        "RequestTimeTooSkewed" => (" (this machine's clock is wrong)", Some("Set this machine's clock.")),
        "NoSuchUpload" => (" (the upload is gone or already complete; the next pass checks)", None),
        "SlowDown" | "ServiceUnavailable" => (
            " (S3 is overloaded; the next pass tries again)",
            Some("S3 is overloaded: try again later. A daemon's next pass does so."),
        ),
        // A completed upload can end with it under status 200.
        "InternalError" => (OVERLOADED.0, Some(OVERLOADED.1)),
        "NotImplemented" | "XAmzContentSHA256Mismatch" if uploads => (CHECKSUMS, Some(NO_CHECKSUMS)),
        _ => ("", None),
    }
}

/// What to do about a server that does not know the checksums of uploads.
const NO_CHECKSUMS: &str = "If the server does not know checksums, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required.";

/// The hint and the advice for a server that cannot answer now.
const OVERLOADED: (&str, &str) = (
    " (S3 is overloaded or broken; the next pass tries again)",
    "S3, or a proxy before it, is overloaded or broken: try again later. A daemon's next pass does so. If it stays, read the \
     server's log.",
);

/// The same as [`about`], of an answer's status: what counts if it has no code, or one that says nothing here.
fn about_status(status: Option<u16>, uploads: bool) -> Option<(&'static str, &'static str)> {
    match status? {
        501 => uploads.then_some((CHECKSUMS, NO_CHECKSUMS)),
        429 | 500..=599 => Some(OVERLOADED),
        _ => None,
    }
}

/// An answer without a code has it in its text.
fn hint(code: Option<&str>, status: Option<u16>, uploads: bool) -> &'static str {
    match code.map(|code| about(code, uploads)) {
        None => "",
        Some(("", None)) => about_status(status, uploads).map_or("", |(hint, _)| hint),
        Some((hint, _)) => hint,
    }
}

/// What to do about an upload's error whose code says little: old servers refuse checksums as a bad request of some kind.
fn hint_of_message(code: Option<&str>, status: Option<u16>, message: &str) -> &'static str {
    let message = message.to_ascii_lowercase();
    let is_known = !hint(code, status, true).is_empty();
    let words = ["checksum", "trailer", "trailing", "aws-chunked", "streaming-unsigned"];
    let is_about_it = words.iter().any(|word| message.contains(word)) || code.is_none() && status == Some(501);
    if !is_known && is_about_it { CHECKSUMS } else { "" }
}

/// The error of a request that is part of no upload.
pub(super) fn failed<E>(action: impl Into<Cow<'static, str>>) -> impl FnOnce(SdkError<E, HttpResponse>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    move |error| request_failed(action.into(), error, false)
}

/// The error of a request that is part of an upload.
pub(super) fn upload_failed<E>(action: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    move |error| request_failed(action.into(), error, true)
}

fn request_failed<E>(action: Cow<'static, str>, error: SdkError<E, HttpResponse>, uploads: bool) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match credentials_error(&error) {
        Some(CredentialsError::CredentialsNotLoaded(_)) => return BucketError::NoCredentials { action },
        Some(lacking) => return BucketError::UnusableCredentials { action, why: why_no_credentials(lacking) },
        None => {}
    }
    if unproven(&error) == Some(&Unproven::OtherBytes) {
        return BucketError::OtherBytes { action };
    }
    let code = error.code().map(|code| remote_text(code.as_bytes()));
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let mut why = why(&error);
    if uploads {
        why += hint_of_message(code.as_deref(), status, error.message().unwrap_or_default());
    }
    BucketError::Request { action, code, status, why, uploads }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Option<&str>, status: u16, uploads: bool) -> BucketError {
        let (code, why) = (code.map(str::to_owned), "why".to_owned());
        BucketError::Request { action: "do it".into(), code, status: Some(status), why, uploads }
    }

    #[test]
    fn a_server_that_is_overloaded_is_told_by_its_status_too() {
        let of = |code: Option<&str>, status| {
            let error = error(code, status, false);
            (error.to_string(), error.listing_advice(Program::Producer))
        };
        for (code, status) in [(None, 429), (None, 500), (None, 503), (Some("InternalError"), 200), (Some("Odd"), 503)]
        {
            let (error, advice) = of(code, status);
            assert!(advice.contains("overloaded or broken: try again later"), "{code:?} {status}: {advice}");
            assert_eq!(error.contains("the next pass tries again"), code.is_some(), "{error}");
        }
        assert!(of(Some("SlowDown"), 503).1.starts_with("S3 is overloaded: try again later"));
        assert!(of(Some("Odd"), 400).1.starts_with("The S3 server reported this"));
        assert!(of(None, 400).1.starts_with("Check AWS_ENDPOINT_URL_S3"));
        // A known code says more than the status.
        assert!(of(Some("NoSuchBucket"), 500).1.starts_with("Check AWS_S3_BUCKET"));
    }

    #[test]
    fn only_an_upload_that_a_server_does_not_know_is_put_down_to_checksums() {
        for code in [None, Some("NotImplemented"), Some("Odd")] {
            for uploads in [true, false] {
                let error = error(code, 501, uploads);
                let advice = error.advice("s3:PutObject", Program::Producer);
                assert_eq!(advice.contains("AWS_REQUEST_CHECKSUM_CALCULATION"), uploads, "{code:?}: {advice}");
                let text = error.to_string();
                assert_eq!(text.contains("AWS_REQUEST_CHECKSUM_CALCULATION"), uploads && code.is_some(), "{text}");
            }
        }
    }
}
