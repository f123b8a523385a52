//! What is known of each object: whether it is to be sent.
//!
//! Invariant: an object is held only if the far side's commit reaches it, and what is new is everything else that the new
//! commit reaches. Objects of the far side's older trees may be among it.

use std::collections::BinaryHeap;

use gix_hash::{ObjectId, oid};
use gix_object::Kind;

use super::objects::Objects;
use super::reader::{Reader, Stop};
use crate::git::pack::walk::{WalkError, damaged};
use crate::git::references::{Malformed, each_reference, tree_entries, tree_of};

/// The far side has it.
const HELD: u8 = 1;
/// It is to be sent.
const NEW: u8 = 2;
/// A commit that was met.
const MET: u8 = 4;
/// A commit in the queue.
const WAITING: u8 = 8;

/// After all that waits is held, this many more commits are read: clocks are not exact. As many as Git does.
const SLACK_COMMITS: usize = 5;

/// By number.
pub(super) struct Marks(Vec<u8>);

impl Marks {
    /// Everything is new.
    pub(super) fn everything(reader: &Reader<'_>) -> Result<Self, WalkError> {
        let mark = |object| {
            reader.go_on()?;
            Ok(if reader.objects.is_first(object) { NEW } else { 0 })
        };
        (0..reader.objects.len()).map(mark).collect::<Result<_, _>>().map(Self)
    }

    /// What `new` reaches and `have` does not.
    pub(super) fn difference(reader: &mut Reader<'_>, new: ObjectId, have: u32) -> Result<Self, Stop> {
        let objects = reader.objects;
        let mut walk = Walk {
            marks: Self(vec![0; objects.len() as usize]),
            reader,
            queue: BinaryHeap::new(),
            open: 0,
            left: vec![],
            trees: vec![],
        };
        if walk.reader.read(have)?.kind != Kind::Commit {
            return Ok(Self::everything(walk.reader)?);
        }
        walk.commits(objects.require(&new)?, have)?;
        walk.trees(have)?;
        Ok(walk.marks)
    }

    pub(super) fn is_new(&self, object: u32) -> bool {
        self.0[object as usize] & NEW != 0
    }

    pub(super) fn is_held(&self, object: u32) -> bool {
        self.0[object as usize] & HELD != 0
    }

    /// Whether it is a commit that was met on the way from the new one to the far side's.
    pub(super) fn is_commit(&self, object: u32) -> bool {
        self.0[object as usize] & MET != 0
    }

    pub(super) fn count_new(&self) -> u32 {
        self.0.iter().filter(|marks| *marks & NEW != 0).count() as u32
    }

    /// How many objects are sent from the pack that has most of them.
    pub(super) fn most_of_a_pack(&self, objects: &Objects) -> u64 {
        let of_pack = objects.packs.iter().map(|pack| pack.numbers().filter(|object| self.is_new(*object)).count());
        of_pack.max().unwrap_or(0) as u64
    }
}

struct Walk<'a, 'b> {
    marks: Marks,
    reader: &'a mut Reader<'b>,
    /// Commits by their date, newest first.
    queue: BinaryHeap<(i64, u32)>,
    /// How many of those are not held, as far as is known.
    open: usize,
    /// Commits that were not held when they left the queue. In this order, their trees are deltas on each other.
    left: Vec<u32>,
    /// Trees whose entries are still to be marked.
    trees: Vec<u32>,
}

impl Walk<'_, '_> {
    /// Walks from both commits back to where all that is left is held.
    ///
    /// Clocks may be wrong: then a commit is found to be held after others were met through it, and that is passed on to
    /// them. What is never found out is sent too much.
    fn commits(&mut self, new: u32, have: u32) -> Result<(), Stop> {
        self.meet(have, true)?;
        self.meet(new, false)?;
        let (mut slack, mut oldest) = (SLACK_COMMITS, i64::MAX);
        while let Some(&(date, commit)) = self.queue.peek() {
            if self.open == 0 && date < oldest {
                match slack.checked_sub(1) {
                    Some(left) => slack = left,
                    None => break,
                }
            }
            self.queue.pop();
            let mark = &mut self.marks.0[commit as usize];
            *mark &= !WAITING;
            let is_held = *mark & HELD != 0;
            if !is_held {
                self.open -= 1;
                oldest = oldest.min(date);
                slack = SLACK_COMMITS;
                self.left.push(commit);
                self.reader.require_lists(self.lists_bytes())?;
            }
            let content = self.reader.read_as(commit, Kind::Commit)?;
            for parent in parents(self.reader.objects, &content)? {
                self.meet(parent, is_held)?;
            }
        }
        Ok(())
    }

