//! The check of a pull request: a change that is none of this program's costs two queries and nothing else.

use std::fs;
use std::path::Path;

use git_partition_sync_producer::config::reference;
use git_partition_sync_producer::graphql::pr_check::BUILT_IN_QUERY;
use testbed::graphql::{Canned, SaasTarget, SyncTarget};
use testbed::world::World;

use crate::support::{Run, keys, pass, program, workdir_files};

const PREVIOUS: &str = "7a1b3c";
const SAAS_FILE: &str = "saas-git-partition-sync-producer";

fn saas(file: &str, template: &str, reference: &str) -> SaasTarget {
    SaasTarget {
        saas_file: file.to_owned(),
        resource_template: template.to_owned(),
        reference: reference.to_owned(),
        namespace: "producer-production".to_owned(),
    }
}

fn deployed() -> Vec<SaasTarget> {
    vec![saas(SAAS_FILE, "producer", "main"), saas(SAAS_FILE, "producer", "0a1b2c"), saas("saas-other", "x", "main")]
}

/// A world whose previous bundle is the same as its current one, with the definitions in another order.
fn unchanged_world() -> World {
    let world = World::start().unwrap();
    for name in ["one", "two", "three", "four"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let mut before = world.graphql.targets();
    before.reverse();
    world.graphql.set_bundle(PREVIOUS, before);
    world.graphql.set_saas_targets(deployed());
    world.graphql.set_bundle_saas_targets(PREVIOUS, deployed());
    world
}

fn check_with(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = program(world, arguments);
    command.env("PREVIOUS_BUNDLE_SHA", PREVIOUS).envs(variables.iter().copied());
    command.output().expect("the program starts").into()
}

fn check(world: &World) -> Run {
    check_with(world, &[], &["-dry-run=true", "-run-once=true"])
}

#[track_caller]
fn assert_left_at_once(world: &World, run: Run) {
    let run = run.succeeded().logged("nothing to do");
    assert_eq!(run.out, "");
    assert_eq!(world.source.requests().len() + world.s3().requests().len(), 0);
    assert_eq!(workdir_files(world).len(), 0);
    let mut asked: Vec<_> = world.graphql.requests().into_iter().map(|request| request.path).collect();
    asked.sort();
    assert_eq!(asked, ["/graphql".to_owned(), format!("/graphqlsha/{PREVIOUS}")]);
}

#[track_caller]
fn assert_goes_on(run: Run, why: &str) {
    assert!(run.succeeded().logged(why).out.contains("4 to publish") || why.contains("definitions=true"));
}

#[test]
fn nothing_happens_where_neither_targets_nor_deployment_changed() {
    let world = unchanged_world();
    assert_left_at_once(&world, check(&world));
}

#[test]
fn the_same_holds_for_a_pass_and_for_the_daemon() {
    for arguments in [&["-run-once"][..], &["-dry-run=false", "-run-once=false"]] {
        let world = unchanged_world();
        assert_left_at_once(&world, check_with(&world, &[], arguments));
    }
}

#[test]
fn changed_target_is_followed_by_what_was_asked_for() {
    let changes: [fn(&mut Vec<SyncTarget>); 4] = [
        |targets| drop(targets.pop()),
        |targets| targets.push(SyncTarget::new("near/one", "main", "far/five", "main")),
        |targets| targets[0].source.branch = "stable".to_owned(),
        |targets| targets[0].destination.branch = "stable".to_owned(),
    ];
    for change in changes {
        let world = unchanged_world();
        let mut before = world.graphql.targets();
        change(&mut before);
        world.graphql.set_bundle(PREVIOUS, before);
        assert_goes_on(check(&world), "definitions=true deployment=false");
        assert_eq!(keys(&world), [""; 0], "a dry run stays one");
        check_with(&world, &[], &["-run-once"]).succeeded();
        assert_eq!(keys(&world).len(), 4);
    }
}

#[test]
fn changed_deployment_is_followed_by_what_was_asked_for() {
    for (reference, at) in [("other", 0), ("main", 1)] {
        let world = unchanged_world();
        let mut before = deployed();
        before[at].reference = reference.to_owned();
        world.graphql.set_bundle_saas_targets(PREVIOUS, before);
        assert_goes_on(check(&world), "definitions=false deployment=true");
    }
    let world = unchanged_world();
    world.graphql.set_bundle_saas_targets(PREVIOUS, vec![]);
    assert_goes_on(check(&world), "definitions=false deployment=true");
}

#[test]
fn two_deployments_that_change_places_are_a_change() {
    let world = unchanged_world();
    let mut before = deployed();
    before.swap(0, 1);
    world.graphql.set_bundle_saas_targets(PREVIOUS, before);
    assert_goes_on(check(&world), "definitions=false deployment=true");

    // The same references in the same order, in another template.
    let world = unchanged_world();
    let mut before = deployed();
    before[1].resource_template = "producer-of-another-kind".to_owned();
    world.graphql.set_bundle_saas_targets(PREVIOUS, before);
    assert_goes_on(check(&world), "definitions=false deployment=true");
}

/// The image has the query there, as the Go program's image has.
#[test]
fn the_default_query_file_is_the_one_in_the_image() {
    let settings = reference().iter().flat_map(|section| section.settings);
    let setting = settings.into_iter().find(|setting| setting.variable == "GRAPHQL_PRCHECK_QUERY_FILE").unwrap();
    assert!(setting.default.to_string().starts_with("/queries/prCheck.graphql"), "{}", setting.default);
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let constant = "const DEFAULT_PRCHECK_QUERY_FILE: &str = \"/queries/prCheck.graphql\";";
    assert!(read("src/config/reference.rs").contains(constant), "what is read is not what is documented");
    assert!(read("Dockerfile").contains("queries/pr_check.graphql /image/queries/prCheck.graphql"));
}

#[test]
fn deployments_of_others_do_not_count() {
    let world = unchanged_world();
    let mut before = deployed();
    before[2].reference = "other".to_owned();
    world.graphql.set_bundle_saas_targets(PREVIOUS, before.clone());
    assert_left_at_once(&world, check(&world));
    let run = check_with(&world, &[("GIT_PARTITION_SAAS_NAME", "saas-other")], &["-dry-run", "-run-once"]);
    assert_goes_on(run, "deployment=true");
    let run = check_with(&world, &[("GIT_PARTITION_SAAS_NAME", "saas-misspelt")], &["-dry-run", "-run-once"]);
    run.succeeded().logged("neither bundle has a SaaS file of the name in GIT_PARTITION_SAAS_NAME");
}

#[test]
fn a_bundle_that_cannot_be_read_is_a_failure_and_no_agreement() {
    let world = unchanged_world();
    let run = check_with(&world, &[("PREVIOUS_BUNDLE_SHA", "ffff")], &["-run-once"]).failed();
    run.logged("cannot read the previous bundle").logged("/graphqlsha/ffff").logged("404");
    for answer in [
        Canned::errors("the bundle is being built"),
        Canned::html(502).times(1_000),
        Canned::json(r#"{"data":{"saas_files":[]}}"#),
        Canned::json(r#"{"data":{"apps_v1":[],"saas_files":null}}"#),
    ] {
        if answer.status == 502 {
            // Answers like this one are tried again for a minute; one that comes right in the end is good.
            world.graphql.respond_with(answer.times(1));
            check(&world).succeeded().logged("nothing to do");
            continue;
        }
        world.graphql.respond_with(answer);
        check(&world).failed().logged("the pull-request check cannot read the");
    }
    assert_eq!(keys(&world), [""; 0]);
    world.graphql.respond_normally();
    pass(&world).succeeded();
}

#[test]
fn query_of_the_operator_is_sent_as_it_is() {
    let world = unchanged_world();
    let file = world.scratch().unwrap().join("prCheck.graphql");
    // As older query files are: anonymous, with fragments, aliases and commas.
    let sync = ["sourceProject", "destinationProject"]
        .map(|side| format!("{side} {{ ... on CodeComponentGitlabSyncProject_v1 {{ name group branch }} }}"));
    let sync = sync.join(" ");
    let query = format!(
        "{{ saas_files: saas_files_v2 {{ name resourceTemplates {{ targets {{ ref }} }} }},\n apps_v1: apps_v1 {{ \
         codeComponents {{ gitlabSync {{ ... on CodeComponentGitlabSync_v1 {{ {sync} }} }} }} }} }}\n"
    );
    fs::write(&file, &query).unwrap();
    let named = [("GRAPHQL_PRCHECK_QUERY_FILE", file.to_str().unwrap())];
    assert_left_at_once(&world, check_with(&world, &named, &["-run-once"]));
    let sent = |request: &testbed::http::RequestRecord| -> String {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        body["query"].as_str().unwrap().to_owned()
    };
    assert!(world.graphql.requests().iter().all(|request| sent(request) == query));

    world.graphql.clear_requests();
    check(&world).succeeded();
    assert!(world.graphql.requests().iter().all(|request| sent(request) == BUILT_IN_QUERY));
}

#[test]
fn settings_of_the_check_are_looked_at_only_for_one() {
    let world = unchanged_world();
    let wrong = [("GRAPHQL_PRCHECK_QUERY_FILE", "/nowhere")];
    let run = check_with(&world, &wrong, &["-run-once"]).refused();
    run.logged("GRAPHQL_PRCHECK_QUERY_FILE: cannot read /nowhere");
    let run = check_with(&world, &[("PREVIOUS_BUNDLE_SHA", "../graphql")], &["-run-once"]).refused();
    run.logged("PREVIOUS_BUNDLE_SHA: ");
    assert_eq!(world.graphql.requests().len(), 0);
    let mut command = program(&world, &["-run-once"]);
    Run::from(command.envs(wrong).env("PREVIOUS_BUNDLE_SHA", "").output().unwrap()).succeeded();
    assert_eq!(keys(&world).len(), 4);
}
