//! What stays up after the story, until Ctrl-C.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::background::{CLONE, PUSH, with_login};
use crate::near::IDENTITY;
use crate::programs::Side::{self, Far, Near};
use crate::{Demo, WATCHED, quoted, still_wanted};

/// The pause between passes: long enough to read what the last one logged.
const PAUSE: &str = "5s";

/// The setting for it.
const INTERVAL_SETTING: &str = "RECONCILE_SLEEP_TIME";

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
        self.start_daemons(&[Near, Far].map(|side| (side, INTERVAL_SETTING, PAUSE)))?;
        let daemons = self.daemons()?;
        let (near, far) = (daemons.page(Near)?, daemons.page(Far)?);
        daemons.news();
        story.table(&[["near", &near, "the producer's page"], ["far", &far, "the consumer's page"]]);
        story.say("In another terminal, paste this line. It gives that shell a few commands:");
        story.line("", "");
        story.line("1", format!("  . {}", quoted(&self.write_commands()?.to_string_lossy())));
        story.line("", "");
        story.table(&[
            ["push", "commit and push to the near GitLab; a few seconds later it is on the far side"],
            ["arrived", "what the far GitLab has of it"],
            ["near list", "the bucket, decoded"],
            ["near -dry-run -run-once", "what would the next pass do? (without -run-once, it repeats)"],
            ["far check", "does everything work on the far side?"],
            ["far list -signatures", "who has signed what?"],
            ["restore_all", "is everything in the bucket good?"],
        ]);
        story.say("What both programs log, without the passes that had nothing to do. Ctrl-C ends it all:");
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

    /// Writes a file that gives a shell commands, and returns its path. The shell's own settings stay as they are.
    fn write_commands(&self) -> Result<PathBuf> {
        let folder = quoted(&self.folder().to_string_lossy());
        let run = |side: Side, program: &str, words: &str| {
            let mut settings = side.environment(&self.world, program);
            settings.retain(|(name, _)| name != INTERVAL_SETTING);
            settings.push((INTERVAL_SETTING.to_owned(), PAUSE.to_owned()));
            let settings = settings.into_iter();
            let settings =
                settings.map(|(name, value)| quoted(&format!("{name}={value}"))).collect::<Vec<_>>().join(" ");
            let program = quoted(&self.programs.join(program).to_string_lossy());
            format!("env -i TERM=\"$TERM\" {settings} {program} {words}")
        };
        let [source, source_branch, project, branch] = WATCHED;
        let pushed = format!("git log -1 --format='pushed %h to {source}@{source_branch}'");
        let far = quoted(&with_login(&self.world.destination, project));
        let commands = [
            ("near", run(Near, Near.program(), "\"$@\"")),
            ("far", run(Far, Far.program(), "\"$@\"")),
            ("restore_all", run(Far, Near.program(), &format!("restore -identity {folder}/{IDENTITY}"))),
            ("push", format!("cd {folder}/{CLONE} && {PUSH} && {pushed}")),
            (
                "arrived",
                format!(
                    "cd {folder} && {{ test -d far || git clone -q --bare {far} far; }} && git -C far fetch -q origin +{branch}:{branch} && git -C far log --oneline -5 {branch}"
                ),
            ),
        ];
        let functions = commands.map(|(name, command)| format!("{name}() ( {command}; )\n")).concat();
        let file = self.folder().join("commands");
        fs::write(&file, functions)?;
        Ok(file)
    }
}
