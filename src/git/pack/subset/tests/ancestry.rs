//! Which commits descend from which.

use std::io::Read as _;

use flate2::{Compression, read::ZlibEncoder};

use super::*;

fn asked(near: &Near, commit: CommitId, base: CommitId, budget: u64) -> Result<bool, SubsetError> {
    let memory = MemoryBudget::new(Some(budget));
    let descends = descends(near.path(), commit, base, &memory, &GO_ON);
    // Everything was given back.
    memory.table(budget.max(16 << 20), &AtomicBool::new(true)).unwrap();
    descends
}

/// A loose object of this content, under any name.
fn plant(near: &Near, id: &str, header: &str, content: impl io::Read) {
    let folder = near.path().join(".git/objects").join(&id[..2]);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(&id[2..]);
    let _ = fs::remove_file(&path);
    let whole = io::Cursor::new(format!("{header}\0")).chain(content);
    io::copy(&mut ZlibEncoder::new(whole, Compression::fast()), &mut fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn a_commit_descends_from_those_in_its_history_and_no_others() {
    let near = Near::new();
    near.write("a", "1\n");
    let first = near.commit("one");
    near.git(&["checkout", "-q", "-b", "side"]);
    let side = near.commit("side");
    near.git(&["checkout", "-q", "main"]);
    let second = near.commit("two");
    near.pack();
    near.git(&["merge", "-q", "-m", "merge", "side"]);
    let merge = near.at("HEAD");
    let asked = |commit, base| asked(&near, commit, base, 64 << 20).unwrap();
    for base in [first, side, second, merge] {
        assert!(asked(merge, base));
    }
    assert!(!asked(side, second) && !asked(second, side) && !asked(first, second));
    let nowhere = CommitId::from_bytes([7; 20]);
    assert!(!asked(merge, nowhere) && !asked(nowhere, first));
    assert!(!asked(merge, near.at("HEAD^{tree}")), "it is no commit");
}

#[test]
fn a_commit_that_is_not_what_its_id_says_proves_nothing() {
    let near = Near::new();
    near.write("a", "1\n");
    let first = near.commit("one");
    near.git(&["checkout", "-q", "--orphan", "other"]);
    let other = near.commit("other");
    let tree = near.git(&["rev-parse", "HEAD^{tree}"]);
    let forged = format!("tree {tree}\nparent {first}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nforged\n");
    plant(&near, &other.to_string(), &format!("commit {}", forged.len()), forged.as_bytes());
    assert!(!asked(&near, other, first, 64 << 20).unwrap());
}

#[test]
fn a_huge_commit_is_not_read_into_memory() {
    let near = Near::new();
    let first = near.commit("one");
    let second = near.commit("two");
    let bytes = 100 << 20;
    plant(&near, &first.to_string(), &format!("commit {bytes}"), io::repeat(b'\n').take(bytes));
    let refused = asked(&near, second, first, 64 << 20);
    assert!(matches!(refused, Err(SubsetError::Memory(_))), "{refused:?}");
    let stopped = descends(near.path(), second, second, &MemoryBudget::new(Some(64 << 20)), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(SubsetError::Stopped)), "{stopped:?}");
}
