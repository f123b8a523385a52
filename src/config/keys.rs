//! The key that signs, and the keys whose signatures count.
//!
//! Invariant: a setting that names keys and holds none is an error, never a check that is switched off.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::reader::{Given, Reader, Reported};
use super::reference::{SIGNING_KEY_FILE, TRUSTED_KEYS, TRUSTED_KEYS_FILE};
use crate::artifact::signature::{SigningKey, TrustedKeys};
use crate::text::error_chain;

/// Whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusted {
    /// `TRUSTED_KEYS`.
    Keys(TrustedKeys),
    /// `TRUSTED_KEYS_FILE`, which may be replaced at any time when keys are rotated.
    File(PathBuf),
}

impl Trusted {
    /// The keys of now: each call reads the file again.
    pub(crate) fn keys(&self) -> anyhow::Result<TrustedKeys> {
        match self {
            Self::Keys(keys) => Ok(keys.clone()),
            Self::File(path) => {
                let keys = TrustedKeys::from_file(path).with_context(|| path.display().to_string());
                keys.context(TRUSTED_KEYS_FILE.variable)
            }
        }
    }
}

impl Reader<'_> {
    /// `SIGNING_KEY_FILE`, which is read once.
    pub(super) fn signing_key(&mut self) -> Result<Option<SigningKey>, Reported> {
        self.optional(&SIGNING_KEY_FILE, |path| {
            SigningKey::from_file(Path::new(path)).map_err(|why| format!("{path}: {}", error_chain(&why)))
        })
    }

    /// The trusted keys. They must be usable at the start; a file of them may be replaced later.
    pub(super) fn trusted(&mut self) -> Result<Option<Trusted>, Reported> {
        let (keys, file) = (self.given(&TRUSTED_KEYS), self.given(&TRUSTED_KEYS_FILE));
        match (keys?, file?) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                let why = format!("set together with {}: keep one of the two", TRUSTED_KEYS_FILE.variable);
                Err(self.problem(TRUSTED_KEYS.variable, why))
            }
            (Some(Given { name, text }), None) => match TrustedKeys::from_text(&text) {
                Ok(keys) => Ok(Some(Trusted::Keys(keys))),
                Err(why) => Err(self.problem(name, error_chain(&why))),
            },
            (None, Some(Given { name, text })) => match TrustedKeys::from_file(Path::new(&text)) {
                Ok(_) => Ok(Some(Trusted::File(text.into()))),
                Err(why) => Err(self.problem(name, format_args!("{text}: {}", error_chain(&why)))),
            },
        }
    }
}
