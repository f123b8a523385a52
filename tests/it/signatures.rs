//! Who made an object: what the producer signs, and what the consumer and `restore` make of it. OpenSSL makes the keys and
//! judges the signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::archive::{self, Naming, Packs};
use testbed::judge;
use testbed::seaweed::Seaweed;
use testbed::world::World;

use crate::support::{
    Daemon, Run, assert_arrived, assert_far_is_clean, consumer, files_below, keys, pass, pass_with, program, run,
    tar_key, zip_key,
};

/// What is signed begins with this.
const PREFIX: &[u8] = b"git-partition-sync manifest v1\0";

/// How much of an object `list -signatures` reads, in bytes.
const START_BYTES: u64 = 256 << 10;

/// A key pair of OpenSSL's, in files.
pub struct Signer {
    private: PathBuf,
    public: PathBuf,
}

impl Signer {
    pub fn new(world: &World, name: &str) -> Self {
        let at = world.scratch().unwrap();
        let (private, public) = (at.join(format!("{name}.pem")), at.join(format!("{name}.pub")));
        openssl(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&private));
        openssl(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public));
        Self { private, public }
    }

    pub fn file(&self) -> &str {
        self.private.to_str().unwrap()
    }

    /// The public key, as TRUSTED_KEYS takes it.
    pub fn public_key(&self) -> String {
        fs::read_to_string(&self.public).unwrap()
    }

    /// OpenSSL's signature of a manifest.
    pub fn sign(&self, manifest: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let [signed, signature] = ["signed", "signature"].map(|name| folder.path().join(name));
        fs::write(&signed, [PREFIX, manifest].concat()).unwrap();
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(&self.private).arg("-in").arg(&signed);
        openssl(command.arg("-out").arg(&signature));
        fs::read(signature).unwrap()
    }

    /// Whether OpenSSL takes this signature of a manifest.
    fn verifies(&self, manifest: &[u8], signature: &[u8]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (signed, signature_file) = (folder.path().join("signed"), folder.path().join("signature"));
        fs::write(&signed, [PREFIX, manifest].concat()).unwrap();
        fs::write(&signature_file, signature).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(&self.public);
        openssl.arg("-sigfile").arg(&signature_file).arg("-in").arg(&signed).output().unwrap().status.success()
    }
}

