//! Who made an object: Ed25519 signatures of manifests, the key that signs, and the keys that are trusted.
//!
//! Invariant: with trusted keys, nothing of an object is used before its manifest was verified and is that of its name. The
//! signing key is in no `Debug` output and no error.

mod pem;
mod problem;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use self::pem::Block;
pub(crate) use self::problem::{SigningKeyProblem, TrustedKeysProblem};
use crate::model::key::{CommitId, Destination};
use crate::model::manifest::{KeyId, Manifest, ManifestError, Origin, signed_bytes};
use crate::plan::delivery::{Untimely, Window};
use crate::secret::without_mark;
use crate::text::hide;

/// The longest file of keys that is read, in bytes: a public key takes about 110, with its frame.
const KEYS_LIMIT_BYTES: u64 = 64 << 10;
/// Length of a raw public key, in bytes.
const PUBLIC_KEY_BYTES: usize = 32;
/// Length of an Ed25519 signature, in bytes.
const ED25519_BYTES: usize = 64;
/// Length of `manifest.sig`, in bytes: the key's id, and the signature.
pub(super) const SIGNATURE_BYTES: usize = KeyId::BYTES + ED25519_BYTES;

/// The object identifier of Ed25519 (1.3.101.112, RFC 8410) in DER.
const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// What comes before the raw key in a public key's DER (RFC 8410, section 4).
const PUBLIC_KEY_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key that signs what is published. Clones share it.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<Ed25519KeyPair>,
    id: KeyId,
}

impl SigningKey {
    /// Reads the file that `openssl genpkey -algorithm ed25519` writes.
    pub(crate) fn from_file(path: &Path) -> Result<Self, SigningKeyProblem> {
        let text = read_text(path).map_err(SigningKeyProblem::Unreadable)?;
        Self::from_pem(&SecretString::from(text.as_str()))
    }

    /// Reads the text of such a file. From now on, no server's text shows the key.
    pub(crate) fn from_pem(text: &SecretString) -> Result<Self, SigningKeyProblem> {
        let text = without_mark(text.expose_secret());
        let mut blocks = pem::blocks(text);
        let Some(Block { label, body, .. }) = blocks.next() else {
            let is_blank = text.trim().is_empty();
            return Err(if is_blank { SigningKeyProblem::Empty } else { SigningKeyProblem::NotPem });
        };
        match label {
            "PRIVATE KEY" => {}
            "ENCRYPTED PRIVATE KEY" => return Err(SigningKeyProblem::Encrypted),
            "PUBLIC KEY" => return Err(SigningKeyProblem::Public),
            _ => return Err(SigningKeyProblem::OtherKind),
        }
        if blocks.next().is_some() {
            return Err(SigningKeyProblem::Several);
        }
        hide_lines(body);
        let der = Zeroizing::new(pem::decoded(body).ok_or(SigningKeyProblem::Damaged)?);
        if !der.windows(ED25519_OID.len()).any(|window| window == ED25519_OID) {
            return Err(SigningKeyProblem::OtherAlgorithm);
        }
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| SigningKeyProblem::Damaged)?;
        let id = key_id(pair.public_key().as_ref());
        Ok(Self { pair: Arc::new(pair), id })
    }

    /// Which key it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The content of `manifest.sig` for this manifest.
    fn sign(&self, json: &[u8]) -> io::Result<Vec<u8>> {
        let signature = self.pair.try_sign(&signed_bytes(json));
        let signature = signature.map_err(|_| io::Error::other("the manifest cannot be signed"))?;
        Ok([self.id.as_bytes(), signature.as_ref()].concat())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// A manifest as it stands in an object, and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedManifest {
    pub(super) json: Vec<u8>,
    /// The content of `manifest.sig`.
    pub(super) signature: Option<Vec<u8>>,
}

impl SignedManifest {
    /// Signs a manifest, if there is a key.
    ///
    /// # Errors
    /// If the library cannot sign.
    pub(crate) fn new(manifest: &Manifest, key: Option<&SigningKey>) -> io::Result<Self> {
        let json = manifest.to_json();
        let signature = key.map(|key| key.sign(&json)).transpose()?;
        Ok(Self { json, signature })
    }
}

/// The keys whose signatures count; at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKeys(Vec<(KeyId, [u8; PUBLIC_KEY_BYTES])>);

