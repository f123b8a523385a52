//! Flags and environment variables, as a shell hands them over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use git_partition_sync_producer::config::{Fallback, Kind, reference};
use rustix::process::{Pid, Signal, kill_process};
use testbed::git::GitFault;
use testbed::world::World;

use crate::support::{Run, consumer, keys, pass, program, run, wait_until, workdir_files};

const PROGRAMS: [&str; 2] =
    [env!("CARGO_BIN_EXE_git-partition-sync-producer"), env!("CARGO_BIN_EXE_git-partition-sync-consumer")];

/// The program with an empty environment.
fn bare(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_git-partition-sync-producer"));
    Run::from(command.env_clear().args(arguments).output().unwrap())
}

/// The program in this world, with further variables.
fn with(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = program(world, arguments);
    Run::from(command.envs(variables.iter().copied()).output().unwrap())
}

/// The program in this world, with one variable replaced by others.
fn instead(world: &World, without: &str, variables: &[(&str, &str)]) -> Run {
    let mut command = program(world, &["-run-once"]);
    Run::from(command.env_remove(without).envs(variables.iter().copied()).output().unwrap())
}

fn one_target() -> World {
    let world = World::start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world
}

#[track_caller]
fn assert_nothing_happened(world: &World) {
    assert_eq!(world.graphql.requests().len(), 0);
    assert_eq!(world.source.requests().len(), 0);
    assert_eq!(world.s3().requests().len(), 0);
    assert_eq!(workdir_files(world).len(), 0);
}

#[test]
fn without_any_setting_all_that_are_missing_are_named_at_once() {
    let run = bare(&[]).refused();
    assert_eq!(
        run.log.lines().next(),
        Some(
            "missing: AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, GITLAB_TOKEN or GITLAB_TOKEN_FILE, \
             GRAPHQL_SERVER or TARGETS_FILE, PUBLIC_KEY"
        )
    );
    assert_eq!(run.out, "");
}

