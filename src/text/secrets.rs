//! The secrets that this process knows, so that no server's text can show them: a server may send back what it was sent.
//!
//! Invariant: what is kept is set to zero when it is dropped, and its number and lengths are bounded.

use std::borrow::Cow;
use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;

/// How many forms of secrets are kept; the oldest goes first. A secret has up to nine, and rotated ones add up.
const MOST_FORMS: usize = 216;
/// Shorter texts are not kept, in bytes: they would be part of ordinary words.
const LEAST_FORM_BYTES: usize = 4;
/// Longer texts are not kept, in bytes. A token of AWS takes less than 2 KiB.
pub(super) const LONGEST_FORM_BYTES: usize = 4 << 10;
/// What is shown instead.
const CUT: &[u8] = b"[secret]";

type Form = Zeroizing<Vec<u8>>;

static KNOWN: RwLock<Known> = RwLock::new(Known(VecDeque::new()));

/// Forms of secrets, the oldest first.
struct Known(VecDeque<Form>);

/// What RFC 3986 encodes in a part of a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, but a path stays one.
const RESERVED_IN_PATHS: &AsciiSet = &RESERVED.remove(b'/');
/// What forms encode, where a space is written as `+`.
const RESERVED_IN_FORMS: &AsciiSet = &RESERVED.remove(b' ').remove(b'*').add(b'~');

/// From now on, no server's text shows this secret: as it is, in base64, percent-encoded as URLs and forms are, or escaped as in
/// JSON and HTML.
pub fn hide(secret: &str) {
    for form in forms(secret) {
        if !KNOWN.read().0.contains(&form) {
            KNOWN.write().keep(form);
        }
    }
}

/// The forms of a secret that are kept.
fn forms(secret: &str) -> impl Iterator<Item = Form> {
    let percent = |set| utf8_percent_encode(secret, set).to_string();
    let json = serde_json::Value::from(secret).to_string();
    let html = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#39;")];
    let forms = [
        secret.to_owned(),
        percent(NON_ALPHANUMERIC),
        percent(RESERVED),
        percent(RESERVED_IN_PATHS),
        percent(RESERVED_IN_FORMS).replace(' ', "+"),
        json[1..json.len() - 1].to_owned(),
        html.iter().fold(secret.to_owned(), |text, (letter, entity)| text.replace(*letter, entity)),
        BASE64_STANDARD_NO_PAD.encode(secret),
        BASE64_URL_SAFE_NO_PAD.encode(secret),
    ];
    let forms = forms.map(|form| Zeroizing::new(form.into_bytes()));
    forms.into_iter().filter(|form| (LEAST_FORM_BYTES..=LONGEST_FORM_BYTES).contains(&form.len()))
}

impl Known {
    fn keep(&mut self, form: Form) {
        if self.0.len() == MOST_FORMS {
            self.0.pop_front();
        }
        self.0.push_back(form);
    }
}

/// The text without known secrets. If it is only the start of a longer text, it may end in the middle of a secret: what
/// could be part of one is left out.
pub(super) fn without_secrets(text: &[u8], is_cut: bool) -> Cow<'_, [u8]> {
    let known = &KNOWN.read().0;
    let longest = known.iter().map(|form| form.len()).max().unwrap_or_default();
    // Hexadecimal digits come in both cases.
    let begins = |text: &[u8], form: &[u8]| text.get(..form.len()).is_some_and(|text| text.eq_ignore_ascii_case(form));
    // Few places of a text begin like a secret.
    let mut first_bytes = [false; 256];
    for first in known.iter().filter_map(|form| form.first()) {
        first_bytes[usize::from(first.to_ascii_lowercase())] = true;
        first_bytes[usize::from(first.to_ascii_uppercase())] = true;
    }
    let is_secret = |at: &usize| {
        let begin = &text[*at..];
        if !begin.first().is_some_and(|first| first_bytes[usize::from(*first)]) {
            return None;
        }
        known.iter().filter(|form| begins(begin, form)).map(|form| form.len()).max()
    };
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
            "you sent gl%2fpat%2bsecret-one.".to_owned(),
            "you sent gl/pat%2Bsecret-one.".to_owned(),
        ] {
            let shown = remote_text(text.as_bytes());
            assert!(shown.starts_with("you sent ") && shown.contains("[secret]"), "{shown}");
            assert!(!shown.contains("secret-one") && !shown.contains("secret%2Done"), "{shown}");
            assert!(!shown.contains(basic.trim_end_matches('=')), "{shown}");
        }
        hide("a b&\"c~d");
        for form in ["a+b%26%22c%7Ed", "a%20b%26%22c~d", "a b&amp;&quot;c~d", "a b&\\\"c~d"] {
            assert_eq!(remote_text(format!("<{form}>").as_bytes()), "<[secret]>");
        }
        let error = std::io::Error::other(format!("{secret}{secret}"));
        assert_eq!(error_chain(&error), "[secret][secret]");
    }

    #[test]
    fn a_secret_at_any_place_of_a_long_text_is_not_shown_in_part() {
        let secret = "glpat-secret-two-abcdefghijklmnopqrstuvwxyz";
        hide(secret);
        for at in (0..2 * REMOTE_TEXT_LIMIT_CHARS).chain(5_000..5_600) {
            // Other tests hide secrets as well, and the oldest are forgotten.
            hide(secret);
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
        let mut known = Known(VecDeque::new());
        (0..1_000)
            .flat_map(|n| forms(&format!("rotated-{n:04}")).collect::<Vec<_>>())
            .for_each(|form| known.keep(form));
        assert_eq!(known.0.len(), MOST_FORMS);
        assert!(forms("rotated-0999").all(|form| known.0.contains(&form)), "the newest are known");
        hide("abc");
        assert_eq!(remote_text(b"abc"), "abc");
    }
}
