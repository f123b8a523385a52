//! Real Git and curl against the Git server.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::tempdir;
use testbed::git::{GitFault, GitOperation, GitOptions, GitServer};
use testbed::repo::Repo;

use crate::{complaint, git, processes_with, run, wait_until};

fn server() -> Result<GitServer> {
    GitServer::start(GitOptions { allow_push: true, ..GitOptions::default() })
}

/// Real Git with the server's credentials.
fn user(server: &GitServer) -> Command {
    git(server.user(), server.password())
}

fn curl_status(server: &GitServer, arguments: &[&str]) -> Result<String> {
    run(Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", "-u"])
        .arg(format!("{}:{}", server.user(), server.password()))
        .args(arguments))
}

#[test]
fn clones_and_pushes() -> Result<()> {
    let server = server()?;
    let repo = server.repo("group/sub/name")?;
    repo.fill_small(1)?;
    let folder = tempdir()?;
    let clone = folder.path().join("clone");
    run(user(&server).args(["clone", "-q", &server.clone_url("group/sub/name")]).arg(&clone))?;

    std::fs::write(clone.join("new.txt"), "pushed")?;
    run(Command::new("git").arg("-C").arg(&clone).args(["add", "."]))?;
    run(Command::new("git").arg("-C").arg(&clone).args([
        "-c",
        "user.name=T",
        "-c",
        "user.email=t@example.com",
        "commit",
        "-q",
        "-m",
        "New",
    ]))?;
    run(user(&server).arg("-C").arg(&clone).args(["push", "-q", "origin", "HEAD:refs/heads/neu/größer"]))?;
    assert!(repo.head("neu/größer").is_some());

    let requests = server.requests();
    let operations: Vec<&str> = requests.iter().filter_map(|request| request.operation.as_deref()).collect();
    assert_eq!(operations, ["info-refs", "ls-refs", "fetch", "receive-heads", "receive-pack"]);
    let fetch = requests.iter().find(|request| request.is("fetch")).context("no fetch")?;
    assert_eq!(fetch.path, "/group/sub/name.git/git-upload-pack");
    assert_eq!((fetch.method.as_str(), fetch.status), ("POST", Some(200)));
    assert!(fetch.authorization && fetch.header("authorization").is_none());
    assert_eq!(fetch.header("Git-Protocol"), Some("version=2"));
    assert!(fetch.response_bytes > 10_000 && fetch.request_bytes > 0);
    Ok(())
}

#[test]
fn a_large_push_comes_in_chunks() -> Result<()> {
    let server = server()?;
    let folder = tempdir()?;
    let local = Repo::incompressible(folder.path().join("local"), 8, 1)?;
    let remote = server.repo("g/p")?;
    run(user(&server).arg("-C").arg(local.path()).args(["push", "-q", &server.clone_url("g/p"), "main"]))?;
    assert_eq!(remote.head("main"), local.head("main"));
    remote.fsck()?;
    let push = server.requests().pop().context("no request")?;
    assert_eq!(push.header("transfer-encoding"), Some("chunked"));
    assert!(push.request_bytes > 8 * 1024 * 1024);
    assert!(push.body.len() <= 64 * 1024, "the log keeps the beginning");
    Ok(())
}

#[test]
fn a_client_that_goes_away_leaves_no_process() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_incompressible(64, 1)?;
    let mut slow = Command::new("curl")
        .args(["-s", "--limit-rate", "1k", "-o", "/dev/null", "-H", "Git-Protocol: version=2", "-u"])
        .arg(format!("{}:{}", server.user(), server.password()))
        .args(["-H", "Content-Type: application/x-git-upload-pack-request", "--data-binary"])
        .arg(format!(
            "0012command=fetch\n0001000fno-progress0032want {}\n0009done\n0000",
            server.repo("g/p")?.head("main").context("no main")?
        ))
        .arg(format!("{}/git-upload-pack", server.clone_url("g/p")))
        .spawn()?;
    let root = server.root().to_string_lossy().into_owned();
    wait_until(|| Ok(processes_with(&root)? > 0))?;
    slow.kill()?;
    slow.wait()?;
    wait_until(|| Ok(processes_with(&root)? == 0))
}

