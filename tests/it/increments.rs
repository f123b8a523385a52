//! Increments: what crosses for a new commit, and that the far side gets exactly what was published.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use memchr::memmem;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::{World, WorldBuilder};

use crate::documents;
use crate::signatures::{Signer, signed_pass, trusting};
use crate::support::{
    Daemon, assert_arrived, assert_far_is_clean, consumer, count, deliver, deliver_with, files_below, increment_key,
    pass, pass_with, program, pushes, run, wait_until,
};

/// Above what is worth an increment.
const WHOLE_BYTES: u64 = 256 << 10;

fn incremental() -> WorldBuilder {
    World::builder().setting("CROSSING", "incremental").setting("MAX_RETIRE", "100%")
}

/// A project that is large enough for increments, on its way to `far/app@main`.
fn published(world: &World) -> Repo {
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 7).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(world).succeeded();
    source
}

/// The sizes of the bucket's objects by their kind: wholes, and increments.
fn sizes(world: &World) -> (Vec<u64>, Vec<u64>) {
    let objects = world.bucket().unwrap().list().unwrap();
    let (increments, wholes): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object.key.ends_with(".inc.age"));
    let bytes = |objects: Vec<&testbed::bucket::StoredObject>| objects.iter().map(|object| object.size).collect();
    (bytes(wholes), bytes(increments))
}

#[test]
fn a_commit_crosses_as_what_is_new() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    deliver(&world).succeeded();
    assert!(sizes(&world).0[0] > WHOLE_BYTES);
    for n in 1..=3 {
        let head = source.commits("main", 1).unwrap();
        world.source.clear_requests();
        let run = pass(&world).succeeded();
        run.logged("crosses as an increment on");
        let (wholes, increments) = sizes(&world);
        assert_eq!((wholes.len(), increments.len()), (1, n));
        assert!(increments.iter().all(|bytes| *bytes < 8_000), "{increments:?}");
        world.destination.clear_requests();
        world.s3().clear_requests();
        deliver(&world).succeeded().logged("delivered far/app@main");
        assert_arrived(&world, "far/app", "main", &head);
        assert_eq!(count(&world.s3().requests(), "GetObject"), 1, "only the new object is read");
        assert!(pushes(&world, "far/app")[0].request_bytes < 8_000);
    }
    assert!(pass(&world).succeeded().log.contains("unchanged=1"));
    assert_far_is_clean(&world, "far/app");
}

#[test]
fn the_chain_stays_short_and_a_new_far_side_gets_all_of_it() {
    let world = incremental().setting("MAX_INCREMENTS", "3").start().unwrap();
    let source = published(&world);
    for _ in 0..12 {
        source.commits("main", 1).unwrap();
        pass(&world).succeeded();
        let (wholes, increments) = sizes(&world);
        assert_eq!(wholes.len(), 1);
        assert!(increments.len() <= 3, "{increments:?}");
    }
    let head = source.head("main").unwrap();
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &head);
    let far = world.destination.repo("far/app").unwrap();
    assert_eq!(judge::object_names(far.path(), &head).unwrap(), judge::object_names(source.path(), "main").unwrap());
}

/// A branch is set back. The producer uploads first, and then deletes: in between, increments lead to where the far branch is
/// that are older than the whole object.
#[test]
fn objects_that_are_just_being_replaced_are_no_trouble_unless_it_lasts() {
    const UP_AND_NOT_DELETED: Duration = Duration::from_secs(60);
    let world = incremental().start().unwrap();
    let source = published(&world);
    let pushed = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    deliver(&world).succeeded();
    source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
    let head = source.head("main").unwrap();
    world.s3().hold("DeleteObject");
    let producer = Daemon::spawn(program(&world, &["-run-once"]));
    world.s3().wait_until_held(UP_AND_NOT_DELETED).unwrap();

    // A single run has nobody to look again later.
    let run = deliver(&world).failed();
    assert_eq!(
        run.lines_with("objects are just being replaced, and the next pass checks again: far/app@main").len(),
        1
    );
    run.logged("increments lead that are older than the whole object");
    assert_arrived(&world, "far/app", "main", &pushed);

    let mut command = consumer(&world, &[]);
    command.env("RECONCILE_SLEEP_TIME", "1h");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("objects are just being replaced", 1);
    daemon.wait_until_logged("pass done", 1);
    world.s3().release();
    producer.ends_within(UP_AND_NOT_DELETED).succeeded();
    wait_until("the far branch follows", || world.far_head("far/app", "main").as_ref() == Some(&head));
    let run = daemon.stop().succeeded();
    assert!(!run.log.contains(" ERROR "), "{}", run.log);
}

