//! `list` and `restore`: what the bucket holds, readable again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{Daemon, PATIENCE, Run, increment_key, keys, pass, program, run, tar_key, zip_key};

const OTHER_COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// Three objects of two projects, published.
struct Scene {
    world: World,
    app: Repo,
    tool: Repo,
}

fn scene(format: &str) -> Scene {
    let world = World::builder().setting("ARCHIVE_FORMAT", format).start().unwrap();
    let (app, tool) = (world.project("near/app").unwrap(), world.project("near/tool").unwrap());
    app.commits("next", 2).unwrap();
    world.sync("near/app", "main", "far/sub/app", "main").unwrap();
    world.sync("near/app", "next", "far/sub/app", "rel/1").unwrap();
    world.sync("near/tool", "main", "far/tool", "main").unwrap();
    pass(&world).succeeded();
    Scene { world, app, tool }
}

impl Scene {
    fn app_key(&self) -> String {
        zip_key("far/sub/app", "main", &self.app.head("main").unwrap())
    }

    /// `restore` with the right identity.
    fn restore(&self, arguments: &[&str]) -> Run {
        self.restore_with(self.world.identity_file(), arguments)
    }

    fn restore_with(&self, identity: &Path, arguments: &[&str]) -> Run {
        let mut command = program(&self.world, &["restore", "-identity", &identity.to_string_lossy()]);
        command.args(arguments).env("TMPDIR", self.temporary()).output().unwrap().into()
    }

    /// Where `restore` puts what it does not keep.
    fn temporary(&self) -> PathBuf {
        let folder = self.world.scratch().unwrap().join("tmp");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn folder(&self) -> String {
        self.world.scratch().unwrap().join("restored").to_string_lossy().into_owned()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(fs::read_dir(self.temporary()).unwrap().count(), 0);
    }
}

/// Without anything that only synchronising needs.
fn reader_only(mut command: Command) -> Run {
    for name in ["GITLAB_BASE_URL", "GITLAB_USERNAME", "GITLAB_TOKEN", "GRAPHQL_SERVER", "PUBLIC_KEY", "WORKDIR"] {
        command.env_remove(name);
    }
    command.env_remove("GRAPHQL_USERNAME").env_remove("GRAPHQL_PASSWORD").output().unwrap().into()
}

/// The line that holds all of these.
#[track_caller]
fn line<'a>(text: &'a str, words: &[&str]) -> &'a str {
    let holds_all = |line: &&str| words.iter().all(|word| line.contains(word));
    text.lines().find(holds_all).unwrap_or_else(|| panic!("no line with {words:?} in\n{text}"))
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn list_shows_each_destination_decoded_and_counts_the_foreign() {
    let scene = scene("zip");
    scene.world.s3().put("README.md", "foreign");
    scene.world.s3().put("x/y", "foreign");
    let list = reader_only(program(&scene.world, &["list"])).succeeded();
    let head = |repo: &Repo, branch: &str| repo.head(branch).unwrap()[..7].to_owned();
    line(&list.out, &["DESTINATION", "COMMIT", "FORMAT", "SIZE", "AGE"]);
    line(&list.out, &["far/sub/app@main", &head(&scene.app, "main"), "zip", "KiB"]);
    line(&list.out, &["far/sub/app@rel/1", &head(&scene.app, "next"), "zip", "KiB"]);
    line(&list.out, &["far/tool@main", &head(&scene.tool, "main"), "zip", "KiB"]);
    line(&list.out, &["3 destinations, 3 objects, ", "; 0 outdated, 2 foreign"]);
    assert_eq!(list.out.lines().count(), 5, "{}", list.out);
    let named = run(&scene.world, &["list", "-foreign"]).succeeded().out;
    assert_eq!(named.lines().skip(5).collect::<Vec<_>>(), ["foreign: README.md", "foreign: x/y"]);
}

