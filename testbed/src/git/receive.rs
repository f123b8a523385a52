//! The receive side of a GitLab: who may push, what is checked, which projects a push makes.
//!
//! Invariant: each refusal comes from where GitLab's comes from (nginx, the web application, Git, a pre-receive hook),
//! and in its words.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::{GitOperation, GitOptions, GitServer, State};
use crate::http::{Body, BoxError, full, lock, plain};
use crate::program::git_environment;
use crate::repo::Repo;

/// Where the pre-receive hook is.
const HOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks");

/// Git's settings for receiving, as GitLab has them. The references are its own, and hidden from users.
const RECEIVE_SETTINGS: [(&str, &str); 6] = [
    ("core.hooksPath", HOOKS),
    ("core.alternateRefsCommand", "exit 0 #"),
    ("receive.hideRefs", "refs/environments/"),
    ("receive.hideRefs", "refs/keep-around/"),
    ("receive.hideRefs", "refs/merge-requests/"),
    ("receive.hideRefs", "refs/pipelines/"),
];

/// The checks of objects, and what GitLab does not mind.
const FSCK_SETTINGS: [(&str, &str); 4] = [
    ("receive.fsckObjects", "true"),
    ("receive.fsck.badTimezone", "ignore"),
    ("receive.fsck.missingSpaceBeforeDate", "ignore"),
    ("receive.fsck.zeroPaddedFilemode", "ignore"),
];

/// nginx's page for a request that is too long.
const TOO_LARGE_PAGE: &str = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n\
    <center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// What GitLab says when it refuses.
pub mod words {
    /// 401: the token is wrong, or expired.
    pub const BAD_LOGIN: &str = "HTTP Basic: Access denied. The provided password or token is incorrect or your account \
        has 2FA enabled and you must use a personal access token instead of a password. See \
        https://far.example.com/help/topics/git/troubleshooting_git#error-on-git-fetch-http-basic-access-denied";
    /// 403: the token lacks the scope `write_repository`.
    pub const READ_ONLY: &str = "You are not allowed to upload code.";
    /// 403: the user's role in the project is too low.
    pub const NO_PUSH: &str = "You are not allowed to push code to this project.";
    /// 404: no such project, or not for this user.
    pub const NOT_FOUND: &str =
        "The project you were looking for could not be found or you don't have permission to view it.";
    /// From the hook: the branch is protected against forced pushes.
    pub const FORCE: &str = "You are not allowed to force push code to a protected branch on this project.";
    /// From the hook: the branch is protected, and the user not among those allowed to push.
    pub const PROTECTED: &str = "You are not allowed to push code to protected branches on this project.";
    /// From the hook: there are new LFS pointers, and nothing behind them.
    pub const LFS: &str =
        "LFS objects are missing. Ensure LFS is properly set up or try a manual \"git lfs push --all\".";
}

/// How a branch is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// The user may push, but not force, as with the default branch of a new project.
    NoForce,
    /// The user may not push.
    NoPush,
}

impl Protection {
    fn name(self) -> &'static str {
        match self {
            Self::NoForce => "no-force",
            Self::NoPush => "no-push",
        }
    }
}

/// The settings of the receive side.
#[derive(Debug, Clone)]
pub(super) struct Receiving {
    allow_push: bool,
    read_only: bool,
    fsck_objects: bool,
    create_projects: bool,
    refuse_lfs: bool,
    pub(super) max_body_bytes: Option<u64>,
    max_push_bytes: Option<u64>,
    /// By project and branch.
    protected: BTreeMap<(String, String), Protection>,
    /// By project, in which words its pushes are declined.
    declined: HashMap<String, String>,
}

impl Receiving {
    pub(super) fn new(options: &GitOptions) -> Self {
        Self {
            allow_push: options.allow_push,
            read_only: options.read_only,
            fsck_objects: options.fsck_objects,
            create_projects: options.create_projects,
            refuse_lfs: options.refuse_lfs,
            max_body_bytes: options.max_body_bytes,
            max_push_bytes: options.max_push_bytes,
            protected: BTreeMap::new(),
            declined: HashMap::new(),
        }
    }

    /// Git's environment for one request: its settings, and the hook's rules.
    pub(super) fn environment(&self, operation: GitOperation, project: &str) -> Vec<(String, String)> {
        if !operation.pushes() {
            return git_environment(&[]);
        }
        let mut settings = RECEIVE_SETTINGS.to_vec();
        if self.fsck_objects {
            settings.extend(FSCK_SETTINGS);
        }
        let limit = self.max_push_bytes.map(|bytes| bytes.to_string());
        settings.extend(limit.as_deref().map(|bytes| ("receive.maxInputSize", bytes)));
        let mut environment = git_environment(&settings);
        environment.extend(self.rules(project).into_iter().map(|(name, value)| (name.to_owned(), value)));
        environment
    }

