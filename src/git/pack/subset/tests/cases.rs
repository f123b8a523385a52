//! Histories of all kinds.

use std::thread;

use flate2::{Compression, write::ZlibEncoder};
use gix_pack::data::entry::Header;
use secrecy::SecretString;
use sha1::{Digest, Sha1};
use testbed::git::{GitOptions, GitServer};

use super::*;
use crate::git::pack::{IndexTurns, ReceiveLimits, receive};
use crate::git::push::{PackBody, PushServer, RefUpdate, pack_channel};
use crate::net::Timeouts;
use crate::net::http::{Login, upload::Uploads};
use crate::net::tls::TrustRoots;

#[test]
fn one_pack_is_sent_as_it_is_to_a_far_side_that_has_nothing() {
    let near = Near::new();
    near.write("a", text(100, 1));
    near.commit("one");
    near.write("a", text(110, 1));
    let new = near.commit("two");
    near.pack();
    let (pack, sent) = near.subset(new, None);
    assert_eq!(pack, fs::read(&near.packs()[0]).unwrap());
    assert!(sent.is_whole);
    near.check(new, None);
    // What the far side has is not known here, or is not a commit.
    assert_eq!(near.subset(new, Some(CommitId::from_bytes([7; 20]))), (pack.clone(), sent));
    assert_eq!(near.subset(new, Some(near.at("HEAD:a"))).1.objects, sent.objects);
}

#[test]
fn only_what_is_new_is_sent_from_several_packs() {
    let near = Near::new();
    let mut commits = vec![];
    for n in 0..6 {
        near.write("dir/changed", text(300 + n, 1));
        near.write("dir/sub/same", text(300, 2));
        near.write(&format!("new/{n}"), text(20, n as u64));
        commits.push(near.commit(&n.to_string()));
        if n % 2 == 1 {
            near.pack();
        }
    }
    for (n, have) in commits.iter().enumerate() {
        let sent = near.check(commits[5], Some(*have));
        // A commit, three trees and two blobs for each.
        assert_eq!(sent.objects as usize, (5 - n) * 6, "beyond {n}");
    }
    near.check(commits[5], None);
    near.git(&["repack", "-adq"]);
    for have in &commits {
        near.check(commits[5], Some(*have));
    }
}

#[test]
fn one_more_commit_is_small_and_old_objects_are_not_sent_for_a_revert() {
    let near = Near::new();
    near.write("large", text(4_000, 1));
    near.write("larger", text(20_000, 2));
    let first = near.commit("one");
    near.write("large", text(4_001, 1));
    let second = near.commit("two");
    near.git(&["repack", "-adfq"]);
    // The new version of the file, which is stored whole.
    let (pack, _) = near.subset(second, Some(first));
    assert!((pack.len() as u64) < fs::metadata(&near.packs()[0]).unwrap().len() / 4, "{}", pack.len());
    near.write("large", text(4_000, 1));
    let third = near.commit("back");
    // The blob of the first commit is in both packs now.
    near.pack_again(&format!("{third}\n^{second}\n"));
    assert_eq!(near.packs().len(), 2);
    let total: usize = near.packs().iter().map(|pack| fs::read(pack).unwrap()[11] as usize).sum();
    let whole = near.check(third, None);
    assert!(whole.is_whole && (whole.objects as usize) < total, "{} of {total}", whole.objects);
    near.check(third, Some(second));
    assert_eq!(near.check(third, Some(first)).objects, 2 + 2, "two commits, a tree and a blob of the second");
}

#[test]
fn merges_bring_their_sides() {
    let near = Near::new();
    near.write("a", "1\n");
    let root = near.commit("root");
    near.write("b", "2\n");
    let base = near.commit("base");
    near.git(&["checkout", "-q", "-b", "side", &root.to_string()]);
    near.write("side/x", text(50, 3));
    let side = near.commit("side");
    near.git(&["checkout", "-q", "main"]);
    near.git(&["merge", "-q", "-m", "merge", "side"]);
    let merge = near.at("HEAD");
    near.write("b", "3\n");
    let head = near.commit("head");
    near.git(&["repack", "-adq"]);
    for have in [root, base, side, merge] {
        near.check(head, Some(have));
        near.check(merge, Some(have));
    }
    near.check(side, Some(base));
    near.check(base, Some(side));
}

