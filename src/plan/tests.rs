#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use proptest::sample::select;

mod histories;

use super::waiting::folded;
use super::*;
use crate::model::target::{Source, Unknown};
use crate::text::short_commit;

fn commit(n: u8) -> CommitId {
    CommitId::from_bytes([n; 20])
}

fn destination(project: &str) -> Destination {
    Destination { group: "far".into(), project: project.into(), branch: "main".into() }
}

fn target(project: &str) -> Target {
    Target {
        source: Source { project: format!("near/{project}"), branch: "main".into() },
        destination: destination(project),
    }
}

fn at(project: &str, n: u8) -> (Target, Head) {
    (target(project), Head::At(commit(n)))
}

fn held_as(project: &str, n: u8, format: ArchiveFormat, age_rank: u64) -> HeldObject {
    held_under(key::encode(&destination(project), commit(n), format).unwrap(), age_rank)
}

fn held_under(key: String, age_rank: u64) -> HeldObject {
    let name = key::decode(&key).unwrap();
    HeldObject { key, name, last_modified: SystemTime::UNIX_EPOCH + Duration::from_secs(age_rank), bytes: 1 }
}

fn held(project: &str, n: u8, age_rank: u64) -> HeldObject {
    held_as(project, n, ArchiveFormat::Zip, age_rank)
}

const POLICY: Policy<'_> = Policy {
    format: FormatChoice::Auto,
    max_retire: MaxRetire::Percent(50),
    on_rewrite: OnRewrite::Publish,
    republish: &BTreeSet::new(),
    crossing: Crossing::Whole,
    max_increments: NonZeroUsize::new(8).unwrap(),
};

fn decide_all(targets: Vec<(Target, Head)>, held: &[HeldObject]) -> Plan {
    plan(&Desired { targets, refused: vec![] }, held, POLICY).unwrap()
}

fn only_publish(plan: &Plan) -> &Publish {
    match plan.actions.as_slice() {
        [Action::Publish(publish)] => publish,
        other => panic!("expected one publication, found {other:?}"),
    }
}

#[test]
fn a_new_target_is_published() {
    let plan = decide_all(vec![at("a", 1)], &[]);
    let publish = only_publish(&plan);
    assert_eq!((&publish.reason, publish.format, publish.held_bytes), (&PublishReason::New, ArchiveFormat::Zip, 0));
    assert_eq!(publish.key, key::encode(&destination("a"), commit(1), ArchiveFormat::Zip).unwrap());
    assert!(publish.supersedes.is_empty());
}

#[test]
fn a_new_commit_supersedes_every_older_object() {
    let objects = [held("a", 1, 10), held("a", 2, 20)];
    let plan = decide_all(vec![at("a", 3)], &objects);
    let publish = only_publish(&plan);
    assert_eq!(publish.reason, PublishReason::NewCommit { from: commit(2).to_string() });
    let mut keys = objects.map(|object| object.key);
    keys.sort();
    assert_eq!(publish.supersedes, keys);
}

#[test]
fn a_publication_knows_when_the_destination_s_newest_object_was_written() {
    let written =
        |commit: u8, held: &[HeldObject]| only_publish(&decide_all(vec![at("a", commit)], held)).newest_written;
    assert_eq!(written(1, &[]), None);
    let objects = [held("a", 2, 20), held("a", 1, 10)];
    assert_eq!(written(3, &objects), Some(objects[0].last_modified));
    let objects = [held("a", 1, 30), held("a", 2, 20)];
    assert_eq!(written(2, &objects), Some(objects[0].last_modified));
    let desired = Desired { targets: vec![at("a", 2)], refused: vec![] };
    let objects = [held("a", 1, 10), held("a", 2, 20)];
    let plan = republishing("all", &desired, &objects).unwrap();
    assert_eq!(only_publish(&plan).newest_written, Some(objects[1].last_modified));
}

#[test]
fn a_current_object_alone_needs_nothing() {
    let plan = decide_all(vec![at("a", 1)], &[held("a", 1, 10)]);
    assert!(plan.actions.is_empty() && plan.is_clean());
    assert_eq!(plan.unchanged.len(), 1);
}

#[test]
fn an_older_object_beside_the_current_one_is_swept() {
    let plan = decide_all(vec![at("a", 2)], &[held("a", 1, 10), held("a", 2, 20)]);
    assert!(
        matches!(plan.actions.as_slice(), [Action::Sweep(sweep)] if sweep.keys == [held("a", 1, 0).key] && sweep.commit == commit(2))
    );
}

