//! GitLab's push webhooks.
//!
//! Invariant: a request is only trusted for the branch that was pushed to, and only once its token has been checked. The
//! commit comes from GitLab as always.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode};
use serde::Deserialize;

use super::{Answer, Webhook, genuine};
use crate::text::json;

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

/// `POST /hooks/gitlab`.
pub(super) async fn handle(webhook: &Webhook, request: Request) -> Answer {
    if let Err(refused) = genuine(webhook, request.headers().get("x-gitlab-token").map(HeaderValue::as_bytes)) {
        return refused;
    }
    let event = request.headers().get("x-gitlab-event").and_then(|event| event.to_str().ok());
    if !event.is_some_and(|event| PUSH_EVENTS.contains(&event)) {
        return (StatusCode::OK, "not a push: ignored\n");
    }
    let Ok(body) = Bytes::from_request(request, &()).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off\n");
    };
    let Ok(event) = json::from_slice::<Event>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is not GitLab's JSON\n");
    };
    if event.object_kind.or(event.event_name).as_deref() != Some("push") {
        return (StatusCode::OK, "not a push to a branch: ignored\n");
    }
    let (Some(project), Some(reference)) = (event.project, event.reference) else {
        return (StatusCode::BAD_REQUEST, "the push has no project or no ref\n");
    };
    let branch = reference.strip_prefix(BRANCHES);
    if !branch.is_some_and(|branch| webhook.triggers.pushed_to(&project.path_with_namespace, branch)) {
        return (StatusCode::OK, "no target has this branch as its source: ignored\n");
    }
    (StatusCode::ACCEPTED, "a pass for this branch begins\n")
}