    fn rules(&self, project: &str) -> [(&'static str, String); 5] {
        let protected = self.protected.iter().filter(|((path, _), _)| path == project);
        let lines = protected.map(|((_, branch), protection)| format!("{} {branch}\n", protection.name()));
        [
            ("TESTBED_PROTECTED", lines.collect()),
            ("TESTBED_WORDS_FORCE", words::FORCE.to_owned()),
            ("TESTBED_WORDS_PUSH", words::PROTECTED.to_owned()),
            ("TESTBED_WORDS_LFS", if self.refuse_lfs { words::LFS } else { "" }.to_owned()),
            ("TESTBED_DECLINE", self.declined.get(project).cloned().unwrap_or_default()),
        ]
    }
}

impl GitServer {
    /// Makes a group, in which pushes may make projects.
    pub fn group(&self, path: &str) -> Result<()> {
        let folder = self.state.root.join(path);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))
    }

    /// The projects that pushes have made, oldest first.
    pub fn created(&self) -> Vec<String> {
        lock(&self.state.created).clone()
    }

    /// Allows or refuses pushes from now on: the user's role.
    pub fn set_allow_push(&self, allow: bool) {
        lock(&self.state.knobs).receiving.allow_push = allow;
    }

    /// Lets the token only read, or also write.
    pub fn set_read_only(&self, read_only: bool) {
        lock(&self.state.knobs).receiving.read_only = read_only;
    }

    /// Refuses every login, as if the token had expired, or takes it again.
    pub fn set_expired(&self, expired: bool) {
        lock(&self.state.knobs).expired = expired;
    }

    /// Lets pushes make projects, or not.
    pub fn set_create_projects(&self, create: bool) {
        lock(&self.state.knobs).receiving.create_projects = create;
    }

    /// Refuses new Git LFS pointers, or takes them.
    pub fn set_refuse_lfs(&self, refuse: bool) {
        lock(&self.state.knobs).receiving.refuse_lfs = refuse;
    }

    /// Changes [`GitOptions::max_body_bytes`].
    pub fn set_max_body_bytes(&self, limit: Option<u64>) {
        lock(&self.state.knobs).receiving.max_body_bytes = limit;
    }

    /// Changes [`GitOptions::max_push_bytes`].
    pub fn set_max_push_bytes(&self, limit: Option<u64>) {
        lock(&self.state.knobs).receiving.max_push_bytes = limit;
    }

    /// Protects a branch, whether or not it exists.
    pub fn protect(&self, project: &str, branch: &str, protection: Protection) {
        let place = (project.to_owned(), branch.to_owned());
        lock(&self.state.knobs).receiving.protected.insert(place, protection);
    }

    /// Protects a branch no longer.
    pub fn unprotect(&self, project: &str, branch: &str) {
        lock(&self.state.knobs).receiving.protected.remove(&(project.to_owned(), branch.to_owned()));
    }

    /// Lets the hook decline all pushes to this project in these words, as GitLab's push rules do; `None` ends it.
    pub fn decline(&self, project: &str, words: Option<&str>) {
        let declined = &mut lock(&self.state.knobs).receiving.declined;
        match words {
            Some(words) => declined.insert(project.to_owned(), words.to_owned()),
            None => declined.remove(project),
        };
    }

    /// What pushes that were not taken have left of themselves in a project: quarantines, and packs and objects that
    /// were not completed. Git cleans up after a push that it refuses, but not after one whose client goes away.
    pub fn quarantined(&self, project: &str) -> Result<Vec<PathBuf>> {
        let mut found = vec![];
        unfinished(&self.state.repository(project).join("objects"), &mut found)?;
        Ok(found)
    }
}

fn unfinished(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        // Git is just cleaning up.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("incoming-") || name.starts_with("tmp_") {
            found.push(path);
        } else if path.is_dir() {
            unfinished(&path, found)?;
        }
    }
    Ok(())
}

/// The answer to a request that is too long.
pub(super) fn too_large() -> Response<Body> {
    let mut response = Response::new(full(TOO_LARGE_PAGE));
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Why the web application does not pass the request to Git. A missing project is made here, if it may be.
pub(super) async fn refusal(
    state: &Arc<State>,
    receiving: &Receiving,
    project: &str,
    operation: GitOperation,
) -> Result<Option<Response<Body>>, BoxError> {
    if operation.pushes() && receiving.read_only {
        return Ok(Some(plain(StatusCode::FORBIDDEN, words::READ_ONLY)));
    }
    let makes = operation == GitOperation::ReceiveHeads && receiving.create_projects && receiving.allow_push;
    let found = match (operation, makes) {
        (GitOperation::Other, _) => false,
        (_, false) => state.repository(project).join("HEAD").is_file(),
        (_, true) => {
            let (state, project) = (Arc::clone(state), project.to_owned());
            tokio::task::spawn_blocking(move || found_or_made(&state, &project)).await??
        }
    };
    if !found {
        return Ok(Some(plain(StatusCode::NOT_FOUND, words::NOT_FOUND)));
    }
    let refused = operation.pushes() && !receiving.allow_push;
    Ok(refused.then(|| plain(StatusCode::FORBIDDEN, words::NO_PUSH)))
}

/// Whether the project exists by now. It is made in a group that exists, once for all who ask at the same time.
fn found_or_made(state: &State, project: &str) -> Result<bool> {
    let mut created = lock(&state.created);
    let path = state.repository(project);
    if path.join("HEAD").is_file() {
        return Ok(true);
    }
    let in_group = project.contains('/') && path.parent().is_some_and(Path::is_dir);
    if in_group {
        Repo::init(&path)?;
        created.push(project.to_owned());
    }
    Ok(in_group)
}