fn openssl(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The id of the key that an object names, as it is shown.
fn key_id(signature: &[u8]) -> String {
    signature[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest in an object, and its signature.
fn manifest(world: &World, key: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = world.unpack(key).unwrap().join(".git/git-partition-sync");
    (fs::read(folder.join("manifest.json")).unwrap(), fs::read(folder.join("manifest.sig")).unwrap())
}

/// A project on its way to `far/app@main`, and the groups over there.
fn world() -> World {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    world
}

/// A pass of the producer that signs.
pub fn signed_pass(world: &World, signer: &Signer) -> Run {
    pass_with(world, "SIGNING_KEY_FILE", signer.file()).succeeded()
}

/// A pass of the consumer that trusts these keys.
pub fn trusting(world: &World, keys: &str) -> Run {
    consumer(world, &["-run-once"]).env("TRUSTED_KEYS", keys).output().unwrap().into()
}

/// Published after each other, so `previous_sha` and times tell of the order.
#[test]
fn a_signed_object_says_what_it_is_and_openssl_agrees() {
    for format in ["zip", "tar.gz"] {
        let world = world();
        let signer = Signer::new(&world, "signing");
        let source = world.source.repo("near/app").unwrap();
        let publish = || {
            let mut producer = program(&world, &["-run-once"]);
            producer.env("SIGNING_KEY_FILE", signer.file()).env("ARCHIVE_FORMAT", format);
            Run::from(producer.output().unwrap()).succeeded();
            let object = world.bucket().unwrap().list().unwrap().remove(0);
            (source.head("main").unwrap(), object)
        };
        let (mut previous, mut before) = (String::new(), String::new());
        for _ in 0..2 {
            let (head, object) = publish();
            let expected = if format == "zip" { zip_key } else { tar_key };
            assert_eq!(object.key, expected("far/app", "main", &head));
            let (json, signature) = manifest(&world, &object.key);
            let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let published = read["published"].as_str().unwrap().to_owned();
            let is_a_time = published.len() == "2026-11-23T02:56:25.258Z".len() && published.ends_with('Z');
            assert!(is_a_time && published > before, "{published} after {before}");
            assert_eq!(
                String::from_utf8(json.clone()).unwrap(),
                format!(
                    r#"{{"version":1,"group":"far","project_name":"app","branch":"main","commit_sha":"{head}",{previous}"published":"{published}"}}"#
                )
            );
            assert_eq!(signature.len(), 72);
            assert!(signer.verifies(&json, &signature[8..]));
            assert!(!Signer::new(&world, "other").verifies(&json, &signature[8..]));
            previous = format!(r#""previous_sha":"{head}","#);
            before = published;
            source.commits("main", 1).unwrap();
        }
    }
}

#[test]
fn without_a_key_an_object_has_no_manifest() {
    let world = world();
    pass(&world).succeeded();
    let content = world.unpack(&keys(&world)[0]).unwrap();
    assert!(!content.join(".git/git-partition-sync").exists());
}

#[test]
fn signed_objects_arrive_whether_or_not_anybody_checks() {
    let world = world();
    let signer = Signer::new(&world, "signing");
    let source = world.source.repo("near/app").unwrap();
    // As a first crossing, and to a branch that exists.
    for _ in 0..2 {
        for format in ["zip", "tar.gz"] {
            let head = source.commits("main", 1).unwrap();
            let mut producer = program(&world, &["-run-once"]);
            producer.env("SIGNING_KEY_FILE", signer.file()).env("ARCHIVE_FORMAT", format);
            Run::from(producer.output().unwrap()).succeeded();
            let id = key_id(&manifest(&world, &keys(&world)[0]).1);
            trusting(&world, &signer.public_key()).succeeded().logged(&format!("signed by {id}"));
            assert_arrived(&world, "far/app", "main", &head);
        }
    }
    let head = source.commits("main", 1).unwrap();
    signed_pass(&world, &signer);
    let run = Run::from(consumer(&world, &["-run-once"]).output().unwrap()).succeeded();
    assert!(run.logged(", not checked").log.contains("delivered far/app@main"));
    assert_arrived(&world, "far/app", "main", &head);
}

/// The far side of the Go program knows nothing of manifests.
#[test]
fn the_go_consumer_takes_signed_objects_as_before() {
    let world = world();
    let signer = Signer::new(&world, "signing");
    let mut producer = program(&world, &["-run-once"]);
    producer.env("SIGNING_KEY_FILE", signer.file()).env("ARCHIVE_FORMAT", "tar.gz");
    Run::from(producer.output().unwrap()).succeeded();
    world.consumer().unwrap().pass().unwrap();
    assert_arrived(&world, "far/app", "main", &world.source.repo("near/app").unwrap().head("main").unwrap());
}

#[test]
fn what_no_trusted_key_signed_is_refused_by_name_and_others_are_served() {
    let world = world();
    let signer = Signer::new(&world, "signing");
    signed_pass(&world, &signer);
    let source = world.source.repo("near/app").unwrap();
    let head = source.head("main").unwrap();

    // Unsigned; signed for another destination; with a signature of the wrong length, and with one that does not fit.
    world.put_head(&source, "main", "far/unsigned", "main", Naming::Zip).unwrap();
    let bucket = world.bucket().unwrap();
    let signed = bucket.get(&zip_key("far/app", "main", &head)).unwrap();
    bucket.put(&zip_key("far/moved", "main", &head), signed).unwrap();
    for (destination, signature) in [("far/short", &[0; 9][..]), ("far/forged", &[0; 72])] {
        let folder = world.unpack(&zip_key("far/app", "main", &head)).unwrap();
        fs::write(folder.join(".git/git-partition-sync/manifest.sig"), signature).unwrap();
        world.put_object(destination, "main", &head, Naming::Zip, &zipped(&folder)).unwrap();
    }
    let run = trusting(&world, &signer.public_key()).failed().logged("delivered=1");
    assert_arrived(&world, "far/app", "main", &head);
    for (destination, said) in [
        ("far/unsigned", "it is not signed, and TRUSTED_KEYS takes only what is"),
        ("far/moved", "its manifest is of another destination than its name says"),
        ("far/short", "its signature is not 72 bytes long"),
        ("far/forged", "it is signed with the key 0000000000000000, which is not in TRUSTED_KEYS"),
    ] {
        let lines = run.lines_with(&format!("failed: {destination}@main"));
        assert!(lines.len() == 1 && lines[0].contains(said), "{destination}: {}", run.log);
        // An object without a signature has no public key that could be added.
        let (adds, is_unsigned) = (lines[0].contains("add its public key to"), destination == "far/unsigned");
        assert!(
            !(adds && is_unsigned) && is_unsigned == lines[0].contains("no key in TRUSTED_KEYS fits"),
            "{}",
            lines[0]
        );
        assert_eq!(world.far_head(destination, "main"), None);
        assert_far_is_clean(&world, destination);
    }
}

#[test]
fn another_key_is_refused_until_both_are_trusted() {
    let world = world();
    let (signer, other) = (Signer::new(&world, "signing"), Signer::new(&world, "other"));
    let source = world.source.repo("near/app").unwrap();
    let head = source.head("main").unwrap();
    signed_pass(&world, &signer);
    let id = key_id(&manifest(&world, &zip_key("far/app", "main", &head)).1);
    trusting(&world, &signer.public_key()).succeeded().logged(&format!("signed by {id}"));
    let next = source.commits("main", 1).unwrap();
    signed_pass(&world, &other);
    let theirs = key_id(&manifest(&world, &zip_key("far/app", "main", &next)).1);
    assert_ne!(theirs, id);
    trusting(&world, &signer.public_key()).failed().logged(&format!("signed with the key {theirs}, which is not in"));
    assert_arrived(&world, "far/app", "main", &head);
    let both = signer.public_key() + &other.public_key();
    trusting(&world, &both).succeeded().logged("delivered=1").logged(&format!("signed by {theirs}"));
    assert_arrived(&world, "far/app", "main", &next);
}

/// The repository in a folder as a zip archive of the contract.
pub fn zipped(content: &Path) -> Vec<u8> {
    let archive = tempfile::tempdir().unwrap().keep().join("archive");
    let script = "\
import os, sys, zipfile
names = [os.path.relpath(os.path.join(at, name), sys.argv[2]) for at, _, names in os.walk(sys.argv[2]) for name in names]
rank = lambda name: (name.endswith('.idx'), name.endswith('.pack'), name.endswith('.sig'))
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_STORED) as archive:
    for name in sorted(names, key=rank):
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, 0o100644 << 16
        archive.writestr(entry, open(os.path.join(sys.argv[2], name), 'rb').read())";
    let output = Command::new("python3").args(["-c", script]).arg(&archive).arg(content).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::read(archive).unwrap()
}

#[test]
fn a_key_that_comes_into_the_file_is_trusted_at_once_and_without_the_file_nothing_is_taken() {
    let world = world();
    let (old, new) = (Signer::new(&world, "old"), Signer::new(&world, "new"));
    let trusted = world.scratch().unwrap().join("trusted");
    fs::write(&trusted, old.public_key()).unwrap();
    signed_pass(&world, &new);
    let mut command = consumer(&world, &["-reconcile-sleep-time=10ms"]);
    command.env("TRUSTED_KEYS_FILE", &trusted);
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("failed: far/app@main", 1);
    daemon.wait_until_logged("blocked: far/app@main", 1);
    fs::write(&trusted, format!("# trusted until the switch\n{}{}", old.public_key(), new.public_key())).unwrap();
    daemon.wait_until_logged("delivered far/app@main", 1);
    fs::remove_file(&trusted).unwrap();
    daemon.wait_until_logged("cannot read the trusted keys", 1);
    let source = world.source.repo("near/app").unwrap();
    let (before, next) = (source.head("main").unwrap(), source.commits("main", 1).unwrap());
    signed_pass(&world, &new);
    let failed = daemon.log().matches("cannot read the trusted keys").count();
    daemon.wait_until_logged("cannot read the trusted keys", failed + 2);
    assert_arrived(&world, "far/app", "main", &before);
    fs::write(&trusted, new.public_key()).unwrap();
    daemon.wait_until_logged("delivered far/app@main", 2);
    assert_arrived(&world, "far/app", "main", &next);
    daemon.stop().succeeded();
}

/// The consumer's `list -signatures`, with nothing that only delivering needs.
fn list_signatures(world: &World, arguments: &[&str], trusted: &str) -> Run {
    let mut command = consumer(world, &["list", "-signatures"]);
    for name in ["GITLAB_BASE_URL", "GITLAB_USERNAME", "GITLAB_TOKEN", "WORKDIR"] {
        command.env_remove(name);
    }
    command.args(arguments).env("TRUSTED_KEYS", trusted).output().unwrap().into()
}

/// The last cell of a destination's line, and those of the line in full.
fn signed_by<'a>(run: &'a Run, destination: &str) -> &'a str {
    let line = run.out.lines().find(|line| line.starts_with(destination));
    line.unwrap_or_else(|| panic!("no {destination} in {}", run.out)).rsplit("  ").next().unwrap()
}

#[test]
fn on_seaweedfs_list_says_who_signed_what_each_destination_rests_on() {
    assert!(Seaweed::is_installed(), "SeaweedFS is not installed: `make test` installs it and runs this");
    let world =
        World::builder().seaweed().setting("CROSSING", "incremental").setting("ARCHIVE_FORMAT", "zip").start().unwrap();
    let (signer, next) = (Signer::new(&world, "signing"), Signer::new(&world, "next"));
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 7).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let first = source.head("main").unwrap();
    signed_pass(&world, &signer);
    let whole = zip_key("far/app", "main", &first);
    let id = key_id(&manifest(&world, &whole).1);
    world.put_head(&source, "main", "far/plain", "main", Naming::Tar).unwrap();
    let bucket = world.bucket().unwrap();
    bucket.put(&zip_key("far/moved", "main", &first), bucket.get(&whole).unwrap()).unwrap();
    bucket.put(&zip_key("far/odd", "main", &first), "not encrypted").unwrap();

    let trusted = list_signatures(&world, &[], &signer.public_key()).failed();
    let all = [("far/app", &*id), ("far/plain", "refused"), ("far/moved", "refused"), ("far/odd", "unknown")];
    for (destination, expected) in all {
        assert_eq!(signed_by(&trusted, destination), expected, "{}", trusted.out);
    }
    for said in [
        "far/plain@main: refused, it is not signed, and TRUSTED_KEYS takes only what is",
        "far/moved@main: its manifest is of another destination than its name says",
        "far/odd@main: it is not encrypted with age",
        "the signatures of 4 objects were read\n",
    ] {
        assert!(trusted.out.contains(said), "no {said:?} in {}", trusted.out);
    }
    let one = list_signatures(&world, &["far/app"], &signer.public_key()).succeeded();
    assert_eq!(signed_by(&one, "far/app"), id);

    // Whatever else is there would be retired.
    keys(&world).iter().filter(|key| **key != whole).for_each(|key| bucket.delete(key).unwrap());
    // Increments have signatures of their own, also after the key was changed.
    source.commits("main", 1).unwrap();
    signed_pass(&world, &signer);
    assert_eq!(signed_by(&list_signatures(&world, &["far/app"], &signer.public_key()).succeeded(), "far/app"), id);
    source.commits("main", 1).unwrap();
    signed_pass(&world, &next);
    let both = signer.public_key() + &next.public_key();
    let listed = list_signatures(&world, &["far/app"], &both).succeeded();
    let json = list_signatures(&world, &["far/app", "-output=json"], &both).succeeded().json();
    let objects = json["objects"].as_array().unwrap();
    let said: Vec<_> = objects.iter().map(|it| [&it["format"], &it["origin"], &it["problem"]]).collect();
    let null = serde_json::Value::Null;
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|it| it[1] == "signed" && *it[2] == null), "{json:#}");
    let theirs = objects.iter().find_map(|it| it["signed_by"].as_str().filter(|key| *key != id)).unwrap();
    assert_eq!(signed_by(&listed, "far/app"), format!("{theirs} +1"), "{}", listed.out);
    let listed = list_signatures(&world, &["far/app"], &signer.public_key()).failed();
    assert_eq!(signed_by(&listed, "far/app"), "refused");
    assert!(
        listed.out.contains(&format!("far/app@main: refused, it is signed with the key {theirs}")),
        "{}",
        listed.out
    );
}

