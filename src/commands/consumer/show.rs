//! Plans of the consumer, for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::commands::of_destination;
use crate::plan::OnRewrite;
use crate::plan::delivery::DeliveryPlan;
use crate::terminal::{Paint, Style};
use crate::text::{human_bytes, objects, short_commit, table};

/// A plan for people.
pub(super) fn plan_text(plan: &DeliveryPlan, foreign: usize, paint: Paint) -> String {
    let deliver = plan.deliveries.iter().map(|it| {
        let new = short_commit(&it.commit.to_string());
        let change = it.from.map_or_else(|| new.clone(), |from| format!("{} → {new}", short_commit(&from.to_string())));
        let destination = it.destination();
        let size = human_bytes(it.download_bytes());
        let or_else = match (it.from, it.on_rewrite) {
            (Some(_), OnRewrite::Hold) => " (held back if the object shows a rewritten history)",
            (Some(_), OnRewrite::Publish) | (None, _) => "",
        };
        vec![destination.path(), destination.branch.clone(), change, size, format!("{}{or_else}", it.reason)]
    });
    let blocked = plan.blocked.iter().map(|it| {
        let destination = it.destination();
        vec![destination.path(), destination.branch.clone(), it.obstacle.to_string()]
    });
    let (deliver, blocked): (Vec<_>, Vec<_>) = (deliver.collect(), blocked.collect());
    let mut text = String::new();
    for (title, style, rows) in [("Will push", Style::Green, &deliver), ("Blocked", Style::Red, &blocked)] {
        if !rows.is_empty() {
            let title = paint.text(style, &format!("{title} ({}):", rows.len()));
            text += &format!("{title}\n{}\n", table("  ", rows));
        }
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} {} to push, {} blocked, {} unchanged",
        paint.text(Style::Bold, "Plan:"),
        deliver.len(),
        blocked.len(),
        plan.unchanged.len()
    );
    if foreign > 0 {
        let _ = writeln!(text, "{} with foreign names left alone", objects(foreign));
    }
    text
}

/// A plan as JSON; `docs/contract.md` describes the object.
pub(super) fn plan_json(plan: &DeliveryPlan, foreign: usize) -> Value {
    let deliver = plan.deliveries.iter().map(|it| {
        let fields = json!({
            "old_commit": it.from,
            "commit": it.commit,
            "key": it.object.key,
            "bytes": it.download_bytes(),
            "reason": it.reason.to_string(),
        });
        of_destination(it.destination(), fields)
    });
    let blocked = plan.blocked.iter();
    let blocked = blocked.map(|it| of_destination(it.destination(), json!({ "reason": it.obstacle.to_string() })));
    json!({
        "deliver": deliver.collect::<Vec<_>>(),
        "blocked": blocked.collect::<Vec<_>>(),
        "unchanged": plan.unchanged.len(),
        "foreign": foreign,
    })
}
