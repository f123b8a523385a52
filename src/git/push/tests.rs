//! Pushes to a real Git server, and to servers that behave in odd ways.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod odd;
mod parsing;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use secrecy::SecretString;
use testbed::git::{GitFault, GitOperation, GitOptions, GitServer};
use testbed::repo::Repo;

use super::*;
use crate::git::fixture::{git, git_with_input};
use crate::net::Timeouts;
use crate::net::tls::TrustRoots;

const PROJECT: &str = "g/p";
/// Long enough for a loaded machine; tests of silence use less.
const IDLE: Duration = Duration::from_secs(30);

fn uploads(idle: Duration) -> Uploads {
    Uploads::new(&TrustRoots::load(&[]).unwrap(), Timeouts { connect: IDLE, idle }, 4).unwrap()
}

fn push_server(base: &str, user: &str, password: &str, idle: Duration) -> PushServer {
    let login = Login::new(user, &SecretString::from(password.to_owned())).unwrap();
    PushServer::new(uploads(idle), base.parse().unwrap(), login)
}

/// A far side with an empty project that checks what it gets, and a repository to push from.
struct Far {
    git: Arc<GitServer>,
    repo: Repo,
    near: tempfile::TempDir,
    push: PushServer,
}

impl Far {
    fn new() -> Self {
        let git = Arc::new(GitServer::start(GitOptions { allow_push: true, ..GitOptions::default() }).unwrap());
        let repo = git.repo(PROJECT).unwrap();
        repo.configure("receive.fsckObjects", "true").unwrap();
        let near = tempfile::tempdir().unwrap();
        super::super::fixture::git(near.path(), &["init", "-q", "-b", "main"]);
        let push = push_server(&git.url(), git.user(), git.password(), IDLE);
        Self { git, repo, near, push }
    }

    /// A commit on top of the last one.
    fn commit(&self, content: &str) -> CommitId {
        fs::write(self.near.path().join("file"), content).unwrap();
        git(self.near.path(), &["add", "-A"]);
        git(self.near.path(), &["commit", "-q", "-m", content]);
        self.at("HEAD")
    }

    fn at(&self, name: &str) -> CommitId {
        git(self.near.path(), &["rev-parse", name]).parse().unwrap()
    }

    /// A pack of these revisions.
    fn pack(&self, revisions: &str) -> Vec<u8> {
        pack(self.near.path(), revisions)
    }

    async fn push(&self, branch: &str, old: Option<CommitId>, new: CommitId, pack: Vec<u8>) -> Result<(), PushError> {
        let update = RefUpdate { branch, old, new };
        self.push.push(PROJECT, &update, body(pack)).await
    }

    fn head(&self) -> Option<CommitId> {
        self.repo.head("main").map(|head| head.parse().unwrap())
    }

