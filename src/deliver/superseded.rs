//! Objects that the producer replaces at this moment, which is no failure.
//!
//! Invariant: each object is let off for a short time only, and the passes for it come less and less often. A bucket that stays
//! as it is starts no endless row of passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::model::key::HeldObject;
use crate::plan::delivery::DeliveryPlan;

/// How long after that the next pass begins, and the one after it in twice that time. It leaves the producer the time to end
/// what it is doing.
const SOON: Duration = Duration::from_secs(1);
/// How long a producer may take to replace the objects of a destination, before they are called wrong.
const SETTLES: Duration = Duration::from_secs(30);

/// The most such passes in a row: they cover that time.
const MOST_PASSES: u32 = 5;

/// What was let off.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    state: Mutex<State>,
    came: Notify,
}

/// An object is the same one as long as it is not written again.
type Identity = (String, SystemTime);

#[derive(Debug, Default)]
struct State {
    /// What was listed, and gone when it was to be read.
    gone: BTreeSet<Identity>,
    /// The newest object of destinations whose objects do not fit together, and since when they do not.
    unsettled: BTreeMap<Identity, Instant>,
    /// Whether a pass is due, and has not begun since.
    is_due: bool,
    /// How many such passes there were in a row.
    passes: u32,
    /// Whether nothing is let off any more.
    is_over: bool,
}

impl Superseded {
    /// A pass begins. What is let off from now on makes another one due.
    pub(super) fn pass_begins(&self) {
        self.state.lock().is_due = false;
    }

    /// A pass has seen nothing. If it was due, another one is, a few times.
    pub(super) fn pass_failed(&self) {
        let mut state = self.state.lock();
        state.is_due |= (1..=MOST_PASSES).contains(&state.passes);
    }

    /// An object is gone that was listed. Whether it is let off: once, for the next listing has another one then.
    pub(super) fn lets_off(&self, object: &HeldObject) -> bool {
        let mut state = self.state.lock();
        let is_let_off = !state.is_over && state.gone.insert(identity(object));
        if is_let_off {
            (state.is_due, state.passes) = (true, 0);
            self.came.notify_one();
        }
        is_let_off
    }

    /// The plan without obstacles that are over when the producer has replaced the objects.
    pub(super) fn without(&self, mut plan: DeliveryPlan, now: Instant) -> DeliveryPlan {
        let mut state = self.state.lock();
        if state.is_over {
            return plan;
        }
        let before = std::mem::take(&mut state.unsettled);
        let mut is_let_off = |object: &HeldObject| {
            let identity = identity(object);
            let since = before.get(&identity).copied().unwrap_or(now);
            state.unsettled.insert(identity, since);
            now.saturating_duration_since(since) < SETTLES
        };
        let unsettled = plan.blocked.extract_if(.., |it| it.obstacle.may_settle() && is_let_off(&it.object));
        plan.unsettled = unsettled.map(|it| it.object).collect();
        if !plan.unsettled.is_empty() {
            state.is_due = true;
            self.came.notify_one();
        } else if !state.is_due {
            state.passes = 0;
        }
        plan
    }

    /// Forgets what is not listed any more.
    pub(super) fn keep_only(&self, held: &[HeldObject]) {
        let mut state = self.state.lock();
        if !state.gone.is_empty() {
            let held: BTreeSet<_> = held.iter().map(|object| (object.key.as_str(), object.last_modified)).collect();
            state.gone.retain(|(key, written)| held.contains(&(key.as_str(), *written)));
        }
    }

    /// From now on, nothing is let off: nobody comes back to it.
    pub(super) fn ends(&self) {
        self.state.lock().is_over = true;
    }

    /// Waits until something was let off and it is time for the next pass.
    pub(super) async fn next_pass(&self) {
        loop {
            let due = Some(self.state.lock()).filter(|state| state.is_due).map(|state| state.passes);
            match due {
                None => self.came.notified().await,
                Some(passes) => {
                    sleep(pause(passes)).await;
                    self.state.lock().passes = passes.saturating_add(1);
                    return;
                }
            }
        }
    }
}

