//! The target list: how it is asked for, and what becomes of answers that are not what they should be.

use std::fs;
use std::thread;
use std::time::Duration;

use testbed::fault::ClosedPort;
use testbed::graphql::{Canned, GraphqlOptions, GraphqlServer, ProjectRef, SyncTarget};
use testbed::world::World;

use crate::support::{Run, keys, pass, pass_with, program, run, s3_writes, zip_key};

/// A good answer, if it is a whole one.
const EMPTY: &str = r#"{"data": {"apps_v1": []}}"#;
const OLD_COMMIT: &str = "00000000000000000000000000000000000000aa";

/// A world with something to publish and something to retire, with nothing that would hold a pass back.
pub fn world_with_work() -> World {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.s3().put(&zip_key("far/unwanted", "main", OLD_COMMIT), "older");
    world
}

/// What the world with work is like once a pass was good.
#[track_caller]
pub fn assert_served(world: &World) {
    let head = world.source.repo("near/p").unwrap().head("main").unwrap();
    assert_eq!(keys(world), [zip_key("far/p", "main", &head)]);
}

/// What the world with work is like while no pass was good.
#[track_caller]
pub fn assert_untouched(world: &World) {
    assert_eq!(s3_writes(world), [""; 0]);
    assert_eq!(keys(world), [zip_key("far/unwanted", "main", OLD_COMMIT)]);
    assert_eq!(world.source.requests().len(), 0, "no target is looked at");
}

#[test]
fn the_query_is_sent_with_basic_authentication_and_without_an_operation_name() {
    let world = world_with_work();
    pass(&world).succeeded();
    assert_served(&world);
    let requests = world.graphql.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].authorization);
    let body: serde_json::Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["query"]);
}

#[test]
fn an_anonymous_query_and_one_of_another_name_work() {
    let world = world_with_work();
    let file = world.scratch().unwrap().join("query.graphql");
    let fields = "{ apps_v1 { codeComponents { gitlabSync {
        sourceProject { name group branch } destinationProject { name group branch } } } } }";
    for head in ["", "query ", "query SomethingElse "] {
        fs::write(&file, format!("{head}{fields}")).unwrap();
        world.s3().put(&zip_key("far/unwanted", "main", OLD_COMMIT), "older");
        pass_with(&world, "GRAPHQL_QUERY_FILE", file.to_str().unwrap()).succeeded();
        assert_served(&world);
    }
}

/// Query files of the Go program's deployments are written like this one: anonymous, with aliases and fragments.
#[test]
fn a_query_file_of_the_go_program_works_as_it_is() {
    let world = world_with_work();
    let file = world.scratch().unwrap().join("gitlabSync.graphql");
    let query = "# What is to be synchronised.
{
  apps: apps_v1 {
    name
  }
  apps_v1: apps_v1 {
    components: codeComponents {
      url
    }
    codeComponents {
      gitlabSync {
        ... on CodeComponentGitlabSync_v1 {
          sourceProject { ...side },
          destinationProject { ... on CodeComponentGitlabSyncProject_v1 { branch, group, name } }
        }
      }
    }
  }
}

fragment side on CodeComponentGitlabSyncProject_v1 { name, group, branch }
";
    fs::write(&file, query).unwrap();
    pass_with(&world, "GRAPHQL_GLSYNC_QUERY_FILE", file.to_str().unwrap()).succeeded();
    assert_served(&world);
    let sent: serde_json::Value = serde_json::from_slice(&world.graphql.requests()[0].body).unwrap();
    assert_eq!(sent["query"], query, "it is sent to the byte");
}

#[test]
fn the_pair_dev_dev_and_no_pair_at_all_send_no_authentication() {
    for pair in [None, Some(("dev", "dev"))] {
        let mut builder = World::builder().open_graphql();
        if let Some((user, password)) = pair {
            builder = builder.setting("GRAPHQL_USERNAME", user).setting("GRAPHQL_PASSWORD", password);
        }
        let world = builder.start().unwrap();
        pass(&world).succeeded();
        assert_eq!(world.graphql.requests().len(), 1);
        assert!(!world.graphql.requests()[0].authorization);
    }
}