/// At most of these commits, the increment that they came by has been taken into a longer one.
#[test]
fn a_far_side_at_any_earlier_commit_gets_what_it_lacks_and_the_whole_is_not_read_again() {
    for is_signed in [false, true] {
        let world = incremental().setting("MAX_INCREMENTS", "2").start().unwrap();
        let signer = Signer::new(&world, "near");
        let publish = || if is_signed { signed_pass(&world, &signer) } else { pass(&world).succeeded() };
        let deliver = || {
            let run = if is_signed { trusting(&world, &signer.public_key()) } else { deliver(&world) };
            run.succeeded()
        };
        world.destination.group("far").unwrap();
        let source = world.project("near/app").unwrap();
        source.fill_incompressible(1, 7).unwrap();
        world.sync("near/app", "main", "far/app", "main").unwrap();
        publish();
        deliver();
        let mut commits = vec![source.head("main").unwrap()];
        for _ in 0..4 {
            // The first one is never at the end of an increment.
            commits.extend([(); 2].map(|()| source.commits("main", 1).unwrap()));
            publish();
        }
        assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 2));
        let head = commits.pop().unwrap();
        deliver();
        assert_arrived(&world, "far/app", "main", &head);
        let far = world.destination.repo("far/app").unwrap();
        for earlier in &commits {
            far.git(&["update-ref", "refs/heads/main", earlier]).unwrap();
            // What is behind it there is gone, too: a far side that never got it.
            far.git(&["reflog", "expire", "--expire=all", "--all"]).unwrap();
            far.prune().unwrap();
            world.s3().clear_requests();
            deliver();
            assert_arrived(&world, "far/app", "main", &head);
            let read = world.s3().requests().into_iter().filter(|request| request.is("GetObject"));
            let read: Vec<_> = read.map(|request| request.path).collect();
            assert!(!read.is_empty() && read.iter().all(|path| path.ends_with(".inc.age")), "{earlier}: {read:?}");
        }
        assert_far_is_clean(&world, "far/app");
    }
}

#[test]
fn a_rewritten_branch_crosses_whole_and_is_held_where_that_is_wanted() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    deliver(&world).succeeded();
    let before = source.head("main").unwrap();
    source.git(&["update-ref", "refs/heads/main", "main~1"]).unwrap();
    let other = source.commit("main", &[("other.txt", "another way\n")], "another").unwrap();
    let held = pass_with(&world, "ON_REWRITE", "hold").failed();
    held.logged("held");
    assert_eq!(sizes(&world).1.len(), 1, "what is published stays");
    let run = pass(&world).succeeded();
    run.logged("an increment cannot be made");
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0), "the whole history replaces everything");
    deliver_with(&world, "ON_REWRITE", "hold").failed();
    assert_arrived(&world, "far/app", "main", &before);
    deliver(&world).succeeded().logged("replaced: far/app@main");
    assert_arrived(&world, "far/app", "main", &other);
}

/// One that is made by somebody who knows the public key and can write to the bucket.
fn forge_increment(world: &World, by: &Repo, base: &str, commit: &str) {
    let manifest = format!(
        r#"{{"version":1,"group":"far","project_name":"app","branch":"main","commit_sha":"{commit}","base_sha":"{base}","published":"2026-11-23T02:56:25.258Z"}}"#
    );
    let object = documents::increment(world, by, base, commit, &manifest);
    world.bucket().unwrap().put(&increment_key("far/app", "main", base, commit), object).unwrap();
}

