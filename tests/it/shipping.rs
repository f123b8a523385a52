//! What the manifests rely on, and what others rely on in them; what the workflows run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use git_partition_sync_producer::config::{CONSUMER, Manual, PRODUCER};
use testbed::world::World;

use crate::site::get;
use crate::support::{Daemon, keys, wait_until};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every manifest under deploy/.
fn manifests() -> Vec<(PathBuf, String)> {
    let found = files_below("deploy");
    assert!(found.len() > 5, "{found:#?}");
    found
}

/// Every file of a folder of this repository, with its text.
fn files_below(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => walk(&entry, found),
                false => found.push((entry.clone(), fs::read_to_string(&entry).unwrap())),
            }
        }
    }
    let mut found = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    found
}

/// What looks like a variable's name and stands where one stands: `- name: NAME`, `- NAME=value` or `NAME=value`.
fn variable(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("- ");
    let name = line.strip_prefix("name: ").or_else(|| line.split_once('=').map(|(name, _)| name))?;
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'))
        .then_some(name)
}

/// The manifests of one program: those of the consumer have its name in their path.
fn manifests_of(manual: &Manual) -> Vec<(PathBuf, String)> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let is_consumer_s = |path: &Path| path.strip_prefix(&deploy).unwrap().to_string_lossy().contains("consumer");
    let wanted = manual.program == CONSUMER.program;
    manifests().into_iter().filter(|(path, _)| is_consumer_s(path) == wanted).collect()
}

#[test]
fn every_variable_in_a_manifest_is_a_setting() {
    let producer = ["GITLAB_TOKEN", "AWS_S3_BUCKET", "PUBLIC_KEY", "SHARD_COUNT", "GRAPHQL_SERVER", "WORKDIR"];
    let consumer =
        ["GITLAB_TOKEN", "AWS_S3_BUCKET", "PRIVATE_KEY", "PRIVATE_KEY_FILE", "INTERNAL_GIT_CA_PATH", "WORKDIR"];
    for (manual, needed) in [(PRODUCER, producer), (CONSUMER, consumer)] {
        let known: BTreeSet<_> =
            manual.settings().flat_map(|setting| setting.also.iter().copied().chain([setting.variable])).collect();
        let mut used = BTreeSet::new();
        for (path, text) in manifests_of(&manual) {
            // Of a template the parameters have names of their own.
            let text = text.split("\nparameters:").next().unwrap();
            for name in text.lines().filter_map(variable) {
                assert!(known.contains(name), "{}: {name} is no setting", path.display());
                used.insert(name.to_owned());
            }
        }
        for needed in needed {
            assert!(used.contains(needed), "no manifest of {} sets {needed}", manual.program.name());
        }
    }
}

#[test]
fn every_flag_in_a_manifest_is_one() {
    for manual in Manual::ALL {
        let flags: BTreeSet<_> = manual.settings().filter_map(|setting| setting.flag).collect();
        let mut found = 0;
        for (path, text) in manifests_of(&manual) {
            for line in text.lines().filter(|line| line.trim_start().starts_with("args: [\"-")) {
                for word in line.split('"').filter(|word| word.starts_with('-')) {
                    let name = word.trim_start_matches('-').split('=').next().unwrap();
                    assert!(flags.contains(name), "{}: -{name} is no flag", path.display());
                    found += 1;
                }
            }
        }
        assert!(found >= 2, "{found} flags of {} found", manual.program.name());
    }
}

/// A template, and what deployments of the Go program of that name set and hold. These names are theirs: a copy of the
/// template's would follow a mistake in it.
struct Template {
    path: &'static str,
    parameters: &'static [&'static str],
    /// Parameters that are accepted, and have no use.
    unused: &'static [&'static str],
    /// The parameter that names a secret, and the keys in it.
    secrets: &'static [(&'static str, &'static [&'static str])],
}

const TEMPLATES: [Template; 2] = [
    Template {
        path: "deploy/openshift/producer.yaml",
        parameters: &[
            "IMAGE",
            "IMAGE_TAG",
            "RECONCILE_SLEEP_TIME",
            "DRY_RUN",
            "RUN_ONCE",
            "GRAPHQL_GLSYNC_QUERY_FILE",
            "GRAPHQL_PRCHECK_QUERY_FILE",
            "GIT_PARTITION_SAAS_NAME",
            "VOLUME_PATH",
            "WORKDIR",
            "MEMORY_REQUESTS",
            "MEMORY_LIMIT",
            "CPU_REQUESTS",
            "CPU_LIMIT",
            "REPLICAS",
            "GQL_SECRET_NAME",
            "VAULT_SECRET_NAME",
            "INTERNAL_CERTIFICATES_IMAGE",
        ],
        unused: &[],
        secrets: &[
            (
                "VAULT_SECRET_NAME",
                &[
                    "aws.access.key.id",
                    "aws.secret.access.key",
                    "aws.region",
                    "aws.s3.bucket",
                    "gitlab.url",
                    "gitlab.username",
                    "gitlab.token",
                    "public.key",
                ],
            ),
            ("GQL_SECRET_NAME", &["endpoint_url", "username", "password"]),
        ],
    },
    Template {
        path: "deploy/openshift/consumer.yaml",
        parameters: &[
            "IMAGE",
            "IMAGE_TAG",
            "RECONCILE_SLEEP_TIME",
            "DRY_RUN",
            "RUN_ONCE",
            "VOLUME_PATH",
            "WORKDIR",
            "REPLICAS",
            "MEMORY_REQUESTS",
            "MEMORY_LIMIT",
            "CPU_REQUESTS",
            "CPU_LIMIT",
            "VAULT_SECRET_NAME",
        ],
        unused: &["INTERNAL_CERT_INIT_IMAGE", "INTERNAL_CERT_INIT_IMAGE_TAG", "INTERNAL_CERT_INIT_IMAGE_PULL_POLICY"],
        secrets: &[(
            "VAULT_SECRET_NAME",
            &[
                "aws.access.key.id",
                "aws.secret.access.key",
                "aws.region",
                "aws.s3.bucket",
                "gitlab.url",
                "gitlab.username",
                "gitlab.token",
                "private.key",
            ],
        )],
    },
];

