//! The far side: from the bucket into its GitLab.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::rc::Rc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use testbed::consumer::{Consumer, Delivered};
use testbed::git::{GitOptions, GitServer};

use crate::programs::Side::{Far, Near};
use crate::{Demo, TARGETS, make_group, projects, still_wanted};

/// How many lines are shown of many that are alike.
const LINES_SHOWN: usize = 3;

impl Demo {
    pub fn far_check(&mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.say(
            "`check` tries each server and each right that is needed. It warns here: the right to push cannot be tried \
             before there is a project.",
        );
        let check = self.run(Far, &["check"])?.exits_with(0)?;
        self.check("nothing fails", check.out.contains("It works"))?;
        story.say("What would a pass do?");
        let plan = self.run(Far, &["-dry-run", "-run-once"])?.exits_with(0)?;
        self.check("every object would be pushed", plan.out.contains(&format!("{} to push", TARGETS.len())))?;
        self.check("the far GitLab still has no project", self.world.destination.created().is_empty())?;
        story.proves("the far side, too, can be tried before it changes anything.");
        Ok(())
    }

    pub fn far_first_pass(&mut self) -> Result<()> {
        let (story, world) = (Rc::clone(&self.story), &self.world);
        story.say(
            "Each object is downloaded, decrypted and pushed as one stream. GitLab makes the missing projects. The last 20 \
             bytes of a push are sent only once the whole object has proved good.",
        );
        let before = self.spool_changed()?;
        world.destination.clear_requests();
        let pass = self.run(Far, &["-run-once"])?.exits_with(0)?;
        self.pushed_at_first = self.pushes().iter().sum();
        self.check("every target was delivered", pass.log.contains(&format!("delivered={}", TARGETS.len())))?;
        self.check("no repository was ever in the consumer's WORKDIR", self.spool_changed()? == before)?;
        let made = self.world.destination.created().len();
        self.check(&format!("{made} projects appeared in the far GitLab"), made == projects())?;

        let [source, branch, destination, destination_branch] = TARGETS[1];
        for (side, server, project, branch) in
            [(Near, &world.source, source, branch), (Far, &world.destination, destination, destination_branch)]
        {
            story.command(side, &format!("git log --oneline -2 {branch}   # {project}"));
            story.output(&server.repo(project)?.git(&["log", "--oneline", "-2", branch])?);
        }
        self.check_histories(&TARGETS, &world.destination, "on both sides")?;
        story.proves("what is in one GitLab is now in the other, and neither has talked to the other.");
        Ok(())
    }

    /// When something was last added to, or removed from, the folder for objects that are pushed from the disk.
    fn spool_changed(&self) -> Result<SystemTime> {
        let folder = self.world.consumer_workdir().join(Far.program()).join("objects");
        // As the consumer would make it, which leaves nothing there before its first pass.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        folder.metadata().and_then(|folder| folder.modified()).with_context(|| format!("{}", folder.display()))
    }

    pub fn other_tools(&mut self) -> Result<()> {
        let (story, wanted) = (Rc::clone(&self.story), still_wanted());
        story.say(
            "The format is documented, so others can read the same bucket. app-sre's consumer, written in Go, wants gzipped tar \
             archives of whole histories. Two settings of the producer switch the bucket to that:",
        );
        self.switch(&["-archive-format=tar.gz", "-crossing=whole"])?;
        let keys = self.world.bucket()?.keys()?;
        self.check("the bucket holds only tar.gz objects", keys.iter().all(|key| key.ends_with(".tar.age")))?;
        self.check("one for each target", keys.len() == wanted.len())?;
        story.say("A far side that works like the Go program, with Debian's age and git, fills another, empty GitLab from it:");
        self.deliver_to_another()?;

        story
            .say("The producer goes back to its own format. Our consumer sees that the objects hold the same commits:");
        self.switch(&["-archive-format=zip"])?;
        let quiet = self.run(Far, &["-run-once"])?.exits_with(0)?;
        self.check("it has nothing to push", quiet.log.contains(&format!("delivered=0 unchanged={}", wanted.len())))?;
        story.proves("either program can be replaced, and switching needs no cleanup.");
        Ok(())
    }

    /// A pass of the producer with other settings, of which little is shown.
    fn switch(&self, settings: &[&str]) -> Result<()> {
        let arguments = [&["-run-once"], settings].concat();
        let pass = self.run_and_hide(Near, Near.program(), &arguments)?.exits_with(0)?;
        let log: Vec<_> = pass.log.lines().map(str::to_owned).collect();
        self.story.first_lines(&log, LINES_SHOWN);
        Ok(())
    }

    /// Lets the step-by-step consumer of the testbed, which runs outside programs, fill another GitLab.
    fn deliver_to_another(&self) -> Result<()> {
        let wanted = still_wanted();
        let options = GitOptions { allow_push: true, create_projects: true, ..GitOptions::default() };
        let gitlab = GitServer::start(options)?;
        for [_, _, destination, _] in &wanted {
            make_group(&gitlab, destination)?;
        }
        let workdir = self.folder().join("other-far-side");
        let mut consumer = Consumer::new(self.world.identity_file(), &self.world.s3_endpoint(), &gitlab, workdir)?;
        let delivered = consumer.pass().context("the other far side")?;
        let received = |Delivered { group, project, branch, pushed, .. }: &Delivered| {
            format!("received {group}/{project}@{branch} at {}", pushed.get(..10).unwrap_or(pushed))
        };
        self.story.first_lines(&delivered.iter().map(received).collect::<Vec<_>>(), LINES_SHOWN);
        self.check("each object brought the commit in its name", delivered.iter().all(|one| one.commit == one.pushed))?;
        self.check_histories(&wanted, &gitlab, "there")
    }
}
