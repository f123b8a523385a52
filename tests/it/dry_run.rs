//! `-dry-run`: the plan on standard output, and nothing touched.

use std::time::SystemTime;

use testbed::http::RequestRecord;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{Daemon, OURS, keys, operations, pass, run, wait_until, zip_key};

const OLD_COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const STALE_COMMIT: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A world with one destination of every fate but a blocked one.
struct Scene {
    world: World,
    new: Repo,
    changed: Repo,
}

fn scene() -> Scene {
    let world = World::start().unwrap();
    let [new, changed, same, swept] = ["new", "changed", "same", "swept"].map(|name| {
        let source = world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/deep/{name}"), "trunk").unwrap();
        source
    });
    let s3 = world.s3();
    s3.put(&zip_key("far/deep/changed", "trunk", OLD_COMMIT), "old");
    s3.put(&zip_key("far/deep/same", "trunk", &same.head("main").unwrap()), "current");
    s3.put(&zip_key("far/deep/swept", "trunk", &swept.head("main").unwrap()), "current");
    s3.put_at(&zip_key("far/deep/swept", "trunk", STALE_COMMIT), "stale", SystemTime::UNIX_EPOCH);
    s3.put(&zip_key("far/deep/gone", "trunk", OLD_COMMIT), "retired");
    s3.put("foreign.txt", "somebody else's");
    Scene { world, new, changed }
}

/// By the servers' own logs, nothing but looking happened.
#[track_caller]
fn assert_untouched(world: &World) {
    let requests = world.s3().requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.method == "GET"), "{requests:#?}");
    // Cut off by a signal before its server knew what it was: neither understood nor answered.
    let cut = |request: &RequestRecord| request.operation.is_none() && request.status.is_none();
    assert!(requests.iter().all(|request| request.is("ListObjectsV2") || cut(request)), "{requests:#?}");
    let requests = world.source.requests();
    assert!(
        !requests.is_empty() && requests.iter().all(|request| request.is("ls-refs") || cut(request)),
        "{requests:#?}"
    );
    assert!(world.destination.requests().is_empty());
    assert!(!world.workdir().exists());
}

/// The line that names this project.
#[track_caller]
fn line<'a>(text: &'a str, project: &str) -> &'a str {
    text.lines().find(|line| line.contains(project)).unwrap_or_else(|| panic!("no {project} in\n{text}"))
}

#[test]
fn plan_says_what_will_happen_to_each_destination_and_why() {
    let Scene { world, new, changed } = scene();
    let dry = run(&world, &["-dry-run=true", "-run-once=true"]).succeeded();
    let short = |repo: &Repo| repo.head("main").unwrap()[..7].to_owned();
    let expected: [(&str, &[&str]); 4] = [
        ("far/deep/new", &["trunk", &short(&new), "not in the bucket yet"]),
        ("far/deep/changed", &["trunk", &OLD_COMMIT[..7], &short(&changed), "the source branch has a new commit"]),
        ("far/deep/gone", &["trunk", "1 object", "no target names it any more"]),
        ("far/deep/swept", &["trunk", "1 object", "outdated"]),
    ];
    for (project, words) in expected {
        let line = line(&dry.out, project);
        let mut rest = line;
        for word in words {
            let at = rest.find(word).unwrap_or_else(|| panic!("no {word:?} after the others in {line:?}"));
            rest = &rest[at + word.len()..];
        }
    }
    assert!(!dry.out.contains("far/deep/same"), "{}", dry.out);
    let sum = line(&dry.out, "Plan (zip)");
    for part in ["2 to publish", "1 to retire", "1 to sweep", "0 blocked", "1 unchanged"] {
        assert!(sum.contains(part), "{part} in {sum}");
    }
    assert!(dry.out.contains("1 object with foreign names"), "{}", dry.out);
    assert!(!dry.out.contains('\u{1b}'), "{:?}", dry.out);
    assert_untouched(&world);
}

