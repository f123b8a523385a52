//! Which objects of the bucket the consumer takes, and what it makes of the others.

use std::time::{Duration, SystemTime};

use testbed::archive::{self, GoLayout, Naming, Packs};
use testbed::judge;
use testbed::mutate::mutated;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{
    assert_arrived, assert_far_is_clean, assert_pushes_were_ended, count, deliver, deliver_with, delivering,
    files_below, pushes, put, waiting,
};

/// When the nth object of a key was written. What is remembered of an object holds for this second.
fn written(n: usize) -> SystemTime {
    SystemTime::now() + Duration::from_secs(10 * n as u64)
}

#[test]
fn objects_of_either_go_program_arrive() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.branch_from("side", "main").unwrap();
    for (project, naming) in [("first", Naming::FirstGo), ("second", Naming::Go("main"))] {
        let destination = format!("far/{project}");
        for _ in 0..2 {
            // Once as a first crossing, and once to a branch that exists.
            let head = source.commits("main", 1).unwrap();
            world.put_head(&source, "main", &destination, "production", naming).unwrap();
            deliver(&world).succeeded();
            assert_arrived(&world, &destination, "production", &head);
        }
        let refs = world.destination.repo(&destination).unwrap().refs().unwrap();
        assert_eq!(refs.keys().collect::<Vec<_>>(), ["refs/heads/production"]);
    }
    for layout in [GoLayout::Files, GoLayout::Folders] {
        // The name decides, not the layout.
        let archive = archive::go_tar_gz(&source, layout).unwrap();
        let (head, branch) = (source.head("main").unwrap(), format!("{layout:?}"));
        world.put_object("far/first", &branch, &head, Naming::Tar, &archive).unwrap();
        deliver(&world).succeeded();
        assert_arrived(&world, "far/first", &branch, &head);
    }
}

#[test]
fn archives_that_cannot_be_streamed_arrive_by_way_of_the_disk() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    let mut n = 0;
    for packs in [Packs::Several(3), Packs::Loose, Packs::Mixed] {
        // The contract's zip holds packs.
        let formats: &[Naming<'_>] =
            if matches!(packs, Packs::Several(_)) { &[Naming::Zip, Naming::Tar] } else { &[Naming::Tar] };
        for naming in formats {
            n += 1;
            let destination = format!("far/p{n}");
            for _ in 0..2 {
                let head = source.commits("main", 1).unwrap();
                let make = if *naming == Naming::Zip { archive::zip } else { archive::tar_gz };
                let archive = make(&source, &head, "main", packs).unwrap();
                world.put_object(&destination, "main", &head, *naming, &archive).unwrap();
                deliver(&world).succeeded();
                assert_arrived(&world, &destination, "main", &head);
                assert_eq!(
                    judge::object_names(world.destination.repo(&destination).unwrap().path(), "main").unwrap(),
                    judge::object_names(source.path(), "main").unwrap()
                );
            }
        }
    }
    let packs = files_below(&world.consumer_workdir()).into_iter();
    assert_eq!(
        packs.filter(|file| file.extension().is_some()).filter(|file| !file.ends_with("refusals.json")).count(),
        0
    );
}

#[test]
fn a_bucket_of_more_than_a_page_is_read_to_its_end() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    let branches: Vec<String> = (0..1_200).map(|n| format!("b/{n:04}")).collect();
    // The far side has them all, and what they need.
    let far = world.destination.repo("far/app").unwrap();
    far.git(&["fetch", "-q", &source.path().to_string_lossy(), "main:refs/heads/b/0000"]).unwrap();
    let packed: String = branches.iter().map(|branch| format!("{head} refs/heads/{branch}\n")).collect();
    std::fs::write(far.path().join("packed-refs"), format!("# pack-refs with: peeled fully-peeled sorted \n{packed}"))
        .unwrap();
    for branch in &branches {
        let key = archive::key("far/app", branch, &head, Naming::Zip).unwrap();
        world.s3().put(&key, "not to be read");
    }
    // All but the last one of the listing.
    let last = world.s3().keys().pop().unwrap();
    let name = testbed::consumer::ObjectName::parse(&last).unwrap();
    let object = archive::zip(&source, &head, &name.remote_branch, Packs::One).unwrap();
    world.put_object("far/app", &name.remote_branch, &head, Naming::Zip, &object).unwrap();
    far.delete_branch(&name.remote_branch).unwrap();

    deliver(&world).succeeded().logged("delivered=1").logged("unchanged=1199");
    assert_arrived(&world, "far/app", &name.remote_branch, &head);
    assert_eq!(count(&world.s3().requests(), "ListObjectsV2"), 2);
    assert_eq!(count(&world.destination.requests(), "receive-heads"), 1, "one for all branches");
}