impl TrustedKeys {
    /// Reads a file of public keys.
    pub(crate) fn from_file(path: &Path) -> Result<Self, TrustedKeysProblem> {
        let text = read_text(path).map_err(TrustedKeysProblem::Unreadable)?;
        Self::from_text(&text)
    }

    /// Reads public keys as `openssl pkey -pubout` prints them, one after the other, or their base64 alone, separated by line
    /// ends, commas or blanks. `#` begins a comment. An error names the line, but never shows it.
    pub(crate) fn from_text(text: &str) -> Result<Self, TrustedKeysProblem> {
        let text = without_mark(text);
        let (mut keys, mut rest, mut line) = (vec![], text, 1);
        loop {
            let from = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            line += lines_between(rest, from);
            rest = from;
            let (key, after) = if rest.is_empty() {
                break;
            } else if rest.starts_with('#') {
                (None, rest.split_once('\n').map_or("", |(_, after)| after))
            } else if rest.starts_with(pem::BEGIN) {
                let block = pem::blocks(rest).next().ok_or(TrustedKeysProblem::Damaged { line })?;
                (Some(key_in_block(&block, line)?), block.after)
            } else {
                let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
                (Some(key_in_word(&rest[..end], line)?), &rest[end..])
            };
            keys.extend(key.map(|key| (key_id(&key), key)).filter(|key| !keys.contains(key)));
            line += lines_between(rest, after);
            rest = after;
        }
        if keys.is_empty() { Err(TrustedKeysProblem::Empty) } else { Ok(Self(keys)) }
    }

    /// Which keys they are.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(|(id, _)| *id)
    }

    /// The key that signed these bytes.
    fn verify(&self, json: &[u8], signature: &[u8]) -> Result<KeyId, TrustError> {
        let parts = signature.split_first_chunk().filter(|(_, signature)| signature.len() == ED25519_BYTES);
        let (id, signature) = parts.ok_or(TrustError::Malformed)?;
        let id = KeyId::from_bytes(*id);
        let mut named = self.0.iter().filter(|(trusted, _)| *trusted == id).peekable();
        if named.peek().is_none() {
            return Err(TrustError::UnknownKey(id));
        }
        let signed = signed_bytes(json);
        let is_good = |key: &[u8]| UnparsedPublicKey::new(&ED25519, key).verify(&signed, signature).is_ok();
        if named.any(|(_, key)| is_good(key)) { Ok(id) } else { Err(TrustError::BadSignature(id)) }
    }
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustedKeys")?;
        f.debug_list().entries(self.ids()).finish()
    }
}

/// What an object has to prove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trust<'a> {
    /// The destination in the object's name.
    pub(crate) destination: &'a Destination,
    /// Whose signature it needs. Without keys, nothing is proven, and it needs none.
    pub(crate) keys: Option<&'a TrustedKeys>,
    /// When it may have been published, if it is signed.
    pub(crate) window: Option<Window>,
}

/// Where an object comes from, as far as that was found out, and its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) origin: Origin,
    /// `None` if there is none, or if it cannot be read and nothing depends on it.
    pub(crate) manifest: Option<Manifest>,
}

impl Trust<'_> {
    /// Judges the manifest of a whole history, which may have none. Without trusted keys, it only tells what it says.
    pub(super) fn judge(&self, found: Option<&SignedManifest>, commit: CommitId) -> Result<Judged, TrustError> {
        match (self.keys, found) {
            (Some(_), None) => Err(TrustError::Unsigned),
            (Some(keys), Some(found)) => {
                let (origin, manifest) = self.verified(keys, found, commit, None)?;
                Ok(Judged { origin, manifest: Some(manifest) })
            }
            (None, None) => Ok(Judged { origin: Origin::Unsigned, manifest: None }),
            (None, Some(found)) => Ok(Judged { origin: claimed(found), manifest: Manifest::parse(&found.json).ok() }),
        }
    }

    /// Judges the manifest of an increment. It has to be that of the object's name in any case.
    pub(super) fn judge_increment(
        &self,
        found: &SignedManifest,
        commit: CommitId,
        base: CommitId,
    ) -> Result<(Origin, Manifest), TrustError> {
        match self.keys {
            Some(keys) => self.verified(keys, found, commit, Some(base)),
            None => Ok((claimed(found), self.named(found, commit, Some(base))?)),
        }
    }

    fn verified(
        &self,
        keys: &TrustedKeys,
        found: &SignedManifest,
        commit: CommitId,
        base: Option<CommitId>,
    ) -> Result<(Origin, Manifest), TrustError> {
        let key = keys.verify(&found.json, found.signature.as_deref().ok_or(TrustError::Unsigned)?)?;
        let manifest = self.named(found, commit, base)?;
        self.window.map_or(Ok(()), |window| window.judge(manifest.published))?;
        Ok((Origin::Signed { key }, manifest))
    }

    fn named(
        &self,
        found: &SignedManifest,
        commit: CommitId,
        base: Option<CommitId>,
    ) -> Result<Manifest, ManifestError> {
        let manifest = Manifest::parse(&found.json)?;
        manifest.agrees_with(self.destination, commit, base)?;
        Ok(manifest)
    }
}

