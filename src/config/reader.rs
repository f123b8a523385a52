//! From flags and environment variables to checked values, for any program with a list of settings.
//!
//! Invariant: every problem is noted, and one does not hide the next: a value that could not be read is a [`Reported`].

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::ArgMatches;
use secrecy::zeroize::Zeroizing;

use super::Exit;
use super::manual::Manual;
use super::misspelt::{Findings, misspelt};
use super::reference::{Fallback, Setting};
use crate::model::program::Program;
use crate::secret::{Secret, without_line_end};

/// What the examples under `deploy/` have in place of values that only the reader knows.
const PLACEHOLDER: &str = "replace-me";

/// Looks up an environment variable by its name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Proof that a problem was noted: there is nothing left to report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported(());

/// A value as it was given, and the name that messages about it begin with.
pub(super) struct Given {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// Reads settings one by one and collects everything that is wrong with them.
pub(super) struct Reader<'a> {
    manual: &'a Manual,
    matches: &'a ArgMatches,
    environment: Environment<'a>,
    /// The settings that were asked for, and those of them that have a value, by their variables.
    asked: BTreeSet<&'static str>,
    given: BTreeSet<&'static str>,
    missing: Vec<&'static str>,
    problems: Vec<String>,
    /// What is worth a line if something is wrong anyway.
    doubts: Vec<&'static str>,
}

impl Reader<'_> {
    /// Reads all settings of a program: what `settings` returns with warnings, or one message with everything that is wrong,
    /// a line for each. `names` are those of all variables.
    pub(super) fn read<T>(
        manual: &Manual,
        matches: &ArgMatches,
        environment: Environment<'_>,
        names: &[OsString],
        settings: impl FnOnce(&mut Reader<'_>) -> Result<T, Reported>,
    ) -> Result<(T, Vec<String>), Exit> {
        let (asked, given, missing, problems, doubts) = Default::default();
        let mut reader = Reader { manual, matches, environment, asked, given, missing, problems, doubts };
        let settings = settings(&mut reader);
        let is_set = |name: &&str| environment(name).is_some_and(|value| !value.is_empty());
        let set = names.iter().filter_map(|name| name.to_str()).filter(is_set);
        let Findings { problems: misspelt, warnings } = misspelt(manual, &reader.asked, &reader.given, set);
        let missing = (!reader.missing.is_empty()).then(|| format!("missing: {}", reader.missing.join(", ")));
        let problems: Vec<String> = missing.into_iter().chain(reader.problems).chain(misspelt).collect();
        match settings {
            Ok(settings) if problems.is_empty() => Ok((settings, warnings)),
            Ok(_) | Err(Reported(())) => {
                let doubts = reader.doubts.into_iter().map(str::to_owned);
                let pointer = manual.pointer(matches.subcommand_name());
                let lines: Vec<String> = problems.into_iter().chain(doubts).chain(warnings).chain([pointer]).collect();
                Err(Exit::Problem(lines.join("\n")))
            }
        }
    }

    /// The program whose settings these are.
    pub(super) fn program(&self) -> Program {
        self.manual.program
    }

    /// The text of a variable, whatever it holds.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name)?.into_string().ok()
    }

    pub(super) fn problem(&mut self, name: &str, why: impl fmt::Display) -> Reported {
        self.problems.push(format!("{name}: {why}"));
        Reported(())
    }

    /// Notes something that is only worth a line if something else is wrong.
    pub(super) fn doubt(&mut self, what: &'static str) {
        self.doubts.push(what);
    }

    pub(super) fn missing(&mut self, name: &'static str) -> Reported {
        self.missing.push(name);
        Reported(())
    }

    /// What was given for a setting. The flag wins over variables; an empty variable counts as unset, and so does a setting
    /// of the other program.
    pub(super) fn given(&mut self, setting: &Setting) -> Result<Option<Given>, Reported> {
        let Some(own) = self.manual.setting(setting.variable) else { return Ok(None) };
        self.asked.insert(own.variable);
        let flag = setting.flag.and_then(|flag| Some((flag, self.matches.get_one::<OsString>(flag)?)));
        let found = match flag {
            // In a script this is usually a variable that was never set; ignoring the flag would be a guess.
            Some((flag, value)) if value.is_empty() => {
                return Err(
                    self.problem(setting.variable, format!("the flag -{flag} is empty: give a value or leave it out"))
                );
            }
            Some((_, value)) => Some((setting.variable, value.clone())),
            None => [setting.variable].iter().chain(setting.also).find_map(|variable| {
                Some((*variable, (self.environment)(variable).filter(|value| !value.is_empty())?))
            }),
        };
        let Some((name, value)) = found else { return Ok(None) };
        self.given.insert(own.variable);
        let text = value.into_string().map_err(|_| self.problem(name, "is not UTF-8 text"))?;
        if text.trim() == PLACEHOLDER {
            let why = "is still the example's replace-me: put your own value in its place, or remove it";
            return Err(self.problem(name, why));
        }
        Ok(Some(Given { name, text }))
    }

    /// A setting that may be unset.
    pub(super) fn optional<T>(
        &mut self,
        setting: &Setting,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Reported> {
        let Some(Given { name, text }) = self.given(setting)? else { return Ok(None) };
        check(&text).map(Some).map_err(|why| self.problem(name, why))
    }

    /// A setting that is required or has a default, which may be another in each program.
    pub(super) fn value<T>(
        &mut self,
        setting: &Setting,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Reported> {
        if let Some(value) = self.optional(setting, &check)? {
            return Ok(value);
        }
        let default = self.manual.setting(setting.variable).map_or(setting.default, |own| own.default);
        match default {
            Fallback::Value(text) => check(text).map_err(|why| self.problem(setting.variable, why)),
            Fallback::Required | Fallback::Unset | Fallback::Found(_) => Err(self.missing(setting.variable)),
        }
    }

    /// A secret from its variable or its file. It is read once here, so that an unreadable file is reported at start.
    pub(super) fn secret(&mut self, value: &Setting, file: &Setting) -> Result<Option<Secret>, Reported> {
        let (text, path) = (self.given(value), self.given(file));
        let (secret, name) = match (text?, path?) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                let why = format!("set together with {}: keep one of the two", file.variable);
                return Err(self.problem(value.variable, why));
            }
            (None, Some(Given { name, text })) => (Secret::File(PathBuf::from(text)), name),
            (Some(Given { name, text }), None) => match without_line_end(&Zeroizing::new(text)) {
                Some(secret) => (Secret::Value(secret), name),
                None => return Err(self.problem(name, "is blank")),
            },
        };
        match secret.read() {
            Ok(_) => Ok(Some(secret)),
            Err(why) => Err(self.problem(name, format_args!("{:#}", anyhow::Error::from(why)))),
        }
    }
}