#[test]
fn odd_names_are_decoded() -> Result<()> {
    let server = server()?;
    let repo = server.repo("grüppe/name with space+plus")?;
    repo.fill_small(2)?;
    let url = server.clone_url("grüppe/name with space+plus");
    assert!(url.ends_with("/gr%C3%BCppe/name%20with%20space%2Bplus.git"), "{url}");
    let listed = run(user(&server).args(["ls-remote", &url]))?;
    assert!(listed.contains(&repo.head("main").context("no main")?));
    assert_eq!(server.requests()[0].path, "/grüppe/name with space+plus.git/info/refs");
    assert!(server.requests()[0].raw_path.starts_with("/gr%C3%BCppe/"));
    Ok(())
}

#[test]
fn wrong_credentials_get_401_and_a_challenge() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_small(1)?;
    let url = server.clone_url("g/p");
    complaint(run(git(server.user(), "wrong").args(["ls-remote", &url])))?;
    let headers = run(Command::new("curl").args(["-s", "-i"]).arg(format!("{url}/info/refs?service=git-upload-pack")))?;
    assert!(headers.starts_with("HTTP/1.1 401"), "{headers}");
    assert!(headers.to_lowercase().contains("www-authenticate: basic"), "{headers}");
    assert!(server.requests().iter().all(|request| request.status == Some(401)));
    Ok(())
}

#[test]
fn missing_projects_and_pages_are_404() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_small(1)?;
    for path in [
        "g/absent.git/info/refs?service=git-upload-pack",
        "g/p.git/config",
        "g/p.git/objects/info/packs",
        "g/../../etc.git/info/refs?service=git-upload-pack",
        "",
    ] {
        let url = format!("{}/{path}", server.url());
        assert_eq!(curl_status(&server, &[&url])?, "404", "{path}");
    }
    Ok(())
}

#[test]
fn pushes_are_refused_where_not_allowed() -> Result<()> {
    let server = GitServer::start(GitOptions::default())?;
    let repo = server.repo("g/p")?;
    repo.fill_small(1)?;
    let url = format!("{}/info/refs?service=git-receive-pack", server.clone_url("g/p"));
    assert_eq!(curl_status(&server, &[&url])?, "403");
    server.set_allow_push(true);
    assert_eq!(curl_status(&server, &[&url])?, "200");
    Ok(())
}

#[test]
fn overrides_hold_for_one_project_until_cleared() -> Result<()> {
    let server = server()?;
    for project in ["g/bad", "g/good", "g/renamed"] {
        server.repo(project)?.fill_small(1)?;
    }
    let status = |project: &str| {
        curl_status(&server, &[&format!("{}/info/refs?service=git-upload-pack", server.clone_url(project))])
    };
    for code in [401, 403, 404, 503] {
        server.override_status("g/bad", code);
        assert_eq!(status("g/bad")?, code.to_string());
        assert_eq!(status("g/good")?, "200");
    }
    server.fault("g/bad", GitFault::Redirect("g/renamed".to_owned()));
    assert_eq!(status("g/bad")?, "301");
    let listed = run(user(&server).args(["ls-remote", &server.clone_url("g/bad")]))?;
    assert!(listed.contains("refs/heads/main"), "Git follows the redirect");
    server.clear_overrides();
    assert_eq!(status("g/bad")?, "200");
    Ok(())
}

#[test]
fn an_old_server_speaks_no_version_2() -> Result<()> {
    let server = GitServer::start(GitOptions { protocol_v2: false, ..GitOptions::default() })?;
    server.repo("g/p")?.fill_small(1)?;
    let advertised = |server: &GitServer| {
        run(Command::new("curl")
            .args(["-s", "--output", "-", "-H", "Git-Protocol: version=2", "-u"])
            .arg(format!("{}:{}", server.user(), server.password()))
            .arg(format!("{}/info/refs?service=git-upload-pack", server.clone_url("g/p"))))
    };
    assert!(!advertised(&server)?.contains("version 2"));
    run(user(&server).args(["ls-remote", &server.clone_url("g/p")]))?;
    server.set_protocol_v2(true);
    assert!(advertised(&server)?.contains("version 2"));
    Ok(())
}