#[test]
fn an_outdated_object_that_is_not_older_has_the_current_one_published_again() {
    for outdated_at in [20, 30] {
        let plan = decide_all(vec![at("a", 2)], &[held("a", 1, outdated_at), held("a", 2, 20)]);
        let publish = only_publish(&plan);
        assert_eq!(publish.reason, PublishReason::NotNewest { from: commit(1).to_string() });
        assert_eq!(publish.supersedes, [held("a", 1, 0).key]);
    }
}

/// The plan where `republish` is asked for.
fn republishing(republish: &str, desired: &Desired, held: &[HeldObject]) -> Result<Plan, PlanError> {
    let accepted = desired.targets.iter().map(|(target, _)| target);
    let listed =
        accepted.chain(desired.refused.iter().map(|refused| &refused.target)).map(|target| &target.destination);
    let again = republish.parse::<Republish>().unwrap().among(listed)?;
    plan(desired, held, Policy { republish: &again, ..POLICY })
}

#[test]
fn what_is_to_be_uploaded_again_is_and_nothing_else() {
    let desired = Desired { targets: vec![at("a", 1), at("b", 1), at("c", 2)], refused: vec![] };
    let objects = [held("a", 1, 10), held("b", 1, 10), held("c", 1, 10)];
    for (republish, again) in [("all", "ab"), ("far/a@main", "a"), ("far/b", "b"), ("far/a@main,far/c@main", "a")] {
        let plan = republishing(republish, &desired, &objects).unwrap();
        for action in &plan.actions {
            let Action::Publish(publish) = action else { panic!("{action:?}") };
            let project = &publish.target.destination.project;
            if project == "c" {
                assert_eq!(publish.reason, PublishReason::NewCommit { from: commit(1).to_string() });
                continue;
            }
            assert!(again.contains(project), "{republish}: {project}");
            assert_eq!((&publish.reason, publish.supersedes.len()), (&PublishReason::Requested, 0));
            assert_eq!((&publish.key, publish.old_commit()), (&held(project, 1, 0).key, None));
        }
        assert_eq!((plan.actions.len(), plan.unchanged.len()), (again.len() + 1, 2 - again.len()), "{republish}");
    }
}

#[test]
fn uploading_again_sweeps_what_lies_beside_the_current_object() {
    let desired = Desired { targets: vec![at("a", 2)], refused: vec![] };
    let plan = republishing("all", &desired, &[held("a", 1, 10), held("a", 2, 20)]).unwrap();
    assert_eq!(only_publish(&plan).supersedes, [held("a", 1, 0).key]);
}

#[test]
fn nothing_is_planned_where_what_is_to_be_uploaded_again_is_not_in_the_target_list() {
    let refused = RefusedTarget { target: target("refused"), problem: "bad".into() };
    let desired = Desired { targets: vec![at("a", 1)], refused: vec![refused] };
    let planned = republishing("far/a@main, far/a@other,far/x", &desired, &[held("a", 1, 10), held("x", 1, 10)]);
    assert_eq!(planned, Err(PlanError::NothingToRepublish { names: vec!["far/a@other".into(), "far/x".into()] }));
    let plan = republishing("far/refused@main", &desired, &[held("a", 1, 10)]).unwrap();
    assert_eq!((plan.actions.len(), plan.blocked.len()), (0, 1), "what is refused stays refused");
}

#[test]
fn what_to_upload_again_is_all_or_a_list_of_destinations() {
    for bad in ["", ",", "ALL", "a", "far/a@", "all,far/a", "far//a"] {
        assert!(bad.parse::<Republish>().is_err(), "{bad}");
    }
    assert_eq!(" far/a , far/b@x,".parse::<Republish>(), "far/a,far/b@x".parse());
}

#[test]
fn an_object_under_an_outdated_name_is_published_again() {
    let json = format!(
        r#"{{"group":"far","project_name":"a","commit_sha":"{}","local_branch":"develop","remote_branch":"main"}}"#,
        commit(1)
    );
    let old = held_under(BASE64_STANDARD.encode(json) + ".tar.age", 10);
    let plan = decide_all(vec![at("a", 1)], std::slice::from_ref(&old));
    let publish = only_publish(&plan);
    assert_eq!((&publish.reason, publish.format), (&PublishReason::OtherName, ArchiveFormat::TarGz));
    assert_eq!(publish.supersedes, [old.key]);
}

