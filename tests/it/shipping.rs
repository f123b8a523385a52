//! What the manifests rely on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use git_partition_sync_producer::config::reference;
use testbed::world::World;

use crate::site::get;
use crate::support::{Daemon, keys, wait_until};

/// Every manifest under deploy/.
fn manifests() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => walk(&entry, found),
                false => found.push((entry.clone(), fs::read_to_string(&entry).unwrap())),
            }
        }
    }
    let mut found = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"), &mut found);
    assert!(found.len() > 5, "{found:#?}");
    found
}

/// What looks like a variable's name and stands where one stands: `- name: NAME`, `- NAME=value` or `NAME=value`.
fn variable(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("- ");
    let name = line.strip_prefix("name: ").or_else(|| line.split_once('=').map(|(name, _)| name))?;
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'))
        .then_some(name)
}

#[test]
fn every_variable_in_a_manifest_is_a_setting() {
    let settings: Vec<_> = reference().iter().flat_map(|section| section.settings).collect();
    let known: BTreeSet<_> =
        settings.iter().flat_map(|setting| setting.also.iter().copied().chain([setting.variable])).collect();
    let mut used = BTreeSet::new();
    for (path, text) in manifests() {
        // Of a template the parameters have names of their own.
        let text = text.split("\nparameters:").next().unwrap();
        for name in text.lines().filter_map(variable) {
            assert!(known.contains(name), "{}: {name} is no setting", path.display());
            used.insert(name.to_owned());
        }
    }
    for needed in ["GITLAB_TOKEN", "AWS_S3_BUCKET", "PUBLIC_KEY", "SHARD_COUNT", "GRAPHQL_SERVER", "WORKDIR"] {
        assert!(used.contains(needed), "no manifest sets {needed}");
    }
}

#[test]
fn every_flag_in_a_manifest_is_one() {
    let flags: BTreeSet<_> =
        reference().iter().flat_map(|section| section.settings).filter_map(|setting| setting.flag).collect();
    let mut found = 0;
    for (path, text) in manifests() {
        for line in text.lines().filter(|line| {
            line.trim_start().trim_start_matches("- ").starts_with("args:") || line.contains("value: [\"-")
        }) {
            for word in line.split('"').filter(|word| word.starts_with('-')) {
                let name = word.trim_start_matches('-').split('=').next().unwrap();
                assert!(flags.contains(name), "{}: -{name} is no flag", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 3, "{found} flags found");
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