#[test]
fn an_older_bundle_can_be_asked_for() {
    let world = world_with_work();
    world.graphql.set_bundle("0123abcd", world.graphql.targets());
    world.graphql.set_targets(vec![]);
    pass_with(&world, "GRAPHQL_SERVER", &world.graphql.sha_url("0123abcd")).succeeded();
    assert_served(&world);
}

#[test]
fn nulls_among_the_components_are_no_targets() {
    let world = world_with_work();
    world.graphql.respond_with(Canned::json(
        r#"{"data": {"apps_v1": [
            {"codeComponents": null},
            {"codeComponents": []},
            {"codeComponents": [{"gitlabSync": null}, {"gitlabSync": {
                "sourceProject": {"name": "p", "group": "near", "branch": "main"},
                "destinationProject": {"name": "p", "group": "far", "branch": "main"}}}]}
        ]}, "extensions": {"schemas": []}}"#,
    ));
    pass(&world).succeeded();
    assert_served(&world);
}

#[test]
fn names_that_cannot_be_used_are_reported_and_the_rest_is_served() {
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let repo = world.project("near/p").unwrap();
    let good = SyncTarget::new("near/p", "main", "far/good", "main");
    let part = |group: &str, name: &str, branch: &str| ProjectRef {
        group: group.to_owned(),
        name: name.to_owned(),
        branch: branch.to_owned(),
    };
    let source = |destination: &str, group: &str, name: &str, branch: &str| SyncTarget {
        source: part(group, name, branch),
        ..SyncTarget::new("near/p", "main", destination, "main")
    };
    let destination =
        |group: &str, name: &str, branch: &str| SyncTarget { destination: part(group, name, branch), ..good.clone() };
    let bad = [
        (source("far/1", "near/..", "p", "main"), "source project \"near/../p\""),
        (source("far/2", "near", "", "main"), "source project \"near/\""),
        (source("far/3", "near", "-p", "main"), "source project \"near/-p\""),
        (source("far/4", "near", "p", "a..b"), "source branch \"a..b\""),
        (source("far/5", "near", "p", "-b"), "source branch \"-b\""),
        (source("far/6", "near", "p", ""), "source branch \"\""),
        (destination("/far", "7", "main"), "destination group \"/far\""),
        (destination("far", ".", "main"), "destination project \".\""),
        (destination("far\u{7}", "8", "main"), "destination group \"far\\u{7}\""),
        (destination("far", "9", "x.lock"), "destination branch \"x.lock\""),
        (destination("far", "10", "two words"), "destination branch \"two words\""),
    ];
    let mut targets = vec![good];
    let mut expected = vec![zip_key("far/good", "main", &repo.head("main").unwrap())];
    for (target, _) in &bad {
        let ProjectRef { group, name, branch } = &target.destination;
        let json =
            serde_json::json!({"group": group, "project_name": name, "commit_sha": OLD_COMMIT, "branch": branch});
        let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, json.to_string()) + ".zip.age";
        world.s3().put(&key, "older");
        expected.push(key);
        targets.push(target.clone());
    }
    world.graphql.set_targets(targets);

    let run = pass(&world).failed();

    expected.sort();
    assert_eq!(keys(&world), expected);
    for (_, problem) in &bad {
        // Inside quotes in the log.
        let quoted = problem.replace('\\', r"\\").replace('"', "\\\"");
        assert_eq!(run.lines_with(&format!("the {quoted}")).len(), 1, "{problem}\n{}", run.log);
    }
    assert_eq!(run.lines_with("blocked: ").len(), bad.len(), "{}", run.log);
}

