//! Certificates that are not good enough: no request is sent, and nothing changes.

use std::fs;

use testbed::fault::{Authority, Proxy, Validity};

use crate::case::{Case, Outcome, Scene, run_all};

/// Puts a server with this certificate in the place of the one that `variable` names.
fn encrypt(scene: &mut Scene, variable: &'static str, host: &str, validity: Validity, trusted: bool) {
    let (known, other) = (Authority::new("Known").unwrap(), Authority::new("Other").unwrap());
    let issuer = if trusted { &known } else { &other };
    let (upstream, path) = match variable {
        "GRAPHQL_SERVER" => (scene.world.graphql.url(), "/graphql"),
        "GITLAB_BASE_URL" => (scene.world.source.url(), ""),
        _ => (scene.world.s3().url(), ""),
    };
    let proxy = Proxy::start_tls(&upstream, &issuer.certify(host, validity).unwrap()).unwrap();
    scene.setting(variable, &format!("{}{path}", proxy.url()));
    scene.kept.push(Box::new(proxy));
    let bundle = scene.world.scratch().unwrap().join("authorities.pem");
    fs::write(&bundle, known.pem()).unwrap();
    scene.setting("SSL_CERT_FILE", bundle.to_str().unwrap());
}

#[test]
fn a_server_with_a_wrong_certificate_is_not_talked_to() {
    let mut cases = vec![];
    for (variable, outcome) in [
        ("GRAPHQL_SERVER", Outcome::NothingChanges),
        ("GITLAB_BASE_URL", Outcome::NoHeads),
        ("AWS_ENDPOINT_URL_S3", Outcome::NothingChanges),
    ] {
        let case = |what: &str, outcome, host: &'static str, validity, trusted| {
            let name = format!("{variable} with {what} certificate");
            Case::new(name, outcome, move |scene| encrypt(scene, variable, host, validity, trusted)).without_a_rule()
        };
        let bad = |what, host, validity, trusted, says: &str| {
            case(what, outcome, host, validity, trusted)
                .says("the server's certificate is not accepted")
                .says("SSL_CERT_FILE")
                .says(says)
        };
        cases.push(case("a good", Outcome::Mended, "127.0.0.1", Validity::Good, true));
        cases.push(bad("another host's", "other.example.com", Validity::Good, true, "not valid for name"));
        cases.push(bad("an expired", "127.0.0.1", Validity::Expired, true, "expired"));
        cases.push(bad("an unknown authority's", "127.0.0.1", Validity::Good, false, "UnknownIssuer"));
    }
    run_all(cases);
}
