//! Links to GitLab and to the documentation.
//!
//! Invariant: a name of a project or a branch is only ever a part of a path.

use url::Url;

use crate::model::key::Destination;
use crate::model::program::Program;

/// Where links lead to.
pub(super) struct Links<'a> {
    pub(super) program: Program,
    /// `GITLAB_BASE_URL`.
    pub(super) gitlab: &'a Url,
}

impl Links<'_> {
    /// A branch's page in GitLab.
    pub(super) fn branch(&self, project: &str, branch: &str) -> String {
        let mut url = self.gitlab.clone();
        // Only an address without a host has no path; settings refuse those.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(project.split('/')).extend(["-", "tree"]).extend(branch.split('/'));
        }
        url.into()
    }

    /// A destination's page, if its GitLab is the one that this program talks to.
    pub(super) fn far(&self, destination: &Destination) -> Option<String> {
        match self.program {
            Program::Producer => None,
            Program::Consumer => Some(self.branch(&destination.path(), &destination.branch)),
        }
    }
}

/// The sections of the documentation that the page leads to. The program serves it itself, so that it is that of this
/// version, and there without the internet.
#[derive(Debug)]
pub(super) struct Runbook {
    pub(super) top: &'static str,
    pub(super) failed_pass: &'static str,
    pub(super) trouble: &'static str,
    pub(super) guard: &'static str,
    pub(super) stuck: &'static str,
    pub(super) nothing_listed: &'static str,
}

pub(super) const PRODUCER: Runbook = Runbook {
    top: "docs/operations.md",
    failed_pass: "docs/operations.md#a-pass-that-fails",
    trouble: "docs/operations.md#a-target-in-trouble",
    guard: "docs/operations.md#gitpartitionsyncretireguard",
    stuck: "docs/operations.md#gitpartitionsyncstuck",
    nothing_listed: "docs/targets.md",
};

pub(super) const CONSUMER: Runbook = Runbook {
    top: "docs/operations.md#the-first-hour-of-the-far-side",
    failed_pass: "docs/operations.md#gitpartitionsyncconsumerpassesfail",
    trouble: "docs/consumer.md#what-can-go-wrong",
    guard: PRODUCER.guard,
    stuck: "docs/operations.md#gitpartitionsyncconsumerstuck",
    nothing_listed: "docs/operations.md#the-first-hour-of-the-far-side",
};

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::server::documents;

    #[test]
    fn names_are_parts_of_the_path_and_nothing_else() {
        for (base, expected) in [
            ("https://gitlab.test", "https://gitlab.test/a/b%3Fc/-/tree/release/2%234"),
            ("https://gitlab.test/git/", "https://gitlab.test/git/a/b%3Fc/-/tree/release/2%234"),
        ] {
            let gitlab: Url = base.parse().unwrap();
            let links = Links { program: Program::Producer, gitlab: &gitlab };
            assert_eq!(links.branch("a/b?c", "release/2#4"), expected);
            let host =
                |project: &str| links.branch(project, "main").parse::<Url>().unwrap().host_str().unwrap().to_owned();
            assert!(["../..", "//evil.test", "\\\\evil.test"].iter().all(|project| host(project) == "gitlab.test"));
        }
    }

    #[test]
    fn every_link_to_the_runbook_leads_to_a_section() {
        for Runbook { top, failed_pass, trouble, guard, stuck, nothing_listed } in [PRODUCER, CONSUMER] {
            for link in [top, failed_pass, trouble, guard, stuck, nothing_listed] {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let html = documents::html(path).unwrap();
                assert!(anchor.is_empty() || html.contains(&format!("id=\"{anchor}\"")), "{link}");
            }
        }
    }
}