#[test]
fn identical_targets_are_one() {
    let world = world_with_work();
    let target = world.graphql.targets().remove(0);
    world.graphql.set_targets(vec![target.clone(), target.clone(), target]);
    pass(&world).succeeded();
    assert_served(&world);
    assert_eq!(s3_writes(&world).iter().filter(|operation| *operation == "PutObject").count(), 1);
}

#[test]
fn two_sources_for_one_destination_are_both_reported_and_nothing_happens_to_it() {
    let world = world_with_work();
    world.project("near/rival").unwrap();
    world.sync("near/p", "main", "far/contested", "main").unwrap();
    world.sync("near/rival", "main", "far/contested", "main").unwrap();
    let old = zip_key("far/contested", "main", OLD_COMMIT);
    world.s3().put(&old, "older");

    let run = pass(&world).failed();

    let head = world.source.repo("near/p").unwrap().head("main").unwrap();
    let mut expected = vec![zip_key("far/p", "main", &head), old];
    expected.sort();
    assert_eq!(keys(&world), expected);
    let lines = run.lines_with("blocked: far/contested@main");
    assert!(!lines.is_empty(), "{}", run.log);
    for source in ["near/p@main", "near/rival@main"] {
        assert!(lines.iter().all(|line| line.contains(source)), "{}", run.log);
    }
}

#[test]
fn destinations_that_differ_only_in_case_are_rivals_and_both_objects_stay() {
    let world = world_with_work();
    world.project("near/rival").unwrap();
    world.sync("near/p", "main", "far/Contested", "main").unwrap();
    world.sync("near/rival", "main", "FAR/contested", "main").unwrap();
    let old = ["far/Contested", "FAR/contested", "far/contested"].map(|name| zip_key(name, "main", OLD_COMMIT));
    old.iter().for_each(|key| world.s3().put(key, "older"));

    let run = pass(&world).failed();

    let mut expected = vec![zip_key("far/p", "main", &world.source.repo("near/p").unwrap().head("main").unwrap())];
    expected.extend(old);
    expected.sort();
    assert_eq!(keys(&world), expected, "and what is spelled in a third way could be either");
    for name in ["far/Contested@main", "FAR/contested@main"] {
        let lines = run.lines_with(&format!("blocked: {name}"));
        assert_eq!(lines.len(), 1, "{}", run.log);
        assert!(lines[0].contains("GitLab ignores case in paths"), "{}", lines[0]);
    }
}

#[test]
fn many_rivals_with_long_names_are_one_short_line() {
    let world = world_with_work();
    let mut targets = world.graphql.targets();
    for n in 0..2_000 {
        targets.push(SyncTarget::new(&format!("near/{}{n}", "p".repeat(300)), "main", "far/contested", "main"));
    }
    world.graphql.set_targets(targets);
    let run = run(&world, &["-run-once", "-output=json"]).failed();
    assert_eq!(run.lines_with("blocked: far/contested@main").len(), 1);
    assert!(run.log.contains("2000 targets name this destination") && run.log.contains("and 1997 more"), "{}", run.log);
    assert!(run.log.len() < 10_000 && run.out.len() < 10_000, "{} and {} bytes", run.log.len(), run.out.len());
}

#[test]
fn a_name_of_a_megabyte_is_refused_in_few_words() {
    let world = world_with_work();
    let mut targets = world.graphql.targets();
    targets.push(SyncTarget::new("near/p", "main", &format!("far/{}", "x".repeat(1 << 20)), "main"));
    world.graphql.set_targets(targets);
    let run = run(&world, &["-run-once", "-output=json"]).failed().logged("is longer than 1024 bytes");
    assert!(run.log.len() < 10_000 && run.out.len() < 10_000, "{} and {} bytes", run.log.len(), run.out.len());
    assert_served(&world);
}

