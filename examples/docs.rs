//! Writes the man page and the shell completions, from the program's own list of settings: `make docs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap_complete::{Shell, generate_to};
use git_partition_sync_producer::config::{EXAMPLES, EXIT_STATUSES, Fallback, NAME, USAGES, command_line, reference};
use roff::{Inline, Roff, bold, italic, roman};

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/docs"), PathBuf::from);
    for written in write_to(&folder)? {
        println!("{}", written.display());
    }
    Ok(())
}

/// Writes everything into a folder, which it creates. Returns what was written.
pub fn write_to(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let page = folder.join(format!("{NAME}.1"));
    fs::write(&page, man_page()).with_context(|| format!("cannot write {}", page.display()))?;
    let mut written = vec![page];
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = generate_to(shell, &mut command_line(), NAME, folder)?;
        let text = fs::read_to_string(&script)?;
        fs::write(&script, with_one_name(&text))?;
        written.push(script);
    }
    Ok(written)
}

/// For bash, clap_complete writes a name with dashes in two ways, so the script finds no flags of a command.
fn with_one_name(script: &str) -> String {
    script.replace(&NAME.replace('-', "__subcmd__"), &NAME.replace('-', "__"))
}

fn man_page() -> String {
    let mut page = Roff::new();
    let version = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", [&NAME.to_uppercase(), "1", "", &version]);
    section(&mut page, "NAME");
    page.text([roman(format!("{NAME} - {}", env!("CARGO_PKG_DESCRIPTION")))]);
    section(&mut page, "SYNOPSIS");
    for (arguments, _) in USAGES {
        page.text([bold(NAME), roman(format!(" {arguments}"))]).control("br", []);
    }
    section(&mut page, "COMMANDS");
    for (arguments, meaning) in USAGES {
        item(&mut page, [bold(NAME), roman(format!(" {arguments}"))], meaning);
    }
    section(&mut page, "SETTINGS");
    page.text([roman(
        "A setting is a flag (-name=value or -name value, with one dash or two; a switch alone means true) or an \
         environment variable. The flag wins; an empty variable counts as unset.",
    )]);
    for group in reference() {
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
    for (status, meaning) in EXIT_STATUSES {
        item(&mut page, [bold(status.to_string())], meaning);
    }
    section(&mut page, "EXAMPLES");
    for (meaning, arguments) in EXAMPLES {
        item(&mut page, [roman(meaning)], &format!("{NAME} {arguments}"));
    }
    section(&mut page, "SEE ALSO");
    page.text([bold("age"), roman("(1), "), bold("git"), roman("(1)")]);
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
