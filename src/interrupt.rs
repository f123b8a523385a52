//! A request to stop, for threads that cannot await it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
