//! Why a pass came to nothing.

use crate::bucket::BucketError;
use crate::graphql::{TargetsError, pr_check};
use crate::plan::PlanError;
use crate::workdir::WorkdirError;

/// Why a pass could not come to a plan. Nothing has changed then.
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
    /// Our part of WORKDIR was removed, and cannot be made again.
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
