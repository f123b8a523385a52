//! Repositories kept between passes: what is built on them equals a fresh clone, whatever happened in between.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::git::{GitFault, fetch_answer};
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    Daemon, OURS, PATIENCE, assert_holds, count, files_below, keys, operations, pass, pass_with, program, wait_until,
    zip_key,
};

/// A world with one project, published once.
fn published() -> (World, Repo) {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    (world, source)
}

/// The bucket holds exactly what the source's branch is at now.
#[track_caller]
fn assert_current(world: &World, source: &Repo) {
    let head = source.head("main").unwrap();
    let key = zip_key("far/app", "main", &head);
    assert_eq!(keys(world), [&*key]);
    assert_holds(world, &key, source, &head, "main");
}

/// The kept files with this extension.
fn kept(world: &World, extension: &str) -> Vec<PathBuf> {
    let mirrors = world.workdir().join(OURS).join("mirrors");
    let of_kind = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    files_below(&mirrors).into_iter().filter(of_kind).collect()
}

#[test]
fn only_new_commits_are_fetched_and_every_archive_equals_a_fresh_clone() {
    let (world, source) = published();
    let whole = world.source.requests().iter().find(|request| request.is("fetch")).unwrap().response_bytes;
    let mut most_packs = 0;
    for n in 1..=12 {
        source.commit("main", &[(format!("dir-{}/news.txt", n % 3), format!("news {n}\n"))], "News").unwrap();
        world.source.clear_requests();
        pass(&world).succeeded();
        assert_current(&world, &source);
        let requests = world.source.requests();
        assert_eq!(operations(&requests), ["fetch", "ls-refs"]);
        let fetch = requests.iter().find(|request| request.is("fetch")).unwrap();
        assert!(fetch.response_bytes < whole / 10, "{} bytes of {whole} for one small commit", fetch.response_bytes);
        most_packs = most_packs.max(kept(&world, "pack").len());
    }
    assert!((3..12).contains(&most_packs), "the packs of increments are joined: there were up to {most_packs}");
    assert!(kept(&world, "pack").len() < most_packs);
}

#[test]
fn increments_with_merges_and_returning_content_equal_a_fresh_clone() {
    let (world, source) = published();
    for n in 1..=10 {
        let text = format!("text {}\n", n % 2);
        source.branch_from("side", "main").unwrap();
        source.commit("side", &[("side.txt", format!("side {n}\n"))], "Side").unwrap();
        source.commit("main", &[("flip.txt", text)], "Flip").unwrap();
        let tree = source.git(&["rev-parse", "refs/heads/side^{tree}"]).unwrap();
        let (ours, theirs) = (source.head("main").unwrap(), source.head("side").unwrap());
        let identity = ["-c", "user.name=Testbed", "-c", "user.email=testbed@example.com"];
        let merge = ["commit-tree", "-m", "Merge", "-p", &ours, "-p", &theirs, &tree];
        let merged = source.git(&[&identity[..], &merge[..]].concat()).unwrap();
        source.git(&["update-ref", "refs/heads/main", &merged]).unwrap();
        pass(&world).succeeded();
        assert_current(&world, &source);
    }
}

#[test]
fn an_increment_that_breaks_off_costs_an_increment() {
    let (world, source) = published();
    source.fill_incompressible(4, 1).unwrap();
    world.source.fault("near/app", GitFault::CutFetchAfter(1 << 20));
    pass_with(&world, "TARGET_TIMEOUT", "2s").failed();
    assert_eq!(kept(&world, "pack").len(), 1, "what was whole before is kept, and nothing else");

    world.source.clear_overrides();
    world.source.clear_requests();
    pass(&world).succeeded();
    assert_current(&world, &source);
    let requests = world.source.requests();
    let fetch = requests.iter().find(|request| request.is("fetch")).unwrap();
    assert!(fetch.body_text().contains("have "), "{}", fetch.body_text());
}

#[test]
fn rewritten_branch_leaves_nothing_of_the_old_history() {
    let (world, source) = published();
    source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
    source.commit("main", &[("more.txt", "and on\n")], "On").unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
}

#[test]
fn rewritten_branch_crosses_after_the_server_has_pruned_the_old_history() {
    let (world, source) = published();
    source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
    source.prune().unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
}

#[test]
fn amended_commit_leaves_nothing_of_the_one_it_replaces() {
    let (world, source) = published();
    let base = source.head("main").unwrap();
    source.commit("main", &[("password.txt", "oh no\n")], "A mistake").unwrap();
    pass(&world).succeeded();
    source.git(&["update-ref", "refs/heads/main", &base]).unwrap();
    source.commit("main", &[("fine.txt", "fine\n")], "Amended").unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
}

#[test]
fn branch_moved_back_is_published_as_it_was() {
    let (world, source) = published();
    let old = source.head("main").unwrap();
    source.commits("main", 3).unwrap();
    pass(&world).succeeded();
    source.git(&["update-ref", "refs/heads/main", &old]).unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
    assert_eq!(keys(&world), [zip_key("far/app", "main", &old)]);
}