/// What was in the bucket stays although a target is written wrongly, and goes once the list says what it means.
#[test]
fn what_a_target_with_a_typo_could_mean_stays() {
    let part = |group: &str, name: &str, branch: &str| ProjectRef {
        group: group.to_owned(),
        name: name.to_owned(),
        branch: branch.to_owned(),
    };
    let typos = [
        part("far/", "p", "main"),
        part("far", "/p", "main"),
        part("", "far/p", "main"),
        part("far", "p", "main "),
        part("far ", "p", "main"),
        part("far", "p", "-main"),
    ];
    let world = World::builder().setting("MAX_RETIRE", "100%").start().unwrap();
    let repo = world.project("near/p").unwrap();
    let good = SyncTarget::new("near/p", "main", "far/p", "main");
    world.graphql.set_targets(vec![good.clone()]);
    pass(&world).succeeded();
    let old = keys(&world);
    for typo in typos {
        world.graphql.set_targets(vec![SyncTarget { destination: typo.clone(), ..good.clone() }]);
        pass(&world).failed().logged("destinations without a target are kept for now");
        assert_eq!(keys(&world), old, "{typo:?}");
    }
    // The branch is another one on both sides, and does not exist.
    world.graphql.set_targets(vec![SyncTarget::new("near/p", "mian", "far/p", "mian")]);
    pass(&world).failed().logged("near/p has no branch mian");
    assert_eq!(keys(&world), old);
    repo.branch_from("mian", "main").unwrap();
    pass(&world).succeeded().logged("published far/p@mian");
    pass(&world).succeeded().logged("retired far/p@main");
    assert_eq!(keys(&world), [zip_key("far/p", "mian", &repo.head("mian").unwrap())]);
}

