//! `make demo`: the program runs against its own real servers, told as a story.
//!
//! Every step runs the real program, shows what it prints, and checks what it did by asking the servers. The first
//! check that fails ends the demo with exit status 1.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use git_partition_sync_producer::text::human_bytes;
use testbed::consumer::{Consumer, Delivered};
use testbed::git::{GitOptions, GitServer};
use testbed::judge;
use testbed::seaweed::Seaweed;
use testbed::world::World;
use tokio::signal::unix::{SignalKind, signal};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

const PROGRAM: &str = "git-partition-sync-producer";

/// Widest line shown if the terminal's width is not known, in columns.
const COLUMNS: usize = 150;

/// Widest line of prose, in columns.
const PROSE_COLUMNS: usize = 96;

/// How often the far side checks the bucket while the servers are left up.
const FAR_SIDE_INTERVAL: Duration = Duration::from_secs(3);

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

/// The far side's age identity, in [`Demo::folder`].
const IDENTITY: &str = "identity-0.txt";

/// The target that is taken off the list later.
const REMOVED: [&str; 2] = ["mirror/docs/website", "main"];

/// The target whose source disappears later.
const MISSING: [&str; 4] = TARGETS[8];

fn main() -> ExitCode {
    let keep = std::env::args().nth(1).is_some_and(|argument| argument == "keep");
    let story = Story::new();
    match tell(&story, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &Story, keep: bool) -> Result<()> {
    let begun = Instant::now();
    story.title();
    let demo = Demo::set_up(story, keep)?;
    let mut far_side = demo.world.consumer()?;
    demo.dry_run()?;
    demo.first_pass()?;
    demo.the_bucket()?;
    demo.arrival(&mut far_side)?;
    demo.quiet_pass()?;
    demo.changes()?;
    demo.second_pass(&mut far_side)?;
    demo.trouble()?;
    demo.restore()?;
    demo.other_format()?;
    story.end(begun.elapsed());
    if keep { demo.keep(&mut far_side) } else { Ok(()) }
}

// ---- The story ----

/// A world, the program in it, and the story about it.
struct Demo<'a> {
    story: &'a Story,
    world: World,
    program: PathBuf,
    /// How many bytes it took to fetch everything.
    fetched_at_first: Cell<u64>,
}

impl<'a> Demo<'a> {
    fn set_up(story: &'a Story, keep: bool) -> Result<Self> {
        story.step("Two GitLabs that cannot see each other");
        story.say(
            "A company has one GitLab on the near side and another in an isolated partition. Only an S3 bucket crosses \
             the line. These are real servers, running on this machine for this demo:",
        );
        let program = std::env::current_exe()?.ancestors().nth(2).context("no target folder")?.join(PROGRAM);
        ensure!(program.is_file(), "{} is missing: run `make demo`", program.display());

        let mut builder = World::builder().source(GitOptions { allow_push: keep, ..GitOptions::default() });
        let seaweed = Seaweed::is_installed();
        if seaweed {
            builder = builder.seaweed();
        }
        let world = builder.start()?;
        let s3 = if seaweed { "SeaweedFS" } else { "in memory, because SeaweedFS could not be installed" };
        story.table(&[
            ["near GitLab", &world.source.url(), "Git over HTTP, with a token"],
            ["GraphQL", &world.graphql.url(), "says which projects go where"],
            ["S3", &world.s3_endpoint().endpoint, s3],
            ["far GitLab", &world.destination.url(), "empty; the program never talks to it"],
        ]);

        for [source, branch, destination, destination_branch] in TARGETS {
            if branch.is_ascii() {
                let repo = world.project(source)?;
                if branch != "main" {
                    repo.branch_from(branch, "main")?;
                    repo.commit(branch, &[("CHANGES", branch)], "Prepare the release")?;
                }
            } else {
                testbed::repo::Repo::odd(world.source.repo_path(source))?;
            }
            world.sync(source, branch, destination, destination_branch)?;
        }
        story.say("The near GitLab has a dozen projects, and GraphQL wants these branches on the far side:");
        let rows = TARGETS.map(|[source, branch, destination, destination_branch]| {
            [format!("{source}@{branch}"), "→".to_owned(), format!("{destination}@{destination_branch}")]
        });
        story.table(&rows);
        story.say(
            "There are nested groups, the same name in two groups, two branches of one project, branches with another \
             name on the far side, and a branch whose name is not ASCII.",
        );
        Ok(Self { story, world, program, fetched_at_first: Cell::new(0) })
    }

