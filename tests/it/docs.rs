//! Documents that say what the program does keep up with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use git_partition_sync_producer::config::{CONSUMER, Fallback, Manual, PRODUCER};
use testbed::judge;
use testbed::world::World;

use crate::documents::{commands, increment, read, sh};
use crate::support::{Run, deliver_with, pass, program};

#[test]
fn the_list_of_settings_has_every_one_with_its_default() {
    assert_lists_settings("docs/settings.md", &PRODUCER);
}

#[test]
fn the_consumer_s_document_lists_every_setting_with_its_default() {
    assert_lists_settings("docs/consumer.md", &CONSUMER);
}

#[track_caller]
fn assert_lists_settings(document: &str, manual: &Manual) {
    let readme = read(document);
    for setting in manual.settings() {
        let variable = format!("`{}`", setting.variable);
        let row = readme.lines().find(|line| line.starts_with("| `") && line.contains(&variable));
        let row = row.unwrap_or_else(|| panic!("no row of the settings table begins with {variable}"));
        if let Fallback::Required | Fallback::Value(_) | Fallback::Found(_) = setting.default {
            let default = setting.default.to_string();
            assert!(row.to_lowercase().contains(&default.to_lowercase()), "the default {default} is not in: {row}");
        }
        for other in setting.also {
            assert!(readme.contains(other), "{other}, which is read where {variable} is unset, is not mentioned");
        }
    }
}

