//! What the manifests rely on, and what others rely on in them; what the workflows run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use git_partition_sync_producer::config::{CONSUMER, Kind, Manual, PRODUCER, Setting};
use testbed::world::World;

use crate::documents::read;
use crate::site::get;
use crate::support::{Daemon, keys, wait_until};

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
                // Not a picture.
                false => found.extend(fs::read_to_string(&entry).ok().map(|text| (entry, text))),
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

/// What is for both programs at once.
const FOR_BOTH: [&str; 2] = ["helm", "compose"];

/// The manifests of one program: those of the consumer have its name in their path.
fn manifests_of(manual: &Manual) -> Vec<(PathBuf, String)> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let is_consumer_s = |path: &Path| path.strip_prefix(&deploy).unwrap().to_string_lossy().contains("consumer");
    let wanted = manual.program == CONSUMER.program;
    let is_for_one = |path: &Path| {
        let inside = path.strip_prefix(&deploy).unwrap().to_string_lossy();
        !FOR_BOTH.iter().any(|folder| inside.starts_with(folder))
    };
    manifests().into_iter().filter(|(path, _)| is_for_one(path) && is_consumer_s(path) == wanted).collect()
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

/// The variables that a program reads.
fn variables_of(manual: &Manual) -> BTreeSet<&'static str> {
    manual.settings().flat_map(|setting| setting.also.iter().copied().chain([setting.variable])).collect()
}

#[test]
fn every_variable_in_the_compose_file_is_a_setting_of_its_program() {
    let compose = read("deploy/compose.yaml");
    let bucket = compose.split("x-bucket: &bucket\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for (service, manual) in [("producer", PRODUCER), ("consumer", CONSUMER)] {
        let known = variables_of(&manual);
        let own = compose.split(&format!("\n  {service}:\n")).nth(1).unwrap().split("\n\n").next().unwrap();
        let mut found = 0;
        for line in bucket.lines().chain(own.lines()) {
            let Some((name, _)) = line.trim().split_once(": ") else { continue };
            if !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            {
                assert!(known.contains(name), "{service}: {name} is no setting");
                found += 1;
            }
        }
        assert!(found > 8, "{service}: {found} variables found");
    }
}

/// What the chart sets itself, or has a place of its own for, and what is not for a daemon.
const SET_BY_THE_CHART: [&str; 8] = [
    "WORKDIR",
    "METRICS_SERVER_PORT",
    "SHARD_COUNT",
    "SHARD_INDEX",
    "HOSTNAME",
    "RUN_ONCE",
    "DETAILED_EXITCODE",
    "PRIVATE_KEY_FILE",
];

/// So that a misspelt setting is refused, and a new one is not.
#[test]
fn the_schema_of_the_chart_s_values_has_every_setting() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("deploy/helm/git-partition-sync/values.schema.json")).unwrap();
    for (program, manual) in [("producer", PRODUCER), ("consumer", CONSUMER)] {
        let named = |what: &str| -> BTreeSet<String> {
            let names = &schema["properties"][program]["properties"][what]["properties"];
            names.as_object().unwrap().keys().cloned().collect()
        };
        let is_secret = |setting: &&Setting| setting.kind == Kind::Secret;
        let names = |wanted: &dyn Fn(&&Setting) -> bool| -> BTreeSet<String> {
            let left = manual.settings().filter(wanted).map(|setting| setting.variable);
            left.filter(|name| !SET_BY_THE_CHART.contains(name)).map(str::to_owned).collect()
        };
        assert_eq!(named("settings"), names(&|setting| !is_secret(setting)), "{program}.settings in the schema");
        let mut secrets = names(&is_secret);
        // The consumer's identities are a file.
        secrets.remove("PRIVATE_KEY");
        // A login's two halves are one secret.
        secrets.extend((program == "producer").then(|| "GRAPHQL_USERNAME".to_owned()));
        assert_eq!(named("secrets"), secrets, "{program}.secrets in the schema");
    }
    let templates = files_below("deploy/helm/git-partition-sync/templates");
    let known: BTreeSet<_> = [PRODUCER, CONSUMER].iter().flat_map(variables_of).collect();
    let set: Vec<_> = templates.iter().flat_map(|(_, text)| text.lines()).filter_map(variable).collect();
    assert!(set.len() > 4 && set.iter().all(|name| known.contains(name)), "{set:?}");
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
        ],
        unused: &[
            "INTERNAL_CERTIFICATES_IMAGE",
            "INTERNAL_CERTIFICATES_IMAGE_TAG",
            "INTERNAL_CERTIFICATES_IMAGE_PULL_POLICY",
        ],
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

