//! Proof that an answer with a status of success is S3's, and that S3 did what was asked.
//!
//! A page of a proxy has that status, too. The SDK takes it for success, and then the object that was to be replaced is
//! deleted. Invariant: what is not proven counts as failed.

use std::error::Error;

use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::upload_part::UploadPartOutput;
use aws_smithy_runtime_api::client::interceptors::context::Output;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::STREAMED;
use super::xml::{self, Flaw};

/// Statuses with which S3, or a server like it, says that something is done. 202 would say that it is not done yet, 203 that
/// somebody changed the answer, and [`PART`] that a part is missing, unless only a part was requested.
const DONE: [u16; 3] = [200, 201, 204];
/// The answer to a request for a part.
const PART: u16 = 206;

/// Why an answer counts as a failure although its status says success.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    #[error("the answer ended before it was complete")]
    CutOff,
    #[error("the answer is not well-formed XML: check AWS_ENDPOINT_URL_S3 and what is in front of it")]
    Malformed,
    #[error(
        "the answer, of HTTP status {status}, is not S3's, as {why}, and counts as a failure: check AWS_ENDPOINT_URL_S3 \
         and what is in front of it"
    )]
    NotFromS3 { status: u16, why: &'static str },
    /// It was not stored as it was sent.
    #[error("the checksum of what S3 stored is not that of what was sent")]
    OtherBytes,
}

/// Why the answer is not proven, if that is the error.
pub(super) fn unproven<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Unproven> {
    error.downcast_ref().or_else(|| error.source().and_then(unproven))
}

/// Only a part of an object was requested.
#[derive(Debug)]
struct WantsPart;

impl Storable for WantsPart {
    type Storer = StoreReplace<Self>;
}

/// Asks each answer for its proof.
#[derive(Debug)]
pub(super) struct Proof;

impl Intercept for Proof {
    fn name(&self) -> &'static str {
        "Proof"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.request().headers().contains_key("range") {
            settings.interceptor_state().store_put(WantsPart);
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let status = response.status();
        if !status.is_success() {
            return Ok(());
        }
        let refuse = |why| Err(Unproven::NotFromS3 { status: status.as_u16(), why }.into());
        let is_wanted_part = status.as_u16() == PART && settings.load::<WantsPart>().is_some();
        if !DONE.contains(&status.as_u16()) && !is_wanted_part {
            return refuse("S3 does not say success with that status");
        }
        let body = match (response.body().bytes(), context.output_or_error()) {
            (Some(body), _) => body,
            (None, Ok(_)) => &[],
            // The answer broke off: that is what to say.
            (None, Err(_)) => return Ok(()),
        };
        if is_page(body) && !is_content(settings) {
            return refuse("it is a web page");
        }
        // `None` if the SDK could not read the answer: its error stands.
        let output = context.output_or_error().ok();
        match operation(settings) {
            "ListObjectsV2" | "ListMultipartUploads" => match xml::root(body) {
                Ok(_) => Ok(()),
                Err(Flaw::CutOff) => Err(Unproven::CutOff.into()),
                Err(Flaw::Malformed) => Err(Unproven::Malformed.into()),
            },
            "DeleteObject" | "AbortMultipartUpload" | "PutObject" | "UploadPart"
                if output.is_some() && !is_empty_or_xml(body) =>
            {
                refuse("it has a body of another kind")
            }
            _ if output.is_some_and(lacks_e_tag) => refuse("it has no ETag"),
            _ => Ok(()),
        }
    }
}

/// Whether something was stored, and the answer does not say as what.
fn lacks_e_tag(output: &Output) -> bool {
    let e_tag = if let Some(put) = output.downcast_ref::<PutObjectOutput>() {
        put.e_tag()
    } else if let Some(part) = output.downcast_ref::<UploadPartOutput>() {
        part.e_tag()
    } else if let Some(whole) = output.downcast_ref::<CompleteMultipartUploadOutput>() {
        whole.e_tag()
    } else {
        return false;
    };
    e_tag.is_none_or(|e_tag| e_tag.trim().trim_matches('"').is_empty())
}

/// The operation's name in S3's API.
fn operation(settings: &ConfigBag) -> &str {
    settings.load::<Metadata>().map_or("", Metadata::name)
}