#[test]
fn each_template_has_the_parameters_and_secret_keys_that_the_go_program_s_has() {
    for Template { path, parameters, unused, secrets } in TEMPLATES {
        let template = read(path);
        let (objects, declared) = template.split_once("\nparameters:\n").unwrap();
        for parameter in parameters.iter().chain(unused) {
            assert!(declared.contains(&format!("  - name: {parameter}\n")), "{path}: no parameter {parameter}");
            let used = [format!("${{{parameter}}}"), format!("${{{{{parameter}}}}}")];
            let is_used = used.iter().any(|used| objects.contains(used));
            assert_eq!(is_used, !unused.contains(parameter), "{path}: {parameter} is used, or not");
        }
        for (secret, keys) in secrets {
            for key in *keys {
                let reference = format!("name: ${{{secret}}}\n                      key: {key}\n");
                assert!(objects.contains(&reference), "{path}: the key {key} of ${{{secret}}} is not read");
            }
        }
    }
}

/// The image starts the producer, so whatever runs the consumer says so.
#[test]
fn the_consumer_s_manifests_name_its_program() {
    let mut found = 0;
    for (path, text) in manifests_of(&CONSUMER).into_iter().filter(|(_, text)| text.contains("kind: Deployment")) {
        let command = format!("command: [\"/usr/local/bin/{}\"]", CONSUMER.program.name());
        assert!(text.contains(&command), "{}: no {command}", path.display());
        found += 1;
    }
    assert_eq!(found, 2);
    assert!(read("Dockerfile").contains(&format!("/image/usr/local/bin/{} ", CONSUMER.program.name())));
}

/// Under `latest` the registry may have another program, which takes the same settings and would act on them.
#[test]
fn the_image_has_the_version_wherever_it_is_named() {
    let tag = format!(":v{}", env!("CARGO_PKG_VERSION"));
    let mut found = 0;
    let documents = ["README.md", "docs/consumer.md", "docs/migration.md", "docs/operations.md", "docs/scaling.md"];
    let documents = documents.map(|path| (PathBuf::from(path), read(path)));
    for (path, text) in manifests().into_iter().chain(documents) {
        for rest in text.split("app-sre/git-partition-sync-producer").skip(1).filter(|rest| rest.starts_with(':')) {
            assert!(rest.starts_with(&tag), "{}: an image that is not {tag}", path.display());
            found += 1;
        }
        for line in text.lines().filter(|line| line.contains("newTag: ") || line.contains("IMAGE_TAG=")) {
            assert!(line.contains(&tag[1..]), "{}: {line}", path.display());
        }
    }
    assert!(found > 3, "{found} images found");
    for Template { path, .. } in TEMPLATES {
        let default = format!("value: \"{}\"\n  - name: INTERNAL", &tag[1..]);
        assert!(read(path).contains(&default), "{path}: IMAGE_TAG has another default");
    }
}

#[test]
fn a_bill_of_materials_lists_what_is_in_the_program_and_nothing_that_only_tests_it() {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3").arg("scripts/sbom").arg(&target).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bill: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(bill["spdxVersion"], "SPDX-2.3");
    let names: BTreeSet<_> =
        bill["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
    for linked in ["git-partition-sync-producer", "age", "git2", "libgit2-sys", "rustls", "tar"] {
        assert!(names.contains(linked), "{linked} is not in it");
    }
    for other in ["testbed", "proptest", "criterion", "serde_derive", "syn", "zip"] {
        assert!(!names.contains(other), "{other} is in it");
    }
}

#[test]
fn every_action_in_a_workflow_is_pinned_by_its_commit() {
    let mut found = 0;
    for (path, text) in files_below(".github/workflows") {
        for line in text.lines() {
            let Some((_, action)) = line.split_once("uses:") else { continue };
            let commit =
                action.trim().split_once('@').and_then(|(_, rest)| rest.split_once(" # v")).map(|(commit, _)| commit);
            let is_commit = |commit: &str| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(commit.is_some_and(is_commit), "{}: {action} is not pinned", path.display());
            found += 1;
        }
    }
    assert!(found > 8, "{found} actions found");
}

#[test]
fn dry_run_that_goes_on_answers_probes() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let daemon = Daemon::start(&world, &["-dry-run"]);
    assert_eq!(get(&daemon, "/healthz").status, 200);
    wait_until("the first plan is there", || get(&daemon, "/readyz").status == 200);
    daemon.stop().succeeded();
    assert_eq!(keys(&world), [""; 0]);
}
