//! The receive side of the far GitLab: real pushes through its front end, Git's checks and the hook.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testbed::fault::{ALWAYS, Fault, Moment, Proxy};
use testbed::git::{GitFault, GitOperation, GitOptions, GitServer, Protection, words};
use testbed::repo::Repo;

use crate::{fails, git, processes_with, run, wait_until};

/// A far GitLab with a group `g`, and a local repository.
struct Far {
    server: GitServer,
    local: Repo,
    folder: TempDir,
}

impl Far {
    fn start(options: GitOptions) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let local = Repo::small(folder.path().join("local"), 1)?;
        let options = GitOptions { allow_push: true, create_projects: true, fsck_objects: true, ..options };
        let server = GitServer::start(options)?;
        server.group("g")?;
        Ok(Self { server, local, folder })
    }

    fn push_to(&self, url: &str, arguments: &[&str]) -> Command {
        let mut push = git(self.server.user(), self.server.password());
        push.env("LC_ALL", "C").arg("-C").arg(self.local.path()).args(["push", url]).args(arguments);
        push
    }

    /// `git push` to the project `g/p`.
    fn push(&self, arguments: &[&str]) -> Command {
        self.push_to(&self.server.clone_url("g/p"), arguments)
    }

    /// The head of the far branch, and nothing half done beside it.
    fn head(&self, branch: &str) -> Result<Option<String>> {
        let quarantined = self.server.quarantined("g/p")?;
        ensure!(quarantined.is_empty(), "left behind: {quarantined:?}");
        Ok(self.server.repo("g/p")?.head(branch))
    }

    /// Status and body of an answer.
    fn ask(&self, project: &str, path: &str, further: &[&str]) -> Result<(String, String)> {
        let body = self.folder.path().join("body");
        // curl creates none for an empty answer.
        let _ = std::fs::remove_file(&body);
        let status = run(Command::new("curl")
            .args(["-s", "-S", "-w", "%{http_code}", "-u"])
            .arg(format!("{}:{}", self.server.user(), self.server.password()))
            .args(further)
            .arg("-o")
            .arg(&body)
            .arg(format!("{}/{path}", self.server.clone_url(project))))?;
        let text = std::fs::read(&body).map(|body| String::from_utf8_lossy(&body).into_owned());
        Ok((status, text.unwrap_or_default()))
    }

    /// The answer to a push of a large body.
    fn post(&self, project: &str, megabytes: usize, further: &[&str]) -> Result<(String, String)> {
        let file = self.folder.path().join("large");
        std::fs::write(&file, vec![0; megabytes << 20])?;
        let data = format!("@{}", file.display());
        let mut arguments = vec!["-X", "POST", "-H", "Expect:", "--data-binary", &data];
        arguments.extend(["-H", "Content-Type: application/x-git-receive-pack-request"]);
        arguments.extend(further);
        self.ask(project, "git-receive-pack", &arguments)
    }
}

const HEADS: &str = "info/refs?service=git-receive-pack";

#[test]
fn a_missing_project_is_made_by_asking_for_its_heads() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    assert_eq!(far.ask("g/fetched", "info/refs?service=git-upload-pack", &[])?.0, "404");
    assert_eq!(far.post("g/posted", 0, &[])?.0, "404");
    let missing = ("404".to_owned(), words::NOT_FOUND.to_owned());
    assert_eq!(far.ask("other/p", HEADS, &[])?, missing, "there is no such group");
    assert_eq!(far.server.created(), [""; 0]);

    let (status, heads) = far.ask("g/p", HEADS, &[])?;
    assert!(status == "200" && heads.contains("capabilities^{}"), "{status}: {heads}");
    assert_eq!(far.ask("g/p", HEADS, &[])?.0, "200");
    assert_eq!(far.server.created(), ["g/p"]);
    run(&mut far.push(&["-q", "main", "main:refs/heads/other"]))?;
    assert_eq!((far.head("main")?, far.head("other")?), (far.local.head("main"), far.local.head("main")));

    far.server.set_create_projects(false);
    assert_eq!(far.ask("g/q", HEADS, &[])?, missing);
    assert_eq!(far.server.created(), ["g/p"]);
    Ok(())
}

