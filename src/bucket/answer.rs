//! Checks of S3's answers that the AWS SDK does not make, and plain words for its errors.
//!
//! Invariant: a listing that was cut off is an error, even if HTTP did not notice the cut.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{AfterDeserializationInterceptorContextRef, InterceptorContext};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};

use crate::net::tls;
use crate::text::{error_chain, remote_text};

/// The error if there are no AWS credentials at all.
pub(super) const NO_CREDENTIALS: &str = "no AWS credentials were found";

/// Refuses an XML document that is cut off. The SDK would accept it, and the objects behind the cut would count as absent.
#[derive(Debug)]
pub(super) struct WholeDocument;

impl Intercept for WholeDocument {
    fn name(&self) -> &'static str {
        "WholeDocument"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        match response.body().bytes() {
            Some(document) if response.status().is_success() && !is_whole(document) => Err(CutOff.into()),
            _ => Ok(()),
        }
    }
}

/// Whether the document ends with the end tag of the element it begins with.
fn is_whole(document: &[u8]) -> bool {
    let text = String::from_utf8_lossy(document);
    let root = text.trim_start_matches('\u{feff}').trim_start();
    let root = match root.strip_prefix("<?").and_then(|declaration| declaration.split_once("?>")) {
        Some((_, rest)) => rest.trim_start(),
        None => root,
    };
    let Some((tag, _)) = root.strip_prefix('<').and_then(|tag| tag.split_once('>')) else { return false };
    if tag.ends_with('/') {
        return true;
    }
    let name = tag.split_whitespace().next().unwrap_or_default();
    let end = text.trim_end().strip_suffix('>').map(str::trim_end);
    end.and_then(|end| end.strip_suffix(name)).is_some_and(|end| end.ends_with("</"))
}

#[derive(Debug, thiserror::Error)]
#[error("the answer ended before it was complete")]
struct CutOff;

/// Retries requests that got a 429 or whose answer was cut off; the SDK gives up on both.
#[derive(Debug)]
pub(super) struct WorthAnotherTry;

impl ClassifyRetry for WorthAnotherTry {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        if context.response().is_some_and(|response| response.status().as_u16() == 429) {
            return RetryAction::throttling_error();
        }
        match context.output_or_error() {
            Some(Err(error)) if is_cut_off(error) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "WorthAnotherTry"
    }
}

fn is_cut_off(error: &(dyn Error + 'static)) -> bool {
    error.is::<CutOff>() || error.source().is_some_and(is_cut_off)
}

/// What went wrong, in plain words.
pub(super) fn why<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => match (error.code(), error.message()) {
            (Some(code), Some(message)) => {
                format!("{}: {}", remote_text(code.as_bytes()), remote_text(message.as_bytes()))
            }
            (Some(code), None) => remote_text(code.as_bytes()),
            (None, _) => not_from_s3(refused.raw().status().as_u16()),
        },
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(_) if let Some(lacking) = credentials_error(error) => {
            format!("could not load the AWS credentials: {}", error_chain(lacking))
        }
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "no answer in time".to_owned(),
        SdkError::DispatchFailure(failure) => {
            // The SDK's own first words are only that the request could not be dispatched.
            let cause = failure.as_connector_error().and_then(|error| error.source());
            let cause = cause.map_or_else(|| error_chain(error), error_chain);
            match tls::refusal(error) {
                Some(refusal) => format!("{refusal}: {cause}"),
                None => format!("the connection failed: {cause} (check AWS_ENDPOINT_URL_S3 and the network)"),
            }
        }
        _ if is_cut_off(error) => CutOff.to_string(),
        SdkError::ResponseError(_) => format!("the connection broke off: {}", error_chain(error)),
        _ => error_chain(error),
    }
}

/// What is wrong with the credentials, if that is why no request was sent.
pub(super) fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    error.downcast_ref().or_else(|| error.source().and_then(credentials_error))
}

fn not_from_s3(status: u16) -> String {
    if status == 429 || status >= 500 {
        format!("the server answered {status}: it is overloaded or broken; the next pass tries again")
    } else {
        format!("the answer, of HTTP status {status}, is not S3's: check AWS_ENDPOINT_URL_S3")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_whole_with_the_end_tag_of_its_root() {
        for whole in [
            "<a></a>",
            "<?xml version=\"1.0\"?>\n<a x=\"1\"><b/></a>\n",
            "\u{feff}<?xml version=\"1.0\"?><s3:a xmlns:s3=\"x\"><b></b></s3:a >",
            "<a/>",
            "<a x=\"1\" />",
        ] {
            assert!(is_whole(whole.as_bytes()), "{whole}");
        }
        for cut in
            ["", "<", "<a", "<a>", "<a><b></b>", "<a><a", "<a></a", "<a></ba>", "<?xml version=\"1.0\"?>", "nothing"]
        {
            assert!(!is_whole(cut.as_bytes()), "{cut}");
        }
    }

    #[test]
    fn no_cut_of_a_document_is_whole() {
        let document = "<?xml version=\"1.0\"?>\n<List><Name>n</Name><Contents><Key>k</Key></Contents></List>";
        for length in 0..document.len() {
            assert!(!is_whole(&document.as_bytes()[..length]), "{length}");
        }
        assert!(is_whole(document.as_bytes()));
    }
}