    fn dry_run(&self) -> Result<()> {
        self.story.step("What would happen? A dry run");
        let shown = self.run(&["-dry-run", "-run-once"])?.exits_with(0)?;
        self.check("every target would be published", shown.out.contains(&format!("{} to publish", TARGETS.len())))?;
        self.check("nothing is in the bucket", self.objects()? == 0)?;
        self.check("nothing was cloned: WORKDIR does not even exist", !self.world.workdir().exists())?;
        self.story.proves("a dry run reads from three servers and writes nothing.");
        Ok(())
    }

    fn first_pass(&self) -> Result<()> {
        self.story.step("The first pass");
        self.story.say(
            "Each branch is fetched, archived, encrypted and uploaded as one stream: no archive is ever on disk. (Log \
             lines are cut at the edge of the screen here.)",
        );
        self.run(&["-run-once"])?.exits_with(0)?;
        self.fetched_at_first.set(self.fetched());
        self.check("the bucket has one object for each target", self.objects()? == TARGETS.len())?;
        self.story.proves("one command brings an empty bucket up to date.");
        Ok(())
    }

    fn the_bucket(&self) -> Result<()> {
        self.story.step("What is in the bucket");
        let keys = self.world.bucket()?.keys()?;
        let key = keys.first().context("an empty bucket")?;
        self.story.say(
            "An object's name says where it goes, in base64 (here is one). Only the far side can read its content.",
        );
        self.story.output(key);
        self.story.output(&String::from_utf8_lossy(&base64(key)?));
        self.story.say("For people, `list` decodes the names:");
        let list = self.run(&["list"])?.exits_with(0)?;
        self.check("every target is listed", list.out.contains(&format!("{} objects", TARGETS.len())))?;
        let artifact = self.world.bucket()?.get(key)?;
        let head = b"age-encryption.org/v1\n";
        self.check("the object is encrypted with age", artifact.starts_with(head))?;
        let open = artifact.windows(4).any(|window| window == b"PACK" || window == b"refs");
        self.check("nothing of the repository can be read in it", !open)?;
        self.story.proves("anyone who can read the bucket sees names and sizes, but no code.");
        Ok(())
    }

    fn arrival(&self, far_side: &mut Consumer) -> Result<()> {
        self.story.step("The far side receives it");
        self.story.say(
            "The far side's consumer follows its documentation, with programs that are not ours: it decrypts with \
             Debian's age, unpacks with unzip, and checks out and pushes with git.",
        );
        let delivered = far_side.pass().context("the far side")?;
        self.show_delivered(&delivered);
        self.check("all targets arrived", delivered.len() == TARGETS.len())?;
        self.check("each brought the commit in its name", delivered.iter().all(|one| one.commit == one.pushed))?;
        self.check_heads_agree(&TARGETS)?;
        self.story.proves("uploads are complete: another GitLab can be filled from them.");
        Ok(())
    }

    fn quiet_pass(&self) -> Result<()> {
        self.story.step("Nothing new");
        self.world.source.clear_requests();
        let pass = self.run(&["-run-once"])?.exits_with(0)?;
        let requests = self.world.source.requests();
        let bytes: u64 = requests.iter().map(|request| request.response_bytes).sum();
        self.check("the pass logged one line", pass.log.lines().count() == 1)?;
        let projects = TARGETS.iter().map(|target| target[0]).collect::<BTreeSet<_>>().len();
        self.check(
            &format!("{} requests to the GitLab, {bytes} bytes of answers, nothing fetched", requests.len()),
            requests.len() == projects && requests.iter().all(|request| request.is("ls-refs")),
        )?;
        self.story.proves("a pass without changes costs one small request per project.");
        Ok(())
    }