#[test]
fn missing_and_wrong_settings_are_one_message_before_any_request() {
    let world = one_target();
    let mut command = program(&world, &["-run-once", "-max-retire", "half", "-sync-concurrency=0"]);
    command.env_remove("AWS_S3_BUCKET").env_remove("PUBLIC_KEY").env("RECONCILE_SLEEP_TIME", "soon");
    let run = Run::from(command.output().unwrap()).refused();
    let lines: Vec<_> = run.log.lines().collect();
    assert_eq!(lines.len(), 5, "{}", run.log);
    for (line, start) in lines.iter().zip([
        "missing: AWS_S3_BUCKET, PUBLIC_KEY",
        "SYNC_CONCURRENCY: \"0\"",
        "RECONCILE_SLEEP_TIME: \"soon\"",
        "MAX_RETIRE: \"half\"",
        "`git-partition-sync-producer -help` explains",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_nothing_happened(&world);
}

#[test]
fn a_misspelt_setting_that_decides_what_is_deleted_ends_the_program() {
    let world = one_target();
    for (name, setting) in [("DRYRUN", "DRY_RUN"), ("MAX_RETIRES", "MAX_RETIRE"), ("on_rewrite", "ON_REWRITE")] {
        let run = with(&world, &[(name, "1")], &["-run-once"]).refused();
        assert_eq!(run.log.lines().count(), 2, "{}", run.log);
        run.logged(&format!("{name} is set and means nothing: did you mean {setting}?"));
    }
    assert_nothing_happened(&world);
    let run = instead(&world, "AWS_S3_BUCKET", &[("AWS_BUCKET", world.s3().bucket())]).refused();
    run.logged("missing: AWS_S3_BUCKET\n")
        .logged("\nAWS_BUCKET is set and means nothing: did you mean AWS_S3_BUCKET?\n");
    let mut far = consumer(&world, &["-run-once"]);
    Run::from(far.env("ONREWRITE", "hold").output().unwrap()).refused().logged("did you mean ON_REWRITE?");
}

#[test]
fn a_dry_run_tells_by_its_status_whether_there_is_something_to_do() {
    let world = one_target();
    let dry = ["-dry-run", "-run-once", "-detailed-exitcode"];
    assert_eq!(run(&world, &dry[..2]).status, 0);
    let changes = run(&world, &dry);
    assert_eq!(changes.status, 2, "{}", changes.log);
    assert!(changes.out.contains("1 to publish"), "{}", changes.out);
    let far = || Run::from(consumer(&world, &dry).output().unwrap());
    assert_eq!(far().status, 0, "the bucket is empty");
    pass(&world).succeeded();
    assert_eq!(run(&world, &dry).status, 0);
    let changes = far();
    assert_eq!(changes.status, 2, "{}", changes.log);
    assert!(changes.out.contains("1 to push"), "{}", changes.out);
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    run(&world, &dry).failed();
}

#[test]
fn with_a_detailed_exit_status_2_means_changes_and_nothing_else() {
    for (variable, words, status) in [
        ("", &["-detailed-exitcode", "-dry-run", "-run-once"][..], 1),
        ("", &["--detailed-exitcode=1", "--dry-runn"], 1),
        ("", &["-detailed-exitcode", "chekc"], 1),
        ("true", &["-dry-run", "-run-once"], 1),
        ("maybe", &["-dry-run", "-run-once"], 1),
        ("true", &["-detailed-exitcode=false", "-run-once"], 2),
        ("false", &["-run-once"], 2),
        ("", &["-detailed-exitcode", "-detailed-exitcode=0", "-run-once"], 2),
    ] {
        for program in PROGRAMS {
            let run = Command::new(program).env_clear().env("DETAILED_EXITCODE", variable).args(words).output();
            let run = Run::from(run.unwrap());
            assert_eq!((run.status, run.out.as_str()), (status, ""), "{variable:?} {words:?}\n{}", run.log);
        }
    }
    let world = one_target();
    let words = ["-run-once", "-detailed-exitcode"];
    run(&world, &words).failed().logged("DETAILED_EXITCODE: is for a single dry run");
    // What only the environment shows.
    let words = ["-dry-run", "-run-once", "-detailed-exitcode"];
    let certificates = [("SSL_CERT_FILE", "/nonexistent")];
    with(&world, &certificates, &words).failed().logged("SSL_CERT_FILE");
    with(&world, &certificates, &words[..2]).refused();
}

/// Runs it with this as its standard output.
fn printing_to(mut command: Command, out: impl Into<Stdio>) -> Run {
    Run::from(command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap())
}

#[test]
fn what_cannot_be_printed_is_said_and_is_a_failure() {
    let world = one_target();
    pass(&world).succeeded();
    let identity = world.identity_file().to_str().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed = || io::pipe().unwrap().1;
    let printed = |command: &dyn Fn() -> Command| {
        let run = printing_to(command(), full());
        assert_eq!(run.status, 1, "{:?}\n{}", command(), run.log);
        let lines = run.lines_with("cannot write to standard output").len();
        assert!(lines == 1 && run.log.contains("No space left"), "{:?}\n{}", command(), run.log);
        let run = printing_to(command(), closed());
        assert_eq!(run.status, 0, "{:?}\n{}", command(), run.log);
        assert!(!run.log.contains("standard output"), "{:?}\n{}", command(), run.log);
    };
    for words in ["man", "completion bash", "completion fish", "-help", "list -help", "-V", "version"] {
        for program in PROGRAMS {
            printed(&|| {
                let mut command = Command::new(program);
                command.env_clear().args(words.split(' '));
                command
            });
        }
    }
    let dry = ["-dry-run", "-run-once"];
    let json = ["-run-once", "-output=json"];
    for words in
        [&["list"][..], &["list", "-output=json"], &["list", "-sort=size", "-output=json"], &["check"], &dry, &json]
    {
        printed(&|| program(&world, words));
    }
    for words in [&["check", "-output=json"][..], &["list"], &dry] {
        printed(&|| consumer(&world, words));
    }
    printed(&|| program(&world, &["restore", "-identity", identity]));
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    for format in ["text", "json"] {
        let world = one_target();
        world.destination.group("far").unwrap();
        let head = world.source.repo("near/p").unwrap().head("main");
        let status = |mut command: Command| {
            let full = File::options().write(true).open("/dev/full").unwrap();
            command.env("LOG_FORMAT", format).arg("-run-once").stderr(full).status().unwrap().code()
        };
        world.s3().fail("ListObjectsV2", "AccessDenied", 1);
        assert_eq!((status(program(&world, &[])), keys(&world).len()), (Some(1), 0));
        assert_eq!((status(program(&world, &[])), keys(&world).len()), (Some(0), 1));
        assert_eq!((status(consumer(&world, &[])), world.far_head("far/p", "main")), (Some(0), head));
    }
}

#[test]
fn a_check_that_is_stopped_says_what_it_could_not_print() {
    let world = one_target();
    world.source.fault("near/p", GitFault::Stall);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let check = program(&world, &["check"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the branch is asked for", || !world.source.requests().is_empty());
    kill_process(Pid::from_child(&check), Signal::TERM).unwrap();
    let run = Run::from(check.wait_with_output().unwrap()).failed().logged("stopped before every check was done");
    run.logged("cannot write to standard output");
}

#[test]
fn flags_take_one_dash_or_two_and_values_with_or_without_an_equals_sign() {
    let world = one_target();
    for arguments in [
        ["-dry-run", "-run-once", "-archive-format", "tar.gz"].as_slice(),
        &["--dry-run", "--run-once", "--archive-format", "tar.gz"],
        &["-dry-run=true", "-run-once=true", "-archive-format=tar.gz"],
        &["--dry-run=1", "--run-once=T", "--archive-format=tar.gz"],
    ] {
        let run = run(&world, arguments).succeeded();
        assert!(run.out.contains("Plan (tar.gz): 1 to publish"), "{arguments:?}\n{}", run.out);
    }
    assert_eq!(keys(&world), [""; 0]);
}

#[test]
fn switches_take_go_s_spellings_and_no_others() {
    let world = World::start().unwrap();
    for spelling in ["1", "t", "T", "TRUE", "true", "True"] {
        let run = with(&world, &[("DRY_RUN", spelling)], &["-run-once"]).succeeded();
        assert!(run.out.contains("Plan ("), "{spelling}");
    }
    for spelling in ["0", "f", "F", "FALSE", "false", "False"] {
        let run = run(&world, &["-run-once", &format!("-dry-run={spelling}")]).succeeded();
        assert!(!run.out.contains("Plan ("), "{spelling}");
    }
    for spelling in ["yes", "on", "tRuE", "2"] {
        with(&world, &[("DRY_RUN", spelling)], &["-run-once"]).refused().logged("DRY_RUN: ");
    }
}

#[test]
fn a_bare_switch_never_takes_the_next_word() {
    let world = one_target();
    let run = run(&world, &["-run-once", "-dry-run", "false"]).refused();
    assert!(run.log.contains("false"), "{}", run.log);
    assert_nothing_happened(&world);
}

#[test]
fn flags_win_over_the_environment() {
    let world = one_target();
    let variables = [("DRY_RUN", "false"), ("ARCHIVE_FORMAT", "zip"), ("AWS_S3_BUCKET", "another-bucket")];
    let bucket = format!("-aws-s3-bucket={}", world.s3().bucket());
    let run = with(&world, &variables, &["-run-once", "-dry-run", "-archive-format=tar.gz", &bucket]).succeeded();
    assert!(run.out.contains("Plan (tar.gz): 1 to publish"), "{}", run.out);
}

#[test]
fn the_version_is_printed_without_any_setting() {
    for flag in ["-version", "--version", "-V", "version"] {
        let run = bare(&[flag]).succeeded();
        assert_eq!(run.out.trim(), concat!("git-partition-sync-producer ", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn help_explains_every_setting_and_shows_no_value() {
    let world = World::start().unwrap();
    for flag in ["-help", "--help", "-h"] {
        let help = run(&world, &[flag]).succeeded().out;
        for setting in reference().iter().flat_map(|section| section.settings) {
            let is_its = |line: &&str| line.split_whitespace().any(|word| word == setting.variable);
            let mut lines = help.lines().skip_while(|line| !is_its(line));
            let (Some(names), Some(meaning)) = (lines.next(), lines.next()) else {
                panic!("{} is not in the help:\n{help}", setting.variable)
            };
            if setting.default != Fallback::Unset {
                assert!(meaning.contains(&format!("[{}]", setting.default)), "{meaning}");
            }
            match (setting.kind, setting.flag) {
                (Kind::Secret | Kind::Library, flag) => assert_eq!(flag, None, "{names}"),
                (Kind::Text | Kind::Choice(_) | Kind::Switch, Some(flag)) => {
                    assert!(names.contains(&format!("-{flag}, ")), "{names}")
                }
                // A flag of this length was too much.
                (Kind::Text | Kind::Choice(_) | Kind::Switch, None) => {
                    assert_eq!(setting.variable, "GRAPHQL_PRCHECK_QUERY_FILE")
                }
            }
        }
        for secret in world.secrets() {
            assert!(!help.contains(&secret));
        }
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
    assert_nothing_happened(&world);
}

#[test]
fn an_unknown_flag_is_refused_by_name() {
    let world = one_target();
    run(&world, &["-run-once", "-dry-runn"]).refused().logged("dry-runn");
    run(&world, &["-run-once", "-gitlab-token=x"]).refused();
    assert_nothing_happened(&world);
}

#[test]
fn the_go_programs_names_are_understood() {
    let world = one_target();
    let query = world.scratch().unwrap().join("query.graphql");
    fs::write(&query, git_partition_sync_producer::graphql::BUILT_IN_QUERY).unwrap();
    let variables =
        [("AWS_GIT_SYNC_BUCKET", world.s3().bucket()), ("GRAPHQL_GLSYNC_QUERY_FILE", query.to_str().unwrap())];
    instead(&world, "AWS_S3_BUCKET", &variables).succeeded();
    assert_eq!(keys(&world).len(), 1);
    let wrong = [("AWS_GIT_SYNC_BUCKET", "another-bucket"), ("GRAPHQL_GLSYNC_QUERY_FILE", "/nowhere")];
    with(&world, &wrong, &["-run-once", "-graphql-query-file", query.to_str().unwrap()]).succeeded();
    instead(&world, "AWS_S3_BUCKET", &wrong).refused().logged("GRAPHQL_GLSYNC_QUERY_FILE: cannot read /nowhere");
}

#[test]
fn secrets_can_be_given_as_files_and_not_twice() {
    let world = one_target();
    let folder = world.scratch().unwrap();
    let (token, password) = (folder.join("token"), folder.join("password"));
    fs::write(&token, format!("{}\n", world.source.password())).unwrap();
    fs::write(&password, format!("{}\r\n", world.graphql.basic().unwrap().1)).unwrap();
    let files = [("GITLAB_TOKEN_FILE", token.to_str().unwrap()), ("GRAPHQL_PASSWORD_FILE", password.to_str().unwrap())];

    let run = with(&world, &files, &["-run-once"]).refused();
    let run = run.logged("GITLAB_TOKEN: set together with GITLAB_TOKEN_FILE");
    run.logged("GRAPHQL_PASSWORD: set together with GRAPHQL_PASSWORD_FILE");
    assert_nothing_happened(&world);

    let mut command = program(&world, &["-run-once"]);
    command.env_remove("GITLAB_TOKEN").env_remove("GRAPHQL_PASSWORD").envs(files);
    Run::from(command.output().unwrap()).succeeded();
    assert_eq!(keys(&world).len(), 1);

    instead(&world, "GITLAB_TOKEN", &[("GITLAB_TOKEN_FILE", "/nowhere")]).refused().logged("cannot read /nowhere");
    fs::write(&token, "\n").unwrap();
    instead(&world, "GITLAB_TOKEN", &[files[0]]).refused().logged("GITLAB_TOKEN_FILE: ").logged("is empty");
}

#[test]
fn an_identity_in_place_of_a_recipient_is_refused_and_not_repeated() {
    let world = one_target();
    let identity = fs::read_to_string(world.identity_file()).unwrap();
    let run = with(&world, &[("PUBLIC_KEY", identity.trim())], &["-run-once"]).refused().logged("PUBLIC_KEY: ");
    assert!(!run.log.to_ascii_uppercase().contains(&identity.trim().to_ascii_uppercase()[20..]), "{}", run.log);
    assert_nothing_happened(&world);
}

#[test]
fn credentials_cross_the_network_in_the_clear_only_where_that_is_allowed() {
    let world = one_target();
    // An address of this machine, but none that never leaves it.
    let (gitlab, graphql) =
        (world.source.url().replace("127.0.0.1", "0.0.0.0"), world.graphql.url().replace("127.0.0.1", "0.0.0.0"));
    let addresses = [("GITLAB_BASE_URL", gitlab.as_str()), ("GRAPHQL_SERVER", graphql.as_str())];
    let run = with(&world, &addresses, &["-run-once"]).refused();
    run.logged("GITLAB_BASE_URL: credentials would cross").logged("GRAPHQL_SERVER: credentials would cross");
    assert_nothing_happened(&world);
    with(&world, &addresses, &["-run-once", "-allow-insecure-http"]).succeeded();
    assert_eq!(keys(&world).len(), 1);
}

#[test]
fn a_port_that_kubernetes_made_up_is_explained() {
    let world = one_target();
    with(&world, &[("METRICS_SERVER_PORT", "tcp://10.0.0.1:9090")], &["-run-once"])
        .refused()
        .logged("METRICS_SERVER_PORT: ")
        .logged("enableServiceLinks: false");
    assert_nothing_happened(&world);
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let world = one_target();
    with(&world, &[("GITLAB_TOKEN", ""), ("MAX_RETIRE", "")], &["-run-once"])
        .refused()
        .logged("missing: GITLAB_TOKEN or GITLAB_TOKEN_FILE\n");
    with(&world, &[("MAX_RETIRE", ""), ("ARCHIVE_FORMAT", "")], &["-run-once"]).succeeded();
    pass(&world).succeeded();
}

#[test]
fn a_certificate_that_is_none_is_refused_with_the_setting_s_name() {
    let world = World::start().unwrap();
    let file = world.scratch().unwrap().join("ca.pem");
    for content in ["no certificate", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&file, content).unwrap();
        for arguments in [&["-run-once"][..], &["list"][..]] {
            let run: Run = program(&world, arguments).env("SSL_CERT_FILE", &file).output().unwrap().into();
            let run = run.refused().logged("SSL_CERT_FILE");
            assert!(!run.log.contains("panicked"), "{}", run.log);
        }
    }
}

/// The program where any user may start it: the build's folder may be closed to others, as root's home is.
fn for_everybody() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_git-partition-sync-producer"), &program).unwrap();
    (folder, program)
}

/// The program with a limit on the threads of its user. The limit does not hold for root, so root starts it as user `uid`.
fn with_threads(world: &World, program: &Path, uid: u32, limit: usize) -> Command {
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let another_user = ["setpriv", &user, &group, "--clear-groups"];
    let limit = format!("--nproc={limit}");
    let limited = ["prlimit", &limit, program.to_str().unwrap(), "-run-once"];
    let words: Vec<_> = match rustix::process::geteuid().is_root() {
        true => another_user.into_iter().chain(limited).collect(),
        false => limited.into(),
    };
    let mut command = world.command(words[0]);
    command.args(&words[1..]).env("PATH", std::env::var_os("PATH").unwrap()).env("RUST_BACKTRACE", "1");
    command
}

#[test]
fn a_system_that_grants_no_threads_is_named_as_the_reason() {
    let (world, (_folder, program)) = (World::start().unwrap(), for_everybody());
    let run = Run::from(with_threads(&world, &program, 65_534, 0).output().unwrap()).refused();
    assert_eq!(run.log.lines().count(), 1, "{}", run.log);
    run.logged("the system grants only 0 of the ").logged("raise the limit on processes (ulimit -u");
}

#[test]
fn with_the_fewest_threads_everything_is_published() {
    if !rustix::process::geteuid().is_root() {
        // How many threads this user has already is not known.
        return;
    }
    let (world, uid) = (World::start().unwrap(), 61_305);
    for name in ["a", "b", "c", "d", "e"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let workdir = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(workdir.path(), Some(uid), Some(uid)).unwrap();
    let fewest = 1 + std::thread::available_parallelism().unwrap().get() + 4;
    let (_folder, program) = for_everybody();
    let mut command = with_threads(&world, &program, uid, fewest);
    let run = Run::from(command.env("WORKDIR", workdir.path()).output().unwrap()).succeeded();
    run.logged("the limit on threads allows less concurrency than configured").logged("published=5");
}