#[test]
fn list_tells_who_signed_large_archives_of_both_formats_and_that_it_cannot_open_another_s() {
    for format in ["zip", "tar.gz"] {
        let world = world();
        let signer = Signer::new(&world, "signing");
        world.source.repo("near/app").unwrap().fill_incompressible(3, 7).unwrap();
        let mut producer = program(&world, &["-run-once"]);
        producer.env("SIGNING_KEY_FILE", signer.file()).env("ARCHIVE_FORMAT", format);
        Run::from(producer.output().unwrap()).succeeded();
        let id = key_id(&manifest(&world, &keys(&world)[0]).1);
        let listed = list_signatures(&world, &[], &signer.public_key()).succeeded();
        assert_eq!(signed_by(&listed, "far/app"), id);
        let theirs = World::start().unwrap();
        let identity = fs::read_to_string(theirs.identity_file()).unwrap();
        let mut command = consumer(&world, &["list", "-signatures"]);
        let listed = Run::from(command.env("PRIVATE_KEY", identity).output().unwrap()).failed();
        assert_eq!(signed_by(&listed, "far/app"), "unknown");
        assert!(listed.out.contains("far/app@main: none of the given identities decrypts it"), "{}", listed.out);
    }
}

#[test]
fn list_reads_signatures_only_if_asked_to_and_only_the_beginning_of_what_counts() {
    let world = world();
    let signer = Signer::new(&world, "signing");
    let source = world.source.repo("near/app").unwrap();
    source.fill_incompressible(3, 7).unwrap();
    let head = source.head("main").unwrap();
    signed_pass(&world, &signer);
    let id = key_id(&manifest(&world, &zip_key("far/app", "main", &head)).1);
    let outdated = zip_key("far/app", "main", &"c".repeat(40));
    world.s3().put_at(&outdated, "something", std::time::SystemTime::UNIX_EPOCH);
    let reads = || {
        let requests = world.s3().requests().into_iter();
        requests.filter(|request| request.is("GetObject")).map(|request| request.response_bytes).collect::<Vec<_>>()
    };
    world.s3().clear_requests();
    let plain = Run::from(consumer(&world, &["list"]).output().unwrap()).succeeded();
    assert!(!plain.out.contains("SIGNED BY") && !plain.out.contains(&id), "{}", plain.out);
    assert!(reads().is_empty());

    let unchecked = list_signatures(&world, &[], "").succeeded();
    assert_eq!(signed_by(&unchecked, "far/app"), id);
    assert!(unchecked.out.contains("none was checked, because TRUSTED_KEYS is not set"), "{}", unchecked.out);
    let read = reads();
    assert!(read.len() == 1 && read[0] <= START_BYTES, "{read:?} of {} bytes", 3 << 20);
    let json = list_signatures(&world, &["-output=json"], &signer.public_key()).succeeded().json();
    let objects = json["objects"].as_array().unwrap();
    let of = |key: &str| objects.iter().find(|object| object["key"] == key).unwrap();
    assert_eq!(of(&outdated)["origin"], serde_json::Value::Null, "it was not read");
    let counting = of(&zip_key("far/app", "main", &head));
    assert_eq!((&counting["origin"], &counting["signed_by"]), (&"signed".into(), &id.into()));
    let outdated = list_signatures(&world, &["-outdated"], &signer.public_key()).failed();
    assert_eq!(signed_by(&outdated, "  outdated"), "unknown", "{}", outdated.out);

    // What opens objects is needed, and nothing else is done without it.
    let mut command = consumer(&world, &["list", "-signatures"]);
    command.env_remove("PRIVATE_KEY").env_remove("PRIVATE_KEY_FILE");
    assert!(Run::from(command.output().unwrap()).refused().log.contains("PRIVATE_KEY"));
    assert!(run(&world, &["list", "-signatures"]).refused().log.contains("-signatures"), "the producer cannot");
}

