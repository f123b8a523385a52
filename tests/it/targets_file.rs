//! `TARGETS_FILE`: the target list in a file, in place of a GraphQL server.

use std::fs;
use std::path::Path;
use std::process::Command;

use testbed::graphql::{ProjectRef, SyncTarget};
use testbed::world::World;

use crate::site::pass_now;
use crate::support::{Daemon, Run, keys, program, wait_until, zip_key};
use crate::targets::{assert_served, assert_untouched, world_with_work};
use crate::webhook::{SECRET, push};

/// The program with the target list in this file.
fn with_file(file: &Path, world: &World, arguments: &[&str]) -> Command {
    let mut command = program(world, arguments);
    for name in ["GRAPHQL_SERVER", "GRAPHQL_USERNAME", "GRAPHQL_PASSWORD"] {
        command.env_remove(name);
    }
    command.env("TARGETS_FILE", file);
    command
}

fn pass_with_file(file: &Path, world: &World) -> Run {
    with_file(file, world, &["-run-once"]).output().unwrap().into()
}

/// A file with these targets, in the form of the server's answer.
fn write_targets(file: &Path, targets: &[SyncTarget]) {
    let part = |part: &ProjectRef| serde_json::json!({ "group": part.group, "name": part.name, "branch": part.branch });
    let components: Vec<_> = targets
        .iter()
        .map(|target| {
            let (from, to) = (part(&target.source), part(&target.destination));
            serde_json::json!({ "gitlabSync": { "sourceProject": from, "destinationProject": to } })
        })
        .collect();
    let answer = serde_json::json!({ "data": { "apps_v1": [{ "codeComponents": components }] } });
    let new = file.with_extension("new");
    fs::write(&new, answer.to_string()).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn a_file_takes_the_place_of_the_server() {
    let world = world_with_work();
    let file = world.scratch().unwrap().join("targets.json");
    write_targets(&file, &world.graphql.targets());
    pass_with_file(&file, &world).succeeded();
    assert_served(&world);

    let check = Run::from(with_file(&file, &world, &["check"]).output().unwrap()).succeeded();
    let named = format!("targets file     {} is a target list: 1 target", file.display());
    assert!(check.out.contains(&named), "{}", check.out);
    let dry = Run::from(with_file(&file, &world, &["-dry-run", "-run-once"]).output().unwrap()).succeeded();
    assert!(dry.out.contains("0 to publish, 0 to retire"), "{}", dry.out);
    assert_eq!(world.graphql.requests().len(), 0);
}

#[test]
fn the_example_file_is_the_one_in_the_document_and_a_target_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples/targets.json");
    let document = fs::read_to_string(root.join("docs/targets.md")).unwrap();
    let shown = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(fs::read_to_string(&example).unwrap(), shown);

    let world = World::start().unwrap();
    for project in ["platform/api", "platform/web/site"] {
        world.project(project).unwrap();
    }
    pass_with_file(&example, &world).succeeded();
    let head = |project| world.source.repo(project).unwrap().head("main").unwrap();
    let mut expected = [
        zip_key("mirror/platform/api", "main", &head("platform/api")),
        zip_key("mirror/platform/website", "production", &head("platform/web/site")),
    ];
    expected.sort();
    assert_eq!(keys(&world), expected);
}

/// The YAML in the document and the example say the same, and the answer of a server that has the YAML is such a file.
#[test]
fn the_entry_in_yaml_is_the_first_one_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/targets.md")).unwrap();
    let yaml = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let value = |key: &str, nth: usize| {
        let line = yaml.lines().filter_map(|line| line.trim().strip_prefix(&format!("{key}: "))).nth(nth);
        line.unwrap_or_else(|| panic!("no {key} in {yaml}")).to_owned()
    };
    let example: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root.join("examples/targets.json")).unwrap()).unwrap();
    let sync = &example["data"]["apps_v1"][0]["codeComponents"][0]["gitlabSync"];
    // The component has a name as well.
    for (side, nth) in [("sourceProject", 0), ("destinationProject", 1)] {
        assert_eq!(sync[side]["group"], value("group", nth));
        assert_eq!(sync[side]["name"], value("name", nth));
        assert_eq!(sync[side]["branch"], value("branch", nth));
    }
    assert!(yaml.lines().count() <= 14, "{yaml}");
}

