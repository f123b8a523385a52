//! What can go wrong with any HTTP server.

use std::time::Duration;

use testbed::fault::{ALWAYS, At, Fault, Moment};

/// A fault, how often it happens, and what follows.
pub struct Mishap {
    pub name: &'static str,
    pub fault: Fault,
    pub times: usize,
    /// What the log says where the fault stays; `None` where it is mended within the pass.
    pub cause: Option<Cause>,
}

/// What a failure was caused by, in the terms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The connection broke.
    Broken,
    /// The server stayed silent.
    Silent,
    /// An answer of this status.
    Status(u16),
    /// There is no server.
    Away,
}

/// What GraphQL and Git say of a cause.
pub fn words(cause: Cause) -> String {
    match cause {
        Cause::Broken => "the connection broke off".to_owned(),
        Cause::Silent => "the server did not answer in time".to_owned(),
        Cause::Status(status) => format!("the server answered {status}"),
        Cause::Away => "no connection to the server".to_owned(),
    }
}

/// Faults that are the same for every server. Those that happen once or three times are mended by asking again.
pub fn mishaps() -> Vec<Mishap> {
    let mut list = vec![];
    let mut add = |name, fault, times, cause| list.push(Mishap { name, fault, times, cause });
    for (once, always, moment) in [
        ("reset before the request is read, once", "reset before the request is read", Moment::Unsent),
        ("reset before the answer, once", "reset before the answer", Moment::Unanswered),
        ("reset in the middle of the body, once", "reset in the middle of the body", Moment::Within(At::Half)),
    ] {
        add(once, Fault::Reset(moment), 1, None);
        add(always, Fault::Reset(moment), ALWAYS, Some(Cause::Broken));
    }
    add("reset after the answer", Fault::Reset(Moment::Answered), ALWAYS, None);
    for (once, always, moment) in [
        ("no answer, once", "no answer", Moment::Unsent),
        ("silence in the middle of the body, once", "silence in the middle of the body", Moment::Within(At::Half)),
    ] {
        add(once, Fault::Hold(moment), 1, None);
        add(always, Fault::Hold(moment), ALWAYS, Some(Cause::Silent));
    }
    add("a body that ends early, once", Fault::Close(At::Half), 1, None);
    add("a body that ends early", Fault::Close(At::Half), ALWAYS, Some(Cause::Broken));
    add("a slow trickle", Fault::Trickle { pieces: 12, pause: Duration::from_millis(50) }, ALWAYS, None);
    add("429 once", Fault::status(429), 1, None);
    add("429", Fault::status(429), ALWAYS, Some(Cause::Status(429)));
    add("429 once, to be asked again after a second", Fault::status_with(429, "retry-after", "1"), 1, None);
    add(
        "429, to be asked again after an hour",
        Fault::status_with(429, "retry-after", "3600"),
        ALWAYS,
        Some(Cause::Status(429)),
    );
    for (once, thrice, always, status) in [
        ("500 once", "500 three times", "500", 500),
        ("502 once", "502 three times", "502", 502),
        ("503 once", "503 three times", "503", 503),
        ("504 once", "504 three times", "504", 504),
    ] {
        add(once, Fault::status(status), 1, None);
        add(thrice, Fault::status(status), 3, None);
        add(always, Fault::status(status), ALWAYS, Some(Cause::Status(status)));
    }
    list
}

/// The settings with which silence is noticed in a test's time, and a slow trickle still is none.
pub const IMPATIENT: [(&str, &str); 2] = [("CONNECT_TIMEOUT", "2s"), ("IDLE_TIMEOUT", "2s")];

/// A fault is silence for as long as nobody loses patience.
pub fn needs_impatience(fault: &Fault) -> bool {
    matches!(fault, Fault::Hold(_) | Fault::Trickle { .. })
}