#[test]
fn restore_says_who_made_each_object() {
    let world = world();
    let (signer, other) = (Signer::new(&world, "signing"), Signer::new(&world, "other"));
    signed_pass(&world, &signer);
    let source = world.source.repo("near/app").unwrap();
    world.put_head(&source, "main", "far/plain", "main", Naming::Tar).unwrap();
    let head = source.head("main").unwrap();
    let (json, signature) = manifest(&world, &zip_key("far/app", "main", &head));
    let id = key_id(&signature);
    let published = serde_json::from_slice::<serde_json::Value>(&json).unwrap()["published"].clone();
    let restore = |arguments: &[&str], trusted: &str| {
        let identity = world.identity_file().to_string_lossy().into_owned();
        let mut command = program(&world, &["restore", "-identity", &identity]);
        Run::from(command.args(arguments).env("TRUSTED_KEYS", trusted).output().unwrap())
    };
    let line = |run: &Run, destination: &str| {
        let line = run.out.lines().find(|line| line.contains(destination));
        line.unwrap_or_else(|| panic!("{}", run.out)).to_owned()
    };
    let unchecked = restore(&[], "").succeeded();
    assert!(
        line(&unchecked, "far/app").ends_with(&format!("Git objects, signed by {id}, not checked")),
        "{}",
        unchecked.out
    );
    assert!(line(&unchecked, "far/plain").ends_with("Git objects, unsigned"), "{}", unchecked.out);
    let checked = restore(&[], &signer.public_key()).failed();
    assert!(line(&checked, "far/app").ends_with(&format!("Git objects, signed by {id}")), "{}", checked.out);
    let plain = line(&checked, "far/plain");
    assert!(plain.starts_with("BAD   ") && plain.contains("refused, it is not signed"), "{plain}");
    assert!(plain.contains("REPUBLISH=far/plain@main"), "{plain}");
    assert!(checked.out.ends_with("1 good, 1 bad, 0 missing\n"), "{}", checked.out);
    let stranger = restore(&["far/app"], &other.public_key()).failed();
    assert!(line(&stranger, "far/app").contains(&format!("signed with the key {id}, which is not in TRUSTED_KEYS")));

    let said = |run: Run| {
        let objects = run.json()["objects"].as_array().unwrap().clone();
        let of = |object: &serde_json::Value| {
            [&object["good"], &object["origin"], &object["signed_by"], &object["published"]].map(Clone::clone)
        };
        objects.iter().map(of).collect::<Vec<_>>()
    };
    let (yes, no, null) = (true.into(), false.into(), serde_json::Value::Null);
    let id = serde_json::Value::from(id);
    assert_eq!(
        said(restore(&["-output=json"], "").succeeded()),
        [
            [&yes, &"unchecked".into(), &id, &published].map(Clone::clone),
            [&yes, &"unsigned".into(), &null, &null].map(Clone::clone)
        ]
    );
    assert_eq!(
        said(restore(&["-output=json"], &signer.public_key()).failed()),
        [
            [&yes, &"signed".into(), &id, &published].map(Clone::clone),
            [&no, &"refused".into(), &null, &null].map(Clone::clone)
        ]
    );
    // A file does the same.
    let file = signer.public.to_str().unwrap();
    assert_eq!(said(restore(&["-output=json", "-trusted-keys-file", file, "far/app"], "").succeeded()).len(), 1);
}

