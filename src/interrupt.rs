//! A request to stop: for threads that cannot await it, and for work that has to clean up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A flag for threads that cannot await a token: set when the token is cancelled or this is dropped.
pub(crate) struct Interrupt {
    pub(crate) flag: Arc<AtomicBool>,
    _watch: AbortOnDropHandle<()>,
}

impl Interrupt {
    pub(crate) fn when(stop: &CancellationToken) -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let (stop, set) = (stop.clone(), Arc::clone(&flag));
        let watch = tokio::spawn(async move {
            stop.cancelled().await;
            set.store(true, Ordering::Relaxed);
        });
        Self { flag, _watch: AbortOnDropHandle::new(watch) }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

/// How long work may take to clean up when it has to stop.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Why work was asked to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// The program stops.
    Stopped,
    /// The time limit is over.
    TimeLimit(Duration),
}

/// The result of work that has to end within `limit`. If it does not, or `stop` is cancelled, the token that it was made
/// with is cancelled, and it gets a while to clean up. It may still succeed then.
pub(crate) async fn within<T, E: From<Cut>>(
    limit: Duration,
    stop: &CancellationToken,
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, E>,
) -> Result<T, E> {
    let stop_work = stop.child_token();
    let mut work = Box::pin(work(stop_work.clone()));
    match stop.run_until_cancelled(timeout(limit, &mut work)).await {
        Some(Ok(done)) => done,
        ended => {
            stop_work.cancel();
            let why = ended.map_or(Cut::Stopped, |_| Cut::TimeLimit(limit));
            timeout(STOP_GRACE, work).await.ok().and_then(Result::ok).ok_or_else(|| why.into())
        }
    }
}
