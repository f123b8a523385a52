//! How the commits of a thin pack follow each other, told by the pack alone.
//!
//! Invariant: only commits that hash to their ids count, so what is proven is true even if an attacker made the pack.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix_object::Kind;
use gix_pack::data;
use parking_lot::Mutex;

use crate::git::pack::error::damaged;
use crate::git::pack::incoming::{grant, read_table};
use crate::git::pack::walk::{Content, Walk};
use crate::git::pack::{HASH, PackError, Shortage};
use crate::git::references::each_reference;
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;

type Id = [u8; 20];
/// A commit and one of its parents.
type Link = (Id, Id);

/// What is kept for each object of the pack, in bytes: a link, a mark and an id that waits. Usually, each commit has a parent
/// and, beside itself, a tree in the pack.
const LINK_BYTES: u64 = size_of::<Link>() as u64 + 1 + size_of::<Id>() as u64;
/// How many more links than objects are kept, for commits of many parents.
const SPARE_LINKS: usize = 1_024;

/// Whether `commit` leads back to `ancestor` by commits that are in the pack and not based on anything that it lacks.
/// `ancestor` itself need not be in it. `false`: the pack does not prove it, which may be because it is damaged.
pub(crate) fn leads_to(
    pack: &Path,
    commit: CommitId,
    ancestor: CommitId,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
) -> Result<bool, PackError> {
    if commit == ancestor {
        return Ok(true);
    }
    match proven(pack, *commit.as_bytes(), *ancestor.as_bytes(), memory, interrupt) {
        Err(PackError::Damaged(_) | PackError::Empty) => Ok(false),
        proven => proven,
    }
}

fn proven(
    path: &Path,
    commit: Id,
    ancestor: Id,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
) -> Result<bool, PackError> {
    let (table, share, _) = read_table(File::open(path)?, memory, LINK_BYTES, interrupt)?;
    let (table, _share, plan) = grant(path, (table, share), LINK_BYTES, memory, interrupt)?;
    let data = data::File::at(path, HASH).map_err(damaged)?;
    let most = table.len() as usize + SPARE_LINKS;
    let mut links: Vec<Link> = vec![];
    links.try_reserve_exact(most).map_err(|_| Shortage::Exhausted)?;
    let links = Mutex::new(links);
    let note = |_, kind: Kind, content: Content<'_>| {
        let id = content.id(kind)?;
        if let Content::Whole(bytes) = content {
            each_reference(kind, bytes, |kind, parent| {
                let mut links = links.lock();
                if kind == Kind::Commit && links.len() < most {
                    links.push((id, *parent));
                }
                Ok::<_, PackError>(())
            })?;
        }
        Ok::<_, PackError>(id)
    };
    let walk = Walk { pack: &data, table: &table, plan, interrupt };
    walk.visit(|root| table.found[root as usize].kind == Some(Kind::Commit), note)?;
    Ok(reaches(links.into_inner(), commit, ancestor))
}

fn reaches(mut links: Vec<Link>, commit: Id, ancestor: Id) -> bool {
    links.sort_unstable();
    let (mut met, mut waiting) = (vec![false; links.len()], vec![commit]);
    while let Some(id) = waiting.pop() {
        let first = links.partition_point(|(child, _)| *child < id);
        for at in first..links.len() {
            let (child, parent) = links[at];
            if child != id || std::mem::replace(&mut met[at], true) {
                break;
            }
            if parent == ancestor {
                return true;
            }
            waiting.push(parent);
        }
    }
    false
}
