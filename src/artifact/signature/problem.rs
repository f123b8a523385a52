//! What is wrong with a key, and what to do about it.
//!
//! Invariant: no message shows a key, not even a public one: it may be a secret that was pasted by mistake.

use std::io;

/// Why there is no signing key. Each message follows the setting's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningKeyProblem {
    /// The file is missing, unreadable, too long or not text.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("it is empty; `openssl genpkey -algorithm ed25519` makes a key")]
    Empty,
    #[error("it is not PEM; give the file that `openssl genpkey -algorithm ed25519` writes")]
    NotPem,
    #[error("it is protected by a passphrase; `openssl pkey -in FILE -out NEW-FILE` takes it away")]
    Encrypted,
    #[error("it holds the public key; give the private one, which `openssl genpkey -algorithm ed25519` has written")]
    Public,
    /// Of OpenSSH, a certificate, or a format of before.
    #[error("it holds something else than a private key in PKCS#8; `openssl genpkey -algorithm ed25519` makes one")]
    OtherKind,
    #[error(
        "it is the key of another algorithm than Ed25519; `openssl genpkey -algorithm ed25519` makes the right one"
    )]
    OtherAlgorithm,
    #[error("it holds several keys; give a file with one")]
    Several,
    #[error("its key is damaged; copy the file again, or make another key with `openssl genpkey -algorithm ed25519`")]
    Damaged,
}

/// Why there are no trusted keys. Each message follows the setting's name. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustedKeysProblem {
    /// The file is missing, unreadable, too long or not text.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("it holds no key; give what `openssl pkey -in KEY -pubout` prints")]
    Empty,
    #[error(
        "line {line} begins a private key, which must not leave the near side: give what `openssl pkey -in KEY -pubout` prints \
         of a new one"
    )]
    Private { line: usize },
    #[error("line {line} begins something else than a public key; give what `openssl pkey -in KEY -pubout` prints")]
    OtherKind { line: usize },
    #[error("line {line} begins the key of another algorithm than Ed25519, which is the only one that is used")]
    OtherAlgorithm { line: usize },
    #[error("line {line} begins a public key that is damaged; copy it again")]
    Damaged { line: usize },
    #[error("line {line} holds an age recipient; give the public part of the near side's signing key")]
    Recipient { line: usize },
    #[error(
        "line {line} is neither a public key nor a comment (#…); give what `openssl pkey -in KEY -pubout` prints, or its base64"
    )]
    NotAKey { line: usize },
}
