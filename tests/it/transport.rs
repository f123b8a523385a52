//! What lies between the program and its servers: certificates of a private authority, proxies, and TLS that is too old.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use testbed::fault::{Authority, ClosedPort, Proxy, Validity};
use testbed::http::RequestRecord;
use testbed::tunnel::{OldTlsServer, TunnelProxy};
use testbed::world::World;

use crate::support::{Run, keys, program, run, together, zip_key};

const GITLAB: &str = "gitlab.inside.test";
const GRAPHQL: &str = "graphql.inside.test";
const S3: &str = "s3.inside.test";

/// A world whose three servers are reached by TLS alone, under names, with certificates of one private authority.
struct Secured {
    world: World,
    authority: Authority,
    bundle: PathBuf,
    fronts: [(&'static str, Proxy); 3],
    key: String,
}

impl Secured {
    fn new() -> Self {
        Self::under([GITLAB, GRAPHQL, S3])
    }

    fn under(names: [&'static str; 3]) -> Self {
        let world = World::start().unwrap();
        let head = world.project("near/p").unwrap().head("main").unwrap();
        world.sync("near/p", "main", "far/p", "main").unwrap();
        let authority = Authority::new("private authority").unwrap();
        let upstreams = [world.source.url(), world.graphql.url(), world.s3().url()];
        let mut fronts = names.iter().zip(upstreams).map(|(name, upstream)| {
            let certified = authority.certify(name, Validity::Good).unwrap();
            (*name, Proxy::start_tls(&upstream, &certified).unwrap())
        });
        let fronts = [(); 3].map(|()| fronts.next().unwrap());
        let bundle = world.scratch().unwrap().join("authority.pem");
        fs::write(&bundle, authority.pem()).unwrap();
        Self { world, authority, bundle, fronts, key: zip_key("far/p", "main", &head) }
    }

    /// The servers' addresses: by name, as if each were at port 443; an IP address has its real port.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.world, arguments);
        let [gitlab, graphql, s3] = self
            .fronts
            .each_ref()
            .map(|(name, front)| if *name == "127.0.0.1" { front.url() } else { format!("https://{name}") });
        command.env("GITLAB_BASE_URL", gitlab).env("GRAPHQL_SERVER", format!("{graphql}/graphql"));
        command.env("AWS_ENDPOINT_URL_S3", s3).env("SSL_CERT_FILE", &self.bundle);
        command
    }

    fn proxy(&self, login: Option<(&str, &str)>) -> TunnelProxy {
        let routes: Vec<_> = self.fronts.iter().map(|(name, front)| (*name, front.url())).collect();
        let routes: Vec<_> = routes.iter().map(|(name, url)| (*name, url.as_str())).collect();
        TunnelProxy::start(&routes, login).unwrap()
    }

    /// Requests that came through TLS; others were sent to the servers themselves.
    fn requests_by_tls(&self) -> usize {
        let world = &self.world;
        let servers = [
            (world.source.requests(), world.source.url()),
            (world.graphql.requests(), world.graphql.url()),
            (world.s3().requests(), world.s3().url()),
        ];
        let by_tls = |requests: Vec<RequestRecord>, url: String| {
            let own = url.split('/').nth(2).map(str::to_owned);
            requests.iter().filter(|request| request.header("host") != own.as_deref()).count()
        };
        servers.map(|(requests, url)| by_tls(requests, url)).iter().sum()
    }

    #[track_caller]
    fn assert_served(&self, command: &mut Command) {
        let run: Run = command.output().unwrap().into();
        run.succeeded();
        assert_eq!(keys(&self.world), [self.key.as_str()]);
        for (name, front) in &self.fronts {
            assert!(front.connections() > 0, "nobody came to {name}");
        }
        assert!(self.requests_by_tls() >= 3);
    }
}

#[test]
fn a_private_authority_in_ssl_cert_file_is_trusted_by_all_three_clients() {
    let secured = Secured::under(["127.0.0.1"; 3]);
    secured.assert_served(&mut secured.command(&["-run-once"]));
    let listed: Run = secured.command(&["list"]).output().unwrap().into();
    assert!(listed.succeeded().out.contains("far/p"), "list trusts it too");
}

#[test]
fn without_the_private_authority_no_credential_is_sent_and_the_message_names_ssl_cert_file() {
    let secured = Secured::under(["127.0.0.1"; 3]);
    let other = secured.world.scratch().unwrap().join("other.pem");
    fs::write(&other, Authority::new("somebody else").unwrap().pem()).unwrap();
    let plain = [secured.world.source.url(), secured.world.graphql.url(), secured.world.s3().url()];
    let variables = ["GITLAB_BASE_URL", "GRAPHQL_SERVER", "AWS_ENDPOINT_URL_S3"];
    // One server at a time behind a certificate that nobody vouches for.
    let cases: Vec<_> = variables.iter().flat_map(|variable| [(*variable, None), (*variable, Some(&other))]).collect();
    let runs = together(cases.iter().map(|(untrusted, trusted)| {
        let mut command = secured.command(&["-run-once"]);
        for (variable, url) in variables.iter().zip(&plain).filter(|(variable, _)| *variable != untrusted) {
            command.env(variable, url);
        }
        match trusted {
            Some(file) => command.env("SSL_CERT_FILE", file),
            None => command.env_remove("SSL_CERT_FILE"),
        };
        command
    }));
    for ((untrusted, _), run) in cases.iter().zip(runs) {
        let run = run.failed();
        assert!(run.log.contains("SSL_CERT_FILE"), "{untrusted}\n{}", run.log);
        assert!(run.log.contains("invalid peer certificate"), "{untrusted}\n{}", run.log);
    }
    assert_eq!(keys(&secured.world), [""; 0]);
    assert_eq!(secured.requests_by_tls(), 0);
}

#[test]
fn certificates_that_are_expired_or_for_another_host_are_refused() {
    let secured = Secured::under(["127.0.0.1"; 3]);
    let expired = secured.authority.certify("127.0.0.1", Validity::Expired).unwrap();
    let elsewhere = secured.authority.certify("elsewhere.test", Validity::Good).unwrap();
    for (certified, word) in [(expired, "expired"), (elsewhere, "not valid for name")] {
        let front = Proxy::start_tls(&secured.world.source.url(), &certified).unwrap();
        let run: Run = secured.command(&["-run-once"]).env("GITLAB_BASE_URL", front.url()).output().unwrap().into();
        run.failed().logged(word);
    }
    assert_eq!(secured.world.source.requests().len(), 0);
}

#[test]
fn a_server_whose_tls_is_too_old_is_refused() {
    /// A fatal alert (2) "protocol version" (70), in its record.
    const REFUSAL: [u8; 2] = [2, 70];
    let secured = Secured::under(["127.0.0.1"; 3]);
    let cases = ["GITLAB_BASE_URL", "GRAPHQL_SERVER", "AWS_ENDPOINT_URL_S3"];
    let cases = cases.map(|variable| (variable, OldTlsServer::start().unwrap()));
    let runs = together(cases.iter().map(|(variable, old)| {
        let mut command = secured.command(&["-run-once"]);
        command.env(variable, old.url());
        command
    }));
    for ((variable, old), run) in cases.iter().zip(runs) {
        let run = run.failed();
        let replies = old.replies();
        assert!(!replies.is_empty(), "nobody came to {variable}\n{}", run.log);
        for reply in replies {
            assert!(reply.first() == Some(&21) && reply.ends_with(&REFUSAL), "{variable}: {reply:?}");
        }
    }
}

#[test]
fn all_three_clients_go_through_the_proxy_and_leave_names_to_it() {
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let secured = Secured::new();
        let proxy = secured.proxy(None);
        let mut command = secured.command(&["-run-once"]);
        secured.assert_served(command.env(variable, format!("http://{}", proxy.address())));
        assert_eq!(proxy.opened(), [GITLAB, GRAPHQL, S3].map(|name| format!("{name}:443")), "{variable}");
        assert_eq!(proxy.refused(), [""; 0]);
    }
}

#[test]
fn a_proxy_may_want_a_login_which_nobody_else_sees() {
    let secured = Secured::new();
    let proxy = secured.proxy(Some(("proxy-user", "proxy-secret-77aa")));
    let url = format!("http://proxy-user:proxy-secret-77aa@{}", proxy.address());
    let mut command = secured.command(&["-run-once"]);
    let run: Run = command.env("HTTPS_PROXY", url).env("RUST_LOG", "trace").output().unwrap().into();
    let run = run.succeeded();
    assert_eq!(proxy.opened().len(), 3);
    assert_eq!(proxy.refused(), [""; 0]);
    assert!(run.log.contains("TRACE"), "libraries log");
    for secret in ["proxy-secret-77aa", "cHJveHktdXNlcjpwcm94eS1zZWNyZXQtNzdhY"] {
        assert!(!run.log.contains(secret), "{}", run.lines_with(secret)[0]);
    }
    let requests = [secured.world.source.requests(), secured.world.graphql.requests(), secured.world.s3().requests()];
    assert!(requests.iter().flatten().all(|request| request.header("proxy-authorization").is_none()));
}

/// Runs in this environment, and returns which hosts the proxy was asked for. No host exists outside of it.
fn asked_for(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let secured = Secured::new();
    let proxy = secured.proxy(None);
    let mut command = secured.command(arguments);
    for (name, value) in environment {
        command.env(name, value.replace("PROXY", &format!("http://{}", proxy.address())));
    }
    drop(command.output().unwrap());
    let mut hosts = proxy.opened();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[test]
fn proxy_variables_are_read_alike_for_all_three_clients() {
    let all = [GITLAB, GRAPHQL, S3].map(|name| format!("{name}:443"));
    assert_eq!(asked_for(&["check"], &[("HTTPS_PROXY", ""), ("https_proxy", "PROXY")]), all);
    assert_eq!(asked_for(&["check"], &[("HTTPS_PROXY", "PROXY\n")]), all);
    let excepted = [("HTTPS_PROXY", "PROXY"), ("NO_PROXY", ""), ("no_proxy", ".inside.test")];
    assert_eq!(asked_for(&["list"], &excepted), [""; 0]);
    assert_eq!(asked_for(&["list"], &[excepted[0], excepted[1], ("no_proxy", ".inside.test:444")]), all[2..]);
}

#[test]
fn a_dead_proxy_is_named_by_its_address_and_without_its_login() {
    let secured = Secured::new();
    let dead = ClosedPort::new().unwrap();
    let address = dead.url().replace("http://", "");
    let mut command = secured.command(&["check"]);
    command.env("HTTPS_PROXY", format!("http://proxy-user:proxy-secret-77aa@{address}"));
    let run: Run = command.output().unwrap().into();
    let run = run.failed();
    let named = format!("through the proxy http://{address}");
    assert_eq!(run.out.matches(&named).count(), 3, "GraphQL, GitLab and S3\n{}", run.out);
    assert!(!run.out.contains("proxy-secret") && !run.log.contains("proxy-secret"));
}

/// It accepts connections, and never answers.
#[test]
fn a_proxy_that_swallows_requests_to_s3_is_named() {
    let swallowed = |url: &'static str, variable: &'static str| {
        move || {
            let world = World::start().unwrap();
            let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = silent.local_addr().unwrap();
            let mut command = program(&world, &["list"]);
            command.env(variable, format!("http://proxy-user:proxy-secret-77aa@{address}"));
            command.env("AWS_ENDPOINT_URL_S3", url).env("CONNECT_TIMEOUT", "1s").env("IDLE_TIMEOUT", "1s");
            let run = Run::from(command.output().unwrap()).failed();
            assert!(!run.log.contains("proxy-secret"), "{}", run.log);
            run.logged(&format!("no answer in time, through the proxy http://{address}"));
        }
    };
    // Together, for they spend their time waiting.
    let cases = [
        thread::spawn(swallowed("https://s3.inside.test", "HTTPS_PROXY")),
        thread::spawn(swallowed("http://s3.inside.test", "HTTP_PROXY")),
    ];
    cases.into_iter().for_each(|case| case.join().unwrap());
}

#[test]
fn https_to_a_port_for_http_is_said() {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    let cases = [
        ("GITLAB_BASE_URL", world.source.url()),
        ("GRAPHQL_SERVER", format!("{}/graphql", world.graphql.url())),
        ("AWS_ENDPOINT_URL_S3", world.s3().url()),
    ];
    let runs = together(cases.map(|(variable, url)| {
        let mut command = program(&world, &["-run-once"]);
        command.env(variable, url.replace("http://", "https://"));
        command
    }));
    for run in runs {
        run.failed().logged("the port may be one for http://");
    }
}

#[test]
fn plain_requests_to_this_machine_never_go_through_a_proxy() {
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let world = World::start().unwrap();
        let head = world.project("near/p").unwrap().head("main").unwrap();
        world.sync("near/p", "main", "far/p", "main").unwrap();
        // It would see the token if anybody asked it.
        let proxy = TunnelProxy::start(&[], None).unwrap();
        let mut command = program(&world, &["-run-once"]);
        command.env(variable, format!("http://{}", proxy.address()));
        command.env("GITLAB_BASE_URL", world.source.url().replace("127.0.0.1", "localhost"));
        let run: Run = command.output().unwrap().into();
        run.succeeded();
        assert_eq!((proxy.opened(), proxy.refused()), (vec![], vec![]), "{variable}");
        assert_eq!(keys(&world), [zip_key("far/p", "main", &head)]);
    }
}

#[test]
fn plain_requests_to_other_machines_go_through_the_proxy() {
    let world = World::start().unwrap();
    let proxy = TunnelProxy::start(&[], None).unwrap();
    let mut command = program(&world, &["-run-once"]);
    command.env("HTTP_PROXY", format!("http://{}", proxy.address()));
    command.env("GRAPHQL_SERVER", "http://graphql.inside.test/graphql").env("ALLOW_INSECURE_HTTP", "true");
    let run: Run = command.output().unwrap().into();
    run.failed();
    assert!(proxy.refused()[0].starts_with("POST http://graphql.inside.test/graphql "), "{:?}", proxy.refused());
}

#[test]
fn a_proxy_that_is_no_address_is_named_without_its_value() {
    let world = World::start().unwrap();
    let mut command = program(&world, &["-run-once"]);
    let run: Run = command.env("HTTPS_PROXY", "http://user:proxy-secret-77aa@:bad:").output().unwrap().into();
    assert_ne!(run.status, 0);
    assert!(run.log.contains("HTTPS_PROXY") && !run.log.contains("proxy-secret"), "{}", run.log);
}

#[test]
fn a_proxy_that_knows_no_such_host_fails_the_pass_and_changes_nothing() {
    let secured = Secured::new();
    let proxy = TunnelProxy::start(&[], None).unwrap();
    let mut command = secured.command(&["-run-once"]);
    let run: Run = command.env("HTTPS_PROXY", format!("http://{}", proxy.address())).output().unwrap().into();
    run.failed().logged("the pass failed and nothing was changed").logged("tunnel");
    // The bucket is looked at first.
    assert!(proxy.refused().contains(&format!("{S3}:443")), "{:?}", proxy.refused());
    assert_eq!(keys(&secured.world), [""; 0]);
    // What is wrong is the proxy, not the world.
    run_in_the_clear(&secured.world);
}

#[track_caller]
fn run_in_the_clear(world: &World) {
    run(world, &["-run-once"]).succeeded();
}