/// Why an object is not trusted. Each message follows "`<key>`: ".
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "refused, it is not signed, and TRUSTED_KEYS takes only what is: set SIGNING_KEY_FILE on the near side and publish it \
         again, or find out who wrote it"
    )]
    Unsigned,
    #[error(
        "refused, it is signed with the key {0}, which is not in TRUSTED_KEYS: add its public key if the near side has it, \
         else find out who wrote it"
    )]
    UnknownKey(KeyId),
    #[error("refused, its signature does not fit, though it names the trusted key {0}: find out who wrote it")]
    BadSignature(KeyId),
    #[error("refused, its signature is not {SIGNATURE_BYTES} bytes long: find out who wrote it")]
    Malformed,
    /// Its signature is good, but something newer was taken, or a clock is wrong.
    #[error("refused, {0}")]
    Untimely(#[from] Untimely),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What a signature says that nobody checks.
fn claimed(found: &SignedManifest) -> Origin {
    let signature = found.signature.as_deref().filter(|signature| signature.len() == SIGNATURE_BYTES);
    let key = signature.and_then(|signature| signature.first_chunk());
    key.map_or(Origin::Unsigned, |key| Origin::Unchecked { key: KeyId::from_bytes(*key) })
}

/// Keeps the secret part of an Ed25519 key out of servers' texts. The base64 of other keys is longer, and not used.
fn hide_lines(body: &str) {
    body.split_whitespace().take(2).for_each(hide);
}

fn key_id(public_key: &[u8]) -> KeyId {
    let mut id = [0; KeyId::BYTES];
    id.copy_from_slice(&Sha256::digest(public_key)[..KeyId::BYTES]);
    KeyId::from_bytes(id)
}

fn key_in_block(block: &Block<'_>, line: usize) -> Result<[u8; PUBLIC_KEY_BYTES], TrustedKeysProblem> {
    match block.label {
        "PUBLIC KEY" => {}
        label if label.ends_with("PRIVATE KEY") => {
            hide_lines(block.body);
            return Err(TrustedKeysProblem::Private { line });
        }
        _ => return Err(TrustedKeysProblem::OtherKind { line }),
    }
    let der = pem::decoded(block.body).ok_or(TrustedKeysProblem::Damaged { line })?;
    key_in_der(&der).ok_or(match der.windows(ED25519_OID.len()).any(|window| window == ED25519_OID) {
        true => TrustedKeysProblem::Damaged { line },
        false => TrustedKeysProblem::OtherAlgorithm { line },
    })
}

/// A key without a frame: the DER of a public key, or its raw bytes.
fn key_in_word(word: &str, line: usize) -> Result<[u8; PUBLIC_KEY_BYTES], TrustedKeysProblem> {
    if word.starts_with("age1") {
        return Err(TrustedKeysProblem::Recipient { line });
    }
    let decoded = BASE64_STANDARD.decode(word).ok();
    let key = decoded.and_then(|bytes| key_in_der(&bytes).or_else(|| bytes.try_into().ok()));
    key.ok_or(TrustedKeysProblem::NotAKey { line })
}

fn key_in_der(der: &[u8]) -> Option<[u8; PUBLIC_KEY_BYTES]> {
    der.strip_prefix(&PUBLIC_KEY_PREFIX)?.try_into().ok()
}

/// How many lines end before `after`, which is the end of `text`.
fn lines_between(text: &str, after: &str) -> usize {
    text[..text.len() - after.len()].matches('\n').count()
}

/// The text of a file of keys, which may be secret.
fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    // Large enough for all but the longest: growing would leave copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    if File::open(path)?.take(KEYS_LIMIT_BYTES + 1).read_to_string(&mut text)? as u64 > KEYS_LIMIT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long for a file of keys"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
