//! `make demo`: both programs run between two GitLabs of the demo's own, told as a story.
//!
//! | module | what it has |
//! |---|---|
//! | `near` | steps about the producer |
//! | `far` | steps about the consumer, and about tools that are not ours |
//! | `together` | steps about both: passes |
//! | `background` | steps about both: in the background |
//! | `forgery` | objects in the bucket that the producer did not put there |
//! | `keep` | what stays up with `KEEP=1` |
//! | `programs` | the two programs, in the foreground and in the background |
//! | `story`, `logs`, `page` | how it looks |
//!
//! Every step runs the real programs, shows what they print, and checks what they did by asking the servers. The first
//! check that fails ends the demo with exit status 1.

mod background;
mod far;
mod forgery;
mod keep;
mod logs;
mod near;
mod page;
mod programs;
mod story;
mod together;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use testbed::git::{GitOptions, GitServer};
use testbed::graphql::SyncTarget;
use testbed::seaweed::Seaweed;
use testbed::world::World;

use crate::programs::{Daemons, Run, Side};
use crate::story::Story;

/// What is synchronised: source project and branch, destination project and branch.
const TARGETS: [[&str; 4]; 13] = [
    ["platform/api", "main", "mirror/platform/api", "main"],
    ["platform/api", "release/2.4", "mirror/platform/api", "release/2.4"],
    ["platform/web", "main", "mirror/platform/web", "production"],
    ["platform/tools", "main", "mirror/platform/tools", "main"],
    ["platform/infra/network/firewall", "main", "mirror/platform/infra/network/firewall", "main"],
    ["platform/infra/network/dns", "main", "mirror/platform/infra/network/dns", "main"],
    ["platform/infra/storage", "main", "mirror/platform/infra/storage", "main"],
    ["billing/api", "main", "mirror/billing/api", "main"],
    ["billing/reports", "main", "mirror/billing/reports", "main"],
    ["data/pipelines", "main", "mirror/data/pipelines", "main"],
    ["data/models", "main", "mirror/data/models", "stable"],
    ["docs/handbook", "wörk/分支", "mirror/docs/handbook", "wörk/分支"],
    ["docs/website", "main", "mirror/docs/website", "main"],
];

/// Projects with a file of a megabyte, beside their text: large enough for increments.
const LARGE: [&str; 2] = ["platform/api", "platform/web"];

/// The target that somebody pushes to while both programs run.
const WATCHED: [&str; 4] = TARGETS[2];

/// The target whose source disappears later.
const MISSING: [&str; 4] = TARGETS[8];

/// The target whose first object somebody puts back later, when it has new commits.
const REPLAYED: [&str; 4] = TARGETS[7];

/// The target that is taken off the list later.
const REMOVED: [&str; 4] = TARGETS[12];

