//! Both programs in the background, and a developer who pushes.

use std::rc::Rc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use testbed::git::{GitServer, Protection};

use crate::logs::is_of_a_quiet_pass;
use crate::page::{Page, send_push_event};
use crate::programs::Side::{self, Far, Near};
use crate::programs::{Daemons, PATIENCE, POLL_INTERVAL};
use crate::{Demo, WATCHED};

/// The developer's clone of the project of [`WATCHED`], in [`Demo::folder`].
pub const CLONE: &str = "web";

/// What the developer does in it.
pub const PUSH: &str = "date >> README.md && git commit -qam News && git push -q";

/// How a clone is independent of the user's own settings.
const CLONE_SETTINGS: &str = "git config user.name Developer && git config user.email developer@near.example && \
     git config commit.gpgSign false && git config core.hooksPath /dev/null && git config http.proxy '' && \
     git config credential.helper ''";

/// The secret that GitLab's webhook sends.
const SECRET: &str = "a-secret-of-the-demo";

/// Passes that show that a program has nothing to do, or does not try again.
const PASSES_WATCHED: usize = 2;

/// How the headline of a status page ends if all is well.
const IN_SYNC: &str = "are in sync";

impl Demo {
    pub fn by_themselves(&mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.say(
            "Without -run-once, a program runs until it is told to stop. Here, both pause a second between passes.",
        );
        story.commands([Near, Far].map(|side| (side, format!("{} &", side.program()))));
        self.start_daemons(&[])?;
        for side in [Near, Far] {
            self.daemons()?.wait_for_passes(side, 1)?;
        }
        self.world.destination.clear_requests();
        self.daemons()?.wait_for_passes(Far, PASSES_WATCHED)?;
        self.show_log()?;
        self.check(
            &format!("the consumer's next {PASSES_WATCHED} passes asked the far GitLab for nothing: they only list the bucket"),
            self.world.destination.requests().is_empty(),
        )?;

        story.say(&format!("A developer pushes a commit to {} on the near side:", WATCHED[0]));
        let clone = format!("git clone -q {} {CLONE}", with_login(&self.world.source, WATCHED[0]));
        self.shell_and_hide(".", &clone)?;
        self.shell_and_hide(CLONE, CLONE_SETTINGS)?;
        let seconds = self.push_and_see_it_arrive()?;
        let [_, _, destination, branch] = WATCHED;
        self.check(&format!("{seconds:.1} s after the push, {destination}@{branch} has it in the far GitLab"), true)?;

        story.say("Each program has a status page (with KEEP=1 you can open both at the end):");
        let mut rows = vec![];
        for side in [Near, Far] {
            let page = self.page_that(side, |page| page.headline.ends_with(IN_SYNC))?;
            rows.push([side.to_string(), self.daemons()?.page(side)?, page.headline]);
        }
        story.table(&rows);
        self.check("both pages say that everything is in sync", true)?;
        story.proves("while both run, what is pushed on one side arrives on the other without a command.");
        Ok(())
    }

    /// Returns how many seconds after the push the commit was in the far GitLab.
    fn push_and_see_it_arrive(&mut self) -> Result<f64> {
        let delivered = format!("delivered {}@{}", WATCHED[2], WATCHED[3]);
        self.shell(CLONE, PUSH)?;
        let pushed = Instant::now();
        self.wait_until(&format!("the far side has {delivered}"), |demo| demo.agree(WATCHED))?;
        let seconds = pushed.elapsed().as_secs_f64();
        self.daemons()?.wait_until_logged(Far, &delivered, 1)?;
        self.show_log()?;
        Ok(seconds)
    }

    pub fn protected_branch(&mut self) -> Result<()> {
        let (story, [_, _, destination, branch]) = (Rc::clone(&self.story), WATCHED);
        story.say(&format!(
            "On the far side, somebody protects the branch {branch} of {destination} from pushes. On the near side, the \
             developer pushes again:"
        ));
        self.world.destination.protect(destination, branch, Protection::NoPush);
        self.world.destination.clear_requests();
        self.shell(CLONE, PUSH)?;
        self.explained(&format!("{destination}@{branch}"))?;
        self.daemons()?.wait_for_passes(Far, PASSES_WATCHED)?;
        let pushes = self.pushes().len();
        self.check("the next passes do not push it again: GitLab would only refuse it again", pushes == 1)?;
        // The same in each pass.
        self.daemons()?.news();

        story.say(
            "Now somebody removes the protection. The consumer would try again within the hour, or as soon as the branch \
             moves. A signal makes it try at once:",
        );
        self.world.destination.unprotect(destination, branch);
        self.pushed_after_a_signal(&format!("{destination}@{branch}"))?;
        self.stop_daemons()?;
        story.proves("a refusal is explained where people look, and costs one push, not one per pass.");
        Ok(())
    }