/// The first increment moves the branch forward; the next one is on top of it only by its name.
#[test]
fn increments_that_rewrite_the_branch_between_them_are_held_where_that_is_wanted() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    deliver(&world).succeeded();
    let before = source.head("main").unwrap();
    let child = source.commits("main", 1).unwrap();
    let unrelated = source.force_root("other", &[("other.txt", "of nobody\n")]).unwrap();
    forge_increment(&world, &source, &before, &child);
    forge_increment(&world, &source, &child, &unrelated);
    deliver_with(&world, "ON_REWRITE", "hold").failed().logged("held: far/app@main");
    assert_arrived(&world, "far/app", "main", &before);
}

#[test]
fn a_branch_that_is_set_back_crosses_whole() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    let first = source.head("main").unwrap();
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    deliver(&world).succeeded();
    source.git(&["update-ref", "refs/heads/main", &first]).unwrap();
    pass(&world).succeeded().logged("crosses whole: the branch was set back");
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0));
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &first);
}

#[test]
fn switching_there_and_back_leaves_no_gap() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    let run = pass_with(&world, "CROSSING", "whole").succeeded();
    run.logged("held as increments, and CROSSING is whole");
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0));
    source.commits("main", 1).unwrap();
    pass_with(&world, "CROSSING", "whole").succeeded();
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0));
    let head = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 1));
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &head);
}

/// app-sre's consumer would end its pass at one.
#[test]
fn increments_beside_tar_gz_are_warned_of_before_the_first_one() {
    let world = incremental().setting("ARCHIVE_FORMAT", "tar.gz").start().unwrap();
    let source = published(&world);
    const WARNING: &str = "app-sre's consumer does not know increments";
    let check = run(&world, &["check"]).succeeded();
    assert!(check.out.contains(WARNING), "{}", check.out);
    source.commits("main", 1).unwrap();
    let log = pass(&world).succeeded().log;
    assert!(log.find(WARNING).unwrap() < log.find("published far/app@main").unwrap(), "{log}");
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &source.head("main").unwrap());
}

#[test]
fn a_chain_is_restored_as_one_repository() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    let head = source.commits("main", 2).unwrap();
    pass(&world).succeeded();
    let head = source.commits("main", 1).map(|next| [head, next]).unwrap()[1].clone();
    pass(&world).succeeded();
    let into = world.scratch().unwrap().join("restored");
    let identity = world.identity_file().to_str().unwrap();
    let restored = run(&world, &["restore", "-identity", identity, "-into", into.to_str().unwrap()]).succeeded();
    assert!(restored.out.contains("2 increments") && restored.out.contains("1 good, 0 bad"), "{}", restored.out);
    let repository = into.join("far/app@main");
    assert_eq!(judge::git_commit(&repository, "main").unwrap(), head);
    judge::git_fsck(&repository).unwrap();
    assert_eq!(judge::object_names(&repository, &head).unwrap(), judge::object_names(source.path(), "main").unwrap());
}

#[test]
fn without_a_kept_repository_an_increment_is_made_all_the_same() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    for _ in 0..2 {
        let head = source.commits("main", 1).unwrap();
        fs::remove_dir_all(world.workdir()).unwrap();
        pass(&world).succeeded().logged("crosses as an increment on");
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &head);
    }
    assert_eq!(sizes(&world).1.len(), 2);
}

#[test]
fn two_destinations_of_one_branch_each_have_a_chain_of_their_own() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    world.sync("near/app", "main", "far/copy", "main").unwrap();
    pass(&world).succeeded();
    let head = source.commits("main", 2).unwrap();
    pass(&world).succeeded();
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (2, 3));
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &head);
    assert_arrived(&world, "far/copy", "main", &head);
}

#[test]
fn a_preview_says_what_crosses_how() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    source.commits("main", 1).unwrap();
    let before: BTreeSet<_> = world.bucket().unwrap().keys().unwrap().into_iter().collect();
    let text = run(&world, &["-dry-run", "-run-once"]).succeeded();
    assert!(text.out.contains("the source branch has a new commit, crosses as an increment on"), "{}", text.out);
    // Only the fetch can tell.
    assert!(text.out.contains(" (whole if the fetch shows a rewritten history)\n"), "{}", text.out);
    let text = run(&world, &["-dry-run", "-run-once", "-on-rewrite=hold"]).succeeded();
    assert!(text.out.contains(" (held back if the fetch shows a rewritten history)\n"), "{}", text.out);
    let text = run(&world, &["-dry-run", "-run-once", "-crossing=whole"]).succeeded();
    assert!(!text.out.contains("rewritten"), "{}", text.out);
    let plan = run(&world, &["-dry-run", "-run-once", "-output=json"]).succeeded().json();
    assert_eq!(plan["publish"][0]["crossing"], "incremental");
    assert!(plan["publish"][0]["key"].as_str().unwrap().ends_with(".inc.age"));
    assert_eq!(world.bucket().unwrap().keys().unwrap().into_iter().collect::<BTreeSet<_>>(), before);
}