/// Whether the answer is an object's content, which may be a web page.
fn is_content(settings: &ConfigBag) -> bool {
    operation(settings) == STREAMED
}

/// S3 answers a removal, and what stores an object or a part, without a body. Some servers send an XML document.
fn is_empty_or_xml(body: &[u8]) -> bool {
    body.trim_ascii().is_empty() || (!is_page(body) && xml::root(body).is_ok())
}

/// Whether it is HTML.
fn is_page(body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(1024)]).to_ascii_lowercase();
    let start = start.trim_start_matches('\u{feff}').trim_start();
    let start = start.split_once("?>").filter(|_| start.starts_with("<?")).map_or(start, |(_, root)| root.trim_start());
    ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| start.starts_with(tag))
}

/// The CRC-32 of what a request sends: if S3 says what it stored, the two must be equal.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The checksum of the whole.
    whole: u32,
    /// The checksum of the checksums of its parts, which S3 may give for an upload in parts.
    of_parts: Option<u32>,
}

impl Sent {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { whole: crc32fast::hash(bytes), of_parts: None }
    }

    /// The whole of these parts, in their order, each with its length in bytes.
    pub(super) fn joined<'a>(parts: impl Iterator<Item = (&'a Self, u64)>) -> Self {
        let (mut whole, mut of_parts) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
        for (part, bytes) in parts {
            whole.combine(&crc32fast::Hasher::new_with_initial_len(part.whole, bytes));
            of_parts.update(&part.whole.to_be_bytes());
        }
        Self { whole: whole.finalize(), of_parts: Some(of_parts.finalize()) }
    }

    /// Whether S3's checksum is this one. The one of the parts is followed by a hyphen and their number.
    fn is(&self, stored: &str) -> bool {
        let stored = stored.split_once('-').map_or(stored, |(stored, _)| stored);
        let equals = |checksum: u32| STANDARD.encode(checksum.to_be_bytes()) == stored;
        equals(self.whole) || self.of_parts.is_some_and(equals)
    }
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(output) = context.output_or_error() else { return Ok(()) };
        let stored = if let Some(output) = output.downcast_ref::<PutObjectOutput>() {
            output.checksum_crc32()
        } else if let Some(output) = output.downcast_ref::<UploadPartOutput>() {
            output.checksum_crc32()
        } else if let Some(output) = output.downcast_ref::<CompleteMultipartUploadOutput>() {
            output.checksum_crc32()
        } else {
            None
        };
        if stored.is_some_and(|stored| !self.is(stored)) { Err(Unproven::OtherBytes.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_parts_is_that_of_the_whole_or_of_their_checksums() {
        let parts = [b"first ".as_slice(), b"", b"second"];
        let sent: Vec<_> = parts.iter().map(|part| (Sent::new(part), part.len() as u64)).collect();
        let whole = Sent::joined(sent.iter().map(|(sent, bytes)| (sent, *bytes)));
        assert!(whole.is(&STANDARD.encode(crc32fast::hash(b"first second").to_be_bytes())));
        let checksums: Vec<u8> = parts.iter().flat_map(|part| crc32fast::hash(part).to_be_bytes()).collect();
        assert!(whole.is(&format!("{}-3", STANDARD.encode(crc32fast::hash(&checksums).to_be_bytes()))));
        for other in ["", "AAAAAA==", "AAAAAA==-3", "no checksum"] {
            assert!(!whole.is(other), "{other}");
        }
        assert!(!Sent::new(b"first").is(&STANDARD.encode(crc32fast::hash(b"second").to_be_bytes())));
    }

    #[test]
    fn what_needs_no_body_is_answered_by_none_or_by_xml() {
        for good in ["", "\n", "<?xml version=\"1.0\"?><DeleteResult/>"] {
            assert!(is_empty_or_xml(good.as_bytes()), "{good}");
        }
        for other in [
            "<html><body>Down</body></html>",
            "<!DOCTYPE html>\n<HTML></HTML>",
            "<?xml version=\"1.0\"?><html></html>",
            "{\"error\":1}",
            "<DeleteResult>",
        ] {
            assert!(!is_empty_or_xml(other.as_bytes()), "{other}");
        }
    }
}
