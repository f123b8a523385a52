#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::model::key::{self, ArchiveFormat};
use crate::model::manifest::Origin;
use crate::plan::outcome::{Failure, Rewrite};

const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn destination(project: &str) -> Destination {
    Destination { group: "far".to_owned(), project: project.to_owned(), branch: "main".to_owned() }
}

fn commit(number: u8) -> CommitId {
    CommitId::from_bytes([number; 20])
}

fn object(project: &str, number: u8, written: u64) -> HeldObject {
    let key = key::encode(&destination(project), commit(number), ArchiveFormat::Zip).unwrap();
    let name = key::decode(&key).unwrap();
    HeldObject { key, name, last_modified: UNIX_EPOCH + Duration::from_secs(written), bytes: 100 }
}

const POLICY: OnRewrite = OnRewrite::Publish;

fn policy(now: SystemTime) -> DeliveryPolicy {
    DeliveryPolicy { on_rewrite: POLICY, now, ask_again: false }
}

fn heads(heads: &[(&str, FarHead)]) -> BTreeMap<Destination, FarHead> {
    heads.iter().map(|(project, head)| (destination(project), head.clone())).collect()
}

fn plan(held: &[HeldObject], far: &[(&str, FarHead)], refusals: &Refusals) -> DeliveryPlan {
    plan_deliveries(&candidates(held), &heads(far), refusals, policy(now()))
}

#[test]
fn each_far_head_has_one_consequence() {
    let held = [object("absent", 1, 1), object("behind", 1, 1), object("current", 1, 1), object("unknown", 1, 1)];
    let unknown = FarHead::Unknown(FarUnknown::Unreadable("it is down".to_owned()));
    let far = [
        ("absent", FarHead::Absent),
        ("behind", FarHead::At(commit(9))),
        ("current", FarHead::At(commit(1))),
        ("unknown", unknown),
    ];
    let plan = plan(&held, &far, &Refusals::default());
    let delivered: Vec<_> = plan.deliveries.iter().map(|it| (&it.destination().project[..], it.from)).collect();
    assert_eq!(delivered, [("absent", None), ("behind", Some(commit(9)))]);
    assert_eq!(plan.deliveries[0].reason, DeliverReason::New);
    assert_eq!(plan.deliveries[1].reason, DeliverReason::Behind);
    assert_eq!(plan.unchanged, [object("current", 1, 1)]);
    assert_eq!(plan.blocked.iter().map(|it| it.obstacle.cause()).collect::<Vec<_>>(), [Cause::Unreachable]);
}

#[test]
fn what_was_not_asked_for_is_not_tried() {
    let plan = plan(&[object("a", 1, 1)], &[], &Refusals::default());
    assert_eq!(plan.blocked[0].obstacle, Obstacle::Far(FarUnknown::NotTried));
}

#[test]
fn the_newest_object_counts_and_older_ones_are_left_alone() {
    let held = [object("a", 2, 7), object("a", 1, 5), object("a", 3, 6)];
    let all = candidates(&held);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].commit, Ok(commit(2)));
    let tied = [object("a", 2, 7), object("a", 3, 7)];
    let greater = tied.iter().max_by_key(|object| &object.key).unwrap();
    assert_eq!(candidates(&tied)[0].object, greater);
}

fn increment(project: &str, base: u8, number: u8, written: u64) -> HeldObject {
    let key = key::encode_increment(&destination(project), commit(base), commit(number)).unwrap();
    HeldObject { name: key::decode(&key).unwrap(), key, ..object(project, number, written) }
}

#[test]
fn a_far_branch_is_sent_what_follows_where_it_is() {
    // Before it was joined, the fourth commit was behind two more.
    let chain = [object("a", 1, 5), increment("a", 1, 2, 6), increment("a", 2, 4, 8)];
    let others = [increment("a", 2, 3, 7), increment("a", 3, 4, 7), increment("a", 9, 8, 9), increment("a", 1, 7, 4)];
    let mut held = [&chain[..], &others[..]].concat();
    held.reverse();
    let routes = [
        (FarHead::Absent, Route::All),
        (FarHead::At(commit(1)), Route::From(1)),
        (FarHead::At(commit(2)), Route::From(2)),
        (FarHead::At(commit(3)), Route::Search),
        (FarHead::At(commit(8)), Route::Search),
    ];
    for (far, route) in routes {
        let plan = plan(&held, &[("a", far)], &Refusals::default());
        assert_eq!((plan.deliveries[0].route, plan.deliveries[0].commit), (route, commit(4)));
        assert_eq!(plan.deliveries[0].chain, chain);
    }
    let there = plan(&held, &[("a", FarHead::At(commit(4)))], &Refusals::default());
    assert_eq!(there.unchanged, chain[2..]);
}