    /// The log and the page of the consumer say why the branch does not move, and what to do.
    fn explained(&mut self, name: &str) -> Result<()> {
        let story = Rc::clone(&self.story);
        let daemons = self.daemons()?;
        daemons.wait_until_logged(Far, "pass done, not everything is in sync", 1)?;
        let advice = "Protected branches, let the role of the token's user push";
        let explained = daemons.count(Far, &format!("failed: {name}")) == 1 && daemons.count(Far, advice) > 0;
        let url = daemons.page(Far)?;
        self.show_log()?;
        self.check("the log says what is wrong, and what to do", explained)?;

        story.say(&format!("So does the far side's page, {url}"));
        let page = self.page_that(Far, |page| !page.cards.is_empty())?;
        story.page(&page.headline);
        for line in page.cards.iter().flatten() {
            story.page(line);
        }
        let is_explained = |[cause, advice, place, _]: &[String; 4]| {
            cause.starts_with("Far branch is protected")
                && advice.contains("Protected branches")
                && place.starts_with(name)
        };
        self.check("it is on a card, under its cause", page.cards.iter().any(is_explained))
    }

    fn pushed_after_a_signal(&mut self, name: &str) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.command(Far, &format!("kill -USR1 {}", self.daemons()?.pid(Far)?));
        self.daemons()?.signal(Far, Signal::USR1)?;
        self.wait_until("the far branch has moved", |demo| demo.agree(WATCHED))?;
        // It was delivered once before.
        self.daemons()?.wait_until_logged(Far, &format!("delivered {name}"), 2)?;
        let news = self.daemons()?.news().into_iter();
        news.filter(|(_, line)| line.contains(" delivered ")).for_each(|(side, line)| story.logged(side, &line));
        let page = self.page_that(Far, |page| page.headline.ends_with(IN_SYNC))?;
        self.check(&format!("the page says: {}", page.headline), page.cards.is_empty())
    }

    pub fn webhook(&mut self) -> Result<()> {
        let (story, [source, branch, _, _]) = (Rc::clone(&self.story), WATCHED);
        story.say(
            "A pass asks GitLab about every project, so it should not come every second. With a webhook it need not: here the \
             producer pauses an hour between passes, and GitLab tells it of each push.",
        );
        story.commands([
            (Near, format!("WEBHOOK_SECRET={SECRET} {} -reconcile-sleep-time=1h &", Near.program())),
            (Far, format!("{} &", Far.program())),
        ]);
        self.start_daemons(&[(Near, "WEBHOOK_SECRET", SECRET), (Near, "RECONCILE_SLEEP_TIME", "1h")])?;
        for side in [Near, Far] {
            self.daemons()?.wait_until_logged(side, "pass done", 1)?;
        }
        // The start of both is known by now.
        self.daemons()?.news();
        self.shell(CLONE, PUSH)?;
        let url = self.daemons()?.page(Near)?;
        story.say(&format!("GitLab posts the event to {url}hooks/gitlab, with the secret in a header:"));
        let pushed = Instant::now();
        let answer = send_push_event(&url, SECRET, source, branch)?;
        story.output(&answer);
        self.check("the producer begins a pass for this branch alone", answer.contains(" 202 "))?;
        self.wait_until("the far side has it", |demo| demo.agree(WATCHED))?;
        let seconds = pushed.elapsed().as_secs_f64();
        self.daemons()?.wait_until_logged(Far, &format!("delivered {}@{}", WATCHED[2], WATCHED[3]), 1)?;
        self.show_log()?;
        self.check(&format!("{seconds:.1} s later it is in the far GitLab"), true)?;
        story.say("The consumer has a webhook, too, which the bucket can call: docs/consumer.md says how.");
        self.stop_daemons()?;
        story.proves("what is pushed crosses at once, however long the pause between passes is.");
        Ok(())
    }

    /// Starts both programs in the background.
    pub fn start_daemons(&mut self, settings: &[(Side, &str, &str)]) -> Result<()> {
        self.daemons = Some(Daemons::start(&self.world, &self.programs, settings)?);
        Ok(())
    }

    fn stop_daemons(&mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        let daemons = self.daemons.take().context("not started")?;
        let (near, far) = (daemons.pid(Near)?, daemons.pid(Far)?);
        story.commands([(Near, format!("kill {near}")), (Far, format!("kill {far}"))]);
        daemons.stop()?;
        self.check("both have stopped, with exit status 0", true)
    }

    pub fn daemons(&mut self) -> Result<&mut Daemons> {
        self.daemons.as_mut().context("not started")
    }

    /// Shows what both programs have logged since the last time, without passes that had nothing to do.
    pub fn show_log(&mut self) -> Result<()> {
        let news = self.daemons()?.news();
        for (side, line) in news.iter().filter(|(_, line)| !is_of_a_quiet_pass(line)) {
            self.story.logged(*side, line);
        }
        Ok(())
    }

    /// Waits until something is so, while both programs run.
    fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let mut daemons = self.daemons.take().context("not started")?;
        let waited = daemons.wait_until(what, |_| Ok(holds(self)));
        self.daemons = Some(daemons);
        waited
    }

    /// The status page of one side, once it is as expected.
    fn page_that(&mut self, side: Side, is_expected: impl Fn(&Page) -> bool) -> Result<Page> {
        let (url, begun) = (self.daemons()?.page(side)?, Instant::now());
        loop {
            let page = Page::at(&url)?;
            if is_expected(&page) {
                return Ok(page);
            }
            ensure!(begun.elapsed() < PATIENCE, "the {side} side's page still says: {}", page.headline);
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The URL of a project, with user and password.
pub fn with_login(server: &GitServer, project: &str) -> String {
    server.clone_url(project).replacen("://", &format!("://{}:{}@", server.user(), server.password()), 1)
}
