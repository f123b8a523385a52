//! A world has everything the program needs, and nothing from this machine.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Result;
use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::run;

#[test]
fn the_environment_is_complete_and_closed() -> Result<()> {
    let world = World::builder().recipients(2).sleep("300ms").setting("MAX_RETIRE", "1").start()?;
    let variables: BTreeMap<String, String> = world.env().into_iter().collect();
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "AWS_ACCESS_KEY_ID",
            "AWS_ENDPOINT_URL_S3",
            "AWS_REGION",
            "AWS_S3_BUCKET",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITLAB_BASE_URL",
            "GITLAB_TOKEN",
            "GITLAB_USERNAME",
            "GRAPHQL_PASSWORD",
            "GRAPHQL_SERVER",
            "GRAPHQL_USERNAME",
            "MAX_RETIRE",
            "METRICS_SERVER_ADDRESS",
            "METRICS_SERVER_PORT",
            "PATH",
            "PUBLIC_KEY",
            "RECONCILE_SLEEP_TIME",
            "WORKDIR",
        ]
    );
    assert_eq!(variables["PUBLIC_KEY"].split(',').count(), 2);
    assert!(variables["PUBLIC_KEY"].starts_with("age1"));
    let printed = run(&mut world.command("env"))?;
    assert_eq!(printed.lines().count(), names.len());
    assert!(world.secrets().iter().all(|secret| secret.contains("secret")));
    Ok(())
}

#[test]
fn projects_and_targets_come_and_go() -> Result<()> {
    let world = World::start()?;
    let one = world.project("src/a/one")?;
    let two = world.project("src/b/one")?;
    assert_ne!(one.head("main"), two.head("main"));
    assert_eq!(world.project("src/a/one")?.head("main"), one.head("main"));
    let destination = world.sync("src/a/one", "main", "dst/one", "rel")?;
    assert_eq!(destination.head("rel"), None);
    assert_eq!(world.graphql.targets(), [SyncTarget::new("src/a/one", "main", "dst/one", "rel")]);
    world.unsync("dst/one", "rel");
    assert_eq!(world.graphql.targets(), []);
    Ok(())
}

#[test]
fn identities_decrypt_what_recipients_get() -> Result<()> {
    let world = World::builder().recipients(3).start()?;
    let scratch = world.scratch()?;
    std::fs::write(scratch.join("plain"), "content")?;
    let mut age = Command::new("age");
    for recipient in world.recipients() {
        age.args(["-r", recipient]);
    }
    run(age.arg("-o").arg(scratch.join("encrypted")).arg(scratch.join("plain")))?;
    let encrypted = std::fs::read(scratch.join("encrypted"))?;
    for identity in world.identity_files() {
        assert_eq!(testbed::judge::age_decrypt(&encrypted, identity)?, b"content");
    }
    Ok(())
}
