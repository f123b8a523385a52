//! The records of all targets, ordered by destination.
//!
//! Invariant: a copy shares the records, and a change of one copies no other record. There can be very many.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use super::TargetStatus;
use crate::model::key::Destination;

/// The records.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<Vec<Arc<TargetStatus>>>);

impl Deref for Targets {
    type Target = [Arc<TargetStatus>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Of several records for one destination, the last one stays.
impl FromIterator<Arc<TargetStatus>> for Targets {
    fn from_iter<I: IntoIterator<Item = Arc<TargetStatus>>>(records: I) -> Self {
        let mut records: Vec<_> = records.into_iter().collect();
        records.sort_by(|a, b| a.destination.cmp(&b.destination));
        records.dedup_by(|later, kept| {
            let same = later.destination == kept.destination;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        records.shrink_to_fit();
        Self(Arc::new(records))
    }
}

impl Targets {
    fn place(&self, destination: &Destination) -> Result<usize, usize> {
        self.0.binary_search_by(|target| target.destination.cmp(destination))
    }

    /// The record of a destination.
    pub fn get(&self, destination: &Destination) -> Option<&Arc<TargetStatus>> {
        self.place(destination).ok().and_then(|at| self.0.get(at))
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, destination: &Destination) -> Option<&mut TargetStatus> {
        let at = self.place(destination).ok()?;
        Arc::make_mut(&mut self.0).get_mut(at).map(Arc::make_mut)
    }

    /// Adds a record, or replaces the one of its destination.
    pub fn insert(&mut self, record: Arc<TargetStatus>) {
        let place = self.place(&record.destination);
        let records = Arc::make_mut(&mut self.0);
        match place {
            Ok(at) => records[at] = record,
            Err(at) => records.insert(at, record),
        }
    }

    /// Removes the record of a destination.
    pub fn remove(&mut self, destination: &Destination) {
        if let Ok(at) = self.place(destination) {
            Arc::make_mut(&mut self.0).remove(at);
        }
    }

    /// A record like this, shared with the one that is there if they are equal.
    pub fn shared(&self, record: TargetStatus) -> Arc<TargetStatus> {
        match self.get(&record.destination) {
            Some(before) if **before == record => Arc::clone(before),
            _ => Arc::new(record),
        }
    }

    /// These records, made of what `before` was, with all that has changed since: it is newer than they are.
    pub(super) fn since(&self, before: &Self, mut records: Self) -> Self {
        if Arc::ptr_eq(&self.0, &before.0) {
            return records;
        }
        let (mut now, mut then) = (self.iter().peekable(), before.iter().peekable());
        loop {
            let order = match (now.peek(), then.peek()) {
                (None, None) => return records,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(now), Some(then)) => now.destination.cmp(&then.destination),
            };
            let now = if order.is_le() { now.next() } else { None };
            let then = if order.is_ge() { then.next() } else { None };
            match (now, then) {
                (Some(now), Some(then)) if Arc::ptr_eq(now, then) => {}
                (Some(now), _) => records.insert(Arc::clone(now)),
                (None, Some(gone)) => records.remove(&gone.destination),
                (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::status::TargetState;

    fn destination(number: u8) -> Destination {
        Destination { group: "far".to_owned(), project: number.to_string(), branch: "main".to_owned() }
    }

    /// A record whose size tells it from others.
    fn record(number: u8, bytes: u64) -> Arc<TargetStatus> {
        let new = TargetStatus::new(&destination(number), TargetState::Behind, SystemTime::UNIX_EPOCH);
        Arc::new(TargetStatus { bytes: Some(bytes), ..new })
    }

    fn shown(targets: &Targets) -> BTreeMap<Destination, u64> {
        targets.iter().map(|target| (target.destination.clone(), target.bytes.unwrap())).collect()
    }

    #[test]
    fn an_equal_record_is_shared_and_another_is_not() {
        let targets: Targets = [record(1, 7), record(1, 8)].into_iter().collect();
        assert_eq!(shown(&targets), [(destination(1), 8)].into(), "the last one stays");
        let again = targets.shared((*record(1, 8)).clone());
        assert!(Arc::ptr_eq(&again, targets.get(&destination(1)).unwrap()));
        assert!(!Arc::ptr_eq(&targets.shared((*record(1, 9)).clone()), &again));
    }

    proptest! {
        #[test]
        fn they_are_a_map_and_what_has_changed_meanwhile_wins(
            before in proptest::collection::vec((0..8_u8, 0..9_u64), 0..8),
            changes in proptest::collection::vec((0..8_u8, proptest::option::of(0..9_u64)), 0..6),
            made in proptest::collection::vec((0..8_u8, 10..19_u64), 0..8),
        ) {
            let all = |records: &[(u8, u64)]| records.iter().map(|it| record(it.0, it.1)).collect::<Targets>();
            let (before, made) = (all(&before), all(&made));
            let (mut now, mut expected, mut map) = (before.clone(), shown(&made), shown(&before));
            for (number, change) in changes {
                let destination = destination(number);
                match change {
                    Some(bytes) => {
                        now.insert(record(number, bytes));
                        map.insert(destination.clone(), bytes);
                        expected.insert(destination, bytes);
                    }
                    None if now.get(&destination).is_some() => {
                        now.remove(&destination);
                        map.remove(&destination);
                        expected.remove(&destination);
                    }
                    None => {}
                }
            }
            prop_assert_eq!(shown(&now), map);
            prop_assert!(now.is_sorted_by(|a, b| a.destination < b.destination));
            let merged = now.since(&before, made);
            prop_assert!(merged.is_sorted_by(|a, b| a.destination < b.destination));
            for number in 0..8 {
                let destination = destination(number);
                let was = before.get(&destination).map(|it| it.bytes);
                // One that was added and removed again is as it was made, or gone.
                if was.is_some() || now.get(&destination).is_some() {
                    prop_assert_eq!(merged.get(&destination).and_then(|it| it.bytes), expected.get(&destination).copied());
                }
            }
        }
    }
}