    fn changes(&self) -> Result<()> {
        self.story.step("Life goes on");
        let world = &self.world;
        let api = world.source.repo("platform/api")?;
        api.commit("main", &[("src/fix.txt", "a fix\n")], "Fix a bug")?;
        self.story.bullet("platform/api@main has a new commit");
        world.source.repo("billing/api")?.commits("main", 40)?;
        self.story.bullet("billing/api@main has forty");
        world.source.repo("data/pipelines")?.force_root("main", &[("README.md", "from scratch\n")])?;
        self.story.bullet("data/pipelines@main was rewritten: it has nothing in common with its old history");
        world.unsync(REMOVED[0], REMOVED[1]);
        self.story.bullet(&format!("{} is no longer wanted on the far side", REMOVED[0]));
        self.story.say("What would a pass do?");
        let shown = self.run(&["-dry-run", "-run-once"])?.exits_with(0)?;
        self.check("3 to publish, 1 to retire", shown.out.contains("3 to publish, 1 to retire"))?;
        self.story.proves("you can read what a pass will do, and why, before it does it.");
        Ok(())
    }

    fn second_pass(&self, far_side: &mut Consumer) -> Result<()> {
        self.story.step("The second pass");
        self.world.source.clear_requests();
        let before = self.world.bucket()?.keys()?;
        self.run(&["-run-once"])?.exits_with(0)?;
        let after = self.world.bucket()?.keys()?;
        self.check(
            "the old objects of the three are gone, and so is the removed one",
            after.len() == TARGETS.len() - 1,
        )?;
        let new = after.iter().filter(|key| !before.contains(key)).count();
        self.check("three objects are new, and nothing else changed", new == 3)?;
        let (fetched, at_first) = (self.fetched(), self.fetched_at_first.get());
        self.check(
            &format!("{} were fetched; the first pass needed {}", human_bytes(fetched), human_bytes(at_first)),
            fetched > 0 && fetched * 20 < at_first,
        )?;
        let delivered = far_side.pass().context("the far side")?;
        self.story.say("The far side runs again:");
        self.show_delivered(&delivered);
        self.check("it received the three", delivered.len() == 3)?;
        self.check_heads_agree(&still_wanted())?;
        self.story.proves("only what changed is fetched, uploaded and received, even rewritten history.");
        Ok(())
    }

    fn trouble(&self) -> Result<()> {
        self.story.step("When things go wrong");
        let before = self.world.bucket()?.keys()?;
        self.story.say("The target list is suddenly empty. A program that trusted it would delete everything.");
        let targets = self.world.graphql.targets();
        self.world.graphql.set_targets(vec![]);
        let refused = self.run(&["-run-once"])?.exits_with(1)?;
        self.check("the pass fails and names the setting to change", refused.log.contains("MAX_RETIRE"))?;
        self.check("nothing was deleted", self.world.bucket()?.keys()? == before)?;
        self.world.graphql.set_targets(targets);

        self.story.say(&format!("{} can no longer be read, while platform/tools has a new commit.", MISSING[0]));
        self.world.source.override_status(MISSING[0], 404);
        self.world.source.repo("platform/tools")?.commit("main", &[("NEWS", "more\n")], "More tools")?;
        let partly = self.run(&["-run-once"])?.exits_with(1)?;
        self.check("the pass names the project that it could not read", partly.log.contains(MISSING[2]))?;
        self.check("the other one is published anyway", partly.log.contains("published mirror/platform/tools"))?;
        let kept = before.iter().filter(|key| !key_is_for(key, "tools")).collect::<BTreeSet<_>>();
        let after = self.world.bucket()?.keys()?;
        self.check(
            "every other object stays, including the missing project's",
            kept.iter().all(|key| after.contains(key)),
        )?;
        self.world.source.clear_overrides();
        self.story.proves("what is unknown is not deleted, and one bad target affects no other.");
        Ok(())
    }