    fn meet(&mut self, commit: u32, is_held: bool) -> Result<(), Stop> {
        let mark = self.marks.0[commit as usize];
        if mark & HELD != 0 || !is_held && mark & MET != 0 {
            return Ok(());
        }
        let is_waiting = mark & WAITING != 0;
        self.marks.0[commit as usize] = mark | MET | WAITING | if is_held { HELD } else { 0 };
        if is_waiting {
            // Now it is held.
            self.open -= 1;
            return Ok(());
        }
        self.open += usize::from(!is_held);
        let content = self.reader.read_as(commit, Kind::Commit)?;
        self.queue.push((date(&content), commit));
        self.reader.require_lists(self.lists_bytes())
    }

    fn lists_bytes(&self) -> u64 {
        let ids = self.left.len() + self.trees.len();
        (self.queue.len() * size_of::<(i64, u32)>() + ids * size_of::<u32>()) as u64
    }

    /// Marks the trees of the far side's commits next to the new ones, and then what else is in the trees of these.
    fn trees(&mut self, have: u32) -> Result<(), Stop> {
        let objects = self.reader.objects;
        self.queue = BinaryHeap::new();
        self.left.retain(|commit| self.marks.0[*commit as usize] & HELD == 0);
        self.tree(have, HELD)?;
        for at in 0..self.left.len() {
            let content = self.reader.read_as(self.left[at], Kind::Commit)?;
            for parent in parents(objects, &content)? {
                if self.marks.is_held(parent) {
                    self.tree(parent, HELD)?;
                }
            }
        }
        for at in 0..self.left.len() {
            self.marks.0[self.left[at] as usize] |= NEW;
            self.tree(self.left[at], NEW)?;
        }
        Ok(())
    }

    /// Marks the tree of a commit, with everything in it.
    fn tree(&mut self, commit: u32, mark: u8) -> Result<(), Stop> {
        let content = self.reader.read_as(commit, Kind::Commit)?;
        let root = tree_of(&content).map_err(malformed)?;
        self.mark((&root).into(), Some(Kind::Tree), mark)?;
        while let Some(tree) = self.trees.pop() {
            let content = self.reader.read_as(tree, Kind::Tree)?;
            for entry in tree_entries(&content) {
                let entry = entry.map_err(malformed)?;
                self.mark(entry.id.into(), entry.kind, mark)?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, id: &oid, kind: Option<Kind>, mark: u8) -> Result<(), Stop> {
        // A submodule's commit belongs to another repository.
        let Some(kind) = kind else { return Ok(()) };
        let object = self.reader.objects.require(id)?;
        let marks = &mut self.marks.0[object as usize];
        if *marks & (HELD | NEW) != 0 {
            return Ok(());
        }
        *marks |= mark;
        if kind == Kind::Tree {
            self.trees.push(object);
            self.reader.require_lists(self.lists_bytes())?;
        }
        Ok(())
    }
}

pub(super) fn parents(objects: &Objects, commit: &[u8]) -> Result<Vec<u32>, WalkError> {
    let mut parents = vec![];
    each_reference(Kind::Commit, commit, |kind, id| {
        if kind == Kind::Commit {
            parents.push(objects.require(id.into())?);
        }
        Ok::<_, Broken>(())
    })
    .map_err(|Broken(error)| error)?;
    Ok(parents)
}

struct Broken(WalkError);

impl From<WalkError> for Broken {
    fn from(error: WalkError) -> Self {
        Self(error)
    }
}

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Self {
        Self(malformed(error))
    }
}

fn malformed(Malformed(kind): Malformed) -> WalkError {
    damaged(format!("a {kind} in it is malformed"))
}

/// When a commit was made, in seconds; 0 if it does not say so as Git does.
fn date(commit: &[u8]) -> i64 {
    let headers = commit.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = headers.filter_map(|line| line.strip_prefix(b"committer ")).next().unwrap_or_default();
    let behind = line.iter().rposition(|byte| *byte == b'>').map_or(&[][..], |end| &line[end + 1..]);
    let digits = behind.trim_ascii_start().split(|byte| *byte == b' ').next().unwrap_or_default();
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}