#[test]
fn choosing_the_other_format_publishes_again() {
    let policy = Policy { format: FormatChoice::Only(ArchiveFormat::TarGz), ..POLICY };
    let desired = Desired { targets: vec![at("a", 1)], refused: vec![] };
    let plan = plan(&desired, &[held("a", 1, 10)], policy).unwrap();
    assert_eq!(only_publish(&plan).reason, PublishReason::OtherFormat { from: ArchiveFormat::Zip });
}

#[test]
fn auto_keeps_to_the_bucket_s_format_and_refuses_a_mixed_one() {
    let tar = held_as("b", 1, ArchiveFormat::TarGz, 10);
    assert_eq!(decide_all(vec![at("a", 1)], std::slice::from_ref(&tar)).format, ArchiveFormat::TarGz);
    assert_eq!(decide_all(vec![at("a", 1)], &[]).format, ArchiveFormat::Zip);
    let desired = Desired { targets: vec![at("a", 1)], refused: vec![] };
    let mixed = plan(&desired, &[tar, held("a", 1, 10)], POLICY).unwrap_err();
    assert_eq!(mixed, PlanError::MixedFormats { zip: 1, tar: 1 });
    assert!(mixed.to_string().contains("ARCHIVE_FORMAT=tar.gz"), "{mixed}");
}

#[test]
fn an_unknown_head_keeps_the_objects_and_blocks_the_target() {
    let unknown = (target("a"), Head::Unknown(Unknown::NotTried));
    let plan = decide_all(vec![unknown], &[held("a", 1, 10), held("a", 2, 20)]);
    assert!(plan.actions.is_empty());
    assert_eq!(
        plan.blocked,
        [Blocked { destination: destination("a"), blocker: Blocker::HeadUnknown(Unknown::NotTried) }]
    );
}

#[test]
fn a_refused_target_keeps_its_objects() {
    let refused = RefusedTarget { target: target("a"), problem: "bad".into() };
    let desired = Desired { targets: vec![], refused: vec![refused] };
    let plan = plan(&desired, &[held("a", 1, 10)], POLICY).unwrap();
    assert!(plan.actions.is_empty() && plan.guard.is_none());
    assert_eq!(plan.blocked[0].blocker, Blocker::Refused("bad".into()));
}

#[test]
fn a_name_that_s3_cannot_take_blocks_the_target() {
    let mut long = target("a");
    long.destination.branch = "b/".repeat(400) + "b";
    let plan = decide_all(vec![(long, Head::At(commit(1)))], &[]);
    assert!(matches!(plan.blocked[0].blocker, Blocker::KeyTooLong { bytes } if bytes > 1024));
    assert!(plan.blocked[0].blocker.to_string().contains("1024"));
}

#[test]
fn a_destination_without_a_target_is_retired_with_all_its_objects() {
    let plan = decide_all(vec![at("a", 1)], &[held("a", 1, 10), held("b", 1, 10), held("b", 2, 20)]);
    assert!(
        matches!(plan.actions.as_slice(), [Action::Retire(retire)] if retire.destination == destination("b") && retire.keys.len() == 2)
    );
}

/// Plans with ten destinations held, of which `gone` have lost their target.
fn with_gone(gone: usize, max_retire: &str) -> Plan {
    let names: Vec<_> = (0..10).map(|n| format!("p{n}")).collect();
    let objects: Vec<_> = names.iter().map(|name| held(name, 1, 10)).collect();
    let targets = names.iter().skip(gone).map(|name| at(name, 1)).chain([at("new", 9)]).collect();
    let policy = Policy { max_retire: max_retire.parse().unwrap(), ..POLICY };
    plan(&Desired { targets, refused: vec![] }, &objects, policy).unwrap()
}

fn retired(plan: &Plan) -> usize {
    plan.actions.iter().filter(|action| matches!(action, Action::Retire(_))).count()
}

#[test]
fn exactly_the_limit_may_be_retired_and_one_more_retires_none() {
    for (limit, max) in [("50%", 5), ("59%", 5), ("3", 3), ("10%", 1), ("100%", 10), ("10", 10)] {
        let allowed = with_gone(max, limit);
        assert_eq!((retired(&allowed), allowed.guard), (max, None), "{limit}");
        if max < 10 {
            let held_back = with_gone(max + 1, limit);
            assert_eq!(retired(&held_back), 0, "{limit}");
            assert_eq!(
                held_back.guard,
                Some(RetireGuard {
                    would_retire: max + 1,
                    held: 10,
                    limit: max,
                    used: 0,
                    no_targets: false,
                    lost_lists: 0
                })
            );
            assert!(held_back.guard.unwrap().to_string().contains("MAX_RETIRE"));
            assert!(held_back.actions.iter().any(|action| matches!(action, Action::Publish(_))), "publishing goes on");
        }
    }
}

