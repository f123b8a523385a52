//! Both archive formats, judged by programs that are not ours, and the choice between them.

use std::fs;
use std::path::{Path, PathBuf};

use testbed::judge;
use testbed::world::{World, WorldBuilder};

use crate::support::{assert_holds, go_key, keys, operations, pass, pass_with, tar_key, zip_key};

const FORMATS: [&str; 2] = ["zip", "tar.gz"];

fn key_in(format: &str, destination: &str, branch: &str, commit: &str) -> String {
    match format {
        "zip" => zip_key(destination, branch, commit),
        _ => tar_key(destination, branch, commit),
    }
}

fn in_format(format: &str) -> WorldBuilder {
    World::builder().setting("ARCHIVE_FORMAT", format)
}

/// Decrypts the only object with Debian's age into a file.
fn decrypted(world: &World, identity: &Path) -> PathBuf {
    let archive = world.scratch().unwrap().join("archive");
    let bytes = world.bucket().unwrap().get(&keys(world)[0]).unwrap();
    fs::write(&archive, judge::age_decrypt(&bytes, identity).unwrap()).unwrap();
    archive
}

fn listed(format: &str, archive: &Path) -> Vec<String> {
    if format == "zip" { judge::zip_list(archive) } else { judge::tar_list(archive) }.unwrap()
}

#[test]
fn either_format_reaches_the_far_sides_branches() {
    for format in FORMATS {
        let world = in_format(format).start().unwrap();
        let source = world.project("near/app").unwrap();
        source.commits("feature/x", 2).unwrap();
        let pairs = [
            ("main", "far/same", "main"),
            ("main", "far/other", "production"),
            ("feature/x", "far/slashes", "rel/1"),
            ("feature/x", "far/sub/group/app", "rel"),
        ];
        let destinations: Vec<_> = pairs
            .iter()
            .map(|(branch, destination, to)| world.sync("near/app", branch, destination, to).unwrap())
            .collect();
        pass(&world).succeeded();
        let delivered = world.consumer().unwrap().pass().unwrap();
        assert_eq!(delivered.len(), pairs.len());
        assert!(delivered.iter().all(|object| object.pushed == object.commit), "{delivered:#?}");
        for ((branch, path, to), destination) in pairs.iter().zip(&destinations) {
            let head = source.head(branch).unwrap();
            assert!(keys(&world).contains(&key_in(format, path, to, &head)));
            assert_eq!(
                destination.refs().unwrap().into_iter().collect::<Vec<_>>(),
                [(format!("refs/heads/{to}"), head)]
            );
            destination.fsck().unwrap();
        }
    }
}

#[test]
fn far_side_follows_new_commits_and_rewritten_branches() {
    for format in FORMATS {
        let world = in_format(format).start().unwrap();
        let source = world.project("near/app").unwrap();
        let destination = world.sync("near/app", "main", "far/app", "main").unwrap();
        let mut far_side = world.consumer().unwrap();
        for change in 0..3 {
            match change {
                0 => {}
                1 => drop(source.commits("main", 2).unwrap()),
                _ => drop(source.force_root("main", &[("new.txt", "new\n")]).unwrap()),
            }
            pass(&world).succeeded();
            assert_eq!(far_side.pass().unwrap().len(), 1);
            assert_eq!(destination.head("main"), source.head("main"), "{format}, change {change}");
        }
    }
}

#[test]
fn outside_programs_read_either_format() {
    for format in FORMATS {
        let world = in_format(format).start().unwrap();
        let source = world.project("near/app").unwrap();
        world.sync("near/app", "main", "far/app", "rel/1").unwrap();
        pass(&world).succeeded();
        // Increments make for several packs in one archive.
        source.commits("main", 1).unwrap();
        pass(&world).succeeded();

        let archive = decrypted(&world, world.identity_file());
        if format == "zip" {
            judge::unzip_test(&archive).unwrap();
            judge::python_zip_test(&archive).unwrap();
        }
        let names = listed(format, &archive);
        assert!(names.iter().all(|name| name == ".git/" || name.starts_with(".git/")), "{names:#?}");
        for name in [".git/HEAD", ".git/config", ".git/refs/heads/rel/1"] {
            assert!(names.iter().any(|found| found == name), "{name} in {names:#?}");
        }
        assert_eq!(names.iter().filter(|name| name.ends_with(".pack")).count(), 2, "{names:#?}");
        let content = world.unpack(&keys(&world)[0]).unwrap();
        let config = fs::read_to_string(content.join(".git/config")).unwrap();
        assert_eq!(config, "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n");
        assert_holds(&world, &keys(&world)[0], &source, &source.head("main").unwrap(), "rel/1");
    }
}