#[test]
fn objects_for_different_recipients_need_their_identities() {
    for all in [true, false] {
        let builder = World::builder().recipients(3);
        let world = if all { builder.identities_in_file() } else { builder }.start().unwrap();
        world.destination.group("far").unwrap();
        let source = world.project("near/app").unwrap();
        let head = source.head("main").unwrap();
        let archive = archive::zip(&source, &head, "main", Packs::One).unwrap();
        let recipients = world.recipients();
        for (n, recipient) in recipients.iter().enumerate() {
            let destination = format!("far/p{n}");
            world.put_object_for(&[recipient], &destination, "main", &head, Naming::Zip, &archive).unwrap();
        }
        world.put_object_for(&recipients[..2], "far/both", "main", &head, Naming::Zip, &archive).unwrap();
        let run = deliver(&world);
        assert_arrived(&world, "far/p0", "main", &head);
        assert_arrived(&world, "far/both", "main", &head);
        if all {
            run.succeeded();
            assert_arrived(&world, "far/p1", "main", &head);
            assert_arrived(&world, "far/p2", "main", &head);
            continue;
        }
        let run = run.failed().logged("delivered=2");
        for name in ["far/p1@main", "far/p2@main"] {
            assert!(run.lines_with(&format!("failed: {name}")).len() == 1, "{}", run.log);
        }
        // With all identities, what was left is tried at once.
        let identities = std::fs::read_to_string(world.identities_file()).unwrap();
        deliver_with(&world, "PRIVATE_KEY", &identities).succeeded().logged("delivered=2");
    }
}

#[test]
fn an_identity_that_comes_into_the_file_opens_at_once_what_was_refused() {
    let world = World::builder().recipients(2).identities_in_file().start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    let archive = archive::zip(&source, &head, "main", Packs::One).unwrap();
    world.put_object_for(&world.recipients()[1..], "far/app", "main", &head, Naming::Zip, &archive).unwrap();
    let all = std::fs::read_to_string(world.identities_file()).unwrap();
    std::fs::write(world.identities_file(), all.lines().next().unwrap()).unwrap();
    let daemon = delivering(&world);
    daemon.wait_until_logged("failed: far/app@main", 1);
    daemon.wait_until_logged("blocked: far/app@main", 1);
    std::fs::write(world.identities_file(), all).unwrap();
    daemon.wait_until_logged("delivered far/app@main", 1);
    daemon.stop().succeeded();
    assert_arrived(&world, "far/app", "main", &head);
}

#[test]
fn foreign_objects_are_counted_and_left_alone() {
    let (world, _, head) = waiting();
    let increment = archive::key("far/app", "main", &head, Naming::Zip).unwrap().replace(".zip.", ".inc.");
    for key in ["notes.txt", "a folder/", "not base64.tar.age", "e30=.zip.age", &increment] {
        world.s3().put(key, "foreign");
    }
    let before = world.s3().keys();
    let run = deliver(&world).succeeded().logged("foreign=5").logged("which are left alone");
    assert_arrived(&world, "far/app", "main", &head);
    assert_eq!(world.s3().keys(), before, "{}", run.log);
    assert_eq!(count(&world.s3().requests(), "GetObject"), 1);
}

#[test]
fn an_object_that_holds_another_commit_or_branch_than_its_name_says_is_not_taken() {
    for packs in [Packs::One, Packs::Several(2)] {
        let (world, source, head) = waiting();
        deliver(&world).succeeded();
        let next = source.commits("main", 1).unwrap();
        // As a first crossing, and to a branch that exists.
        for destination in ["far/new", "far/app"] {
            let before = world.far_head(destination, "main");
            for (naming, make) in [(Naming::Zip, archive::zip as fn(_, _, _, _) -> _), (Naming::Tar, archive::tar_gz)] {
                let other: Vec<u8> = make(&source, &head, "main", packs).unwrap();
                let elsewhere: Vec<u8> = make(&source, &next, "elsewhere", packs).unwrap();
                let mut wrong = vec![(next.clone(), other)];
                if naming == Naming::Zip {
                    // In tar.gz the branch may have the source's name.
                    wrong.push((next.clone(), elsewhere));
                }
                for (n, (commit, archive)) in wrong.into_iter().enumerate() {
                    let key = world.put_object(destination, "main", &commit, naming, &archive).unwrap();
                    world.s3().set_last_modified(&key, written(n)).unwrap();
                    let run = deliver(&world).failed();
                    let lines = run.lines_with(&format!("failed: {destination}@main"));
                    assert!(lines.len() == 1, "{destination} {naming:?} {packs:?}: {}", run.log);
                    assert_eq!(world.far_head(destination, "main"), before, "{}", run.log);
                    if before.is_some() || world.destination.repo_path(destination).is_dir() {
                        assert_far_is_clean(&world, destination);
                    }
                    world.s3().delete(&key);
                }
            }
            assert_pushes_were_ended(&world, destination);
        }
        put(&world, "near/app", "far/app");
        deliver(&world).succeeded();
        assert_arrived(&world, "far/app", "main", &next);
    }
}

