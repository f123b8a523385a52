//! Builders of bare Git repositories, from two files to a hundred thousand references.
//!
//! Everything is written by `git fast-import`, with fixed names and a clock that is part of the repository.
//! Invariant: the same calls in the same order give the same commit ids, on any machine and at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::program::{git, run};

/// The first commit's date (2024-01-01T00:00:00Z); each further commit of a repository is a minute later.
const FIRST_COMMIT_SECONDS: u64 = 1_704_067_200;

/// Seconds between a repository's commits.
const COMMIT_INTERVAL_SECONDS: u64 = 60;

/// The file inside the repository that counts the commits made so far: the clock.
const CLOCK_FILE: &str = "testbed-clock";

/// The file inside the repository that records which commits its branches were ever at.
const HEADS_FILE: &str = "testbed-heads";

/// Size of one blob of [`Repo::incompressible`].
const RANDOM_BLOB_BYTES: usize = 4 * 1024 * 1024;

/// Lines in each file of [`Repo::deep`].
const DEEP_LINES: usize = 1_500;
/// How many successive edits change the same file of a deep repository.
const DEEP_RUN: usize = 50;

/// A commit that exists in no repository, for submodule entries.
const SUBMODULE_COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A bare repository on disk.
#[derive(Debug, Clone)]
pub struct Repo {
    path: PathBuf,
}

impl Repo {
    /// Makes an empty bare repository whose `HEAD` names `main`. `uploadpack.allowAnySHA1InWant` stays unset.
    pub fn init(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::create_dir_all(path)?;
        run(git().args(["init", "--quiet", "--bare", "--initial-branch=main", "--template="]).arg(path), "git")?;
        Ok(Self { path: path.to_owned() })
    }