#[test]
fn an_increment_that_is_lost_is_replaced_and_a_lost_whole_too() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    for _ in 0..3 {
        source.commits("main", 1).unwrap();
        pass(&world).succeeded();
    }
    let bucket = world.bucket().unwrap();
    let delete = |suffix: &str| {
        let key = bucket.keys().unwrap().into_iter().find(|key| key.ends_with(suffix)).unwrap();
        bucket.delete(&key).unwrap();
    };
    for suffix in [".inc.age", ".zip.age"] {
        delete(suffix);
        pass(&world).succeeded();
        let head = source.head("main").unwrap();
        let far = world.destination.repo("far/app");
        if let Ok(far) = far {
            fs::remove_dir_all(far.path()).unwrap();
        }
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &head);
        source.commits("main", 1).unwrap();
        pass(&world).succeeded();
    }
}

/// The commands of docs/contract.md, on what the program has made.
#[test]
fn somebody_with_age_and_git_can_apply_one_by_hand() {
    let world = incremental().start().unwrap();
    let source = published(&world);
    let base = source.head("main").unwrap();
    let head = source.commits("main", 2).unwrap();
    pass(&world).succeeded();
    let bucket = world.bucket().unwrap();
    let keys = bucket.keys().unwrap();
    let whole = keys.iter().find(|key| key.ends_with(".zip.age")).unwrap();
    let increment = keys.iter().find(|key| key.ends_with(".inc.age")).unwrap();
    let repository = world.unpack(whole).unwrap();
    let scratch = world.scratch().unwrap();
    let (sealed, zip) = (scratch.join("object.age"), scratch.join("object"));
    fs::write(&sealed, bucket.get(increment).unwrap()).unwrap();
    judge::age_decrypt_file(&sealed, &zip, world.identity_file()).unwrap();
    assert_eq!(judge::zip_list(&zip).unwrap(), ["manifest.json", "increment.bundle"]);
    let unzipped = Command::new("unzip").args(["-q", "object"]).current_dir(&scratch).status().unwrap();
    assert!(unzipped.success());
    let manifest = fs::read_to_string(scratch.join("manifest.json")).unwrap();
    let expected = format!(
        r#"{{"version":1,"group":"far","project_name":"app","branch":"main","commit_sha":"{head}","base_sha":"{base}","published":""#
    );
    assert!(manifest.starts_with(&expected), "{manifest}");
    let bundle = scratch.join("increment.bundle");
    let git = |arguments: &[&str]| {
        let done = Command::new("git").arg("-C").arg(Path::new(&repository)).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let bundle = bundle.to_str().unwrap();
    git(&["bundle", "verify", bundle]);
    git(&["fetch", "--update-head-ok", bundle, "+refs/heads/main:refs/heads/main"]);
    git(&["fsck", "--strict", "--full"]);
    assert_eq!(judge::git_commit(&repository, "main").unwrap(), head);
}

/// Servers may send more than they are asked for: objects that deltas lean on, and all that the client has.
#[test]
fn a_server_that_knows_no_thin_packs_or_heeds_no_have_serves_increments_all_the_same() {
    for (ignored, what_is_left) in [("000ethin-pack\n", "have"), ("0032have ", "thin-pack")] {
        let world = incremental().start().unwrap();
        let source = published(&world);
        deliver(&world).succeeded();
        let proxy = Proxy::start(&world.source.url()).unwrap();
        let length = if what_is_left == "have" { ignored.len() } else { 0x32 };
        let without = move |mut request: Vec<u8>| {
            let at = memmem::find(&request, ignored.as_bytes()).expect("the client asks for it");
            drop(request.drain(at..at + length));
            request
        };
        proxy.on(|seen| seen.operation() == "fetch", ALWAYS, Fault::alter_request(without));
        for n in 1..=3 {
            let head = source.commits("main", 1).unwrap();
            pass_with(&world, "GITLAB_BASE_URL", &proxy.url()).succeeded().logged("crosses as an increment on");
            assert_eq!(proxy.hits(), n, "{what_is_left} is left of the request");
            let (wholes, increments) = sizes(&world);
            assert_eq!((wholes.len(), increments.len()), (1, n));
            assert!(increments.iter().all(|bytes| *bytes < 8_000), "{increments:?}");
            deliver(&world).succeeded();
            assert_arrived(&world, "far/app", "main", &head);
        }
    }
}

#[test]
fn a_base_that_the_source_does_not_have_any_more_is_replaced_by_the_whole_history() {
    // With the kept repository, and without it.
    for is_kept in [true, false] {
        let world = incremental().start().unwrap();
        let source = published(&world);
        let old = source.commits("main", 1).unwrap();
        pass(&world).succeeded();
        deliver(&world).succeeded();
        source.force_root("main", &[("new.txt", "a new beginning\n")]).unwrap();
        source.fill_incompressible(1, 8).unwrap();
        let head = source.head("main").unwrap();
        source.git(&["reflog", "expire", "--expire=all", "--all"]).unwrap();
        source.prune().unwrap();
        assert!(source.git(&["cat-file", "-e", &old]).is_err(), "the base is gone");
        if !is_kept {
            fs::remove_dir_all(world.workdir()).unwrap();
        }
        pass(&world).succeeded().logged("an increment cannot be made, so the whole history crosses");
        assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0));
        deliver(&world).succeeded().logged("replaced: far/app@main");
        assert_arrived(&world, "far/app", "main", &head);
        let next = source.commits("main", 1).unwrap();
        pass(&world).succeeded();
        assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 1), "increments go on from there");
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &next);
    }
}