#[test]
fn a_rewritten_branch_sends_what_the_far_side_lacks_of_it() {
    let near = Near::new();
    near.write("large", text(3_000, 1));
    near.write("a", "1\n");
    near.commit("one");
    near.write("a", "2\n");
    let old = near.commit("two");
    near.git(&["branch", "old"]);
    near.git(&["commit", "-q", "--amend", "-m", "another"]);
    let amended = near.at("HEAD");
    near.git(&["checkout", "-q", "--orphan", "orphan"]);
    let orphan = near.commit("orphan");
    near.git(&["repack", "-adq"]);
    assert_eq!(near.check(amended, Some(old)).objects, 1, "only the commit");
    assert_eq!(near.check(orphan, Some(old)).objects, 1, "without a common commit, the tree is the same");
    near.check(old, Some(orphan));
    let back = near.check(near.at("old~1"), Some(old));
    assert_eq!((back.objects, back.bytes), (0, 32), "nothing");
    assert_eq!(near.check(old, Some(old)).objects, 0);
}

#[test]
fn a_moved_folder_is_not_sent_again() {
    let near = Near::new();
    for n in 0..30 {
        near.write(&format!("from/deep/{n}"), text(10, n));
    }
    let first = near.commit("one");
    near.git(&["mv", "from", "to"]);
    let second = near.commit("moved");
    near.git(&["repack", "-adq"]);
    assert_eq!(near.check(second, Some(first)).objects, 2, "the commit and the root");
}

#[test]
fn submodules_modes_links_tags_and_empty_trees_are_nothing_special() {
    let near = Near::new();
    let empty = near.commit("empty");
    near.write("run", "echo\n");
    let file = near.commit("file");
    near.git(&["update-index", "--chmod=+x", "run"]);
    near.git(&["commit", "-q", "-m", "mode"]);
    let mode = near.at("HEAD");
    std::os::unix::fs::symlink("run", near.path().join("link")).unwrap();
    let link = near.commit("link");
    let elsewhere = format!("160000,{},module", "1".repeat(40));
    near.git(&["update-index", "--add", "--cacheinfo", &elsewhere]);
    near.git(&["commit", "-q", "-m", "submodule"]);
    let submodule = near.at("HEAD");
    near.git(&["tag", "-m", "tag", "v1"]);
    fs::remove_file(near.path().join("run")).unwrap();
    near.git(&["rm", "-rq", "--cached", "."]);
    near.git(&["commit", "-q", "-m", "empty again"]);
    let last = near.at("HEAD");
    near.git(&["repack", "-adq"]);
    let commits = [empty, file, mode, link, submodule, last];
    for (at, new) in commits.iter().enumerate() {
        for have in &commits[..at] {
            near.check(*new, Some(*have));
        }
        near.check(*new, None);
    }
    assert_eq!(near.check(mode, Some(file)).objects, 2, "a commit and a tree");
}

#[test]
fn deep_chains_of_deltas_are_cut_where_the_far_side_has_their_bases() {
    let near = Near::new();
    let mut lines: Vec<String> = text(2_000, 1).lines().map(str::to_owned).collect();
    let mut commits = vec![];
    for n in 0..60_usize {
        lines[n * 32] = format!("changed {n}");
        near.write("dir/file", lines.join("\n"));
        commits.push(near.commit(&n.to_string()));
    }
    for by_offset in ["true", "false"] {
        near.git(&["config", "repack.useDeltaBaseOffset", by_offset]);
        near.git(&["repack", "-adfq", "--depth=200", "--window=250"]);
        let verbose = near.git(&["verify-pack", "-v", near.packs()[0].with_extension("idx").to_str().unwrap()]);
        assert!(verbose.contains("chain length = 15:"), "{by_offset}: {verbose}");
        let whole = fs::metadata(&near.packs()[0]).unwrap().len();
        for have in [0, 30, 58] {
            let sent = near.check(commits[59], Some(commits[have]));
            assert_eq!(sent.objects as usize, (59 - have) * 4);
            assert!(sent.bytes < whole, "{} of {whole} beyond {have}", sent.bytes);
        }
        near.check(commits[40], Some(commits[20]));
    }
}