#[test]
fn one_destination_may_go_whatever_the_percentage_unless_it_is_zero() {
    assert_eq!(retired(&with_gone(1, "1%")), 1);
    assert_eq!(retired(&with_gone(2, "1%")), 0);
    for zero in ["0", "0%"] {
        let plan = with_gone(1, zero);
        assert!(retired(&plan) == 0 && plan.guard.is_some());
        assert_eq!(with_gone(0, zero).guard, None);
    }
}

#[test]
fn an_empty_target_list_retires_nothing_unless_all_may_go() {
    for (max_retire, goes) in [("50%", false), ("5", false), ("1", false), ("100%", true)] {
        let policy = Policy { max_retire: max_retire.parse().unwrap(), ..POLICY };
        let plan = plan(&Desired::default(), &[held("a", 1, 10)], policy).unwrap();
        assert_eq!((retired(&plan) == 1, plan.guard.is_none()), (goes, goes), "{max_retire}");
    }
    let empty = plan(&Desired::default(), &[], POLICY).unwrap();
    assert!(empty.is_clean() && empty.actions.is_empty());
}

/// What a pass does that remembers something, and knows what other shares want.
fn plan_with(
    desired: &Desired,
    held: &[HeldObject],
    bucket_wide: BucketWide,
    budget: GuardBudget,
    memory: &Memory,
) -> Plan {
    plan_share(desired, held, POLICY, &bucket_wide, Remembered { budget, memory })
}

fn bucket_wide() -> BucketWide {
    let elsewhere = Elsewhere::default();
    BucketWide { format: ArchiveFormat::Zip, no_targets: false, unlisted_apps: 0, elsewhere }
}

/// The memory after a pass with this target, whose destination is held.
fn memory_of(target: &Target) -> Memory {
    let mut memory = Memory::default();
    memory.learn(std::iter::once(target), std::iter::empty());
    memory
}

/// A refused target with this destination.
fn refused_at(group: &str, project: &str, branch: &str) -> RefusedTarget {
    let destination = Destination { group: group.into(), project: project.into(), branch: branch.into() };
    RefusedTarget { target: Target { destination, ..target("other") }, problem: "bad".into() }
}

fn kept(plan: &Plan) -> Vec<(&str, bool)> {
    plan.held_retirements.iter().map(|held| (held.destination.project.as_str(), held.reason.is_trouble())).collect()
}

#[test]
fn what_a_refused_target_could_mean_is_not_retired() {
    for (group, project, branch) in [
        ("far/", "a", "main"),
        (" far", "a ", "main"),
        ("far", "/a", "main"),
        ("", "far/a", "main"),
        ("FAR", "A", "main"),
        ("far", "a", "main "),
        ("far", "a", "no such branch"),
    ] {
        let refused = vec![refused_at(group, project, branch)];
        let desired = Desired { targets: vec![at("b", 1)], refused: refused.clone() };
        let objects = [held("a", 1, 10), held("b", 1, 10), held("c", 2, 10)];
        let own = plan(&desired, &objects, POLICY).unwrap();
        assert_eq!((kept(&own), retired(&own)), (vec![("a", true)], 1), "{group}/{project}@{branch}");
        assert!(own.doubts_the_list());
        // The same if the refused target belongs to another shard.
        let desired = Desired { targets: vec![at("b", 1)], refused: vec![] };
        let elsewhere = Elsewhere { refused, ..Elsewhere::default() };
        let bucket_wide = BucketWide { elsewhere, ..bucket_wide() };
        let share = plan_with(&desired, &objects, bucket_wide, GuardBudget::default(), &Memory::default());
        assert_eq!(kept(&share), [("a", true)], "{group}/{project}@{branch}");
    }
}