#[test]
fn checks_name_the_keys_of_both_sides() {
    let world = world();
    let (signer, other) = (Signer::new(&world, "signing"), Signer::new(&world, "other"));
    signed_pass(&world, &signer);
    let id = key_id(&manifest(&world, &keys(&world)[0]).1);
    let mut check = program(&world, &["check"]);
    let checked = Run::from(check.env("SIGNING_KEY_FILE", signer.file()).output().unwrap()).succeeded();
    assert!(checked.out.contains(&format!("✓ signing key      {id}: objects are signed with it")), "{}", checked.out);
    let both = other.public_key() + &signer.public_key();
    let mut check = consumer(&world, &["check"]);
    let checked = Run::from(check.env("TRUSTED_KEYS", both).output().unwrap());
    let line = checked.out.lines().find(|line| line.contains("trusted keys")).unwrap();
    assert!(
        line.starts_with("✓ trusted keys     2: ") && line.contains(&id) && line.ends_with("; nothing else is taken"),
        "{line}"
    );
    assert!(checked.out.contains("the newest object can be opened, and a trusted key signed it\n"), "{}", checked.out);
}

#[test]
fn a_check_says_that_objects_are_unsigned_or_signed_by_another() {
    let world = world();
    let (signer, other) = (Signer::new(&world, "signing"), Signer::new(&world, "other"));
    let check = |keys: &str| {
        let mut check = consumer(&world, &["check"]);
        Run::from(check.env("TRUSTED_KEYS", keys).output().unwrap()).failed().out
    };
    pass(&world).succeeded();
    let unsigned = check(&signer.public_key());
    let said = "✗ bucket: read     1 of 1 object is not signed, and TRUSTED_KEYS takes only what is\n";
    assert!(unsigned.contains(said) && unsigned.contains("SIGNING_KEY_FILE"), "{unsigned}");
    // One more that is signed, for two different reasons.
    world.project("near/lib").unwrap();
    world.sync("near/lib", "main", "far/lib", "main").unwrap();
    signed_pass(&world, &signer);
    let both = check(&other.public_key());
    assert!(both.contains("2 of 2 objects cannot be delivered\n"), "{both}");
    assert!(both.contains("far/app@main: refused, it is not signed"), "{both}");
    let mut again = program(&world, &["-run-once", "-republish=all"]);
    Run::from(again.env("SIGNING_KEY_FILE", signer.file()).output().unwrap()).succeeded();
    let id = key_id(&manifest(&world, &keys(&world)[0]).1);
    let foreign = check(&other.public_key());
    let said = format!("✗ bucket: read     2 of 2 objects are signed with {id}, which is not in TRUSTED_KEYS\n");
    assert!(foreign.contains(&said) && foreign.contains("  far/lib@main\n"), "{foreign}");
}

