//! The source GitLab fails, for one project or altogether: what cannot be read keeps what it has.

use testbed::fault::{ALWAYS, At, Fault};
use testbed::git::{GitOperation, fetch_answer};
use testbed::judge::object_names;

use crate::case::{Case, Outcome, Scene, git_of_sick, run_all, unreachable};
use crate::common::{mishaps, words};

/// What the log says of a project that cannot be probed.
const BLOCKED: &str = "cannot read near/sick: ";
/// What the log says of a project that cannot be fetched.
const FAILED: &str = "cannot fetch near/sick@main: ";

/// A case in which `sick` cannot be published because of what happens to each of its requests of one kind.
fn sick(name: &str, operation: &'static str, says: &str, fault: impl FnOnce(&Scene) -> Fault + Send + 'static) -> Case {
    let case = Case::new(name, Outcome::SickFails, move |scene| {
        let fault = fault(scene);
        scene.git.on(git_of_sick(operation), ALWAYS, fault);
    });
    case.says(says)
}

fn mishaps_of(operation: &'static str, complaint: &'static str) -> Vec<Case> {
    let case = |mishap| {
        let place = move |scene: &Scene, times, fault| scene.git.on(git_of_sick(operation), times, fault);
        Case::of(mishap, Outcome::SickFails, move |cause| format!("{complaint}{}", words(cause)), place)
    };
    mishaps().into_iter().map(case).collect()
}

fn redirect_elsewhere(scene: &Scene) -> Fault {
    Fault::status_with(302, "location", &format!("{}/near/sick.git/git-upload-pack", scene.elsewhere.url()))
}

#[test]
fn a_branch_that_cannot_be_looked_up_keeps_its_object() {
    let mut cases = mishaps_of("ls-refs", BLOCKED);
    cases.push(sick("half a list of refs", "ls-refs", "ended before it was complete", |_| Fault::truncate(At::Half)));
    cases.push(Case::new("half a list of refs, once", Outcome::Mended, |scene| {
        scene.git.on(git_of_sick("ls-refs"), 1, Fault::truncate(At::Half));
    }));
    cases.push(sick("a list of refs without its end", "ls-refs", "ended before it was complete", |_| {
        Fault::alter(|mut body| {
            body.truncate(body.len() - 4);
            body
        })
    }));
    cases.push(sick("an empty answer", "ls-refs", "protocol version 2", |_| Fault::alter(|_| vec![])));
    cases.push(Case::new("an empty answer, once", Outcome::Mended, |scene| {
        scene.git.on(git_of_sick("ls-refs"), 1, Fault::alter(|_| vec![]));
    }));
    cases.push(sick("redirect elsewhere", "ls-refs", "it is another server", redirect_elsewhere));
    cases.push(sick("redirect to a login page", "ls-refs", "another kind of page", |_| {
        Fault::status_with(302, "location", "/users/sign_in")
    }));
    cases.push(sick("a login page", "ls-refs", "is GITLAB_BASE_URL the base of a GitLab?", |_| {
        Fault::status_with(200, "content-type", "text/html")
    }));
    cases.push(sick("a wrong ref", "ls-refs", "the server no longer has the commit", |_| {
        // A commit that the repository does not have.
        Fault::alter(|body| replaced(body, |line| [&line[..4], &b"5".repeat(40), &line[44..]].concat()))
    }));
    cases.push(sick("a ref that is no commit", "ls-refs", "malformed", |_| {
        Fault::alter(|body| replaced(body, |line| [&line[..4], &b"z".repeat(40), &line[44..]].concat()))
    }));
    cases.push(sick("another branch", "ls-refs", "near/sick has no branch main", |_| {
        Fault::alter(|body| String::from_utf8(body).unwrap().replace("heads/main", "heads/mail").into_bytes())
    }));
    cases.push(
        Case::new("an empty repository", Outcome::SickFails, |scene| {
            scene.world.source.remove("near/sick").unwrap();
            scene.world.source.repo("near/sick").unwrap();
        })
        .without_a_rule()
        .comes_back()
        .says("near/sick has no branch main"),
    );
    cases.extend(unreachable("GITLAB_BASE_URL", "", Outcome::NoHeads, |cause| format!("{BLOCKED}{}", words(cause))));
    run_all(cases);
}

/// The first packet, which tells of a ref, as `change` makes it.
fn replaced(body: Vec<u8>, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let length = usize::from_str_radix(std::str::from_utf8(&body[..4]).unwrap(), 16).unwrap();
    [change(&body[..length]), body[length..].to_vec()].concat()
}

#[test]
fn a_fetch_brings_the_whole_commit_or_changes_nothing() {
    let mut cases = mishaps_of("fetch", FAILED);
    cases.push(sick("half a pack", "fetch", "ended before it was complete", |_| Fault::truncate(At::Half)));
    cases.push(sick("half the packets", "fetch", "ended before it was complete", |_| Fault::truncate(At::PacketLine)));
    cases.push(
        sick("half the packets, and silence", "fetch", "did not answer in time", |_| {
            Fault::Hold(testbed::fault::Moment::Within(At::PacketLine))
        })
        .impatient(),
    );
    cases.push(Case::new("half the packets, once", Outcome::Mended, |scene| {
        scene.git.on(git_of_sick("fetch"), 1, Fault::truncate(At::PacketLine));
    }));
    cases.push(sick("redirect elsewhere", "fetch", "it is another server", redirect_elsewhere));
    for (name, bytes_from_end) in [("a flipped bit in the pack's checksum", 20), ("a flipped bit in an object", 60)] {
        cases.push(sick(name, "fetch", "the pack", move |_| Fault::flip_bit(bytes_from_end)));
    }
    cases.push(sick("a pack that lacks an object", "fetch", "is missing; run git fsck", |scene| {
        let repo = scene.world.source.repo("near/sick").unwrap();
        let mut objects = object_names(repo.path(), "main").unwrap();
        let missing = repo.git(&["rev-parse", "main:counter.txt"]).unwrap();
        objects.retain(|object| *object != missing);
        let answer = fetch_answer(&repo.pack_of(&objects, true).unwrap());
        Fault::alter(move |_| answer.clone())
    }));
    cases.push(sick("no pack", "fetch", "malformed", |_| Fault::alter(|_| b"0000".to_vec())));
    cases.push(
        Case::new("deleted after the probe", Outcome::SickFails, |scene| {
            let path = scene.world.source.repo_path("near/sick");
            let away = path.with_extension("away");
            scene.world.source.before("near/sick", GitOperation::Fetch, move || std::fs::rename(path, away).unwrap());
        })
        .without_a_rule()
        .comes_back()
        .says("404"),
    );
    cases.push(
        Case::new("force-pushed after the probe", Outcome::Mended, |scene| {
            let repo = scene.world.source.repo("near/sick").unwrap();
            scene.world.source.before("near/sick", GitOperation::Fetch, move || {
                drop(repo.force_root("main", &[("new", "history")]).unwrap());
            });
        })
        .without_a_rule(),
    );
    cases.push(
        Case::new("pushed after the probe", Outcome::Mended, |scene| {
            let repo = scene.world.source.repo("near/sick").unwrap();
            scene.world.source.before("near/sick", GitOperation::Fetch, move || drop(repo.commits("main", 2).unwrap()));
        })
        .without_a_rule(),
    );
    run_all(cases);
}
