//! Keys as OpenSSL writes them, and OpenSSL as the outside judge of signatures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testbed::mutate::mutated;

use super::*;
use crate::artifact::fixture::Keys;
use crate::git::fixture::run;

fn id(byte: u8) -> CommitId {
    CommitId::from_bytes([byte; 20])
}

fn destination() -> Destination {
    Destination { group: "far/sub".into(), project: "app".into(), branch: "release/1".into() }
}

fn published() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

fn manifest() -> Manifest {
    Manifest { destination: destination(), commit: id(1), base: None, previous: None, published: published() }
}

fn signed(key: Option<&SigningKey>, manifest: &Manifest) -> SignedManifest {
    SignedManifest::new(manifest, key).unwrap()
}

fn judge(keys: &TrustedKeys, found: &SignedManifest) -> Result<Judged, TrustError> {
    let destination = destination();
    Trust { destination: &destination, keys: Some(keys), window: None }.judge(Some(found), id(1))
}

/// Whether OpenSSL takes the signature for one of these bytes.
fn openssl_verifies(keys: &Keys, signed: &[u8], signature: &[u8]) -> bool {
    let at = keys.dir.path();
    fs::write(at.join("signed"), signed).unwrap();
    fs::write(at.join("signature"), signature).unwrap();
    let arguments = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "signing.pub", "-sigfile", "signature"];
    let verified = Command::new("openssl").args(arguments).args(["-in", "signed"]).current_dir(at).output().unwrap();
    verified.status.success()
}

#[test]
fn openssl_verifies_what_is_signed_here() {
    let keys = Keys::new();
    let SignedManifest { json, signature } = signed(Some(&keys.signing()), &manifest());
    let signature = signature.unwrap();
    assert_eq!((json.clone(), signature.len()), (manifest().to_json(), SIGNATURE_BYTES));
    assert_eq!(&signature[..8], keys.signing().id().as_bytes());
    let signed = signed_bytes(&json);
    assert!(openssl_verifies(&keys, &signed, &signature[8..]));
    assert!(!openssl_verifies(&keys, &json, &signature[8..]), "the prefix is signed, too");
    assert!(!openssl_verifies(&Keys::new(), &signed, &signature[8..]));
}

#[test]
fn what_openssl_signs_is_verified_here() {
    let keys = Keys::new();
    let at = keys.dir.path();
    let json = manifest().to_json();
    fs::write(at.join("signed"), signed_bytes(&json)).unwrap();
    run(at, "openssl", &["pkeyutl", "-sign", "-rawin", "-inkey", "signing.pem", "-in", "signed", "-out", "signature"]);
    let signature = [keys.signing().id().as_bytes(), &fs::read(at.join("signature")).unwrap()[..]].concat();
    let found = SignedManifest { json, signature: Some(signature) };
    let judged = judge(&keys.trusted(), &found).unwrap();
    let key = keys.signing().id();
    assert_eq!(judged, Judged { origin: Origin::Signed { key }, manifest: Some(manifest()) });
}

#[test]
fn a_key_s_id_is_the_start_of_the_hash_of_its_raw_public_part() {
    let keys = Keys::new();
    let script =
        "openssl pkey -in signing.pem -pubout -outform DER | tail -c 32 | openssl dgst -sha256 -r | cut -c 1-16";
    assert_eq!(run(keys.dir.path(), "sh", &["-c", script]), keys.signing().id().to_string());
    assert_eq!(keys.trusted().ids().collect::<Vec<_>>(), [keys.signing().id()]);
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// RFC 8032, section 7.1, tests 1 to 3: secret key, public key, message, signature.
const VECTORS: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

#[test]
fn the_test_vectors_of_rfc_8032_hold() {
    for [secret, public, message, signature] in VECTORS {
        let der = [bytes("302e020100300506032b657004220420"), bytes(secret)].concat();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der));
        let key = SigningKey::from_pem(&pem.into()).unwrap();
        assert_eq!(key.pair.public_key().as_ref(), bytes(public));
        assert_eq!(key.pair.try_sign(&bytes(message)).unwrap().as_ref(), bytes(signature));
        let trusted = TrustedKeys::from_text(&BASE64_STANDARD.encode(bytes(public))).unwrap();
        assert_eq!(trusted.ids().collect::<Vec<_>>(), [key.id()]);
        let verified = UnparsedPublicKey::new(&ED25519, trusted.0[0].1).verify(&bytes(message), &bytes(signature));
        assert!(verified.is_ok());
    }
}