    fn restore(&self) -> Result<()> {
        self.story.step("Back from the bucket");
        self.story.say("Are the objects in the bucket good? `restore` downloads, decrypts, unpacks and verifies them.");
        std::fs::create_dir_all(self.folder().join("restored"))?;
        self.run(&["restore", "-identity", IDENTITY, "-into", "restored", "mirror/platform/api"])?.exits_with(0)?;
        let restored = self.folder().join("restored/mirror/platform/api@main");
        judge::git_fsck(&restored)?;
        let source = self.world.source.repo("platform/api")?.head("main");
        self.check(
            "the restored repository is at the source's commit",
            Some(judge::git_commit(&restored, "HEAD")?) == source,
        )?;
        self.story.say("Without -into, and without a name, it checks the whole bucket and keeps nothing:");
        let all = self.run(&["restore", "-identity", IDENTITY])?.exits_with(0)?;
        self.check("all objects are good", all.out.contains(&format!("{} good, 0 bad", TARGETS.len() - 1)))?;
        self.story.proves("you can check every night that the whole bucket can be restored.");
        Ok(())
    }

    fn other_format(&self) -> Result<()> {
        self.story.step("The other format");
        self.story.say(
            "app-sre's consumer, written in Go, reads gzipped tar archives with slightly different names. One setting \
             switches the same bucket to that format:",
        );
        self.run(&["-run-once", "-archive-format=tar.gz"])?.exits_with(0)?;
        let keys = self.world.bucket()?.keys()?;
        self.check("the bucket holds only tar.gz objects", keys.iter().all(|key| key.ends_with(".tar.age")))?;
        self.check("one for each target", keys.len() == TARGETS.len() - 1)?;
        let wanted = still_wanted();
        self.story.say("A far side that works like the Go program receives them into empty repositories:");
        for [_, _, destination, _] in &wanted {
            self.world.destination.remove(destination).ok();
            self.world.destination.repo(destination)?;
        }
        let mut consumer = self.world.consumer()?;
        let delivered = consumer.pass().context("the far side, like the Go program")?;
        self.show_delivered(&delivered);
        self.check("all targets arrived", delivered.len() == wanted.len())?;
        self.check_heads_agree(&wanted)?;
        self.story.proves("both kinds of consumers work, and switching needs no cleanup.");
        Ok(())
    }