/// Of each kind of message a part that does not change, with the module that says it.
const MESSAGES: &[(&str, &[&str])] = &[
    ("reconcile", &["PUBLIC_KEY has changed"]),
    ("config", &["is still the example's replace-me", "is the example in age's documentation"]),
    ("config", &["is the address of GitLab's API", "is a post-quantum recipient", "is the recipient of an age plugin"]),
    ("config", &["the value of a switch follows an equals sign"]),
    ("config", &[" is set and means nothing", ": did you mean ", "is for a single dry run", "0 is any free port"]),
    ("telemetry", &["the line before came "]),
    ("retries", &["no answer from ", ", trying again ("]),
    ("commands", &["the bucket holds nothing of ", "no daemon answers on "]),
    ("git", &["points to a tag, not to a commit"]),
    ("net", &["(it says: "]),
    ("net", &["what was to be sent ended too early", "an upload cannot be sent a second time"]),
    (
        "git",
        &[
            "the Git server refuses the push: ",
            "the branch is gone meanwhile",
            "does not report what became of the branch",
            "the Git server does not report whether it takes a push",
            "the push broke off before everything was sent",
            "the push was sent, but no report of it came back",
            "is not a valid name of a branch",
            "cannot pass the pack on",
            "its repository cannot be read",
        ],
    ),
    ("net", &[", through the proxy ", "the server's answer is not TLS", "not the address of a proxy"]),
    ("git", &["GitLab refuses the login"]),
    ("publish", &["not tried: GitLab has refused the login for others"]),
    ("passes", &["the next pass waits because the login is refused"]),
    ("reconcile", &[" targets for the same reason"]),
    ("passes", &[" more for the same reason"]),
    ("net", &[": cannot read ", "holds no PEM certificate", "is not a bundle of PEM certificates"]),
    ("net", &["the server's certificate is not accepted", "the server's TLS is not accepted"]),
    (
        "config",
        &[": set both", "AWS has FIPS endpoints for its own servers alone", "would cross the network in the clear"],
    ),
    ("config", &["is an identity (secret key)", "is empty: put the query into it"]),
    ("config", &["set together with GRAPHQL_SERVER", "needs GRAPHQL_SERVER, and the target list is in TARGETS_FILE"]),
    ("reconcile", &["no target list from TARGETS_FILE"]),
    (
        "graphql",
        &[
            " is not a target list: ",
            "so it says nothing about the targets",
            "(is it misspelled? Write null for none)",
            "so the list beside them may lack something",
            " has more than ",
        ],
    ),
    ("config", &["needed with SHARD_COUNT=", "is not a number below SHARD_COUNT"]),
    ("descriptors", &["the limit on open files allows less concurrency than configured"]),
    ("threads", &["the limit on threads allows less concurrency than configured", "the system grants only "]),
    ("server", &["METRICS_SERVER_PORT: cannot listen on"]),
    ("workdir", &["another process is using", "others could read or plant repositories there"]),
    ("net", &["no connection to the server", "the server did not answer in time", "the connection broke off"]),
    ("net", &["no answer within", "the server redirects to", "which is not followed", "it is another kind of page"]),
    ("net", &["the answer is longer than", "it is broken or overloaded", "do not fit a header"]),
    ("graphql", &["the server reports: ", "is not what the query asks for", "the answer has no "]),
    ("graphql", &["the pull-request check cannot read the previous bundle from"]),
    ("reconcile", &["no target list from GRAPHQL_SERVER", "cannot read the query in", "cannot read a secret"]),
    ("reconcile", &["cannot look for unfinished uploads", "uploads were left unfinished"]),
    ("passes", &["stopped before the pass was complete"]),
    (
        "reconcile",
        &[
            "destinations without a target are kept for now",
            "retire guard: with this pass, ",
            "no record of earlier retirements under WORKDIR",
            "cannot read the record of earlier retirements",
            "cannot record under WORKDIR what was retired",
        ],
    ),
    ("bucket", &["no AWS credentials were found", "could not load the AWS credentials: "]),
    ("bucket", &["the AWS profile names a credential_process", "a login with a browser (SSO)"]),
    (
        "bucket",
        &[
            "it is a web page",
            "it has no ETag",
            "it has a body of another kind",
            "S3 does not say success with that status",
            "if it does not know checksums",
        ],
    ),
    ("bucket", &["is not well-formed XML", "the checksum of what S3 stored"]),
    (
        "reconcile",
        &["is not in the next listing of the bucket", "lost: ", "cannot read under WORKDIR what was uploaded last"],
    ),
    ("config", &["holds a space, a line end or another character", "is blank"]),
    ("config", &["holds a line end or another character that no header can hold"]),
    ("bucket", &["the token in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE holds a line end"]),
    (
        "bucket",
        &[
            "no answer in time",
            ", through the proxy ",
            "the connection failed: ",
            "is not S3's",
            "the answer ended before it was complete",
        ],
    ),
    (
        "bucket",
        &[
            "SignatureDoesNotMatch",
            "AuthorizationHeaderMalformed",
            "SlowDown",
            "list the bucket",
            "cannot record the upload under WORKDIR",
        ],
    ),
    (
        "git",
        &[
            "the answer is not Git's (its content type is",
            "the server does not speak Git's protocol version 2",
            "the Git server says: ",
            "the server's answer is malformed",
            "the server no longer has the commit",
        ],
    ),
    (
        "git",
        &[
            "the server sent an empty pack",
            "the pack that the server sent is damaged",
            "MAX_REPOSITORY_BYTES allows",
            "more than MEMORY_BUDGET_BYTES allows",
            "holds an object of more than",
        ],
    ),
    (
        "publish",
        &[
            "cannot make the archive",
            "is gone since it was probed",
            "is fetched afresh",
            "not finished within TARGET_TIMEOUT",
        ],
    ),
    (
        "reconcile",
        &[
            "uses Git LFS",
            "an earlier process ended while it decoded what is for",
            "does not descend from what was published before",
            "published, but outdated objects stay beside it",
        ],
    ),
    (
        "artifact",
        &[
            "it holds the public key",
            "it is not PEM",
            "it is protected by a passphrase",
            "it is the key of another algorithm than Ed25519",
            "it holds something else than a private key",
            "it holds several keys",
            "its key is damaged",
        ],
    ),
    (
        "artifact",
        &[
            "it holds no key",
            "begins a private key, which must not leave the near side",
            "is neither a public key nor a comment",
            "begins something else than a public key",
            "begins the key of another algorithm",
            "a public key that is damaged",
            "holds an age recipient",
        ],
    ),
    (
        "artifact",
        &[
            "it is not signed, and TRUSTED_KEYS takes only what is",
            "it is signed with the key ",
            ", which is not in TRUSTED_KEYS",
            "its signature does not fit",
            "its signature is not ",
            "its bundle ",
        ],
    ),
    ("model", &["its manifest is of another ", "its manifest has version ", "its manifest cannot be read"]),
    ("model", &["its manifest is longer than "]),
    ("deliver", &["cannot read the trusted keys"]),
    (
        "artifact",
        &[
            "none of the given identities decrypts it",
            "it is damaged or incomplete",
            "refused, its archive holds an entry",
            "refused, its archive holds the reference",
            "its repository is shallow",
        ],
    ),
    ("artifact", &["holds a recipient (a public key, age1…)", "is neither a secret key", "it holds no secret key"]),
    ("artifact", &["holds a secret key of a kind that is not used here"]),
    ("commands", &["is encrypted to an identity in", "exists already: move it away", "is not a safe folder name"]),
    ("git", &["is not of the kind that references to it expect"]),
    ("deliver", &["delivered ", "pass done, not everything is in sync", "stopped before "]),
    ("deliver", &["superseded: the object of ", "are not tried, because the far GitLab has refused the login"]),
    ("deliver", &["replaced: ", "does not descend from what the far branch was at", "held: "]),
    ("deliver", &[" destinations for the same reason"]),
    ("deliver", &["cannot push", "its object cannot be used", "cannot make the pack to push"]),
    ("deliver", &["cannot use WORKDIR for its object", "cannot keep which pushes were refused"]),
    ("workdir", &["cannot read which pushes were refused", "cannot remove what an earlier process left"]),
    ("plan", &["an earlier object was put back into the bucket, or the producer's clock was set back"]),
    ("plan", &["the far branch is where increments lead that are older than the whole object"]),
    ("plan", &["the bucket holds increments of it, but no whole history that they are on top of"]),
    ("git", &["the history that the server sent is incomplete", "the repository is shallow on the server"]),
    ("deliver", &["its increment cannot be used", "cannot keep when what was taken had been published"]),
    ("plan", &["which lies in the future: the clock of the producer, of S3 or of this machine "]),
    ("model", &["the far GitLab refuses a push: ", "cannot read the far GitLab's branches: "]),
    ("model", &["the far GitLab shows the user no such project, and did not create it in the group "]),
    ("model", &["the far GitLab is unreachable: not tried"]),
    (
        "plan",
        &[
            "the far GitLab has no such branch",
            "the far branch is at another commit",
            "it was refused before, and is tried again",
            "or at SIGUSR1)",
            "the bucket holds it in several spellings",
            "in its object's name",
            "instead of the 40 hexadecimal digits of a commit",
            "says 40 zeros instead of a commit",
        ],
    ),
];

