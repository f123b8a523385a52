//! The far side's workloads: this consumer beside what app-sre's consumer does with outside programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use git_partition_sync_producer::model::key::{self, ArchiveFormat, CommitId, Destination};
use testbed::archive::{self, Naming, Packs};
use testbed::cpu;
use testbed::world::{World, WorldBuilder};

use crate::measure::{Cage, Measured, fresh, measure, rounds};
use crate::rivals::{self, CONSUMER};
use crate::workloads::{CAGE_BYTES, Contestants, PROBES, copy, deep, incompressible, print, projects};

/// How many repositories the rival works on at the same time.
const RIVAL_PARALLEL: usize = 4;
const GIT_PUSH: &str = "git push of the same pack";
/// The size of F5's repository, in MB.
const HUGE_MB: usize = 700;

/// A world whose S3 keeps what it is given.
fn world() -> World {
    started(World::builder())
}

fn started(builder: WorldBuilder) -> World {
    let world = builder.consumer_setting("PROBE_CONCURRENCY", &PROBES.to_string()).start().unwrap();
    world.destination.group("far").unwrap();
    world
}

/// Puts the head of each project into the bucket, as the producer does, in this format; returns the keys.
fn publish(world: &World, projects: &[String], format: ArchiveFormat) -> Vec<String> {
    let format = if format == ArchiveFormat::Zip { "zip" } else { "tar.gz" };
    let published = rivals::ours(world, &[("ARCHIVE_FORMAT", format)]).output().unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    let keys = world.s3().keys();
    assert_eq!(keys.len(), projects.len());
    keys
}

/// One pass of this consumer.
pub fn ours(world: &World) -> Command {
    let mut command = world.consumer_command(CONSUMER);
    command.arg("-run-once");
    command
}

fn far_path(project: &str) -> String {
    project.replacen("near", "far", 1)
}

/// Takes everything away that arrived over there, and what the consumer keeps.
fn forget(world: &World, projects: &[String]) -> std::path::PathBuf {
    for project in projects {
        let _ = world.destination.remove(&far_path(project));
    }
    let _ = fs::remove_dir_all(world.consumer_workdir());
    fresh(world.scratch().unwrap())
}

/// What the Go consumer does with each object: download, decrypt, untar, check out, push with force.
fn rival(world: &World, objects: &[(String, String)], dir: &Path) -> Command {
    let s3 = world.s3_endpoint();
    let list: String = objects.iter().map(|(key, project)| format!("{key} {project}\n")).collect();
    fs::write(dir.join("objects"), list).unwrap();
    let one = format!(
        "set -e; d={dir}/$(echo \"$2\" | tr / _); mkdir $d; {get} -o $d.age \"{endpoint}/{bucket}/$(echo \"$1\" | sed \"s/=/%3D/g;s/+/%2B/g\")\"; \
         age -d -i {identity} -o $d.tar $d.age; rm $d.age; tar -xzf $d.tar -C $d; rm $d.tar; cd $d; \
         git remote add fedramp {url}/$2.git; git checkout -q main; git push -q fedramp main --force; cd /; rm -rf $d",
        dir = dir.display(),
        get = curl(world),
        endpoint = s3.endpoint,
        bucket = s3.bucket,
        identity = world.identity_file().display(),
        url = world.destination.url(),
    );
    let script = dir.join("one");
    fs::write(&script, one).unwrap();
    shell(
        world,
        &format!("xargs -P {RIVAL_PARALLEL} -L 1 sh {} < {}", with_arguments(&script), dir.join("objects").display()),
    )
}

/// `sh FILE` takes its arguments from `xargs`.
fn with_arguments(script: &Path) -> String {
    script.display().to_string()
}

/// `git push` of the same history from a bare repository that is on the disk already.
fn bare_push(world: &World, project: &str) -> Command {
    let near = world.source.repo_path(project);
    let url = format!("{}/{}.git", world.destination.url(), far_path(project));
    shell(world, &format!("git --git-dir {} push -q {url} main --force", near.display()))
}

/// The object alone, onto the disk.
fn download(world: &World, key: &str, dir: &Path) -> Command {
    let (s3, file) = (world.s3_endpoint(), dir.join("object"));
    let key = key.replace('=', "%3D").replace('+', "%2B");
    shell(world, &format!("{} -o {} '{}/{}/{key}'", curl(world), file.display(), s3.endpoint, s3.bucket))
}

fn curl(world: &World) -> String {
    let s3 = world.s3_endpoint();
    let (region, access, secret) = (s3.region, s3.access_key, s3.secret_key);
    format!(
        "curl -sSf --aws-sigv4 aws:amz:{region}:s3 -u {access}:{secret} -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD'"
    )
}