#[test]
fn a_destination_of_unknown_origin_waits_for_a_refused_target_with_its_name() {
    let objects = [held("a-1", 1, 10), held("b", 1, 10), held("c", 2, 10), held("d", 1, 10)];
    let planned = |refused: RefusedTarget, memory: &Memory| {
        let desired = Desired { targets: vec![at("b", 1), at("d", 1)], refused: vec![refused] };
        plan_with(&desired, &objects, bucket_wide(), GuardBudget::default(), memory)
    };
    for (group, project) in [
        ("https://far", "a-1"),
        ("https://gitlab.far.example.com/far", "a-1.git"),
        ("git@gitlab.far.example.com:far", "A-1"),
        ("-far", "a-1"),
        ("far", "-a-1"),
        ("far", "a 1"),
        ("far\\a-1", "/"),
        ("another", "'a_1'"),
        ("", "https://far/a-1/"),
    ] {
        let plan = planned(refused_at(group, project, "main"), &Memory::default());
        assert_eq!((kept(&plan), retired(&plan)), (vec![("a-1", true)], 1), "{group}/{project}");
        // Where it comes from decides alone, if that is known.
        let plan = planned(refused_at(group, project, "main"), &memory_of(&target("a-1")));
        assert_eq!((kept(&plan), retired(&plan)), (vec![], 2), "{group}/{project}");
    }
    // The source's name, if nothing is left of the destination's.
    let nameless = refused_at("--", "://", "main");
    let source = Source { project: "near/deep/a-1".into(), branch: "main".into() };
    let named = RefusedTarget { target: Target { source, ..nameless.target.clone() }, ..nameless.clone() };
    assert_eq!(kept(&planned(named, &Memory::default())), [("a-1", true)]);
    for other in [nameless, refused_at("https://far", "a-2", "main"), refused_at("far/a-1", "other", "main")] {
        assert_eq!(retired(&planned(other, &Memory::default())), 2, "one broken target does not hold everything");
    }
}

#[test]
fn a_target_in_trouble_that_has_an_object_means_no_other_destination_of_its_name() {
    let mut elsewhere = target("a");
    elsewhere.destination.group = "another".into();
    let own = held_under(key::encode(&elsewhere.destination, commit(3), ArchiveFormat::Zip).unwrap(), 10);
    let unread = vec![(elsewhere, Head::Unknown(Unknown::NotTried))];
    let plan = decide_all(unread.clone(), &[held("a", 1, 10)]);
    assert_eq!((kept(&plan), retired(&plan)), (vec![("a", true)], 0));
    let plan = decide_all(unread, &[own, held("a", 1, 10)]);
    assert_eq!((kept(&plan), retired(&plan)), (vec![], 1));
}

#[test]
fn another_branch_of_a_project_whose_new_target_cannot_be_read_is_not_retired() {
    let mut typo = target("a");
    (typo.source.branch, typo.destination.branch) = ("mian".into(), "mian".into());
    let unknown = (typo.clone(), Head::Unknown(Unknown::NoBranch(typo.source.clone())));
    let plan = decide_all(vec![unknown], &[held("a", 1, 10)]);
    assert_eq!((kept(&plan), retired(&plan)), (vec![("a", true)], 0));
    let reason = plan.held_retirements[0].reason.to_string();
    assert!(reason.contains("far/a@mian"), "{reason}");
}

#[test]
fn a_target_with_an_object_of_its_own_holds_no_other_branch() {
    let mut release = target("a");
    release.destination.branch = "release".into();
    let unknown = (release.clone(), Head::Unknown(Unknown::NotTried));
    let own = held_under(key::encode(&release.destination, commit(3), ArchiveFormat::Zip).unwrap(), 10);
    let plan = decide_all(vec![unknown], &[own, held("a", 1, 10)]);
    assert_eq!((kept(&plan), retired(&plan)), (vec![], 1));
}

#[test]
fn a_renamed_destination_is_retired_only_after_its_successor_is_up() {
    let memory = memory_of(&target("a"));
    let mut renamed = target("a");
    renamed.destination.project = "renamed".into();
    let unread = Head::Unknown(Unknown::NotTried);
    for (head, trouble) in [(Head::At(commit(5)), false), (unread, true)] {
        let desired = Desired { targets: vec![(renamed.clone(), head)], refused: vec![] };
        let plan = plan_with(&desired, &[held("a", 1, 10)], bucket_wide(), GuardBudget::default(), &memory);
        assert_eq!((kept(&plan), retired(&plan)), (vec![("a", trouble)], 0));
        assert_eq!((plan.is_clean(), plan.doubts_the_list()), (!trouble, trouble));
    }
    let desired = Desired { targets: vec![(renamed.clone(), Head::At(commit(5)))], refused: vec![] };
    let up = held_under(key::encode(&renamed.destination, commit(5), ArchiveFormat::Zip).unwrap(), 20);
    let plan = plan_with(&desired, &[held("a", 1, 10), up], bucket_wide(), GuardBudget::default(), &memory);
    assert_eq!((kept(&plan), retired(&plan)), (vec![], 1));
    // Of another shard's target it is known only whether it has an object.
    let elsewhere = Elsewhere { unpublished: vec![renamed], ..Elsewhere::default() };
    let bucket_wide = BucketWide { elsewhere, ..bucket_wide() };
    let plan = plan_with(&Desired::default(), &[held("a", 1, 10)], bucket_wide, GuardBudget::default(), &memory);
    assert_eq!((kept(&plan), retired(&plan)), (vec![("a", false)], 0));
}

