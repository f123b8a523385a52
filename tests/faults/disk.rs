//! WORKDIR is full, cannot be written to, or goes away while the program is at work.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::fault::{At, Fault, Moment};

use crate::case::{Case, Change, Outcome, Scene, git_of_sick, run_all};
use crate::invariants;
use crate::support::{Daemon, OURS, pass, program, wait_until};

/// Something mounted at WORKDIR. Dropping it takes it away.
struct Mount(PathBuf);

impl Mount {
    /// A small file system in memory.
    fn small(at: &Path) -> Option<Self> {
        let mounted = mount(&["-t", "tmpfs", "-o", "size=6m,mode=0755", "tmpfs"], at);
        mounted.then(|| Self(at.to_owned()))
    }

    /// Puts a folder above itself, read-only: what is open there already stays open.
    fn read_only(folder: &Path) -> Option<Self> {
        let above = folder.to_str().unwrap();
        if !mount(&["--bind", above], folder) {
            return None;
        }
        let mounted = Self(folder.to_owned());
        assert!(mount(&["-o", "remount,bind,ro"], folder), "making {above} read-only");
        Some(mounted)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: what still has a file open there does not keep it.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "unmounting");
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

fn say_what_is_not_tested(instead: &str) {
    eprintln!("NOT FULLY TESTED: this user may not mount a file system, so {instead} takes its place. Run it as root.");
}

#[test]
fn a_full_workdir_fails_the_large_target_alone() {
    let full = Case::new("WORKDIR is full", Outcome::SickFails, |scene| match Mount::small(&scene.world.workdir()) {
        Some(small) => scene.kept.push(Box::new(small)),
        None => {
            say_what_is_not_tested("a limit on the length of files");
            scene.file_limit_kib = Some(4 << 10);
        }
    });
    run_all(vec![
        full.large().without_a_rule().says("WORKDIR").says("(os error").afterwards(|scene| scene.kept.clear()),
    ]);
}

/// A daemon that has done its first pass.
fn at_work(scene: &Scene) -> Daemon {
    let mut command = program(&scene.world, &[]);
    command.env("RECONCILE_SLEEP_TIME", "100ms");
    let daemon = Daemon::spawn(command);
    daemon.wait_until_logged("pass done", 1);
    daemon
}

/// Something new for both projects: much for `sick`, little for `well`.
fn push(scene: &mut Scene) {
    scene.world.source.repo("near/sick").unwrap().fill_incompressible(20, 1).unwrap();
    scene.world.source.repo("near/well").unwrap().commits("main", 1).unwrap();
    scene.ledger.note(&scene.world);
}

#[track_caller]
fn converges(mut scene: Scene, daemon: Daemon) {
    wait_until("the bucket holds what is wanted", || scene.world.s3().keys() == invariants::wanted_keys(&scene.world));
    let before = invariants::held(&scene.world);
    let run = daemon.stop().succeeded();
    invariants::check(&scene.world, &mut scene.ledger, &before, &run);
    scene.heals();
}

#[test]
fn a_workdir_that_becomes_read_only_fails_what_needs_it_until_it_is_writable() {
    let mut scene = Scene::set(Change::Small);
    let daemon = at_work(&scene);
    let ours = scene.world.workdir().join(OURS);
    let mode = |mode| {
        for folder in ["", "mirrors", "uploads", "decoding"] {
            fs::set_permissions(ours.join(folder), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let before = invariants::held(&scene.world);
    let read_only = Mount::read_only(&scene.world.workdir());
    if read_only.is_none() {
        say_what_is_not_tested("a folder without the right to write");
        mode(0o500);
    }
    push(&mut scene);
    daemon.wait_until_logged("failed: far/sick@main", 2);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("failed: far/sick@main")).unwrap();
    assert!(line.contains("under WORKDIR") && line.contains("(os error"), "{line}");
    assert_eq!(invariants::held(&scene.world), before);
    match read_only {
        Some(read_only) => drop(read_only),
        None => mode(0o700),
    }
    converges(scene, daemon);
}

#[test]
fn a_workdir_that_is_removed_while_in_use_is_made_again() {
    for whole in [false, true] {
        let mut scene = Scene::set(Change::Small);
        let daemon = at_work(&scene);
        let workdir = scene.world.workdir();
        let removed = if whole { workdir } else { workdir.join(OURS) };
        wait_until("it is gone", || match fs::remove_dir_all(&removed) {
            // The program may be making it again meanwhile.
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(()) => true,
        });
        push(&mut scene);
        converges(scene, daemon);
    }
}

#[test]
fn a_workdir_that_is_removed_in_the_middle_of_an_upload_loses_nothing() {
    let scene = Scene::set(Change::Large);
    scene.s3.on_later(1, scene.of_sick("UploadPart"), 1, Fault::Hold(Moment::Unsent));
    let mut command = program(&scene.world, &[]);
    command.envs(scene.through_proxies()).env("RECONCILE_SLEEP_TIME", "100ms");
    let daemon = Daemon::spawn(command);
    wait_until("the upload is under way", || scene.s3.held() > 0);
    let workdir = scene.world.workdir();
    wait_until("it is gone", || match fs::remove_dir_all(&workdir) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    });
    scene.s3.release();
    converges(scene, daemon);
}

#[test]
fn a_workdir_that_is_removed_in_the_middle_of_a_fetch_loses_nothing() {
    let scene = Scene::set(Change::Large);
    scene.git.on(git_of_sick("fetch"), 1, Fault::Hold(Moment::Within(At::Half)));
    let mut command = program(&scene.world, &[]);
    command.envs(scene.through_proxies()).env("RECONCILE_SLEEP_TIME", "100ms");
    let daemon = Daemon::spawn(command);
    wait_until("the fetch is under way", || scene.git.held() > 0);
    let workdir = scene.world.workdir();
    // The program may write a record there meanwhile.
    wait_until("it is gone", || match fs::remove_dir_all(&workdir) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    });
    scene.git.release();
    converges(scene, daemon);
}

#[test]
fn a_workdir_that_cannot_be_written_to_at_the_start_is_a_wrong_setting() {
    let scene = Scene::set(Change::Small);
    let before = scene.world.s3().keys();
    let workdir = scene.world.workdir();
    fs::remove_dir_all(&workdir).unwrap();
    fs::write(&workdir, "a file").unwrap();
    pass(&scene.world)
        .refused()
        .logged("WORKDIR: cannot create")
        .logged("make it a directory that this user can write to");
    assert_eq!(scene.world.s3().keys(), before);
}