#[test]
fn sections_of_the_plan_come_in_the_order_of_their_weight() {
    let Scene { world, .. } = scene();
    let dry = run(&world, &["-dry-run", "-run-once"]).succeeded();
    let titles = ["Will publish (2):", "Will retire (1):", "Will sweep (1):", "Plan (zip):"];
    let places: Vec<_> = titles.iter().map(|title| dry.out.find(title)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{}", dry.out);
}

#[test]
fn dry_run_announces_exactly_what_the_pass_then_does() {
    let Scene { world, .. } = scene();
    let plan = run(&world, &["-dry-run", "-run-once", "-output=json"]).succeeded().json();
    let mut before = keys(&world);
    pass(&world).succeeded().logged("published=2").logged("retired=1").logged("swept=1");
    for publish in plan["publish"].as_array().unwrap() {
        before.push(publish["key"].as_str().unwrap().to_owned());
        before.retain(|key| !publish["supersedes"].as_array().unwrap().iter().any(|gone| gone == key));
    }
    for gone in ["retire", "sweep"].into_iter().flat_map(|kind| plan[kind].as_array().unwrap()) {
        before.retain(|key| !gone["keys"].as_array().unwrap().iter().any(|gone| gone == key));
    }
    before.sort();
    assert_eq!(keys(&world), before);
    let after = run(&world, &["-dry-run", "-run-once"]).succeeded();
    assert!(line(&after.out, "Plan (zip)").ends_with("0 to publish, 0 to retire, 0 to sweep, 0 blocked, 4 unchanged"));
}

#[test]
fn json_plan_has_the_documented_shape() {
    let Scene { world, new, changed } = scene();
    world.sync("near/missing", "main", "far/deep/missing", "trunk").unwrap();
    // It was published before, so it could not mean another destination.
    world.s3().put(&zip_key("far/deep/missing", "trunk", OLD_COMMIT), "kept");
    let plan = run(&world, &["-dry-run", "-run-once", "-output", "json"]).failed().json();
    let destination = |project: &str| serde_json::json!({"group": "far/deep", "project": project, "branch": "trunk"});
    let with = |project: &str, further: serde_json::Value| {
        let mut object = destination(project);
        object.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        object
    };
    let (new_head, changed_head) = (new.head("main").unwrap(), changed.head("main").unwrap());
    let blocked = plan["blocked"][0]["reason"].as_str().unwrap();
    assert!(blocked.contains("near/missing") && blocked.contains("404"), "{blocked}");
    assert_eq!(
        plan,
        serde_json::json!({
            "format": "zip",
            "publish": [
                with("changed", serde_json::json!({
                    "source_project": "near/changed", "source_branch": "main",
                    "old_commit": OLD_COMMIT, "commit": changed_head, "crossing": "whole", "base": null,
                    "key": zip_key("far/deep/changed", "trunk", &changed_head),
                    "supersedes": [zip_key("far/deep/changed", "trunk", OLD_COMMIT)],
                    "reason": "the source branch has a new commit",
                })),
                with("new", serde_json::json!({
                    "source_project": "near/new", "source_branch": "main",
                    "old_commit": null, "commit": new_head, "crossing": "whole", "base": null,
                    "key": zip_key("far/deep/new", "trunk", &new_head),
                    "supersedes": [], "reason": "not in the bucket yet",
                })),
            ],
            "retire": [with("gone", serde_json::json!({
                "keys": [zip_key("far/deep/gone", "trunk", OLD_COMMIT)],
                "reason": "no target names it any more",
            }))],
            "sweep": [with("swept", serde_json::json!({
                "keys": [zip_key("far/deep/swept", "trunk", STALE_COMMIT)],
                "reason": "outdated, left beside the current object",
            }))],
            "blocked": [with("missing", serde_json::json!({"reason": blocked}))],
            "unchanged": 1,
            "foreign": 1,
            "retire_guard": null,
            "held_retirements": [],
            "retired_24h": 1,
            "retire_limit_24h": 2,
        })
    );
    assert_untouched(&world);
}

#[test]
fn blocked_target_fails_the_dry_run_and_the_rest_is_planned() {
    let Scene { world, .. } = scene();
    world.sync("near/missing", "main", "far/deep/missing", "trunk").unwrap();
    world.sync("near/same", "no-such-branch", "far/deep/branchless", "trunk").unwrap();
    for published in ["far/deep/missing", "far/deep/branchless"] {
        world.s3().put(&zip_key(published, "trunk", OLD_COMMIT), "kept");
    }
    let dry = run(&world, &["-dry-run", "-run-once"]).failed();
    let blocked = dry.out.split_once("Blocked (2):").unwrap().1;
    assert!(line(blocked, "far/deep/missing").contains("404"), "{blocked}");
    assert!(line(blocked, "far/deep/branchless").contains("near/same has no branch no-such-branch"), "{blocked}");
    assert!(line(&dry.out, "Plan (zip)").contains("2 to publish, 1 to retire, 1 to sweep, 2 blocked, 1 unchanged"));
    assert_untouched(&world);
}

#[test]
fn retire_guard_fails_the_dry_run_and_names_the_setting() {
    let Scene { world, .. } = scene();
    world.graphql.set_targets(vec![]);
    let dry = run(&world, &["-dry-run", "-run-once"]).failed();
    assert!(dry.out.contains("Retire guard") && dry.out.contains("MAX_RETIRE"), "{}", dry.out);
    assert!(dry.out.contains("0 to retire"), "{}", dry.out);
    let held_back = line(&dry.out, "  Held back: ");
    assert!(held_back.contains("far/deep/"), "{held_back}");
    let plan = run(&world, &["-dry-run", "-run-once", "-output=json"]).failed().json();
    assert!(plan["retire_guard"].as_str().unwrap().contains("MAX_RETIRE"), "{plan}");
    assert_eq!(plan["retire"], serde_json::json!([]));
}

#[test]
fn what_is_kept_for_now_is_shown_with_the_target_that_could_mean_it() {
    let Scene { world, .. } = scene();
    // Somebody wrote a slash too many.
    world.sync("near/same", "main", "far/deep/gone/", "trunk").unwrap();
    let dry = run(&world, &["-dry-run", "-run-once"]).failed();
    let kept = dry.out.split_once("Kept for now (1):").unwrap().1;
    let reason = "not retired: the target for far/deep/gone/@trunk, which is refused or cannot be read, could mean it";
    assert!(line(kept, "far/deep/gone").contains("1 object"), "{kept}");
    assert!(line(kept, "far/deep/gone").contains(reason), "{kept}");
    assert!(line(&dry.out, "Plan (zip)").contains("0 to retire"), "{}", dry.out);
    let plan = run(&world, &["-dry-run", "-run-once", "-output=json"]).failed().json();
    assert_eq!(
        plan["held_retirements"],
        serde_json::json!([{
            "group": "far/deep", "project": "gone", "branch": "trunk", "objects": 1, "reason": reason
        }])
    );
    assert_untouched(&world);
}

#[test]
fn a_dry_run_counts_what_passes_of_the_day_have_retired_and_leaves_the_record_alone() {
    let Scene { world, .. } = scene();
    pass(&world).succeeded().logged("retired=1");
    world.s3().put(&zip_key("far/deep/late", "trunk", OLD_COMMIT), "also unwanted");
    let record = world.workdir().join(OURS).join("retirements.json");
    let before = std::fs::read(&record).unwrap();
    let plan = run(&world, &["-dry-run", "-run-once", "-output=json", "-max-retire=1"]).failed().json();
    assert_eq!((&plan["retired_24h"], &plan["retire_limit_24h"]), (&1.into(), &1.into()));
    assert!(
        plan["retire_guard"].as_str().unwrap().contains("MAX_RETIRE allows 1 in 24 h, of which 1 are used"),
        "{plan}"
    );
    let text = run(&world, &["-dry-run", "-run-once", "-max-retire=2"]).succeeded().out;
    assert!(text.contains("Retire guard: with this pass, retired 2 of at most 2 in 24 h."), "{text}");
    assert_eq!(std::fs::read(&record).unwrap(), before);
}

#[test]
fn names_in_the_plan_cannot_act_on_a_terminal() {
    let Scene { world, .. } = scene();
    world.s3().put(&zip_key("far/deep/evil", r"\u001b[2Jtrunk\u202e", OLD_COMMIT), "evil");
    let dry = run(&world, &["-dry-run", "-run-once"]).succeeded();
    assert!(dry.out.contains("far/deep/evil"), "{}", dry.out);
    assert!(!dry.out.contains(['\u{1b}', '\u{202e}']), "{:?}", dry.out);
}

#[test]
fn without_run_once_the_plan_is_printed_again_and_again_until_sigterm() {
    let Scene { world, .. } = scene();
    let daemon = Daemon::start(&world, &["-dry-run"]);
    let passes = || world.s3().requests().len();
    wait_until("three plans were made", || passes() > 3);
    let run = daemon.stop().succeeded();
    assert!(run.out.matches("Plan (zip)").count() >= 3, "{}", run.out);
    assert_untouched(&world);
    assert!(operations(&world.source.requests()).len() >= 12);
}
