//! One run of one command, measured from outside.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testbed::http::RequestRecord;
use testbed::world::World;

use crate::rivals;

/// How often memory and WORKDIR are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// Memory is looked at so often before it is looked up again which processes there are.
const SAMPLES_PER_SEARCH: usize = 5;
/// Functions with a smaller share of a profile are not shown.
const PROFILE_FROM_PERCENT: &str = "1.5";

/// Set where this program's runs are to be profiled.
pub static PROFILE: OnceLock<()> = OnceLock::new();

/// What one run took.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of CPU, of the command and its children.
    pub cpu: f64,
    /// Seconds of CPU that Git's processes at the server took meanwhile.
    pub git_cpu: f64,
    /// Seconds of CPU that all servers took, Git's processes and this one, which carries the others.
    pub server_cpu: f64,
    /// Peak of anonymous memory, of all its processes together, in bytes.
    pub anonymous: u64,
    /// Peak of resident memory, likewise.
    pub resident: u64,
    /// Peak of the bytes on disk below the watched folder.
    pub disk: u64,
    /// Requests to the Git servers, the bytes that the near one answered, and those that the far one got or answered.
    pub git: (usize, u64),
    /// Requests to S3, the bytes it received, and the objects it answered.
    pub s3: (usize, u64),
}

/// Runs the command to its end; it must succeed.
pub fn measure(world: &World, command: &Command, watched: &Path) -> Measured {
    world.source.clear_requests();
    world.destination.clear_requests();
    world.s3().clear_requests();
    let scratch = tempfile::tempdir().unwrap();
    let profile = scratch.path().join("profile");
    let profiled =
        PROFILE.get().filter(|()| command.get_program() == rivals::PRODUCER).map(|()| profiling(command, &profile));
    let command = profiled.as_ref().unwrap_or(command);
    let times = scratch.path().join("times");
    let log = fs::File::create(scratch.path().join("log")).unwrap();
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%U %S", "-o"]).arg(&times).arg(command.get_program()).args(command.get_args());
    timed.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    timed.process_group(0).stdout(Stdio::null()).stderr(log);

    let ([own_before, git_before], begun) = (cpu(), Instant::now());
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
    let cpu_of_run = fs::read_to_string(&times)
        .unwrap()
        .split_whitespace()
        .map(|seconds| seconds.parse::<f64>().unwrap())
        .sum::<f64>();
    if profiled.is_some() {
        show_profile(&profile);
    }
    let [own_after, git_after] = cpu();
    let git_cpu = (git_after - git_before - cpu_of_run).max(0.0);
    let (near, far, s3) = (world.source.requests(), world.destination.requests(), world.s3().requests());
    let answered: u64 = near.iter().map(|request| request.response_bytes).sum();
    let pushed: u64 = far.iter().map(|request| request.request_bytes + request.response_bytes).sum();
    let read = |request: &RequestRecord| if request.is("GetObject") { request.response_bytes } else { 0 };
    Measured {
        wall,
        cpu: cpu_of_run,
        git_cpu,
        server_cpu: own_after - own_before + git_cpu,
        anonymous,
        resident,
        disk,
        git: (near.len() + far.len(), answered + pushed),
        s3: (s3.len(), s3.iter().map(|request| request.request_bytes + read(request)).sum()),
    }
}

/// Seconds of CPU of this process and of all its children that ended, from proc_pid_stat(5): fields 14 to 17.
fn cpu() -> [f64; 2] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: Vec<f64> =
        stat[stat.rfind(')').unwrap() + 2..].split(' ').skip(11).take(4).map(|field| field.parse().unwrap()).collect();
    [ticks[0] + ticks[1], ticks[2] + ticks[3]].map(|ticks| ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// The same command under perf(1).
fn profiling(command: &Command, into: &Path) -> Command {
    let mut perf = Command::new("/usr/bin/perf");
    perf.args(["record", "-q", "-F", "1999", "-o"]).arg(into).arg("--");
    perf.arg(command.get_program()).args(command.get_args());
    perf.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    perf
}

fn show_profile(recorded: &Path) {
    let mut perf = Command::new("/usr/bin/perf");
    perf.args(["report", "--stdio", "--sort", "symbol", "--percent-limit", PROFILE_FROM_PERCENT, "-i"]).arg(recorded);
    let report = perf.stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&report.stdout);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        eprintln!("    {line}");
    }
}

/// A memory cgroup of so many bytes, to run a command in.
pub struct Cage(PathBuf);

impl Cage {
    /// # Errors
    /// Where this process may not make one: it takes root, and cgroups of either version.
    pub fn new(limit_bytes: u64) -> io::Result<Self> {
        let second = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (root, limit) =
            if second { ("/sys/fs/cgroup", "memory.max") } else { ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") };
        let dir = Path::new(root).join(format!("benchmark-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let cage = Self(dir);
        fs::write(cage.0.join(limit), limit_bytes.to_string())?;
        Ok(cage)
    }

    /// The same command, which moves itself into the cage first.
    pub fn around(&self, command: &Command) -> Command {
        let mut caged = Command::new("/bin/sh");
        caged.args(["-c", &format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display())]);
        caged.arg(command.get_program()).args(command.get_args());
        caged.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        caged
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

/// Peaks of anonymous memory, resident memory and disk, until told to stop.
fn sample(group: u32, watched: &Path, done: &AtomicBool) -> [u64; 3] {
    let (mut peaks, mut members) = ([0; 3], vec![]);
    for sample in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        if sample % SAMPLES_PER_SEARCH == 0 {
            members = members_of(group);
        }
        let [anonymous, resident] = memory_of(&members);
        for (peak, now) in peaks.iter_mut().zip([anonymous, resident, disk_usage(watched)]) {
            *peak = now.max(*peak);
        }
        thread::sleep(SAMPLE_INTERVAL);
    }
    peaks
}

/// The processes of a group, as folders of /proc.
fn members_of(group: u32) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_member = |process: &PathBuf| {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        (rest.split(' ').nth(2)?.parse() == Ok(group)).then_some(())
    };
    processes.filter(|process| is_member(process).is_some()).collect()
}

fn memory_of(processes: &[PathBuf]) -> [u64; 2] {
    let mut sum = [0; 2];
    for process in processes {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
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

/// Runs each contestant once for nothing, so that all find warm caches, then each in turn, so often, and gives the median run of each by wall time.
pub fn rounds(
    count: usize,
    contestants: &mut BTreeMap<&str, Box<dyn FnMut() -> Measured + '_>>,
) -> BTreeMap<String, Measured> {
    let mut runs: BTreeMap<String, Vec<Measured>> = BTreeMap::new();
    if PROFILE.get().is_none() {
        for run in contestants.values_mut() {
            run();
        }
    }
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