/// What copies a bucket may copy the small objects first: that must not turn the far branch back.
#[test]
fn a_far_branch_at_a_commit_of_older_increments_stays_there() {
    let held = [object("a", 1, 9), increment("a", 1, 2, 6), increment("a", 2, 3, 7)];
    for far in [2, 3] {
        let plan = plan(&held, &[("a", FarHead::At(commit(far)))], &Refusals::default());
        assert_eq!(plan.blocked[0].obstacle, Obstacle::Order);
    }
    let plan = plan(&held, &[("a", FarHead::At(commit(7)))], &Refusals::default());
    assert_eq!(plan.deliveries[0].route, Route::Search);
}

#[test]
fn increments_without_a_whole_history_are_blocked() {
    let plan = plan(&[increment("a", 1, 2, 6)], &[("a", FarHead::At(commit(1)))], &Refusals::default());
    assert!(plan.blocked[0].obstacle.to_string().contains("no whole history"), "{}", plan.blocked[0].obstacle);
}

#[test]
fn names_that_cannot_be_used_are_blocked_and_say_why() {
    let mut dash = object("-a", 1, 1);
    let mut short = object("b", 1, 1);
    short.name.commit = "1234567".to_owned();
    dash.name.destination.branch = "main".to_owned();
    let zeros = object("c", 0, 1);
    let far = [("-a", FarHead::Absent), ("b", FarHead::Absent), ("c", FarHead::At(commit(1)))];
    let plan = plan(&[dash, short, zeros], &far, &Refusals::default());
    assert_eq!(plan.deliveries, []);
    let reasons: Vec<_> = plan.blocked.iter().map(|it| it.obstacle.to_string()).collect();
    assert!(reasons[0].contains("begins with a dash"), "{reasons:?}");
    assert!(reasons[1].contains("40 hexadecimal digits"), "{reasons:?}");
    assert!(reasons[2].contains("40 zeros"), "it would delete the branch: {reasons:?}");
}

#[test]
fn two_spellings_of_one_branch_are_both_blocked() {
    let (mut upper, lower) = (object("A", 1, 1), object("a", 2, 2));
    upper.name.destination.group = "FAR".to_owned();
    let all = [upper, lower, object("b", 1, 1)];
    let blocked: Vec<_> = candidates(&all).iter().map(|it| it.commit.is_err()).collect();
    assert_eq!(blocked, [true, true, false]);
}

fn deliver(project: &str, number: u8, from: Option<u8>) -> Deliver {
    Deliver {
        object: object(project, number, 1),
        chain: vec![object(project, number, 1)],
        route: if from.is_some() { Route::Search } else { Route::All },
        commit: commit(number),
        from: from.map(commit),
        on_rewrite: POLICY,
        reason: DeliverReason::New,
    }
}

fn far(from: Option<u8>) -> FarHead {
    from.map_or(FarHead::Absent, |number| FarHead::At(commit(number)))
}

#[test]
fn a_refusal_holds_for_this_object_and_this_head_until_its_pause_is_over() {
    let mut refusals = Refusals::default();
    let refused = deliver("a", 1, Some(9));
    refusals.note(&refused, Cause::ProtectedBranch, "protected", now());
    let at = |object: HeldObject, head: FarHead, now| {
        let plan = plan_deliveries(&candidates(&[object]), &heads(&[("a", head)]), &refusals, policy(now));
        plan.deliveries.first().map(|it| it.reason)
    };
    let (same, moved) = (far(Some(9)), far(Some(8)));
    assert_eq!(at(object("a", 1, 1), same.clone(), now()), None);
    assert_eq!(at(object("a", 1, 1), same.clone(), now() + HOUR - Duration::from_secs(1)), None);
    assert_eq!(at(object("a", 1, 1), same.clone(), now() + HOUR), Some(DeliverReason::Again));
    assert_eq!(at(object("a", 1, 1), moved, now()), Some(DeliverReason::Behind), "another head");
    assert_eq!(at(object("a", 2, 1), same.clone(), now()), Some(DeliverReason::Behind), "another commit");
    assert_eq!(at(object("a", 1, 2), same.clone(), now()), Some(DeliverReason::Behind), "written again");
    let asked = DeliveryPolicy { ask_again: true, ..policy(now()) };
    let plan = plan_deliveries(&candidates(&[object("a", 1, 1)]), &heads(&[("a", same)]), &refusals, asked);
    assert_eq!(plan.deliveries[0].reason, DeliverReason::Again);
}

