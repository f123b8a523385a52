//! Encryption to age recipients, and decryption with age identities.
//!
//! Invariant: an unfinished stream does not decrypt. Only [`Sealer::finish`] finishes an age stream; every age reader
//! refuses one that was dropped before.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use age::stream::StreamWriter;
use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::secret::without_mark;
use crate::text::hide;

/// The longest age header read, in bytes: room for several hundred recipients. An age header has no bound of its own.
const MAX_HEADER_BYTES: u64 = 64 * 1024;

/// The longest identity file read, in bytes: one identity takes less than 100.
const MAX_IDENTITY_FILE_BYTES: u64 = 1024 * 1024;

/// Starts an age stream to `out` that any of the recipients can decrypt; its header is written at once. Without recipients,
/// that is an error.
pub fn encrypting<W: Write>(recipients: &[Recipient], out: W) -> Result<Sealer<W>, EncryptError> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    Ok(Sealer(Encryptor::with_recipients(recipients)?.wrap_output(out)?))
}

/// An age stream being written.
#[must_use = "an age stream that is not finished does not decrypt"]
pub struct Sealer<W: Write>(StreamWriter<W>);

impl<W: Write> Sealer<W> {
    /// Writes the stream's end, so that it decrypts, and returns the output.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.0.write(plaintext)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The plaintext of the age stream `input`, decrypted as it is read, and its length if the stream's length is given.
///
/// Every chunk is authenticated before it is returned. A truncated stream is an error only at its end: do not trust what
/// was read before a read has returned 0.
pub(crate) fn decrypting<R: Read>(
    identities: &Identities,
    mut input: R,
    stream_bytes: Option<u64>,
) -> Result<(impl Read + use<R>, Option<u64>), DecryptError> {
    let mut head = Vec::new();
    input.by_ref().take(MAX_HEADER_BYTES).read_to_end(&mut head)?;
    if !head.windows(HEADER_END.len()).any(|window| window == HEADER_END) {
        return Err(DecryptError::InvalidHeader);
    }
    let plaintext_bytes = stream_bytes.and_then(|bytes| plaintext_bytes(&head, bytes));
    let stream = Cursor::new(head).chain(BufReader::new(input));
    let identities = identities.0.iter().map(|identity| identity as &dyn age::Identity);
    Ok((Decryptor::new_buffered(stream)?.decrypt(identities)?, plaintext_bytes))
}

/// What the last line of an age header begins with.
const HEADER_END: &[u8] = b"\n--- ";

/// How much an age stream of `stream_bytes` decrypts to, by its beginning: after the header come a nonce of 16 bytes and
/// chunks of 64 KiB, each with a tag of 16 bytes.
fn plaintext_bytes(head: &[u8], stream_bytes: u64) -> Option<u64> {
    const NONCE_BYTES: u64 = 16;
    const TAG_BYTES: u64 = 16;
    const CHUNK_BYTES: u64 = (64 << 10) + TAG_BYTES;
    let last_line = head.windows(HEADER_END.len()).position(|window| window == HEADER_END)? + 1;
    let header = last_line + head[last_line..].iter().position(|byte| *byte == b'\n')? + 1;
    let chunks = stream_bytes.checked_sub(header as u64 + NONCE_BYTES)?;
    chunks.checked_sub(TAG_BYTES * chunks.div_ceil(CHUNK_BYTES))
}

/// Secret keys; at least one. No server's text and no error shows them.
#[derive(Clone)]
pub(crate) struct Identities(Vec<Identity>);

impl Identities {
    /// Reads an identity file as `age-keygen` writes it. An error names the file and the line, but never shows their
    /// content.
    pub(crate) fn from_file(path: &Path) -> Result<Self, IdentityError> {
        let error = |problem| IdentityError { path: path.to_owned(), problem };
        let text = read_secret(path).map_err(|source| error(IdentityProblem::Unreadable(source)))?;
        Self::from_text(&text).map_err(error)
    }

    /// The recipients that they decrypt for.
    pub(crate) fn recipients(&self) -> impl Iterator<Item = Recipient> {
        self.0.iter().map(Identity::to_public)
    }

