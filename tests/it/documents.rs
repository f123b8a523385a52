//! The documents of this package, and the commands in them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use testbed::repo::Repo;
use testbed::world::World;

/// Commands of a document.
pub struct Block {
    /// Where it begins, from 1.
    pub line: usize,
    /// Its lines, without their common indentation.
    pub commands: String,
    /// What the comment right above it says.
    pub comment: Option<String>,
}

#[track_caller]
pub fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All commands of a text, block by block.
pub fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = vec![];
    let mut number = 0;
    while number < lines.len() {
        if let Some(indent) = lines[number].strip_suffix("```sh").filter(|indent| indent.trim().is_empty()) {
            let end = number + 1 + lines[number + 1..].iter().position(|line| line.trim() == "```").unwrap();
            let inside = lines[number + 1..end].iter();
            let commands = inside.map(|line| line.strip_prefix(indent).unwrap_or(line).to_owned() + "\n").collect();
            blocks.push(Block { line: number + 1, commands, comment: comment_above(&lines[..number]) });
            number = end;
        }
        number += 1;
    }
    blocks
}

fn comment_above(lines: &[&str]) -> Option<String> {
    let above = lines.iter().rposition(|line| !line.trim().is_empty())?;
    let begun = lines[..=above].iter().rposition(|line| line.trim_start().starts_with("<!--"))?;
    let text = lines[begun..=above].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    Some(text.strip_prefix("<!--")?.strip_suffix("-->")?.trim().to_owned()).filter(|text| !text.contains("-->"))
}

/// The commands of a section, block by block.
#[track_caller]
pub fn commands(text: &str, heading: &str) -> Vec<String> {
    let start = |level: &str| text.split_once(&format!("\n{level} {heading}\n")).map(|(_, section)| section);
    let section = match start("##") {
        Some(section) => section.split("\n## ").next().unwrap(),
        None => start("###").unwrap().split("\n## ").next().unwrap().split("\n### ").next().unwrap(),
    };
    blocks(section).into_iter().map(|block| block.commands).collect()
}

/// Runs commands in a folder, and gives what they print.
#[track_caller]
pub fn sh(folder: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .env_clear()
        .envs([("PATH", std::env::var("PATH").unwrap()), ("HOME", "/nonexistent".to_owned())])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}\n{err}");
    out.into_owned()
}

/// An increment as docs/contract.md describes it, encrypted: the bundle's header, a thin pack, and a manifest in front.
#[track_caller]
pub fn increment(world: &World, by: &Repo, base: &str, commit: &str, manifest: &str) -> Vec<u8> {
    let place = world.scratch().unwrap();
    let header = format!("# v2 git bundle\n-{base}\n{commit} refs/heads/main\n\n");
    fs::write(place.join("header"), header).unwrap();
    fs::write(place.join("manifest.json"), manifest).unwrap();
    let path = by.path().display();
    let make = format!(
        "printf '%s\\n' {commit} '^{base}' | git -C {path} pack-objects -q --revs --thin --stdout > pack\n\
         cat header pack > increment.bundle\n\
         python3 -c 'import sys, zipfile; z = zipfile.ZipFile(\"object\", \"w\"); [z.write(n) for n in sys.argv[1:]]' \
         manifest.json increment.bundle"
    );
    sh(&place, &make);
    testbed::archive::encrypt(&fs::read(place.join("object")).unwrap(), &world.recipients()).unwrap()
}
