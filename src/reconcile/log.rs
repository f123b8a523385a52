//! What a pass says in the log: one line for what is blocked, and one for the pass.

use std::time::Duration;

use super::PassError;
use crate::model::key::Destination;
use crate::plan::Plan;
use crate::plan::report::Report;
use crate::text::{error_chain, printable};

pub(super) fn blocked(plan: &Plan) {
    for blocked in &plan.blocked {
        let Destination { group, project, branch } = &blocked.destination;
        tracing::error!(group, project, branch, reason = %printable(&blocked.blocker.to_string()), "blocked: {}", printable(&blocked.destination.to_string()));
    }
    if let Some(guard) = &plan.guard {
        tracing::error!(would_retire = guard.would_retire, held = guard.held, "retire guard: {guard}");
    }
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &PassError) {
    if matches!(error, PassError::Stopped) {
        tracing::warn!("stopped before the pass was complete");
        return;
    }
    tracing::error!(error = error_chain(error), "the pass failed and nothing was changed");
}

pub(super) fn report(report: &Report) {
    let Report { published, retired, swept, unchanged, blocked, failed, held, foreign, uploaded_bytes, .. } = report;
    let (blocked, failed, held, seconds) = (blocked.len(), failed.len(), held.len(), report.seconds);
    let seconds = Duration::from_secs_f64(seconds).as_millis() as f64 / 1e3;
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                published,
                retired,
                swept,
                unchanged,
                blocked,
                failed,
                held,
                foreign,
                uploaded_bytes,
                seconds,
                $message
            )
        };
    }
    if report.is_success() {
        log!(info, "pass done");
    } else {
        log!(warn, "pass done, not everything is in sync");
    }
}
