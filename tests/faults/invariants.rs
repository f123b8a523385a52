//! What holds after every pass, whatever went wrong in it; read from the bucket, the disk and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use testbed::consumer::ObjectName;
use testbed::judge;
use testbed::world::World;

use crate::support::{OURS, Run, assert_clean, assert_workdir_clean, files_below, leftovers, workdir_files, zip_key};

/// A destination: `group/project` and the branch.
type Destination = (String, String);

/// What a world's sources were ever at, for each destination they went to. It outlives repositories that are removed.
#[derive(Default)]
pub struct Ledger {
    heads: BTreeMap<Destination, BTreeSet<String>>,
    /// Objects found good before, by key and ETag: they need not be unpacked again.
    good: BTreeSet<(String, String)>,
}

impl Ledger {
    /// Notes what the sources of all targets were at until now.
    pub fn note(&mut self, world: &World) {
        for target in world.graphql.targets() {
            let (source, destination) = (target.source, target.destination);
            let path = world.source.repo_path(&source.path());
            let Ok(heads) = testbed::repo::Repo::open(path).and_then(|repo| repo.heads_ever(&source.branch)) else {
                continue;
            };
            self.heads.entry((destination.path(), destination.branch)).or_default().extend(heads);
        }
    }
}

/// The destinations that have an object.
pub fn held(world: &World) -> BTreeSet<Destination> {
    world.s3().keys().iter().map(|key| destination(&ObjectName::parse(key).expect("every key decodes"))).collect()
}

fn destination(name: &ObjectName) -> Destination {
    (format!("{}/{}", name.group, name.project), name.remote_branch.clone())
}

/// The destinations that a target names.
fn wanted(world: &World) -> BTreeSet<Destination> {
    let targets = world.graphql.targets().into_iter();
    targets.map(|target| (target.destination.path(), target.destination.branch)).collect()
}

/// Fails the test unless all of this holds: every destination that was held `before` is held still, or no target names
/// it; every object decrypts, unpacks, passes `git fsck` and is at the commit in its name, which its branch was at once; no
/// secret is in what the program printed, under WORKDIR, in an archive or in a request but where it belongs.
#[track_caller]
pub fn check(world: &World, ledger: &mut Ledger, before: &BTreeSet<Destination>, run: &Run) {
    ledger.note(world);
    let (now, wanted) = (held(world), wanted(world));
    for destination in before.intersection(&wanted) {
        assert!(now.contains(destination), "{destination:?} has lost its object\n{}", run.log);
    }
    for object in world.s3().objects() {
        if !ledger.good.contains(&(object.key.clone(), object.etag.clone())) {
            check_object(world, ledger, &object.key);
            ledger.good.insert((object.key, object.etag));
        }
    }
    assert_clean(world, "standard output", run.out.as_bytes());
    assert_clean(world, "the log", run.log.as_bytes());
    assert_workdir_clean(world);
    assert_requests_clean(world);
}

/// Fails the test where a secret is in a request, or somebody logs in at a server that the login is not for.
#[track_caller]
fn assert_requests_clean(world: &World) {
    let graphql_user = world.graphql.basic().map(|(user, _)| user.to_owned());
    let servers = [
        ("Git", world.source.requests(), Some(world.source.user().to_owned())),
        ("GraphQL", world.graphql.requests(), graphql_user),
        ("S3", world.s3().requests(), None),
    ];
    for (server, requests, user) in servers {
        let mut sent = vec![];
        for request in requests {
            // Whoever asks without a login is turned away.
            assert!(request.user.is_none() || request.user == user, "{:?} logs in at {server}", request.user);
            for text in [&request.path, &request.raw_path, &request.query] {
                sent.extend_from_slice(text.as_bytes());
                sent.push(b'\n');
            }
            for (name, value) in request.headers.iter().filter(|(name, _)| name != "x-amz-security-token") {
                sent.extend_from_slice(format!("{name}: {value}\n").as_bytes());
            }
            sent.extend_from_slice(&request.body);
        }
        assert_clean(world, &format!("a request to {server}"), &sent);
    }
}

#[track_caller]
fn check_object(world: &World, ledger: &Ledger, key: &str) {
    let name = ObjectName::parse(key).unwrap();
    assert_clean(world, "an object's key", key.as_bytes());
    assert_clean(world, "an object's name", format!("{name:?}").as_bytes());
    // A deletion that a process had sent when it ended may still take place.
    let Some(encrypted) = world.s3().get(key).unwrap() else { return };
    let content = world.unpack_bytes(&encrypted).unwrap_or_else(|error| panic!("{name:?} is no archive: {error:#}"));
    judge::git_fsck(&content).unwrap_or_else(|error| panic!("{name:?} is no good repository: {error:#}"));
    assert_eq!(judge::git_commit(&content, "HEAD").unwrap(), name.commit, "another commit than the name says");
    let heads = ledger.heads.get(&destination(&name));
    assert!(heads.is_some_and(|heads| heads.contains(&name.commit)), "{name:?} was never at that commit");
    for file in files_below(&content) {
        assert_clean(world, &file.display().to_string(), &fs::read(&file).unwrap());
    }
    fs::remove_dir_all(content.parent().unwrap()).unwrap();
}

/// The keys that the targets and the branches' heads ask for, sorted.
pub fn wanted_keys(world: &World) -> Vec<String> {
    let targets = world.graphql.targets().into_iter();
    let keys = targets.map(|target| {
        let head = world.source.repo(&target.source.path()).unwrap().head(&target.source.branch);
        zip_key(&target.destination.path(), &target.destination.branch, &head.expect("the branch is there"))
    });
    let mut keys: Vec<String> = keys.collect();
    keys.sort();
    keys
}

/// Fails the test unless the bucket holds what the targets want and nothing else, no upload is unfinished, and WORKDIR
/// holds nothing of ours but whole mirrors.
#[track_caller]
pub fn check_converged(world: &World, run: &Run) {
    assert_eq!(world.s3().keys(), wanted_keys(world), "not what the targets want\n{}", run.log);
    check_tidy(world, run);
}

/// Fails the test where an upload is unfinished, or something besides whole mirrors is left under WORKDIR.
#[track_caller]
pub fn check_tidy(world: &World, run: &Run) {
    assert_eq!(world.s3().uploads(), [], "unfinished uploads\n{}", run.log);
    assert_eq!(leftovers(world), [""; 0].map(std::path::PathBuf::from), "left under WORKDIR\n{}", run.log);
    let mirrors = world.workdir().join(OURS).join("mirrors");
    for file in workdir_files(world).into_iter().filter(|file| file.starts_with(&mirrors)) {
        let inside: Vec<_> = file.strip_prefix(&mirrors).unwrap().iter().skip(1).collect();
        let name = inside.last().unwrap().to_string_lossy();
        let expected = match inside[0].to_str().unwrap() {
            "state.json" | "HEAD" | "config" | "description" | "packed-refs" => inside.len() == 1,
            "refs" | "hooks" | "info" => true,
            "objects" => name.starts_with("pack-") && (name.ends_with(".pack") || name.ends_with(".idx")),
            _ => false,
        };
        assert!(expected, "{} is no part of a mirror", file.display());
        let mirror = mirrors.join(file.strip_prefix(&mirrors).unwrap().iter().next().unwrap());
        let state = fs::read_to_string(mirror.join("state.json")).expect("a mirror has a state");
        let named = name.rsplit_once('.').is_some_and(|(pack, _)| state.contains(pack));
        assert!(inside[0] != "objects" || named, "{} is in no mirror's state", file.display());
    }
}