#[test]
fn a_wrong_key_is_refused_before_any_request() {
    let world = world();
    let signer = Signer::new(&world, "signing");
    let refused = pass_with(&world, "SIGNING_KEY_FILE", signer.public.to_str().unwrap()).refused();
    refused.logged("SIGNING_KEY_FILE: ").logged("it holds the public key");
    trusting(&world, &fs::read_to_string(&signer.private).unwrap()).refused().logged("line 1 begins a private key");
    assert_eq!((world.s3().requests().len(), world.graphql.requests().len()), (0, 0));
}

#[test]
fn the_signing_key_stays_where_it_is() {
    let world = World::builder().setting("RUST_LOG", "trace").start().unwrap();
    world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let signer = Signer::new(&world, "signing");
    let pem = fs::read_to_string(&signer.private).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    // The seed alone, as bytes and as base64.
    let der = {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.decode(secret).unwrap()
    };
    let has_it = |content: &[u8]| {
        [secret.as_bytes(), &der[16..]].iter().any(|needle| memchr::memmem::find(content, needle).is_some())
    };
    let run = signed_pass(&world, &signer);
    assert!(!has_it(run.log.as_bytes()) && !has_it(run.out.as_bytes()));
    let content = world.unpack(&keys(&world)[0]).unwrap();
    let files = files_below(&content).into_iter().chain(files_below(&world.workdir()));
    for file in files {
        assert!(!has_it(&fs::read(&file).unwrap()), "{}", file.display());
    }
}

