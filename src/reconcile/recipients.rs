//! Whether `PUBLIC_KEY` has other recipients than the objects in the bucket were encrypted to.
//!
//! Invariant: the new recipients count as those of all objects only once every target was republished for them.

use age::x25519::Recipient;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::config;
use crate::plan::Republish;
use crate::publish::Publisher;
use crate::workdir::kept_recipients;

/// What is known of the recipients.
#[derive(Debug)]
pub(super) struct Recipients {
    fingerprint: String,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is kept: these recipients are taken for those of all objects.
    Unknown,
    Same,
    /// Others. Whether all targets are being republished.
    Changed {
        all_again: bool,
    },
}

impl Recipients {
    /// Compares, warns, and turns `REPUBLISH=on-recipient-change` into what it means here.
    pub(super) fn compare(settings: &mut config::Run) -> Self {
        let fingerprint = fingerprint(&settings.recipients);
        let kept = kept_recipients(&settings.common.workdir);
        let is_changed = kept.as_ref().is_some_and(|kept| *kept != fingerprint);
        if settings.republish == Republish::OnRecipientChange {
            settings.republish = if is_changed { Republish::All } else { Republish::Named(vec![]) };
        }
        let all_again = settings.republish == Republish::All;
        match (is_changed, all_again) {
            (true, false) => tracing::warn!(
                "PUBLIC_KEY has changed, and objects that are already in the bucket can only be decrypted by the recipients \
                 of before: REPUBLISH=all uploads them again once, REPUBLISH=on-recipient-change after each change"
            ),
            (true, true) => tracing::info!("PUBLIC_KEY has changed: every target is uploaded again"),
            (false, _) => {}
        }
        let state = match kept {
            None => State::Unknown,
            Some(_) if is_changed => State::Changed { all_again },
            Some(_) => State::Same,
        };
        Self { fingerprint, state: Mutex::new(state) }
    }

    /// Keeps the fingerprint for the next start once it is that of all objects: `left` targets are still to be
    /// republished.
    pub(super) fn keep(&self, publisher: &Publisher, left: usize) {
        let mut state = self.state.lock();
        match *state {
            State::Same | State::Changed { all_again: false } => return,
            State::Changed { all_again: true } if left > 0 => return,
            State::Unknown | State::Changed { all_again: true } => {}
        }
        match publisher.workdir.keep_recipients(&self.fingerprint) {
            Ok(()) => *state = State::Same,
            Err(error) => tracing::debug!(%error, "cannot save the fingerprint of the recipients"),
        }
    }
}

/// The same for the same recipients in any order.
fn fingerprint(recipients: &[Recipient]) -> String {
    let mut sorted: Vec<_> = recipients.iter().map(ToString::to_string).collect();
    sorted.sort();
    Sha256::digest(sorted.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}
