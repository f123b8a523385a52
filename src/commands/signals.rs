//! Signals: SIGTERM and SIGINT stop the program, SIGUSR1 asks for a full pass.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::passes::Triggers;

/// A token that SIGTERM and SIGINT cancel.
pub(super) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
            tracing::debug!("asked to stop");
        });
    }
    Ok(stop)
}

/// SIGUSR1 asks for a full pass.
pub(super) fn full_pass_on_signal(triggers: &Arc<Triggers>) -> anyhow::Result<()> {
    let mut signals = signal(SignalKind::user_defined1()).context("cannot listen for signals")?;
    let triggers = Arc::clone(triggers);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!("a full pass was requested");
            triggers.full_pass();
        }
    });
    Ok(())
}