/// An archive that somebody else made, with a manifest that the producer did not sign, is read by those who trust nobody.
#[test]
fn archives_of_others_with_and_without_a_manifest_are_taken_by_those_who_trust_nobody() {
    let world = world();
    let source = world.source.repo("near/app").unwrap();
    let head = source.head("main").unwrap();
    let archive = archive::zip(&source, &head, "main", Packs::One).unwrap();
    world.put_object("far/app", "main", &head, Naming::Zip, &archive).unwrap();
    let folder = world.unpack(&zip_key("far/app", "main", &head)).unwrap();
    fs::create_dir(folder.join(".git/git-partition-sync")).unwrap();
    for (n, manifest) in [r#"{"version":2}"#, "not JSON", ""].into_iter().enumerate() {
        fs::write(folder.join(".git/git-partition-sync/manifest.json"), manifest).unwrap();
        let destination = format!("far/p{n}");
        world.put_object(&destination, "main", &head, Naming::Zip, &zipped(&folder)).unwrap();
        let run = Run::from(consumer(&world, &["-run-once"]).output().unwrap()).succeeded();
        assert!(run.log.contains("origin=unsigned"), "{}", run.log);
        assert_arrived(&world, &destination, "main", &head);
    }
    let restored = run(&world, &["restore", "-identity", &world.identity_file().to_string_lossy()]).succeeded();
    assert!(restored.out.ends_with("4 good, 0 bad, 0 missing\n"), "{}", restored.out);
    judge::git_fsck(&folder).unwrap();
}

