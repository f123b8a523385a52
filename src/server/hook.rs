//! Webhooks: requests that make a pass begin sooner than its time.
//!
//! Invariant: the secret is compared before the body is read. A request decides nothing but when a pass begins: what is done
//! then comes from the servers as always.

mod bucket;
mod gitlab;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::{Shared, Site};
use crate::model::shard::Shard;
use crate::passes::Triggers;
use crate::secret::Secret;
use crate::status::metrics::WebhookResult;
use crate::text::error_chain;

/// A webhook: the secret that its sender knows, and what its requests start.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub secret: Secret,
    pub triggers: Arc<Triggers>,
    pub sender: Sender,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub enum Sender {
    /// The near side's GitLab, when somebody has pushed.
    GitLab,
    /// The bucket, when an object has changed. Those of other shards do not matter.
    Bucket(Shard),
}

impl Webhook {
    /// Where it listens.
    pub(super) fn path(&self) -> &'static str {
        match self.sender {
            Sender::GitLab => "/hooks/gitlab",
            Sender::Bucket(_) => "/webhook",
        }
    }
}

/// What is answered: a status, and one line for people.
type Answer = (StatusCode, &'static str);

/// The routes, with the webhook's.
pub(super) fn with(router: Router<Arc<Site>>, webhook: Webhook) -> Router<Arc<Site>> {
    router.route(
        webhook.path(),
        post(async move |State(site): Shared, request: Request| answered(&webhook, &site, request).await),
    )
}

async fn answered(webhook: &Webhook, site: &Site, request: Request) -> Response {
    let answer = match webhook.sender {
        Sender::GitLab => gitlab::handle(webhook, request).await,
        Sender::Bucket(share) => bucket::handle(webhook, share, request).await,
    };
    let result = match answer.0 {
        StatusCode::ACCEPTED => WebhookResult::Accepted,
        StatusCode::OK => WebhookResult::Ignored,
        _ => WebhookResult::Refused,
    };
    site.status.metrics().webhook(result);
    answer.into_response()
}

/// Refuses a request unless one of its tokens is the secret. The time this takes reveals only the secret's length.
fn genuine<'a>(webhook: &Webhook, tokens: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Answer> {
    let mut tokens = tokens.into_iter().peekable();
    let is_genuine = tokens.peek().is_some() && {
        let secret = webhook.secret.read().map_err(|error| {
            tracing::error!(error = error_chain(&error), "a webhook cannot be checked");
            (StatusCode::INTERNAL_SERVER_ERROR, "WEBHOOK_SECRET_FILE cannot be read\n")
        })?;
        tokens.fold(false, |found, token| found | bool::from(secret.expose_secret().as_bytes().ct_eq(token)))
    };
    if is_genuine { Ok(()) } else { Err((StatusCode::UNAUTHORIZED, "the secret token is not WEBHOOK_SECRET\n")) }
}
