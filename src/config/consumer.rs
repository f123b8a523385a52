//! The settings of the consumer: what it reads, and the types that hold it.
//!
//! Invariant: a setting that the producer has too has the same name and takes the same values.

mod reference;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;

pub(super) use self::reference::{PRIVATE_KEY, PRIVATE_KEY_FILE, SECTIONS};
use super::reader::{Reader, Reported};
use super::reference::*;
use super::settings::{STALL_MARGIN, default_sync_concurrency};
use super::values::{above_zero, boolean, count, ip_address, memory_budget, one_line, port, some_bytes};
use super::{Gitlab, Health, Instance, Keys, List, OutputFormat, Trusted};
use crate::artifact::encrypt::Identities;
use crate::artifact::signature::TrustedKeys;
use crate::bucket::S3;
use crate::model::shard::Shard;
use crate::net::Timeouts;
use crate::plan::OnRewrite;
use crate::secret::Secret;
use crate::text::error_chain;

/// What is missing if neither is set.
const NO_PRIVATE_KEY: &str = "PRIVATE_KEY or PRIVATE_KEY_FILE";

/// What the consumer is to do.
#[derive(Debug, Clone)]
pub enum ConsumerCommand {
    /// Deliver: the program without a command.
    Run(Consume),
    /// Try everything that delivering needs.
    Check(Consume),
    /// Show what the bucket holds.
    List(List),
    /// Ask the daemon on this machine whether it is healthy.
    Health(Health),
}

impl ConsumerCommand {
    pub(super) fn ends(&self) -> bool {
        match self {
            Self::Run(consume) => consume.run_once,
            Self::Check(_) | Self::List(_) | Self::Health(_) => true,
        }
    }
}

/// All that delivering needs.
#[derive(Debug, Clone)]
pub struct Consume {
    /// Where projects go to.
    pub gitlab: Gitlab,
    /// Where objects come from.
    pub s3: S3,
    /// They are read again at each pass.
    pub keys: Keys,
    /// `WORKDIR`.
    pub workdir: PathBuf,
    /// `RECONCILE_SLEEP_TIME`: from when the last delivery of a pass has begun to the start of the next; above zero. Without
    /// it, it depends on the size of the bucket.
    pub sleep: Option<Duration>,
    /// `DRY_RUN`: print the plan, change nothing.
    pub dry_run: bool,
    /// `RUN_ONCE`: one pass, then exit.
    pub run_once: bool,
    /// `DETAILED_EXITCODE`: a dry run tells by its exit status whether there is something to do.
    pub detailed_exitcode: bool,
    /// `OUTPUT`: how plan and report are printed.
    pub output: OutputFormat,
    /// `ON_REWRITE`: what to do with a far branch that would not move forward.
    pub on_rewrite: OnRewrite,
    /// `SYNC_CONCURRENCY`: destinations delivered at the same time.
    pub sync_concurrency: NonZeroUsize,
    /// `PROBE_CONCURRENCY`: projects looked up at the same time.
    pub probe_concurrency: NonZeroUsize,
    /// `TARGET_TIMEOUT`: the limit for one destination, from download to push; above zero.
    pub target_timeout: Duration,
    /// How long to wait for connections and servers.
    pub timeouts: Timeouts,
    /// `MAX_REPOSITORY_BYTES`: a larger object is refused; above zero.
    pub max_repository_bytes: u64,
    /// `MEMORY_BUDGET_BYTES`: what the objects of repositories may take in memory; above zero. Without it, it is found from
    /// the memory limit.
    pub memory_budget_bytes: Option<u64>,
    /// `SHARD_COUNT` and `SHARD_INDEX`: this replica's share of all destinations.
    pub share: Shard,
    /// `INSTANCE_SHARD`.
    pub instance: Instance,
    /// `METRICS_SERVER_PORT`; 0 takes any free one.
    pub metrics_port: u16,
    /// `METRICS_SERVER_ADDRESS`: where the port is opened.
    pub metrics_address: IpAddr,
    /// `STALL_TIMEOUT`: a pass without progress for this long counts as stuck; above zero.
    pub stall_timeout: Duration,
    /// `WEBHOOK_SECRET` or `WEBHOOK_SECRET_FILE`; without it, the webhook is off.
    pub webhook_secret: Option<Secret>,
}

impl Keys {
    /// The identities that decrypt: each call reads `PRIVATE_KEY_FILE` again. An error never shows them.
    pub(crate) fn identities(&self) -> anyhow::Result<Identities> {
        identities(&self.private_key).context(name_of(&self.private_key))
    }

    /// The keys whose signatures count, if any do: each call reads `TRUSTED_KEYS_FILE` again.
    pub(crate) fn trusted_keys(&self) -> anyhow::Result<Option<TrustedKeys>> {
        self.trusted.as_ref().map(Trusted::keys).transpose()
    }
}

