//! Whether one commit descends from another.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix_object::Kind;

use super::marks::parents;
use super::objects::Objects;
use super::reader::{Reader, Stop};
use super::{SubsetError, id, within};
use crate::git::pack::HASH;
use crate::git::pack::walk::{WalkError, damaged};
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;

/// Whether `commit` descends from `base`, by commits that hash to their ids, whatever an index says. What is not in the
/// repository, or damaged, counts as no. Memory is as in [`write_subset`](super::write_subset).
pub(crate) fn descends(
    repository: &Path,
    commit: CommitId,
    base: CommitId,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
) -> Result<bool, SubsetError> {
    let found = Objects::open(&repository.join(".git/objects")).and_then(|objects| {
        let (Some(base), Some(commit)) = (objects.find(&id(base)), objects.find(&id(commit))) else { return Ok(false) };
        within(&objects, memory, interrupt, |reader| reaches(reader, commit, base)).map(|(_, _, reaches)| reaches)
    });
    match found {
        Err(SubsetError::Objects(WalkError::Damaged(_))) => Ok(false),
        found => found,
    }
}

fn reaches(reader: &mut Reader<'_>, commit: u32, base: u32) -> Result<bool, Stop> {
    let (mut met, mut waiting) = (vec![false; reader.objects.len() as usize], VecDeque::from([commit]));
    met[commit as usize] = true;
    while let Some(commit) = waiting.pop_front() {
        let content = reader.read_as(commit, Kind::Commit)?;
        let named = reader.objects.id(commit);
        let hashed = gix_object::compute_hash(HASH, Kind::Commit, &content);
        if hashed.map_err(|error| damaged(error.to_string()))? != named {
            return Err(damaged(format!("its object {named} is another one")).into());
        }
        if commit == base {
            return Ok(true);
        }
        for parent in parents(reader.objects, &content)? {
            if !std::mem::replace(&mut met[parent as usize], true) {
                waiting.push_back(parent);
            }
        }
        reader.require_lists((waiting.len() * size_of::<u32>()) as u64)?;
    }
    Ok(false)
}
