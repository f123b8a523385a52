//! The settings of the consumer: what it reads, and the types that hold it.
//!
//! Invariant: a setting that the producer has too has the same name and takes the same values.

mod reference;

use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;

pub(super) use self::reference::{PRIVATE_KEY, PRIVATE_KEY_FILE, SECTIONS};
use super::reader::{Reader, Reported};
use super::reference::*;
use super::values::above_zero;
use super::{Common, Health, Keys, List, Trusted};
use crate::artifact::encrypt::Identities;
use crate::artifact::signature::TrustedKeys;
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
            Self::Run(consume) => consume.common.run_once,
            Self::Check(_) | Self::List(_) | Self::Health(_) => true,
        }
    }
}

/// All that delivering needs.
#[derive(Debug, Clone)]
pub struct Consume {
    /// What the producer needs as well. Its GitLab is where projects go to, its bucket where objects come from.
    pub common: Common,
    /// They are read again at each pass.
    pub keys: Keys,
    /// `RECONCILE_SLEEP_TIME`: from when the last delivery of a pass has begun to the start of the next; above zero. Without
    /// it, it depends on the size of the bucket.
    pub sleep: Option<Duration>,
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

    fn consume(&mut self) -> Result<Consume, Reported> {
        let insecure = self.insecure_http();
        let (common, keys) = (self.common(insecure), self.keys());
        let sleep = self.optional(&RECONCILE_SLEEP_TIME, above_zero);
        Ok(Consume { common: common?, keys: keys?, sleep: sleep? })
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
