//! The address's filter, `?q=&state=&cause=&group=&page=`, and links to other choices.

use std::collections::{BTreeMap, HashMap};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::figures::{grouped, sentence};
use super::needs_attention;
use crate::model::key::is_same_path;
use crate::plan::Cause;
use crate::status::{Snapshot, TargetState, TargetStatus};
use crate::text::printable;

/// What the address asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::server) struct Filter {
    pub(super) q: String,
    pub(super) state: String,
    pub(super) cause: String,
    pub(super) group: String,
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
        let [q, state, cause, group, page] = ["q", "state", "cause", "group", "page"].map(&mut take);
        Self { q, state, cause, group, page }
    }

    /// The cause, the group, and a state that no chip shows.
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
        let group = (!self.group.is_empty()).then(|| format!("group {}", printable(&self.group)));
        let cause = Some(cause).filter(|cause| !cause.is_empty());
        let what: Vec<_> = [group, cause, state].into_iter().flatten().collect();
        (!what.is_empty())
            .then(|| Only { what: what.join(", "), all: Self { q: self.q.clone(), ..Self::default() }.href() })
    }

    pub(super) fn chips(&self, now: &Snapshot) -> Vec<Chip> {
        let chip = |label: String, class, number| Chip {
            label,
            class,
            count: grouped(number),
            href: self.with_state(class),
            current: self.state == class && self.cause.is_empty(),
        };
        let mut counts: BTreeMap<TargetState, usize> = BTreeMap::new();
        for target in now.targets.iter().filter(|target| self.is_of_group(target)) {
            *counts.entry(target.state).or_default() += 1;
        }
        let of_state = |state: TargetState| {
            chip(sentence(&state.to_string()), state.name(), counts.get(&state).copied().unwrap_or_default())
        };
        let all = chip("All".to_owned(), "", counts.values().sum());
        [all].into_iter().chain(TargetState::ALL.map(of_state)).collect()
    }

    fn is_of_group(&self, target: &TargetStatus) -> bool {
        self.group.is_empty() || self.has_group(&target.destination.group)
    }

    /// Whether it is this group that is asked for.
    pub(super) fn has_group(&self, group: &str) -> bool {
        is_same_path(&self.group, group)
    }

    /// Tells whether a target has the group, the state and the cause, and every word is in its names, commit or error.
    pub(super) fn matcher(&self) -> impl Fn(&TargetStatus) -> bool {
        let q = self.q.to_lowercase();
        move |target| self.matches(target, &q)
    }

    /// `q` is the words in lower case.
    fn matches(&self, target: &TargetStatus, q: &str) -> bool {
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
            q.split_whitespace().all(|word| text.contains(word))
        };
        let state = state && self.is_of_group(target);
        state && (self.cause.is_empty() || cause == Some(self.cause.as_str())) && (q.is_empty() || found())
    }

    /// The address of this search on another page.
    pub(super) fn page(&self, page: usize) -> String {
        let page = if page > 1 { page.to_string() } else { String::new() };
        Self { page, ..self.clone() }.href()
    }

    /// The address of this search with another state.
    fn with_state(&self, state: &str) -> String {
        let (cause, page) = Default::default();
        Self { state: state.to_owned(), cause, page, ..self.clone() }.href()
    }

    /// The address of all targets of a group.
    pub(super) fn only_group(&self, group: &str) -> String {
        Self { group: group.to_owned(), ..Self::default() }.href()
    }

    fn href(&self) -> String {
        let Self { q, state, cause, group, page } = self;
        let pairs = [("q", q), ("state", state), ("cause", cause), ("group", group), ("page", page)];
        let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<_> =
            pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).collect();
        format!("./?{}#targets", pairs.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::key::Destination;

    fn filter(pairs: &[(&str, &str)]) -> Filter {
        Filter::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_group_is_found_in_any_case_and_without_those_below_it() {
        let target = |group: &str| {
            let destination = Destination { group: group.to_owned(), project: "p".to_owned(), branch: "b".to_owned() };
            TargetStatus::new(&destination, TargetState::InSync, SystemTime::UNIX_EPOCH)
        };
        for (asked, group, is_shown) in
            [("far/tools", "Far/Tools", true), ("FAR", "far", true), ("far", "far/tools", false), ("", "far", true)]
        {
            assert_eq!(filter(&[("group", asked)]).matcher()(&target(group)), is_shown, "{asked:?}, {group}");
        }
    }

    #[test]
    fn unknown_names_are_ignored() {
        assert_eq!(filter(&[("q", "a"), ("x", "y")]), filter(&[("q", "a")]));
    }

    #[test]
    fn a_choice_is_added_to_the_others_or_takes_their_place() {
        let all = filter(&[("q", "a b"), ("state", "failing"), ("cause", "upload"), ("group", "g/s"), ("page", "3")]);
        assert_eq!(all.page(1), "./?q=a%20b&state=failing&cause=upload&group=g%2Fs#targets");
        assert_eq!(all.page(2), "./?q=a%20b&state=failing&cause=upload&group=g%2Fs&page=2#targets");
        assert_eq!(all.with_state("blocked"), "./?q=a%20b&state=blocked&group=g%2Fs#targets");
        assert_eq!(all.only_group("other"), "./?group=other#targets");
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
        let expected = ("group mirror/platform".to_owned(), "./?q=x#targets".to_owned());
        assert_eq!(only(&[("group", "mirror/platform"), ("q", "x")]), Some(expected));
    }
}
