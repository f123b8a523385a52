//! The way in: the commands of the documents that bring both programs up, run as they are written against servers of one's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use testbed::world::World;

use crate::documents::{blocks, read, sh};
use crate::support::{Daemon, Run};

/// What only a test needs: its S3 server is not AWS, and its ports are taken by others.
const OF_THE_TEST: [&str; 5] =
    ["AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "METRICS_SERVER_ADDRESS", "METRICS_SERVER_PORT", "PATH"];

/// The block of a document that holds these words.
#[track_caller]
fn block(document: &str, words: &str) -> String {
    let found: Vec<_> = blocks(&read(document)).into_iter().filter(|block| block.commands.contains(words)).collect();
    let [only] = &found[..] else { panic!("{} blocks of {document} have {words:?}", found.len()) };
    only.commands.clone()
}

/// Runs the commands of a block one after the other, with the settings that the block exports and no others. What is exported
/// gets its value from `values`. Returns what each command printed; a daemon prints its log.
#[track_caller]
fn run_block(commands: &str, values: &[(String, String)]) -> Vec<Run> {
    let values: BTreeMap<&str, &str> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let lines: Vec<&str> = commands.lines().map(|line| line.split("  #").next().unwrap().trim()).collect();
    let exported = lines.iter().filter_map(|line| line.strip_prefix("export ")).flat_map(|line| line.split(' '));
    let names = exported.map(|word| word.split('=').next().unwrap()).chain(OF_THE_TEST);
    let settings: BTreeMap<&str, &str> = names.filter_map(|name| Some((name, *values.get(name)?))).collect();
    let mut runs = vec![];
    for line in lines.iter().filter(|line| !line.is_empty() && !line.starts_with("export ")) {
        let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let path = match program {
            "git-partition-sync-producer" => env!("CARGO_BIN_EXE_git-partition-sync-producer"),
            "git-partition-sync-consumer" => env!("CARGO_BIN_EXE_git-partition-sync-consumer"),
            other => panic!("{other} is neither program"),
        };
        let mut command = Command::new(path);
        command.args(arguments.split_whitespace()).env_clear().envs(&settings);
        if arguments.is_empty() {
            let daemon = Daemon::spawn(command);
            daemon.wait_until_logged("pass done", 1);
            runs.push(daemon.stop().succeeded());
        } else {
            runs.push(Run::from(command.output().unwrap()).succeeded());
        }
    }
    runs
}

/// Servers with what the example of a target list names.
fn world() -> (World, String) {
    let world = World::start().unwrap();
    for project in ["platform/api", "platform/web/site"] {
        world.project(project).unwrap();
    }
    world.destination.group("mirror/platform").unwrap();
    (world, format!("{}/examples/targets.json", env!("CARGO_MANIFEST_DIR")))
}

#[track_caller]
fn assert_arrived(world: &World) {
    for (near, far, branch) in [
        ("platform/api", "mirror/platform/api", "main"),
        ("platform/web/site", "mirror/platform/website", "production"),
    ] {
        assert_eq!(world.far_head(far, branch), world.source.repo(near).unwrap().head("main"), "{far}");
    }
}

fn with(mut values: Vec<(String, String)>, further: &[(&str, String)]) -> Vec<(String, String)> {
    values.extend(further.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    values
}

#[test]
fn the_quick_start_works_as_it_is_written() {
    let (world, targets) = world();
    let place = world.scratch().unwrap();
    let said = sh(&place, &format!("exec 2>&1\n{}", block("README.md", "age-keygen -o")));
    let public = said.rsplit_once("age1").map(|(_, key)| format!("age1{}", key.trim())).unwrap();

    let near = with(world.env(), &[("PUBLIC_KEY", public), ("TARGETS_FILE", targets)]);
    let runs = run_block(&block("README.md", "export PUBLIC_KEY"), &near);
    let [check, preview, daemon] = &runs[..] else { panic!("{} commands", runs.len()) };
    assert!(check.out.contains('✓') && !check.out.contains('✗'), "{}", check.out);
    assert!(preview.out.contains("2 to publish"), "{}", preview.out);
    assert_eq!(daemon.lines_with("published mirror/platform/").len(), 2, "{}", daemon.log);

    let key = place.join("far-side.key").to_string_lossy().into_owned();
    let far = with(world.consumer_env(), &[("PRIVATE_KEY_FILE", key)]);
    let runs = run_block(&block("README.md", "export PRIVATE_KEY_FILE"), &far);
    let [check, preview, daemon] = &runs[..] else { panic!("{} commands", runs.len()) };
    assert!(check.out.contains('✓') && !check.out.contains('✗'), "{}", check.out);
    assert!(preview.out.contains("2 to push"), "{}", preview.out);
    assert_eq!(daemon.lines_with("delivered mirror/platform/").len(), 2, "{}", daemon.log);
    assert_arrived(&world);
}

#[test]
fn a_target_list_in_a_file_is_tried_as_it_is_written() {
    let (world, targets) = world();
    let commands = block("docs/targets.md", "export TARGETS_FILE");
    // The other settings are those of the quick start.
    let others = block("README.md", "export PUBLIC_KEY");
    let others: String =
        others.lines().filter(|line| line.starts_with("export ")).map(|line| line.to_owned() + "\n").collect();
    let runs = run_block(&(others + &commands), &with(world.env(), &[("TARGETS_FILE", targets)]));
    let [check, preview] = &runs[..] else { panic!("{} commands", runs.len()) };
    assert!(check.out.contains("2 targets"), "{}", check.out);
    assert!(preview.out.contains("2 to publish"), "{}", preview.out);
}

#[test]
fn the_consumer_s_quick_start_works_as_it_is_written() {
    let (world, targets) = world();
    let near = with(world.env(), &[("TARGETS_FILE", targets)]);
    let commands = block("README.md", "export PUBLIC_KEY") + "git-partition-sync-producer -run-once\n";
    run_block(&commands, &near);
    let key = world.identity_file().to_string_lossy().into_owned();
    let far = with(world.consumer_env(), &[("PRIVATE_KEY_FILE", key)]);
    let runs = run_block(&block("docs/consumer.md", "export PRIVATE_KEY_FILE"), &far);
    let [check, preview, once, list, signatures, _] = &runs[..] else { panic!("{} commands", runs.len()) };
    assert!(check.out.contains('✓') && !check.out.contains('✗'), "{}", check.out);
    assert!(preview.out.contains("2 to push"), "{}", preview.out);
    assert_eq!(once.lines_with("delivered mirror/platform/").len(), 2, "{}", once.log);
    assert!(list.out.contains("mirror/platform/website@production"), "{}", list.out);
    assert!(signatures.out.contains("unsigned"), "{}", signatures.out);
    assert_arrived(&world);
}

/// Every block of commands in a document says which test runs it, or why none does.
#[test]
fn every_command_of_the_documents_is_run_or_says_why_not() {
    let sources = sources(Path::new("tests")) + &sources(Path::new("examples")) + &sources(Path::new("testbed/tests"));
    let makefile = read("Makefile");
    let mut problems = vec![];
    let mut documents = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    let folder = std::fs::read_dir("docs").unwrap().map(|file| file.unwrap().path().to_string_lossy().into_owned());
    documents.extend(folder.filter(|path| path.ends_with(".md")));
    let mut seen = 0;
    for document in documents {
        for block in blocks(&read(&document)) {
            seen += 1;
            let place = format!("{document}:{}", block.line);
            let Some(said) = block.comment else {
                problems.push(format!("{place}: no comment `Run by …` or `Not run: …` above it"));
                continue;
            };
            if let Some(by) = said.strip_prefix("Run by `").and_then(|rest| rest.split('`').next()) {
                let is_there = match by.strip_prefix("make ") {
                    Some(goal) => makefile.contains(&format!("\n{goal}:")),
                    None => sources.contains(&format!("fn {by}(")),
                };
                if !is_there {
                    problems.push(format!("{place}: there is no {by}"));
                }
            } else if !said.starts_with("Not run: ") {
                problems.push(format!("{place}: {said}"));
            }
        }
    }
    assert!(seen > 30, "{seen} blocks");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// All Rust sources in a folder, one after the other.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &std::fs::read_to_string(&path).unwrap();
        }
    }
    all
}