#[test]
fn cache_of_zero_bytes_keeps_no_repository() {
    let world = World::builder().setting("MIRROR_CACHE_BYTES", "0").start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    for _ in 0..2 {
        pass(&world).succeeded();
        assert_current(&world, &source);
        assert_eq!((kept(&world, "pack"), kept(&world, "idx"), kept(&world, "json")), (vec![], vec![], vec![]));
        source.commits("main", 1).unwrap();
    }
}

#[test]
fn cache_set_to_zero_later_is_emptied() {
    let (world, source) = published();
    assert_eq!(kept(&world, "pack").len(), 1);
    pass_with(&world, "MIRROR_CACHE_BYTES", "0").succeeded();
    assert_eq!(kept(&world, "pack"), Vec::<PathBuf>::new());
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);
}

#[test]
fn the_repository_longest_unused_makes_room() {
    let world = World::start().unwrap();
    let repositories = ["a", "b", "c"].map(|name| {
        let source = world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
        pass(&world).succeeded();
        source
    });
    let bytes: u64 =
        kept(&world, "pack").iter().chain(&kept(&world, "idx")).map(|file| file.metadata().unwrap().len()).sum();

    repositories[0].commits("main", 1).unwrap();
    pass_with(&world, "MIRROR_CACHE_BYTES", &(bytes - 1).to_string()).succeeded();
    assert_eq!(kept(&world, "json").len(), 2);
    for (repository, name, increment) in [(0, "near/a", true), (1, "near/b", false), (2, "near/c", true)] {
        repositories[repository].commits("main", 1).unwrap();
        world.source.clear_requests();
        pass(&world).succeeded();
        let fetch = world.source.requests().into_iter().find(|request| request.is("fetch")).unwrap();
        let has_base = fetch.body.windows(5).any(|word| word == b"have ");
        assert_eq!(has_base, increment, "{name}");
    }
}

/// Damages what was kept, and expects good objects from the passes after that: one that publishes the kept commit again,
/// in both formats, and one that builds a new commit on it.
#[track_caller]
fn heals(damage: impl Fn(&World)) {
    let (world, source) = published();
    // Once a listing has shown the object, it is not missed.
    pass(&world).succeeded();
    damage(&world);
    world.s3().delete(&keys(&world)[0]);
    pass(&world).succeeded();
    assert_current(&world, &source);

    damage(&world);
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_current(&world, &source);

    damage(&world);
    pass_with(&world, "ARCHIVE_FORMAT", "tar.gz").succeeded();
    let head = source.head("main").unwrap();
    assert_eq!(keys(&world).len(), 1);
    assert_holds(&world, &keys(&world)[0], &source, &head, "main");

    // What was fetched afresh is a good base again.
    source.commits("main", 1).unwrap();
    world.source.clear_requests();
    pass(&world).succeeded();
    assert_eq!(count(&world.source.requests(), "fetch"), 1);
}

