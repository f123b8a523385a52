//! The documentation, served by the program itself: that of its own version, and there without the internet.
//!
//! Invariant: everything shown is compiled in. A link to something that is not served is shown as text.

use askama::Template;
use pulldown_cmark::{Alignment, CowStr, Event, Options, Parser, Tag, TagEnd};

/// What an operator reads, with its path in the repository.
pub(super) const DOCUMENTS: [(&str, &str); 12] = [
    ("docs/operations.md", include_str!("../../docs/operations.md")),
    ("docs/watching.md", include_str!("../../docs/watching.md")),
    ("docs/running.md", include_str!("../../docs/running.md")),
    ("docs/settings.md", include_str!("../../docs/settings.md")),
    ("docs/targets.md", include_str!("../../docs/targets.md")),
    ("docs/consumer.md", include_str!("../../docs/consumer.md")),
    ("docs/deploying.md", include_str!("../../docs/deploying.md")),
    ("docs/scaling.md", include_str!("../../docs/scaling.md")),
    ("docs/migration.md", include_str!("../../docs/migration.md")),
    ("docs/contract.md", include_str!("../../docs/contract.md")),
    ("README.md", include_str!("../../README.md")),
    ("SECURITY.md", include_str!("../../SECURITY.md")),
];

#[derive(Template)]
#[template(path = "document.html")]
struct Document<'a> {
    title: &'a str,
    version: &'static str,
    /// From this document to the status page.
    root: &'static str,
    /// Each document's path and title, and whether it is this one.
    all: Vec<(&'static str, &'static str, bool)>,
    /// Of a document that is compiled in.
    body: String,
}

/// A document as HTML; `None` if there is none of this path.
pub(super) fn html(path: &str) -> Option<String> {
    let (path, text) = DOCUMENTS.into_iter().find(|(known, _)| *known == path)?;
    let document = Document {
        title: title(text),
        version: env!("CARGO_PKG_VERSION"),
        root: if path.contains('/') { "../" } else { "./" },
        all: DOCUMENTS.map(|(to, text)| (to, title(text), to == path)).to_vec(),
        body: body(path, text),
    };
    document.render().ok()
}

/// A document's heading.
fn title(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default()
}

fn body(path: &str, text: &str) -> String {
    let mut events: Vec<_> = Parser::new_ext(text, Options::ENABLE_TABLES).collect();
    let (mut open, mut known) = (None, vec![]);
    for at in 0..events.len() {
        match &events[at] {
            Event::Start(Tag::Heading { .. }) => open = Some((at, String::new())),
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, heading)) = &mut open {
                    heading.push_str(text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let Some((start, heading)) = open.take() else { continue };
                let anchor = anchor(&heading, &mut known);
                if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
                    *id = Some(CowStr::from(anchor));
                }
            }
            _ => {}
        }
    }
    let mut links = vec![];
    let shown = events.into_iter().filter_map(|event| match event {
        Event::Start(Tag::Link { ref dest_url, .. }) => {
            links.push(leads_somewhere(path, dest_url));
            links.last().copied().unwrap_or_default().then_some(event)
        }
        Event::End(TagEnd::Link) => links.pop().unwrap_or_default().then_some(event),
        // Marks that links lead to.
        Event::Html(ref html) | Event::InlineHtml(ref html) if is_mark(html) => Some(event),
        // Comments are for those who change the document.
        Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) | Event::Html(_) | Event::InlineHtml(_) => None,
        // Pictures are not served; what they show is said in words.
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        // Written as a style, which the page's policy does not allow.
        Event::Start(Tag::Table(columns)) => Some(Event::Start(Tag::Table(vec![Alignment::None; columns.len()]))),
        event => Some(event),
    });
    let mut html = String::new();
    pulldown_cmark::html::push_html(&mut html, shown);
    html
}

/// Whether it is `<a id="…">`, with nothing else inside, or the end of that.
fn is_mark(html: &str) -> bool {
    let id = html.trim().strip_prefix("<a id=\"").and_then(|rest| rest.strip_suffix("\">"));
    let is_plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    html.trim() == "</a>" || id.is_some_and(is_plain)
}

/// The anchor of a heading, as GitHub names it.
fn anchor(heading: &str, known: &mut Vec<String>) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let anchor = heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
    let before = known.iter().filter(|it| **it == anchor).count();
    known.push(anchor.clone());
    if before == 0 { anchor } else { format!("{anchor}-{before}") }
}

/// Whether a link in the document `path` leads elsewhere on the page, to a document that is served, or to the internet.
fn leads_somewhere(path: &str, link: &str) -> bool {
    let to = link.split('#').next().unwrap_or_default();
    if to.is_empty() || to.starts_with("https://") {
        return true;
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let resolved = match (to.strip_prefix("../"), folder) {
        (Some(to), _) => to.to_owned(),
        (None, "") => to.to_owned(),
        (None, folder) => format!("{folder}/{to}"),
    };
    DOCUMENTS.iter().any(|(known, _)| *known == resolved)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::*;

    #[test]
    fn links_lead_to_what_is_served_and_the_rest_is_text() {
        let text = "[a](consumer.md#x) [b](../README.md) [c](../src/lib.rs) [d](#e) ![f](g.png) [h](https://i.test/)\n\n<!-- i -->";
        assert_eq!(
            body("docs/operations.md", text).trim(),
            "<p><a href=\"consumer.md#x\">a</a> <a href=\"../README.md\">b</a> c <a href=\"#e\">d</a> f \
             <a href=\"https://i.test/\">h</a></p>"
        );
    }

    #[test]
    fn headings_have_the_anchors_that_github_gives_them() {
        let html = body("README.md", "# A\n## What the `log` says, 1.5 h\n## Same\n## Same\n");
        for anchor in ["a", "what-the-log-says-15-h", "same", "same-1"] {
            assert!(html.contains(&format!(" id=\"{anchor}\">")), "{anchor} in {html}");
        }
    }

    #[test]
    fn every_link_leads_to_a_place_that_is_there() {
        let pages = DOCUMENTS.map(|(path, _)| (path, html(path).unwrap()));
        let mut followed = 0;
        for (path, page) in &pages {
            for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let Some((to, place)) = link.split_once('#').filter(|(to, _)| !to.starts_with("https://")) else {
                    continue;
                };
                let to = if to.is_empty() { path } else { to.trim_start_matches("../") };
                let there = pages.iter().find(|(known, _)| *known == to || known.strip_prefix("docs/") == Some(to));
                let there = &there.unwrap_or_else(|| panic!("{path}: {link}")).1;
                assert!(there.contains(&format!(" id=\"{place}\"")), "{path}: {link}");
                followed += 1;
            }
        }
        assert!(followed > 100, "{followed} links");
    }

    #[test]
    fn every_document_has_a_title_and_no_inline_style_or_picture() {
        for (path, _) in DOCUMENTS {
            let html = html(path).unwrap();
            assert!(html.contains("<h1") && !html.contains("style=") && !html.contains("<img src=\"docs"), "{path}");
        }
        assert_eq!(html("docs/../README.md"), None);
    }

    /// Those for people who change the program are left out.
    #[test]
    fn every_document_for_operators_is_served() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let mut all: Vec<_> = std::fs::read_dir(docs)
            .unwrap()
            .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()))
            .filter(|path| path.ends_with(".md"))
            .collect();
        all.retain(|path| !["architecture", "contributing", "performance"].iter().any(|it| path.contains(it)));
        let missing: Vec<_> = all.iter().filter(|path| !DOCUMENTS.iter().any(|(known, _)| known == path)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
