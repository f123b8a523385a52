//! Memory and disk stay small, however large a repository is.

use std::fs;
use std::thread;
use std::time::Duration;

use testbed::repo::Repo;
use testbed::s3::S3Options;
use testbed::world::World;

use crate::support::{Daemon, STOP_LIMIT, keys, program, workdir_files, zip_key};

const MEGABYTES: usize = 400;
/// Most anonymous memory that the program may have, in KiB.
const MEMORY_LIMIT_KIB: u64 = 200 * 1024;

fn world() -> World {
    // What S3 takes is not kept, or this process would be the large one.
    World::builder().s3(S3Options { discard_bodies: true, ..S3Options::default() }).start().unwrap()
}

/// Publishes the repository and checks how much memory and disk it takes at its peak.
#[track_caller]
fn assert_frugal(world: &World, repo: &Repo) {
    world.sync("near/large", "main", "far/large", "main").unwrap();
    let pack = repo.pack_bytes().unwrap();
    assert!(pack > (MEGABYTES as u64) << 20, "the pack has {pack} bytes");

    let mut daemon = Daemon::spawn(program(world, &["-run-once"]));
    let (mut memory, mut disk, mut samples) = (0, 0, 0);
    while daemon.is_running() {
        memory = memory.max(anonymous_kib(daemon.pid()).unwrap_or_default());
        disk = disk.max(workdir_bytes(world));
        samples += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let run = daemon.ends_within(STOP_LIMIT).succeeded();

    println!("{samples} samples: {memory} KiB of anonymous memory, {disk} bytes in WORKDIR, pack {pack}\n{}", run.log);
    assert_eq!(keys(world), [zip_key("far/large", "main", &repo.head("main").unwrap())]);
    assert!(world.s3().objects()[0].size > pack);
    assert!(samples > 50, "the peak may have been missed in {samples} samples");
    assert!(memory < MEMORY_LIMIT_KIB, "{memory} KiB of anonymous memory");
    assert!(disk >= pack && disk < pack + pack / 5, "{disk} bytes in WORKDIR for a pack of {pack}");
}

fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn workdir_bytes(world: &World) -> u64 {
    workdir_files(world).iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_large_repository_takes_little_memory_and_no_second_copy() {
    let world = world();
    let repo = world.source.repo("near/large").unwrap();
    repo.fill_incompressible(MEGABYTES, 11).unwrap();
    assert_frugal(&world, &repo);
}

#[test]
fn a_single_large_file_takes_little_memory_and_no_second_copy() {
    let world = world();
    let repo = world.source.repo("near/large").unwrap();
    repo.fill_incompressible_file(MEGABYTES, 12).unwrap();
    assert_frugal(&world, &repo);
}