/// A step of the story: its title, and what happens.
type Step = (&'static str, fn(&mut Demo) -> Result<()>);

/// The story.
const STEPS: [Step; 18] = [
    ("Two GitLabs that cannot see each other", Demo::two_gitlabs),
    ("A key to sign with", Demo::signing_key),
    ("Near side: what would happen? A dry run", Demo::dry_run),
    ("Near side: does it all work from here?", Demo::near_check),
    ("Near side: the first pass", Demo::first_pass),
    ("What is in the bucket", Demo::the_bucket),
    ("Far side: does it all work from here?", Demo::far_check),
    ("Far side: the first pass", Demo::far_first_pass),
    ("Nothing new", Demo::quiet_passes),
    ("Life goes on", Demo::changes),
    ("The second passes", Demo::second_passes),
    ("Somebody else writes into the bucket", Demo::forgery),
    ("By themselves", Demo::by_themselves),
    ("A protected branch", Demo::protected_branch),
    ("At once, by a webhook", Demo::webhook),
    ("When things go wrong on the near side", Demo::trouble),
    ("Back from the bucket", Demo::restore),
    ("Tools that are not ours", Demo::other_tools),
];

fn main() -> ExitCode {
    let keep = std::env::args().nth(1).is_some_and(|argument| argument == "keep");
    let story = Rc::new(Story::new());
    match tell(&story, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &Rc<Story>, keep: bool) -> Result<()> {
    let begun = Instant::now();
    story.title(STEPS.len());
    let mut demo = Demo::start(Rc::clone(story))?;
    for (title, step) in STEPS {
        story.step(title);
        step(&mut demo)?;
    }
    story.end(begun.elapsed());
    if keep {
        return demo.keep();
    }
    story.say(
        "`make demo KEEP=1` tells the same and leaves everything up afterwards: open both status pages, push commits, and see \
         them arrive. README.md continues from here.",
    );
    Ok(())
}

/// A world, the programs in it, and the story about them.
struct Demo {
    story: Rc<Story>,
    world: World,
    /// The folder of both programs.
    programs: PathBuf,
    daemons: Option<Daemons>,
    /// How many bytes it took to fetch everything.
    fetched_at_first: u64,
    /// How many bytes it took to push everything.
    pushed_at_first: u64,
    /// An object that a pass has replaced since.
    replaced: Option<(String, Vec<u8>)>,
}

impl Demo {
    /// Starts the servers, with a dozen projects on the near side.
    fn start(story: Rc<Story>) -> Result<Self> {
        let programs = std::env::current_exe()?.ancestors().nth(2).context("no target folder")?.to_owned();
        for side in [Side::Near, Side::Far] {
            let program = programs.join(side.program());
            ensure!(program.is_file(), "{} is missing: run `make demo`", program.display());
        }
        let mut builder = World::builder().source(GitOptions { allow_push: true, ..GitOptions::default() });
        if Seaweed::is_installed() {
            builder = builder.seaweed();
        }
        let world = builder.start()?;
        std::fs::copy(world.identity_file(), world.identity_file().with_file_name(near::IDENTITY))?;
        for [source, branch, destination, _] in TARGETS {
            if branch.is_ascii() {
                let repo = world.project(source)?;
                if LARGE.contains(&source) && branch == "main" {
                    repo.fill_incompressible(1, source.len() as u64)?;
                }
                if branch != "main" {
                    repo.branch_from(branch, "main")?;
                    repo.commit(branch, &[("CHANGES", branch)], "Prepare the release")?;
                }
            } else {
                testbed::repo::Repo::odd(world.source.repo_path(source))?;
            }
            make_group(&world.destination, destination)?;
        }
        world.graphql.set_targets(
            TARGETS.map(|[source, branch, to, to_branch]| SyncTarget::new(source, branch, to, to_branch)).to_vec(),
        );
        Ok(Self { story, world, programs, daemons: None, fetched_at_first: 0, pushed_at_first: 0, replaced: None })
    }

    /// Runs the program of one side and shows what it printed.
    fn run(&self, side: Side, arguments: &[&str]) -> Result<Run> {
        self.run_at(side, side.program(), arguments)
    }

    /// Runs any of both programs on one side and shows what it printed.
    fn run_at(&self, side: Side, program: &str, arguments: &[&str]) -> Result<Run> {
        let run = self.run_and_hide(side, program, arguments)?;
        self.story.output(&run.log);
        self.story.output(&run.out);
        Ok(run)
    }

    /// The same, and shows only the command.
    fn run_and_hide(&self, side: Side, program: &str, arguments: &[&str]) -> Result<Run> {
        self.story.command(side, &format!("{program} {}", arguments.join(" ")));
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).env_clear().envs(side.environment(&self.world, program)).current_dir(self.folder());
        Run::of(&mut command)
    }

    /// Runs a shell command as a developer on the near side would, and shows it. It runs in a folder of [`Demo::folder`].
    fn shell(&self, folder: &str, command: &str) -> Result<()> {
        self.story.command(Side::Near, command);
        self.shell_and_hide(folder, command)
    }

    fn shell_and_hide(&self, folder: &str, command: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.folder().join(folder)).env_clear();
        shell.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        shell.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_TERMINAL_PROMPT", "0")]);
        let run = Run::of(&mut shell)?;
        ensure!(run.status == 0, "{command}: {}", run.log);
        Ok(())
    }

    fn check(&self, what: &str, holds: bool) -> Result<()> {
        self.story.checked(what, holds);
        if holds { Ok(()) } else { bail!("this check failed: {what}") }
    }

    /// Where commands run: the demo's own folder.
    fn folder(&self) -> &Path {
        self.world.identity_file().parent().unwrap_or(Path::new("."))
    }

    fn objects(&self) -> Result<usize> {
        Ok(self.world.bucket()?.keys()?.len())
    }

    /// How many bytes the near GitLab has sent in answers to fetches.
    fn fetched(&self) -> u64 {
        let requests = self.world.source.requests();
        requests.iter().filter(|request| request.is("fetch")).map(|request| request.response_bytes).sum()
    }

    /// The sizes of the pushes to the far GitLab.
    fn pushes(&self) -> Vec<u64> {
        let requests = self.world.destination.requests();
        requests.iter().filter(|request| request.is("receive-pack")).map(|request| request.request_bytes).collect()
    }

    /// Whether a target's branch is at the same commit on both sides.
    fn agree(&self, [source, branch, destination, destination_branch]: [&str; 4]) -> bool {
        let near = self.world.source.repo(source).ok().and_then(|repo| repo.head(branch));
        near.is_some() && near == self.world.far_head(destination, destination_branch)
    }

    /// Compares whole histories: of the near GitLab, and of `there`, another server that received them.
    fn check_histories(&self, targets: &[[&str; 4]], far: &GitServer, there: &str) -> Result<()> {
        for [source, branch, destination, destination_branch] in targets {
            let log =
                |server: &GitServer, project, branch| server.repo(project)?.git(&["log", "--format=fuller", branch]);
            let near = log(&self.world.source, source, branch)?;
            let same = log(far, destination, destination_branch)? == near;
            ensure!(same, "`git log` of {destination}@{destination_branch} is not as on the near side");
            far.repo(destination)?.fsck()?;
        }
        let what = format!("for all {} branches, and `git fsck` finds no error", targets.len());
        self.check(&format!("`git log` is the same {there} {what}"), true)
    }
}

/// Makes the group that a project is in.
fn make_group(server: &GitServer, project: &str) -> Result<()> {
    let (group, _) = project.rsplit_once('/').context("a project without a group")?;
    server.group(group)
}

/// The targets without the one that is removed.
fn still_wanted() -> Vec<[&'static str; 4]> {
    TARGETS.into_iter().filter(|target| *target != REMOVED).collect()
}

/// How many projects there are on either side.
fn projects() -> usize {
    TARGETS.iter().map(|target| target[0]).collect::<BTreeSet<_>>().len()
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.,_-=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
