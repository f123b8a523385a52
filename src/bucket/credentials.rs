//! AWS credentials from any source, as they can stand in a header.
//!
//! The SDK panics on an access key with a line end, which a secret made with `echo` has. Invariant: white space at the ends
//! is cut off, and what does not fit a header is an error.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result, SharedCredentialsProvider, future};

/// How many profiles a role may lead through.
const MOST_PROFILES: usize = 16;

/// Credentials of the SDK's own sources, cleaned.
#[derive(Debug)]
pub(super) struct Clean(pub(super) SharedCredentialsProvider);

impl ProvideCredentials for Clean {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            if std::env::var_os("AWS_ACCESS_KEY_ID").is_none_or(|id| id.is_empty()) {
                sources_fit().await.map_err(CredentialsError::invalid_configuration)?;
            }
            clean(self.0.provide_credentials().await?)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.0.fallback_on_interrupt().and_then(|credentials| clean(credentials).ok())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the {0} is blank, or holds a space, a line end or another character that no header can: set it again")]
struct Unfit(&'static str);

/// The SDK signs the request for a profile's role with the access keys of other profiles, just as they are. What else is wrong
/// with profiles, it says itself.
async fn sources_fit() -> std::result::Result<(), Unfit> {
    let (files, environment, selected) = (Default::default(), Default::default(), Default::default());
    let Ok(profiles) = aws_config::profile::load(&files, &environment, &selected, None).await else { return Ok(()) };
    let mut name = profiles.selected_profile();
    for _ in 0..MOST_PROFILES {
        let Some(source) = profiles.get_profile(name).and_then(|profile| profile.get("source_profile")) else { break };
        let keys = [("aws_access_key_id", "access key"), ("aws_session_token", "session token")];
        for (key, what) in keys {
            let text = profiles.get_profile(source).and_then(|profile| profile.get(key));
            if text.is_some_and(|text| !fits_header(text)) {
                return Err(Unfit(what));
            }
        }
        name = source;
    }
    Ok(())
}

fn clean(found: Credentials) -> Result {
    let (id, key) = (found.access_key_id().trim(), found.secret_access_key().trim());
    let token = found.session_token().map(str::trim);
    // The secret itself is in no header.
    let unfit = [("access key", !fits_header(id)), ("secret part of the access key", key.is_empty())].into_iter();
    let unfit = unfit.chain([("session token", token.is_some_and(|token| !fits_header(token)))]);
    if let Some((name, _)) = unfit.into_iter().find(|(_, unfit)| *unfit) {
        return Err(CredentialsError::invalid_configuration(Unfit(name)));
    }
    if (id, key, token) == (found.access_key_id(), found.secret_access_key(), found.session_token()) {
        return Ok(found);
    }
    let mut cleaned = Credentials::builder().access_key_id(id).secret_access_key(key).provider_name("cleaned");
    cleaned.set_session_token(token.map(str::to_owned));
    cleaned.set_expiry(found.expiry());
    cleaned.set_account_id(found.account_id().cloned());
    Ok(cleaned.build())
}

/// Whether a header can hold this word.
pub(super) fn fits_header(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::SystemTime;

    use super::*;
    use crate::text::error_chain;

    fn cleaned(id: &str, key: &str, token: Option<&str>) -> Result {
        clean(Credentials::new(id, key, token.map(str::to_owned), Some(SystemTime::UNIX_EPOCH), "test"))
    }

    #[test]
    fn white_space_at_the_ends_is_cut_off() {
        for (before, after) in
            [("", ""), ("", "\n"), ("", "\r\n"), (" ", "\t"), ("\n\n", " \n"), ("\u{a0}", "\u{2003}")]
        {
            let wrap = |text: &str| format!("{before}{text}{after}");
            let found = cleaned(&wrap("AKIA"), &wrap("se cret"), Some(&wrap("to+ken=="))).unwrap();
            let all = (found.access_key_id(), found.secret_access_key(), found.session_token());
            assert_eq!(all, ("AKIA", "se cret", Some("to+ken==")));
            assert_eq!(found.expiry(), Some(SystemTime::UNIX_EPOCH), "it is loaded again in time");
        }
    }

    #[test]
    fn what_no_header_can_hold_is_an_error_that_names_it_and_does_not_show_it() {
        for odd in ["AK\nIA", "AK IA", "AK\u{200b}IA", "\u{feff}AKIA", "AKÏA", "AK\u{7f}IA", "AK\0IA", "\n"] {
            let id = error_chain(&cleaned(odd, "secret", None).unwrap_err());
            assert!(id.contains("the access key is blank") && !id.contains("AK"), "{id}");
            let token = error_chain(&cleaned("AKIA", "secret", Some(odd)).unwrap_err());
            assert!(token.contains("the session token is blank") && !token.contains("AK"), "{token}");
        }
        assert!(cleaned("AKIA", " \n", None).is_err());
        assert!(cleaned("AKIA", "sécret", None).is_ok(), "the secret is in no header");
    }
}
