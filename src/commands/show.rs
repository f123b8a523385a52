//! Plans, for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::of_destination;
use crate::model::key::Destination;
use crate::plan::report::Waiting;
use crate::plan::{Action, Plan};
use crate::terminal::{Paint, Style};
use crate::text::{objects, printable, short_commit, table};

/// A plan for people.
pub fn plan_text(plan: &Plan, foreign: usize, paint: Paint) -> String {
    let titles = ["Will publish", "Will retire", "Will sweep", "Blocked", "Kept for now"];
    let mut sections: [(&str, Vec<Vec<String>>); 5] = titles.map(|title| (title, vec![]));
    for action in &plan.actions {
        let Destination { branch, .. } = action.destination();
        let mut row = vec![action.destination().path(), branch.clone()];
        let section = match action {
            Action::Publish(publish) => {
                let new = short_commit(&publish.commit.to_string());
                let change =
                    publish.old_commit().map_or_else(|| new.clone(), |old| format!("{} → {new}", short_commit(old)));
                let or_else = publish.if_rewritten().map_or_else(String::new, |what| format!(" ({what})"));
                row.extend([change, publish.why() + &or_else]);
                0
            }
            Action::Retire(retire) => {
                row.extend([objects(retire.keys.len()), retire.reason.to_string()]);
                1
            }
            Action::Sweep(sweep) => {
                row.extend([objects(sweep.keys.len()), sweep.reason.to_string()]);
                2
            }
        };
        sections[section].1.push(row);
    }
    let blocked = plan.blocked.iter().map(|blocked| {
        vec![blocked.destination.path(), blocked.destination.branch.clone(), blocked.blocker.to_string()]
    });
    sections[3].1.extend(blocked);
    let held = plan.held_retirements.iter().map(|held| {
        let Destination { branch, .. } = &held.destination;
        vec![held.destination.path(), branch.clone(), objects(held.objects), held.reason.to_string()]
    });
    sections[4].1.extend(held);

    let mut text = String::new();
    let styles = [Style::Green, Style::Yellow, Style::Dim, Style::Red, Style::Yellow];
    for ((title, rows), style) in sections.iter().zip(styles).filter(|((_, rows), _)| !rows.is_empty()) {
        let title = paint.text(style, &format!("{title} ({}):", rows.len()));
        text += &format!("{title}\n{}\n", table("  ", rows));
    }
    if let Some(guard) = &plan.guard {
        let named: Vec<_> = plan.first_guarded().iter().map(Destination::to_string).collect();
        let more = match plan.guarded.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (title, named) = (paint.text(Style::Red, "Retire guard:"), printable(&named.join(", ")));
        text += &format!("{title} {guard}.\n  Held back: {named}{more}\n\n");
    }
    if retire_is_counted(plan) {
        text += &format!("{} {}.\n\n", paint.text(Style::Yellow, "Retire guard: with this pass,"), plan.budget);
    }
    let [publish, retire, sweep, blocked, _] = sections.map(|(_, rows)| rows.len());
    let unchanged = plan.unchanged.len();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} {publish} to publish, {retire} to retire, {sweep} to sweep, {blocked} blocked, {unchanged} unchanged",
        paint.text(Style::Bold, &format!("Plan ({}):", plan.format))
    );
    if foreign > 0 {
        let _ = writeln!(text, "{} with foreign names left alone", objects(foreign));
    }
    text
}

/// Whether the plan uses some of what a day may retire.
fn retire_is_counted(plan: &Plan) -> bool {
    plan.guard.is_none() && plan.budget.limit.is_some() && plan.budget.retired > 0
}

/// A plan as JSON; `docs/contract.md` describes the object.
pub fn plan_json(plan: &Plan, foreign: usize) -> Value {
    let (mut publish, mut retire, mut sweep) = (vec![], vec![], vec![]);
    for action in &plan.actions {
        let of_action = |fields| of_destination(action.destination(), fields);
        match action {
            Action::Publish(it) => publish.push(of_action(json!({
                "source_project": it.target.source.project,
                "source_branch": it.target.source.branch,
                "old_commit": it.old_commit(),
                "commit": it.commit,
                "crossing": if it.increment().is_some() { "incremental" } else { "whole" },
                "base": it.increment().map(|increment| increment.base),
                "key": it.planned_key(),
                "supersedes": it.replaced_by(it.planned_key()).collect::<Vec<_>>(),
                "reason": it.why(),
            }))),
            Action::Retire(it) => {
                retire.push(of_action(json!({ "keys": it.keys, "reason": it.reason.to_string() })));
            }
            Action::Sweep(it) => sweep.push(of_action(json!({ "keys": it.keys, "reason": it.reason.to_string() }))),
        }
    }
    let blocked = plan.blocked.iter();
    let blocked = blocked.map(|it| of_destination(&it.destination, json!({ "reason": it.blocker.to_string() })));
    json!({
        "format": plan.format,
        "publish": publish,
        "retire": retire,
        "sweep": sweep,
        "blocked": blocked.collect::<Vec<_>>(),
        "unchanged": plan.unchanged.len(),
        "foreign": foreign,
        "retire_guard": plan.guard.map(|guard| guard.to_string()),
        "held_retirements": Waiting::all(plan),
        "retired_24h": plan.budget.retired,
        "retire_limit_24h": plan.budget.limit,
    })
}