#[test]
fn list_shows_a_destination_with_the_increments_behind_it() {
    let scene = scene("zip");
    let (base, tip) = (scene.tool.head("main").unwrap(), OTHER_COMMIT);
    let key = increment_key("far/tool", "main", &base, tip);
    scene.world.s3().put(&key, "what is new");
    let list = run(&scene.world, &["list", "far/tool"]).succeeded();
    line(&list.out, &["far/tool@main", &tip[..10], "zip +1"]);
    line(&list.out, &["1 destination, 2 objects, ", "; 0 outdated"]);
    let json = run(&scene.world, &["list", "-output=json", "far/tool"]).succeeded().json();
    let objects = json["objects"].as_array().unwrap();
    let increment = objects.iter().find(|object| object["key"] == key).unwrap();
    assert_eq!((&increment["format"], &increment["base"]), (&"increment".into(), &base.into()));
}

#[test]
fn list_takes_names_and_groups_an_order_and_dates() {
    let scene = scene("zip");
    scene.tool.fill_incompressible(1, 3).unwrap();
    pass(&scene.world).succeeded();
    scene.world.s3().put_at(&zip_key("far/tool", "main", OTHER_COMMIT), "outdated", std::time::SystemTime::UNIX_EPOCH);
    let list = |words: &[&str]| run(&scene.world, &[&["list"], words].concat());
    let names = |out: &str| {
        let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        out.lines().skip(1).filter(|line| line.contains('@')).map(first).collect::<Vec<_>>()
    };
    let [main, next, tool] = ["far/sub/app@main", "far/sub/app@rel/1", "far/tool@main"];
    for (words, expected) in [
        (&[][..], vec![tool, main, next]),
        (&["far"], vec![tool, main, next]),
        (&["far/sub"], vec![main, next]),
        (&["far/sub/app"], vec![main, next]),
        (&["far/sub/app@rel/1", "far/tool"], vec![tool, next]),
    ] {
        assert_eq!(names(&list(words).succeeded().out), expected, "{words:?}");
    }
    assert_eq!(names(&list(&["-sort", "size"]).succeeded().out)[0], tool);
    assert_eq!(names(&list(&["-sort=age"]).succeeded().out)[0], tool);
    let none = list(&["far/nowhere", "far/tool"]).failed().logged("the bucket holds nothing of far/nowhere");
    assert_eq!(names(&none.out), [tool]);
    let all = list(&["-outdated", "-dates", "far/tool"]).succeeded().out;
    line(&all, &["DESTINATION", "WRITTEN (UTC)"]);
    line(&all, &["  outdated", &OTHER_COMMIT[..10], "zip", "1970-01-01 00:00"]);
    line(&all, &["1 destination, 2 objects, ", "; 1 outdated"]);
}