    /// Leaves everything running until Ctrl-C, including the far side.
    fn keep(&self, far_side: &mut Consumer) -> Result<()> {
        let story = self.story;
        story.step("Your turn");
        story.say("The servers stay up until Ctrl-C. In another terminal:");
        let mut lines: Vec<String> = self
            .world
            .env()
            .into_iter()
            .filter(|(name, _)| name != "PATH")
            .map(|(name, value)| format!("export {name}={}", quoted(&value)))
            .collect();
        lines.push(format!("export IDENTITY={}", quoted(&self.world.identity_file().to_string_lossy())));
        let folder = self.program.parent().context("no folder")?;
        lines.push(format!("export PATH={}:\"$PATH\"", quoted(&folder.to_string_lossy())));
        for line in &lines {
            println!("{line}");
        }
        let file = self.world.scratch()?.join("environment");
        std::fs::write(&file, lines.join("\n") + "\n")?;
        story.say("or, shorter:");
        println!(". {}", file.display());
        story.say("Things to try:");
        let login = |server: &GitServer, project: &str| {
            server.clone_url(project).replacen("://", &format!("://{}:{}@", server.user(), server.password()), 1)
        };
        let near = login(&self.world.source, "platform/web");
        let far = login(&self.world.destination, "mirror/platform/web");
        for (command, what) in [
            (format!("{PROGRAM} -dry-run -run-once"), "what would a pass do?"),
            (PROGRAM.to_owned(), "the daemon: a pass, a second's pause, the next pass, until Ctrl-C"),
            (format!("git clone {near} near"), "commit there and push: the next pass publishes it"),
            (format!("git clone -b production {far} far"), "see what has arrived"),
            (format!("{PROGRAM} list"), "the bucket, decoded"),
            (format!("{PROGRAM} restore -identity $IDENTITY"), "is everything in it good?"),
        ] {
            story.line("2", format!("# {what}"));
            story.line("", command);
        }
        // The objects in the other format have arrived already.
        far_side.pass().context("the far side")?;
        story.say("The far side checks the bucket every few seconds and prints what it receives:");

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listening = runtime.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(listening);
        loop {
            // Consumers have their own runtime, so they run outside this one.
            match far_side.pass() {
                Ok(delivered) => self.show_delivered(&delivered),
                // An object that a pass replaces may be gone before it is downloaded.
                Err(error) => story.output(&format!("the far side will try again: {error:#}")),
            }
            let stopped = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    () = tokio::time::sleep(FAR_SIDE_INTERVAL) => false,
                }
            });
            if stopped {
                story.say("Stopping the servers.");
                return Ok(());
            }
        }
    }

    // ---- Asking the servers ----

    /// Runs the program and shows what it printed.
    fn run(&self, arguments: &[&str]) -> Result<Run> {
        self.story.command(arguments);
        let mut command = self.world.command(&self.program);
        let output = command.args(arguments).current_dir(self.folder()).output().context("starting the program")?;
        let run = Run {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        self.story.output(&run.log);
        self.story.output(&run.out);
        Ok(run)
    }

    fn check(&self, what: &str, holds: bool) -> Result<()> {
        self.story.checked(what, holds);
        if holds { Ok(()) } else { bail!("this check failed: {what}") }
    }

    /// Where commands run: the demo's own folder.
    fn folder(&self) -> &Path {
        self.world.identity_file().parent().unwrap_or(Path::new("."))
    }

    /// How many bytes GitLab has sent in answers to fetches.
    fn fetched(&self) -> u64 {
        let requests = self.world.source.requests();
        requests.iter().filter(|request| request.is("fetch")).map(|request| request.response_bytes).sum()
    }

    fn objects(&self) -> Result<usize> {
        Ok(self.world.bucket()?.keys()?.len())
    }

    fn check_heads_agree(&self, targets: &[[&str; 4]]) -> Result<()> {
        for [source, branch, destination, destination_branch] in targets {
            let near = self.world.source.repo(source)?.head(branch);
            let far = self.world.destination.repo(destination)?;
            ensure!(
                near.is_some() && near == far.head(destination_branch),
                "{destination} is not at the source's commit"
            );
            far.fsck()?;
        }
        self.check(&format!("both GitLabs agree on {} branches, and git fsck finds no error", targets.len()), true)
    }

    fn show_delivered(&self, delivered: &[Delivered]) {
        for Delivered { group, project, branch, pushed, .. } in delivered {
            self.story.output(&format!("received {group}/{project}@{branch} at {}", short(pushed)));
        }
    }
}

fn still_wanted() -> Vec<[&'static str; 4]> {
    TARGETS.into_iter().filter(|[_, _, destination, branch]| [*destination, *branch] != REMOVED).collect()
}

/// The JSON that is an object's name.
fn base64(key: &str) -> Result<Vec<u8>> {
    use ::base64::Engine as _;
    let encoded = key.split('.').next().unwrap_or_default();
    Ok(::base64::prelude::BASE64_STANDARD.decode(encoded)?)
}