#[test]
fn an_answer_that_is_no_target_list_fails_the_pass_and_changes_nothing() {
    let world = world_with_work();
    let html = Canned::html;
    for (answer, reason) in [
        (Canned::errors("the bundle is gone"), "the server reports: the bundle is gone"),
        (
            Canned::json(r#"{"data": {"apps_v1": []}, "errors": [{"message": "only a part"}]}"#),
            "the server reports: only a part",
        ),
        (Canned::json(r#"{"data": null}"#), "the answer has no data"),
        (Canned::json("{}"), "the answer has no data"),
        (Canned::json(r#"{"data": {"apps_v1": null}}"#), "the answer has no apps_v1"),
        (Canned::json(r#"{"data": {}}"#), "the answer has no apps_v1"),
        (Canned::json(r#"{"data": {"apps_v1": [{"#), "is not what the query asks for"),
        (Canned::json(r#"{"data": {"apps_v1": [{"codeComponents": 5}]}}"#), "is not what the query asks for"),
        (Canned::json(""), "is not what the query asks for"),
        (html(200), "the answer (text/html) is not what the query asks for"),
        (Canned { status: 204, ..Canned::json("") }, "the server answered 204 No Content"),
        // A part of a list, a proxy's idea of one, and one that is promised for later.
        (Canned { status: 206, ..Canned::json(EMPTY) }, "the server answered 206 Partial Content"),
        (Canned { status: 203, ..Canned::json(EMPTY) }, "the server answered 203 Non Authoritative Information"),
        (Canned { status: 202, ..Canned::json(EMPTY) }, "the server answered 202 Accepted"),
        (html(400), "the server answered 400 Bad Request"),
        (html(403), "the server answered 403 Forbidden"),
        (html(404), "the server answered 404 Not Found"),
    ] {
        world.graphql.clear_requests();
        world.graphql.respond_with(answer.clone());
        pass(&world).failed().logged("no target list from GRAPHQL_SERVER").logged(reason);
        assert_eq!(world.graphql.requests().len(), 1, "{answer:?} is not asked for again");
        assert_untouched(&world);
    }
    world.graphql.respond_normally();
    pass(&world).succeeded();
    assert_served(&world);
}

#[test]
fn a_wrong_password_is_not_tried_again() {
    let world = World::builder().setting("GRAPHQL_PASSWORD", "not-the-password").start().unwrap();
    let log = pass(&world).failed().logged("401 Unauthorized").log;
    assert!(!log.contains("not-the-password"), "{log}");
    assert_eq!(world.graphql.requests().len(), 1);
}

#[test]
fn a_query_that_the_server_does_not_understand_is_not_tried_again() {
    let world = world_with_work();
    let file = world.scratch().unwrap().join("query.graphql");
    fs::write(&file, "{ apps_v1 { noSuchField } }").unwrap();
    pass_with(&world, "GRAPHQL_QUERY_FILE", file.to_str().unwrap()).failed().logged("400 Bad Request");
    assert_eq!(world.graphql.requests().len(), 1);
    assert_untouched(&world);
}

#[test]
fn a_server_error_is_passed_over_when_a_later_attempt_succeeds() {
    for times in [1, 3] {
        let world = world_with_work();
        world.graphql.respond_with(Canned::html(500).times(times));
        pass(&world).succeeded();
        assert_served(&world);
        assert_eq!(world.graphql.requests().len(), times as usize + 1);
    }
}

#[test]
fn a_server_that_stays_broken_or_away_fails_the_pass_and_changes_nothing() {
    let closed = ClosedPort::new().unwrap();
    let nobody = format!("{}/graphql", closed.url());
    let broken = |answer: Option<Canned>, reason: &'static str| {
        let nobody = nobody.clone();
        move || {
            let world = world_with_work();
            let mut command = program(&world, &["-run-once"]);
            match &answer {
                Some(answer) => world.graphql.respond_with(answer.clone()),
                None => drop(command.env("GRAPHQL_SERVER", &nobody)),
            }
            Run::from(command.output().unwrap()).failed().logged("no target list from GRAPHQL_SERVER").logged(reason);
            assert_untouched(&world);
            if answer.is_some() {
                assert!(world.graphql.requests().len() > 1);
            }
        }
    };
    // Together, for they spend their time waiting.
    let cases = [
        thread::spawn(broken(Some(Canned::html(500)), "the server answered 500 Internal Server Error")),
        thread::spawn(broken(Some(Canned::html(502)), "the server answered 502 Bad Gateway")),
        thread::spawn(broken(None, "no connection to the server")),
    ];
    let panicked = cases.into_iter().map(thread::JoinHandle::join).filter(Result::is_err).count();
    assert_eq!(panicked, 0);
}

#[test]
fn a_server_that_asks_for_patience_gets_it() {
    let world = world_with_work();
    let busy = Canned { status: 429, ..Canned::html(429) }.header("Retry-After", "1").times(2);
    world.graphql.respond_with(busy);
    pass(&world).succeeded();
    assert_served(&world);
    let times: Vec<_> = world.graphql.requests().iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 3);
    for pair in times.windows(2) {
        assert!(pair[1].duration_since(pair[0]).unwrap() >= Duration::from_secs(1), "{times:?}");
    }
}

#[test]
fn a_redirect_to_another_server_is_refused_without_a_request_to_it() {
    let world = world_with_work();
    let other = GraphqlServer::start(GraphqlOptions::default()).unwrap();
    for status in [301, 302, 307, 308] {
        let elsewhere = Canned::html(status).header("Location", &other.url());
        world.graphql.respond_with(elsewhere);
        pass(&world).failed().logged("it is another server");
        assert_untouched(&world);
    }
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn a_source_branch_too_long_for_a_request_blocks_only_itself() {
    let world = World::start().unwrap();
    let repo = world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.sync("near/p", "a/".repeat(33_000).trim_end_matches('/'), "far/p", "other").unwrap();
    let run = pass(&world).failed();
    assert!(run.log.contains("longer than 1024 bytes"));
    assert_eq!(keys(&world), [zip_key("far/p", "main", &repo.head("main").unwrap())]);
}

#[test]
fn a_server_that_asks_for_an_endless_pause_fails_the_pass_and_not_the_program() {
    let world = world_with_work();
    world.graphql.respond_with(Canned::html(503).header("Retry-After", &u64::MAX.to_string()));
    pass(&world).failed().logged("503");
    assert_untouched(&world);
}
