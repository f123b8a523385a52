//! The man page, from a program's list of settings.
//!
//! Invariant: a setting, a command or an option that is not in it does not exist.

use roff::{Inline, Roff, bold, italic, roman};

use super::help::{NAMES, RESTORE_OPTIONS, list_options};
use super::manual::Manual;
use super::reference::Fallback;
use crate::model::program::Program;

/// The page, in roff.
pub(super) fn man_page(manual: &Manual) -> String {
    let mut page = Roff::new();
    let name = manual.program.name();
    let version = manual.program.name_and_version();
    page.control("TH", [&name.to_uppercase(), "1", "", &version]);
    section(&mut page, "NAME");
    page.text([roman(format!("{name} - {}", manual.description))]);
    section(&mut page, "SYNOPSIS");
    for (arguments, _) in manual.usages {
        page.text([bold(name), roman(format!(" {arguments}"))]).control("br", []);
    }
    section(&mut page, "COMMANDS");
    for (arguments, meaning) in manual.usages {
        item(&mut page, [bold(name), roman(format!(" {arguments}"))], meaning);
    }
    // Not a part of the last command's paragraph.
    page.control("PP", []);
    page.text([roman(NAMES)]);
    let restore = (manual.program == Program::Producer).then_some(("Options of restore", RESTORE_OPTIONS));
    for (title, options) in [("Options of list", list_options(manual.program))].into_iter().chain(restore) {
        page.control("SS", [title]);
        for (option, meaning) in options {
            item(&mut page, [bold(*option)], &format!("{meaning}."));
        }
    }
    section(&mut page, "SETTINGS");
    page.text([roman(
        "A setting is a flag (-name=value or -name value, with one dash or two; a switch alone means true) or an \
         environment variable. The flag wins; an empty variable counts as unset.",
    )]);
    for group in manual.sections {
        page.control("SS", [group.title]);
        for setting in group.settings {
            let default = match setting.default {
                Fallback::Unset => String::new(),
                Fallback::Required => " Required.".to_owned(),
                Fallback::Value(text) | Fallback::Found(text) => format!(" Default: {text}."),
            };
            let flag = setting.flag.map(|flag| [bold(format!("-{flag}")), roman(", ")]);
            let names = flag.into_iter().flatten().chain([italic(setting.variable)]);
            item(&mut page, names, &format!("{}.{default}", setting.meaning));
        }
    }
    section(&mut page, "EXIT STATUS");
    for (status, meaning) in manual.exit_statuses {
        item(&mut page, [bold(status.to_string())], meaning);
    }
    section(&mut page, "EXAMPLES");
    for (meaning, arguments) in manual.examples {
        item(&mut page, [roman(*meaning)], &format!("{name} {arguments}"));
    }
    section(&mut page, "SEE ALSO");
    let others = Manual::ALL.iter().map(|other| other.program.name()).filter(|other| *other != name);
    for other in ["age", "git"].into_iter().chain(others) {
        page.text([bold(other), roman("(1)")]);
    }
    page.render()
}

fn section(page: &mut Roff, title: &str) {
    page.control("SH", [title]);
}

/// A term and what it means.
fn item(page: &mut Roff, term: impl IntoIterator<Item = Inline>, meaning: &str) {
    page.control("TP", []);
    page.text(term.into_iter().collect::<Vec<_>>());
    page.text([roman(meaning)]);
}