/// Everything that is in a module of the crate's root, without its tests.
pub fn source_of(module: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
    let without_tests = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
    };
    let (mut text, mut folders) = (without_tests(&root.with_extension("rs")), vec![root]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                text += &without_tests(&path);
            }
        }
    }
    text
}

#[test]
fn what_the_program_says_is_explained_to_the_on_call() {
    // Messages may be broken into lines there.
    let joined = |text: String| text.split("\\\n").map(str::trim_start).collect::<String>();
    let operations = read("docs/operations.md");
    let mut gone = vec![];
    for &(module, messages) in MESSAGES {
        let source = joined(source_of(module));
        for message in messages {
            if !source.contains(message) {
                gone.push(format!("src/{module} does not say {message:?} any more"));
            }
            if !operations.contains(message.trim()) {
                gone.push(format!("docs/operations.md does not have {message:?}"));
            }
        }
    }
    assert!(gone.is_empty(), "{}", gone.join("\n"));
}

/// A document without its blocks of code.
fn prose(path: &Path) -> String {
    fs::read_to_string(path).unwrap().split("```").step_by(2).collect()
}

/// Where links can lead to in a document: its headings, as GitHub names them, and its own anchors.
fn anchors(prose: &str) -> BTreeSet<String> {
    let named = prose.split("<a id=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| {
        let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
        let text = line.trim_start_matches('#').trim().to_lowercase();
        text.chars().filter(kept).collect::<String>().replace(' ', "-")
    });
    named.chain(headings).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let at_the_top = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root.join(name));
    let documents = at_the_top.into_iter().chain(in_docs).filter(|path| path.extension().is_some_and(|it| it == "md"));
    let (mut links, mut broken) = (0, vec![]);
    for document in documents {
        let prose = prose(&document);
        for link in prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.starts_with("http") {
                continue;
            }
            links += 1;
            let to = if path.is_empty() { document.clone() } else { document.with_file_name(path) };
            let is_there = to.exists() && (anchor.is_empty() || anchors(&self::prose(&to)).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(links > 100, "{links} links found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The AWS client as far as the document uses it: the listing of a folder, and its objects by number.
const AWS: &str = r#"#!/bin/sh
case "$*" in
    "s3api list-objects-v2 --bucket git-sync --query Contents[].[LastModified,Key] --output text") cat "$OBJECTS/listing" ;;
    "s3api get-object --bucket git-sync --key "*" object.age")
        number=$(cut -f2 "$OBJECTS/listing" | grep -nxF "$6" | cut -d: -f1) && cp "$OBJECTS/$number" object.age ;;
    "s3 cp s3://git-sync/"*" object.age")
        number=$(cut -f2 "$OBJECTS/listing" | grep -nxF "${3#s3://git-sync/}" | cut -d: -f1) && cp "$OBJECTS/$number" object.age ;;
    *) echo "aws is called with $*" >&2; exit 1 ;;
