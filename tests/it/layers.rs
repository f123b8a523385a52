//! The layers of `src/`: a module imports from lower layers only. `docs/architecture.md` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/`, the lowest layer first.
const LAYERS: [&[&str]; 10] = [
    &["text", "files", "descriptors", "threads", "interrupt", "retries", "memory"],
    &["model", "net", "terminal", "secret"],
    &["plan", "graphql", "progress", "telemetry"],
    &["git"],
    &["artifact", "workdir"],
    &["bucket", "status"],
    &["config", "passes", "publish"],
    &["deliver", "reconcile"],
    &["server"],
    &["commands"],
];

/// What makes a decision depend on more than its arguments.
const IMPURE: [&str; 15] = [
    "tokio",
    "reqwest",
    "tracing",
    "async fn",
    "std::{",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime::now",
    ".elapsed()",
    "println!",
    "parking_lot",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// All source files below `src/` by the module of the crate's root they belong to.
fn files() -> Vec<(String, PathBuf)> {
    let (mut files, mut folders) = (vec![], vec![source()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(source()).unwrap().with_extension("");
            let module = inside.iter().next().unwrap().to_str().unwrap().to_owned();
            // The programs themselves.
            if !["lib", "main", "bin"].contains(&module.as_str()) {
                files.push((module, path));
            }
        }
    }
    files.sort();
    assert!(files.len() > 50, "{} files", files.len());
    files
}

/// Every line of code, without comments, with its number.
fn lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap().to_owned()));
    lines.collect()
}

/// The modules of the crate's root that a line names: `crate::a`, `crate::{a, b::c}`.
fn named(line: &str) -> Vec<String> {
    let mut named = vec![];
    for path in line.split("crate::").skip(1) {
        let list = path.strip_prefix('{').map_or(path, |list| list.split('}').next().unwrap());
        let parts: Vec<_> = if path.starts_with('{') { list.split(',').collect() } else { vec![list] };
        let first =
            |part: &str| part.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
        named.extend(parts.into_iter().map(first));
    }
    named
}

#[test]
fn every_module_has_a_layer() {
    let mut found: Vec<_> = files().into_iter().map(|(module, _)| module).collect();
    found.dedup();
    for module in &found {
        assert!(layer(module).is_some(), "src/{module} has no layer: add it to LAYERS and to docs/architecture.md");
    }
    for module in LAYERS.concat() {
        assert!(found.iter().any(|it| it == module), "there is no src/{module}: remove it from LAYERS");
    }
}

#[test]
fn imports_run_downward() {
    let mut wrong = BTreeMap::new();
    for (module, path) in files() {
        for (number, line) in lines(&path) {
            for other in named(&line) {
                if other == module {
                    continue;
                }
                if layer(&other).is_none_or(|other| Some(other) >= layer(&module)) {
                    let place = format!("{}:{number}", path.strip_prefix(source()).unwrap().display());
                    wrong.insert(place, format!("{module} imports {other}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these imports run upward or sideways: {wrong:#?}\nMove what is shared into a lower layer, or hand it in as an \
         argument; docs/architecture.md says what each layer knows."
    );
}

/// Ways around the reading of imports above.
#[test]
fn no_import_hides() {
    for (_, path) in files() {
        let depth = path.strip_prefix(source()).unwrap().iter().count();
        for (number, line) in lines(&path) {
            let nested = line.split("crate::{").nth(1).is_some_and(|list| list.contains('{'));
            let renamed = line.contains("crate as ");
            // `super` of src/a.rs is the crate's root; inline modules such as tests are one deeper.
            let above = line.matches("super::").count() > depth;
            assert!(
                !(nested || renamed || above),
                "{}:{number}: name what is imported by one plain path from the crate's root",
                path.display()
            );
        }
    }
}

#[test]
fn decisions_depend_on_their_arguments_alone() {
    for (module, path) in files() {
        if module != "model" && module != "plan" {
            continue;
        }
        for (number, line) in lines(&path) {
            let impure = IMPURE.iter().find(|word| line.contains(*word));
            assert_eq!(
                impure,
                None,
                "{}:{number} uses it: model and plan are plain functions. Observe in reconcile, and hand the result in.",
                path.display()
            );
        }
    }
}

#[test]
fn the_document_shows_these_layers() {
    let document = fs::read_to_string(source().join("../docs/architecture.md")).unwrap();
    let rows: Vec<Vec<String>> = document
        .lines()
        .skip_while(|line| *line != "## Layers")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(char::is_numeric))
        .map(|row| {
            let modules = row.split('|').nth(2).unwrap();
            modules.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        })
        .collect();
    let expected: Vec<Vec<String>> =
        LAYERS.iter().rev().map(|layer| layer.iter().map(|module| (*module).to_owned()).collect()).collect();
    assert_eq!(rows, expected, "the table under \"Layers\" in docs/architecture.md, the highest layer first");
}

#[test]
fn the_rules_can_fail() {
    assert_eq!(named("use crate::{plan, bucket::Bucket};"), ["plan", "bucket"]);
    assert_eq!(named("pub(in crate::git) use crate::net::http;"), ["git", "net"]);
    assert!(layer("bucket") > layer("plan") && layer("nowhere").is_none());
}
