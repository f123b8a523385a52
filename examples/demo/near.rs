//! The near side: from its GitLab into the bucket.

use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use testbed::git::{GitFault, words};
use testbed::judge;

use crate::programs::Side::{Far, Near};
use crate::programs::{SIGNING_KEY, TRUSTED_KEY};
use crate::{Demo, MISSING, REMOVED, TARGETS};

/// The far side's age identity, in [`Demo::folder`], by its name in README.md.
pub const IDENTITY: &str = "far-side.key";

impl Demo {
    pub fn two_gitlabs(&mut self) -> Result<()> {
        let (story, world) = (Rc::clone(&self.story), &self.world);
        story.say(
            "A company has one GitLab on the near side and another in an isolated partition. Only an S3 bucket crosses \
             the line. One program fills it, the other one empties it into the far GitLab:",
        );
        story.line("", "");
        story.line("1", "  near GitLab → producer → bucket → consumer → far GitLab");
        story.say("These are real servers, running on this machine for this demo:");
        let in_memory = world.s3_endpoint().endpoint;
        let s3 = match testbed::seaweed::Seaweed::is_installed() {
            true => "SeaweedFS",
            false => "in memory, because SeaweedFS could not be installed",
        };
        story.table(&[
            ["near GitLab", &world.source.url(), "Git over HTTP, with a token"],
            ["GraphQL", &world.graphql.url(), "says which branches go where"],
            ["S3", &in_memory, s3],
            ["far GitLab", &world.destination.url(), "with another token; no project is there yet"],
        ]);
        story.say("The near GitLab has a dozen projects, and GraphQL wants these branches on the far side:");
        let rows = TARGETS.map(|[source, branch, destination, destination_branch]| {
            [format!("{source}@{branch}"), "→".to_owned(), format!("{destination}@{destination_branch}")]
        });
        story.table(&rows);
        story.say(
            "There are nested groups, the same name in two groups, two branches of one project, branches with another \
             name on the far side, and a branch whose name is not ASCII.",
        );
        Ok(())
    }

    pub fn signing_key(&mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.say(
            "Anyone who can write to the bucket could put code into the far GitLab. So the producer signs what it uploads, and \
             the consumer takes nothing else. The key stays on the near side; its public part is carried over once.",
        );
        self.shell(".", &format!("(umask 077 && openssl genpkey -algorithm ed25519 -out {SIGNING_KEY})"))?;
        self.shell(".", &format!("openssl pkey -in {SIGNING_KEY} -pubout -out {TRUSTED_KEY}"))?;
        story.say(
            "From here on, both programs have these settings, in addition to those for servers and logins. With \
             CROSSING=incremental a new commit crosses alone, without the history that crossed before. (A repository of less \
             than 256 KiB crosses whole: that takes no longer.)",
        );
        story.commands([
            (Near, format!("export SIGNING_KEY_FILE={SIGNING_KEY} CROSSING=incremental")),
            (Far, format!("export TRUSTED_KEYS_FILE={TRUSTED_KEY}")),
        ]);
        Ok(())
    }

    pub fn dry_run(&mut self) -> Result<()> {
        self.story.say(
            "A dry run shows what a pass would do, and why. (The demo shortens lines of the log: dates are left out, and commit \
             ids are short. Lines with settings or totals, and long lines that are alike, are cut at the edge of the screen.)",
        );
        let shown = self.run(Near, &["-dry-run", "-run-once"])?.exits_with(0)?;
        self.check("every target would be published", shown.out.contains(&format!("{} to publish", TARGETS.len())))?;
        self.check("nothing is in the bucket", self.objects()? == 0)?;
        self.check("nothing was cloned: WORKDIR does not even exist", !self.world.workdir().exists())?;
        self.story.proves("a dry run reads from three servers and writes nothing.");
        Ok(())
    }

    pub fn near_check(&mut self) -> Result<()> {
        self.story
            .say("`check` tries each server and each right that is needed, and says what to do about each failure.");
        self.run(Near, &["check"])?.exits_with(0)?;
        self.check("nothing fails, and the bucket is still empty", self.objects()? == 0)?;
        self.story.proves("a wrong token or a missing right is found before the first pass.");
        Ok(())
    }

    pub fn first_pass(&mut self) -> Result<()> {
        self.story
            .say("Each branch is fetched, archived, encrypted and uploaded as one stream: no archive is ever on disk.");
        self.run(Near, &["-run-once"])?.exits_with(0)?;
        self.fetched_at_first = self.fetched();
        self.check("the bucket has one object for each target", self.objects()? == TARGETS.len())?;
        self.story.proves("one command brings an empty bucket up to date.");
        Ok(())
    }

    pub fn the_bucket(&mut self) -> Result<()> {
        let keys = self.world.bucket()?.keys()?;
        let key = keys.first().context("an empty bucket")?;
        self.story.say(
            "An object's name says where it goes, in base64 (here is one). Only the far side can read its content.",
        );
        self.story.output(key);
        self.story.output(&String::from_utf8_lossy(&base64(key)?));
        self.story.say("For people, `list` decodes the names:");
        let list = self.run(Near, &["list"])?.exits_with(0)?;
        self.check("every target is listed", list.out.contains(&format!("{} objects", TARGETS.len())))?;
        let artifact = self.world.bucket()?.get(key)?;
        let head = b"age-encryption.org/v1\n";
        self.check("the object is encrypted with age", artifact.starts_with(head))?;
        let open = artifact.windows(4).any(|window| window == b"PACK" || window == b"refs");
        self.check("nothing of the repository can be read in it", !open)?;
        self.story.proves("anyone who can read the bucket sees names and sizes, but no code.");
        Ok(())
    }