#[test]
fn each_way_in_which_an_object_is_not_trusted_has_its_name() {
    let (keys, others) = (Keys::new(), Keys::new());
    let (key, trusted) = (keys.signing(), keys.trusted());
    let good = signed(Some(&key), &manifest());
    let refused = |found: &SignedManifest| judge(&trusted, found).unwrap_err();

    assert!(matches!(refused(&signed(None, &manifest())), TrustError::Unsigned));
    let theirs = others.signing();
    let unknown = refused(&signed(Some(&theirs), &manifest()));
    assert!(matches!(unknown, TrustError::UnknownKey(id) if id == theirs.id()));
    assert!(unknown.to_string().contains(&theirs.id().to_string()), "{unknown}");
    // Of another key, under the name of a trusted one.
    let mut renamed = signed(Some(&theirs), &manifest());
    renamed.signature.as_mut().unwrap()[..8].copy_from_slice(key.id().as_bytes());
    assert!(matches!(refused(&renamed), TrustError::BadSignature(id) if id == key.id()));
    for length in (0..SIGNATURE_BYTES).chain([SIGNATURE_BYTES + 1]) {
        let mut cut = good.clone();
        cut.signature.as_mut().unwrap().resize(length, 0);
        assert!(matches!(refused(&cut), TrustError::Malformed), "{length}");
    }
    let of = |manifest: Manifest| refused(&signed(Some(&key), &manifest)).to_string();
    let elsewhere = Destination { project: "other".into(), ..destination() };
    assert!(of(Manifest { destination: elsewhere, ..manifest() }).contains("another destination"));
    assert!(of(Manifest { commit: id(2), ..manifest() }).contains("another commit"));
    assert!(of(Manifest { base: Some(id(2)), ..manifest() }).contains("another base"));

    let destination = destination();
    let trust = Trust { destination: &destination, keys: Some(&trusted), window: None };
    assert!(matches!(trust.judge(None, id(1)), Err(TrustError::Unsigned)));
    let window = |not_before| Window { not_before: Some(not_before), now: published() };
    let not_before = |time| Trust { window: Some(window(time)), ..trust }.judge(Some(&good), id(1));
    not_before(published()).unwrap();
    not_before(published() - Duration::from_secs(9)).unwrap();
    let replayed = not_before(published() + Duration::from_millis(1)).unwrap_err();
    assert!(matches!(replayed, TrustError::Untimely(Untimely::Early { .. })));
    assert!(replayed.to_string().contains("2023-11-14T22:13:20.123Z"), "{replayed}");
}

#[test]
fn an_increment_s_manifest_names_its_base_whether_or_not_keys_are_trusted() {
    let keys = Keys::new();
    let (trusted, destination) = (keys.trusted(), destination());
    let whole = signed(Some(&keys.signing()), &manifest());
    let increment = signed(Some(&keys.signing()), &Manifest { base: Some(id(2)), ..manifest() });
    for keys in [None, Some(&trusted)] {
        let trust = Trust { destination: &destination, keys, window: None };
        let (_, read) = trust.judge_increment(&increment, id(1), id(2)).unwrap();
        assert_eq!(read.base, Some(id(2)));
        for (found, base) in [(&whole, id(2)), (&increment, id(3))] {
            let refused = trust.judge_increment(found, id(1), base).unwrap_err();
            assert!(matches!(refused, TrustError::Manifest(ManifestError::Another { what: "base", .. })), "{refused}");
        }
        let unreadable = SignedManifest { json: b"{".into(), ..increment.clone() };
        assert!(trust.judge_increment(&unreadable, id(1), id(2)).is_err());
    }
    let unsigned = SignedManifest { signature: None, ..increment };
    let trust = Trust { destination: &destination, keys: Some(&trusted), window: None };
    assert!(matches!(trust.judge_increment(&unsigned, id(1), id(2)), Err(TrustError::Unsigned)));
}