#[test]
fn loose_objects_are_sent_too() {
    let near = Near::new();
    near.write("a", text(500, 1));
    let first = near.commit("one");
    near.pack();
    near.write("a", text(501, 1));
    near.write("empty", "");
    let second = near.commit("two");
    near.check(second, None);
    near.check(second, Some(first));
    let all_loose = Near::new();
    all_loose.write("a", text(500, 1));
    let only = all_loose.commit("one");
    let sent = all_loose.check(only, None);
    assert_eq!((sent.objects, sent.is_whole), (3, true));
}

#[test]
fn clocks_may_be_wrong() {
    let near = Near::new();
    // The first line is old, the second far in the future, and so on.
    let dates = [2_000, 9, 1_999_999_999, 1_000, 1_000_000, 5, 4_000_000_000_u64, 7, 8, 2_000_000_000];
    let commit = |tree: &str, parents: &[&str], date: u64| {
        let date = format!("GIT_COMMITTER_DATE=@{date} +0000");
        let mut arguments = vec![date.as_str(), "git", "commit-tree", tree, "-m", "x"];
        parents.iter().for_each(|parent| arguments.extend(["-p", parent]));
        run(near.path(), "env", &arguments)
    };
    let mut trunk: Vec<String> = vec![];
    for (n, date) in dates.iter().enumerate() {
        near.write("file", text(30 + n, 1));
        near.git(&["add", "-A"]);
        let tree = near.git(&["write-tree"]);
        let parents: Vec<_> = trunk.last().map(String::as_str).into_iter().collect();
        trunk.push(commit(&tree, &parents, *date));
    }
    // A side from each commit, merged into the last one.
    let tree = near.git(&["write-tree"]);
    let mut merges = vec![];
    for (n, base) in trunk.iter().enumerate() {
        near.write("side", text(5, n as u64));
        near.git(&["add", "-A"]);
        let side = commit(&near.git(&["write-tree"]), &[base], dates[(n * 3) % 10]);
        merges.push(commit(&tree, &[&side, trunk.last().unwrap()], dates[(n * 7) % 10]));
    }
    for merge in &merges {
        near.git(&["update-ref", &format!("refs/heads/{merge}"), merge]);
    }
    near.git(&["repack", "-adq"]);
    let id = |name: &String| name.parse::<CommitId>().unwrap();
    for merge in &merges {
        near.check(id(merge), Some(id(&trunk[9])));
        near.check(id(merge), Some(id(&trunk[4])));
        near.check(id(&merges[0]), Some(id(merge)));
    }
}

/// Random histories in random packs, some of which hold the same objects.
#[test]
fn whatever_packs_there_are_what_is_missing_is_sent() {
    for seed in 0..4 {
        let near = Near::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut commits: Vec<CommitId> = vec![];
        for n in 0..10_usize {
            if !commits.is_empty() && random.u8(..4) == 0 {
                let base = commits[random.usize(..commits.len())].to_string();
                near.git(&["checkout", "-q", "-f", "--detach", &base]);
            }
            let name = format!("d{}/f{}", random.u8(..2), random.u8(..3));
            near.write(&name, text(60 + random.usize(..60), u64::from(random.u8(..2))));
            commits.push(near.commit(&n.to_string()));
            near.git(&["update-ref", &format!("refs/heads/c{n}"), "HEAD"]);
            if random.u8(..6) == 0 {
                let other = commits[random.usize(..commits.len())].to_string();
                near.git(&["merge", "-q", "-s", "ours", "-m", "merge", &other]);
                commits.push(near.at("HEAD"));
                near.git(&["update-ref", &format!("refs/heads/m{n}"), "HEAD"]);
            }
            let some = |random: &mut fastrand::Rng| commits[random.usize(..commits.len())];
            match random.u8(..5) {
                0 => near.pack(),
                1 => near.pack_again(&format!("{}\n", some(&mut random))),
                2 => near.pack_again(&format!("{}\n^{}\n", some(&mut random), some(&mut random))),
                3 => near.pack_thin(some(&mut random), some(&mut random)),
                _ => {}
            }
        }
        let last = *commits.last().unwrap();
        near.check(last, None);
        for _ in 0..4 {
            let (new, have) = (commits[random.usize(..commits.len())], commits[random.usize(..commits.len())]);
            near.check(new, Some(have));
        }
    }
}