#[test]
fn without_a_memory_a_renamed_destination_is_known_by_its_commit() {
    let plan = decide_all(vec![at("renamed", 1)], &[held("a", 1, 10), held("b", 2, 10)]);
    assert_eq!((kept(&plan), retired(&plan)), (vec![("a", false)], 1));
}

#[test]
fn what_a_day_has_retired_counts_against_the_limit() {
    // Of 200 destinations half may go: 60 have gone, and 40 more may.
    let names: Vec<_> = (0..140).map(|n| format!("p{n}")).collect();
    let objects: Vec<_> = names.iter().map(|name| held(name, 1, 10)).collect();
    let budget = GuardBudget { most_held: 200, retired_before: 60, fewest_unlisted: None };
    for (gone, goes) in [(40, true), (41, false)] {
        let desired = Desired { targets: names.iter().skip(gone).map(|name| at(name, 1)).collect(), refused: vec![] };
        let plan = plan_with(&desired, &objects, bucket_wide(), budget, &Memory::default());
        assert_eq!((retired(&plan), plan.guard.is_none()), (if goes { gone } else { 0 }, goes), "{gone}");
        let (retired, limit) = (if goes { 100 } else { 60 }, Some(100));
        assert_eq!(plan.budget, RetireBudget { held: 140, retired, limit });
        assert_eq!(plan.budget.to_string(), format!("retired {retired} of at most 100 in 24 h"));
        if let Some(guard) = plan.guard {
            assert!(guard.to_string().contains("MAX_RETIRE allows 100 in 24 h, of which 60 are used"), "{guard}");
        }
    }
}

#[test]
fn what_disappeared_by_other_means_makes_no_room() {
    let names: Vec<_> = (0..10).map(|n| format!("p{n}")).collect();
    let objects: Vec<_> = names.iter().map(|name| held(name, 1, 10)).collect();
    let budget = GuardBudget { most_held: 200, retired_before: 0, fewest_unlisted: None };
    let desired = Desired { targets: names.iter().skip(6).map(|name| at(name, 1)).collect(), refused: vec![] };
    let plan = plan_with(&desired, &objects, bucket_wide(), budget, &Memory::default());
    assert_eq!((retired(&plan), plan.guard.map(|guard| guard.limit)), (0, Some(5)));
}

#[test]
fn an_app_that_loses_its_list_retires_nothing() {
    let objects = [held("a", 1, 10), held("b", 1, 10), held("c", 1, 10)];
    let desired = Desired { targets: vec![at("a", 1), at("b", 1)], refused: vec![] };
    let planned = |fewest_unlisted, unlisted_apps| {
        let budget = GuardBudget { fewest_unlisted, ..GuardBudget::default() };
        plan_with(&desired, &objects, BucketWide { unlisted_apps, ..bucket_wide() }, budget, &Memory::default())
    };
    // An app without components has null, too.
    for (before, now) in [(None, 7), (Some(2), 2), (Some(2), 0)] {
        assert_eq!(retired(&planned(before, now)), 1, "{before:?} {now:?}");
    }
    let lost = planned(Some(2), 4);
    assert_eq!((retired(&lost), lost.guard.map(|guard| guard.lost_lists)), (0, Some(2)));
    assert!(
        lost.guard.unwrap().to_string().contains("2 more app(s) of the target list than before have no components")
    );
}

#[test]
fn rivals_are_one_blocked_destination() {
    let rivals: Vec<_> = (0..1_000)
        .map(|n| Target { source: Source { project: format!("near/{n}"), branch: "main".into() }, ..target("a") })
        .collect();
    let refused = crate::model::target::Targets::validate(rivals).refused;
    assert_eq!(refused.len(), 1_000);
    let plan = plan(&Desired { targets: vec![], refused }, &[held("a", 1, 10)], POLICY).unwrap();
    assert_eq!((plan.blocked.len(), retired(&plan)), (1, 0));
    assert!(plan.blocked[0].blocker.to_string().starts_with("1000 targets name this destination"));
}

#[test]
fn sweeping_is_not_counted_as_retiring() {
    let names: Vec<_> = (0..4).map(|n| format!("p{n}")).collect();
    let objects: Vec<_> = names.iter().flat_map(|name| [held(name, 1, 10), held(name, 2, 20)]).collect();
    let plan = decide_all(names.iter().map(|name| at(name, 2)).collect(), &objects);
    assert!(plan.guard.is_none());
    assert_eq!(plan.actions.len(), 4);
}