esac
"#;

/// Puts into a folder what the document needs: an AWS client, the bucket's objects for it, and the identity.
#[track_caller]
fn equip(world: &World, place: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    let objects = place.join("objects");
    fs::create_dir_all(&objects).unwrap();
    let mut listing = String::new();
    for (object, number) in world.bucket().unwrap().list().unwrap().into_iter().zip(1..) {
        let time = object.last_modified.duration_since(UNIX_EPOCH).unwrap().as_millis();
        listing += &format!("{time}\t{}\n", object.key);
        fs::write(objects.join(format!("{number}")), world.bucket().unwrap().get(&object.key).unwrap()).unwrap();
    }
    fs::write(objects.join("listing"), listing).unwrap();
    fs::write(place.join("aws"), AWS).unwrap();
    fs::set_permissions(place.join("aws"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(world.identity_file(), place.join("far-side.key")).unwrap();
}

#[test]
fn restoring_by_hand_works_as_it_is_written() {
    let blocks = commands(&read("docs/operations.md"), "Restoring by hand");
    let [find, download, unzip, untar, inspect, apply, check] = &blocks[..] else { panic!("seven blocks") };
    for (format, unpack) in [("zip", unzip), ("tar.gz", untar)] {
        let settings = World::builder().setting("ARCHIVE_FORMAT", format).setting("CROSSING", "incremental");
        let world = settings.start().unwrap();
        for project in ["web", "api"] {
            world.project(&format!("near/{project}")).unwrap().commits("main", 2).unwrap();
            world.sync(&format!("near/{project}"), "main", &format!("mirror/platform/{project}"), "main").unwrap();
        }
        let source = world.source.repo("near/api").unwrap();
        source.fill_incompressible(1, 7).unwrap();
        let whole = source.head("main").unwrap();
        pass(&world).succeeded();
        let [between, head] = [(); 2].map(|()| {
            let commit = source.commits("main", 1).unwrap();
            pass(&world).succeeded().logged("crosses as an increment on");
            commit
        });

        let place = world.scratch().unwrap();
        equip(&world, &place);
        let far = place.join("far");
        let bare = far.join("mirror/platform/api.git");
        assert!(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&bare).status().unwrap().success());

        let attempt = |script: &str, key: &str| {
            let path = format!("{}:{}", place.display(), std::env::var("PATH").unwrap());
            let output = Command::new("sh")
                .args(["-euc", script])
                .current_dir(&place)
                .env_clear()
                .envs([("PATH", path.as_str()), ("HOME", "/nonexistent"), ("KEY", key)])
                .env("OBJECTS", place.join("objects"))
                // What the document pushes to is a folder here.
                .envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_VALUE_0", "https://far.example.com/")])
                .env("GIT_CONFIG_KEY_0", format!("url.{}/.insteadOf", far.display()))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.success(), text(&output.stdout), text(&output.stderr))
        };
        let run = |script: &str, key: &str| {
            let (is_success, out, err) = attempt(script, key);
            assert!(is_success, "{format}: {script}\n{out}\n{err}");
            out
        };
        let found = run(find, "");
        assert_eq!(found.lines().count(), 4, "{found}");
        let mut of_the_branch = found.lines().filter(|line| line.contains(r#""project_name":"api""#));
        // The newest comes last, so the whole history comes before its increments.
        let key = of_the_branch.next().unwrap().rsplit_once(' ').unwrap().1;
        let on_top_of = |base: &str| {
            let line = of_the_branch.clone().find(|line| line.contains(&format!(r#""base_sha":"{base}""#))).unwrap();
            assert!(line.ends_with(".inc.age"), "{line}");
            line.rsplit_once(' ').unwrap().1
        };
        run(download, key);
        run(unpack, key);
        assert_eq!(
            run(inspect, key),
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n",
            "and nothing else"
        );
        let at = || judge::git_commit(&place.join("api"), "HEAD").unwrap();
        run(download, on_top_of(&between));
        let (is_success, _, err) = attempt(apply, "");
        assert!(!is_success && err.contains("Repository lacks these prerequisite commits"), "{err}");
        assert_eq!(at(), whole, "it is not applied out of order");
        for (base, commit) in [(&whole, &between), (&between, &head)] {
            run(download, on_top_of(base));
            run(apply, "");
            assert_eq!(&at(), commit);
        }
        let checked = run(check, "");
        assert!(checked.lines().any(|line| line == head), "{checked}");
        assert_eq!(judge::git_commit(&bare, "refs/heads/main").unwrap(), head);

        // The shorter ways of the other documents, for a whole history.
        let [consume] = &commands(&read("docs/contract.md"), "How to consume one")[..] else { panic!("one block") };
        let [by_hand] = &commands(&read("docs/running.md"), "What is in the bucket")[..] else { panic!("one block") };
        fs::remove_dir_all(place.join("api")).unwrap();
        fs::write(place.join(key), world.bucket().unwrap().get(key).unwrap()).unwrap();
        let zip_only = (format == "zip").then_some(by_hand);
        for way in [consume].into_iter().chain(zip_only) {
            fs::remove_dir_all(&bare).unwrap();
            assert!(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&bare).status().unwrap().success());
            run(way, key);
            assert_eq!(judge::git_commit(&bare, "refs/heads/main").unwrap(), whole);
        }
    }

    // An empty bucket has no line.
    let place = tempfile::tempdir().unwrap();
    let aws = format!("aws() {{ echo None; }}\n{find}");
    let output = Command::new("sh").args(["-euc", &aws]).current_dir(place.path()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn the_contract_s_manifest_is_signed_as_it_says() {
    let contract = read("docs/contract.md");
    let value = |name: &str| {
        let line = contract.lines().find(|line| line.starts_with(&format!("{name}  "))).unwrap();
        line[name.len()..].trim().to_owned()
    };
    let signature = value("manifest.sig");
    let signature: Vec<u8> =
        (0..signature.len()).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap()).collect();
    let place = tempfile::tempdir().unwrap();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", value("public key"));
    fs::write(place.path().join("signing.pub"), pem).unwrap();
    fs::write(place.path().join("manifest.sig"), &signature).unwrap();
    fs::write(place.path().join("manifest.json"), value("manifest.json")).unwrap();
    let [check] = &commands(&contract, "How to check one")[..] else { panic!("one block") };
    let id = value("key id");
    assert_eq!(sh(place.path(), check), format!("Signature Verified Successfully\n{id}{id}\n"));
    let read: serde_json::Value = serde_json::from_str(&value("manifest.json")).unwrap();
    for field in read.as_object().unwrap().keys() {
        assert!(contract.contains(&format!("`{field}`")), "{field} is not explained");
    }

    fs::write(place.path().join("manifest.json"), value("manifest.json").replace("main", "made")).unwrap();
    let output = Command::new("sh").args(["-euc", check]).current_dir(place.path()).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn an_increment_is_applied_as_the_contract_says() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let base = source.head("main").unwrap();
    let place = world.scratch().unwrap();
    let url = source.path().to_string_lossy().into_owned();
    let clone = format!("git clone -q --branch main {url} repository");
    sh(&place, &clone);
    let commit = source.commits("main", 2).unwrap();

    let object = increment(&world, &source, &base, &commit, "{}");
    fs::write(place.join("object.age"), object).unwrap();
    fs::copy(world.identity_file(), place.join("far-side.key")).unwrap();
    let [apply] = &commands(&read("docs/contract.md"), "How to apply one")[..] else { panic!("one block") };
    sh(&place, apply);
    assert_eq!(judge::git_commit(&place.join("repository"), "HEAD").unwrap(), commit);
    judge::git_fsck(&place.join("repository")).unwrap();
}

#[test]
fn signing_is_switched_on_and_changed_as_it_is_written() {
    let world = World::start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    // Before, nothing was signed.
    pass(&world).succeeded();
    let place = world.scratch().unwrap();
    let operations = read("docs/operations.md");
    let [make, id] = &commands(&operations, "Switching it on")[..] else { panic!("two blocks") };
    let [make_new, trust_both, trust_new] = &commands(&operations, "Another signing key")[..] else { panic!("three") };
    let file = |name: &str| place.join(name).to_string_lossy().into_owned();
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777
    };
    let publish = |key: &str| {
        let mut command = program(&world, &["-run-once", "-republish=all"]);
        Run::from(command.env("SIGNING_KEY_FILE", file(key)).output().unwrap()).succeeded();
    };
    let restore = |trusted: &str| {
        let identity = world.identity_file().to_string_lossy().into_owned();
        let mut command = program(&world, &["restore", "-identity", &identity]);
        Run::from(command.env("TRUSTED_KEYS_FILE", file(trusted)).output().unwrap())
    };
    let deliver = || deliver_with(&world, "TRUSTED_KEYS_FILE", &file("signing.pub"));

    sh(&place, make);
    assert_eq!(mode("signing.pem"), 0o600);
    restore("signing.pub").failed();
    publish("signing.pem");
    let mut check = program(&world, &["check"]);
    let checked = Run::from(check.env("SIGNING_KEY_FILE", file("signing.pem")).output().unwrap()).succeeded();
    let id = sh(&place, id).trim().to_owned();
    assert!(checked.out.contains(&format!("{id}: objects are signed with it")), "{}", checked.out);
    assert!(restore("signing.pub").succeeded().out.contains(&format!("signed by {id}")));
    deliver().succeeded().logged("delivered far/app@main").logged(&format!("signed by {id}"));

    sh(&place, make_new);
    assert_eq!(mode("new.pem"), 0o600);
    source.commits("main", 1).unwrap();
    publish("signing.pem");
    sh(&place, trust_both);
    deliver().succeeded().logged("delivered far/app@main");
    source.commits("main", 1).unwrap();
    restore("new.pub").failed();
    publish("new.pem");
    restore("new.pub").succeeded();
    deliver().succeeded().logged("delivered far/app@main");
    sh(&place, trust_new);
    source.commits("main", 1).unwrap();
    publish("signing.pem");
    deliver().failed().logged(&format!("signed with the key {id}, which is not in TRUSTED_KEYS"));
    publish("new.pem");
    deliver().succeeded().logged("delivered far/app@main");
}
