//! Man page and completions, as both programs print them. bash and, where they are installed, groff, zsh and fish judge
//! them; nothing installs these for the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use git_partition_sync_producer::config::Manual;

use crate::support::Run;

const NAMES: [&str; 2] = ["git-partition-sync-producer", "git-partition-sync-consumer"];
const PROGRAMS: [&str; 2] =
    [env!("CARGO_BIN_EXE_git-partition-sync-producer"), env!("CARGO_BIN_EXE_git-partition-sync-consumer")];

/// What the program prints without any setting.
fn printed(program: &str, words: &[&str]) -> String {
    let run = Run::from(Command::new(program).args(words).env_clear().output().unwrap()).succeeded();
    assert_eq!(run.log, "");
    run.out
}

/// All of it in a folder, under the names that `make docs` gives them.
fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, program) in NAMES.into_iter().zip(PROGRAMS) {
        let files = [
            (format!("{name}.1"), &["man"][..]),
            (format!("{name}.bash"), &["completion", "bash"]),
            (format!("{name}.fish"), &["completion", "fish"]),
            (format!("_{name}"), &["completion", "zsh"]),
        ];
        for (file, words) in files {
            fs::write(folder.path().join(file), printed(program, words)).unwrap();
        }
    }
    folder
}

#[test]
fn the_man_page_has_every_setting() {
    for (program, manual) in PROGRAMS.into_iter().zip(Manual::ALL) {
        let page = printed(program, &["man"]);
        for setting in manual.settings() {
            assert!(page.contains(setting.variable), "{} is not in the man page", setting.variable);
            let flag = setting.flag.map(|flag| format!("\\fB\\-{}\\fR", flag.replace('-', "\\-")));
            assert!(flag.is_none_or(|flag| page.contains(&flag)), "-{:?} is not in the man page", setting.flag);
        }
        assert!(page.contains(".PP\nNAME is GROUP"), "what names are is a paragraph of its own");
        for section in ["NAME", "SYNOPSIS", "COMMANDS", "SETTINGS", "EXIT STATUS", "EXAMPLES"] {
            let heading = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
            assert!(heading.iter().any(|heading| page.contains(heading)), "no section {section}");
        }
    }
}

/// Fails where a program that is installed does not take the file without complaint.
#[track_caller]
fn assert_taken(program: &str, arguments: &[&str], file: &Path) {
    let output = match Command::new(program).args(arguments).arg(file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("not judged: {program} is not installed");
            return;
        }
        output => output.unwrap(),
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program}: {complaints}");
}

#[test]
fn programs_that_are_here_take_what_is_written_for_them() {
    let folder = written();
    let file = |name: &str| folder.path().join(name);
    for name in NAMES {
        assert_taken("groff", &["-man", "-Tutf8", "-Kutf8", "-ww", "-z"], &file(&format!("{name}.1")));
        assert_taken("bash", &["-n"], &file(&format!("{name}.bash")));
        assert_taken("zsh", &["-n"], &file(&format!("_{name}")));
        assert_taken("fish", &["--no-execute"], &file(&format!("{name}.fish")));
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = written();
    // `=` is a word of its own to bash. Files would be those in this folder.
    let complete = |name: &str, words: &str| {
        let script = folder.path().join(format!("{name}.bash"));
        let function = format!("_{}", name.replace('-', "__"));
        let ask = format!(
            "source {script:?}; COMP_WORDS=({name} {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             LAST=\"${{COMP_WORDS[-1]}}\"; {function} {name} \"${{LAST#=}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).current_dir(folder.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for name in NAMES {
        assert_eq!(complete(name, "che"), "check");
        assert_eq!(complete(name, "hea"), "health");
        assert_eq!(complete(name, "--dry"), "--dry-run");
        assert_eq!(complete(name, "list --sort si"), "size");
        assert_eq!(complete(name, "completion z"), "zsh");
        for flag in ["--output", "-output", "--output =", "list -output", "check --log-format ="] {
            assert_eq!(complete(name, &format!("{flag} j")), "json", "{flag}");
        }
        assert_eq!(complete(name, "--on-rewrite =").replace('\n', " "), "publish hold");
        assert_eq!(complete(name, "--on-rewrite ''").replace('\n', " "), "publish hold");
        // Nothing is offered for a number, and files for a file.
        assert_eq!(complete(name, "--max-repository-bytes git"), "git");
        assert!(complete(name, "--gitlab-token-file git").contains(&format!("{name}.bash")));
        assert_eq!(complete(name, "--dry-run --run"), "--run-once");
    }
    let [producer, consumer] = NAMES;
    assert_eq!(complete(producer, "restore --iden"), "--identity");
    assert_eq!(complete(producer, "-archive-format = ta"), "tar.gz");
    assert_eq!(complete(producer, "-crossing inc"), "incremental");
    assert_eq!(complete(consumer, "res"), "");
    assert_eq!(complete(consumer, "check --private"), "--private-key-file");
}

#[test]
fn make_docs_writes_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/docs"));
    let output = command.arg(folder.path()).args(PROGRAMS).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = written();
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), names(expected.path()));
    for name in names(folder.path()) {
        assert_eq!(fs::read(folder.path().join(&name)).unwrap(), fs::read(expected.path().join(&name)).unwrap());
    }
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 4 * NAMES.len());
}
