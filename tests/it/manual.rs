//! Man page and completions, as `make docs` writes them. bash and, where they are installed, groff, zsh and fish judge
//! them; nothing installs these for the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use git_partition_sync_producer::config::reference;

const NAME: &str = "git-partition-sync-producer";

#[path = "../../examples/docs.rs"]
#[expect(dead_code, reason = "its main function is for `make docs`")]
mod generator;

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(generator::write_to(folder.path()).unwrap().len(), 4);
    folder
}

#[test]
fn the_man_page_has_every_setting() {
    let folder = written();
    let page = fs::read_to_string(folder.path().join(format!("{NAME}.1"))).unwrap();
    for setting in reference().iter().flat_map(|section| section.settings) {
        assert!(page.contains(setting.variable), "{} is not in the man page", setting.variable);
        let flag = setting.flag.map(|flag| format!("\\fB\\-{}\\fR", flag.replace('-', "\\-")));
        assert!(flag.is_none_or(|flag| page.contains(&flag)), "-{:?} is not in the man page", setting.flag);
    }
    for section in ["NAME", "SYNOPSIS", "COMMANDS", "SETTINGS", "EXIT STATUS", "EXAMPLES"] {
        let heading = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
        assert!(heading.iter().any(|heading| page.contains(heading)), "no section {section}");
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
    assert_taken("groff", &["-man", "-Tutf8", "-Kutf8", "-ww", "-z"], &file(&format!("{NAME}.1")));
    assert_taken("bash", &["-n"], &file(&format!("{NAME}.bash")));
    assert_taken("zsh", &["-n"], &file(&format!("_{NAME}")));
    assert_taken("fish", &["--no-execute"], &file(&format!("{NAME}.fish")));
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = written();
    let script = folder.path().join(format!("{NAME}.bash"));
    let function = format!("_{}", NAME.replace('-', "__"));
    let complete = |words: &str| {
        let ask = format!(
            "source {script:?}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             {function} {NAME} \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&format!("{NAME} che")).trim(), "check");
    assert_eq!(complete(&format!("{NAME} --dry")).trim(), "--dry-run");
    assert_eq!(complete(&format!("{NAME} restore --iden")).trim(), "--identity");
}
