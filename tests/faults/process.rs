//! The process ends at each stage of a pass, killed or asked to stop, and is started again.

use rustix::process::Signal;
use testbed::fault::{ALWAYS, At, Fault, Moment, Proxy};

use crate::case::{Change, Scene, any, git_of_sick, side_by_side};
use crate::invariants;
use crate::support::{Daemon, STOP_LIMIT, count, leftovers, pass_with, program, wait_until};

/// A moment of a pass, by the request under way.
#[derive(Debug, Clone, Copy)]
struct Stage {
    operation: &'static str,
    /// How many such requests are through by then.
    skip: usize,
    moment: Moment,
    change: Change,
}

const fn stage(operation: &'static str, skip: usize, moment: Moment, change: Change) -> Stage {
    Stage { operation, skip, moment, change }
}

const STAGES: [Stage; 17] = [
    stage("query", 0, Moment::Unsent, Change::Small),
    stage("ListObjectsV2", 0, Moment::Unsent, Change::Small),
    stage("ListObjectsV2", 1, Moment::Unsent, Change::Small),
    stage("ls-refs", 0, Moment::Unsent, Change::Small),
    stage("ListMultipartUploads", 0, Moment::Unsent, Change::Small),
    stage("fetch", 0, Moment::Unsent, Change::Small),
    stage("fetch", 0, Moment::Within(At::Half), Change::Large),
    stage("PutObject", 0, Moment::Unsent, Change::Small),
    stage("PutObject", 0, Moment::Unanswered, Change::Small),
    stage("CreateMultipartUpload", 0, Moment::Unsent, Change::Large),
    stage("UploadPart", 0, Moment::Unsent, Change::Large),
    stage("UploadPart", 2, Moment::Unsent, Change::Large),
    stage("UploadPart", 2, Moment::Unanswered, Change::Large),
    stage("CompleteMultipartUpload", 0, Moment::Unsent, Change::Large),
    stage("CompleteMultipartUpload", 0, Moment::Unanswered, Change::Large),
    stage("DeleteObject", 0, Moment::Unsent, Change::Small),
    stage("DeleteObject", 0, Moment::Unanswered, Change::Small),
];

impl Stage {
    /// Lets the pass come to this moment and no further.
    fn arrange<'a>(&self, scene: &'a Scene) -> &'a Proxy {
        let Self { operation, skip, moment, .. } = *self;
        match operation {
            "query" => scene.graphql.on_later(skip, any(operation), ALWAYS, Fault::Hold(moment)),
            "ls-refs" | "fetch" => scene.git.on_later(skip, git_of_sick(operation), ALWAYS, Fault::Hold(moment)),
            "ListObjectsV2" | "ListMultipartUploads" | "DeleteObject" => {
                scene.s3.on_later(skip, any(operation), ALWAYS, Fault::Hold(moment));
            }
            _ => scene.s3.on_later(skip, scene.of_sick(operation), ALWAYS, Fault::Hold(moment)),
        }
        match operation {
            "query" => &scene.graphql,
            "ls-refs" | "fetch" => &scene.git,
            _ => &scene.s3,
        }
    }

    fn end_with(self, signal: Signal) {
        let mut scene = Scene::set(self.change);
        let before = invariants::held(&scene.world);
        let mut command = program(&scene.world, &[]);
        command.envs(scene.through_proxies()).env("RECONCILE_SLEEP_TIME", "1h");
        let proxy = self.arrange(&scene);
        let daemon = Daemon::spawn(command);
        wait_until(&format!("{self:?} is reached"), || proxy.held() > 0);

        daemon.signal(signal);
        let run = daemon.ends_within(STOP_LIMIT);

        if signal == Signal::TERM {
            assert_eq!(run.status, 0, "{self:?}\n{}", run.log);
            assert!(!run.log.contains(" ERROR "), "{self:?}: a stop is no failure\n{}", run.log);
            assert_eq!(scene.world.s3().uploads(), [], "{self:?}: unfinished uploads\n{}", run.log);
            assert_eq!(leftovers(&scene.world), [""; 0].map(std::path::PathBuf::from), "{self:?}\n{}", run.log);
        }
        invariants::check(&scene.world, &mut scene.ledger, &before, &run);
        scene.heals();
    }
}

#[test]
fn a_process_killed_at_any_stage_loses_nothing() {
    let work = STAGES.iter().map(|stage| (format!("{stage:?}"), || stage.end_with(Signal::KILL)));
    side_by_side(work.collect());
}

