//! Man page and completions, as `make docs` writes them, judged by the programs that read them.

use std::fs;
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