#[test]
fn of_several_objects_of_a_destination_the_newest_one_counts() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    let old = source.head("main").unwrap();
    let old_key = world.put_head(&source, "main", "far/app", "main", Naming::Tar).unwrap();
    let new = source.commits("main", 1).unwrap();
    let new_key = world.put_head(&source, "main", "far/app", "main", Naming::Zip).unwrap();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3_600);
    for (newest, other, commit) in [(&new_key, &old_key, &new), (&old_key, &new_key, &old)] {
        world.s3().set_last_modified(newest, now).unwrap();
        world.s3().set_last_modified(other, now - hour).unwrap();
        world.destination.clear_requests();
        for _ in 0..2 {
            deliver(&world).succeeded();
            assert_arrived(&world, "far/app", "main", commit);
        }
        assert_eq!(pushes(&world, "far/app").len(), 1);
    }
}

#[test]
fn what_is_no_longer_in_the_bucket_stays_on_the_far_side() {
    let (world, source, head) = waiting();
    world.put_head(&source, "main", "far/app", "other", Naming::Zip).unwrap();
    deliver(&world).succeeded();
    world.s3().delete(&archive::key("far/app", "main", &head, Naming::Zip).unwrap());
    world.destination.clear_requests();
    deliver(&world).succeeded().logged("unchanged=1");
    for key in world.s3().keys() {
        world.s3().delete(&key);
    }
    deliver(&world).succeeded();
    for branch in ["main", "other"] {
        assert_arrived(&world, "far/app", branch, &head);
    }
    assert_eq!(count(&world.destination.requests(), "receive-pack"), 0);
}

