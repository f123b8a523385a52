//! What help, man page, completions and tests know about each of the two programs.
//!
//! Invariant: a flag, a setting or a command that is not here does not exist.

use super::command_line::command_line;
use super::consumer;
use super::help::{CHECK_USAGE, LIST_USAGE, RESTORE_USAGE, RUN_USAGE};
use super::reference::{SECTIONS, Section, Setting};
use crate::model::program::Program;

/// A program, described.
#[derive(Debug, Clone, Copy)]
pub struct Manual {
    /// Which one.
    pub program: Program,
    /// What it is, as a phrase.
    pub description: &'static str,
    /// What it does, as sentences.
    pub(super) about: &'static str,
    /// What its `check` does, as sentences.
    pub(super) about_check: &'static str,
    /// The commands: the words after the program's name, and what they do.
    pub usages: &'static [(&'static str, &'static str)],
    /// What to achieve, and the command line for it.
    pub examples: &'static [(&'static str, &'static str)],
    /// Exit statuses and their meaning.
    pub exit_statuses: &'static [(u8, &'static str)],
    /// Its settings, in sections.
    pub sections: &'static [Section],
}

/// The producer.
pub const PRODUCER: Manual = Manual {
    program: Program::Producer,
    description: env!("CARGO_PKG_DESCRIPTION"),
    about: "Copies GitLab projects, encrypted with age, into an S3 bucket, and keeps doing so.",
    about_check: "\
Tries everything that synchronising needs, one after the other: recipients, WORKDIR, target list,
login, every source branch, and the permissions in the bucket. It leaves nothing behind.",
    usages: &[
        (RUN_USAGE, "Publish what is new, retire what is no longer wanted, sleep, start again."),
        (CHECK_USAGE, "Try every server and permission that this needs, and say what to do about failures."),
        (LIST_USAGE, "Show what the bucket holds."),
        (RESTORE_USAGE, "Download, decrypt, unpack and verify everything, or what is named."),
    ],
    examples: &[
        ("Does everything work from here? Try it, change nothing", "check"),
        ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
        ("What is in the bucket, for a script", "list -output json"),
        (
            "One branch of one project, back from the bucket",
            "restore -identity key.txt -into restored platform/tools@main",
        ),
    ],
    exit_statuses: &[
        (0, "everything was done, or a signal stopped the daemon"),
        (1, "the pass of -run-once failed, entirely or for a target; check, list or restore failed"),
        (2, "settings are missing or wrong, and nothing was done"),
        (70, "internal error: a bug in this program"),
    ],
    sections: SECTIONS,
};

/// The consumer.
pub const CONSUMER: Manual = Manual {
    program: Program::Consumer,
    description: "Pushes what git-partition-sync-producer has put into an S3 bucket to the GitLab on the far side",
    about: "Pushes what git-partition-sync-producer puts into an S3 bucket to the GitLab on the far side.",
    about_check: "\
Tries everything that a pass needs, one after the other: identities, WORKDIR, the bucket and a few
of its objects, login, and the right to push. It changes nothing, and creates no project.",
    usages: &[
        (RUN_USAGE, "Push what is new in the bucket to the far GitLab, sleep, start again."),
        (CHECK_USAGE, "Try every server and permission that this needs, and say what to do about failures."),
        (LIST_USAGE, "Show what the bucket holds."),
    ],
    examples: &[
        ("Does everything work from here? Try it, change nothing", "check"),
        ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
        ("What is in the bucket, for a script", "list -output json"),
    ],
    exit_statuses: &[
        (0, "everything was done, or a signal stopped the daemon"),
        (1, "the pass of -run-once failed, entirely or for a destination; check or list failed"),
        (2, "settings are missing or wrong, and nothing was done"),
        (70, "internal error: a bug in this program"),
    ],
    sections: consumer::SECTIONS,
};

impl Manual {
    /// The manuals of both programs, for loops over them.
    pub const ALL: [Self; 2] = [PRODUCER, CONSUMER];

    /// Its settings.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> + use<> {
        self.sections.iter().flat_map(|section| section.settings)
    }

    /// The setting with this variable, as the program has it.
    pub(super) fn setting(&self, variable: &str) -> Option<&'static Setting> {
        self.settings().find(|setting| setting.variable == variable)
    }

    /// Its command line, for completions.
    pub fn command_line(&self) -> clap::Command {
        command_line(self)
    }

    /// A command line: the program's name, and these words.
    pub(super) fn usage(&self, words: &str) -> String {
        format!("{} {words}", self.program.name())
    }

    /// Where to read about settings.
    pub(super) fn pointer(&self) -> String {
        format!("`{} -help` explains every setting.", self.program.name())
    }
}

/// Every setting of the producer, in sections.
pub fn reference() -> &'static [Section] {
    PRODUCER.sections
}