#[test]
fn rights_are_refused_in_gitlab_s_words() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    far.server.repo("g/p")?;
    far.server.set_read_only(true);
    assert_eq!(far.ask("g/p", HEADS, &[])?, ("403".to_owned(), words::READ_ONLY.to_owned()));
    assert_eq!(far.post("g/p", 8, &[])?, ("403".to_owned(), words::READ_ONLY.to_owned()), "the answer arrives");
    assert_eq!(far.ask("g/p", "info/refs?service=git-upload-pack", &[])?.0, "200", "it can read");
    let told = fails(&mut far.push(&["main"]))?;
    assert!(told.contains(&format!("remote: {}", words::READ_ONLY)), "{told}");
    far.server.set_read_only(false);
    far.server.set_allow_push(false);
    assert_eq!(far.ask("g/p", HEADS, &[])?, ("403".to_owned(), words::NO_PUSH.to_owned()));
    far.server.set_allow_push(true);
    far.server.fault("g/p", GitFault::Answer(403, words::NO_PUSH.to_owned()));
    assert_eq!(far.ask("g/p", HEADS, &[])?, ("403".to_owned(), words::NO_PUSH.to_owned()));
    far.server.clear_overrides();

    far.server.set_expired(true);
    assert_eq!(far.ask("g/p", HEADS, &[])?, ("401".to_owned(), words::BAD_LOGIN.to_owned()));
    far.server.set_expired(false);
    run(&mut far.push(&["-q", "main"]))?;
    assert_eq!(far.head("main")?, far.local.head("main"));
    Ok(())
}

#[test]
fn a_login_that_comes_only_when_asked_for_is_seen() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    run(&mut far.push(&["-q", "main"]))?;
    assert_eq!(far.server.anonymous_requests().len(), 0, "the header is in the first request");
    let mut careless = Command::new("curl");
    careless.args(["-s", "-u"]).arg(format!("{}:{}", far.server.user(), far.server.password())).arg("--anyauth");
    run(careless.arg(format!("{}/{HEADS}", far.server.clone_url("g/p"))))?;
    let anonymous = far.server.anonymous_requests();
    assert_eq!((anonymous.len(), anonymous[0].status), (1, Some(401)));
    Ok(())
}

/// Checks that the hook has declined a push, in these words.
fn assert_declined(push: &mut Command, words: &str) -> Result<()> {
    let told = fails(push)?;
    let line = format!("remote: GitLab: {words}");
    ensure!(told.contains(&line) && told.contains("(pre-receive hook declined)"), "{words}: {told}");
    Ok(())
}

#[test]
fn a_protected_branch_is_guarded_by_the_hook() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    far.server.protect("g/p", "main", Protection::NoForce);
    far.server.protect("g/other", "side", Protection::NoPush);
    run(&mut far.push(&["-q", "main", "main:refs/heads/side"]))?;
    far.local.commits("main", 1)?;
    run(&mut far.push(&["-q", "main"]))?;
    let before = far.local.head("main");
    assert_eq!(far.head("main")?, before, "it may move forward");

    far.local.force_root("main", &[("new", "beginning")])?;
    assert_declined(&mut far.push(&["--force", "main"]), words::FORCE)?;
    assert_eq!(far.head("main")?, before);
    run(&mut far.push(&["-q", "--force", "main:refs/heads/side"]))?;
    let before = before.context("no main")?;
    far.local.git(&["update-ref", "refs/heads/forward", &before])?;
    far.local.commits("forward", 1)?;
    far.server.protect("g/p", "main", Protection::NoPush);
    far.server.protect("g/p", "new/branch", Protection::NoPush);
    assert_declined(&mut far.push(&["--force", "main"]), words::FORCE)?;
    assert_declined(&mut far.push(&["forward:main"]), words::PROTECTED)?;
    assert_declined(&mut far.push(&["main:refs/heads/new/branch"]), words::PROTECTED)?;
    assert_eq!(far.head("main")?, Some(before));
    assert_eq!(far.head("new/branch")?, None);
    far.server.unprotect("g/p", "main");
    run(&mut far.push(&["-q", "--force", "main"]))?;
    assert_eq!(far.head("main")?, far.local.head("main"));
    Ok(())
}