    /// Reads what an identity file holds: one `AGE-SECRET-KEY-1…` or several, separated by line ends, commas or blanks, and
    /// lines of comments (`#…`). An error names the line, but never shows it.
    pub(crate) fn from_text(text: &SecretString) -> Result<Self, IdentityProblem> {
        let text = without_mark(text.expose_secret());
        let is_encrypted = |start: &str| text.trim_start().starts_with(start);
        if is_encrypted("age-encryption.org/") || is_encrypted("-----BEGIN AGE ENCRYPTED FILE") {
            return Err(IdentityProblem::Encrypted);
        }
        let mut identities = vec![];
        for (line, number) in text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.starts_with('#')) {
            if line.starts_with("-----BEGIN ") && !line.contains("OPENSSH") {
                return Err(IdentityProblem::Pem { line: number });
            }
            for word in line.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
                identities.push(parse_word(word, number)?);
            }
        }
        if identities.is_empty() { Err(IdentityProblem::Empty) } else { Ok(Self(identities)) }
    }
}

fn parse_word(word: &str, line: usize) -> Result<Identity, IdentityProblem> {
    let parsed = word.parse();
    let bare = word.trim_matches(['"', '\'', '`', '“', '”', '‘', '’']);
    if parsed.is_ok() || bare.starts_with("AGE-") {
        hide(bare);
    }
    parsed.map_err(|_| match word.get(..4) {
        Some("age1") => IdentityProblem::Recipient { line },
        _ if ["AGE-SECRET-KEY-PQ-", "AGE-PLUGIN-", "-----BEGIN"].iter().any(|kind| word.starts_with(kind)) => {
            IdentityProblem::Unsupported { line }
        }
        _ if bare.len() < word.len() && bare.starts_with("AGE-") => IdentityProblem::Quoted { line },
        _ if word.starts_with("AGE-SECRET-KEY-1") => IdentityProblem::Mistyped { line },
        _ => IdentityProblem::NotAnIdentity { line },
    })
}

fn read_secret(path: &Path) -> io::Result<SecretString> {
    // Large enough for all but the longest: growing would leave copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    if File::open(path)?.take(MAX_IDENTITY_FILE_BYTES + 1).read_to_string(&mut text)? as u64 > MAX_IDENTITY_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long for an identity file"));
    }
    Ok(text.as_str().into())
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl From<Identity> for Identities {
    fn from(identity: Identity) -> Self {
        Self(vec![identity])
    }
}

/// An identity file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("identity file {}", path.display())]
pub(crate) struct IdentityError {
    path: PathBuf,
    #[source]
    problem: IdentityProblem,
}

