//! The address's filter, `?q=&state=&cause=&page=`, and links to other choices.

use std::collections::HashMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::figures::{grouped, sentence};
use super::needs_attention;
use crate::plan::Cause;
use crate::status::{Snapshot, TargetState, TargetStatus};
use crate::text::printable;

/// What the address asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::server) struct Filter {
    pub(super) q: String,
    pub(super) state: String,
    pub(super) cause: String,
    pub(super) page: String,
}

/// A button that filters by state.
pub(super) struct Chip {
    pub(super) label: String,
    pub(super) class: &'static str,
    pub(super) count: String,
    pub(super) href: String,
    pub(super) current: bool,
}

/// A filter that no chip shows, and the link that removes it.
pub(super) struct Only {
    pub(super) what: String,
    pub(super) all: String,
}

impl Filter {
    /// From the address's names and values; unknown names are ignored.
    pub(in crate::server) fn new(mut pairs: HashMap<String, String>) -> Self {
        let mut take = |name| pairs.remove(name).unwrap_or_default();
        Self { q: take("q"), state: take("state"), cause: take("cause"), page: take("page") }
    }

    /// The cause, and a state that no chip shows.
    pub(super) fn only(&self) -> Option<Only> {
        let state = match self.state.as_str() {
            "" => None,
            "attention" => Some("failing or blocked".to_owned()),
            name => match TargetState::ALL.into_iter().find(|state| state.name() == name) {
                // With a cause, no chip is the current one.
                Some(state) => (!self.cause.is_empty()).then(|| state.to_string()),
                None => Some(printable(name)),
            },
        };
        let cause = Cause::ALL.into_iter().find(|cause| cause.name() == self.cause);
        let cause = cause.map_or_else(|| printable(&self.cause), |cause| cause.title().to_owned());
        let what: Vec<_> = [Some(cause).filter(|cause| !cause.is_empty()), state].into_iter().flatten().collect();
        (!what.is_empty()).then(|| Only { what: what.join(", "), all: self.href(Some(""), 1) })
    }

    pub(super) fn chips(&self, now: &Snapshot) -> Vec<Chip> {
        let chip = |label: String, class, number| Chip {
            label,
            class,
            count: grouped(number),
            href: self.href(Some(class), 1),
            current: self.state == class && self.cause.is_empty(),
        };
        let of_state = |state: TargetState| {
            let number = now.targets.iter().filter(|target| target.state == state).count();
            chip(sentence(&state.to_string()), state.name(), number)
        };
        let all = chip("All".to_owned(), "", now.targets.len());
        [all].into_iter().chain(TargetState::ALL.map(of_state)).collect()
    }

    /// Whether the target has the state and the cause, and every word is in its names, commit or error.
    pub(super) fn matches(&self, target: &TargetStatus) -> bool {
        let state = match self.state.as_str() {
            "" => true,
            "attention" => needs_attention(target),
            name => target.state.name() == name,
        };
        let cause = target.trouble.as_ref().map(|trouble| trouble.cause.name());
        let found = || {
            let source = target.source.as_ref().map(ToString::to_string).unwrap_or_default();
            let error = target.trouble.as_ref().map(|trouble| trouble.error.as_str()).unwrap_or_default();
            let [commit, waiting] = [&target.commit, &target.waiting].map(|it| it.as_deref().unwrap_or_default());
            let text = format!("{} {source} {commit} {waiting} {error}", target.destination).to_lowercase();
            self.q.to_lowercase().split_whitespace().all(|word| text.contains(word))
        };
        state && (self.cause.is_empty() || cause == Some(self.cause.as_str())) && (self.q.is_empty() || found())
    }

    /// The address of this search on another page, or with another state.
    pub(super) fn href(&self, state: Option<&str>, page: usize) -> String {
        let cause = if state.is_some() { "" } else { &self.cause };
        let page = if page > 1 { page.to_string() } else { String::new() };
        let pairs =
            [("q", self.q.as_str()), ("state", state.unwrap_or(&self.state)), ("cause", cause), ("page", &page)];
        let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<_> =
            pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).collect();
        format!("./?{}#targets", pairs.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pairs: &[(&str, &str)]) -> Filter {
        Filter::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn unknown_names_are_ignored() {
        assert_eq!(filter(&[("q", "a"), ("x", "y")]), filter(&[("q", "a")]));
    }

    #[test]
    fn what_no_chip_shows_is_named_and_can_be_taken_away() {
        let only = |pairs: &[(&str, &str)]| filter(pairs).only().map(|only| (only.what, only.all));
        assert_eq!(only(&[]), None);
        assert_eq!(only(&[("q", "words"), ("state", "failing")]), None);
        let expected = ("Uploading to S3 fails".to_owned(), "./?q=two%20words#targets".to_owned());
        assert_eq!(only(&[("q", "two words"), ("cause", "upload")]), Some(expected));
        let expected = ("Uploading to S3 fails, failing".to_owned(), "./?#targets".to_owned());
        assert_eq!(only(&[("state", "failing"), ("cause", "upload")]), Some(expected));
        let expected = ("failing or blocked".to_owned(), "./?#targets".to_owned());
        assert_eq!(only(&[("state", "attention")]), Some(expected));
        assert_eq!(only(&[("cause", "nonsense")]).map(|(what, _)| what), Some("nonsense".to_owned()));
    }
}
