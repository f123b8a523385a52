//! This replica's share of the destinations, from settings or from the name Kubernetes gave it.
//!
//! Invariant: with several shards, a replica that does not know its own number does not start.

use std::num::NonZeroU32;

use super::reader::{Reader, Reported};
use super::reference::{HOSTNAME, SHARD_COUNT, SHARD_INDEX};
use crate::model::shard::Shard;

/// Far more shards than make sense: each of them lists the whole bucket.
const MOST_SHARDS: u32 = 1_000;

impl Reader<'_> {
    /// Shard `SHARD_INDEX` of `SHARD_COUNT`. If there are several and the index is unset, the host name's ordinal counts.
    pub(super) fn share(&mut self) -> Result<Shard, Reported> {
        let count = self.value(&SHARD_COUNT, shards)?;
        if let Some(shard) = self.optional(&SHARD_INDEX, |text| shard(text, count))? {
            return Ok(shard);
        }
        if count == NonZeroU32::MIN {
            return Ok(Shard::WHOLE);
        }
        let host = self.variable(HOSTNAME.variable).unwrap_or_default();
        let last = count.get() - 1;
        match host.rsplit_once('-').filter(|(_, ordinal)| is_number(ordinal)) {
            Some((_, ordinal)) => shard(ordinal, count).map_err(|why| {
                self.problem(SHARD_INDEX.variable, format_args!("unset, and of the host name {host:?} {why}"))
            }),
            None => Err(self.problem(
                SHARD_INDEX.variable,
                format_args!(
                    "needed with SHARD_COUNT={count}: set it to a number from 0 to {last}, or run the program in a \
                     StatefulSet or an Indexed Job, whose pods are numbered"
                ),
            )),
        }
    }
}

fn shards(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= MOST_SHARDS);
    count.ok_or_else(|| format!("{text:?} is not a number from 1 to {MOST_SHARDS}"))
}

fn shard(text: &str, count: NonZeroU32) -> Result<Shard, String> {
    let shard = Some(text).filter(|text| is_number(text)).and_then(|text| Shard::new(text.parse().ok()?, count));
    shard.ok_or_else(|| format!("{text:?} is not a number below SHARD_COUNT, which is {count}: shards count from 0"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
