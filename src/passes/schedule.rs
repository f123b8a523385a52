//! When full passes begin: when the interval is over or one is requested.
//!
//! Invariant: an action that takes long delays no other target. Once the last action of a pass has begun, the interval runs,
//! and the next pass begins although the earlier one still has actions under way.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::Triggers;
use crate::status::Trigger;

/// Runs full passes until `wait` returns `None`. `pass` gets a token to cancel when its last action has begun. At most `most`
/// are under way at the same time; all but the newest only have actions left that have begun, each of which holds a slot of
/// `SYNC_CONCURRENCY`.
pub async fn full_passes(
    most: usize,
    pass: impl AsyncFn(Trigger, &CancellationToken),
    wait: impl AsyncFn() -> Option<Trigger>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut trigger = Some(Trigger::Schedule);
    while let Some(began_by) = trigger {
        let all_begun = CancellationToken::new();
        let (pass, begun) = (&pass, all_begun.clone());
        under_way.push(async move {
            pass(began_by, &begun).await;
            // Also if it ended without a plan.
            begun.cancel();
        });
        beside(&mut under_way, all_begun.cancelled()).await;
        while under_way.len() >= most {
            under_way.next().await;
        }
        trigger = beside(&mut under_way, wait()).await;
    }
    // They are told to stop as well, and clean up.
    while under_way.next().await.is_some() {}
}

/// Waits for the next full pass: until `pause` is over, one is requested, or `early` ends with what starts it. `None` if the
/// program is asked to stop.
pub async fn wait(
    pause: Duration,
    triggers: &Triggers,
    early: impl Future<Output = Trigger>,
    stop: &CancellationToken,
) -> Option<Trigger> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        () = tokio::time::sleep(pause) => Some(Trigger::Schedule),
        () = triggers.full_pass_wanted() => Some(Trigger::Signal),
        trigger = early => Some(trigger),
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
