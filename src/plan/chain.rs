//! Which objects of a destination count: the newest whole history, and the increments that lead on from it.
//!
//! Invariant: everybody reads the bucket by this one function (the producer's plan, the consumer's, `list` and `restore`), so
//! that they agree where a destination is. Wholes are nodes, increments are edges.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::iter::successors;
use std::time::SystemTime;

use crate::model::key::{CommitId, Content, HeldObject};

/// No more increments count on top of a whole history. A producer makes at most 64 (`MAX_INCREMENTS`); an attacker who can write to
/// the bucket could make any number.
const MOST_INCREMENTS: usize = 128;

/// The objects of a destination that count, in the order in which they are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<'a> {
    /// The newest object with a whole history.
    pub whole: &'a HeldObject,
    /// What leads from there to the tip, one on top of the other.
    pub increments: Vec<&'a HeldObject>,
}

impl<'a> Chain<'a> {
    /// The object that brings the destination's commit.
    pub fn tip(&self) -> &'a HeldObject {
        self.increments.last().copied().unwrap_or(self.whole)
    }

    /// All of its objects, in the order in which they are applied.
    pub fn objects(&self) -> impl Iterator<Item = &'a HeldObject> + use<'a, '_> {
        [self.whole].into_iter().chain(self.increments.iter().copied())
    }

    /// Those of these objects that do not count, in the same order.
    pub fn others<'b>(&'b self, objects: &'b [&'a HeldObject]) -> impl Iterator<Item = &'a HeldObject> + use<'a, 'b> {
        let counts = |object: &HeldObject| self.objects().any(|counting| counting.key == object.key);
        objects.iter().copied().filter(move |object| !counts(object))
    }

    /// The size of all its objects in bytes.
    pub fn bytes(&self) -> u64 {
        self.objects().map(|object| object.bytes).sum()
    }
}

/// The commit that an increment is on top of.
pub(super) fn base_of(object: &HeldObject) -> Option<CommitId> {
    match object.name.content {
        Content::Whole(_) => None,
        Content::Increment { base } => Some(base),
    }
}

/// The chain of a destination, of all its objects in any order. `None` if it has no whole history.
///
/// - Of whole histories, the newest counts; of two that were written at the same time, the one with the greater key.
/// - An increment counts if it is as new as that or newer, and its base is reached from there by other increments. An older one
///   belongs to what the whole history replaced.
/// - The tip is where no increment leads on. Of several such commits, the one that was written last counts; of two written at
///   the same time, the one behind fewer increments.
/// - A way of more than 128 increments ends there.
/// - The way to the tip is the one with the fewest increments; of two, the one with newer ones.
pub fn chain<'a>(objects: &[&'a HeldObject]) -> Option<Chain<'a>> {
    let whole = newest_whole(objects)?;
    Some(chain_of(whole, objects, |increment| increment.last_modified >= whole.last_modified))
}

/// The commits that older increments lead to from the newest whole history, but the chain does not. Where what copies a bucket
/// does not keep the order, they may be later ones.
pub fn passed_over(objects: &[&HeldObject]) -> Vec<CommitId> {
    let Some(whole) = newest_whole(objects) else { return vec![] };
    let is_older = |object: &&&HeldObject| base_of(object).is_some() && object.last_modified < whole.last_modified;
    if !objects.iter().any(|object| is_older(&object)) {
        return vec![];
    }
    let Some(chain) = chain(objects) else { return vec![] };
    let any = chain_of(whole, objects, |_| true);
    chain.others(&any.increments).filter_map(|object| object.name.commit.parse().ok()).collect()
}

fn newest_whole<'a>(objects: &[&'a HeldObject]) -> Option<&'a HeldObject> {
    let whole = |object: &&&HeldObject| matches!(object.name.content, Content::Whole(_));
    objects.iter().filter(whole).max_by_key(|object| age(object)).copied()
}

/// The chain on top of `whole`, of the increments that count.
fn chain_of<'a>(
    whole: &'a HeldObject,
    objects: &[&'a HeldObject],
    is_counted: impl Fn(&HeldObject) -> bool,
) -> Chain<'a> {
    let edge = |object: &'a HeldObject| {
        // Of an increment, every reader of names knows the commit.
        Some(Edge { object, base: base_of(object)?, to: object.name.commit.parse().ok()? })
    };
    let mut edges: Vec<Edge<'a>> =
        objects.iter().copied().filter(|object| is_counted(object)).filter_map(edge).collect();
    let start = whole.name.commit.parse::<CommitId>();
    let (Ok(start), false) = (start, edges.is_empty()) else { return Chain { whole, increments: vec![] } };
    edges.sort_by_key(|edge| (edge.base, Reverse(age(edge.object))));

    // Breadth first: the first increment that reaches a commit ends a shortest way to it.
    let mut reached: HashMap<CommitId, Reached<'a>> = HashMap::new();
    let mut waiting = VecDeque::from([(start, 0)]);
    let mut ends = vec![];
    while let Some((commit, depth)) = waiting.pop_front() {
        let from = edges.partition_point(|edge| edge.base < commit);
        let count = edges[from..].partition_point(|edge| edge.base == commit);
        let leading_on = if depth < MOST_INCREMENTS { &edges[from..from + count] } else { &[] };
        if leading_on.is_empty() {
            ends.push(commit);
        }
        for edge in leading_on.iter().copied().filter(|edge| edge.to != start) {
            let known = reached.entry(edge.to).or_insert_with(|| {
                waiting.push_back((edge.to, depth + 1));
                Reached { by: edge, newest: edge.object, depth: depth + 1 }
            });
            if age(edge.object) > age(known.newest) {
                known.newest = edge.object;
            }
        }
    }
    let ends = ends.into_iter().filter_map(|commit| reached.get(&commit));
    let tip = ends.max_by_key(|end| (end.newest.last_modified, Reverse(end.depth), &end.newest.key));
    let back = |by: &Edge<'a>| reached.get(&by.base).map(|before| before.by);
    let mut increments: Vec<_> = successors(tip.map(|tip| tip.by), back).map(|edge| edge.object).collect();
    increments.reverse();
    Chain { whole, increments }
}

/// An increment that counts.
#[derive(Clone, Copy)]
struct Edge<'a> {
    object: &'a HeldObject,
    base: CommitId,
    to: CommitId,
}

/// A commit that increments lead to.
struct Reached<'a> {
    /// The last increment on the way there.
    by: Edge<'a>,
    /// The newest increment that leads there.
    newest: &'a HeldObject,
    /// How many increments are on the way.
    depth: usize,
}

/// By time, then by key.
fn age(object: &HeldObject) -> (SystemTime, &str) {
    (object.last_modified, &object.key)
}
