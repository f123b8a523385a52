//! Keys in PEM (RFC 7468), as OpenSSL writes them.
//!
//! Invariant: it only finds blocks; what is in them is the caller's to judge.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::zeroize::Zeroizing;

/// What a block begins with, before its label.
pub(super) const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block.
pub(super) struct Block<'a> {
    /// For example `PRIVATE KEY`.
    pub(super) label: &'a str,
    /// Base64, with line ends.
    pub(super) body: &'a str,
    /// The text behind it.
    pub(super) after: &'a str,
}

/// The blocks of a text. What is between them is passed over, and a block without an end ends the search.
pub(super) fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (label, behind) = rest[rest.find(BEGIN)? + BEGIN.len()..].split_once(DASHES)?;
        let (body, end) = behind.split_once(END)?;
        let (_, after) = end.split_once(DASHES)?;
        rest = after;
        Some(Block { label, body, after })
    })
}

/// The content of a block.
pub(super) fn decoded(body: &str) -> Option<Vec<u8>> {
    // Without line ends; room for all of it, because growing would leave copies in memory.
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    base64.extend(body.split_whitespace());
    BASE64_STANDARD.decode(base64.as_str()).ok()
}