/// What Git itself sends to somebody who has `base`, in bytes.
fn thin_pack_bytes(repo: &Repo, base: &str) -> u64 {
    let scratch = tempfile::tempdir().unwrap();
    let range = scratch.path().join("range");
    fs::write(&range, format!("main\n^{base}\n")).unwrap();
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(repo.path()).args([
        "pack-objects",
        "--revs",
        "--thin",
        "--delta-base-offset",
        "-q",
        "--stdout",
    ]);
    let packed = git.stdin(fs::File::open(range).unwrap()).output().unwrap();
    assert!(packed.status.success());
    packed.stdout.len() as u64
}

#[test]
fn an_increment_that_takes_in_earlier_ones_is_as_short_as_git_makes_it() {
    let world = incremental().setting("MAX_INCREMENTS", "1").start().unwrap();
    let source = published(&world);
    let base = source.head("main").unwrap();
    for _ in 0..25 {
        source.commits("main", 1).unwrap();
        pass(&world).succeeded();
    }
    let (increments, git) = (sizes(&world).1, thin_pack_bytes(&source, &base));
    // Beside its pack, an object has less than this.
    const FRAME_BYTES: u64 = 1_000;
    assert!(increments.len() == 1 && increments[0] <= git * 105 / 100 + FRAME_BYTES, "{increments:?}, Git's: {git}");
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &source.head("main").unwrap());
    assert_far_is_clean(&world, "far/app");
}