/// Damage of the archive before it was encrypted, and of the object after it.
#[test]
fn a_damaged_object_changes_nothing_and_is_named() {
    let (world, source, head) = waiting();
    deliver(&world).succeeded();
    let next = source.commits("main", 1).unwrap();
    let mut damaged: Vec<(String, Naming<'_>, Vec<u8>)> = vec![];
    for (format, naming) in [("zip", Naming::Zip), ("tar", Naming::Tar)] {
        let make = if naming == Naming::Zip { archive::zip } else { archive::tar_gz };
        let good = make(&source, &next, "main", Packs::One).unwrap();
        let encrypted = archive::encrypt(&good, &world.recipients()).unwrap();
        for at in [10, encrypted.len() / 3, encrypted.len() / 2, encrypted.len() - 10] {
            let mut flipped = encrypted.clone();
            flipped[at] ^= 1;
            damaged.push((format!("{format}: a bit at {at} of {}", encrypted.len()), naming, flipped));
        }
        for length in [0, 100, encrypted.len() / 2, encrypted.len() - 1] {
            damaged.push((format!("{format}: cut at {length}"), naming, encrypted[..length].to_vec()));
        }
        for seed in 0..12 {
            let mutant = mutated(&good, seed);
            if mutant != good {
                let object = archive::encrypt(&mutant, &world.recipients()).unwrap();
                damaged.push((format!("{format}: mutant {seed}"), naming, object));
            }
        }
    }
    for destination in ["far/new", "far/app"] {
        let before = world.far_head(destination, "main");
        for (n, (what, naming, object)) in damaged.iter().enumerate() {
            let key = archive::key(destination, "main", &next, *naming).unwrap();
            world.s3().put_at(&key, object.clone(), written(n));
            let run = deliver(&world);
            let now = world.far_head(destination, "main");
            if now != before {
                // A mutant may differ where nothing depends on it, and then it is what its name says.
                assert!(
                    what.contains("mutant") && now.as_deref() == Some(&*next),
                    "{destination}, {what}: {}",
                    run.log
                );
                assert_arrived(&world, destination, "main", &next);
                let far = world.destination.repo(destination).unwrap();
                match &before {
                    Some(before) => far.git(&["update-ref", "refs/heads/main", before]).unwrap(),
                    None => far.git(&["update-ref", "-d", "refs/heads/main"]).unwrap(),
                };
            } else {
                let run = run.failed();
                assert_eq!(run.lines_with(&format!("failed: {destination}@main")).len(), 1, "{what}: {}", run.log);
            }
            if world.destination.repo_path(destination).is_dir() {
                assert_far_is_clean(&world, destination);
            }
            world.s3().delete(&key);
        }
        assert_pushes_were_ended(&world, destination);
    }
    assert_arrived(&world, "far/app", "main", &head);
}

/// More of the pack is under way than the program holds, so the far side has begun to read it.
#[test]
fn damage_that_is_found_in_the_middle_of_a_push_ends_it_as_the_far_side_expects() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.source.repo("near/large").unwrap();
    source.fill_incompressible(5, 1).unwrap();
    let head = source.head("main").unwrap();
    for (naming, project) in [(Naming::Zip, "zip"), (Naming::Tar, "tar")] {
        let destination = format!("far/{project}");
        let make = if naming == Naming::Zip { archive::zip } else { archive::tar_gz };
        let good = make(&source, &head, "main", Packs::One).unwrap();
        let encrypted = archive::encrypt(&good, &world.recipients()).unwrap();
        let flipped = |mut bytes: Vec<u8>, at: usize| {
            bytes[at] ^= 1;
            bytes
        };
        let encrypt = |bytes: &[u8]| archive::encrypt(bytes, &world.recipients()).unwrap();
        let damaged = [
            flipped(encrypted.clone(), encrypted.len() / 2),
            flipped(encrypted.clone(), encrypted.len() - 10),
            encrypted[..encrypted.len() - 1].to_vec(),
            encrypt(&flipped(good.clone(), good.len() / 2)),
            encrypt(&good[..good.len() - 100]),
        ];
        let key = archive::key(&destination, "main", &head, naming).unwrap();
        for (n, object) in damaged.into_iter().enumerate() {
            world.s3().put_at(&key, object, written(n));
            let run = deliver(&world).failed();
            assert_eq!(pushes(&world, &destination).len(), n + 1, "{naming:?} {n}: {}", run.log);
            assert_pushes_were_ended(&world, &destination);
            assert_far_is_clean(&world, &destination);
            assert_eq!(world.far_head(&destination, "main"), None, "{naming:?} {n}: {}", run.log);
        }
        world.s3().put(&key, encrypted);
        deliver(&world).succeeded();
        assert_arrived(&world, &destination, "main", &head);
        world.s3().delete(&key);
    }
}

#[test]
fn odd_names_arrive_under_exactly_these_names() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    for (group, project, branch) in [
        ("grüppe/sub group", "name+plus & more", "größe/分支"),
        ("a/b/c", "with.dots", "feature/#1%20"),
        ("far", "quo\"te<>", "rel'ease"),
    ] {
        world.destination.group(group).unwrap();
        let destination = format!("{group}/{project}");
        world.put_head(&source, "main", &destination, branch, Naming::Zip).unwrap();
        deliver(&world).succeeded();
        assert_arrived(&world, &destination, branch, &head);
    }
}

#[test]
fn odd_histories_arrive_if_gitlab_takes_them() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = Repo::odd(world.source.repo_path("near/odd")).unwrap();
    for branch in ["main", "wörk/分支"] {
        world.put_head(&source, branch, "far/odd", branch, Naming::Zip).unwrap();
        deliver(&world).succeeded();
        assert_arrived(&world, "far/odd", branch, &source.head(branch).unwrap());
        // A commit that brings no new tree.
        let no_files: [(&str, &str); 0] = [];
        source.commit(branch, &no_files, "Nothing new").unwrap();
        world.put_head(&source, branch, "far/odd", branch, Naming::Tar).unwrap();
        deliver(&world).succeeded();
        assert_arrived(&world, "far/odd", branch, &source.head(branch).unwrap());
    }
}

#[test]
fn a_branch_among_very_many_others_is_found() {
    let (world, source, head) = waiting();
    let far = world.destination.repo("far/app").unwrap();
    far.git(&["fetch", "-q", &source.path().to_string_lossy(), "main:refs/heads/main"]).unwrap();
    let others: String = (0..30_000).map(|n| format!("{head} refs/heads/many/{n:05}\n")).collect();
    std::fs::write(far.path().join("packed-refs"), format!("# pack-refs with: peeled fully-peeled sorted \n{others}"))
        .unwrap();
    deliver(&world).succeeded().logged("unchanged=1");
    source.commits("main", 1).unwrap();
    let next = put(&world, "near/app", "far/app");
    deliver(&world).succeeded();
    assert_eq!(world.far_head("far/app", "main"), Some(next));
}
