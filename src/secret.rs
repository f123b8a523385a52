//! Secrets: a value, or the file that holds it.
//!
//! Invariant: no `Debug` output and no error shows a secret or its length.

use std::fs;
use std::io;
use std::path::PathBuf;

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::text::hide;

/// A secret or where to read it. `Debug` shows neither a secret's value nor its length.
#[derive(Debug, Clone)]
pub enum Secret {
    /// From the environment; never empty.
    Value(SecretString),
    /// In a file, which may be replaced at any time when the secret is rotated.
    File(PathBuf),
}

/// Why there is no secret in its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No such file, no right to read it, or not UTF-8.
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
}

impl Secret {
    /// The current secret: each call reads the file again, without one line end at its end.
    ///
    /// From now on, no server's text shows it.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let secret = self.current()?;
        hide(secret.expose_secret());
        Ok(secret)
    }

    fn current(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|source| SecretError::Unreadable { path: path.clone(), source })?;
                without_line_end(&Zeroizing::new(text)).ok_or_else(|| SecretError::Empty(path.clone()))
            }
        }
    }
}

/// Editors of Windows begin a file with a byte order mark.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Editors and `echo` add a line end to a secret, and some a byte order mark. `None` if nothing else is there.
pub fn without_line_end(text: &str) -> Option<SecretString> {
    let text = without_mark(text);
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    (!line.trim().is_empty()).then(|| SecretString::from(line))
}