/// Whatever becomes of that question, what the mirror holds is enough.
#[test]
fn a_source_that_does_not_pack_a_longer_increment_costs_nothing_but_bytes() {
    let world = incremental().setting("MAX_INCREMENTS", "1").setting("IDLE_TIMEOUT", "1s").start().unwrap();
    let source = published(&world);
    deliver(&world).succeeded();
    let base = source.head("main").unwrap();
    source.commits("main", 40).unwrap();
    pass(&world).succeeded();
    let near = Proxy::start(&world.source.url()).unwrap();
    let without = |word: &'static str| {
        Fault::alter_request(move |body| {
            let lines = packet_lines(&body).into_iter().filter(|line| !line[4..].starts_with(word.as_bytes()));
            lines.collect::<Vec<_>>().concat()
        })
    };
    let faults = [
        Fault::status(503),
        Fault::Reset(Moment::Unanswered),
        Fault::Reset(Moment::Within(At::PacketLine)),
        Fault::Hold(Moment::Within(At::Half)),
        without("have"),
        without("thin-pack"),
    ];
    for (fault, hits) in faults.into_iter().zip(1..) {
        let (shown, asked) = (format!("{fault:?}"), format!("have {base}"));
        near.forget();
        near.on(move |seen| String::from_utf8_lossy(&seen.body).contains(&asked), 1, fault);
        let head = source.commits("main", 1).unwrap();
        pass_with(&world, "GITLAB_BASE_URL", &near.url()).succeeded();
        assert_eq!(near.hits(), hits, "{shown}");
        let (wholes, increments) = sizes(&world);
        assert!(wholes.len() == 1 && increments.len() == 1 && increments[0] < 15_000, "{shown}: {increments:?}");
        let packs = files_below(&world.workdir()).into_iter().filter(|file| file.extension() == Some("pack".as_ref()));
        assert_eq!(packs.count(), 1 + hits + 1, "{shown}: one for each pass");
        let far = world.destination.repo("far/app").unwrap();
        far.git(&["update-ref", "refs/heads/main", &base]).unwrap();
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &head);
    }
    near.clear();
    assert_far_is_clean(&world, "far/app");
}

/// The lines of a request in Git's protocol, each with its length before it.
fn packet_lines(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![];
    while let Some(length) = body.get(..4) {
        let length = usize::from_str_radix(std::str::from_utf8(length).unwrap(), 16).unwrap();
        let (line, rest) = body.split_at(length.max(4));
        lines.push(line.to_vec());
        body = rest;
    }
    lines
}

/// Many large files that are alike: one commit changes each, and what its deltas are based on is larger than all of it packed.
#[test]
fn an_increment_that_is_too_large_to_keep_crosses_whole() {
    let world = incremental().setting("MAX_REPOSITORY_BYTES", "2Mi").start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    let names: Vec<_> = (0..12).map(|n| format!("dir-{n}/file.bin")).collect();
    let content = |seed: u64, bytes: usize| {
        let mut content = vec![0; bytes];
        fastrand::Rng::with_seed(seed).fill(&mut content);
        content
    };
    let files = |change: u64| {
        let own = |n: u64| [content(1, 300 << 10), content(2 + n, 2_000), content(100 + change, 10)].concat();
        names.iter().zip(0..).map(|(name, n)| (name.as_str(), own(n))).collect::<Vec<_>>()
    };
    source.commit("main", &files(0), "all alike").unwrap();
    // So that the server sends them as deltas on each other. With a bitmap, it would not send a thin pack later.
    source.git(&["-c", "repack.writeBitmaps=false", "repack", "-a", "-d", "-f", "-q"]).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    assert!(sizes(&world).0[0] < 1 << 20);
    let head = source.commit("main", &files(1), "all changed").unwrap();
    let run = pass(&world).succeeded();
    run.logged("a new commit, crosses whole").logged("an increment cannot be made").logged("MAX_REPOSITORY_BYTES");
    assert_eq!((sizes(&world).0.len(), sizes(&world).1.len()), (1, 0));
    deliver(&world).succeeded();
    assert_arrived(&world, "far/app", "main", &head);
}

/// Each increment is a push of its own. One that is answered 503 is sent again, and those before it are not.
#[test]
fn a_chain_goes_on_at_the_push_that_failed() {
    for is_new in [true, false] {
        let world = incremental().start().unwrap();
        let source = published(&world);
        if !is_new {
            deliver(&world).succeeded();
        }
        for _ in 0..2 {
            source.commits("main", 1).unwrap();
            pass(&world).succeeded();
        }
        let proxy = Proxy::start(&world.destination.url()).unwrap();
        proxy.on_later(1, |seen| seen.operation() == "receive-pack", 1, Fault::status(503));
        world.destination.clear_requests();
        let run = deliver_with(&world, "GITLAB_BASE_URL", &proxy.url()).succeeded();
        run.logged("delivered far/app@main");
        assert_eq!(proxy.hits(), 1);
        assert_eq!(pushes(&world, "far/app").len(), if is_new { 3 } else { 2 });
        assert_arrived(&world, "far/app", "main", &source.head("main").unwrap());
    }
}