/// A shell whose Git logs in to the far GitLab.
fn shell(world: &World, script: &str) -> Command {
    let login = BASE64_STANDARD.encode(format!("{}:{}", world.destination.user(), world.destination.password()));
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_COUNT", "2")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {login}"))
        .env("GIT_CONFIG_KEY_1", "safe.directory")
        .env("GIT_CONFIG_VALUE_1", "*");
    command
}

/// Each object with the far project that it goes to.
fn objects(keys: &[String]) -> Vec<(String, String)> {
    let path = |key: &String| key::decode(key).unwrap().destination.path();
    keys.iter().map(|key| (key.clone(), path(key))).collect()
}

/// F1a: the first crossing of W3a's repository.
pub fn f1a(count: usize) {
    first_crossing("F1a, W3a's", count, deep);
}

/// F1b: the first crossing of W3b's repository.
pub fn f1b(count: usize) {
    first_crossing("F1b, W3b's", count, incompressible);
}

/// F1c: F1b with the far GitLab on a CPU of its own, as on another machine. Everything else shares another one.
pub fn f1c(count: usize) {
    let [here, far_cpu, ..] = cpu::allowed().unwrap()[..] else { return eprintln!("  there is only one CPU") };
    let workload = || {
        let world = started(World::builder().far(|far| far.cpu = Some(far_cpu)));
        let names = incompressible(&world);
        publish(&world, &names, ArchiveFormat::Zip);
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert("ours", Box::new(|| crossing(&world, &names)));
        contestants.insert(GIT_PUSH, Box::new(|| pushing(&world, &names)));
        print("F1c, W3b's, with the far GitLab on a CPU of its own", &rounds(count, &mut contestants));
    };
    cpu::on(here, workload).unwrap();
}

/// The first crossing of these projects by this consumer.
fn crossing(world: &World, names: &[String]) -> Measured {
    forget(world, names);
    measure(world, &ours(world), &world.consumer_workdir())
}

/// The first push of the same pack by Git.
fn pushing(world: &World, names: &[String]) -> Measured {
    let scratch = forget(world, names);
    world.destination.repo(&far_path(&names[0])).unwrap();
    measure(world, &bare_push(world, &names[0]), &scratch)
}

/// The same projects in two buckets: the rival reads tar.gz alone.
struct Published {
    zip: World,
    tar: World,
    names: Vec<String>,
    /// The keys in the second one, with the far projects that they go to.
    tars: Vec<(String, String)>,
}

fn published(make: impl Fn(&World) -> Vec<String>) -> Published {
    let (zip, tar) = (world(), world());
    let names = make(&zip);
    make(&tar);
    publish(&zip, &names, ArchiveFormat::Zip);
    let tars = objects(&publish(&tar, &names, ArchiveFormat::TarGz));
    Published { zip, tar, names, tars }
}

/// The first crossing of one large repository.
fn first_crossing(name: &str, count: usize, make: impl Fn(&World) -> Vec<String>) {
    let Published { zip, tar, names, tars } = published(make);
    let cage = Cage::new(CAGE_BYTES).inspect_err(|error| eprintln!("  no memory cgroup can be made: {error}")).ok();
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| crossing(&zip, &names)));
    if let Some(cage) = &cage {
        contestants.insert(
            "ours, in a cgroup of 256 MiB",
            Box::new(|| {
                forget(&zip, &names);
                measure(&zip, &cage.around(&ours(&zip)), &zip.consumer_workdir())
            }),
        );
    }
    contestants.insert(
        "rival: age, tar, git checkout, git push",
        Box::new(|| {
            let scratch = forget(&tar, &names);
            tar.destination.repo(&far_path(&names[0])).unwrap();
            measure(&tar, &rival(&tar, &tars, &scratch), &scratch)
        }),
    );
    contestants.insert(GIT_PUSH, Box::new(|| pushing(&zip, &names)));
    print(name, &rounds(count, &mut contestants));
}

/// F2: one more commit on them.
pub fn f2(count: usize) {
    for (name, make) in [("F2, W3a's", deep as fn(&World) -> Vec<String>), ("F2, W3b's", incompressible)] {
        let world = world();
        let names = make(&world);
        let near = world.source.repo(&names[0]).unwrap();
        publish(&world, &names, ArchiveFormat::Zip);
        forget(&world, &names);
        measure(&world, &ours(&world), &world.consumer_workdir());
        let next = || {
            near.commits("main", 1).unwrap();
            publish(&world, &names, ArchiveFormat::Zip).remove(0)
        };
        let mut contestants: Contestants<'_> = BTreeMap::new();
        contestants.insert(
            "ours",
            Box::new(|| {
                next();
                measure(&world, &ours(&world), &world.consumer_workdir())
            }),
        );
        contestants.insert(
            "downloading the object alone",
            Box::new(|| {
                let key = world.s3().keys().remove(0);
                let scratch = fresh(world.scratch().unwrap());
                measure(&world, &download(&world, &key, &scratch), &scratch)
            }),
        );
        print(name, &rounds(count, &mut contestants));
    }
}

