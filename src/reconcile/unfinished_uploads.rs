//! Uploads that a killed process or a failed abort left unfinished.

use std::time::{Instant, SystemTime};

use super::Reconciler;
use crate::model::target::Target;
use crate::publish::Publisher;
use crate::text::error_chain;

impl Reconciler {
    /// Aborts recorded uploads.
    pub(super) async fn abort_recorded(&self, publisher: &Publisher) {
        match publisher.workdir.recorded_uploads() {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                let recorded = records.len();
                let aborted = publisher.bucket.abort_recorded(records).await;
                tracing::info!(recorded, aborted, "uploads were left unfinished, and are aborted");
            }
            Err(error) => tracing::warn!(%error, "cannot read the records of unfinished uploads"),
        }
    }

    /// Aborts uploads that are not recorded and older than any running upload can be: in the first pass, and then once per
    /// `TARGET_TIMEOUT`.
    pub(super) async fn abort_abandoned(&self, publisher: &Publisher, wanted: impl Iterator<Item = &Target>) {
        let limit = self.settings.common.target_timeout;
        let first = {
            let mut checked = self.abandoned_checked.lock();
            if checked.is_some_and(|checked| checked.elapsed() < limit) {
                return;
            }
            checked.replace(Instant::now()).is_none()
        };
        let ours = wanted.map(|target| &target.destination).collect();
        let Some(before) = SystemTime::now().checked_sub(limit) else { return };
        match publisher.bucket.abort_abandoned(&ours, &publisher.workdir.uploads_under_way(), before).await {
            Ok(0) => {}
            Ok(aborted) => tracing::info!(aborted, "aborted uploads that were left unfinished"),
            Err(error) if first => tracing::warn!(error = error_chain(&error), "cannot look for unfinished uploads"),
            Err(error) => tracing::debug!(error = error_chain(&error), "cannot look for unfinished uploads"),
        }
    }
}