/// The pause after this many passes in a row.
fn pause(passes: u32) -> Duration {
    SOON.saturating_mul(1 << passes.min(MOST_PASSES))
}

fn identity(object: &HeldObject) -> Identity {
    (object.key.clone(), object.last_modified)
}

#[cfg(test)]
mod tests {
    use super::super::rests::tests::delivery;
    use super::*;
    use crate::plan::delivery::{Obstacle, Undeliverable};

    fn blocked(obstacles: &[Obstacle]) -> DeliveryPlan {
        let object = |n: usize| delivery(&format!("p{n}"), 1, None).object;
        let blocked = obstacles.iter().enumerate();
        let blocked = blocked.map(|(n, obstacle)| Undeliverable { object: object(n), obstacle: obstacle.clone() });
        DeliveryPlan { blocked: blocked.collect(), ..DeliveryPlan::default() }
    }

    #[test]
    fn what_may_settle_is_let_off_for_a_while_and_everything_else_not_at_all() {
        let (superseded, begin) = (Superseded::default(), Instant::now());
        let obstacles = [Obstacle::Order, Obstacle::Name("odd".to_owned()), Obstacle::NoWhole];
        let unsettled = |seconds| {
            let plan = superseded.without(blocked(&obstacles), begin + Duration::from_secs(seconds));
            assert_eq!(plan.unsettled.len() + plan.blocked.len(), 3);
            plan.unsettled.len()
        };
        assert_eq!([0, 1, 29, 30, 3_000].map(unsettled), [2, 2, 2, 0, 0]);
        // In between all was well.
        superseded.without(blocked(&[]), begin + Duration::from_secs(3_001));
        assert_eq!([3_002, 3_031, 3_032].map(unsettled), [2, 2, 0]);
        superseded.without(blocked(&[]), begin + Duration::from_secs(3_033));
        superseded.ends();
        assert_eq!(unsettled(3_034), 0);
    }

    #[test]
    fn an_object_that_is_gone_is_let_off_once() {
        let (superseded, mut object) = (Superseded::default(), delivery("p0", 1, None).object);
        // It was unsettled before.
        superseded.without(blocked(&[Obstacle::Order]), Instant::now());
        assert!(superseded.lets_off(&object));
        assert!(!superseded.lets_off(&object));
        superseded.keep_only(std::slice::from_ref(&object));
        assert!(!superseded.lets_off(&object));
        object.last_modified += Duration::from_secs(1);
        assert!(superseded.lets_off(&object), "it was written again");
        object.last_modified += Duration::from_secs(1);
        superseded.ends();
        assert!(!superseded.lets_off(&object));
    }

    #[tokio::test]
    async fn passes_come_soon_after_something_was_let_off_and_then_less_often() {
        let superseded = Superseded::default();
        let seen = || {
            let state = superseded.state.lock();
            (state.is_due, state.passes)
        };
        let pass = |obstacles: &[Obstacle]| {
            superseded.pass_begins();
            superseded.without(blocked(obstacles), Instant::now());
        };
        pass(&[Obstacle::Name("odd".to_owned())]);
        assert_eq!(seen(), (false, 0));
        pass(&[Obstacle::Order]);
        superseded.next_pass().await;
        pass(&[Obstacle::Order]);
        assert_eq!(seen(), (true, 1));
        pass(&[]);
        assert_eq!(seen(), (false, 0));
        assert_eq!([0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|passes| pause(passes).as_secs()), [1, 2, 4, 8, 16, 32, 32, 32]);

        // An object is gone after another pass has begun to list.
        superseded.pass_begins();
        assert!(superseded.lets_off(&delivery("p", 1, None).object));
        superseded.without(blocked(&[]), Instant::now());
        assert_eq!(seen(), (true, 0));
    }

    #[test]
    fn a_pass_that_sees_nothing_is_repeated_a_few_times_if_it_was_due() {
        let superseded = Superseded::default();
        let fails_after = |passes| {
            superseded.state.lock().passes = passes;
            superseded.pass_begins();
            superseded.pass_failed();
            superseded.state.lock().is_due
        };
        assert_eq!([0, 1, 5, 6, 7].map(fails_after), [false, true, true, false, false]);
    }
}