fn key_is_for(key: &str, project: &str) -> bool {
    base64(key).is_ok_and(|json| String::from_utf8_lossy(&json).contains(&format!("\"project_name\":\"{project}\"")))
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.,_-=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// How a run of the program ended.
struct Run {
    status: i32,
    out: String,
    log: String,
}

impl Run {
    fn exits_with(self, status: i32) -> Result<Self> {
        ensure!(self.status == status, "the program's exit status is {}, but {status} was expected", self.status);
        Ok(self)
    }
}

// ---- How it looks ----

/// As much of a line as fits into so many columns, and the rest.
fn split_at_width(line: &str, columns: usize) -> (&str, &str) {
    let mut width = 0;
    let end = line.char_indices().find(|(_, c)| {
        width += c.width().unwrap_or_default();
        width > columns
    });
    line.split_at(end.map_or(line.len(), |(index, _)| index))
}

/// Prints, in colour on a terminal.
struct Story {
    colour: bool,
    columns: usize,
    step: Cell<usize>,
}

impl Story {
    fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(COLUMNS);
        Self { colour: wanted && std::io::stdout().is_terminal(), columns: columns.max(60), step: Cell::new(0) }
    }

    fn line(&self, style: &str, text: impl Display) {
        let mut out = std::io::stdout().lock();
        // If the reader has closed the other end, the checks still continue.
        let _ = if self.colour && !style.is_empty() {
            writeln!(out, "\x1b[{style}m{text}\x1b[0m")
        } else {
            writeln!(out, "{text}")
        };
    }

    fn title(&self) {
        self.line("", "");
        self.line("1", format!("{PROGRAM}: a tour in eleven steps"));
    }

    fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        let title = format!("━━ {}. {title} ", self.step.get());
        let rule = "━".repeat(self.columns.min(PROSE_COLUMNS).saturating_sub(title.width()));
        self.line("", "");
        self.line("1;36", title + &rule);
    }

    /// Prose, wrapped.
    fn say(&self, text: &str) {
        self.line("", "");
        let mut line = String::new();
        for word in text.split(' ') {
            if !line.is_empty() && line.width() + 1 + word.width() > self.columns.min(PROSE_COLUMNS) {
                self.line("", std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line("", line);
    }

    fn bullet(&self, text: &str) {
        self.line("", format!("  • {text}"));
    }

    fn table<const N: usize, T: AsRef<str>>(&self, rows: &[[T; N]]) {
        let widest = |column: usize| rows.iter().map(|row| row[column].as_ref().width()).max().unwrap_or_default();
        for row in rows {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let cell = cell.as_ref();
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', widest(column) - cell.width() + 2));
            }
            self.line("", line.trim_end());
        }
    }

    fn command(&self, arguments: &[&str]) {
        self.line("", "");
        let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        self.line("1", format!("  $ {PROGRAM} {}", arguments.join(" ")));
    }

    /// What a program printed. Errors are wrapped; other long lines are cut at the edge of the screen.
    fn output(&self, text: &str) {
        let width = self.columns - 5;
        for line in text.trim_end().lines() {
            let (shown, rest) = split_at_width(line, width);
            if !line.contains(" ERROR ") {
                let cut = if rest.is_empty() { "" } else { "…" };
                self.line("2", format!("  │ {shown}{cut}").trim_end());
                continue;
            }
            let (mut shown, mut rest) = (shown, rest);
            loop {
                self.line("2", format!("  │ {shown}"));
                if rest.is_empty() {
                    break;
                }
                (shown, rest) = split_at_width(rest, width);
            }
        }
    }

    fn checked(&self, what: &str, holds: bool) {
        let (style, mark) = if holds { ("32", "✓") } else { ("1;31", "✗") };
        self.line(style, format!("  {mark} {what}"));
    }

    fn proves(&self, what: &str) {
        self.line("1", format!("  Proves: {what}"));
    }

    fn failed(&self, why: &str) {
        self.line("", "");
        self.line("1;31", format!("The demo failed: {why}"));
    }

    fn end(&self, took: Duration) {
        self.line("", "");
        self.line("1;32", format!("All checks passed ({} s).", took.as_secs()));
        self.line(
            "",
            "`make demo KEEP=1` leaves the servers up to try commands by hand; README.md continues from here.",
        );
    }
}
