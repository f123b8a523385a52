//! The secrets that this process knows, so that no server's text can show them: a server may send back what it was sent.
//!
//! Invariant: what is kept is set to zero when it is dropped, and its number and lengths are bounded.

use std::borrow::Cow;
use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;

/// How many forms of secrets are kept; the oldest goes first. A secret has up to four, and rotated ones add up.
const MOST_FORMS: usize = 96;
/// Shorter texts are not kept, in bytes: they would be part of ordinary words.
const LEAST_FORM_BYTES: usize = 4;
/// Longer texts are not kept, in bytes. A token of AWS takes less than 2 KiB.
pub(super) const LONGEST_FORM_BYTES: usize = 4 << 10;
/// What is shown instead.
const CUT: &[u8] = b"[secret]";

type Form = Zeroizing<Vec<u8>>;

static KNOWN: RwLock<VecDeque<Form>> = RwLock::new(VecDeque::new());

/// From now on, no server's text shows this secret, as it is, in base64 or percent-encoded.
pub fn hide(secret: &str) {
    let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    for form in
        [secret.to_owned(), encoded, BASE64_STANDARD_NO_PAD.encode(secret), BASE64_URL_SAFE_NO_PAD.encode(secret)]
    {
        keep(Zeroizing::new(form.into_bytes()));
    }
}

fn keep(form: Form) {
    let is_kept = (LEAST_FORM_BYTES..=LONGEST_FORM_BYTES).contains(&form.len());
    if !is_kept || KNOWN.read().contains(&form) {
        return;
    }
    let mut known = KNOWN.write();
    if known.len() == MOST_FORMS {
        known.pop_front();
    }
    known.push_back(form);
}

/// The text without known secrets. If it is only the start of a longer text, it may end in the middle of a secret: what
/// could be part of one is left out.
pub(super) fn without_secrets(text: &[u8], is_cut: bool) -> Cow<'_, [u8]> {
    let known = KNOWN.read();
    let longest = known.iter().map(|form| form.len()).max().unwrap_or_default();
    let is_secret = |at: &usize| known.iter().filter(|form| text[*at..].starts_with(form)).map(|form| form.len()).max();
    let end = if is_cut { text.len().saturating_sub(longest.saturating_sub(1)) } else { text.len() };
    if (0..end).all(|at| is_secret(&at).is_none()) {
        return Cow::Borrowed(&text[..end]);
    }
    let (mut shown, mut at) = (vec![], 0);
    while at < end {
        match is_secret(&at) {
            Some(length) => {
                shown.extend_from_slice(CUT);
                at += length;
                // The end of base64.
                at += text[at..].iter().take(2).take_while(|byte| **byte == b'=').count();
            }
            None => {
                shown.push(text[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::super::{REMOTE_TEXT_LIMIT_CHARS, error_chain, remote_text};
    use super::*;

    #[test]
    fn a_secret_is_cut_out_of_a_server_s_text_in_each_form() {
        let secret = "gl/pat+secret-one";
        hide(secret);
        hide(&format!("some-user:{secret}"));
        let basic = base64::prelude::BASE64_STANDARD.encode(format!("some-user:{secret}"));
        for text in [
            format!("you sent {secret}."),
            format!("you sent Basic {basic}."),
            format!("you sent {}.", BASE64_URL_SAFE_NO_PAD.encode(secret)),
            "you sent gl%2Fpat%2Bsecret%2Done.".to_owned(),
        ] {
            let shown = remote_text(text.as_bytes());
            assert!(shown.starts_with("you sent ") && shown.contains("[secret]"), "{shown}");
            assert!(!shown.contains("secret-one") && !shown.contains("secret%2Done"), "{shown}");
            assert!(!shown.contains(basic.trim_end_matches('=')), "{shown}");
        }
        let error = std::io::Error::other(format!("{secret}{secret}"));
        assert_eq!(error_chain(&error), "[secret][secret]");
    }

    #[test]
    fn a_secret_at_any_place_of_a_long_text_is_not_shown_in_part() {
        let secret = "glpat-secret-two-abcdefghijklmnopqrstuvwxyz";
        hide(secret);
        for at in (0..2 * REMOTE_TEXT_LIMIT_CHARS).chain(5_000..5_600) {
            // Many of them first, so that what is far behind gets into sight.
            let text = format!("{}{}{secret}", secret.repeat(at / 100), "x".repeat(at % 100));
            let long = format!("{text}{}", "y".repeat(50_000));
            for text in [text, long] {
                let shown = remote_text(text.as_bytes());
                assert!(!shown.contains("glpat") && !shown.contains("wxyz"), "{at}: {shown}");
            }
        }
    }

    #[test]
    fn rotated_secrets_do_not_add_up() {
        (0..1_000).for_each(|n| hide(&format!("rotated-{n:04}")));
        assert!(KNOWN.read().len() <= MOST_FORMS);
        assert_eq!(remote_text(b"rotated-0999"), "[secret]");
        hide("abc");
        assert_eq!(remote_text(b"abc"), "abc");
    }
}
