//! What stays up after the story, until Ctrl-C.

use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::background::{CLONE, PUSH, with_login};
use crate::programs::Side::{self, Far, Near};
use crate::{Demo, WATCHED, quoted, still_wanted};

/// The pause between passes: long enough to read what the last one logged.
const PAUSE: &str = "-reconcile-sleep-time=5s";

/// How often both GitLabs are compared.
const INTERVAL: Duration = Duration::from_millis(200);

impl Demo {
    /// Leaves everything running until Ctrl-C.
    pub fn keep(mut self) -> Result<()> {
        let story = Rc::clone(&self.story);
        story.heading("Your turn");
        story.say(
            "Both programs run again, with five seconds between two passes, until Ctrl-C. Their pages follow along in a \
             browser:",
        );
        self.start_daemons(&[PAUSE])?;
        let daemons = self.daemons()?;
        let (near, far) = (daemons.page(Near)?, daemons.page(Far)?);
        daemons.news();
        story.table(&[["near", &near, "the producer's page"], ["far", &far, "the consumer's page"]]);
        story.say("In another terminal, paste this as often as you like. The commit then appears on the far side:");
        let folder = quoted(&self.folder().to_string_lossy());
        story.line("1", format!("cd {folder}/{CLONE} && {PUSH}"));
        story.say("More to try from there:");
        for side in [Near, Far] {
            self.write_settings(side)?;
        }
        let far = with_login(&self.world.destination, WATCHED[2]);
        for (command, what) in [
            (format!("git clone -q -b {} {far} ../far-web", WATCHED[3]), "what has arrived"),
            (format!(". ../near && {} list", Near.program()), "the bucket, decoded"),
            (format!(". ../near && {} -dry-run -run-once", Near.program()), "what would the next pass do?"),
            (format!(". ../far && {}", Self::restore_command()), "is everything in the bucket good?"),
            (format!(". ../far && {} check", Far.program()), "does everything work on the far side?"),
        ] {
            story.line("2", format!("# {what}"));
            story.line("", command);
        }
        story.say("What both programs log, without the passes that had nothing to do:");
        self.follow()?;
        story.say("Stopping both programs and the servers.");
        self.daemons.take().context("not started")?.stop()
    }

    /// Shows what happens, until Ctrl-C.
    fn follow(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listening = runtime.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(listening);
        let mut apart = BTreeMap::new();
        loop {
            self.daemons()?.are_running()?;
            self.show_log()?;
            for target in still_wanted() {
                if !self.agree(target) {
                    apart.entry(target).or_insert_with(Instant::now);
                } else if let Some(since) = apart.remove(&target) {
                    let [_, _, project, branch] = target;
                    let seconds = since.elapsed().as_secs_f64();
                    self.story.checked(&format!("{project}@{branch} has it, {seconds:.1} s after the push"), true);
                }
            }
            let stopped = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                }
            });
            if stopped {
                return Ok(());
            }
        }
    }

    /// Writes a file that gives a shell one side's settings.
    fn write_settings(&self, side: Side) -> Result<()> {
        let settings = side.environment(&self.world).into_iter().filter(|(name, _)| name != "PATH");
        let mut lines: Vec<_> = settings.map(|(name, value)| format!("export {name}={}", quoted(&value))).collect();
        lines.push(format!("export PATH={}:\"$PATH\"", quoted(&self.programs.to_string_lossy())));
        Ok(fs::write(self.folder().join(side.to_string()), lines.join("\n") + "\n")?)
    }
}
