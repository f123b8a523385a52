//! curl against the GraphQL server.

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};
use testbed::graphql::{Canned, GraphqlOptions, GraphqlServer, SaasTarget, SyncTarget};

use crate::run;

const QUERY: &str = "{ apps_v1 { name path codeComponents { gitlabSync { \
     sourceProject { name group branch } destinationProject { name group branch } } } } }";

fn post(url: &str, query: &str, arguments: &[&str]) -> Result<(u16, String)> {
    let body = json!({ "query": query }).to_string();
    let printed = run(Command::new("curl")
        .args(["-s", "-w", "\n%{http_code}", "-H", "Content-Type: application/json", "--data", &body])
        .args(arguments)
        .arg(url))?;
    let (body, status) = printed.rsplit_once('\n').unwrap_or_default();
    Ok((status.parse()?, body.to_owned()))
}

#[test]
fn answers_hold_targets_among_nulls() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    server.set_targets(vec![
        SyncTarget::new("src/group/name", "main", "dst/name", "rel/1"),
        SyncTarget::new("a/b", "main", "c/d", "main"),
    ]);
    let (status, body) = post(&server.url(), QUERY, &[])?;
    let answer: Value = serde_json::from_str(&body)?;
    assert_eq!(status, 200);
    assert!(answer["extensions"]["schemas"].is_array());
    assert!(answer.get("errors").is_none());
    let apps = answer["data"]["apps_v1"].as_array().cloned().unwrap_or_default();
    assert!(apps.iter().any(|app| app["codeComponents"].is_null()));
    let components: Vec<&Value> = apps.iter().filter_map(|app| app["codeComponents"].as_array()).flatten().collect();
    assert!(components.iter().any(|component| component["gitlabSync"].is_null()));
    let syncs: Vec<&Value> =
        components.iter().map(|component| &component["gitlabSync"]).filter(|sync| !sync.is_null()).collect();
    assert_eq!(syncs.len(), 2);
    assert_eq!(syncs[0]["sourceProject"], json!({ "name": "name", "group": "src/group", "branch": "main" }));
    assert_eq!(syncs[0]["destinationProject"], json!({ "name": "name", "group": "dst", "branch": "rel/1" }));
    Ok(())
}

#[test]
fn an_empty_bundle_is_an_empty_list() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    let (_, body) = post(&server.url(), QUERY, &[])?;
    assert_eq!(serde_json::from_str::<Value>(&body)?["data"], json!({ "apps_v1": [] }));
    Ok(())
}

#[test]
fn a_misspelt_field_is_an_error() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    let (status, body) = post(&server.url(), "{ apps_v1 { nam } }", &[])?;
    assert_eq!(status, 400);
    assert!(body.contains("errors") && body.contains("nam"), "{body}");
    Ok(())
}

#[test]
fn named_queries_need_no_operation_name_and_the_log_has_the_body() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    let (status, _) = post(&server.url(), &format!("query AnyName {QUERY}"), &[])?;
    assert_eq!(status, 200);
    assert!(server.requests()[0].body_text().contains("AnyName"));
    assert!(!server.requests()[0].body_text().contains("operationName"));
    Ok(())
}

#[test]
fn bundles_are_found_by_sha() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    server.set_bundle("abc", vec![SyncTarget::new("old/one", "main", "old/two", "main")]);
    assert!(post(&server.sha_url("abc"), QUERY, &[])?.1.contains("old"));
    assert!(!post(&server.url(), QUERY, &[])?.1.contains("old"));
    assert_eq!(post(&server.sha_url("def"), QUERY, &[])?.0, 404);
    Ok(())
}

#[test]
fn basic_credentials_are_wanted() -> Result<()> {
    let basic = Some(("u".to_owned(), "p".to_owned()));
    let server = GraphqlServer::start(GraphqlOptions { basic, port: 0 })?;
    assert_eq!(post(&server.url(), QUERY, &[])?.0, 401);
    assert_eq!(post(&server.url(), QUERY, &["-u", "u:x"])?.0, 401);
    assert_eq!(post(&server.url(), QUERY, &["-u", "u:p"])?.0, 200);
    Ok(())
}

#[test]
fn canned_answers_come_as_often_as_asked() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    server.respond_with(Canned::html(503).times(2).header("Retry-After", "1"));
    let (status, body) = post(&server.url(), QUERY, &["-i"])?;
    assert_eq!(status, 503);
    assert!(body.to_lowercase().contains("retry-after: 1") && body.contains("<html>"), "{body}");
    assert_eq!(post(&server.url(), QUERY, &[])?.0, 503);
    assert_eq!(post(&server.url(), QUERY, &[])?.0, 200);

    server.respond_with(Canned::errors("something broke"));
    for _ in 0..3 {
        let (status, body) = post(&server.url(), QUERY, &[])?;
        assert_eq!(status, 200);
        assert!(body.contains("something broke"));
    }
    server.respond_normally();
    assert!(!post(&server.url(), QUERY, &[])?.1.contains("broke"));
    Ok(())
}

#[test]
fn saas_files_are_answered() -> Result<()> {
    let server = GraphqlServer::start(GraphqlOptions::default())?;
    let target = |namespace: &str| SaasTarget {
        saas_file: "saas-git-sync".to_owned(),
        resource_template: "producer".to_owned(),
        reference: "0123456".to_owned(),
        namespace: namespace.to_owned(),
    };
    server.set_saas_targets(vec![target("stage"), target("production")]);
    let query = "{ saas_files_v2 { name resourceTemplates { name targets { ref namespace { name } } } } }";
    let (_, body) = post(&server.url(), query, &[])?;
    assert_eq!(
        serde_json::from_str::<Value>(&body)?["data"]["saas_files_v2"],
        json!([{ "name": "saas-git-sync", "resourceTemplates": [{ "name": "producer", "targets": [
            { "ref": "0123456", "namespace": { "name": "stage" } },
            { "ref": "0123456", "namespace": { "name": "production" } },
        ] }] }]),
    );
    Ok(())
}
