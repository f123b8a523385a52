//! Why a pass failed as a whole.

use crate::bucket::BucketError;
use crate::graphql::{TargetsError, pr_check};
use crate::plan::PlanError;
use crate::workdir::WorkdirError;

/// Why there is no plan. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A secret's file.
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    /// The query's file.
    #[error("cannot read the query in {path}")]
    Query {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pull-request check.
    #[error(transparent)]
    PrCheck(#[from] Box<pr_check::CheckError>),
    /// The target list.
    #[error("no target list from GRAPHQL_SERVER")]
    Targets(#[from] TargetsError),
    /// Our folder in WORKDIR was removed and cannot be created again.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The program was asked to stop.
    #[error("stopped")]
    Stopped,
}