    /// An existing repository.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        ensure!(path.join("HEAD").is_file(), "{} is not a bare repository", path.display());
        Ok(Self { path: path.to_owned() })
    }

    /// Twenty commits, about 100 KB; another seed gives different content and commit ids.
    pub fn small(path: impl AsRef<Path>, seed: u64) -> Result<Self> {
        let repo = Self::init(path)?;
        repo.fill_small(seed)?;
        Ok(repo)
    }

    /// Adds the content of [`Repo::small`] to the branch `main` of this repository.
    pub fn fill_small(&self, seed: u64) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut import = self.import()?;
        for number in 1..=20_u32 {
            import.start_commit("main", &format!("Change {number} of {seed}"))?;
            import.file("README.md", format!("Project {seed}, change {number}\n").as_bytes())?;
            let text = (0..90).fold(String::new(), |mut text, _| {
                let _ = writeln!(text, "{:016x} {:016x} {:016x}", random.u64(..), random.u64(..), random.u64(..));
                text
            });
            import.file(&format!("src/part-{:02}.txt", number % 7), text.as_bytes())?;
        }
        import.finish()?;
        Ok(())
    }

    /// A repository of `megabytes` of random bytes, which neither deflate nor delta can make smaller, in one pack.
    pub fn incompressible(path: impl AsRef<Path>, megabytes: usize, seed: u64) -> Result<Self> {
        let repo = Self::init(path)?;
        repo.fill_incompressible(megabytes, seed)?;
        Ok(repo)
    }

    /// Adds a commit with the content of [`Repo::incompressible`] to the branch `main` of this repository.
    pub fn fill_incompressible(&self, megabytes: usize, seed: u64) -> Result<()> {
        // Stored, not deflated, and never searched for deltas: neither here nor when the server sends it.
        self.configure("core.compression", "0")?;
        self.configure("pack.compression", "0")?;
        self.configure("core.bigFileThreshold", "1m")?;
        self.configure("fastimport.unpackLimit", "0")?;

        let mut random = fastrand::Rng::with_seed(seed);
        let mut blob = vec![0; RANDOM_BLOB_BYTES];
        let mut left = megabytes * 1024 * 1024;
        let mut import = self.import()?;
        import.start_commit("main", &format!("Add {megabytes} MB"))?;
        for number in 0.. {
            let size = left.min(RANDOM_BLOB_BYTES);
            if size == 0 {
                break;
            }
            random.fill(&mut blob[..size]);
            import.file(&format!("random/{seed}/{number:05}.bin"), &blob[..size])?;
            left -= size;
        }
        import.finish()?;
        Ok(())
    }

    /// Adds a commit with one file of `megabytes` of random bytes, a single blob, to the branch `main`. The file is made
    /// in memory.
    pub fn fill_incompressible_file(&self, megabytes: usize, seed: u64) -> Result<()> {
        self.store_as_is()?;
        let mut file = vec![0; megabytes * 1024 * 1024];
        fastrand::Rng::with_seed(seed).fill(&mut file);
        self.commit("main", &[("random.bin", file)], &format!("One file of {megabytes} MB"))?;
        Ok(())
    }

    /// Content is stored, not deflated, and never searched for deltas: neither here nor when the server sends it.
    fn store_as_is(&self) -> Result<()> {
        self.configure("core.compression", "0")?;
        self.configure("pack.compression", "0")?;
        self.configure("core.bigFileThreshold", "1m")?;
        self.configure("fastimport.unpackLimit", "0")
    }

    /// Large text files, packed into long delta chains. Each of `commits` commits changes `lines` lines in one of them.
    pub fn deep(path: impl AsRef<Path>, commits: usize, files: usize, lines: usize) -> Result<Self> {
        ensure!(files > 0, "a deep repository needs at least one file");
        let repo = Self::init(path)?;
        let mut random = fastrand::Rng::with_seed(commits as u64);
        let mut texts: Vec<Vec<String>> = (0..files)
            .map(|_| {
                (0..DEEP_LINES)
                    .map(|line| format!("{line:04} {:016x}{:016x}\n", random.u64(..), random.u64(..)))
                    .collect()
            })
            .collect();

        let mut import = repo.import()?;
        for number in 0..commits {
            // Runs of edits to one file let fast-import write small deltas at once.
            let file = number / DEEP_RUN % files;
            for _ in 0..lines {
                let line = random.usize(..DEEP_LINES);
                texts[file][line] = format!("{line:04} {:016x} changed by commit {number}\n", random.u64(..));
            }
            import.start_commit("main", &format!("Edit {number}"))?;
            import.file(&format!("text/{file:03}.txt"), texts[file].concat().as_bytes())?;
        }
        import.finish()?;
        repo.repack(&["-a", "-d", "-f", "--depth=50", "--window=5"])?;
        Ok(repo)
    }

    /// One commit on `main`, and `count` further branches `many/000000`… at it, all in `packed-refs`.
    pub fn many_refs(path: impl AsRef<Path>, count: usize) -> Result<Self> {
        let repo = Self::init(path)?;
        let commit = repo.commit("main", &[("README.md", "many references\n")], "One commit")?;
        let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
        for number in 0..count {
            writeln!(packed, "{commit} refs/heads/many/{number:06}")?;
        }
        fs::write(repo.path.join("packed-refs"), packed)?;
        Ok(repo)
    }

    /// Everything that a careless program gets wrong: names in many scripts, an empty commit, a submodule, a
    /// symbolic link, an executable, tags, merges, several roots. Branches: `main`, `wörk/分支`.
    pub fn odd(path: impl AsRef<Path>) -> Result<Self> {
        let repo = Self::init(path)?;
        let mut import = repo.import()?;

        import.start_commit("main", "An empty tree")?;
        import.start_commit("main", "Names\n\nWith a body: Grüße, 世界 🌍\n")?;
        for name in [
            "naïve.txt",
            "数据/文件.txt",
            "emoji-🦀.txt",
            "with space.txt",
            "quo\"te\\.txt",
            "-dash.txt",
            "new\nline.txt",
        ] {
            import.file(name, format!("this is {name}\n").as_bytes())?;
        }
        import.start_commit("main", "Kinds")?;
        import.entry("100755", "bin/run.sh", b"#!/bin/sh\necho run\n")?;
        import.entry("120000", "link-to-nowhere", b"../../etc/passwd")?;
        import.file("empty", b"")?;
        import.file(".gitmodules", b"[submodule \"vendored\"]\n\tpath = vendored\n\turl = ../vendored.git\n")?;
        import.line(&format!("M 160000 {SUBMODULE_COMMIT} vendored"))?;

        import.start_root("side", "A second root")?;
        import.file("side.txt", b"side\n")?;
        import.start_root("third", "A third root")?;
        import.file("third.txt", b"third\n")?;

        import.start_commit("main", "Merge of two roots")?;
        import.line("merge refs/heads/side")?;
        import.file("side.txt", b"side\n")?;
        import.start_commit("main", "Octopus with the third")?;
        import.line("merge refs/heads/side")?;
        import.line("merge refs/heads/third")?;
        import.file("third.txt", b"third\n")?;
        import.finish()?;

        repo.branch_from("wörk/分支", "main")?;
        repo.commit("wörk/分支", &[("ветка.txt", "a branch of its own\n")], "On the branch")?;
        repo.delete_branch("side")?;
        repo.delete_branch("third")?;
        repo.git(&["tag", "light", "main"])?;
        run(
            git()
                .env("GIT_COMMITTER_NAME", "Testbed")
                .env("GIT_COMMITTER_EMAIL", "testbed@example.com")
                .env("GIT_COMMITTER_DATE", format!("{FIRST_COMMIT_SECONDS} +0000"))
                .arg("--git-dir")
                .arg(&repo.path)
                .args(["tag", "--annotate", "--message=Annotated", "v1.0", "main"]),
            "git",
        )?;
        Ok(repo)
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a commit to a branch, on top of its head, and returns the id. A missing branch is created.
    pub fn commit<P, B>(&self, branch: &str, files: &[(P, B)], message: &str) -> Result<String>
    where
        P: AsRef<str>,
        B: AsRef<[u8]>,
    {
        let mut import = self.import()?;
        import.start_commit(branch, message)?;
        for (path, content) in files {
            import.file(path.as_ref(), content.as_ref())?;
        }
        import.finish()?;
        self.must_have(branch)
    }

    /// Adds `count` small commits to a branch in one go, and returns the last one's id.
    pub fn commits(&self, branch: &str, count: usize) -> Result<String> {
        let mut import = self.import()?;
        for number in 1..=count {
            import.start_commit(branch, &format!("Commit {number} of {count}"))?;
            import.file("counter.txt", format!("{branch} {number}\n").as_bytes())?;
        }
        import.finish()?;
        self.must_have(branch)
    }

    /// Replaces a branch's history with one new root commit, like a rewritten history that has nothing in common with
    /// the old one.
    pub fn force_root<P, B>(&self, branch: &str, files: &[(P, B)]) -> Result<String>
    where
        P: AsRef<str>,
        B: AsRef<[u8]>,
    {
        let mut import = self.import()?;
        import.start_root(branch, "A new beginning")?;
        for (path, content) in files {
            import.file(path.as_ref(), content.as_ref())?;
        }
        import.finish()?;
        self.must_have(branch)
    }

    /// Creates a branch at another branch's head, or moves it there.
    pub fn branch_from(&self, new: &str, existing: &str) -> Result<String> {
        let commit = self.must_have(existing)?;
        self.git(&["update-ref", &full_name(new), &commit])?;
        self.record_heads([new])?;
        Ok(commit)
    }

    /// Every commit that this module ever left a branch at, oldest first.
    pub fn heads_ever(&self, branch: &str) -> Result<Vec<String>> {
        let heads = fs::read_to_string(self.path.join(HEADS_FILE))?;
        let pairs = heads.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.filter(|(_, name)| *name == branch).map(|(commit, _)| commit.to_owned()).collect())
    }

    fn record_heads<'a>(&self, branches: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut record = fs::File::options().append(true).create(true).open(self.path.join(HEADS_FILE))?;
        for branch in branches {
            writeln!(record, "{} {branch}", self.must_have(branch)?)?;
        }
        Ok(())
    }

    /// Removes a branch.
    pub fn delete_branch(&self, branch: &str) -> Result<()> {
        self.git(&["update-ref", "-d", &full_name(branch)])?;
        Ok(())
    }

    /// The commit a branch is at; `None` if there is no such branch.
    pub fn head(&self, branch: &str) -> Option<String> {
        // Most are in their own file, and can be read without a process.
        if let Ok(loose) = fs::read_to_string(self.path.join(full_name(branch)))
            && loose.trim_end().len() == 40
        {
            return Some(loose.trim_end().to_owned());
        }
        let name = format!("{}^{{commit}}", full_name(branch));
        self.git(&["rev-parse", "--verify", "--quiet", &name]).ok()
    }

    /// All references with what they point to.
    pub fn refs(&self) -> Result<BTreeMap<String, String>> {
        let listed = self.git(&["for-each-ref", "--format=%(refname) %(objectname)"])?;
        let pairs = listed.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.map(|(name, id)| (name.to_owned(), id.to_owned())).collect())
    }

    /// `git fsck --full`: every object present, connected and well-formed.
    pub fn fsck(&self) -> Result<()> {
        self.git(&["fsck", "--full", "--no-progress", "--no-dangling"])?;
        Ok(())
    }

    /// The size of all packs together; loose objects do not count.
    pub fn pack_bytes(&self) -> Result<u64> {
        let mut total = 0;
        for entry in fs::read_dir(self.path.join("objects/pack"))? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "pack") {
                total += entry.metadata()?.len();
            }
        }
        Ok(total)
    }

    /// `git repack` with these arguments, for example `["-a", "-d"]`.
    pub fn repack(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["repack", "--quiet"];
        all.extend(arguments);
        self.git(&all)?;
        Ok(())
    }

    /// Removes every object that nothing points to, as a server's housekeeping does eventually.
    pub fn prune(&self) -> Result<()> {
        self.git(&["repack", "--quiet", "-a", "-d"])?;
        self.git(&["prune", "--expire=now"])?;
        Ok(())
    }

    /// Sets a configuration value of this repository.
    pub fn configure(&self, key: &str, value: &str) -> Result<()> {
        self.git(&["config", key, value])?;
        Ok(())
    }

    /// Runs any Git command in this repository and returns what it prints, without the final newline.
    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        let output = run(git().arg("--git-dir").arg(&self.path).args(arguments), "git")?;
        Ok(String::from_utf8(output.stdout)?.trim_end_matches('\n').to_owned())
    }

    /// A pack of exactly these objects, whatever they refer to; deltas refer to their base by id or by offset.
    pub fn pack_of(&self, objects: &[String], by_offset: bool) -> Result<Vec<u8>> {
        let mut child = git()
            .arg("--git-dir")
            .arg(&self.path)
            .args(["pack-objects", "--stdout", "-q", "--no-reuse-delta"])
            .args(by_offset.then_some("--delta-base-offset"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting git pack-objects")?;
        // It reads all names before it writes anything.
        let mut input = child.stdin.take().context("git pack-objects without an input")?;
        input.write_all((objects.join("\n") + "\n").as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "git pack-objects: {}", output.status);
        Ok(output.stdout)
    }

    fn must_have(&self, branch: &str) -> Result<String> {
        self.head(branch).with_context(|| format!("{}: no branch {branch}", self.path.display()))
    }

    fn import(&self) -> Result<Import<'_>> {
        Import::start(self)
    }

    fn commits_made(&self) -> Result<u64> {
        match fs::read_to_string(self.path.join(CLOCK_FILE)) {
            Ok(text) => Ok(text.trim().parse()?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// A running `git fast-import`. Content goes through a pipe; nothing of a repository is held in memory.
struct Import<'a> {
    repo: &'a Repo,
    child: std::process::Child,
    input: BufWriter<std::process::ChildStdin>,
    commits_made: u64,
    /// Branches that the import already knows, so `from` must not be given again.
    started: Vec<String>,
}

impl<'a> Import<'a> {
    fn start(repo: &'a Repo) -> Result<Self> {
        let mut child = git()
            .arg("--git-dir")
            .arg(&repo.path)
            .args(["fast-import", "--quiet", "--force", "--date-format=raw"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting git fast-import")?;
        let input = child.stdin.take().context("git fast-import without an input")?;
        Ok(Self { repo, child, input: BufWriter::new(input), commits_made: repo.commits_made()?, started: Vec::new() })
    }

    /// Starts a commit on top of the branch, which is created if it is missing.
    fn start_commit(&mut self, branch: &str, message: &str) -> Result<()> {
        let continues = self.started.iter().any(|started| started == branch);
        let parent = if continues { None } else { self.repo.head(branch) };
        self.commit_header(branch, message)?;
        if let Some(parent) = parent {
            self.line(&format!("from {parent}"))?;
        }
        Ok(())
    }

    /// Starts a commit without parents.
    fn start_root(&mut self, branch: &str, message: &str) -> Result<()> {
        // `reset` makes fast-import forget the branch.
        self.line(&format!("reset {}", full_name(branch)))?;
        self.commit_header(branch, message)
    }

    fn commit_header(&mut self, branch: &str, message: &str) -> Result<()> {
        let date = FIRST_COMMIT_SECONDS + COMMIT_INTERVAL_SECONDS * self.commits_made;
        self.commits_made += 1;
        self.started.push(branch.to_owned());
        self.line(&format!("commit {}", full_name(branch)))?;
        self.line(&format!("author Ann Author <ann@example.com> {date} +0000"))?;
        self.line(&format!("committer Testbed <testbed@example.com> {date} +0000"))?;
        self.data(message.as_bytes())
    }

    fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry("100644", path, content)
    }

    fn entry(&mut self, mode: &str, path: &str, content: &[u8]) -> Result<()> {
        self.line(&format!("M {mode} inline {}", quote(path)))?;
        self.data(content)
    }

    fn data(&mut self, content: &[u8]) -> Result<()> {
        self.line(&format!("data {}", content.len()))?;
        self.input.write_all(content)?;
        self.line("")
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.input.flush()?;
        drop(self.input);
        let output = self.child.wait_with_output()?;
        if !output.status.success() {
            bail!("git fast-import: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        fs::write(self.repo.path.join(CLOCK_FILE), self.commits_made.to_string())?;
        let branches: BTreeSet<_> = self.started.iter().map(String::as_str).collect();
        self.repo.record_heads(branches)
    }
}

fn full_name(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// A path in fast-import's C-style quotes.
fn quote(path: &str) -> String {
    let escaped = path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}