#[test]
fn archives_hold_neither_secrets_nor_addresses() {
    for format in FORMATS {
        let world = in_format(format).start().unwrap();
        world.project("near/app").unwrap();
        world.sync("near/app", "main", "far/app", "main").unwrap();
        pass(&world).succeeded();
        let archive = fs::read(decrypted(&world, world.identity_file())).unwrap();
        let mut telling = world.secrets();
        telling.extend([world.source.url(), world.source.user().to_owned(), "127.0.0.1".to_owned()]);
        for text in telling {
            let found = archive.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{text} is in the archive ({format})");
        }
        let content = world.unpack(&keys(&world)[0]).unwrap();
        let entries: Vec<_> = fs::read_dir(content).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(entries, [".git"]);
    }
}

#[test]
fn each_of_several_recipients_can_decrypt_and_nobody_else() {
    let world = World::builder().recipients(3).start().unwrap();
    let stranger = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    for identity in world.identity_files() {
        let content = world.scratch().unwrap().join(identity.file_name().unwrap());
        judge::unpack(&decrypted(&world, identity), &content).unwrap();
        assert_eq!(judge::git_commit(&content, "HEAD").ok(), source.head("main"));
    }
    let object = world.bucket().unwrap().get(&keys(&world)[0]).unwrap();
    judge::age_decrypt(&object, stranger.identity_file()).unwrap_err();
}

#[test]
fn same_commit_archived_twice_is_the_same_plaintext_and_another_ciphertext() {
    for format in FORMATS {
        let world = in_format(format).setting("MIRROR_CACHE_BYTES", "0").start().unwrap();
        let source = world.source.repo("near/app").unwrap();
        source.commit("main", &[("a.txt", "a\n"), ("b/c.txt", "c\n")], "The only one").unwrap();
        world.sync("near/app", "main", "far/app", "main").unwrap();
        let mut archives = vec![];
        for _ in 0..2 {
            pass(&world).succeeded();
            let plaintext = fs::read(decrypted(&world, world.identity_file())).unwrap();
            archives.push((world.s3().get(&keys(&world)[0]).unwrap().unwrap(), plaintext));
            world.s3().delete(&keys(&world)[0]);
            // Or it would be missed.
            fs::remove_dir_all(world.workdir()).unwrap();
        }
        assert_eq!(archives[0].1, archives[1].1, "{format}");
        assert_ne!(archives[0].0, archives[1].0, "{format}");
    }
}

#[test]
fn auto_takes_zip_for_an_empty_bucket() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    world.s3().put("README.tar.age", "foreign names have no say");
    pass(&world).succeeded();
    assert!(keys(&world).contains(&zip_key("far/app", "main", &source.head("main").unwrap())));
}

#[test]
fn auto_keeps_to_the_format_of_the_bucket() {
    for format in FORMATS {
        let world = World::start().unwrap();
        let one = world.project("near/one").unwrap();
        let two = world.project("near/two").unwrap();
        world.sync("near/one", "main", "far/one", "main").unwrap();
        pass_with(&world, "ARCHIVE_FORMAT", format).succeeded();
        world.sync("near/two", "main", "far/two", "main").unwrap();
        let head = one.commits("main", 1).unwrap();
        pass(&world).succeeded().logged("published=2");
        let mut expected =
            [key_in(format, "far/one", "main", &head), key_in(format, "far/two", "main", &two.head("main").unwrap())];
        expected.sort();
        assert_eq!(keys(&world), expected);
        pass(&world).succeeded().logged("unchanged=2");
    }
}

