//! The pause between full passes: the interval, or longer while GitLab refuses the login.
//!
//! Invariant: a refused login is tried less and less often, so that GitLab does not ban the address, or keep it banned.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The pause after a pass in which the login was refused. It doubles with each more, up to the longest.
const FIRST_LOGIN_PAUSE: Duration = Duration::from_secs(180);
const LONGEST_LOGIN_PAUSE: Duration = Duration::from_secs(3_600);

/// How many passes in a row ended because the login was refused.
#[derive(Debug, Default)]
pub struct Pauses(AtomicU32);

impl Pauses {
    /// A pass ended because the login was refused.
    pub fn refused(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A pass got past the login.
    pub fn accepted(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The pause before the next full pass, and whether it is because of the login.
    pub fn next(&self, interval: Duration) -> (Duration, bool) {
        let refused = self.0.load(Ordering::Relaxed);
        if refused == 0 {
            return (interval, false);
        }
        let pause = FIRST_LOGIN_PAUSE.saturating_mul(1 << (refused - 1).min(16)).min(LONGEST_LOGIN_PAUSE).max(interval);
        tracing::warn!(
            seconds = pause.as_secs(),
            "the next pass waits because the login is refused; SIGUSR1 or another token in GITLAB_TOKEN_FILE starts it now"
        );
        (pause, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_an_hour_and_is_never_shorter_than_the_interval() {
        let pauses = Pauses::default();
        let minutes = |refused: u32, interval: u64| {
            pauses.0.store(refused, Ordering::Relaxed);
            pauses.next(Duration::from_secs(interval)).0.as_secs() / 60
        };
        assert_eq!([0, 1, 2, 3, 5, 6, 4_000_000_000].map(|refused| minutes(refused, 60)), [1, 3, 6, 12, 48, 60, 60]);
        assert_eq!(minutes(1, 7_200), 120);
    }
}
