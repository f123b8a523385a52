//! The two programs: run to their end, or in the background.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testbed::world::World;

use crate::page::passes_over;

/// How long anything that is waited for may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often is tried what is waited for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a program logs once it listens, before the address.
const LISTENING: &str = "status page on ";

/// The key that the producer signs with, and its public part, in [`crate::Demo::folder`].
pub const SIGNING_KEY: &str = "signing.pem";
pub const TRUSTED_KEY: &str = "signing.pub";

/// Which side a program runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Near,
    Far,
}

impl Side {
    /// The program of this side.
    pub fn program(self) -> &'static str {
        match self {
            Self::Near => "git-partition-sync-producer",
            Self::Far => "git-partition-sync-consumer",
        }
    }

    /// The environment that a program needs on this side: what the producer publishes is signed, and that is checked here. The
    /// producer's `restore` runs on the far side, too.
    pub fn environment(self, world: &World, program: &str) -> Vec<(String, String)> {
        let file = |name| world.identity_file().with_file_name(name).to_string_lossy().into_owned();
        let (mut environment, own) = match self {
            Self::Near => {
                (world.env(), vec![("SIGNING_KEY_FILE", file(SIGNING_KEY)), ("CROSSING", "incremental".to_owned())])
            }
            Self::Far => (world.consumer_env(), vec![("TRUSTED_KEYS_FILE", file(TRUSTED_KEY))]),
        };
        if program == Self::Near.program() {
            environment.retain(|(name, _)| name != "PRIVATE_KEY");
        }
        environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        environment
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

/// How a run of a program ended.
pub struct Run {
    pub status: i32,
    pub out: String,
    pub log: String,
}

impl Run {
    /// Runs a program to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).output().context("starting a program")?;
        Ok(Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    pub fn exits_with(self, status: i32) -> Result<Self> {
        ensure!(self.status == status, "the program's exit status is {}, but {status} was expected", self.status);
        Ok(self)
    }
}

/// Both programs in the background, and what they have logged, in the order it came. Dropping it kills them.
pub struct Daemons {
    running: Vec<(Side, Child)>,
    logged: Arc<Mutex<Vec<(Side, String)>>>,
    shown: usize,
}

impl Daemons {
    /// Starts both, with these settings of one side or the other in addition. They end with this process, even if it is killed.
    pub fn start(world: &World, programs: &Path, settings: &[(Side, &str, &str)]) -> Result<Self> {
        let mut daemons = Self { running: vec![], logged: Arc::default(), shown: 0 };
        for side in [Side::Near, Side::Far] {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(programs.join(side.program()));
            // Ctrl-C reaches only the demo, which then stops them.
            command.env_clear().envs(side.environment(world, side.program())).process_group(0);
            let own = settings.iter().filter(|(of, _, _)| *of == side);
            command.envs(own.map(|(_, name, value)| (name, value)));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().with_context(|| format!("starting {}", side.program()))?;
            let log = child.stderr.take().context("no standard error")?;
            let logged = Arc::clone(&daemons.logged);
            thread::spawn(move || {
                for line in BufReader::new(log).lines().map_while(Result::ok) {
                    logged.lock().unwrap_or_else(PoisonError::into_inner).push((side, line));
                }
            });
            daemons.running.push((side, child));
        }
        Ok(daemons)
    }

    /// The process of one side.
    pub fn pid(&self, side: Side) -> Result<u32> {
        self.running.iter().find(|(of, _)| *of == side).map(|(_, child)| child.id()).context("not running")
    }

    pub fn signal(&self, side: Side, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid(side)?.cast_signed()).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// How many lines of one side say this.
    pub fn count(&self, side: Side, text: &str) -> usize {
        self.lines().iter().filter(|(of, line)| *of == side && line.contains(text)).count()
    }

    /// What was logged since the last time that this was asked.
    pub fn news(&mut self) -> Vec<(Side, String)> {
        let news = self.lines().split_off(self.shown);
        self.shown += news.len();
        news
    }

    fn lines(&self) -> Vec<(Side, String)> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until one side logs this.
    pub fn wait_until_logged(&mut self, side: Side, text: &str, times: usize) -> Result<()> {
        self.wait_until(&format!("the {side} side logs {text:?}"), |daemons| Ok(daemons.count(side, text) >= times))
    }

    /// Waits for so many more passes of one side.
    pub fn wait_for_passes(&mut self, side: Side, passes: usize) -> Result<()> {
        let url = self.page(side)?;
        let before = passes_over(&url)?;
        self.wait_until(&format!("{passes} more passes of the {side} side are over"), |_| {
            Ok(passes_over(&url)? >= before + passes)
        })
    }

    /// Waits until something is so.
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !holds(self)? {
            self.are_running()?;
            ensure!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// An error if one has ended by itself.
    pub fn are_running(&mut self) -> Result<()> {
        for (side, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
                let last = logged.iter().rev().find(|(of, _)| of == side).map(|(_, line)| line.as_str());
                bail!("{} has ended with {status}: {}", side.program(), last.unwrap_or("it logged nothing"));
            }
        }
        Ok(())
    }

    /// The address of one side's status page.
    pub fn page(&mut self, side: Side) -> Result<String> {
        self.wait_until_logged(side, LISTENING, 1)?;
        let lines = self.lines();
        let line = lines.iter().find(|(of, line)| *of == side && line.contains(LISTENING));
        let (_, address) = line.and_then(|(_, line)| line.split_once(LISTENING)).context("no address in the log")?;
        Ok(address.split([' ', ',']).next().unwrap_or(address).to_owned())
    }

    /// Asks both to stop, and waits until they have ended, which must be with exit status 0.
    pub fn stop(mut self) -> Result<()> {
        for side in [Side::Near, Side::Far] {
            self.signal(side, Signal::TERM)?;
        }
        let begun = Instant::now();
        for (side, child) in &mut self.running {
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                ensure!(begun.elapsed() < PATIENCE, "{} does not stop", side.program());
                thread::sleep(POLL_INTERVAL);
            };
            ensure!(status.success(), "{} stopped with {status}", side.program());
        }
        Ok(())
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // It may have ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
