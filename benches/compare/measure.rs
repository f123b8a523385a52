//! One run of one command, measured from outside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testbed::world::World;

/// How often memory and WORKDIR are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of CPU, of the command and its children.
    pub cpu: f64,
    /// Seconds of CPU the Git server's processes took meanwhile.
    pub server_cpu: f64,
    /// Peak of anonymous memory, of all its processes together, in bytes.
    pub anonymous: u64,
    /// Peak of resident memory, likewise.
    pub resident: u64,
    /// Peak of the bytes on disk below the watched folder.
    pub disk: u64,
    /// Requests to the Git server, and bytes it answered.
    pub git: (usize, u64),
    /// Requests to S3, and bytes it received.
    pub s3: (usize, u64),
}

/// Runs the command to its end; it must succeed.
pub fn measure(world: &World, command: &Command, watched: &Path) -> Measured {
    world.source.clear_requests();
    world.s3().clear_requests();
    let scratch = tempfile::tempdir().unwrap();
    let times = scratch.path().join("times");
    let log = fs::File::create(scratch.path().join("log")).unwrap();
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%U %S", "-o"]).arg(&times).arg(command.get_program()).args(command.get_args());
    timed.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    timed.process_group(0).stdout(Stdio::null()).stderr(log);

    let (server_before, begun) = (children_cpu(), Instant::now());
    let mut child = timed.spawn().expect("time(1) is installed: apt-get install time");
    let done = &AtomicBool::new(false);
    let (status, wall, [anonymous, resident, disk]) = thread::scope(|scope| {
        let group = child.id();
        let sampler = scope.spawn(move || sample(group, watched, done));
        let status = child.wait().unwrap().success();
        let wall = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        (status, wall, sampler.join().unwrap())
    });
    let log = fs::read_to_string(scratch.path().join("log")).unwrap();
    assert!(status, "{command:?} failed:\n{log}");
    let cpu = fs::read_to_string(&times)
        .unwrap()
        .split_whitespace()
        .map(|seconds| seconds.parse::<f64>().unwrap())
        .sum::<f64>();
    let (git, s3) = (world.source.requests(), world.s3().requests());
    Measured {
        wall,
        cpu,
        server_cpu: (children_cpu() - server_before - cpu).max(0.0),
        anonymous,
        resident,
        disk,
        git: (git.len(), git.iter().map(|request| request.response_bytes).sum()),
        s3: (s3.len(), s3.iter().map(|request| request.request_bytes).sum()),
    }
}

/// Seconds of CPU of all children that ended, from proc_pid_stat(5): fields 16 and 17.
fn children_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: f64 = fields[13].parse::<f64>().unwrap() + fields[14].parse::<f64>().unwrap();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Peaks of anonymous memory, resident memory and disk, until told to stop.
fn sample(group: u32, watched: &Path, done: &AtomicBool) -> [u64; 3] {
    let mut peaks = [0; 3];
    while !done.load(Ordering::Relaxed) {
        let [anonymous, resident] = memory_of_group(group);
        for (peak, now) in peaks.iter_mut().zip([anonymous, resident, disk_usage(watched)]) {
            *peak = now.max(*peak);
        }
        thread::sleep(SAMPLE_INTERVAL);
    }
    peaks
}

fn memory_of_group(group: u32) -> [u64; 2] {
    let mut sum = [0; 2];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        if rest.split(' ').nth(2).and_then(|pgrp| pgrp.parse().ok()) != Some(group) {
            continue;
        }
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
        };
        sum[0] += field("RssAnon:");
        sum[1] += field("VmRSS:");
    }
    sum
}

fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Runs each contestant in turn, so often, and gives the median run of each by wall time.
pub fn rounds(
    count: usize,
    contestants: &mut BTreeMap<&str, Box<dyn FnMut() -> Measured + '_>>,
) -> BTreeMap<String, Measured> {
    let mut runs: BTreeMap<String, Vec<Measured>> = BTreeMap::new();
    for round in 1..=count {
        for (name, run) in contestants.iter_mut() {
            let measured = run();
            eprintln!("  round {round}: {name}: {:.3} s", measured.wall);
            runs.entry((*name).to_owned()).or_default().push(measured);
        }
    }
    runs.into_iter()
        .map(|(name, mut runs)| {
            runs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
            (name, runs[runs.len() / 2].clone())
        })
        .collect()
}

/// A folder that is emptied.
pub fn fresh(dir: PathBuf) -> PathBuf {
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}