#[test]
fn new_lfs_pointers_are_refused_by_the_hook() -> Result<()> {
    let far = Far::start(GitOptions { refuse_lfs: true, ..GitOptions::default() })?;
    run(&mut far.push(&["-q", "main"]))?;
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064x}\nsize 12345\n", 7);
    far.local.commit("main", &[("large.bin", &pointer)], "A pointer")?;
    assert_declined(&mut far.push(&["main"]), words::LFS)?;
    far.server.set_refuse_lfs(false);
    run(&mut far.push(&["-q", "main"]))?;
    far.server.set_refuse_lfs(true);
    far.local.commits("main", 1)?;
    run(&mut far.push(&["-q", "main"]))?;
    assert_eq!(far.head("main")?, far.local.head("main"), "what is there already is no matter");
    Ok(())
}

#[test]
fn push_rules_speak_for_themselves() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    let rule = "Commit message does not follow the pattern '^JIRA-'";
    far.server.decline("g/p", Some(rule));
    assert_declined(&mut far.push(&["main"]), rule)?;
    assert_eq!(far.head("main")?, None);
    far.server.decline("g/p", None);
    // A hook of the project's own sees the same changes.
    let hooks = far.server.repo_path("g/p").join("hooks");
    std::fs::create_dir_all(&hooks)?;
    std::os::unix::fs::symlink("/bin/cat", hooks.join("pre-receive"))?;
    let output = far.push(&["main"]).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    let head = far.local.git(&["rev-parse", "main"])?;
    assert!(
        output.status.success() && told.contains(&format!("remote: {} {head} refs/heads/main", "0".repeat(40))),
        "{told}"
    );
    Ok(())
}

/// With a Content-Length, and without.
const FRAMINGS: [&[&str]; 2] = [&[], &["-H", "Transfer-Encoding: chunked"]];

/// Gives the local branch eight megabytes.
fn with_large_main(far: &Far) -> Result<()> {
    far.local.fill_incompressible(8, 1)
}

#[test]
fn a_request_over_nginx_s_limit_gets_413() -> Result<()> {
    let far = Far::start(GitOptions { max_body_bytes: Some(1 << 20), ..GitOptions::default() })?;
    far.server.repo("g/p")?;
    for further in FRAMINGS {
        let (status, page) = far.post("g/p", 8, further)?;
        assert!(status == "413" && page.contains("<center>nginx</center>"), "{further:?}: {status} {page}");
        assert_eq!(far.post("g/p", 1, further)?.0, "200", "{further:?}: not over the limit");
    }
    with_large_main(&far)?;
    for buffer in ["1m", "100m"] {
        // Up to this size Git sends a Content-Length, and above it chunks.
        let mut push = far.push(&["main"]);
        push.env("GIT_CONFIG_COUNT", "2").env("GIT_CONFIG_KEY_1", "http.postBuffer").env("GIT_CONFIG_VALUE_1", buffer);
        let told = fails(&mut push)?;
        assert!(told.contains("HTTP 413"), "{buffer}: {told}");
    }
    assert_eq!(far.head("main")?, None);
    far.server.set_max_body_bytes(None);
    run(&mut far.push(&["-q", "main"]))?;
    let push = far.server.requests().pop().context("no request")?;
    assert!(push.is("receive-pack") && push.request_bytes > 8 << 20, "{}", push.request_bytes);
    Ok(())
}

#[test]
fn a_pack_over_gitlab_s_limit_is_refused_by_git() -> Result<()> {
    let far = Far::start(GitOptions { max_push_bytes: Some(1 << 20), ..GitOptions::default() })?;
    with_large_main(&far)?;
    let told = fails(&mut far.push(&["main"]))?;
    assert!(told.contains("remote: fatal: pack exceeds maximum allowed size"), "{told}");
    assert_eq!(far.head("main")?, None);
    far.server.set_max_push_bytes(None);
    run(&mut far.push(&["-q", "main"]))?;
    Ok(())
}

