//! The pull-request check: does a change concern this program?

use tokio_util::sync::CancellationToken;

use super::PassError;
use super::clients::{Clients, query_text};
use crate::config::PrCheck;
use crate::graphql::pr_check;

/// Whether there is anything to do: `false` if the pull-request check is on and the change affects neither a target nor a
/// deployment of this program.
///
/// # Errors
/// [`PassError`] if the bundles cannot be compared.
pub async fn is_concerned(clients: &Clients, stop: &CancellationToken) -> Result<bool, PassError> {
    let Some((PrCheck { previous, query, saas_file }, server)) = clients.pr_check()? else { return Ok(true) };
    let query = query_text(query)?;
    let comparing = pr_check::changes(&server, previous, &query, saas_file);
    let changes = stop.run_until_cancelled(comparing).await.ok_or(PassError::Stopped)?.map_err(Box::new)?;
    if !changes.saas_file_found {
        tracing::warn!(saas_file, "neither bundle has a SaaS file of the name in GIT_PARTITION_SAAS_NAME");
    }
    if changes.any() {
        let pr_check::Changes { definitions, deployment, .. } = changes;
        tracing::info!(previous, definitions, deployment, "the bundle has changed what concerns this program");
    } else {
        tracing::info!(previous, "no target and no deployment has changed since the previous bundle: nothing to do");
    }
    Ok(changes.any())
}