/// What is wrong with an identity file, or with a text in its place. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityProblem {
    /// The file is missing, unreadable, too long or not text.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// By a passphrase.
    #[error("it is encrypted; decrypt it with `age -d` first")]
    Encrypted,
    #[error("line {line} holds a recipient (a public key, age1…); the secret key (AGE-SECRET-KEY-1…) is needed")]
    Recipient { line: usize },
    /// Post-quantum, of a plugin, or of SSH.
    #[error("line {line} holds a secret key of a kind that is not used here (post-quantum, plugin or SSH)")]
    Unsupported { line: usize },
    #[error("line {line} begins a PEM key (for signatures?), not an age identity (AGE-SECRET-KEY-1…)")]
    Pem { line: usize },
    #[error("line {line} has quotes around a secret key: leave them out")]
    Quoted { line: usize },
    #[error(
        "line {line} begins with AGE-SECRET-KEY-1, but has a typing error or is cut short (its checksum does not fit): copy it \
         again from the file that `age-keygen` wrote"
    )]
    Mistyped { line: usize },
    #[error("line {line} is neither a secret key (AGE-SECRET-KEY-1…) nor a comment (#…)")]
    NotAnIdentity { line: usize },
    #[error("it holds no secret key (AGE-SECRET-KEY-1…)")]
    Empty,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// More than two of age's chunks of 64 KiB.
    const PLAINTEXT: &[u8] = &[7; 150_000];

    fn sealed(recipients: &[Recipient]) -> Vec<u8> {
        let mut sealer = encrypting(recipients, Vec::new()).unwrap();
        sealer.write_all(PLAINTEXT).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(identity: &Identity, ciphertext: &[u8]) -> io::Result<Vec<u8>> {
        let mut plaintext = Vec::new();
        let (mut content, bytes) = decrypting(&identity.clone().into(), ciphertext, Some(ciphertext.len() as u64))
            .map_err(io::Error::other)?;
        content.read_to_end(&mut plaintext)?;
        assert_eq!(bytes, Some(plaintext.len() as u64));
        Ok(plaintext)
    }

    #[test]
    fn each_of_several_recipients_decrypts() {
        let identities = [Identity::generate(), Identity::generate(), Identity::generate()];
        let ciphertext = sealed(&identities.each_ref().map(Identity::to_public));
        for identity in &identities {
            assert_eq!(opened(identity, &ciphertext).unwrap(), PLAINTEXT);
        }
    }

    #[test]
    fn another_identity_does_not_decrypt() {
        let ciphertext = sealed(&[Identity::generate().to_public()]);
        let refused = decrypting(&Identity::generate().into(), &ciphertext[..], None).err().unwrap();
        assert!(matches!(refused, DecryptError::NoMatchingKeys), "{refused}");
    }

    #[test]
    fn an_unfinished_stream_does_not_decrypt() {
        let identity = Identity::generate();
        let mut ciphertext = Vec::new();
        let mut sealer = encrypting(&[identity.to_public()], &mut ciphertext).unwrap();
        sealer.write_all(PLAINTEXT).unwrap();
        sealer.flush().unwrap();
        drop(sealer);
        assert!(opened(&identity, &ciphertext).is_err());
    }

    #[test]
    fn a_stream_cut_anywhere_does_not_decrypt() {
        let identity = Identity::generate();
        let ciphertext = sealed(&[identity.to_public()]);
        for length in [0, 1, 100, 65_536, 131_500, ciphertext.len() - 1] {
            assert!(opened(&identity, &ciphertext[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn no_recipient_is_refused() {
        assert!(matches!(encrypting(&[], Vec::new()), Err(EncryptError::MissingRecipients)));
    }

    #[test]
    fn what_is_not_an_age_stream_is_refused_without_reading_all_of_it() {
        let mut endless = io::repeat(b'-');
        let refused = decrypting(&Identity::generate().into(), &mut endless, None).err().unwrap();
        assert!(matches!(refused, DecryptError::InvalidHeader), "{refused}");
    }

    #[test]
    fn the_length_of_the_plaintext_follows_from_that_of_the_stream() {
        let identity = Identity::generate();
        let recipients = [identity.to_public(), Identity::generate().to_public()];
        for bytes in [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073] {
            let mut sealer = encrypting(&recipients, Vec::new()).unwrap();
            sealer.write_all(&vec![7; bytes]).unwrap();
            assert_eq!(opened(&identity, &sealer.finish().unwrap()).unwrap().len(), bytes);
        }
        let stream = sealed(&recipients);
        for known in [None, Some(0), Some(100)] {
            let (_, bytes) = decrypting(&identity.clone().into(), &stream[..], known).unwrap();
            assert_eq!(bytes, None, "{known:?} is not its length");
        }
    }

    fn identities_in(text: &[u8]) -> Result<Identities, IdentityError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(text).unwrap();
        Identities::from_file(file.path())
    }

    fn secret_of(identity: &Identity) -> String {
        identity.to_string().expose_secret().to_owned()
    }

    #[track_caller]
    fn assert_open(identities: &Identities, those_of: &[Identity]) {
        assert_eq!(identities.0.len(), those_of.len());
        for identity in those_of {
            let (sealed, mut plaintext) = (sealed(&[identity.to_public()]), Vec::new());
            decrypting(identities, &sealed[..], None).unwrap().0.read_to_end(&mut plaintext).unwrap();
            assert_eq!(plaintext, PLAINTEXT);
        }
    }

    #[test]
    fn an_identity_file_may_hold_comments_blank_lines_and_several_keys() {
        let both = [Identity::generate(), Identity::generate()];
        let [first, second] = both.each_ref().map(secret_of);
        let text = format!("\u{feff}# created: today\r\n{first}\r\n\n{second}");
        assert_open(&identities_in(text.as_bytes()).unwrap(), &both);
    }

    #[test]
    fn a_text_holds_one_key_or_several_however_they_are_separated() {
        let both = [Identity::generate(), Identity::generate()];
        let [first, second] = both.each_ref().map(secret_of);
        let read = |text: String| Identities::from_text(&text.into()).unwrap();
        assert_open(&read(first.clone()), &both[..1]);
        for between in ["\n", "\r\n", ",", ", ", " ", "\t", " \n,\n", "\n# the next one, age1…\n"] {
            assert_open(&read(format!("\u{feff}\n# two: {first}\n{first}{between}{second},\n")), &both);
        }
    }

    #[test]
    fn an_unusable_identity_file_is_explained_and_never_shown() {
        let recipient = Identity::generate().to_public().to_string();
        let secret = secret_of(&Identity::generate());
        let broken = secret.replacen("KEY-1", "KEY-1X", 1);
        for (text, explanation) in [
            (String::new(), "no secret key"),
            (" ,\n".into(), "no secret key"),
            ("# only a comment\n".into(), "no secret key"),
            (format!("#\n{recipient}\n"), "line 2 holds a recipient"),
            (format!("{secret},{recipient}\n"), "line 1 holds a recipient"),
            (format!("#\n\n{broken}\n"), "line 3 begins with AGE-SECRET-KEY-1, but has a typing error"),
            (format!("{secret} {broken}\n"), "line 1 begins with AGE-SECRET-KEY-1, but has a typing error"),
            (secret[..40].to_owned(), "line 1 begins with AGE-SECRET-KEY-1, but has a typing error"),
            (format!("\"{secret}\""), "line 1 has quotes around a secret key"),
            (format!("#\nX{secret}"), "line 2 is neither"),
            ("-----BEGIN PRIVATE KEY-----\nMC4CAQAw".into(), "line 1 begins a PEM key (for signatures?)"),
            ("age-encryption.org/v1\n-> scrypt".into(), "age -d"),
            ("\n-----BEGIN AGE ENCRYPTED FILE-----".into(), "age -d"),
            ("AGE-SECRET-KEY-PQ-1QQQ".into(), "line 1 holds a secret key of a kind"),
            ("\nAGE-PLUGIN-YUBIKEY-1QQQ".into(), "line 2 holds a secret key of a kind"),
            ("#\n-----BEGIN OPENSSH PRIVATE KEY-----".into(), "line 2 holds a secret key of a kind"),
        ] {
            let refused = identities_in(text.as_bytes()).unwrap_err();
            let of_text = Identities::from_text(&text.into()).unwrap_err();
            let shown = format!("{refused}: {} {refused:?} {of_text} {of_text:?}", refused.problem);
            assert_eq!(of_text.to_string(), refused.problem.to_string());
            assert!(of_text.to_string().contains(explanation), "{shown}");
            assert!(![&broken, &recipient, &secret].iter().any(|text| shown.contains(*text)), "{shown}");
        }
    }

    #[test]
    fn nothing_that_is_logged_shows_a_secret_key_that_was_read() {
        let [good, other] = [Identity::generate(), Identity::generate()].each_ref().map(secret_of);
        let broken = other.replacen("KEY-1", "KEY-1X", 1);
        Identities::from_text(&format!("{good} {broken}").into()).unwrap_err();
        let shown = crate::text::remote_text(format!("you sent {good} and {broken}.").as_bytes());
        assert_eq!(shown, "you sent [secret] and [secret].");
    }

    #[test]
    fn an_identity_file_that_is_missing_or_not_text_is_an_error() {
        let missing = Identities::from_file(Path::new("/nonexistent/identity")).unwrap_err();
        assert!(matches!(missing.problem, IdentityProblem::Unreadable(_)), "{missing}");
        assert!(matches!(identities_in(&[0xff, 0xfe]).unwrap_err().problem, IdentityProblem::Unreadable(_)));
    }

    #[test]
    fn identities_do_not_show_their_keys() {
        assert_eq!(format!("{:?}", Identities::from(Identity::generate())), "Identities(1)");
    }
}
