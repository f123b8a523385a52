//! What the page calls things, in each of the two programs.

use super::links::{self, Runbook};
use crate::model::program::Program;

/// The words that differ.
#[derive(Debug)]
pub(super) struct Words {
    /// What the page is of, and what the program does if that is not plain.
    pub(super) brand: &'static str,
    pub(super) about: &'static str,
    /// What the list lists: one, many, as a heading.
    pub(super) target: &'static str,
    pub(super) targets: &'static str,
    pub(super) title: &'static str,
    pub(super) no_targets: &'static str,
    /// What to do about that.
    pub(super) fill: &'static str,
    /// What a pass reads before it has a plan, and what it does with a target.
    pub(super) observes: &'static str,
    pub(super) transferred: &'static str,
    pub(super) next_pass: &'static str,
    pub(super) a_full_pass: &'static str,
    /// The columns of sources, if there is one, and of commits.
    pub(super) source: &'static str,
    pub(super) commit: &'static str,
    pub(super) runbook: &'static Runbook,
}

const PRODUCER: Words = Words {
    brand: "Git partition sync",
    about: "",
    target: "target",
    targets: "targets",
    title: "Targets",
    no_targets: "The target list is empty",
    fill: "Add a `gitlabSync` entry to the data of GRAPHQL_SERVER, or a target to TARGETS_FILE. If there are some already, \
           this is another server or another file.",
    observes: "the target list, branches and bucket",
    transferred: "published",
    next_pass: "Next full pass",
    a_full_pass: "A full pass is under way",
    source: "From",
    commit: "Commit",
    runbook: &links::PRODUCER,
};

const CONSUMER: Words = Words {
    brand: "Git partition sync: the far side",
    about: "Pushes what the bucket holds to the far GitLab.",
    target: "destination",
    targets: "destinations",
    title: "Destinations",
    no_targets: "The bucket holds nothing yet",
    fill: "Run git-partition-sync-producer on the near side. If it has run, compare AWS_S3_BUCKET on both sides, and check \
           what copies the bucket.",
    observes: Program::Consumer.observes(),
    transferred: "delivered",
    next_pass: "Next pass",
    a_full_pass: "A pass is under way",
    source: "",
    commit: "Far branch",
    runbook: &links::CONSUMER,
};

impl Words {
    pub(super) const fn of(program: Program) -> &'static Self {
        match program {
            Program::Producer => &PRODUCER,
            Program::Consumer => &CONSUMER,
        }
    }
}
