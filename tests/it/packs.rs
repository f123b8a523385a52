//! Packs of every shape that a server may send.

use std::fs;
use std::path::Path;

use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{assert_holds, keys, pass, zip_key};

const MIB: usize = 1 << 20;

/// The first bytes of each entry of an unpacked archive's packs tell its type; 6 and 7 are deltas.
fn entry_types(content: &Path) -> Vec<u8> {
    let repository = Repo::open(content.join(".git")).unwrap();
    let mut types = vec![];
    for pack in fs::read_dir(content.join(".git/objects/pack")).unwrap().map(|entry| entry.unwrap().path()) {
        if pack.extension().is_some_and(|extension| extension == "pack") {
            let bytes = fs::read(&pack).unwrap();
            let listed = repository.git(&["verify-pack", "-v", &pack.to_string_lossy()]).unwrap();
            let offsets = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let offsets = offsets.filter(|words| words.len() >= 5 && words[0].len() == 40);
            types.extend(offsets.map(|words| bytes[words[4].parse::<usize>().unwrap()] >> 4 & 7));
        }
    }
    types
}

/// One pass publishes the project, and the object is as good as the source.
#[track_caller]
fn publishes(world: &World, source: &Repo) -> Vec<u8> {
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(world).succeeded();
    let head = source.head("main").unwrap();
    let key = zip_key("far/app", "main", &head);
    assert_eq!(keys(world), [&*key]);
    entry_types(&assert_holds(world, &key, source, &head, "main"))
}

/// Bytes that neither deflate nor delta can make smaller.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    noise
}

/// The same with a little more at its end.
fn longer(noise: &[u8]) -> Vec<u8> {
    [noise, b"one line more\n"].concat()
}

/// A project whose server stores and sends without trying to deflate.
fn uncompressed(world: &World) -> Repo {
    let source = world.source.repo("near/app").unwrap();
    for setting in ["core.compression", "pack.compression"] {
        source.configure(setting, "0").unwrap();
    }
    source
}

#[test]
fn deltas_that_name_their_base_by_id_are_taken() {
    let world = World::start().unwrap();
    let source = Repo::deep(world.source.repo_path("near/app"), 400, 2, 1).unwrap();
    // With a bitmap the server sends entries as they stand in its pack.
    source.git(&["-c", "repack.useDeltaBaseOffset=false", "repack", "-q", "-a", "-d", "-f", "-b"]).unwrap();
    let types = publishes(&world, &source);
    assert!(types.contains(&7), "the server sent no delta that names its base by id: {types:?}");
}

#[test]
fn long_chains_of_deltas_are_taken() {
    let world = World::start().unwrap();
    let source = Repo::deep(world.source.repo_path("near/app"), 300, 1, 1).unwrap();
    let types = publishes(&world, &source);
    assert!(types.iter().filter(|kind| **kind == 6).count() > 200, "{types:?}");
}

#[test]
fn large_blob_stored_whole_is_published() {
    let world = World::start().unwrap();
    let source = uncompressed(&world);
    source.commit("main", &[("large.bin", noise(40 * MIB, 1))], "Large").unwrap();
    source.commit("main", &[("after.txt", "small\n")], "After").unwrap();
    publishes(&world, &source);
    assert!(world.s3().objects()[0].size > 40 * MIB as u64);
}

#[test]
fn new_commit_with_nothing_but_large_blobs_is_published() {
    let world = World::start().unwrap();
    let source = uncompressed(&world);
    source.commits("main", 3).unwrap();
    publishes(&world, &source);
    let head = source.commit("main", &[("a.bin", noise(17 * MIB, 3)), ("b.bin", noise(17 * MIB, 4))], "Two").unwrap();
    pass(&world).succeeded();
    assert_holds(&world, &zip_key("far/app", "main", &head), &source, &head, "main");
}

#[test]
fn delta_on_a_large_blob_is_published() {
    let world = World::start().unwrap();
    let source = uncompressed(&world);
    let large = noise(20 * MIB, 5);
    source.commit("main", &[("large.bin", &large)], "One").unwrap();
    source.commit("main", &[("large.bin", longer(&large))], "Two").unwrap();
    source.repack(&["-a", "-d", "-f"]).unwrap();
    assert!(source.pack_bytes().unwrap() < 21 * MIB as u64, "the second version is a delta");
    let types = publishes(&world, &source);
    assert!(types.contains(&6) || types.contains(&7), "{types:?}");
    assert!(world.s3().objects()[0].size < 21 * MIB as u64, "the delta crossed as a delta");
}

#[test]
fn delta_that_names_a_large_blob_by_id_is_published() {
    let world = World::start().unwrap();
    let source = uncompressed(&world);
    let large = noise(17 * MIB, 7);
    source.commits("main", 100).unwrap();
    source.commit("main", &[("large.bin", &large)], "One").unwrap();
    source.commit("main", &[("large.bin", longer(&large))], "Two").unwrap();
    source.git(&["-c", "repack.useDeltaBaseOffset=false", "repack", "-q", "-a", "-d", "-f", "-b"]).unwrap();
    let types = publishes(&world, &source);
    assert!(types.contains(&7), "the server sent no delta that names its base by id: {types:?}");
    assert!(world.s3().objects()[0].size < 18 * MIB as u64, "the delta crossed as a delta");
}

#[test]
fn delta_on_a_large_blob_of_the_kept_repository_is_published() {
    let world = World::start().unwrap();
    let source = uncompressed(&world);
    let large = noise(17 * MIB, 6);
    source.commit("main", &[("large.bin", &large)], "One").unwrap();
    publishes(&world, &source);
    let head = source.commit("main", &[("large.bin", longer(&large))], "Two").unwrap();
    source.repack(&["-a", "-d", "-f"]).unwrap();
    pass(&world).succeeded();
    assert_eq!(keys(&world), [zip_key("far/app", "main", &head)]);
    assert_holds(&world, &keys(&world)[0], &source, &head, "main");
}

#[test]
fn one_branch_of_very_many_is_found_and_fetched_alone() {
    let world = World::start().unwrap();
    let source = Repo::many_refs(world.source.repo_path("near/app"), 20_000).unwrap();
    publishes(&world, &source);
    let received: u64 = world.source.requests().iter().map(|request| request.response_bytes).sum();
    assert!(received < 10_000, "{received} bytes for one commit among 20,000 branches");
}