/// 1,000 destinations that are in sync, each with so many increments.
pub fn in_sync(increments: usize) -> World {
    let world = world();
    let names = projects(&world, 1_000, |repo| repo.fill_small(1).unwrap());
    let head: CommitId = world.source.repo(&names[0]).unwrap().head("main").unwrap().parse().unwrap();
    let earlier = (0..increments).map(|n| CommitId::from_bytes([u8::try_from(n + 1).unwrap(); 20]));
    let commits: Vec<_> = earlier.chain([head]).collect();
    for name in &names {
        copy(&world.source.repo_path(name), &world.destination.repo_path(&far_path(name)));
        let project = name.trim_start_matches("near/").to_owned();
        let destination = Destination { group: "far".into(), project, branch: "main".into() };
        world.s3().put(&key::encode(&destination, commits[0], ArchiveFormat::Zip).unwrap(), "x");
        for step in commits.windows(2) {
            world.s3().put(&key::encode_increment(&destination, step[0], step[1]).unwrap(), "x");
        }
    }
    world
}

/// F3: a quiet pass over 1,000 destinations, after a restart and while the process knows where the branches are.
pub fn f3(count: usize) {
    let world = in_sync(0);
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| measure(&world, &ours(&world), &world.consumer_workdir())));
    contestants.insert("ours, the next pass", Box::new(|| next_pass(&world)));
    print("F3, quiet pass over 1,000 destinations, after a restart", &rounds(count, &mut contestants));
}

/// What the second pass of a daemon takes.
pub fn next_pass(world: &World) -> Measured {
    let mut command = world.consumer_command(CONSUMER);
    // By default the log does not say that a pass found what the one before it found.
    command.env("RUST_LOG", "info,git_partition_sync_producer::deliver::log=debug");
    command.args(["-reconcile-sleep-time=1s", "-log-format=json"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let log = BufReader::new(process.stderr.take().unwrap()).lines();
    let (mut passes, mut begun) = (0, Instant::now());
    let mut measured = Measured::default();
    for line in log.map(Result::unwrap).filter(|line| line.contains("pass done")) {
        passes += 1;
        if passes == 1 {
            world.destination.clear_requests();
            world.s3().clear_requests();
            begun = Instant::now();
            continue;
        }
        assert!(begun.elapsed().as_secs_f64() > 0.9, "a pass of its own");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        measured.wall = line["seconds"].as_f64().unwrap();
        measured.git = (world.destination.requests().len(), 0);
        measured.s3 = (world.s3().requests().len(), 0);
        break;
    }
    process.kill().unwrap();
    process.wait().unwrap();
    measured
}

/// F4: the first crossing of 200 small repositories.
pub fn f4(count: usize) {
    let Published { zip, tar, names, tars } =
        published(|world| projects(world, 200, |repo| repo.fill_small(1).unwrap()));
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert("ours", Box::new(|| crossing(&zip, &names)));
    contestants.insert(
        "rival: age, tar, git checkout, git push",
        Box::new(|| {
            let scratch = forget(&tar, &names);
            names.iter().for_each(|name| drop(tar.destination.repo(&far_path(name)).unwrap()));
            measure(&tar, &rival(&tar, &tars, &scratch), &scratch)
        }),
    );
    print("F4, first crossing of 200 small repositories", &rounds(count, &mut contestants));
}

/// F5: an object of 700 MB in a memory cgroup, first streamed, then by way of the disk.
pub fn f5(count: usize) {
    let Ok(cage) = Cage::new(CAGE_BYTES) else { return eprintln!("  no memory cgroup can be made") };
    let world = world();
    let source = world.source.repo("near/huge").unwrap();
    source.fill_incompressible(HUGE_MB, 9).unwrap();
    let head = source.head("main").unwrap();
    let made = archive::zip(&source, &head, "main", Packs::One).unwrap();
    world.put_object("far/huge", "main", &head, Naming::Zip, &made).unwrap();
    drop(made);
    let names = ["near/huge".to_owned()];
    let caged = || measure(&world, &cage.around(&ours(&world)), &world.consumer_workdir());
    let mut contestants: Contestants<'_> = BTreeMap::new();
    contestants.insert(
        "ours",
        Box::new(|| {
            forget(&world, &names);
            caged()
        }),
    );
    contestants.insert(
        "ours, by way of the disk",
        Box::new(|| {
            forget(&world, &names);
            // The far branch is somewhere else.
            world.destination.repo("far/huge").unwrap().commits("main", 1).unwrap();
            caged()
        }),
    );
    print("F5, an object of 700 MB in a cgroup of 256 MiB", &rounds(count, &mut contestants));
}
