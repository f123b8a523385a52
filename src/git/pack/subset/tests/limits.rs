//! What is held in memory, and how it ends early.

use super::*;

fn written(near: &Near, new: CommitId, have: Option<CommitId>, budget: u64) -> Result<Sent, SubsetError> {
    let memory = MemoryBudget::new(Some(budget));
    let sent = write_subset(near.path(), new, have, &memory, &GO_ON, |_| Ok(io::sink()));
    // Everything was given back.
    memory.table(budget.max(16 << 20), &AtomicBool::new(true)).unwrap();
    sent
}

/// Two commits with a tree of this many entries, of which one differs.
fn wide(near: &Near, entries: usize) -> [CommitId; 2] {
    let blob = git_with_input(near.path(), &["hash-object", "-w", "--stdin"], b"x");
    let other = git_with_input(near.path(), &["hash-object", "-w", "--stdin"], b"y");
    let mut trees: Vec<String> = (0..entries).map(|n| format!("100644 blob {blob}\t{n:020}")).collect();
    let first = git_with_input(near.path(), &["mktree"], trees.join("\n").as_bytes());
    trees[entries / 2] = format!("100644 blob {other}\t{:020}", entries / 2);
    let second = git_with_input(near.path(), &["mktree"], trees.join("\n").as_bytes());
    let first = near.git(&["commit-tree", &first, "-m", "one"]);
    let second = near.git(&["commit-tree", &second, "-p", &first, "-m", "two"]);
    near.git(&["update-ref", "refs/heads/main", &second]);
    near.git(&["repack", "-adfq"]);
    [first, second].map(|id| id.parse().unwrap())
}

#[test]
fn a_tree_that_takes_more_than_usual_is_read_if_the_budget_allows() {
    let near = Near::new();
    let [first, second] = wide(&near, 60_000);
    // 2.9 MB, and its base as much.
    let sent = written(&near, second, Some(first), 64 << 20).unwrap();
    assert_eq!(sent.objects, 3);
    assert_eq!(written(&near, second, Some(first), 0).unwrap(), sent, "within 16 MiB");
    let [first, second] = wide(&near, 150_000);
    assert_eq!(written(&near, second, Some(first), 64 << 20).unwrap().objects, 3);
    let refused = written(&near, second, Some(first), 0);
    assert!(matches!(refused, Err(SubsetError::Memory(Shortage::Objects { .. }))), "{refused:?}");
}

#[test]
fn a_delta_whose_base_is_not_sent_is_decoded_within_the_budget() {
    let near = Near::new();
    // The newest version is the longest, so all others are deltas on it: sending an older one takes it apart.
    let mut commits = vec![];
    for n in 0..3 {
        near.write("file", text(160_000 + 1_000 * n, 1));
        commits.push(near.commit(&n.to_string()));
    }
    near.git(&["repack", "-adfq"]);
    let verbose = near.git(&["verify-pack", "-v", near.packs()[0].with_extension("idx").to_str().unwrap()]);
    let blob = near.git(&["rev-parse", &format!("{}:file", commits[1])]);
    let line = verbose.lines().find(|line| line.starts_with(&blob)).unwrap();
    assert_eq!(line.split_whitespace().count(), 7, "it is a delta: {line}");
    let sent = near.check(commits[1], Some(commits[0]));
    assert_eq!(sent.objects, 3);
    let refused = written(&near, commits[1], Some(commits[0]), 0);
    assert!(matches!(refused, Err(SubsetError::Memory(_))), "{refused:?}");
}

#[test]
fn it_ends_if_it_is_to_give_up_or_nobody_takes_the_pack() {
    let near = Near::new();
    near.write("a", text(5_000, 1));
    let first = near.commit("one");
    near.pack();
    near.write("a", text(5_001, 1));
    let second = near.commit("two");
    near.pack();
    let memory = MemoryBudget::new(Some(64 << 20));
    for have in [None, Some(first)] {
        let stopped = write_subset(near.path(), second, have, &memory, &AtomicBool::new(true), |_| Ok(io::sink()));
        assert!(matches!(stopped, Err(SubsetError::Stopped)), "{stopped:?}");
        let refused =
            write_subset(near.path(), second, have, &memory, &GO_ON, |_| Err::<io::Sink, _>(io::Error::other("no")));
        assert!(matches!(refused, Err(SubsetError::Receiver(_))), "{refused:?}");
        let ended = write_subset(near.path(), second, have, &memory, &GO_ON, |_| Ok(Full(100)));
        assert!(matches!(ended, Err(SubsetError::Receiver(_))), "{ended:?}");
    }
}