#[test]
fn without_trusted_keys_nothing_is_refused_and_what_is_said_is_told() {
    let (keys, destination) = (Keys::new(), destination());
    let window = Window { not_before: Some(published() + Duration::from_secs(1)), now: published() };
    let trust = Trust { destination: &destination, keys: None, window: Some(window) };
    let judged = |found: Option<&SignedManifest>| trust.judge(found, id(1)).unwrap();
    assert_eq!(judged(None), Judged { origin: Origin::Unsigned, manifest: None });
    let unsigned = signed(None, &manifest());
    assert_eq!(judged(Some(&unsigned)), Judged { origin: Origin::Unsigned, manifest: Some(manifest()) });
    let (key, mut found) = (keys.signing().id(), signed(Some(&keys.signing()), &manifest()));
    let unchecked = Judged { origin: Origin::Unchecked { key }, manifest: Some(manifest()) };
    assert_eq!(judged(Some(&found)), unchecked);
    *found.signature.as_mut().unwrap().last_mut().unwrap() ^= 1;
    assert_eq!(judged(Some(&found)), unchecked);
    let future = SignedManifest { json: br#"{"version":2}"#.into(), ..found };
    assert_eq!(judged(Some(&future)), Judged { manifest: None, ..unchecked });
}

#[test]
fn every_bit_counts() {
    let keys = Keys::new();
    let (trusted, good) = (keys.trusted(), signed(Some(&keys.signing()), &manifest()));
    judge(&trusted, &good).unwrap();
    for at in 0..8 * good.json.len() {
        let mut changed = good.clone();
        changed.json[at / 8] ^= 1 << (at % 8);
        assert!(matches!(judge(&trusted, &changed), Err(TrustError::BadSignature(_))), "{at}");
    }
    for at in 0..8 * SIGNATURE_BYTES {
        let mut changed = good.clone();
        changed.signature.as_mut().unwrap()[at / 8] ^= 1 << (at % 8);
        let refused = judge(&trusted, &changed).unwrap_err();
        let of_the_key = matches!(refused, TrustError::UnknownKey(_)) && at < 64;
        assert!(of_the_key || matches!(refused, TrustError::BadSignature(_)), "{at}: {refused}");
    }
    for seed in 0..2_000 {
        let json = mutated(&good.json, seed);
        let is_same = json == good.json;
        assert_eq!(judge(&trusted, &SignedManifest { json, ..good.clone() }).is_ok(), is_same, "{seed}");
        let signature = Some(mutated(good.signature.as_ref().unwrap(), seed));
        let is_same = signature == good.signature;
        assert_eq!(judge(&trusted, &SignedManifest { signature, ..good.clone() }).is_ok(), is_same, "{seed}");
    }
}

#[test]
fn any_of_the_trusted_keys_will_do() {
    let all = [Keys::new(), Keys::new(), Keys::new()];
    let text: String = all[..2].iter().map(Keys::public_pem).collect();
    let trusted = TrustedKeys::from_text(&text).unwrap();
    for (keys, is_trusted) in all.iter().zip([true, true, false]) {
        let found = signed(Some(&keys.signing()), &manifest());
        let judged = judge(&trusted, &found);
        assert_eq!(judged.is_ok(), is_trusted);
        assert!(
            judged.is_err()
                || matches!(judged, Ok(Judged { origin: Origin::Signed { key }, .. }) if key == keys.signing().id())
        );
    }
}

#[test]
fn public_keys_are_pem_or_their_base64_alone_with_comments() {
    let all = [Keys::new(), Keys::new(), Keys::new()];
    let ids = all.each_ref().map(|keys| keys.signing().id());
    let [first, second, third] = all.each_ref().map(Keys::public_pem);
    let body = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
    let raw = |pem: &str| BASE64_STANDARD.encode(&BASE64_STANDARD.decode(body(pem)).unwrap()[12..]);
    let (one, two, three) = (body(&first), body(&second), body(&third));
    for text in [
        format!("{first}{second}{third}"),
        format!("\u{feff}# of the old near side\r\n{first}\r\n# and the new\n\n{second}{third}"),
        format!("{one},{two},{three}"),
        format!("{one}\n# a comment, with -----BEGIN PUBLIC KEY----- in it\n\t{two} , {three},\n"),
        format!("{}\n{second}\n{}", raw(&first), raw(&third)),
        // As a variable whose line ends became blanks.
        format!("{first} {second} {third}").replace('\n', " "),
        format!("{first}{one}\n{second}{third}{}", raw(&second)),
    ] {
        assert_eq!(TrustedKeys::from_text(&text).unwrap().ids().collect::<Vec<_>>(), ids, "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trusted");
    fs::write(&path, format!("{first}{second}{third}")).unwrap();
    assert_eq!(TrustedKeys::from_file(&path).unwrap().ids().count(), 3);
    assert_eq!(format!("{:?}", TrustedKeys::from_text(&one).unwrap()), format!("TrustedKeys[{}]", ids[0]));
}

#[test]
fn an_unusable_public_key_is_explained_and_never_shown() {
    let keys = Keys::new();
    let (public, private) = (keys.public_pem(), keys.private_pem());
    let at = keys.dir.path();
    let rsa = run(
        at,
        "sh",
        &["-c", "openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:1024 2>/dev/null | openssl pkey -pubout"],
    );
    let x25519 = run(at, "sh", &["-c", "openssl genpkey -algorithm x25519 | openssl pkey -pubout"]);
    let body = public.lines().nth(1).unwrap();
    let secret = private.lines().nth(1).unwrap();
    for (text, explanation) in [
        (String::new(), "it holds no key"),
        (" ,\n# nothing\n".into(), "it holds no key"),
        (format!("#\n{private}"), "line 2 begins a private key"),
        (format!("{public}{private}"), "line 4 begins a private key"),
        (rsa, "line 1 begins the key of another algorithm"),
        (x25519, "line 1 begins the key of another algorithm"),
        (
            format!("{body},\nage1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"),
            "line 2 holds an age recipient",
        ),
        (format!("{body} {}", &body[..40]), "line 1 is neither"),
        (secret.into(), "line 1 is neither"),
        ("hunter2".into(), "line 1 is neither"),
        (public.replace("PUBLIC KEY", "CERTIFICATE"), "line 1 begins something else"),
        (public.replace(body, &body[..56]), "line 1 begins a public key that is damaged"),
        (public.replace(body, "*"), "line 1 begins a public key that is damaged"),
        (public.replace("-----END", ""), "line 1 begins a public key that is damaged"),
    ] {
        let refused = TrustedKeys::from_text(&text).unwrap_err();
        let shown = format!("{refused} {refused:?}");
        assert!(shown.contains(explanation), "{explanation}: {shown}");
        assert!(![body, secret, "hunter2", "age1zv"].iter().any(|text| shown.contains(text)), "{shown}");
    }
    let missing = TrustedKeys::from_file(Path::new("/nonexistent/keys")).unwrap_err();
    assert!(matches!(missing, TrustedKeysProblem::Unreadable(_)));
    fs::write(at.join("long"), vec![b'#'; 1 << 17]).unwrap();
    assert!(matches!(TrustedKeys::from_file(&at.join("long")).unwrap_err(), TrustedKeysProblem::Unreadable(_)));
}

#[test]
fn an_unusable_signing_key_is_explained_and_never_shown() {
    let keys = Keys::new();
    let (public, private) = (keys.public_pem(), keys.private_pem());
    let at = keys.dir.path();
    let openssl = |script: &str| run(at, "sh", &["-c", script]);
    let secret = private.lines().nth(1).unwrap();
    let cases = [
        (String::new(), "it is empty"),
        (" \n".into(), "it is empty"),
        ("glpat-hunter2".into(), "it is not PEM"),
        (secret.into(), "it is not PEM"),
        (private.replace("-----END", ""), "it is not PEM"),
        (public.clone(), "it holds the public key"),
        (openssl("openssl pkey -in signing.pem -aes256 -passout pass:x"), "protected by a passphrase"),
        (openssl("openssl genpkey -algorithm x25519"), "another algorithm"),
        (openssl("openssl genpkey -algorithm ed448"), "another algorithm"),
        (openssl("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"), "another algorithm"),
        (openssl("openssl genrsa -traditional 1024 2>/dev/null"), "something else than a private key"),
        (private.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"), "something else than a private key"),
        (format!("{private}{private}"), "several keys"),
        (format!("{private}{public}"), "several keys"),
        (private.replace(secret, &secret[..60]), "its key is damaged"),
        (private.replace(secret, "*"), "its key is damaged"),
    ];
    for (text, explanation) in cases {
        let refused = SigningKey::from_pem(&text.into()).unwrap_err();
        let shown = format!("{refused} {refused:?}");
        assert!(shown.contains(explanation), "{explanation}: {shown}");
        assert!(![secret, "hunter2"].iter().any(|text| shown.contains(text)), "{shown}");
    }
    let missing = SigningKey::from_file(Path::new("/nonexistent/key")).unwrap_err();
    assert!(matches!(missing, SigningKeyProblem::Unreadable(_)));
}

#[test]
fn a_signing_key_is_read_whatever_is_around_it_and_never_shown() {
    let keys = Keys::new();
    let (private, id) = (keys.private_pem(), keys.signing().id());
    let secret = private.lines().nth(1).unwrap();
    let text = run(keys.dir.path(), "openssl", &["pkey", "-in", "signing.pem", "-text"]);
    for text in [format!("\u{feff}# of the near side\r\n{private}"), text, private.replace('\n', " ")] {
        let key = SigningKey::from_pem(&text.into()).unwrap();
        assert_eq!((key.id(), format!("{key:?}")), (id, format!("SigningKey({id})")));
    }
    let shown = crate::text::remote_text(format!("you sent {secret}.").as_bytes());
    assert_eq!(shown, "you sent [secret].");
}
