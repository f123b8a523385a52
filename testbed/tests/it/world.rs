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
    let secrets = world.secrets();
    assert!(secrets.iter().all(|secret| secret.to_lowercase().contains("secret")));
    for identity in world.identity_files() {
        assert!(secrets.contains(&std::fs::read_to_string(identity)?.trim().to_owned()), "each identity is a secret");
    }
    Ok(())
}

#[test]
fn the_consumer_has_an_environment_of_its_own() -> Result<()> {
    let world = World::builder()
        .recipients(2)
        .setting("MAX_RETIRE", "1")
        .consumer_setting("ON_REWRITE", "hold")
        .consumer_setting("RECONCILE_SLEEP_TIME", "5s")
        .start()?;
    let variables: BTreeMap<String, String> = world.consumer_env().into_iter().collect();
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
            "METRICS_SERVER_ADDRESS",
            "METRICS_SERVER_PORT",
            "ON_REWRITE",
            "PATH",
            "PRIVATE_KEY",
            "RECONCILE_SLEEP_TIME",
            "WORKDIR",
        ]
    );
    let producer: BTreeMap<String, String> = world.env().into_iter().collect();
    for name in ["GITLAB_BASE_URL", "GITLAB_TOKEN", "GITLAB_USERNAME", "RECONCILE_SLEEP_TIME", "WORKDIR"] {
        assert_ne!(variables[name], producer[name], "{name}");
    }
    assert_eq!(variables["PRIVATE_KEY"], std::fs::read_to_string(world.identity_file())?.trim());
    assert_eq!(run(&mut world.consumer_command("env"))?.lines().count(), names.len());
    Ok(())
}

#[test]
fn the_consumer_takes_all_identities_from_a_file() -> Result<()> {
    let world = World::builder().recipients(2).identities_in_file().start()?;
    let variables: BTreeMap<String, String> = world.consumer_env().into_iter().collect();
    assert!(!variables.contains_key("PRIVATE_KEY"));
    let identities = std::fs::read_to_string(&variables["PRIVATE_KEY_FILE"])?;
    assert_eq!(identities.lines().count(), 2);
    for recipient in world.recipients() {
        let encrypted = testbed::archive::encrypt(b"content", &[recipient])?;
        assert_eq!(testbed::judge::age_decrypt(&encrypted, variables["PRIVATE_KEY_FILE"].as_ref())?, b"content");
    }
    Ok(())
}

#[test]
fn the_far_gitlab_is_a_strict_one() -> Result<()> {
    let world = World::start()?;
    let source = world.project("near/app")?;
    assert_eq!(world.far_head("far/app", "main"), None);
    world.destination.group("far")?;
    let push = |reference: &str| -> Result<std::process::Output> {
        let mut git = crate::git(world.destination.user(), world.destination.password());
        git.arg("-C").arg(source.path()).args(["push", "-q", &world.destination.clone_url("far/app"), reference]);
        Ok(git.output()?)
    };
    assert!(push("main")?.status.success(), "the project is made by the push");
    assert_eq!(world.far_head("far/app", "main"), source.head("main"));
    let tree = source.git(&["rev-parse", "main^{tree}"])?;
    std::fs::write(world.scratch()?.join("commit"), format!("tree {tree}\n\nnobody wrote this\n"))?;
    let file = world.scratch()?.join("commit").to_string_lossy().into_owned();
    let commit = source.git(&["hash-object", "-w", "--literally", "-t", "commit", &file])?;
    source.git(&["update-ref", "refs/heads/odd", &commit])?;
    let refused = push("odd")?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("missingAuthor"), "{refused:?}");
    assert_eq!(world.far_head("far/app", "odd"), None);
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
