//! Notes about requests that are sent again, for a person who waits.
//!
//! Invariant: it changes nothing about a request, and a note ends with it.

use aws_sdk_s3::config::interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_smithy_types::retry::RetryConfig;

use crate::retries::{Flaw, Retry, Server};

/// Notes each attempt but the first.
#[derive(Debug)]
pub(super) struct Notes;

/// What was wrong with the attempt before.
#[derive(Debug)]
struct Failed(Flaw);

impl Storable for Failed {
    type Storer = StoreReplace<Self>;
}

/// Held until the next attempt, or until the request ends.
#[derive(Debug)]
#[expect(dead_code, reason = "it is held for its end")]
struct Noted(Retry);

impl Storable for Noted {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Notes {
    fn name(&self) -> &'static str {
        "Notes"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let attempt = settings.load::<RequestAttempts>().map_or(1, RequestAttempts::attempts);
        let of = settings.load::<RetryConfig>().map_or(attempt, RetryConfig::max_attempts);
        let failed = settings.load::<Failed>().map(|Failed(flaw)| flaw.of(Server::S3));
        let note = failed.filter(|_| attempt > 1).map(|trouble| {
            let [attempt, of] = [attempt, of].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
            Noted(Retry::begins(trouble, attempt, of))
        });
        settings.interceptor_state().store_or_unset(note);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let flaw = match context.response().map(|response| response.status()) {
            None => Flaw::Silent,
            Some(status) if status.is_success() => Flaw::Broken,
            Some(status) => Flaw::Status(status.as_u16()),
        };
        settings.interceptor_state().store_put(Failed(flaw));
        Ok(())
    }
}