    pub fn changes(&mut self) -> Result<()> {
        let (story, world) = (Rc::clone(&self.story), &self.world);
        let api = world.source.repo("platform/api")?;
        api.commit("main", &[("src/fix.txt", "a fix\n")], "Fix a bug")?;
        story.bullet("platform/api@main, which has a megabyte, has a new commit");
        world.source.repo("billing/api")?.commits("main", 40)?;
        story.bullet("billing/api@main, which is small, has forty");
        world.source.repo("data/pipelines")?.force_root("main", &[("README.md", "from scratch\n")])?;
        story.bullet("data/pipelines@main was rewritten: it has nothing in common with its old history");
        world.unsync(REMOVED[2], REMOVED[3]);
        story.bullet(&format!("{} is no longer wanted on the far side", REMOVED[2]));
        story.say("What would a pass do?");
        let shown = self.run(Near, &["-dry-run", "-run-once"])?.exits_with(0)?;
        self.check("3 to publish, 1 to retire", shown.out.contains("3 to publish, 1 to retire"))?;
        story.proves("you can read what a pass will do, and why, before it does it.");
        Ok(())
    }

    pub fn trouble(&mut self) -> Result<()> {
        let (story, world) = (Rc::clone(&self.story), &self.world);
        let before = world.bucket()?.keys()?;
        story.say("The target list is suddenly empty. A program that trusted it would delete everything.");
        let targets = world.graphql.targets();
        world.graphql.set_targets(vec![]);
        let refused = self.run(Near, &["-run-once"])?.exits_with(1)?;
        self.check("the pass fails and names the setting to change", refused.log.contains("MAX_RETIRE"))?;
        self.check("nothing was deleted", world.bucket()?.keys()? == before)?;
        world.graphql.set_targets(targets);

        story.say(&format!("{} can no longer be read, while platform/tools has a new commit.", MISSING[0]));
        world.source.fault(MISSING[0], GitFault::Answer(404, words::NOT_FOUND.to_owned()));
        world.source.repo("platform/tools")?.commit("main", &[("NEWS", "more\n")], "More tools")?;
        let partly = self.run(Near, &["-run-once"])?.exits_with(1)?;
        world.source.clear_overrides();
        self.check("the pass names the project that it could not read", partly.log.contains(MISSING[2]))?;
        self.check("the other one is published anyway", partly.log.contains("published mirror/platform/tools"))?;
        let kept =
            before.iter().filter(|key| !key_is_for(key, "mirror/platform/tools", "main")).collect::<BTreeSet<_>>();
        let after = world.bucket()?.keys()?;
        self.check(
            "every other object stays, including the missing project's",
            kept.iter().all(|key| after.contains(key)),
        )?;
        story.say("Only what has changed reaches the far side:");
        let far = self.run(Far, &["-run-once"])?.exits_with(0)?;
        self.check("it delivered the other one", far.log.contains("delivered mirror/platform/tools"))?;
        story.proves("what is unknown is not deleted, and one bad target affects no other.");
        Ok(())
    }

    pub fn restore(&mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.say(
            "Are the objects in the bucket good? The producer's `restore` downloads, decrypts, unpacks and verifies them. It \
             needs the far side's identity, so it runs there.",
        );
        std::fs::create_dir_all(self.folder().join("restored"))?;
        self.run_at(
            Far,
            Near.program(),
            &["restore", "-identity", IDENTITY, "-into", "restored", "mirror/platform/api"],
        )?
        .exits_with(0)?;
        let restored = self.folder().join("restored/mirror/platform/api@main");
        judge::git_fsck(&restored)?;
        let source = self.world.source.repo("platform/api")?.head("main");
        self.check(
            "the restored repository is at the source's commit",
            Some(judge::git_commit(&restored, "HEAD")?) == source,
        )?;
        story.say("Without -into, and without a name, it checks the whole bucket and keeps nothing:");
        let all = self.run_at(Far, Near.program(), &["restore", "-identity", IDENTITY])?.exits_with(0)?;
        self.check("all objects are good", all.out.contains(&format!("{} good, 0 bad", TARGETS.len() - 1)))?;
        story.proves("you can check every night that the whole bucket can be restored.");
        Ok(())
    }
}

/// The JSON that is an object's name.
fn base64(key: &str) -> Result<Vec<u8>> {
    use ::base64::Engine as _;
    let encoded = key.split('.').next().unwrap_or_default();
    Ok(::base64::prelude::BASE64_STANDARD.decode(encoded)?)
}

/// Whether an object is of a branch of `group/project`.
pub fn key_is_for(key: &str, destination: &str, branch: &str) -> bool {
    let (group, project) = destination.rsplit_once('/').unwrap_or_default();
    let json = base64(key).map(|json| String::from_utf8_lossy(&json).into_owned()).unwrap_or_default();
    [("group", group), ("project_name", project), ("branch", branch)]
        .iter()
        .all(|(name, value)| json.contains(&format!("\"{name}\":\"{value}\"")))
}
