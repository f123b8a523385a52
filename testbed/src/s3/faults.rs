//! Faults injected into requests, after a request's signature is verified and before its body is read.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use tokio::sync::Notify;

use crate::http::{Entry, lock};

/// The faults of one server.
#[derive(Debug)]
pub(super) struct Faults {
    state: Mutex<State>,
    /// Wakes tests when `State::waiting` grows.
    held: Condvar,
    /// Wakes requests when nothing is held any more.
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    latency: Duration,
    held: HashSet<String>,
    waiting: usize,
    failures: HashMap<String, VecDeque<Failure>>,
}

/// How a request fails.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Not at all.
    None,
    /// With this S3 error.
    Code(String),
    /// The connection is closed without an answer.
    Cut,
}

impl Faults {
    pub(super) fn new(latency: Duration) -> Self {
        Self { state: Mutex::new(State { latency, ..State::default() }), held: Condvar::new(), released: Notify::new() }
    }

    pub(super) fn hold(&self, operation: &str) {
        lock(&self.state).held.insert(operation.to_owned());
    }

    pub(super) fn release(&self) {
        lock(&self.state).held.clear();
        self.released.notify_waiters();
    }

    pub(super) fn wait_until_held(&self, timeout: Duration) -> Result<()> {
        let state = lock(&self.state);
        let (_state, result) = self
            .held
            .wait_timeout_while(state, timeout, |state| state.waiting == 0)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ensure!(!result.timed_out(), "no request was held within {timeout:?}");
        Ok(())
    }

    pub(super) fn fail(&self, operation: &str, failure: &Failure, times: usize) {
        let mut state = lock(&self.state);
        state.failures.entry(operation.to_owned()).or_default().extend(std::iter::repeat_n(failure.clone(), times));
    }

    pub(super) fn clear_failures(&self) {
        lock(&self.state).failures.clear();
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        lock(&self.state).latency = latency;
    }

    async fn wait_while_held(&self, operation: &str) {
        let mut counted = None;
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Register before checking, or a release in between would be missed.
            released.as_mut().enable();
            if !lock(&self.state).held.contains(operation) {
                return;
            }
            counted.get_or_insert_with(|| Waiting::new(self));
            released.await;
        }
    }

    fn next_failure(&self, operation: &str) -> Option<Failure> {
        lock(&self.state).failures.get_mut(operation)?.pop_front()
    }
}

/// Counts a request as held while it is held, even if its client disconnects.
struct Waiting<'a>(&'a Faults);

impl<'a> Waiting<'a> {
    fn new(faults: &'a Faults) -> Self {
        lock(&faults.state).waiting += 1;
        faults.held.notify_all();
        Self(faults)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting -= 1;
    }
}

/// The faults as `s3s` asks for them: an access check.
pub(super) struct FaultyAccess(pub(super) Arc<Faults>);

#[async_trait::async_trait]
impl S3Access for FaultyAccess {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        let entry = context.extensions_mut().get::<Arc<Entry>>().cloned().ok_or_else(|| s3_error!(InternalError))?;
        entry.set_operation(&operation);
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "anonymous requests are not served"));
        }
        let Self(faults) = self;
        let latency = lock(&faults.state).latency;
        tokio::time::sleep(latency).await;
        faults.wait_while_held(&operation).await;
        match faults.next_failure(&operation) {
            None | Some(Failure::None) => Ok(()),
            Some(Failure::Code(code)) => {
                let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
                Err(S3Error::with_message(code, "refused by the test"))
            }
            Some(Failure::Cut) => {
                entry.cut();
                Err(s3_error!(InternalError, "cut by the test"))
            }
        }
    }
}
