//! Writes man pages and shell completions, from each program's own list of settings: `make docs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap_complete::{Shell, generate_to};
use git_partition_sync_producer::config::{Fallback, Manual};
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
    let mut written = vec![];
    for manual in &Manual::ALL {
        let name = manual.program.name();
        let page = folder.join(format!("{name}.1"));
        fs::write(&page, man_page(manual)).with_context(|| format!("cannot write {}", page.display()))?;
        written.push(page);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = generate_to(shell, &mut manual.command_line(), name, folder)?;
            let text = fs::read_to_string(&script)?;
            fs::write(&script, with_one_name(&text, name))?;
            written.push(script);
        }
    }
    Ok(written)
}

/// For bash, clap_complete writes a name with dashes in two ways, so the script finds no flags of a command.
fn with_one_name(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

fn man_page(manual: &Manual) -> String {
    let mut page = Roff::new();
    let name = manual.program.name();
    let version = format!("{name} {}", env!("CARGO_PKG_VERSION"));
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
