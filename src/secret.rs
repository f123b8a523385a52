//! Secrets: a value, or the file that holds it.
//!
//! Invariant: no `Debug` output and no error shows a secret or its length.

use std::fs;
use std::io;
use std::path::PathBuf;

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

/// A secret or where to read it. `Debug` shows neither a secret's value nor its length.
#[derive(Debug, Clone)]
pub enum Secret {
    /// From the environment; never empty.
    Value(SecretString),
    /// In a file, which whoever rotates the secret may replace at any time.
    File(PathBuf),
}

/// Why a secret's file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
}

impl Secret {
    /// The secret as it is now: a file is read anew by each call. One line end behind it is cut off.
    ///
    /// # Errors
    /// Where the file cannot be read or is empty.
    pub fn read(&self) -> Result<SecretString, SecretError> {
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

/// Editors and `echo` put a line end behind a secret. `None` where nothing is left.
pub fn without_line_end(text: &str) -> Option<SecretString> {
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    (!line.trim().is_empty()).then(|| SecretString::from(line))
}
