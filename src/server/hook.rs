//! GitLab's push webhooks.
//!
//! Invariant: a request is only trusted for the branch that was pushed to, and only once its token has been checked. The
//! commit comes from GitLab as always.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::Webhooks;
use crate::status::Status;
use crate::status::metrics::WebhookResult;
use crate::text::error_chain;

/// The events of a project's or group's webhook, and of GitLab's system hook.
const PUSH_EVENTS: [&str; 2] = ["Push Hook", "System Hook"];
const BRANCHES: &str = "refs/heads/";

/// The fields of GitLab's "push event" that are read here.
#[derive(Deserialize)]
struct Event {
    object_kind: Option<String>,
    event_name: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    project: Option<Project>,
}

#[derive(Deserialize)]
struct Project {
    path_with_namespace: String,
}

/// `POST /hooks/gitlab`. The token is compared before the body is read.
pub(super) async fn gitlab(webhooks: &Webhooks, status: &Status, request: Request) -> Response {
    let answer = handle(webhooks, request).await;
    let result = match answer.0 {
        StatusCode::ACCEPTED => WebhookResult::Accepted,
        StatusCode::OK => WebhookResult::Ignored,
        _ => WebhookResult::Refused,
    };
    status.metrics().webhook(result);
    answer.into_response()
}

async fn handle(webhooks: &Webhooks, request: Request) -> (StatusCode, &'static str) {
    match is_genuine(webhooks, request.headers()) {
        Ok(true) => {}
        Ok(false) => return (StatusCode::UNAUTHORIZED, "the secret token is not WEBHOOK_SECRET\n"),
        Err(why) => {
            tracing::error!(error = why, "a webhook cannot be checked");
            return (StatusCode::INTERNAL_SERVER_ERROR, "WEBHOOK_SECRET_FILE cannot be read\n");
        }
    }
    let event = request.headers().get("x-gitlab-event").and_then(|event| event.to_str().ok());
    if !event.is_some_and(|event| PUSH_EVENTS.contains(&event)) {
        return (StatusCode::OK, "not a push: ignored\n");
    }
    let Ok(body) = Bytes::from_request(request, &()).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off\n");
    };
    let Ok(event) = serde_json::from_slice::<Event>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is not GitLab's JSON\n");
    };
    if event.object_kind.or(event.event_name).as_deref() != Some("push") {
        return (StatusCode::OK, "not a push to a branch: ignored\n");
    }
    let (Some(project), Some(reference)) = (event.project, event.reference) else {
        return (StatusCode::BAD_REQUEST, "the push has no project or no ref\n");
    };
    let branch = reference.strip_prefix(BRANCHES);
    if !branch.is_some_and(|branch| webhooks.triggers.pushed_to(&project.path_with_namespace, branch)) {
        return (StatusCode::OK, "no target has this branch as its source: ignored\n");
    }
    (StatusCode::ACCEPTED, "a pass for this branch begins\n")
}

/// Whether the request has the secret. The time this takes reveals only the secret's length.
fn is_genuine(webhooks: &Webhooks, headers: &HeaderMap) -> Result<bool, String> {
    let Some(token) = headers.get("x-gitlab-token") else { return Ok(false) };
    let secret = webhooks.secret.read().map_err(|error| error_chain(&error))?;
    Ok(secret.expose_secret().as_bytes().ct_eq(token.as_bytes()).into())
}
