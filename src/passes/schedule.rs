//! When full passes begin: when the interval is over or one is requested.
//!
//! Invariant: an action that takes long delays no other target. Once the last action of a pass has begun, the interval runs,
//! and the next pass begins although the earlier one still has actions under way.

use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::{PassError, Reconciler, log_failed_pass};
use crate::publish::Publisher;
use crate::status::Trigger;

/// Full passes under way at the same time. All but the newest only have actions left that have begun, each of which holds
/// a slot of `SYNC_CONCURRENCY`.
const MOST_FULL_PASSES: usize = 4;

impl Reconciler {
    /// Runs full passes and push passes, until `stop`.
    pub async fn run(&self, publisher: &Publisher, stop: &CancellationToken) {
        tokio::join!(self.full_passes(publisher, stop), self.push_passes(publisher, stop));
    }

    async fn full_passes(&self, publisher: &Publisher, stop: &CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        let mut trigger = Some(Trigger::Schedule);
        while let Some(began_by) = trigger {
            let all_begun = CancellationToken::new();
            under_way.push(self.scheduled_pass(publisher, began_by, all_begun.clone(), stop));
            beside(&mut under_way, all_begun.cancelled()).await;
            while under_way.len() >= MOST_FULL_PASSES {
                under_way.next().await;
            }
            trigger = beside(&mut under_way, self.wait(stop)).await;
        }
        // They see `stop` too, and abort their uploads.
        while under_way.next().await.is_some() {}
    }

    /// One full pass. `all_begun` is cancelled when none of it is left to begin.
    async fn scheduled_pass(
        &self,
        publisher: &Publisher,
        trigger: Trigger,
        all_begun: CancellationToken,
        stop: &CancellationToken,
    ) {
        match self.pass_until_begun(publisher, trigger, &all_begun, stop).await {
            Ok(_) | Err(PassError::Stopped) => {}
            Err(error) => log_failed_pass(&error),
        }
        all_begun.cancel();
    }

    /// Waits until the next full pass is due, and returns its trigger; `None` if the program is asked to stop.
    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        let (pause, refused) = self.pauses.next(self.settings.sleep);
        self.status.sleeps(pause);
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = tokio::time::sleep(pause) => Some(Trigger::Schedule),
            () = self.triggers.full_pass_wanted() => Some(Trigger::Signal),
            () = self.clients.token_changes(), if refused => Some(Trigger::Schedule),
        }
    }
}

/// Waits for `wait` while passes go on.
async fn beside<W: Future>(under_way: &mut FuturesUnordered<impl Future<Output = ()>>, wait: W) -> W::Output {
    let mut wait = pin!(wait);
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return done,
            Some(()) = under_way.next() => {}
        }
    }
}
