//! Thin packs as a real server sends them, and servers that do not.

use secrecy::SecretString;
use testbed::fault::{ALWAYS, Fault, Proxy};
use testbed::git::{GitOptions, GitServer as RealServer};

use super::*;
use crate::git::wire::GitServer;
use crate::net::http::Login;

struct Served {
    real: RealServer,
    proxy: Proxy,
    server: GitServer,
    commits: Vec<CommitId>,
}

impl Served {
    fn start() -> Self {
        let real = RealServer::start(GitOptions::default()).unwrap();
        let repo = real.repo("g/p").unwrap();
        let mut commits = vec![];
        for n in 0..3 {
            let changed = text(2_000, 1).replacen("\n7 ", &format!("\n7 changed in {n} "), 1);
            commits.push(id(repo.commit("main", &[("dir/file", changed)], "change").unwrap()));
        }
        // With bitmaps, Git looks for no deltas on what the client has.
        repo.configure("repack.writeBitmaps", "false").unwrap();
        repo.repack(&["-a", "-d"]).unwrap();
        // What was fetched before is wanted again.
        repo.configure("uploadpack.allowAnySHA1InWant", "true").unwrap();
        let proxy = Proxy::start(&real.url()).unwrap();
        let login = Login::new(real.user(), &SecretString::from(real.password().to_owned())).unwrap();
        let server = GitServer::new(reqwest::Client::new(), proxy.url().parse().unwrap(), login);
        Self { real, proxy, server, commits }
    }

    /// The server does not know lines of a request that begin with this word.
    fn ignores(&self, word: &'static str) {
        let ignoring = Fault::alter_request(move |mut body| {
            let text = String::from_utf8(body.clone()).unwrap();
            let start = text.find(word).unwrap() - 4;
            let len = usize::from_str_radix(&text[start..start + 4], 16).unwrap();
            body.drain(start..start + len);
            body
        });
        self.proxy.on(|seen| seen.operation() == "fetch", ALWAYS, ignoring);
    }

    async fn fetch(&self, want: usize, have: Option<usize>, thin: bool) -> Vec<u8> {
        let want = self.commits[want];
        let have = have.map(|have| self.commits[have]);
        let mut stream = match have.filter(|_| thin) {
            Some(have) => self.server.fetch_thin("g/p", want, have).await.unwrap(),
            None => self.server.fetch("g/p", want, have).await.unwrap(),
        };
        let mut pack = vec![];
        while let Some(piece) = stream.next().await.unwrap() {
            pack.extend_from_slice(&piece);
        }
        pack
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_fetch_is_thin() {
    let served = Served::start();
    let mut kept = Kept::with(&served.fetch(0, None, false).await);
    let [packed, thin] = [served.fetch(1, Some(0), false).await, served.fetch(1, Some(0), true).await];
    assert_eq!((count(&packed), count(&thin)), (4, 4), "a commit, two trees and a blob");
    assert!(thin.len() < 700 && packed.len() > 10_000, "{} bytes instead of {}", thin.len(), packed.len());
    assert!(served.real.requests().last().unwrap().body_text().contains("000ethin-pack\n"));
    let completed = kept.take(&thin).unwrap();
    assert_eq!(count(&completed), 5, "with the old blob; deltas of such small trees would not be smaller");
    kept.take(&served.fetch(2, Some(1), true).await).unwrap();
    kept.check(served.commits[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_what_it_is_asked_for_sends_a_pack_that_is_taken_too() {
    for (word, objects) in [("thin-pack", 4), ("have ", 12), ("ofs-delta", 5)] {
        let served = Served::start();
        let mut kept = Kept::with(&served.fetch(1, None, false).await);
        served.ignores(word);
        let fetched = served.fetch(2, Some(1), true).await;
        let completed = kept.take(&fetched).unwrap();
        assert_eq!(count(&completed), objects, "{word}");
        assert_eq!(fetched == completed, word != "ofs-delta", "{word}");
        kept.check(served.commits[2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_bitmaps_sends_whole_objects() {
    let served = Served::start();
    let repo = served.real.repo("g/p").unwrap();
    repo.configure("repack.writeBitmaps", "true").unwrap();
    repo.repack(&["-a", "-d"]).unwrap();
    let mut kept = Kept::with(&served.fetch(0, None, false).await);
    let fetched = served.fetch(1, Some(0), true).await;
    assert_eq!(kept.take(&fetched).unwrap(), fetched);
    kept.check(served.commits[1]);
}