/// Takes this many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_not_there_is_named() {
    let near = Near::new();
    near.write("a", "1\n");
    let first = near.commit("one");
    near.write("b", "1\n");
    let second = near.commit("two");
    let tree = near.git(&["rev-parse", "HEAD^{tree}"]);
    fs::remove_file(near.path().join(".git/objects").join(&tree[..2]).join(&tree[2..])).unwrap();
    let gap = written(&near, second, Some(first), 64 << 20).unwrap_err();
    assert!(matches!(&gap, SubsetError::Objects(WalkError::Damaged(why)) if why.contains(&tree)), "{gap:?}");
    let nowhere = CommitId::from_bytes([9; 20]);
    let gap = written(&near, nowhere, Some(first), 64 << 20).unwrap_err();
    assert!(matches!(&gap, SubsetError::Objects(WalkError::Damaged(why)) if why.contains("0909")), "{gap:?}");
    let empty = tempfile::tempdir().unwrap();
    let memory = MemoryBudget::new(Some(64 << 20));
    let gone = write_subset(empty.path(), first, None, &memory, &GO_ON, |_| Ok(io::sink()));
    assert!(matches!(gone, Err(SubsetError::Objects(_))), "{gone:?}");
}

/// Writes an index of these ids, each with an offset, for this pack.
fn index_as(pack: &Path, mut rows: Vec<(CommitId, u32)>) {
    rows.sort_unstable();
    let upto = |first: u8| rows.iter().filter(|(id, _)| id.as_bytes()[0] <= first).count() as u32;
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    (0..=u8::MAX).for_each(|first| index.extend(upto(first).to_be_bytes()));
    rows.iter().for_each(|(id, _)| index.extend(id.as_bytes()));
    index.extend(vec![0; 4 * rows.len()]);
    rows.iter().for_each(|(_, offset)| index.extend(offset.to_be_bytes()));
    // No checksum is read.
    index.extend([0; 40]);
    let path = pack.with_extension("idx");
    fs::remove_file(&path).unwrap();
    fs::write(path, index).unwrap();
}

/// What the index of this pack says.
fn index_of(near: &Near, pack: &Path) -> Vec<(CommitId, u32)> {
    let index = fs::read(pack.with_extension("idx")).unwrap();
    let listed = git_with_input(near.path(), &["show-index"], &index);
    let words = listed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.map(|words| (words[1].parse().unwrap(), words[0].parse().unwrap())).collect()
}

/// A repository of two commits in this pack, and one more in another: everything is sent if the far side may lack it.
fn two_packs() -> (Near, [CommitId; 2], PathBuf) {
    let near = Near::new();
    let commits = ["one", "two"].map(|name| {
        near.write(name, name);
        near.commit(name)
    });
    near.git(&["repack", "-adfq"]);
    let pack = near.packs().remove(0);
    near.write("three", "three");
    near.commit("three");
    near.pack();
    (near, commits, pack)
}

#[test]
fn an_index_that_has_all_objects_at_one_place_does_not_multiply_the_pack() {
    let (near, [_, second], pack) = two_packs();
    let mut rows = index_of(&near, &pack);
    let place = rows[0].1;
    rows.extend((0..50).map(|n| (CommitId::from_bytes([n; 20]), place)));
    index_as(&pack, rows);
    let refused = written(&near, second, None, 64 << 20).unwrap_err();
    assert!(
        matches!(&refused, SubsetError::Objects(WalkError::Damaged(why)) if why.contains("one place")),
        "{refused:?}"
    );
}

#[test]
fn an_index_that_has_one_object_many_times_takes_no_time() {
    let (near, [_, second], pack) = two_packs();
    let mut rows = index_of(&near, &pack);
    rows.extend(vec![(CommitId::from_bytes([7; 20]), rows[0].1); 200_000]);
    index_as(&pack, rows);
    let begun = std::time::Instant::now();
    written(&near, second, None, 64 << 20).unwrap_err();
    // If each were compared with all others: an hour.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[test]
fn a_repository_of_very_many_packs_is_refused() {
    let (near, [first, second], pack) = two_packs();
    for n in 0..4096 {
        for extension in ["pack", "idx"] {
            let other = pack.with_file_name(format!("pack-{n:040x}.{extension}"));
            fs::hard_link(pack.with_extension(extension), other).unwrap();
        }
    }
    let refused = written(&near, second, Some(first), 64 << 20).unwrap_err();
    assert!(matches!(&refused, SubsetError::Objects(WalkError::Damaged(why)) if why.contains("4096")), "{refused:?}");
}