#[test]
fn a_file_that_is_no_target_list_fails_the_pass_and_changes_nothing() {
    let world = world_with_work();
    let file = world.scratch().unwrap().join("targets.json");
    for (content, reason) in [
        ("", "is not a target list: EOF while parsing a value at line 1 column 0"),
        ("apps: []", "is not a target list: expected value at line 1 column 1"),
        (r#"{"data": {"apps_v1": [{"#, "is not a target list: EOF while parsing an object"),
        (r#"{"data": {"apps_v1": []}, "errors": [{"message": "only a part"}]}"#, "has `errors`"),
        (r#"{"data": {"apps_v1": null}}"#, "has no apps_v1, so it says nothing about the targets"),
        (r#"{"apps_v1": []}"#, "has no data, so it says nothing about the targets"),
        (r#"{"data": {"apps_v1": [{"codecomponents": []}]}}"#, "app 1 has no codeComponents (is it misspelled?"),
        (
            r#"{"data": {"apps_v1": [{"codeComponents": [{"gitlabSynk": {}}]}]}}"#,
            "component 1 of app 1 has no gitlabSync (is it misspelled?",
        ),
    ] {
        fs::write(&file, content).unwrap();
        let run = pass_with_file(&file, &world).failed();
        run.logged("the pass failed and nothing was changed").logged("no target list from TARGETS_FILE").logged(reason);
        assert_untouched(&world);
        let check = Run::from(with_file(&file, &world, &["check"]).output().unwrap()).failed();
        assert!(check.out.contains("✗ targets file") && check.out.contains(reason), "{}", check.out);
        assert!(check.out.contains("→ Correct the file in TARGETS_FILE") || reason.contains("errors"), "{}", check.out);
        world.source.clear_requests();
        world.s3().clear_requests();
    }
}

/// Two apps have lost their lists, as far as the file says: nothing is retired.
#[test]
fn apps_without_components_count_in_a_file_too() {
    let world = World::builder().setting("MAX_RETIRE", "9").start().unwrap();
    let file = world.scratch().unwrap().join("targets.json");
    for name in ["a", "b", "c", "d"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    write_targets(&file, &world.graphql.targets());
    pass_with_file(&file, &world).succeeded();
    let before = keys(&world);
    let sync = r#"{"gitlabSync": {
        "sourceProject": {"name": "a", "group": "near", "branch": "main"},
        "destinationProject": {"name": "a", "group": "far", "branch": "main"}}}"#;
    fs::write(
        &file,
        format!(r#"{{"data": {{"apps_v1": [{{"codeComponents": [{sync}]}}, {{"codeComponents": null}}]}}}}"#),
    )
    .unwrap();
    pass_with_file(&file, &world).failed().logged("retire guard: ").logged("1 more app(s) of the target list");
    assert_eq!(keys(&world), before);
}

#[test]
fn a_daemon_reads_the_file_again_at_each_pass_and_knows_its_pushes() {
    let world = World::builder().sleep("1h").setting("WEBHOOK_SECRET", SECRET).start().unwrap();
    let file = world.scratch().unwrap().join("targets.json");
    let target = |name: &str| SyncTarget::new(&format!("near/{name}"), "main", &format!("far/{name}"), "main");
    let repos = ["one", "two"].map(|name| world.project(&format!("near/{name}")).unwrap());
    let key = |at: usize| zip_key(["far/one", "far/two"][at], "main", &repos[at].head("main").unwrap());
    write_targets(&file, &[target("one")]);
    let daemon = Daemon::spawn(with_file(&file, &world, &[]));
    daemon.wait_until_logged("pass done", 1);
    assert_eq!(keys(&world), [key(0)]);

    write_targets(&file, &[target("one"), target("two")]);
    pass_now(&daemon);
    assert_eq!(keys(&world), [key(0), key(1)]);

    fs::remove_file(&file).unwrap();
    repos[1].commits("main", 1).unwrap();
    push(&daemon, "near/two");
    wait_until("the push is in the bucket", || keys(&world).contains(&key(1)));
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_until_logged("no target list from TARGETS_FILE", 1);
    assert_eq!(keys(&world), [key(0), key(1)], "and everything stays");
}