#[test]
fn pauses_grow_to_a_day() {
    let (mut refusals, refused, mut time) = (Refusals::default(), deliver("a", 1, None), now());
    let mut pauses = vec![];
    for _ in 0..7 {
        refusals.note(&refused, Cause::LfsMissing, "no LFS", time);
        let due = (0..=48)
            .map(|hours| time + hours * HOUR)
            .find(|at| refusals.of(&refused.object, None, POLICY).unwrap().is_due(*at));
        pauses.push(due.unwrap().duration_since(time).unwrap().as_secs() / 3_600);
        time = due.unwrap();
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 24, 24]);
}

#[test]
fn a_damaged_object_is_read_once_more_before_the_pauses_begin() {
    let (mut refusals, damaged) = (Refusals::default(), deliver("a", 1, None));
    let is_due = |refusals: &Refusals| refusals.of(&damaged.object, None, POLICY).unwrap().is_due(now());
    refusals.note(&damaged, Cause::Damaged, "damaged", now());
    assert!(is_due(&refusals));
    refusals.note(&damaged, Cause::Damaged, "damaged", now());
    assert!(!is_due(&refusals));
}

#[test]
fn only_failures_that_would_repeat_are_kept_and_only_while_their_object_is_there() {
    let mut refusals = Refusals::default();
    refusals.note(&deliver("a", 1, None), Cause::Download, "broke off", now());
    assert_eq!(refusals, Refusals::default());
    refusals.note(&deliver("a", 1, None), Cause::Damaged, "damaged", now());
    refusals.note(&deliver("b", 1, None), Cause::NotOurs, "to others", now());
    let kept = serde_json::to_string(&refusals.kept()).unwrap();
    let read: Vec<KeptRefusal> = serde_json::from_str(&kept).unwrap();
    assert_eq!(Refusals::from(read), refusals, "as it was written");
    refusals.note(&deliver("c", 1, None), Cause::Untrusted, "unsigned", now());
    refusals.note(&deliver("d", 1, None), Cause::Replayed, "of before", now());
    assert_eq!(Refusals::from(refusals.kept()).kept().len(), 4);
    refusals.new_keys();
    refusals.keep_only(&["a", "b", "c", "d"].map(|name| object(name, 1, 1)));
    assert_eq!(refusals.kept().len(), 1, "other identities and keys may fit");
    refusals.keep_only(&[object("a", 2, 1)]);
    assert_eq!(refusals, Refusals::default());
}

#[test]
fn a_rewrite_is_held_only_while_the_setting_says_so() {
    let (mut refusals, diverged) = (Refusals::default(), deliver("a", 1, Some(9)));
    refusals.note(&diverged, Cause::Diverged, "diverged", now());
    let plan = |on_rewrite, now| {
        let policy = DeliveryPolicy { on_rewrite, now, ask_again: false };
        let held = [object("a", 1, 1)];
        plan_deliveries(&candidates(&held), &heads(&[("a", far(Some(9)))]), &refusals, policy).deliveries.len()
    };
    assert_eq!(plan(OnRewrite::Hold, now()), 0);
    assert_eq!(plan(OnRewrite::Publish, now()), 1);
}

#[test]
fn a_report_adds_up() {
    let plan = plan(&[object("a", 1, 1)], &[], &Refusals::default());
    let outcome = |result| report::DeliveryOutcome { deliver: deliver("b", 1, Some(2)), result };
    let done = report::Delivered {
        rewritten_from: Some(commit(2)),
        pushed_bytes: 7,
        origin: Origin::Unsigned,
        published: None,
        took: Duration::ZERO,
    };
    let rewrite = Rewrite { from: commit(2), to: commit(1) };
    let outcomes = [
        outcome(Ok(report::Done::Pushed(done))),
        outcome(Ok(report::Done::Superseded)),
        outcome(Err(Failure::Held { rewrite, error: String::new() })),
        outcome(Err(Failure::Stopped)),
    ];
    let report = report::DeliveryReport::new(&plan, &outcomes, 3, Duration::from_secs(2));
    let counts = [report.delivered, report.blocked.len(), report.held.len(), report.failed.len(), report.foreign];
    assert_eq!(counts, [1, 1, 1, 1, 3]);
    assert_eq!((report.rewritten.len(), report.pushed_bytes, report.downloaded_bytes), (1, 7, 100));
    assert_eq!((report.superseded, report.is_success()), (1, false));

    let next = report::DeliveryReport { delivered: 1, unchanged: 1, pushed_bytes: 2, ..Default::default() };
    let both = report.then(next);
    let counts = [both.delivered, both.unchanged, both.superseded, both.rewritten.len(), both.failed.len()];
    assert_eq!(
        (counts, both.pushed_bytes),
        ([2, 0, 0, 1, 0], 9),
        "what the first one delivered is unchanged in the second"
    );
    assert!(both.is_success());
}