#[test]
fn a_hook_runs_between_probe_and_fetch() -> Result<()> {
    let server = server()?;
    let repo = server.repo("g/p")?;
    repo.fill_small(1)?;
    server.before("g/p", GitOperation::Fetch, {
        let repo = repo.clone();
        move || {
            let late = repo.commit("main", &[("late", "late")], "Late");
            assert!(late.is_ok(), "{late:?}");
        }
    });
    let before = repo.head("main");
    let folder = tempdir()?;
    run(user(&server).args(["clone", "-q", "--bare", &server.clone_url("g/p")]).arg(folder.path().join("c")))?;
    let cloned = run(Command::new("git").arg("-C").arg(folder.path().join("c")).args(["rev-parse", "HEAD"]))?;
    assert_eq!(Some(cloned.trim()), before.as_deref(), "what was listed is what is fetched");
    assert_eq!(repo.git(&["rev-parse", "main^"])?, cloned.trim(), "the hook has run, once");
    Ok(())
}

#[test]
fn gzipped_and_chunked_requests_are_understood() -> Result<()> {
    let server = server()?;
    let repo = server.repo("g/p")?;
    repo.fill_small(1)?;
    let folder = tempdir()?;
    let body = folder.path().join("body");
    std::fs::write(&body, "0014command=ls-refs\n00010009peel\n0000")?;
    run(Command::new("gzip").arg("-k").arg(&body))?;
    let post = |file: &str, headers: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--output", "-", "-u"]).arg(format!("{}:{}", server.user(), server.password())).args([
            "-H",
            "Git-Protocol: version=2",
            "-H",
            "Content-Type: application/x-git-upload-pack-request",
        ]);
        for header in headers {
            curl.args(["-H", header]);
        }
        run(curl
            .arg("--data-binary")
            .arg(format!("@{file}"))
            .arg(format!("{}/git-upload-pack", server.clone_url("g/p"))))
    };
    let plain = body.to_string_lossy();
    for (file, headers) in [
        (plain.to_string(), vec![]),
        (plain.to_string(), vec!["Transfer-Encoding: chunked"]),
        (format!("{plain}.gz"), vec!["Content-Encoding: gzip"]),
    ] {
        assert!(post(&file, &headers)?.contains("refs/heads/main"), "{headers:?}");
    }
    assert!(server.requests().iter().all(|request| request.is("ls-refs")));
    assert!(server.requests()[0].body_text().contains("command=ls-refs"));
    Ok(())
}

#[test]
fn a_cut_fetch_fails_and_the_next_one_does_not() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_incompressible(2, 1)?;
    let folder = tempdir()?;
    let clone = |name: &str| {
        user(&server).args(["clone", "-q", "--bare", &server.clone_url("g/p")]).arg(folder.path().join(name)).output()
    };
    server.fault("g/p", GitFault::CutFetchAfter(100_000));
    assert!(!clone("cut")?.status.success());
    let cut = server.requests().into_iter().rfind(|request| request.is("fetch")).context("no fetch")?;
    assert_eq!(cut.response_bytes, 100_000);
    server.clear_overrides();
    assert!(clone("whole")?.status.success());
    Ok(())
}

#[test]
fn a_stalled_project_never_answers() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_small(1)?;
    server.fault("g/p", GitFault::Stall);
    let url = format!("{}/info/refs?service=git-upload-pack", server.clone_url("g/p"));
    let output = Command::new("curl")
        .args(["-s", "-m", "1", "-u"])
        .arg(format!("{}:{}", server.user(), server.password()))
        .arg(url)
        .output()?;
    assert_eq!(output.status.code(), Some(28), "curl's own time ran out");
    assert_eq!(server.requests()[0].status, None);
    let stopping = Instant::now();
    drop(server);
    assert!(stopping.elapsed() < Duration::from_secs(2));
    Ok(())
}

#[test]
fn latency_is_waited() -> Result<()> {
    let server = server()?;
    server.repo("g/p")?.fill_small(1)?;
    server.set_latency(Duration::from_millis(300));
    let started = Instant::now();
    curl_status(&server, &[&format!("{}/info/refs?service=git-upload-pack", server.clone_url("g/p"))])?;
    assert!(started.elapsed() >= Duration::from_millis(300));
    Ok(())
}
