//! Signals: SIGTERM and SIGINT stop the program, SIGUSR1 asks for a full pass.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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

/// SIGUSR1 asks for a full pass: `request` requests one.
pub(super) fn full_pass_on_signal(request: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = signal(SignalKind::user_defined1()).context("cannot listen for signals")?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!("a full pass was requested");
            request();
        }
    });
    Ok(())
}