#[test]
fn a_process_asked_to_stop_at_any_stage_leaves_nothing_half_done() {
    let work = STAGES.iter().map(|stage| (format!("{stage:?}"), || stage.end_with(Signal::TERM)));
    side_by_side(work.collect());
}

#[test]
fn a_process_killed_again_while_it_cleans_up_loses_nothing() {
    let mut scene = Scene::set(Change::Large);
    let before = invariants::held(&scene.world);
    for operation in ["UploadPart", "AbortMultipartUpload"] {
        scene.s3.clear();
        scene.s3.on(any(operation), ALWAYS, Fault::Hold(Moment::Unsent));
        let mut command = program(&scene.world, &[]);
        command.envs(scene.through_proxies());
        let daemon = Daemon::spawn(command);
        wait_until(operation, || scene.s3.held() > 0);
        daemon.signal(Signal::KILL);
        let run = daemon.ends_within(STOP_LIMIT);
        invariants::check(&scene.world, &mut scene.ledger, &before, &run);
        assert_eq!(scene.world.s3().uploads().len(), 1, "{operation}");
    }
    scene.heals();
}

/// Nobody knows the id of such an upload, and another replica could be at work on one like it.
#[test]
fn an_upload_whose_beginning_nobody_heard_of_is_aborted_after_the_time_limit() {
    let mut scene = Scene::set(Change::Large);
    scene.s3.on(any("CreateMultipartUpload"), ALWAYS, Fault::Hold(Moment::Unanswered));
    let mut command = program(&scene.world, &[]);
    command.envs(scene.through_proxies());
    let daemon = Daemon::spawn(command);
    wait_until("the upload is begun", || scene.s3.held() > 0);
    daemon.signal(Signal::KILL);
    daemon.ends_within(STOP_LIMIT);
    assert_eq!(scene.world.s3().uploads().len(), 1);

    wait_until("the time limit is over", || {
        pass_with(&scene.world, "TARGET_TIMEOUT", "10s").succeeded();
        scene.world.s3().uploads().is_empty()
    });
    assert_eq!(count(&scene.world.s3().requests(), "AbortMultipartUpload"), 1);
    scene.heals();
}

/// As long as the answer is not late beyond all measure, it says which upload it is.
#[test]
fn an_upload_that_s3_begins_while_the_program_stops_is_aborted() {
    let mut scene = Scene::set(Change::Large);
    let before = invariants::held(&scene.world);
    scene.s3.on(any("CreateMultipartUpload"), ALWAYS, Fault::Hold(Moment::Unanswered));
    let mut command = program(&scene.world, &[]);
    command.envs(scene.through_proxies()).env("RUST_LOG", "git_partition_sync_producer=debug");
    let daemon = Daemon::spawn(command);
    wait_until("the upload is begun", || scene.s3.held() > 0);
    daemon.signal(Signal::TERM);
    // Only from then on is the answer one that comes while stopping.
    daemon.wait_until_logged("asked to stop", 1);
    scene.s3.release();
    let run = daemon.ends_within(STOP_LIMIT);
    assert_eq!(scene.world.s3().uploads(), [], "{}", run.log);
    invariants::check(&scene.world, &mut scene.ledger, &before, &run);
    scene.heals();
}

#[test]
fn an_upload_of_a_killed_process_whose_record_is_gone_is_aborted_after_the_time_limit() {
    let mut scene = Scene::set(Change::Large);
    let before = invariants::held(&scene.world);
    scene.s3.on_later(1, any("UploadPart"), ALWAYS, Fault::Hold(Moment::Unanswered));
    let mut command = program(&scene.world, &[]);
    command.envs(scene.through_proxies());
    let daemon = Daemon::spawn(command);
    wait_until("a part is up and the next one on its way", || scene.s3.held() > 0);
    daemon.signal(Signal::KILL);
    let run = daemon.ends_within(STOP_LIMIT);
    invariants::check(&scene.world, &mut scene.ledger, &before, &run);
    assert_eq!(scene.world.s3().uploads().len(), 1);
    // With a new volume nobody remembers the upload.
    std::fs::remove_dir_all(scene.world.workdir()).unwrap();

    wait_until("the time limit is over", || {
        pass_with(&scene.world, "TARGET_TIMEOUT", "10s").succeeded();
        scene.world.s3().uploads().is_empty()
    });
    assert_eq!(count(&scene.world.s3().requests(), "AbortMultipartUpload"), 1);
    scene.heals();
}