#[test]
fn auto_refuses_a_bucket_with_both_formats_and_changes_nothing() {
    let world = World::start().unwrap();
    for name in ["one", "two"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let old = "2222222222222222222222222222222222222222";
    world.s3().put(&zip_key("far/one", "main", old), "zip");
    world.s3().put(&tar_key("far/gone", "main", old), "tar");
    let before = world.s3().objects();
    let run = pass(&world).failed();
    for word in ["ARCHIVE_FORMAT", "zip", "tar.gz"] {
        assert!(run.log.contains(word), "{}", run.log);
    }
    assert_eq!(world.s3().objects(), before);
    assert_eq!(operations(&world.source.requests()), ["ls-refs", "ls-refs"]);

    // Choosing is the way out.
    pass_with(&world, "ARCHIVE_FORMAT", "tar.gz").succeeded();
    assert!(keys(&world).iter().all(|key| key.ends_with(".tar.age")));
    pass(&world).succeeded().logged("unchanged=2");
}

#[test]
fn choosing_the_other_format_publishes_again_and_removes_the_old() {
    for (from, to) in [("zip", "tar.gz"), ("tar.gz", "zip")] {
        let world = World::start().unwrap();
        let source = world.project("near/app").unwrap();
        let destination = world.sync("near/app", "main", "far/app", "trunk").unwrap();
        let head = source.head("main").unwrap();
        pass_with(&world, "ARCHIVE_FORMAT", from).succeeded();
        assert_eq!(keys(&world), [key_in(from, "far/app", "trunk", &head)]);

        world.source.clear_requests();
        pass_with(&world, "ARCHIVE_FORMAT", to).succeeded().logged(&format!("held in the format {from}"));
        let key = key_in(to, "far/app", "trunk", &head);
        assert_eq!(keys(&world), [&*key]);
        assert_holds(&world, &key, &source, &head, "trunk");
        assert_eq!(operations(&world.source.requests()), ["ls-refs"], "the kept repository serves");
        world.consumer().unwrap().pass().unwrap();
        assert_eq!(destination.head("trunk"), Some(head));
    }
}

#[test]
fn object_of_the_go_program_that_its_consumer_cannot_push_is_published_again() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let destination = world.sync("near/app", "main", "far/app", "production").unwrap();
    let head = source.head("main").unwrap();
    world.s3().put(&go_key("far/app", "main", "production", &head), "by the Go program");
    pass(&world).succeeded().logged("held under an outdated object name");
    let key = tar_key("far/app", "production", &head);
    assert_eq!(keys(&world), [&*key]);
    assert_holds(&world, &key, &source, &head, "production");
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head("production"), Some(head));
}

#[test]
fn object_of_the_go_program_that_its_consumer_can_push_is_current() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let key = go_key("far/app", "main", "main", &source.head("main").unwrap());
    world.s3().put(&key, "by the Go program");
    pass(&world).succeeded().logged("unchanged=1");
    assert_eq!(world.s3().get(&key).unwrap().as_deref(), Some(&b"by the Go program"[..]));
    assert_eq!(operations(&world.source.requests()), ["ls-refs"]);
}

#[test]
fn object_of_the_go_program_is_superseded_by_a_new_commit() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "production").unwrap();
    world.s3().put(&go_key("far/app", "main", "production", &source.head("main").unwrap()), "by the Go program");
    let head = source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    assert_eq!(keys(&world), [tar_key("far/app", "production", &head)]);
}

#[test]
fn names_that_go_escapes_have_the_same_key_as_the_go_program_gives() {
    let world = in_format("tar.gz").start().unwrap();
    let source = world.project("near/app").unwrap();
    source.branch_from("a&b<c>", "main").unwrap();
    let destination = world.sync("near/app", "a&b<c>", "far/app", "a&b<c>").unwrap();
    pass(&world).succeeded();
    let head = source.head("main").unwrap();
    assert_eq!(keys(&world), [tar_key("far/app", r"a\u0026b\u003cc\u003e", &head)]);
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head("a&b<c>"), Some(head));
}