#[test]
fn list_as_json_can_be_filtered_and_sorted_and_an_incomplete_one_is_not_json() {
    let scene = scene("zip");
    scene.world.s3().put("README.md", "foreign");
    let list = |words: &[&str]| run(&scene.world, &[&["list", "-output=json"], words].concat());
    let of = |json: &serde_json::Value| {
        let objects = json["objects"].as_array().unwrap();
        objects
            .iter()
            .map(|object| format!("{}@{}", object["project"].as_str().unwrap(), object["branch"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let mut streamed = of(&list(&["far/sub"]).succeeded().json());
    streamed.sort();
    assert_eq!(streamed, ["app@main", "app@rel/1"], "in the order of the bucket");
    assert_eq!(of(&list(&["-sort=name"]).succeeded().json()), ["tool@main", "app@main", "app@rel/1"]);
    assert_eq!(of(&list(&["far/nowhere"]).failed().json()), [""; 0]);
    let text = list(&[]).succeeded().out;
    assert_eq!(
        text.lines().filter(|line| line.starts_with("{\"base\":null,\"branch\":")).count(),
        3,
        "one object a line\n{text}"
    );
    scene.world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    let broken = list(&[]).failed().logged("AccessDenied");
    assert!(serde_json::from_str::<serde_json::Value>(&broken.out).is_err(), "{}", broken.out);
}

#[test]
fn restore_takes_a_group() {
    let scene = scene("zip");
    for (group, expected) in [("far", 3), ("far/sub", 2)] {
        let restore = scene.restore(&[group]).succeeded();
        line(&restore.out, &[&format!("{expected} good, 0 bad, 0 missing")]);
    }
    line(&scene.restore(&["fa"]).failed().out, &["MISSING", "fa"]);
}

#[test]
fn list_as_json_has_every_detail() {
    let scene = scene("tar.gz");
    scene.world.s3().put("README.md", "foreign");
    let list = run(&scene.world, &["list", "-output", "json"]).succeeded().json();
    assert_eq!(list["foreign"], serde_json::json!(["README.md"]));
    let objects = list["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 3);
    let commit = scene.tool.head("main").unwrap();
    let key = tar_key("far/tool", "main", &commit);
    let stored = scene.world.s3().objects().into_iter().find(|object| object.key == key).unwrap();
    let mut tool = objects.iter().find(|object| object["key"] == key).unwrap().clone();
    let written = tool.as_object_mut().unwrap().remove("last_modified").unwrap();
    assert!(written.as_str().unwrap().starts_with("20") && written.as_str().unwrap().ends_with('Z'), "{written}");
    assert_eq!(
        tool,
        serde_json::json!({
            "group": "far", "project": "tool", "branch": "main", "commit": commit,
            "format": "tar.gz", "base": null, "bytes": stored.size, "key": key,
        })
    );
}

#[test]
fn list_of_an_empty_bucket_says_so() {
    let world = World::start().unwrap();
    let list = run(&world, &["list"]).succeeded();
    assert!(list.out.contains("0 objects"), "{}", list.out);
    let list = run(&world, &["list", "-output=json"]).succeeded().json();
    assert_eq!(list, serde_json::json!({"objects": [], "foreign": [], "foreign_count": 0}));
}

#[test]
fn names_in_the_bucket_cannot_act_on_a_terminal() {
    let scene = scene("zip");
    let key = zip_key(r"far/\u001b[2Jevil", r"ma\u0007in\u202e", OTHER_COMMIT);
    scene.world.s3().put(&key, "evil");
    let list = run(&scene.world, &["list", "-foreign"]).succeeded();
    line(&list.out, &["4 objects", "0 foreign"]);
    let restore = scene.restore(&[]).failed();
    for text in [&list.out, &restore.out, &restore.log] {
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
    }
    line(&list.out, &["evil"]);
    line(&restore.out, &["BAD", "evil"]);
}

#[test]
fn listing_that_fails_is_said() {
    let world = World::start().unwrap();
    world.s3().fail("ListObjectsV2", "AccessDenied", 1);
    let list = run(&world, &["list"]).failed().logged("AccessDenied");
    assert_eq!(list.out, "");
}

#[test]
fn restore_gives_repositories_to_work_with() {
    for format in ["zip", "tar.gz"] {
        let scene = scene(format);
        let into = scene.folder();
        let restore = scene.restore(&["-into", &into]).succeeded();
        line(&restore.out, &["3 good, 0 bad, 0 missing"]);
        let places = [
            ("far/sub/app@main", "main", &scene.app, "main"),
            ("far/sub/app@rel%2F1", "rel/1", &scene.app, "next"),
            ("far/tool@main", "main", &scene.tool, "main"),
        ];
        for (place, branch, source, source_branch) in places {
            let repository = Path::new(&into).join(place);
            let head = source.head(source_branch).unwrap();
            line(&restore.out, &["good", &head[..7], place]);
            judge::git_fsck(&repository).unwrap();
            assert_eq!(judge::git_commit(&repository, "HEAD").unwrap(), head);
            let commits = git(&repository, &["log", "--format=%H"]);
            assert_eq!(commits.trim(), source.git(&["log", "--format=%H", &head]).unwrap());
            git(&repository, &["checkout", "--quiet", branch]);
            assert!(fs::read_dir(&repository).unwrap().count() > 1, "there are files beside .git");
            assert_eq!(git(&repository, &["status", "--porcelain"]), "");
        }
        scene.assert_nothing_left();
    }
}

#[test]
fn restore_needs_nothing_but_the_bucket_and_an_identity() {
    let scene = scene("zip");
    let identity = scene.world.identity_file().to_string_lossy().into_owned();
    let restore = reader_only(program(&scene.world, &["restore", "-identity", &identity])).succeeded();
    line(&restore.out, &["3 good, 0 bad, 0 missing"]);
}

#[test]
fn restore_without_a_folder_gives_verdicts_and_leaves_nothing() {
    let scene = scene("zip");
    let before = scene.world.s3().objects();
    let restore = scene.restore(&[]).succeeded();
    assert_eq!(restore.out.lines().filter(|line| line.starts_with("good")).count(), 3, "{}", restore.out);
    scene.assert_nothing_left();
    assert_eq!(scene.world.s3().objects(), before);
    assert!(scene.world.s3().requests().iter().all(|request| !request.is("DeleteObject")));
}

#[test]
fn restore_takes_only_what_is_named() {
    let scene = scene("zip");
    for (wanted, expected) in [
        (vec!["far/sub/app"], vec!["far/sub/app@main", "far/sub/app@rel/1"]),
        (vec!["far/sub/app@rel/1"], vec!["far/sub/app@rel/1"]),
        (vec!["far/sub/app@main", "far/tool"], vec!["far/tool@main", "far/sub/app@main"]),
    ] {
        let restore = scene.restore(&wanted).succeeded();
        let good: Vec<_> = restore.out.lines().filter_map(|line| line.strip_prefix("good  ")).collect();
        assert_eq!(good.len(), expected.len(), "{}", restore.out);
        for (line, name) in good.iter().zip(expected) {
            assert!(line.starts_with(name), "{line}");
        }
    }
}

#[test]
fn restore_fails_where_something_named_is_not_there() {
    let scene = scene("zip");
    let into = scene.folder();
    let restore = scene.restore(&["-into", &into, "far/tool", "far/nowhere", "far/tool@gone", "sub/app"]).failed();
    for missing in ["far/nowhere", "far/tool@gone", "sub/app"] {
        line(&restore.out, &["MISSING", missing]);
    }
    line(&restore.out, &["1 good, 0 bad, 3 missing"]);
    judge::git_fsck(&Path::new(&into).join("far/tool@main")).unwrap();
}

#[test]
fn restore_replaces_nothing() {
    let scene = scene("zip");
    let into = scene.folder();
    let occupied = Path::new(&into).join("far/tool@main");
    fs::create_dir_all(&occupied).unwrap();
    fs::write(occupied.join("mine.txt"), "mine").unwrap();
    let restore = scene.restore(&["-into", &into]).failed();
    line(&restore.out, &["SKIPPED", "far/tool@main", "exists already"]);
    line(&restore.out, &["2 good, 0 bad, 0 missing, 1 skipped"]);
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(occupied.join("mine.txt")).unwrap(), "mine");

    let again = scene.restore(&["-into", &into, "far/sub/app"]).failed();
    line(&again.out, &["0 good, 0 bad, 0 missing, 2 skipped"]);
    assert!(!again.out.contains("BAD"), "{}", again.out);
    judge::git_fsck(&Path::new(&into).join("far/sub/app@main")).unwrap();
}

#[test]
fn restore_with_another_identity_says_that_it_is_another() {
    let (scene, stranger) = (scene("zip"), World::start().unwrap());
    let into = scene.folder();
    let restore = scene.restore_with(stranger.identity_file(), &["-into", &into, "far/tool"]).failed();
    line(&restore.out, &["SKIPPED", "far/tool@main", "none of the given identities decrypts it"]);
    line(&restore.out, &["0 good, 0 bad, 0 missing, 1 skipped"]);
    assert!(!Path::new(&into).join("far/tool@main").exists());
    scene.assert_nothing_left();
}

#[test]
fn restore_with_another_identity_stops_after_the_first_objects() {
    let (scene, stranger) = (scene("zip"), World::start().unwrap());
    let object = scene.world.s3().get(&scene.app_key()).unwrap().unwrap();
    for n in 0..6 {
        scene.world.s3().put(&zip_key(&format!("far/copy{n}"), "main", OTHER_COMMIT), object.clone());
    }
    scene.world.s3().clear_requests();
    let restore = scene.restore_with(stranger.identity_file(), &[]).failed();
    let file = stranger.identity_file().to_string_lossy().into_owned();
    line(&restore.out, &["STOPPED", "none of the first 5 objects", &file, "4 more were not tried"]);
    line(&restore.out, &["0 good, 0 bad, 0 missing, 9 skipped"]);
    assert_eq!(restore.out.lines().count(), 7, "{}", restore.out);
    assert_eq!(crate::support::count(&scene.world.s3().requests(), "GetObject"), 5);
    let json = scene.restore_with(stranger.identity_file(), &["-output=json"]).failed().json();
    assert_eq!((&json["skipped"], &json["objects"][0]["skipped"]), (&9.into(), &true.into()));
    assert!(json["not_tried"].as_str().unwrap().contains(&file), "{json}");

    // One that fits is enough to go on.
    scene.world.s3().put(&zip_key("aa/first", "main", OTHER_COMMIT), "not encrypted at all");
    let restore = scene.restore_with(stranger.identity_file(), &[]).failed();
    line(&restore.out, &["0 good, 1 bad, 0 missing, 9 skipped"]);
}

#[test]
fn a_damaged_object_s_advice_is_the_command_that_publishes_it_again() {
    let scene = scene("zip");
    let key = scene.app_key();
    scene.world.s3().put(&key, "damaged");
    let restore = scene.restore(&["far/sub/app@main"]).failed();
    let line = line(&restore.out, &["BAD", "far/sub/app@main"]);
    let (_, command) = line.rsplit_once("on the producer, run ").unwrap();
    let expected = "REPUBLISH=far/sub/app@main git-partition-sync-producer -run-once (beside its daemon, with \
                    -max-retire=0 and -workdir=DIR, an empty folder)";
    assert_eq!(command, expected);
    assert!(!restore.out.contains("delete"), "{}", restore.out);
    program(&scene.world, &["-run-once"]).env("REPUBLISH", "far/sub/app@main").output().unwrap();
    line_of_good(&scene.restore(&["far/sub/app@main"]).succeeded());
}

fn line_of_good(run: &Run) {
    line(&run.out, &["1 good, 0 bad, 0 missing"]);
}

#[test]
fn restore_with_a_file_that_is_no_identity_says_so_before_any_request() {
    let scene = scene("zip");
    scene.world.s3().clear_requests();
    let file = scene.world.scratch().unwrap().join("not-an-identity");
    fs::write(&file, "ssh-rsa AAAA\n").unwrap();
    for path in [file, scene.world.scratch().unwrap().join("no-such-file")] {
        let restore = scene.restore_with(&path, &[]);
        assert_eq!(restore.status, 2, "{}", restore.log);
        assert!(restore.log.contains(&*path.to_string_lossy()), "{}", restore.log);
    }
    assert!(scene.world.s3().requests().is_empty());
}

#[test]
fn any_of_several_identities_restores() {
    let world = World::builder().recipients(2).start().unwrap();
    world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    for identity in world.identity_files() {
        let restore = run(&world, &["restore", "-identity", &identity.to_string_lossy()]).succeeded();
        line(&restore.out, &["1 good, 0 bad"]);
    }
}

/// Makes an object one that is no good.
type Damage = fn(Vec<u8>) -> Vec<u8>;

/// Replaces one object each by something that is no good: the verdicts say so, the other objects are good, and nothing
/// of the bad ones is kept.
#[track_caller]
fn are_found_bad(format: &str, damages: [(&str, Damage); 2]) {
    let scene = scene(format);
    for (key, (_, damage)) in keys(&scene.world).iter().zip(damages) {
        let good = scene.world.s3().get(key).unwrap().unwrap();
        scene.world.s3().put(key, damage(good));
    }
    let into = scene.folder();
    let restore = scene.restore(&["-into", &into]).failed();
    for (problem, _) in damages {
        line(&restore.out, &["BAD", problem]);
    }
    line(&restore.out, &["1 good, 2 bad, 0 missing"]);
    assert_eq!(repositories(Path::new(&into)), 1);
    assert!(fs::read_dir(&into).unwrap().all(|entry| entry.unwrap().file_name() == "far"));
    scene.assert_nothing_left();
}

fn repositories(folder: &Path) -> usize {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    folders.map(|path| if path.join(".git").exists() { 1 } else { repositories(&path) }).sum()
}

#[test]
fn objects_with_a_flipped_byte_or_half_of_their_bytes_are_bad() {
    for format in ["zip", "tar.gz"] {
        let flipped = |mut bytes: Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        };
        are_found_bad(
            format,
            [("damaged", flipped), ("damaged or incomplete", |bytes| bytes[..bytes.len() / 2].into())],
        );
    }
}

#[test]
fn objects_without_their_last_byte_or_in_the_clear_are_bad() {
    for format in ["zip", "tar.gz"] {
        let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].into();
        are_found_bad(
            format,
            [("damaged or incomplete", cut), ("not encrypted", |_| b"PK\x03\x04 in the clear".into())],
        );
    }
}

#[test]
fn object_whose_name_says_another_commit_is_bad() {
    let scene = scene("zip");
    let good = scene.world.s3().get(&scene.app_key()).unwrap().unwrap();
    scene.world.s3().put(&zip_key("far/liar", "main", OTHER_COMMIT), good.clone());
    scene.world.s3().put(&zip_key("far/liar", "other", &scene.app.head("main").unwrap()), good.clone());
    scene.world.s3().put(&zip_key("far/liar", "short", "cccc"), good);
    let restore = scene.restore(&["far/liar"]).failed();
    line(&restore.out, &["BAD", "far/liar@main", &OTHER_COMMIT[..7], &scene.app.head("main").unwrap()]);
    line(&restore.out, &["BAD", "far/liar@other", "no branch"]);
    line(&restore.out, &["BAD", "far/liar@short", "commit"]);
    line(&restore.out, &["0 good, 3 bad, 0 missing"]);
}

#[test]
fn only_the_newest_of_a_destinations_objects_is_kept() {
    let scene = scene("zip");
    let old = zip_key("far/tool", "main", OTHER_COMMIT);
    scene.world.s3().put_at(&old, "outdated", std::time::SystemTime::UNIX_EPOCH);
    let into = scene.folder();
    let restore = scene.restore(&["-into", &into, "far/tool"]).failed();
    line(&restore.out, &["BAD", &OTHER_COMMIT[..7]]);
    line(&restore.out, &["1 good, 1 bad, 0 missing"]);
    let repository = Path::new(&into).join("far/tool@main");
    assert_eq!(judge::git_commit(&repository, "HEAD").ok(), scene.tool.head("main"));
}

#[test]
fn restore_as_json_says_the_same() {
    let scene = scene("zip");
    scene.world.s3().put(&zip_key("far/bad", "main", OTHER_COMMIT), "bad");
    let into = scene.folder();
    let verdicts =
        scene.restore(&["-output=json", "-into", &into, "far/tool", "far/bad", "far/nowhere"]).failed().json();
    assert_eq!(verdicts["not_found"], serde_json::json!(["far/nowhere"]));
    let commit = scene.tool.head("main").unwrap();
    let (bad, good) = (&verdicts["objects"][0], &verdicts["objects"][1]);
    assert_eq!((&bad["project"], &bad["good"]), (&"bad".into(), &false.into()));
    assert!(bad["problem"].as_str().is_some_and(|problem| !problem.is_empty()), "{bad}");
    let objects = judge::object_names(scene.tool.path(), "refs/heads/main").unwrap().len();
    assert_eq!(
        *good,
        serde_json::json!({
            "group": "far", "project": "tool", "branch": "main", "commit": commit, "format": "zip",
            "increments": 0, "key": zip_key("far/tool", "main", &commit), "good": true, "skipped": false, "git_objects": objects,
            "other_references": 0, "origin": "unsigned", "signed_by": null, "published": null,
            "repository": Path::new(&into).join("far/tool@main"), "problem": null,
        })
    );
}

#[test]
fn restore_that_is_stopped_leaves_nothing_and_fails() {
    let scene = scene("zip");
    scene.world.s3().hold("GetObject");
    let mut command = program(&scene.world, &["restore", "-identity", &scene.world.identity_file().to_string_lossy()]);
    command.args(["-into", &scene.folder()]).env("TMPDIR", scene.temporary());
    let restore = Daemon::spawn(command);
    scene.world.s3().wait_until_held(PATIENCE).unwrap();
    let run = restore.stop().failed();
    assert!(run.out.contains("STOPPED"), "{}", run.out);
    scene.assert_nothing_left();
}

#[test]
fn git_sees_what_was_verified_whatever_references_an_archive_holds() {
    let scene = scene("zip");
    let (good, evil) = (scene.app.head("main").unwrap(), scene.app.head("next").unwrap());
    let plant = |clone: &Path, file: &str, content: String| {
        let path = clone.join(".git").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    // What each plants, and how many references that leaves out: the clone has three of the remote already.
    type Plant<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: [(Plant<'_>, usize); 5] = [
        (Box::new(|clone| plant(clone, "packed-refs", format!("{evil} refs/replace/{good}\n"))), 1),
        (Box::new(|clone| plant(clone, &format!("refs/replace/{good}"), format!("{evil}\n"))), 1),
        (Box::new(|clone| plant(clone, "refs/tags/main", format!("{evil}\n"))), 1),
        (Box::new(|clone| plant(clone, "refs/heads/HEAD", format!("{evil}\n"))), 1),
        (
            Box::new(|clone| {
                plant(clone, "refs/heads/evil", format!("{evil}\n"));
                plant(clone, "HEAD", "ref: refs/heads/evil\n".to_owned());
            }),
            1,
        ),
    ];
    for (plant, planted) in cases {
        let (restore, repository) = restored_clone(&scene, &good, plant);
        let words = format!("{} other reference(s) left out", planted + 1);
        line(&restore.succeeded().out, &["good", "far/go@main", &words]);
        assert_eq!(
            git(&repository, &["for-each-ref", "--format=%(refname) %(objectname)"]),
            format!("refs/heads/main {good}\n")
        );
        assert_eq!(
            git(&repository, &["log", "-1", "--format=%H %s", "main"]),
            scene.app.git(&["log", "-1", "--format=%H %s", &good]).unwrap() + "\n"
        );
        git(&repository, &["checkout", "-q", "main"]);
        assert_eq!(git(&repository, &["rev-parse", "HEAD", "main", "HEAD^{tree}"]).lines().next(), Some(&*good));
    }
    for content in [
        format!("{evil} refs/heads/main\n{good} refs/heads/main\n"),
        format!("{good} refs/heads/main\r\n"),
        format!("{good} refs/heads/x\n{good} refs/heads/a\n"),
    ] {
        let (restore, repository) = restored_clone(&scene, &good, |clone| {
            drop(fs::remove_file(clone.join(".git/refs/heads/main")));
            plant(clone, "packed-refs", content.clone());
        });
        line(&restore.failed().out, &["BAD", "far/go@main", "packed-refs cannot be used"]);
        assert!(!repository.exists());
    }
}

/// Replaces an object by a tar.gz archive of a clone with one branch, in which something is planted, and restores it.
fn restored_clone(scene: &Scene, head: &str, plant: impl Fn(&Path)) -> (Run, PathBuf) {
    let clone = scene.world.scratch().unwrap().join("clone");
    drop(fs::remove_dir_all(&clone));
    fs::create_dir_all(&clone).unwrap();
    git(&clone, &["init", "-q", "-b", "main"]);
    let origin = format!("file://{}", scene.app.path().display());
    git(&clone, &["fetch", "-q", "--no-tags", &origin, "main", "next"]);
    git(&clone, &["update-ref", "refs/heads/main", head]);
    git(&clone, &["update-ref", "refs/remotes/origin/main", head]);
    plant(&clone);
    let archive = "tar cz -C \"$0\" . | age -r \"$1\"";
    let sealed =
        Command::new("sh").args(["-c", archive]).arg(&clone).arg(scene.world.recipients()[0]).output().unwrap();
    assert!(sealed.status.success(), "{sealed:?}");
    scene.world.s3().put(&tar_key("far/go", "main", head), sealed.stdout);
    let into = scene.folder();
    drop(fs::remove_dir_all(&into));
    (scene.restore(&["-into", &into, "far/go"]), Path::new(&into).join("far/go@main"))
}