fn identities(secret: &Secret) -> anyhow::Result<Identities> {
    let text = secret.read()?;
    Ok(Identities::from_text(&text)?)
}

fn name_of(private_key: &Secret) -> &'static str {
    match private_key {
        Secret::Value(_) => PRIVATE_KEY.variable,
        Secret::File(_) => PRIVATE_KEY_FILE.variable,
    }
}

impl Reader<'_> {
    /// The command that was given to the consumer.
    pub(super) fn consumer_command(&mut self, matches: &ArgMatches) -> Result<ConsumerCommand, Reported> {
        match matches.subcommand() {
            Some(("check", _)) => self.consume().map(ConsumerCommand::Check),
            Some(("list", matches)) => self.list_with_signatures(matches).map(ConsumerCommand::List),
            Some(("health", _)) => self.health().map(ConsumerCommand::Health),
            Some(_) | None => self.consume().map(ConsumerCommand::Run),
        }
    }

    // Longer than a screen, because it reads one setting per line.
    fn consume(&mut self) -> Result<Consume, Reported> {
        let insecure = self.insecure_http();
        let s3 = self.s3(insecure);
        let gitlab = self.gitlab(insecure);
        let keys = self.keys();
        let workdir = self.value(&WORKDIR, one_line);
        let sleep = self.optional(&RECONCILE_SLEEP_TIME, above_zero);
        let dry_run = self.value(&DRY_RUN, boolean);
        let run_once = self.value(&RUN_ONCE, boolean);
        let detailed_exitcode = self.detailed_exitcode(dry_run, run_once);
        let output = self.output();
        let on_rewrite = self.on_rewrite();
        let sync_concurrency = self.optional(&SYNC_CONCURRENCY, count(1..=64));
        let probe_concurrency = self.value(&PROBE_CONCURRENCY, count(1..=256));
        let target_timeout = self.value(&TARGET_TIMEOUT, above_zero);
        let timeouts = self.timeouts();
        let max_repository_bytes = self.value(&MAX_REPOSITORY_BYTES, some_bytes);
        let memory_budget_bytes = self.optional(&MEMORY_BUDGET_BYTES, memory_budget);
        let share = self.share();
        let instance = self.optional(&INSTANCE_SHARD, one_line);
        let metrics_port = self.value(&METRICS_SERVER_PORT, port);
        let metrics_address = self.value(&METRICS_SERVER_ADDRESS, ip_address);
        let stall_timeout = self.optional(&STALL_TIMEOUT, above_zero);
        let webhook_secret = self.secret(&WEBHOOK_SECRET, &WEBHOOK_SECRET_FILE);
        let target_timeout = target_timeout?;
        Ok(Consume {
            gitlab: gitlab?,
            s3: s3?,
            keys: keys?,
            workdir: workdir?.into(),
            sleep: sleep?,
            dry_run: dry_run?,
            run_once: run_once?,
            detailed_exitcode: detailed_exitcode?,
            output: output?,
            on_rewrite: on_rewrite?,
            sync_concurrency: sync_concurrency?.unwrap_or_else(default_sync_concurrency),
            probe_concurrency: probe_concurrency?,
            target_timeout,
            timeouts: timeouts?,
            max_repository_bytes: max_repository_bytes?,
            memory_budget_bytes: memory_budget_bytes?,
            share: share?,
            instance: Instance(instance?),
            metrics_port: metrics_port?,
            metrics_address: metrics_address?,
            stall_timeout: stall_timeout?.unwrap_or(target_timeout.saturating_add(STALL_MARGIN)),
            webhook_secret: webhook_secret?,
        })
    }

    /// The keys are read if they are needed.
    fn list_with_signatures(&mut self, matches: &ArgMatches) -> Result<List, Reported> {
        let list = self.list(matches);
        let signatures = match matches.get_flag("signatures") {
            false => None,
            true => Some(self.keys()),
        };
        Ok(List { signatures: signatures.transpose()?, ..list? })
    }

    fn keys(&mut self) -> Result<Keys, Reported> {
        let (private_key, trusted) = (self.private_key(), self.trusted());
        Ok(Keys { private_key: private_key?, trusted: trusted? })
    }

    /// The identities must be usable at the start; a file of them may be replaced later.
    fn private_key(&mut self) -> Result<Secret, Reported> {
        let secret = self.secret(&PRIVATE_KEY, &PRIVATE_KEY_FILE)?;
        let secret = secret.ok_or_else(|| self.missing(NO_PRIVATE_KEY))?;
        match identities(&secret) {
            Ok(_) => Ok(secret),
            Err(why) => Err(self.problem(name_of(&secret), error_chain(why.as_ref()))),
        }
    }
}

#[cfg(test)]
mod tests;