/// Everything that was ever in the bucket is put there again, alone and together, while the far branch is at the last commit.
#[test]
fn no_earlier_signed_object_is_taken_again() {
    let world = World::builder().setting("CROSSING", "incremental").start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 7).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let signer = Signer::new(&world, "near");
    let bucket = world.bucket().unwrap();
    let mut ever: Vec<(String, Vec<u8>)> = vec![];
    let mut cross = || {
        signed_pass(&world, &signer).succeeded();
        for key in keys(&world) {
            let object = (key.clone(), bucket.get(&key).unwrap());
            if !ever.contains(&object) {
                ever.push(object);
            }
        }
        trusting(&world, &signer.public_key()).succeeded();
        source.head("main").unwrap()
    };
    let first = cross();
    source.commits("main", 1).unwrap();
    cross();
    source.commits("main", 1).unwrap();
    let retracted = cross();
    // A commit is taken back, and others come.
    source.git(&["update-ref", "refs/heads/main", &first]).unwrap();
    cross();
    source.commits("main", 1).unwrap();
    cross();
    source.commits("main", 1).unwrap();
    let last = cross();
    assert_arrived(&world, "far/app", "main", &last);
    let now: Vec<_> = keys(&world);
    let current: Vec<_> = now.iter().map(|key| (key.clone(), bucket.get(key).unwrap())).collect();
    let hold = |objects: &[(String, Vec<u8>)]| {
        keys(&world).iter().for_each(|key| bucket.delete(key).unwrap());
        objects.iter().for_each(|(key, object)| bucket.put(key, object.clone()).unwrap());
    };
    let earlier: Vec<_> = ever.iter().filter(|object| !current.contains(object)).cloned().collect();
    assert!(earlier.len() > 2 && earlier.iter().any(|(key, _)| key.contains(".zip")), "{}", earlier.len());
    for object in &earlier {
        hold(std::slice::from_ref(object));
        trusting(&world, &signer.public_key());
        assert_arrived(&world, "far/app", "main", &last);
    }
    hold(&earlier);
    let run = trusting(&world, &signer.public_key()).failed();
    run.logged("an earlier object was put back into the bucket");
    assert_arrived(&world, "far/app", "main", &last);
    assert_ne!(retracted, last);
    // Not even where there is no branch any more.
    let far = world.destination.repo("far/app").unwrap();
    far.delete_branch("main").unwrap();
    trusting(&world, &signer.public_key()).failed();
    assert_eq!(world.far_head("far/app", "main"), None);
    // The whole history first, as what copies a bucket has to.
    let mut current = current;
    current.sort_by_key(|(key, _)| key.ends_with(".inc.age"));
    hold(&current);
    trusting(&world, &signer.public_key()).succeeded();
    assert_arrived(&world, "far/app", "main", &last);
}

/// Keys that are changed in the wrong order, and a second producer without one: what is refused says what to do, and that heals.
#[test]
fn with_increments_each_mistake_with_keys_is_healed_by_what_the_log_says() {
    let world = World::builder().setting("CROSSING", "incremental").start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 7).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let (old, new) = (Signer::new(&world, "old"), Signer::new(&world, "new"));
    let republish = |signer: &Signer| {
        let mut producer = program(&world, &["-run-once", "-republish=all"]);
        Run::from(producer.env("SIGNING_KEY_FILE", signer.file()).output().unwrap()).succeeded();
    };
    let first = source.head("main").unwrap();
    signed_pass(&world, &old);
    trusting(&world, &old.public_key()).succeeded();

    // The near side switches before the far side trusts the new key.
    let second = source.commits("main", 1).unwrap();
    signed_pass(&world, &new).logged("crosses as an increment on");
    trusting(&world, &old.public_key()).failed().logged("add its public key if the near side has it");
    assert_arrived(&world, "far/app", "main", &first);
    // The far side trusts the new one alone: increments go on, and a new branch needs what the old key signed.
    trusting(&world, &new.public_key()).succeeded();
    assert_arrived(&world, "far/app", "main", &second);
    world.destination.repo("far/app").unwrap().delete_branch("main").unwrap();
    trusting(&world, &new.public_key()).failed().logged("publish again (REPUBLISH)");
    assert_eq!(world.far_head("far/app", "main"), None);
    republish(&new);
    trusting(&world, &new.public_key()).succeeded();
    assert_arrived(&world, "far/app", "main", &second);

    // A second producer does not sign. What the first one puts on top does not make up for that.
    source.commits("main", 1).unwrap();
    pass(&world).succeeded();
    let next = source.commits("main", 1).unwrap();
    signed_pass(&world, &new).logged("crosses as an increment on");
    let refused = trusting(&world, &new.public_key()).failed();
    refused.logged("it is not signed").logged("set SIGNING_KEY_FILE on the near side and publish it again");
    assert_arrived(&world, "far/app", "main", &second);
    republish(&new);
    trusting(&world, &new.public_key()).succeeded();
    assert_arrived(&world, "far/app", "main", &next);
}
