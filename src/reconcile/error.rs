//! Why a pass failed as a whole.

use crate::bucket::BucketError;
use crate::git::heads::LoginRefused;
use crate::graphql::TargetsError;
use crate::graphql::file::FileError;
use crate::graphql::pr_check::CheckError;
use crate::model::program::Program;
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
    PrCheck(#[from] Box<CheckError>),
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

impl PassError {
    /// What to do about it, if there is anything to do.
    pub fn advice(&self) -> Option<String> {
        Some(match self {
            Self::Secret(_) => "Mount the file again, or correct what is in it.".to_owned(),
            Self::Query { .. } => {
                "Mount the query's file again, or leave GRAPHQL_QUERY_FILE out to use the built-in query.".to_owned()
            }
            Self::PrCheck(error) => match &**error {
                CheckError::Previous { source, .. } | CheckError::Current(source) => source.advice(),
            },
            Self::Targets(error) => error.advice(),
            Self::TargetsFile(error) => error.advice().to_owned(),
            Self::Workdir(error) => error.advice(),
            Self::Bucket(error) => error.listing_advice(Program::Producer),
            Self::Login(_) => LoginRefused::ADVICE.to_owned(),
            Self::Plan(PlanError::MixedFormats { .. }) => {
                "Set ARCHIVE_FORMAT to the format that the consumer reads.".to_owned()
            }
            Self::Plan(PlanError::NothingToRepublish { .. }) => "Correct REPUBLISH, or leave it out.".to_owned(),
            Self::Stopped => return None,
        })
    }
}