#[test]
fn copies_that_are_deltas_on_each_other_are_taken_apart() {
    let near = Near::new();
    let [a, b] = [text(50, 1), text(51, 1)];
    let blob = |content: &str| git_with_input(near.path(), &["hash-object", "--stdin"], content.as_bytes());
    let base_id = gix_hash::ObjectId::from_hex(blob(&b).as_bytes()).unwrap();
    // One is there twice: as a delta on the other, and as its base.
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x03".to_vec();
    entry(&mut pack, Header::RefDelta { base_id }, &delta(b.len(), &a));
    let base = pack.len() as u64;
    entry(&mut pack, Header::Blob, a.as_bytes());
    let base_distance = pack.len() as u64 - base;
    entry(&mut pack, Header::OfsDelta { base_distance }, &delta(a.len(), &b));
    let trailer = Sha1::digest(&pack);
    pack.extend_from_slice(&trailer);
    let (turns, memory) = (IndexTurns::default(), MemoryBudget::new(Some(64 << 20)));
    let limits = ReceiveLimits { pack_bytes: 1 << 20, interrupt: &GO_ON, memory: &memory, turns: &turns };
    receive(&pack[..], &near.path().join(".git/objects/pack"), &limits, drop).unwrap();
    near.write("c", "loose");
    let commit = near.commit("one");
    let (sent_pack, sent) = near.subset(commit, None);
    let brought = Far::with(&near, None).take(&sent_pack);
    assert!(brought.contains(&blob(&a)) && brought.contains(&blob(&b)), "{brought:?}");
    assert_eq!((sent.objects, brought.len()), (5, 5));
}

fn entry(pack: &mut Vec<u8>, header: Header, content: &[u8]) {
    header.write_to(content.len() as u64, pack).unwrap();
    let mut deflated = ZlibEncoder::new(pack, Compression::fast());
    deflated.write_all(content).unwrap();
    deflated.finish().unwrap();
}

/// Instructions that insert everything.
fn delta(base: usize, target: &str) -> Vec<u8> {
    let number = |number: usize| [number as u8 | 0x80, (number >> 7) as u8];
    let mut delta = [number(base), number(target.len())].concat();
    for inserted in target.as_bytes().chunks(0x7f) {
        delta.push(inserted.len() as u8);
        delta.extend_from_slice(inserted);
    }
    delta
}

/// Both programs with which a server unpacks what it gets.
#[tokio::test]
async fn a_server_completes_what_it_gets() {
    let near = Near::new();
    let mut commits = vec![];
    for n in 0..8 {
        near.write("dir/file", text(900 - n, 1));
        commits.push(near.commit(&n.to_string()));
    }
    near.git(&["repack", "-adfq"]);
    let git = GitServer::start(GitOptions { allow_push: true, ..GitOptions::default() }).unwrap();
    let login = Login::new(git.user(), &SecretString::from(git.password().to_owned())).unwrap();
    let wait = std::time::Duration::from_secs(30);
    let uploads = Uploads::new(&TrustRoots::load(&[]).unwrap(), Timeouts { connect: wait, idle: wait }, 1).unwrap();
    let server = PushServer::new(uploads, git.url().parse().unwrap(), login);
    for (project, limit) in [("g/index", "1"), ("g/unpack", "1000")] {
        let repo = git.repo(project).unwrap();
        repo.configure("receive.fsckObjects", "true").unwrap();
        repo.configure("receive.unpackLimit", limit).unwrap();
        let mut have = None;
        let mut thin = 0;
        for new in [commits[2], commits[3], commits[7], commits[5]] {
            let (sender, body) = tokio::sync::oneshot::channel::<PackBody>();
            let path = near.path().to_owned();
            let writing = thread::spawn(move || {
                let memory = MemoryBudget::new(Some(64 << 20));
                write_subset(&path, new, have, &memory, &GO_ON, |bytes| {
                    let (writer, body) = pack_channel(bytes);
                    sender.send(body).unwrap();
                    Ok(writer)
                })
            });
            let update = RefUpdate { branch: "main", old: have, new };
            server.push(project, &update, body.await.unwrap()).await.unwrap();
            thin += usize::from(!writing.join().unwrap().unwrap().is_whole);
            have = Some(new);
            assert_eq!(repo.head("main").unwrap(), new.to_string());
        }
        repo.fsck().unwrap();
        assert_eq!(thin, 3);
    }
}