#[test]
fn objects_are_checked_where_gitlab_checks_them() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    let lenient = GitServer::start(GitOptions { allow_push: true, ..GitOptions::default() })?;
    lenient.repo("g/p")?;
    let tree = far.local.git(&["rev-parse", "main^{tree}"])?;
    let commit = |name: &str, author: &str| -> Result<()> {
        let file = far.folder.path().join("object");
        std::fs::write(&file, format!("tree {tree}\n{author}committer A <a@b.c> 1 +0000\n\nodd\n"))?;
        let written = file.to_string_lossy().into_owned();
        let commit = far.local.git(&["hash-object", "-w", "--literally", "-t", "commit", &written])?;
        far.local.git(&["update-ref", &format!("refs/heads/{name}"), &commit])?;
        Ok(())
    };
    commit("nobody", "")?;
    commit("timezone", "author A <a@b.c> 1 +99999\n")?;
    let told = fails(&mut far.push(&["nobody"]))?;
    assert!(told.contains("missingAuthor") && told.contains("unpacker error"), "{told}");
    assert_eq!(far.head("nobody")?, None);
    run(&mut far.push(&["-q", "timezone"]))?;
    run(&mut far.push_to(&lenient.clone_url("g/p"), &["-q", "nobody"]))?;
    Ok(())
}

#[test]
fn a_branch_that_moved_in_between_is_not_updated() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    run(&mut far.push(&["-q", "main", "main:refs/heads/side"]))?;
    let project = far.server.repo("g/p")?;
    far.server.before("g/p", GitOperation::ReceivePack, move || {
        let moved = project.commits("main", 1);
        assert!(moved.is_ok(), "{moved:?}");
    });
    far.local.commits("main", 1)?;
    let told = fails(&mut far.push(&["main"]))?;
    assert!(told.contains("failed to update ref"), "{told}");
    assert_ne!(far.head("main")?, far.local.head("main"));
    Ok(())
}

#[test]
fn a_push_whose_connection_breaks_leaves_nothing() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    with_large_main(&far)?;
    far.server.repo("g/p")?;
    for bytes in [100, 3 << 20] {
        far.server.clear_requests();
        far.server.fault("g/p", GitFault::CutPushAfter(bytes));
        let told = fails(&mut far.push(&["main"]))?;
        let push = far.server.requests().into_iter().rfind(|request| request.is("receive-pack")).context("no push")?;
        assert_eq!(push.status, None, "there was no answer: {told}");
        assert!(push.request_bytes < 8 << 20, "{}: the rest was not read", push.request_bytes);
        assert_eq!(far.head("main")?, None);
    }
    far.server.clear_overrides();
    run(&mut far.push(&["-q", "main"]))?;
    assert_eq!(far.head("main")?, far.local.head("main"));
    Ok(())
}

/// A push of the local `main` as it goes over the wire.
fn request(far: &Far) -> Result<Vec<u8>> {
    let head = far.local.git(&["rev-parse", "main"])?;
    let line = format!("{} {head} refs/heads/main\0 report-status\n", "0".repeat(40));
    let names = far.local.git(&["rev-list", "--objects", "--no-object-names", "main"])?;
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    let pack = far.local.pack_of(&names, true)?;
    Ok([format!("{:04x}{line}0000", line.len() + 4).as_bytes(), &pack].concat())
}

