//! The memory that this process may take: the limit of its control group, or what the machine has.
//!
//! Invariant: a file that is not there or does not parse counts as no limit.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What is assumed if nothing tells how much memory there is, in bytes.
const UNKNOWN_MEMORY_BYTES: u64 = 1 << 30;
/// Where a group's limit is, in bytes. At `memory.high` the kernel slows the process down until it hardly runs.
const LIMIT_FILES: [(&str, &[&str]); 2] =
    [("memory", &["memory.limit_in_bytes"]), ("", &["memory.max", "memory.high"])];

/// How much memory there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// A limit for this process and what runs beside it in its container.
    Limited(u64),
    /// What the machine has left.
    Available(u64),
}

pub(super) fn memory() -> Memory {
    memory_in(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn memory_in(proc: &Path, groups: &Path) -> Memory {
    let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let in_machine = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = in_machine("MemTotal").unwrap_or(u64::MAX);
    let own = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    match own.lines().filter_map(|line| limit_of(line, groups)).min() {
        // Version 1 says "no limit" with a number that no machine has.
        Some(limit) if limit < total => Memory::Limited(limit),
        _ => Memory::Available(in_machine("MemAvailable").unwrap_or(UNKNOWN_MEMORY_BYTES)),
    }
}

/// The least limit of a group and its parents; `line` is one of `/proc/self/cgroup`, `hierarchy:controllers:path`.
fn limit_of(line: &str, groups: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (root, files) =
        LIMIT_FILES.iter().find(|(root, _)| controllers.split(',').any(|controller| controller == *root))?;
    let root = groups.join(root);
    // In a container the path is often that outside, and its own group is mounted at the root.
    let inside: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let limits = inside.ancestors().flat_map(|group| files.iter().map(move |file| (group, file)));
    let limits = limits.map(|(group, file)| root.join(group).join(file));
    limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n";

    /// A name, `/proc/self/cgroup`, files below `/sys/fs/cgroup`, and what is found.
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Memory);

    /// What is found with this `/proc/self/cgroup` and these files below `/sys/fs/cgroup`.
    fn found(own: &str, files: &[(&str, &str)]) -> Memory {
        let machine = tempfile::tempdir().unwrap();
        let [proc, groups] = ["proc", "groups"].map(|name| machine.path().join(name));
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::write(proc.join("self/cgroup"), own).unwrap();
        fs::write(proc.join("meminfo"), MEMINFO).unwrap();
        for (file, content) in files {
            let file = groups.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        memory_in(&proc, &groups)
    }

    #[test]
    fn the_least_limit_of_the_group_and_its_parents_counts() {
        let limited = |mib: u64| Memory::Limited(mib * MIB);
        let machine = || Memory::Available(4 << 30);
        let v2 = "0::/kubepods/pod1/abc\n";
        let v1 = "12:cpu,cpuacct:/other\n4:memory:/docker/abc\n1:name=systemd:/x\n";
        let none_v1 = "9223372036854771712\n";
        let table: [Case<'_>; 13] = [
            ("v2", v2, &[("kubepods/pod1/abc/memory.max", "536870912\n")], limited(512)),
            (
                "v2, a parent's",
                v2,
                &[("kubepods/pod1/abc/memory.max", "max\n"), ("kubepods/memory.max", "1048576\n")],
                limited(1),
            ),
            ("v2, no limit", v2, &[("kubepods/pod1/abc/memory.max", "max\n")], machine()),
            (
                "v2, slowed down earlier",
                v2,
                &[("kubepods/pod1/abc/memory.max", "536870912\n"), ("kubepods/pod1/abc/memory.high", "268435456\n")],
                limited(256),
            ),
            ("v2, the path is that outside", v2, &[("memory.max", "536870912\n")], limited(512)),
            ("v2, above the namespace", "0::/../../abc\n", &[("memory.max", "536870912\n")], limited(512)),
            ("v1", v1, &[("memory/docker/abc/memory.limit_in_bytes", "536870912\n")], limited(512)),
            (
                "v1, a parent's",
                v1,
                &[
                    ("memory/docker/abc/memory.limit_in_bytes", none_v1),
                    ("memory/docker/memory.limit_in_bytes", "1048576\n"),
                ],
                limited(1),
            ),
            ("v1, the path is that outside", v1, &[("memory/memory.limit_in_bytes", "536870912\n")], limited(512)),
            ("v1, no limit", v1, &[("memory/docker/abc/memory.limit_in_bytes", none_v1)], machine()),
            (
                "v1 beside v2",
                "4:memory:/a\n0::/a\n",
                &[("memory/a/memory.limit_in_bytes", "1048576"), ("a/memory.max", "max")],
                limited(1),
            ),
            (
                "damaged",
                "nonsense\n4:memory\n0::/a\n",
                &[("a/memory.max", "-1"), ("memory/memory.limit_in_bytes", "")],
                machine(),
            ),
            ("no groups", "", &[], machine()),
        ];
        for (name, own, files, expected) in table {
            assert_eq!(found(own, files), expected, "{name}");
        }
    }

    #[test]
    fn without_any_file_something_is_assumed() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(memory_in(nowhere, nowhere), Memory::Available(UNKNOWN_MEMORY_BYTES));
    }
}
