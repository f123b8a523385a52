//! Plans for people to read, and as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::model::key::{ArchiveFormat, CommitId, Destination};
use crate::plan::{Action, Plan};
use crate::terminal::{Paint, Style};
use crate::text::{objects, short_commit, table};

/// A plan for people to read before it is carried out.
pub fn plan_text(plan: &Plan, foreign: usize, paint: Paint) -> String {
    let mut sections: [(&str, Vec<Vec<String>>); 4] =
        [("Will publish", vec![]), ("Will retire", vec![]), ("Will sweep", vec![]), ("Blocked", vec![])];
    for action in &plan.actions {
        let Destination { branch, .. } = action.destination();
        let mut row = vec![action.destination().path(), branch.clone()];
        let section = match action {
            Action::Publish(publish) => {
                let new = short_commit(&publish.commit.to_string());
                let change =
                    publish.old_commit().map_or_else(|| new.clone(), |old| format!("{} → {new}", short_commit(old)));
                row.extend([change, publish.reason.to_string()]);
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

    let mut text = String::new();
    let styles = [Style::Green, Style::Yellow, Style::Dim, Style::Red];
    for ((title, rows), style) in sections.iter().zip(styles).filter(|((_, rows), _)| !rows.is_empty()) {
        let title = paint.text(style, &format!("{title} ({}):", rows.len()));
        text += &format!("{title}\n{}\n", table("  ", rows));
    }
    if let Some(guard) = &plan.guard {
        text += &format!("{} {guard}.\n\n", paint.text(Style::Red, "Retire guard:"));
    }
    let [publish, retire, sweep, blocked] = sections.map(|(_, rows)| rows.len());
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

/// A plan as JSON; `docs/contract.md` describes the object.
pub fn plan_json(plan: &Plan, foreign: usize) -> serde_json::Value {
    let mut view = PlanView {
        format: plan.format,
        publish: vec![],
        retire: vec![],
        sweep: vec![],
        blocked: vec![],
        unchanged: plan.unchanged.len(),
        foreign,
        retire_guard: plan.guard.map(|guard| guard.to_string()),
    };
    for action in &plan.actions {
        match action {
            Action::Publish(publish) => view.publish.push(PublishView {
                destination: &publish.target.destination,
                source_project: &publish.target.source.project,
                source_branch: &publish.target.source.branch,
                old_commit: publish.old_commit(),
                commit: publish.commit,
                key: &publish.key,
                supersedes: &publish.supersedes,
                reason: publish.reason.to_string(),
            }),
            Action::Retire(retire) => {
                view.retire.push(DeleteView {
                    destination: &retire.destination,
                    keys: &retire.keys,
                    reason: retire.reason.to_string(),
                });
            }
            Action::Sweep(sweep) => {
                view.sweep.push(DeleteView {
                    destination: &sweep.destination,
                    keys: &sweep.keys,
                    reason: sweep.reason.to_string(),
                });
            }
        }
    }
    view.blocked.extend(
        plan.blocked
            .iter()
            .map(|blocked| BlockedView { destination: &blocked.destination, reason: blocked.blocker.to_string() }),
    );
    serde_json::json!(view)
}

#[derive(Serialize)]
struct PlanView<'a> {
    format: ArchiveFormat,
    publish: Vec<PublishView<'a>>,
    retire: Vec<DeleteView<'a>>,
    sweep: Vec<DeleteView<'a>>,
    blocked: Vec<BlockedView<'a>>,
    unchanged: usize,
    foreign: usize,
    retire_guard: Option<String>,
}

#[derive(Serialize)]
struct PublishView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    source_project: &'a str,
    source_branch: &'a str,
    old_commit: Option<&'a str>,
    commit: CommitId,
    key: &'a str,
    supersedes: &'a [String],
    reason: String,
}

#[derive(Serialize)]
struct DeleteView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    keys: &'a [String],
    reason: String,
}

#[derive(Serialize)]
struct BlockedView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    reason: String,
}