/// A signal that reaches the demo's script alone, as from a supervisor: the programs here only wait.
#[test]
fn a_signal_to_the_demo_s_script_ends_all_that_it_has_started() {
    let root = tempfile::tempdir().unwrap();
    let (inside, temporary) = (|name: &str| root.path().join(name), root.path().join("tmp"));
    ["scripts", "bin", "target/debug/examples", "tmp"].iter().for_each(|it| fs::create_dir_all(inside(it)).unwrap());
    let waits = "#!/bin/sh\nsleep 600 &\necho $$ $! > \"$STARTED.new\" && mv \"$STARTED.new\" \"$STARTED\"\nwait\n";
    let programs = ["scripts/setup", "bin/cargo", "target/debug/examples/demo"];
    for (signal, waiting) in [("TERM", 0), ("TERM", 1), ("TERM", 2), ("INT", 2), ("HUP", 2)] {
        for (number, program) in programs.iter().enumerate() {
            fs::write(inside(program), if number == waiting { waits } else { "#!/bin/sh\n" }).unwrap();
            fs::set_permissions(inside(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(inside("scripts/demo"), read("scripts/demo")).unwrap();
        let path = format!("{}:{}", inside("bin").display(), std::env::var("PATH").unwrap());
        // Bash cannot trap a signal that was ignored when it began, as HUP is below `nohup`.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT,HUP,TERM", "bash"])
            .arg(inside("scripts/demo"))
            .env("PATH", path)
            .env("STARTED", inside("started"));
        command.env("TMPDIR", &temporary).env_remove("CARGO_TARGET_DIR");
        let mut script = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the program has started", || inside("started").exists());
        let started = fs::read_to_string(inside("started")).unwrap();
        fs::remove_file(inside("started")).unwrap();
        let id = script.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        assert!(!script.wait().unwrap().success());
        for id in started.split_whitespace() {
            // A process that nobody has waited for yet is a Z.
            let stat = || fs::read_to_string(format!("/proc/{id}/stat"));
            wait_until("it has ended", || stat().map_or(true, |stat| stat.contains(") Z ")));
        }
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the demo's folder is still there");
    }
}

/// Under `latest` the registry may have another program, which takes the same settings and would act on them.
#[test]
fn the_image_has_the_version_wherever_it_is_named() {
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut found = 0;
    let documents = files_below("docs").into_iter().chain([(PathBuf::from("README.md"), read("README.md"))]);
    let documents = documents.filter(|(path, _)| path.extension().is_some_and(|it| it == "md"));
    for (path, text) in manifests().into_iter().chain(documents) {
        for before in ["git-partition-sync-producer:", "?ref=", "newTag: ", "IMAGE_TAG=", "appVersion: ", "/blob/"] {
            for rest in
                text.split(before).skip(1).filter(|rest| rest.starts_with(['v', 'l']) && !rest.starts_with("v2"))
            {
                assert!(rest.starts_with(tag), "{}: {before}{}", path.display(), rest.split('\n').next().unwrap());
                found += 1;
            }
        }
    }
    assert!(found > 50, "{found} versions found");
    for Template { path, .. } in TEMPLATES {
        let default = format!("value: \"{tag}\"\n  - name: INTERNAL");
        assert!(read(path).contains(&default), "{path}: IMAGE_TAG has another default");
    }
    let chart = read("deploy/helm/git-partition-sync/Chart.yaml");
    assert!(chart.contains(&format!("\nversion: {}\n", &tag[1..])), "{chart}");
}

/// Whoever follows these must not run another organisation's image, or ask its registry. `OWNER` is no organisation: names of
/// images have no capital letters.
#[test]
fn the_owner_of_image_and_repository_is_one_placeholder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["deploy", "docs", "scripts", ".github"].into_iter().flat_map(files_below);
    let files = ["README.md", "SECURITY.md", "Dockerfile", "Makefile"].map(|name| (root.join(name), read(name)));
    let mut named = 0;
    for (path, text) in folders.chain(files) {
        for line in text.lines() {
            // This line of the README is a contract.
            let is_kept = path.ends_with("README.md") && line.ends_with("-dry-run=true -run-once=true");
            assert!(is_kept || !line.contains("quay.io/"), "{}: {line}", path.display());
            for place in ["ghcr.io/", "github.com/"] {
                for rest in line.split(place).skip(1).filter(|rest| rest.contains("/git-partition-sync-producer")) {
                    let owner = rest.split('/').next().unwrap();
                    // The chart's examples and the script that copies the kustomizations have put one in.
                    let is_example =
                        path.starts_with(root.join("deploy/helm/git-partition-sync/ci")) && owner == "acme";
                    let is_variable = owner.starts_with(['$', '{']);
                    assert!(owner == "OWNER" || is_example || is_variable, "{}: {line}", path.display());
                    named += 1;
                }
            }
        }
    }
    assert!(named > 20, "{named} names found");
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

/// A registry that wants the token that it gives everybody, as Docker Hub does; its address. It answers until the test ends.
fn registry(digest: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let own = address.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut lines = stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let request = lines.next().unwrap_or_default();
            let has_token = lines.filter(|line| line == "Authorization: Bearer for-everybody").count() == 1;
            let challenge =
                format!("Www-Authenticate: Bearer realm=\"http://{own}/token\",service=\"r\",scope=\"pull\"\r\n");
            let (status, headers, body) = match request.split(' ').nth(1).unwrap_or_default() {
                "/token?service=r&scope=pull" => ("200 OK", String::new(), r#"{"token":"for-everybody"}"#),
                "/v2/library/rust/manifests/1" | "/v2/library/debian/manifests/12" if has_token => {
                    ("200 OK", format!("Docker-Content-Digest: {digest}\r\n"), "")
                }
                path if path.ends_with("/1") || path.ends_with("/12") => ("401 Unauthorized", challenge, ""),
                _ => ("404 Not Found", String::new(), ""),
            };
            let length = body.len();
            write!(stream.get_mut(), "HTTP/1.0 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    address
}

#[test]
fn base_images_are_pinned_to_the_digests_that_their_registry_says() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let registry = registry(digest.clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Dockerfile");
    let original = read("Dockerfile")
        .replace("docker.io/library/rust:1.95-slim-bookworm", &format!("{registry}/library/rust:1"))
        .replace("docker.io/library/debian:bookworm-slim", &format!("{registry}/library/debian:12"));
    let pin = |mode: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pin-images")).args(mode).arg(&path);
        let output = command.env("no_proxy", "127.0.0.1").output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), said)
    };
    // What the checkout has, or has not, must not matter here.
    let unpinned: String = original
        .lines()
        .map(|line| if line.contains("_DIGEST=") { line.split_inclusive('=').next().unwrap() } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(&path, &unpinned).unwrap();

    for mode in ["--pinned", "--check"] {
        let (good, said) = pin(&[mode]);
        assert!(!good, "{mode}: {said}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), unpinned, "it was only asked");
    let (good, said) = pin(&[]);
    assert!(good && said.contains(&digest), "{said}");
    let pinned = fs::read_to_string(&path).unwrap();
    assert_eq!(pinned, unpinned.replace("_DIGEST=\n", &format!("_DIGEST=@{digest}\n")));
    for mode in ["--pinned", "--check"] {
        let (good, said) = pin(&[mode]);
        assert!(good, "{mode}: {said}");
    }

    // What cannot be asked stays as it is.
    fs::write(&path, pinned.replace("/library/debian:12", "/library/debian:13")).unwrap();
    let before = fs::read_to_string(&path).unwrap();
    let (good, said) = pin(&[]);
    assert!(!good && said.contains("does not say its digest: HTTP Error 404"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
}