/// curl that sends a request.
fn send(far: &Far, request: &[u8]) -> Result<Command> {
    let file = far.folder.path().join("request");
    std::fs::write(&file, request)?;
    let mut curl = Command::new("curl");
    curl.args(["-s", "-H", "Expect:", "-u"])
        .arg(format!("{}:{}", far.server.user(), far.server.password()))
        .args(["-H", "Content-Type: application/x-git-receive-pack-request", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("{}/git-receive-pack", far.server.clone_url("g/p")));
    Ok(curl)
}

/// Which is why a client must send a push to its end, even one that it wants to be refused.
#[test]
fn a_client_that_goes_away_leaves_a_quarantine_and_no_process() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    with_large_main(&far)?;
    far.server.repo("g/p")?;
    let mut slow = send(&far, &request(&far)?)?.args(["--limit-rate", "1m", "-o", "/dev/null"]).spawn()?;
    wait_until(|| Ok(!far.server.quarantined("g/p")?.is_empty()))?;
    slow.kill()?;
    slow.wait()?;
    let root = far.server.root().to_string_lossy().into_owned();
    wait_until(|| Ok(processes_with(&root)? == 0))?;
    assert!(!far.server.quarantined("g/p")?.is_empty());
    let project = far.server.repo("g/p")?;
    assert_eq!(project.head("main"), None);
    run(&mut far.push(&["-q", "main"]))?;
    assert_eq!(project.head("main"), far.local.head("main"));
    Ok(())
}

#[test]
fn a_push_that_is_ended_properly_leaves_nothing() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    with_large_main(&far)?;
    far.server.repo("g/p")?;
    let good = request(&far)?;
    for bad_from in [good.len() - 20, good.len() / 2] {
        let padded = [&good[..bad_from], &vec![0; good.len() - bad_from]].concat();
        let told = run(&mut send(&far, &padded)?)?;
        assert!(told.contains("unpack ") && !told.contains("unpack ok") && told.contains("unpacker error"), "{told}");
        assert_eq!(far.head("main")?, None);
    }
    let told = run(&mut send(&far, &good)?)?;
    assert!(told.contains("unpack ok") && told.contains("ok refs/heads/main"), "{told}");
    assert_eq!(far.head("main")?, far.local.head("main"));
    Ok(())
}

#[test]
fn leftovers_of_all_kinds_are_found() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    run(&mut far.push(&["-q", "main"]))?;
    let objects = far.server.repo_path("g/p").join("objects");
    assert_eq!(far.server.quarantined("g/p")?, [""; 0].map(PathBuf::from));
    let make = |path: &str, folder: bool| -> Result<()> {
        let path: &Path = &objects.join(path);
        if folder {
            std::fs::create_dir_all(path)?
        } else {
            std::fs::write(path, "")?
        }
        assert_eq!(far.server.quarantined("g/p")?, [path]);
        if folder {
            std::fs::remove_dir_all(path)?
        } else {
            std::fs::remove_file(path)?
        }
        Ok(())
    };
    make("tmp_objdir-incoming-Ab12Cd", true)?;
    make("incoming-Ab12Cd", true)?;
    make("pack/tmp_pack_Ab12Cd", false)?;
    make("pack/tmp_idx_Ab12Cd", false)
}

#[test]
fn the_proxy_tells_the_requests_of_a_push_apart() -> Result<()> {
    let far = Far::start(GitOptions::default())?;
    let proxy = Proxy::start(&far.server.url())?;
    let url = format!("{}/g/p.git", proxy.url());
    run(&mut far.push_to(&url, &["-q", "main"]))?;
    far.local.commits("main", 1)?;
    let before = far.head("main")?;

    proxy.on(|seen| seen.operation() == "receive-heads", 1, Fault::status(404));
    let told = fails(&mut far.push_to(&url, &["main"]))?;
    assert!(told.contains("not found") && proxy.hits() == 1, "{told}");

    // A bit of the pack changes on its way.
    proxy.on(
        |seen| seen.operation() == "receive-pack",
        1,
        Fault::alter_request(|mut body| {
            let last = body.len() - 30;
            body[last] ^= 1;
            body
        }),
    );
    let told = fails(&mut far.push_to(&url, &["main"]))?;
    assert!(told.contains("unpacker error") && proxy.hits() == 2, "{told}");
    assert_eq!(far.head("main")?, before);

    // The push is taken, and nobody hears of it.
    proxy.on(|seen| seen.operation() == "receive-pack", ALWAYS, Fault::Reset(Moment::Unanswered));
    fails(&mut far.push_to(&url, &["main"]))?;
    assert_eq!(far.head("main")?, far.local.head("main"));
    Ok(())
}