fn any_head() -> impl Strategy<Value = Option<FarHead>> {
    prop_oneof![
        Just(None),
        Just(Some(FarHead::Absent)),
        Just(Some(FarHead::NoProject)),
        (0..4_u8).prop_map(|number| Some(FarHead::At(commit(number)))),
        Just(Some(FarHead::Unknown(FarUnknown::Unreadable(String::new())))),
    ]
}

proptest! {
    #[test]
    fn no_input_order_matters_and_each_destination_is_planned_once(
        objects in proptest::collection::vec((0..4_u8, 0..4_u8, 0..3_u64), 0..12),
        far in proptest::collection::vec(any_head(), 4),
        refused in proptest::collection::vec((0..4_u8, 0..4_u8), 0..4),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let project = |number: u8| format!("p{number}");
        let mut held: Vec<_> = objects.iter().map(|(p, c, t)| object(&project(*p), *c, *t)).collect();
        held.sort_by(|a, b| a.key.cmp(&b.key));
        held.dedup_by(|a, b| a.key == b.key);
        let heads: BTreeMap<_, _> = far
            .iter()
            .zip(0..)
            .filter_map(|(head, number)| Some((destination(&project(number)), head.clone()?)))
            .collect();
        let mut refusals = Refusals::default();
        refused.iter().for_each(|(p, c)| refusals.note(&deliver(&project(*p), *c, None), Cause::Hook, "no", now()));
        let before = plan_deliveries(&candidates(&held), &heads, &refusals, policy(now()));
        let at = if held.is_empty() { 0 } else { shuffle.index(held.len()) };
        held.rotate_left(at);
        held.reverse();
        let after = plan_deliveries(&candidates(&held), &heads, &refusals, policy(now()));
        prop_assert_eq!(&before, &after);

        let mut seen: Vec<_> = before.deliveries.iter().map(|it| it.destination().clone()).collect();
        seen.extend(before.blocked.iter().map(|it| it.destination().clone()));
        seen.extend(before.unchanged.iter().map(|it| it.name.destination.clone()));
        let wanted: BTreeSet<_> = held.iter().map(|object| object.name.destination.clone()).collect();
        prop_assert_eq!(seen.len(), wanted.len());
        prop_assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), wanted);
        for it in &before.deliveries {
            prop_assert!(held.contains(&it.object), "only what is in the bucket is pushed");
            let head = heads.get(it.destination());
            prop_assert_eq!(it.from, match head { Some(FarHead::At(head)) => Some(*head), _ => None });
            prop_assert!(matches!(head, Some(FarHead::At(_) | FarHead::Absent | FarHead::NoProject)), "unknown pushes nothing");
        }
    }
}

#[test]
fn a_project_that_is_not_visible_is_delivered_to_and_told_from_a_branch_that_is_not_there() {
    let held = [object("a", 1, 1)];
    let of = |head| plan(&held, &[("a", head)], &Refusals::default()).deliveries.remove(0);
    let (missing, absent) = (of(FarHead::NoProject), of(FarHead::Absent));
    assert_eq!((missing.from, missing.route), (absent.from, absent.route));
    assert!(missing.reason.to_string().starts_with("no such project is visible; "), "{}", missing.reason);
    assert_eq!(absent.reason, DeliverReason::New);
}

#[test]
fn what_to_do_about_a_push_that_is_refused_depends_on_why() {
    let why = || "the server answered".to_owned();
    let no_project = FarUnknown::NoProject { group: "far/tools".to_owned(), why: why() };
    for (unknown, cause, said, word) in [
        (FarUnknown::LoginRefused(why()), Cause::NoRight, "refuses a push: ", "GITLAB_USERNAME"),
        (
            no_project,
            Cause::NoProject,
            "did not create it in the group far/tools: ",
            "Create the group if it is missing",
        ),
        (
            FarUnknown::Refused(why()),
            Cause::NoRight,
            "refuses a push: ",
            "the role Developer in the project, or Maintainer",
        ),
    ] {
        let obstacle = Obstacle::Far(unknown);
        assert!(obstacle.advice().contains(word), "{}", obstacle.advice());
        assert_eq!(obstacle.cause(), cause, "{obstacle}");
        assert!(obstacle.to_string().starts_with("the far GitLab "), "{obstacle}");
        assert!(obstacle.to_string().contains(&format!("{said}the server answered")), "{obstacle}");
    }
}
