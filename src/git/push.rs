//! Stands in for receive-pack until that is there: only the branches, without bounds on their number.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::header::{CONTENT_TYPE, HeaderValue};

use super::wire::{GitServer, WireError};
use crate::model::key::CommitId;
use crate::net::http::RequestError;
use crate::text::remote_text;

impl GitServer {
    pub async fn heads_for_push(
        &self,
        project: &str,
        branches: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, CommitId>, WireError> {
        let response = self.advertisement(project).await.map_err(RequestError::from)?;
        if !response.status().is_success() {
            let (status, said) = (response.status(), String::new());
            return Err(RequestError::Status { status, retry_after: None, said, refuses_login: false }.into());
        }
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default().to_vec();
        if kind != b"application/x-git-receive-pack-advertisement" {
            return Err(WireError::NotGit(remote_text(&kind)));
        }
        let body = response.bytes().await.map_err(RequestError::from)?;
        let mut heads = BTreeMap::new();
        for line in String::from_utf8_lossy(&body).lines() {
            let reference = line.split('\0').next().unwrap_or_default();
            let Some((id, branch)) = reference.split_once(" refs/heads/") else { continue };
            let commit = id.get(id.len().saturating_sub(40)..).and_then(|id| id.parse().ok());
            if let Some(commit) = commit.filter(|_| branches.contains(branch)) {
                heads.insert(branch.to_owned(), commit);
            }
        }
        Ok(heads)
    }
}