    fn hook(&self, script: &str) {
        let path = self.repo.path().join("hooks/pre-receive");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn pushes(&self) -> usize {
        let is_push = |operation: &Option<String>| operation.as_deref() == Some("receive-pack");
        self.git.requests().iter().filter(|request| is_push(&request.operation)).count()
    }

    /// What a push that was not taken left on the server's disk.
    fn quarantine(&self) -> usize {
        let objects = fs::read_dir(self.repo.path().join("objects")).unwrap();
        let is_left = |name: &str| name.starts_with("incoming") || name.starts_with("tmp_");
        objects.filter(|entry| is_left(&entry.as_ref().unwrap().file_name().to_string_lossy())).count()
    }
}

fn pack(dir: &Path, revisions: &str) -> Vec<u8> {
    let name = git_with_input(dir, &["pack-objects", "-q", "--revs", "out"], format!("{revisions}\n").as_bytes());
    fs::read(dir.join(format!("out-{name}.pack"))).unwrap()
}

/// The pack, written from another thread.
fn body(pack: Vec<u8>) -> PackBody {
    let (mut writer, body): (PackWriter, _) = pack_channel(pack.len() as u64);
    thread::spawn(move || drop(writer.write_all(&pack)));
    body
}

fn refusal(pushed: Result<(), PushError>) -> (Refusal, String) {
    match pushed {
        Err(PushError::Refused { refusal, reason, said }) => (refusal, format!("{reason}|{said}")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_branch_is_made_moved_forward_and_rewritten() {
    let far = Far::new();
    let branches = ["main", "other"].into();
    assert_eq!(far.push.heads_for_push(PROJECT, &branches).await.unwrap(), BTreeMap::new());
    let first = far.commit("one");
    far.push("main", None, first, far.pack("HEAD")).await.unwrap();
    assert_eq!(far.head(), Some(first));
    assert_eq!(far.push.heads_for_push(PROJECT, &branches).await.unwrap(), [("main".to_owned(), first)].into());
    let second = far.commit("two");
    far.push("main", Some(first), second, far.pack("HEAD\n^HEAD~1")).await.unwrap();
    assert_eq!(far.head(), Some(second));
    git(far.near.path(), &["commit", "-q", "--amend", "-m", "another"]);
    let third = far.at("HEAD");
    far.push("main", Some(second), third, far.pack("HEAD\n^HEAD~1")).await.unwrap();
    assert_eq!(far.head(), Some(third));
    far.repo.fsck().unwrap();
}

#[tokio::test]
async fn a_push_says_its_length_and_what_the_server_can_do() {
    let far = Far::new();
    let first = far.commit("one");
    let pack = far.pack("HEAD");
    far.push("main", None, first, pack.clone()).await.unwrap();
    let requests = far.git.requests();
    let push = requests.last().unwrap();
    let header = |name: &str| push.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
    assert_eq!(header("content-length"), Some(push.request_bytes.to_string().as_str()));
    assert_eq!(header("transfer-encoding"), None);
    assert_eq!(
        push.request_bytes,
        pack.len() as u64 + push.body.windows(8).position(|it| it == b"0000PACK").unwrap() as u64 + 4
    );
    let start = String::from_utf8_lossy(&push.body).into_owned();
    let expected = format!(
        "{} {first} refs/heads/main\0 report-status side-band-64k quiet object-format=sha1 agent=",
        "0".repeat(40)
    );
    assert_eq!(&start[4..4 + expected.len()], expected);
    assert!(requests.iter().all(|request| request.authorization), "no request without the login");
}

#[tokio::test]
async fn a_large_pack_goes_through_in_pieces_and_from_a_file() {
    let far = Far::new();
    // Incompressible.
    let mut random = fastrand::Rng::with_seed(1);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(5 << 20).collect();
    fs::write(far.near.path().join("large"), content).unwrap();
    let first = far.commit("one");
    let pack = far.pack("HEAD");
    assert!(pack.len() > 5 << 20);
    let written = |pack: Vec<u8>, announced: u64| {
        let (mut writer, body) = pack_channel(announced);
        thread::spawn(move || writer.write_all(&pack));
        body
    };
    let update = RefUpdate { branch: "main", old: None, new: first };
    let too_long = written(pack.clone(), pack.len() as u64 + 1);
    let error = far.push.push(PROJECT, &update, too_long).await.unwrap_err();
    assert!(matches!(&error, PushError::During { all_sent: false, source: WireError::Request(RequestError::Unfed) }));
    assert_eq!(far.head(), None);
    let announced = pack.len() as u64;
    let body = written(pack, announced);
    far.push.push(PROJECT, &update, body).await.unwrap();
    assert_eq!(far.head(), Some(first));
}

#[tokio::test]
async fn a_branch_that_is_there_already_is_not_sent_again() {
    let far = Far::new();
    let first = far.commit("one");
    far.push("main", None, first, far.pack("HEAD")).await.unwrap();
    let (mut writer, body) = pack_channel(100);
    let writing = thread::spawn(move || writer.write_all(&[0; 100]));
    // As after an answer that was lost.
    far.push.push(PROJECT, &RefUpdate { branch: "main", old: None, new: first }, body).await.unwrap();
    assert_eq!(far.pushes(), 1);
    writing.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_branch_that_moved_is_to_be_planned_again() {
    let far = Far::new();
    let (first, second) = (far.commit("one"), far.commit("two"));
    far.push("main", None, first, far.pack("HEAD~1")).await.unwrap();
    let sent = far.pushes();
    for old in [None, Some(second)] {
        let third = CommitId::from_bytes([3; 20]);
        let (refusal, words) = refusal(far.push("main", old, third, far.pack("HEAD")).await);
        assert_eq!((refusal, refusal.wants_whole()), (Refusal::Moved, false));
        assert!(words.contains(&first.to_string()), "{words}");
    }
    assert_eq!(far.pushes(), sent, "that is known before anything is sent");
    let gone = refusal(far.push("gone", Some(first), second, far.pack("HEAD")).await);
    assert_eq!(gone.0, Refusal::Moved);

    // At the last moment.
    let other = far.commit("three");
    far.push("other", None, other, far.pack("HEAD")).await.unwrap();
    let path = far.repo.path().to_owned();
    far.git.before(PROJECT, GitOperation::ReceivePack, move || {
        git(&path, &["update-ref", "refs/heads/main", &other.to_string()]);
    });
    let (refusal, words) = refusal(far.push("main", Some(first), second, far.pack("HEAD~1")).await);
    assert_eq!(refusal, Refusal::Moved, "{words}");
    assert_eq!(far.head(), Some(other));
}

#[tokio::test]
async fn a_project_that_was_asked_a_moment_ago_is_not_asked_again() {
    let far = Far::new();
    let asked = || far.git.requests().len() - far.pushes();
    let (first, second) = (far.commit("one"), far.commit("two"));
    far.push.heads_for_push(PROJECT, &["main", "other"].into()).await.unwrap();
    far.push("main", None, first, far.pack("HEAD~1")).await.unwrap();
    far.push("main", Some(first), second, far.pack("HEAD\n^HEAD~1")).await.unwrap();
    far.push("other", None, first, far.pack("HEAD~1")).await.unwrap();
    assert_eq!((asked(), far.head()), (1, Some(second)));
    // Of this branch it said nothing.
    far.push("third", None, first, far.pack("HEAD~1")).await.unwrap();
    assert_eq!(asked(), 2);
    // It said that the branch is elsewhere.
    far.push("third", None, first, far.pack("HEAD~1")).await.unwrap();
    assert_eq!((asked(), far.pushes()), (3, 4));
}

#[tokio::test]
async fn a_branch_that_moved_since_it_was_asked_for_is_looked_up() {
    let far = Far::new();
    let (first, second, third) = (far.commit("one"), far.commit("two"), far.commit("three"));
    far.push("elsewhere", None, third, far.pack("HEAD")).await.unwrap();
    far.push("main", None, first, far.pack("HEAD~2")).await.unwrap();
    let pack = || far.pack("HEAD~1\n^HEAD~2");
    for (moved_to, others) in [(second, None), (third, Some(third)), (first, None)] {
        git(far.repo.path(), &["update-ref", "refs/heads/main", &first.to_string()]);
        far.push.heads_for_push(PROJECT, &["main"].into()).await.unwrap();
        git(far.repo.path(), &["update-ref", "refs/heads/main", &moved_to.to_string()]);
        let pushed = far.push("main", Some(first), second, pack()).await;
        match others {
            None => pushed.unwrap(),
            Some(head) => {
                let (refusal, words) = refusal(pushed);
                assert_eq!(refusal, Refusal::Moved);
                assert!(words.contains(&format!("the branch is at {head} meanwhile")), "{words}");
            }
        }
        assert_eq!(far.head(), Some(others.unwrap_or(second)));
    }
    // Another consumer takes the same way, a moment ahead: what it has pushed counts, commit after commit.
    git(far.repo.path(), &["update-ref", "refs/heads/main", &first.to_string()]);
    for (old, new) in [(first, second), (second, third)] {
        let path = far.repo.path().to_owned();
        far.git.before(PROJECT, GitOperation::ReceivePack, move || {
            git(&path, &["update-ref", "refs/heads/main", &new.to_string()]);
        });
        far.push("main", Some(old), new, far.pack(&format!("{new}\n^{old}"))).await.unwrap();
        assert_eq!(far.head(), Some(new));
    }
}

#[tokio::test]
async fn the_words_of_a_hook_tell_why_it_refuses() {
    let far = Far::new();
    let first = far.commit("one");
    let force = "GitLab: You are not allowed to force push code to a protected branch on this project.";
    let lfs = "GitLab: LFS objects are missing. Ensure LFS is properly set up or try a manual \"git lfs push --all\".";
    for (words, expected) in [
        (force, Refusal::ProtectedBranch),
        (lfs, Refusal::LfsMissing),
        ("GitLab: You are not allowed to push code to this project.", Refusal::NotAllowed),
        ("GitLab: Commit message does not follow the pattern", Refusal::Hook),
        ("", Refusal::Hook),
    ] {
        let warnings = "for n in $(seq 200); do echo \"warning: object $n: zeroPaddedFilemode: x\"; done";
        far.hook(&format!("{{ {warnings}; echo; echo ====; echo '{words}'; }} >&2; exit 1"));
        let (refusal, said) = refusal(far.push("main", None, first, far.pack("HEAD")).await);
        assert_eq!((refusal, refusal.wants_whole()), (expected, false), "{said}");
        if !words.is_empty() {
            assert_eq!(said, format!("pre-receive hook declined|{words}"));
        }
        assert_eq!((far.head(), far.quarantine()), (None, 0));
    }
}

#[tokio::test]
async fn a_damaged_pack_leaves_nothing_behind() {
    let far = Far::new();
    let first = far.commit("one");
    let mut pack = far.pack("HEAD");
    // As a pack ends whose object was found to be bad in the last moment.
    pack.iter_mut().rev().take(20).for_each(|byte| *byte = !*byte);
    let (refusal, words) = refusal(far.push("main", None, first, pack).await);
    assert_eq!((refusal, refusal.wants_whole()), (Refusal::Unpacker, true), "{words}");
    assert_eq!((far.head(), far.quarantine()), (None, 0));
}

#[tokio::test]
async fn settings_of_the_server_refuse_a_push() {
    let far = Far::new();
    let (first, second) = (far.commit("one"), far.commit("two"));
    let all = far.pack("HEAD");
    far.push("main", None, second, all.clone()).await.unwrap();
    let commits = git(far.near.path(), &["rev-parse", "HEAD"]);
    let alone = {
        let name = git_with_input(far.near.path(), &["pack-objects", "-q", "out"], format!("{commits}\n").as_bytes());
        fs::read(far.near.path().join(format!("out-{name}.pack"))).unwrap()
    };
    let back = far.push("main", Some(second), first, all.clone());
    far.repo.configure("receive.denyNonFastForwards", "true").unwrap();
    assert_eq!(refusal(back.await).0, Refusal::NotForward);
    let below = far.push("main/below", None, first, all.clone()).await;
    assert_eq!(refusal(below).0, Refusal::NameTaken);
    far.repo.configure("receive.maxInputSize", "100").unwrap();
    assert_eq!(refusal(far.push("other", None, first, all.clone()).await).0, Refusal::TooLarge);
    far.repo.configure("receive.maxInputSize", "0").unwrap();
    far.repo.configure("receive.hideRefs", "refs/heads/hidden").unwrap();
    assert_eq!(refusal(far.push("hidden", None, first, all.clone()).await).0, Refusal::HiddenRef);

    let empty = far.git.repo("g/empty").unwrap();
    empty.configure("receive.unpackLimit", "1000").unwrap();
    let update = RefUpdate { branch: "main", old: None, new: second };
    let (refusal, words) = refusal(far.push.push("g/empty", &update, body(alone)).await);
    assert_eq!((refusal, refusal.wants_whole()), (Refusal::MissingObjects, true), "{words}");
}

#[tokio::test]
async fn a_history_that_the_server_s_checks_refuse_is_named_so() {
    let far = Far::new();
    let tree = git(far.near.path(), &["mktree"]);
    // No time.
    let commit = format!("tree {tree}\nauthor a <a@b>\ncommitter a <a@b>\n\nbad\n");
    let id = git_with_input(
        far.near.path(),
        &["hash-object", "-t", "commit", "-w", "--literally", "--stdin"],
        commit.as_bytes(),
    );
    let (refusal, words) = refusal(far.push("main", None, id.parse().unwrap(), far.pack(&id)).await);
    assert_eq!(refusal, Refusal::Malformed, "{words}");
    assert!(words.contains("missingSpaceBeforeDate"), "{words}");
    assert_eq!((far.head(), far.quarantine()), (None, 0));
}

#[tokio::test]
async fn who_may_not_push_hears_it_before_anything_is_sent() {
    let far = Far::new();
    let first = far.commit("one");
    let status = |pushed: Result<(), PushError>| match pushed {
        Err(PushError::NotTaken(WireError::Request(error @ RequestError::Status { status, .. }))) => {
            (status.as_u16(), error.refuses_login(), error.to_string())
        }
        other => panic!("{other:?}"),
    };
    let update = RefUpdate { branch: "main", old: None, new: first };
    let stranger = push_server(&far.git.url(), far.git.user(), "wrong", IDLE);
    assert_eq!(status(stranger.push(PROJECT, &update, body(far.pack("HEAD"))).await).0, 401);
    let (code, ..) = status(far.push.push("g/missing", &update, body(far.pack("HEAD"))).await);
    assert_eq!(code, 404);
    far.git.set_allow_push(false);
    let (code, refuses_login, words) = status(far.push("main", None, first, far.pack("HEAD")).await);
    assert_eq!((code, refuses_login), (403, false));
    assert!(words.contains("it says: You are not allowed to push code to this project."), "{words}");
    let heads = far.push.heads_for_push(PROJECT, &["main"].into()).await;
    assert!(matches!(heads, Err(WireError::Request(RequestError::Status { .. }))), "{heads:?}");
    assert_eq!(far.pushes(), 0);
}

#[tokio::test]
async fn a_right_that_is_lost_in_between_is_a_refusal() {
    let far = Far::new();
    let first = far.commit("one");
    for (status, expected) in [(403, Refusal::NotAllowed), (413, Refusal::TooLarge)] {
        // The first request passes.
        let git = Arc::clone(&far.git);
        far.git.before(PROJECT, GitOperation::ReceivePack, move || git.override_status(PROJECT, status));
        let pushed = far.push("main", None, first, far.pack("HEAD")).await;
        assert_eq!(refusal(pushed).0, expected);
        far.git.clear_overrides();
    }
    assert_eq!(far.head(), None);
}

#[tokio::test]
async fn a_project_that_is_gone_when_it_is_pushed_to_did_not_take_the_push() {
    let far = Far::new();
    let first = far.commit("one");
    for status in [401, 404] {
        let git = Arc::clone(&far.git);
        far.git.before(PROJECT, GitOperation::ReceivePack, move || git.override_status(PROJECT, status));
        let error = far.push("main", None, first, far.pack("HEAD")).await.unwrap_err();
        assert!(matches!(&error, PushError::NotTaken(WireError::Request(RequestError::Status { .. }))), "{error:?}");
        assert!(!error.all_sent() && error.to_string().contains(&status.to_string()), "{error}");
        far.git.clear_overrides();
    }
    assert_eq!(far.head(), None);
}

#[tokio::test]
async fn a_renamed_project_gets_the_push() {
    let far = Far::new();
    let first = far.commit("one");
    far.git.fault("g/old", GitFault::Redirect(PROJECT.to_owned()));
    let update = RefUpdate { branch: "main", old: None, new: first };
    far.push.push("g/old", &update, body(far.pack("HEAD"))).await.unwrap();
    assert_eq!(far.head(), Some(first));
    // Another server gets no login. Later, the project is asked again.
    let push = push_server(&far.git.url(), far.git.user(), far.git.password(), IDLE);
    let other = GitServer::start(GitOptions { allow_push: true, ..GitOptions::default() }).unwrap();
    far.git.fault("g/old", GitFault::Redirect(format!("{}/{PROJECT}", other.url())));
    let second = far.commit("two");
    let update = RefUpdate { branch: "main", old: Some(first), new: second };
    let away = push.push("g/old", &update, body(far.pack("HEAD"))).await.unwrap_err();
    assert!(matches!(&away, PushError::NotTaken(WireError::Request(RequestError::Redirect { .. }))), "{away}");
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn no_branch_is_ever_deleted() {
    let far = Far::new();
    let first = far.commit("one");
    far.push("side", None, first, far.pack("HEAD")).await.unwrap();
    let requests = far.git.requests().len();
    for old in [None, Some(first)] {
        let pushed = far.push("side", old, NOTHING, far.pack("HEAD")).await;
        assert!(matches!(pushed, Err(PushError::Deletes)), "{pushed:?}");
    }
    assert_eq!(far.git.requests().len(), requests);
}

#[tokio::test]
async fn names_that_are_no_branches_are_not_sent() {
    let far = Far::new();
    let first = far.commit("one");
    for name in ["a b", "a\0 b", "a\nb", "a..b", "", "/", "a.lock", "x\u{7f}"] {
        let pushed = far.push(name, None, first, far.pack("HEAD")).await;
        assert!(matches!(pushed, Err(PushError::NotABranch(_))), "{name:?}");
    }
    assert_eq!(far.git.requests().len(), 0);
    let odd = "wörk/分支";
    far.push(odd, None, first, far.pack("HEAD")).await.unwrap();
    assert_eq!(
        far.push.heads_for_push(PROJECT, &[odd, "main"].into()).await.unwrap(),
        [(odd.to_owned(), first)].into()
    );
}

#[tokio::test]
async fn a_sha256_repository_is_named_as_such() {
    let far = Far::new();
    let path = far.git.repo_path("g/sha256");
    fs::create_dir_all(&path).unwrap();
    git(&path, &["init", "-q", "--bare", "--object-format=sha256"]);
    let heads = far.push.heads_for_push("g/sha256", &["main"].into()).await;
    assert!(matches!(heads, Err(WireError::Sha256)), "{heads:?}");
}
