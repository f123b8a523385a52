//! Which failures are worth another try, and plain words for the SDK's errors.
//!
//! Invariant: no error shows a secret, or a text from outside that is not escaped.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::client::{Way, way_in};
use super::proof::{Unproven, unproven};
use crate::net::tls;
use crate::text::{error_chain, remote_text};

/// The error if there are no AWS credentials at all.
pub(super) const NO_CREDENTIALS: &str = "no AWS credentials were found";

/// What to do about that.
pub(super) const GIVE_CREDENTIALS: &str =
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod or the machine a role";

/// What to do about a server that does not know the checksums of uploads.
pub(super) const CHECKSUMS: &str =
    " (if it does not know checksums: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required)";

/// Retries requests that got a 429 or whose answer was not S3's; the SDK gives up on both.
#[derive(Debug)]
pub(super) struct WorthAnotherTry;

impl ClassifyRetry for WorthAnotherTry {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        if context.response().is_some_and(|response| response.status().as_u16() == 429) {
            return RetryAction::throttling_error();
        }
        match context.output_or_error() {
            // Whatever stored other bytes may do so again, and a completed upload cannot be repeated.
            Some(Err(error)) if unproven(error).is_some_and(|why| *why != Unproven::OtherBytes) => {
                RetryAction::transient_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "WorthAnotherTry"
    }
}

/// What went wrong, in plain words.
pub(super) fn why<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        _ if let Some(unproven) = unproven(error) => unproven.to_string(),
        SdkError::ServiceError(refused) => match (error.code(), error.message()) {
            (Some(code), Some(message)) => {
                format!("{}: {}", remote_text(code.as_bytes()), remote_text(message.as_bytes()))
            }
            (Some(code), None) => remote_text(code.as_bytes()),
            (None, _) => not_from_s3(refused.raw().status().as_u16()),
        },
        SdkError::TimeoutError(_) => no_answer(error),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => no_answer(error),
        SdkError::DispatchFailure(failure) => {
            // The SDK's own first words are only that the request could not be dispatched.
            let cause = failure.as_connector_error().and_then(|error| error.source());
            let cause = cause.map_or_else(|| error_chain(error), error_chain);
            match tls::refusal(error) {
                Some(refusal) => format!("{refusal}: {cause}"),
                None => {
                    let tried = tried(error);
                    format!("the connection failed: {cause} ({tried}check AWS_ENDPOINT_URL_S3 and the network)")
                }
            }
        }
        SdkError::ResponseError(_) => format!("the connection broke off: {}", error_chain(error)),
        _ => error_chain(error),
    }
}

fn no_answer(error: &(dyn Error + 'static)) -> String {
    match way_in(error) {
        Some(Way { server, proxy: Some(proxy) }) => {
            format!("no answer in time, through the proxy {proxy}, from {server}")
        }
        Some(Way { server, proxy: None }) => format!("no answer in time from {server}"),
        None => "no answer in time".to_owned(),
    }
}

/// The server that an attempt went to, and a comma.
fn tried(error: &(dyn Error + 'static)) -> String {
    way_in(error).map(|way| format!("tried {}: ", way.server)).unwrap_or_default()
}

/// What is wrong with the credentials, if that is why no request was sent.
pub(super) fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    error.downcast_ref().or_else(|| error.source().and_then(credentials_error))
}

/// The SDK names a feature of its own source code, and a status without its server.
pub(super) fn why_no_credentials(error: &CredentialsError) -> String {
    let chain = error_chain(error);
    if let Some((_, status)) = chain.split_once("Non-success status from HTTP credential provider: StatusCode(") {
        let status: String = status.chars().take_while(char::is_ascii_digit).collect();
        return format!(
            "the server for a container's credentials answered {status}: check the role of the pod or the task, and \
             AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
        );
    }
    if chain.contains("the auth token could not be used as an HTTP header value") {
        return "the token in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE holds a line end or another character that no header can \
                hold: write the file again, without a line end"
            .to_owned();
    }
    match chain.split_once("cargo feature(s) enabled: ") {
        Some((_, feature)) if feature.starts_with("credentials-process") => {
            "the AWS profile names a credential_process, and this program starts no other program: give the profile access \
             keys or a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                .to_owned()
        }
        Some(_) => "the AWS profile names a login with a browser (SSO), which no service can do: give the profile access keys \
                    or a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            .to_owned(),
        None => format!("{chain} ({GIVE_CREDENTIALS})"),
    }
}

fn not_from_s3(status: u16) -> String {
    if status == 501 {
        "the server answered 501: it does not know this request or one of its headers".to_owned()
    } else if status == 429 || status >= 500 {
        format!("the server answered {status}: it is overloaded or broken; the next pass tries again")
    } else {
        format!("the answer, of HTTP status {status}, is not S3's: check AWS_ENDPOINT_URL_S3")
    }
}