#[test]
fn limits_parse_as_written() {
    assert_eq!("20".parse(), Ok(MaxRetire::Count(20)));
    assert_eq!("0%".parse(), Ok(MaxRetire::Percent(0)));
    for bad in ["", "%", "101%", "-1", "half", "1.5", "50 %"] {
        assert!(bad.parse::<MaxRetire>().is_err(), "{bad}");
    }
}

const PROJECTS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn any_head() -> impl Strategy<Value = Head> {
    prop_oneof![3 => (1_u8..4).prop_map(|n| Head::At(commit(n))), 1 => Just(Head::Unknown(Unknown::NotTried))]
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let wanted = proptest::collection::btree_map(
        select(&PROJECTS[..]),
        prop_oneof![4 => any_head().prop_map(Some), 1 => Just(None)],
        0..5,
    );
    wanted.prop_map(|wanted| {
        let mut desired = Desired::default();
        for (project, head) in wanted {
            match head {
                Some(head) => desired.targets.push((target(project), head)),
                None => desired.refused.push(RefusedTarget { target: target(project), problem: "bad".into() }),
            }
        }
        desired
    })
}

fn any_held() -> impl Strategy<Value = Vec<HeldObject>> {
    let object = (select(&PROJECTS[..]), 1_u8..4, select(&ArchiveFormat::ALL[..]), 0_u64..4);
    proptest::collection::vec(object, 0..8).prop_map(|objects| {
        let mut seen = HashSet::new();
        let objects = objects.into_iter().map(|(project, n, format, age_rank)| held_as(project, n, format, age_rank));
        objects.filter(|object| seen.insert(object.key.clone())).collect()
    })
}

static NOTHING: BTreeSet<Destination> = BTreeSet::new();
static SOME: LazyLock<BTreeSet<Destination>> = LazyLock::new(|| ["a", "b", "c"].map(destination).into());

fn any_policy() -> impl Strategy<Value = Policy<'static>> {
    let max_retire = prop_oneof![(0_usize..4).prop_map(MaxRetire::Count), (0_u8..=100).prop_map(MaxRetire::Percent)];
    let format = select(&ArchiveFormat::ALL[..]).prop_map(FormatChoice::Only);
    (format, max_retire, any::<bool>()).prop_map(|(format, max_retire, again)| {
        let republish = if again { &*SOME } else { &NOTHING };
        Policy { format, max_retire, republish, ..POLICY }
    })
}

/// Names that differ in what people overlook, and one that differs.
const SPELLED: [&str; 6] = ["a", "A", " a", "a/", "/a", "b"];

/// A target as somebody may have written it, refused or with a head, from one of two sources.
fn any_written() -> impl Strategy<Value = (Target, Option<Head>)> {
    let parts = (select(&SPELLED[..]), select(&["main", "main ", "mian"][..]), select(&SPELLED[..]));
    (parts, proptest::option::of(any_head())).prop_map(|((project, branch, source), head)| {
        let destination = Destination { group: "far".into(), project: project.into(), branch: branch.into() };
        let source = Source { project: format!("near/{source}"), branch: "main".into() };
        (Target { source, destination }, head)
    })
}

/// The bucket after the plan was carried out, at a time later than anything in it.
fn applied(plan: &Plan, held: &[HeldObject]) -> Vec<HeldObject> {
    let mut after = held.to_vec();
    for action in &plan.actions {
        match action {
            Action::Publish(publish) => {
                after.retain(|object| object.key != publish.key && !publish.supersedes.contains(&object.key));
                after.push(held_under(publish.key.clone(), 100));
            }
            Action::Retire(Retire { keys, .. }) | Action::Sweep(Sweep { keys, .. }) => {
                after.retain(|object| !keys.contains(&object.key))
            }
        }
    }
    after
}