/// Changes the middle byte of each kept file with this extension.
fn flip(world: &World, extension: &str) {
    let files = kept(world, extension);
    assert!(!files.is_empty());
    for path in files {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x01;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
}

fn truncate(world: &World, extension: &str) {
    let files = kept(world, extension);
    assert!(!files.is_empty());
    for path in files {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
}

#[test]
fn mirrors_in_use_stay_under_a_budget_of_zero_while_other_targets_finish() {
    let world = World::builder().setting("MIRROR_CACHE_BYTES", "0").setting("SYNC_CONCURRENCY", "2").start().unwrap();
    let large = world.project("near/large").unwrap();
    large.delete_branch("main").unwrap();
    large.fill_incompressible(20, 7).unwrap();
    world.sync("near/large", "main", "far/large", "main").unwrap();
    for n in 0..4 {
        world.project(&format!("near/{n}")).unwrap();
        world.sync(&format!("near/{n}"), "main", &format!("far/{n}"), "main").unwrap();
    }
    // The large one waits in the middle of its upload, until all the others have ended.
    world.s3().hold("UploadPart");
    let daemon = Daemon::start(&world, &[]);
    world.s3().wait_until_held(PATIENCE).unwrap();
    daemon.wait_until_logged("published far/", 4);
    world.s3().release();
    daemon.wait_until_logged("published far/large@main", 1);
    let run = daemon.stop().succeeded();
    assert_eq!(count(&world.source.requests(), "fetch"), 5, "each is fetched once\n{}", run.log);
    let key = zip_key("far/large", "main", &large.head("main").unwrap());
    assert_holds(&world, &key, &large, &large.head("main").unwrap(), "main");
    assert_eq!(kept(&world, "pack"), [""; 0].map(PathBuf::from));
}

#[test]
fn packs_that_a_killed_run_left_beside_the_kept_ones_are_removed() {
    let (world, source) = published();
    let folder = kept(&world, "pack")[0].parent().unwrap().to_owned();
    for stray in ["incoming.pack", "pack-0000000000000000000000000000000000000000.pack"] {
        fs::write(folder.join(stray), "PACK").unwrap();
    }
    pass(&world).succeeded();
    assert_eq!(kept(&world, "pack").len(), 1);
    assert_current(&world, &source);
}

#[test]
fn flipped_byte_in_a_kept_pack_heals() {
    heals(|world| flip(world, "pack"));
}

#[test]
fn flipped_byte_in_a_kept_index_heals() {
    heals(|world| flip(world, "idx"));
}

#[test]
fn truncated_kept_pack_heals() {
    heals(|world| truncate(world, "pack"));
}

#[test]
fn truncated_kept_index_heals() {
    heals(|world| truncate(world, "idx"));
}

#[test]
fn garbage_in_a_kept_state_heals() {
    heals(|world| kept(world, "json").iter().for_each(|path| fs::write(path, "{ garbage").unwrap()));
}

#[test]
fn state_that_names_another_commit_heals() {
    heals(|world| {
        for path in kept(world, "json") {
            let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            state["commit"] = "0123456789abcdef0123456789abcdef01234567".into();
            fs::write(&path, state.to_string()).unwrap();
        }
    });
}

/// Puts a pack with its index, a loose object, an alternate, a configuration and a mark of a shallow history into the only
/// mirror. The pack, the loose object and the alternate hold `blob` of this repository.
fn plant(world: &World, of: &Repo, blob: &str) {
    let mirror = kept(world, "json")[0].parent().unwrap().to_owned();
    let pack = mirror.join("objects/pack/pack-1111111111111111111111111111111111111111.pack");
    fs::write(&pack, of.pack_of(&[blob.to_owned()], true).unwrap()).unwrap();
    of.git(&["index-pack", &pack.to_string_lossy()]).unwrap();
    let mut zlib = ZlibEncoder::new(vec![], Compression::fast());
    zlib.write_all(&[b"blob 8\0", &b"planted\n"[..]].concat()).unwrap();
    let files = [
        (format!("objects/{}/{}", &blob[..2], &blob[2..]), zlib.finish().unwrap()),
        ("objects/info/alternates".to_owned(), format!("{}/objects\n", of.path().display()).into_bytes()),
        ("config".to_owned(), b"[core\n".to_vec()),
        ("shallow".to_owned(), format!("{blob}\n").into_bytes()),
    ];
    for (file, content) in files {
        fs::create_dir_all(mirror.join(&file).parent().unwrap()).unwrap();
        fs::write(mirror.join(&file), content).unwrap();
    }
}

#[test]
fn files_planted_beside_a_kept_pack_between_two_passes_are_not_believed() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let proxy = Proxy::start(&world.source.url()).unwrap();
    let mut command = program(&world, &["-reconcile-sleep-time=10ms"]);
    command.env("GITLAB_BASE_URL", proxy.url());
    // One process, so that no start removes what is planted.
    let daemon = Daemon::spawn(command);
    let key = || zip_key("far/app", "main", &source.head("main").unwrap());
    wait_until("it is published", || keys(&world) == [key()]);
    let elsewhere = world.source.repo("near/elsewhere").unwrap();
    elsewhere.commit("main", &[("planted.txt", "planted\n")], "Elsewhere").unwrap();
    let blob = elsewhere.git(&["rev-parse", "main:planted.txt"]).unwrap();

    plant(&world, &elsewhere, &blob);
    source.commits("main", 1).unwrap();
    wait_until("the new commit is published", || keys(&world) == [key()]);
    daemon.wait_until_logged("pass done", daemon.log().matches("pass done").count() + 1);
    let mirror = kept(&world, "json")[0].parent().unwrap().to_owned();
    let mut names: Vec<_> = files_below(&mirror).into_iter().map(|file| file.extension().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["idx", "idx", "json", "pack", "pack"]);

    // The next commit needs the planted blob, and the server does not send it.
    let before = keys(&world);
    let old = source.branch_from("next", "main").unwrap();
    source.commit("next", &[("planted.txt", "planted\n")], "Needs it").unwrap();
    let range = format!("{old}..next");
    let new = source.git(&["rev-list", "--objects", "--no-object-names", &range]).unwrap();
    let sent: Vec<_> = new.lines().filter(|id| *id != blob).map(str::to_owned).collect();
    assert_eq!(sent.len() + 1, new.lines().count());
    let answer = fetch_answer(&source.pack_of(&sent, true).unwrap());
    proxy.on(|seen| seen.operation() == "fetch", ALWAYS, Fault::alter(move |_| answer.clone()));
    plant(&world, &elsewhere, &blob);
    source.branch_from("main", "next").unwrap();
    wait_until("a pass has tried it", || daemon.log().contains("is missing") || keys(&world) != before);
    assert_eq!(keys(&world), before, "{}", daemon.log());
    proxy.clear();
    source.commits("main", 1).unwrap();
    wait_until("the next commit is published", || keys(&world) == [key()]);
    daemon.stop().succeeded();
    assert_current(&world, &source);
}
