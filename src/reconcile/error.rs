//! Why a pass failed as a whole.

use crate::bucket::BucketError;
use crate::git::heads::LoginRefused;
use crate::graphql::file::FileError;
use crate::graphql::{TargetsError, pr_check};
use crate::plan::PlanError;
use crate::workdir::WorkdirError;

/// Why there is no plan. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    #[error("cannot read the query in {path}")]
    Query {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    PrCheck(#[from] Box<pr_check::CheckError>),
    #[error("no target list from GRAPHQL_SERVER")]
    Targets(#[from] TargetsError),
    #[error("no target list from TARGETS_FILE")]
    TargetsFile(#[from] FileError),
    /// Our folder in WORKDIR was removed and cannot be created again.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Login(#[from] LoginRefused),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("stopped")]
    Stopped,
}