proptest! {
    #[test]
    fn planning_again_after_applying_finds_nothing_to_do(desired in any_desired(), held in any_held(), policy in any_policy()) {
        let first = plan(&desired, &held, policy).unwrap();
        let policy = Policy { republish: &NOTHING, ..policy };
        let second = plan(&desired, &applied(&first, &held), policy).unwrap();
        // If the guard held retirements back, what was published since counts as held and can allow them. What a target
        // without an object held goes once that is published.
        let held_back = first.guard.is_some() || !first.held_retirements.is_empty();
        let left: Vec<_> = second.actions.iter().filter(|action| !(held_back && matches!(action, Action::Retire(_)))).collect();
        prop_assert!(left.is_empty(), "{left:?}");
        prop_assert_eq!(&second.blocked, &first.blocked);
    }

    #[test]
    fn what_is_unknown_or_refused_loses_nothing(desired in any_desired(), held in any_held(), policy in any_policy()) {
        let plan = plan(&desired, &held, policy).unwrap();
        let after: HashSet<_> = applied(&plan, &held).into_iter().map(|object| object.key).collect();
        let unclear = desired.targets.iter().filter(|(_, head)| matches!(head, Head::Unknown(_))).map(|(target, _)| target)
            .chain(desired.refused.iter().map(|refused| &refused.target));
        for target in unclear {
            prop_assert!(held.iter().filter(|object| object.name.destination == target.destination).all(|object| after.contains(&object.key)));
        }
    }

    #[test]
    fn nothing_is_retired_that_a_target_in_trouble_could_mean(
        written in proptest::collection::vec(any_written(), 0..4), from in select(&SPELLED[..]), has_memory: bool
    ) {
        let mut desired = Desired::default();
        for (target, head) in written {
            match head {
                Some(head) if desired.targets.iter().all(|(other, _)| other.destination != target.destination) => desired.targets.push((target, head)),
                Some(_) | None => desired.refused.push(RefusedTarget { target, problem: "bad".into() }),
            }
        }
        // What is held, and where it came from.
        let origin = Target { source: Source { project: format!("near/{from}"), branch: "main".into() }, ..target("a") };
        let memory = if has_memory { memory_of(&origin) } else { Memory::default() };
        let objects = [held("a", 7, 10)];
        let plan = plan_with(&desired, &objects, bucket_wide(), GuardBudget::default(), &memory);
        let trouble = desired.targets.iter().filter(|(_, head)| matches!(head, Head::Unknown(_))).map(|(target, _)| target)
            .chain(desired.refused.iter().map(|refused| &refused.target));
        let means = |target: &Target| folded(&target.destination.path()) == "far/a"
            || has_memory && folded(&target.source.project) == folded(&origin.source.project);
        if retired(&plan) > 0 {
            for target in trouble {
                prop_assert!(!means(target), "{target:?}");
            }
            for (target, _) in &desired.targets {
                prop_assert!(!means(target), "its successor is not up: {target:?}");
            }
        }
        let named = desired.targets.iter().map(|(target, _)| target).chain(desired.refused.iter().map(|refused| &refused.target));
        let named = named.into_iter().any(|target| target.destination == destination("a"));
        prop_assert_eq!(retired(&plan) + plan.held_retirements.len(), usize::from(!named));
    }

    #[test]
    fn a_wanted_destination_that_has_an_object_keeps_one(desired in any_desired(), held in any_held(), policy in any_policy()) {
        let after = applied(&plan(&desired, &held, policy).unwrap(), &held);
        for (target, _) in &desired.targets {
            let has = |objects: &[HeldObject]| objects.iter().any(|object| object.name.destination == target.destination);
            prop_assert!(!has(&held) || has(&after));
        }
    }

    #[test]
    fn what_is_published_is_never_superseded(desired in any_desired(), held in any_held(), policy in any_policy()) {
        for action in plan(&desired, &held, policy).unwrap().actions {
            if let Action::Publish(publish) = action {
                prop_assert!(!publish.supersedes.contains(&publish.key));
            }
        }
    }

    #[test]
    fn the_order_of_inputs_does_not_matter(desired in any_desired(), held in any_held(), policy in any_policy(), turn in 0_usize..8) {
        let expected = plan(&desired, &held, policy).unwrap();
        let (mut desired, mut held) = (desired, held);
        desired.targets.reverse();
        desired.refused.reverse();
        let by = turn % held.len().max(1);
        held.rotate_left(by);
        prop_assert_eq!(plan(&desired, &held, policy).unwrap(), expected);
    }

    #[test]
    fn no_more_is_retired_than_the_guard_allows(desired in any_desired(), held in any_held(), policy in any_policy()) {
        let plan = plan(&desired, &held, policy).unwrap();
        let of = held.iter().map(|object| &object.name.destination).collect::<HashSet<_>>().len();
        let allowed = match policy.max_retire {
            MaxRetire::Count(n) => n,
            MaxRetire::Percent(0) => 0,
            MaxRetire::Percent(p) => (of * usize::from(p) / 100).max(1),
        };
        prop_assert!(retired(&plan) <= allowed);
    }
}
