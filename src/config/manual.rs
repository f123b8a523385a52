//! What help, man page, completions and tests know about each of the two programs.
//!
//! Invariant: a flag, a setting or a command that is not here does not exist.

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Exit;
use super::command_line::command_line;
use super::completion::{SHELLS, completion};
use super::consumer;
use super::help::{
    CHECK_USAGE, COMPLETION_USAGE, HEALTH_USAGE, LIST_USAGE, MAN_USAGE, RESTORE_USAGE, RUN_USAGE, VERSION_USAGE,
};
use super::man::man_page;
use super::reference::{SECTIONS, Section, Setting};
use crate::model::program::Program;
use crate::text::printable;

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
    about: "\
Copies GitLab projects, encrypted with age, into an S3 bucket, and keeps doing
so.",
    about_check: "\
Tries everything that synchronising needs, one after the other: recipients,
WORKDIR, target list, login, every source branch, and the permissions in the
bucket. It leaves nothing behind.",
    usages: &[
        (RUN_USAGE, "Publish what is new, retire what is no longer wanted, sleep, repeat."),
        (CHECK_USAGE, "Try all servers and permissions, and say what to do about failures."),
        (LIST_USAGE, "Show what the bucket holds."),
        (RESTORE_USAGE, "Download, decrypt, unpack and verify everything, or what is named."),
        (HEALTH_USAGE, "Ask the daemon on this machine whether it is healthy."),
        (COMPLETION_USAGE, "Print completions for a shell."),
        (MAN_USAGE, "Print the man page."),
        (VERSION_USAGE, "Print the version, as -version and -V do."),
    ],
    examples: &[
        ("Does everything work from here? Try it, change nothing", "check"),
        ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
        ("What is below a group, the largest first", "list -sort size mirror/platform"),
        ("What is in the bucket, for a script", "list -output json"),
        ("One branch of one project, back from the bucket", "restore -identity key -into out team/api@main"),
    ],
    exit_statuses: &[
        (0, "everything was done, or a signal stopped the daemon"),
        (1, "the pass of -run-once, or a command, failed: entirely or in part"),
        (2, "wrong settings; with -detailed-exitcode, those are 1, and 2 means changes"),
        (70, "internal error: a bug in this program"),
    ],
    sections: SECTIONS,
};

/// The consumer.
pub const CONSUMER: Manual = Manual {
    program: Program::Consumer,
    description: "Pushes what git-partition-sync-producer has put into an S3 bucket to the GitLab on the far side",
    about: "\
Pushes what git-partition-sync-producer puts into an S3 bucket to the GitLab on
the far side.",
    about_check: "\
Tries everything that a pass needs, one after the other: identities, WORKDIR,
the bucket and a few of its objects, login, and the right to push. It changes
nothing, and creates no project.",
    usages: &[
        (RUN_USAGE, "Push what is new in the bucket to the far GitLab, sleep, repeat."),
        (CHECK_USAGE, "Try all servers and permissions, and say what to do about failures."),
        (LIST_USAGE, "Show what the bucket holds."),
        (HEALTH_USAGE, "Ask the daemon on this machine whether it is healthy."),
        (COMPLETION_USAGE, "Print completions for a shell."),
        (MAN_USAGE, "Print the man page."),
        (VERSION_USAGE, "Print the version, as -version and -V do."),
    ],
    examples: &[
        ("Does everything work from here? Try it, change nothing", "check"),
        ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
        ("What is below a group, the largest first", "list -sort size mirror/platform"),
        ("What is in the bucket, for a script", "list -output json"),
    ],
    exit_statuses: &[
        (0, "everything was done, or a signal stopped the daemon"),
        (1, "the pass of -run-once, or a command, failed: entirely or in part"),
        (2, "wrong settings; with -detailed-exitcode, those are 1, and 2 means changes"),
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
    pub(super) fn command_line(&self) -> clap::Command {
        command_line(self)
    }

    /// What a command prints that needs no settings; `None` for the others.
    pub(super) fn answer(&self, matches: &ArgMatches) -> Option<String> {
        let (command, matches) = matches.subcommand()?;
        let text = match command {
            "completion" => {
                let name = matches.get_one::<String>("shell")?;
                let (_, shell) = SHELLS.into_iter().find(|(shell, _)| shell == name)?;
                completion(self, shell)
            }
            "man" => man_page(self),
            "version" => self.program.name_and_version(),
            _ => return None,
        };
        Some(text.trim_end().to_owned())
    }

    /// A command line: the program's name, and these words.
    pub(super) fn usage(&self, words: &str) -> String {
        format!("{} {words}", self.program.name())
    }

    /// Where to read about settings, and about the options of this command.
    pub(super) fn pointer(&self, command: Option<&str>) -> String {
        match command {
            Some(command @ ("list" | "restore" | "health")) => {
                format!("`{}` explains its options and settings.", self.usage(&format!("{command} -help")))
            }
            Some(_) | None => format!("`{}` explains every setting.", self.usage("-help")),
        }
    }

    /// What is said of a command line that clap refuses.
    pub(super) fn refused(&self, error: clap::Error) -> Exit {
        let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
            (error.kind(), error.get(ContextKind::InvalidSubcommand))
        else {
            return error.into();
        };
        let line = self.command_line();
        let names: Vec<_> = line.get_subcommands().map(clap::Command::get_name).collect();
        let other = Self::ALL.into_iter().find(|other| other.command_line().find_subcommand(word).is_some());
        let problem = match other {
            Some(other) => format!("{word} is a command of {}", other.program.name()),
            None => format!("'{}' is not a command", printable(word)),
        };
        Exit::Problem(format!("{problem}\ncommands: {}\n{}", names.join(", "), self.pointer(None)))
    }
}

/// Every setting of the producer, in sections.
pub fn reference() -> &'static [Section] {
    PRODUCER.sections
}
