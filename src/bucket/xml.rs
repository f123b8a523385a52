//! Whether a document is well-formed XML, to its end.
//!
//! The AWS SDK stops silently where XML breaks, and would take the rest as absent.
//! Invariant: every cut of a document is a flaw.

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It ends before its root element does.
    CutOff,
    /// It is not XML.
    Malformed,
}

/// Checks the whole document, and returns the name of its root element.
pub(super) fn root(document: &[u8]) -> Result<&str, Flaw> {
    let text = std::str::from_utf8(document)
        .map_err(|error| if error.error_len().is_none() { Flaw::CutOff } else { Flaw::Malformed })?;
    if holds_forbidden_character(text) {
        return Err(Flaw::Malformed);
    }
    // Documents are long and have many short texts, so this is searched for once.
    let ends_cdata = text.contains("]]>");
    let (mut root, mut open, mut rest) = (None, Vec::new(), text.trim_start_matches('\u{feff}'));
    loop {
        let (before, markup) = match rest.split_once('<') {
            Some((before, markup)) => (before, Some(markup)),
            None => (rest, None),
        };
        // Text belongs into an element, and cannot hold the end of a CDATA section.
        if (open.is_empty() && !before.trim().is_empty()) || (ends_cdata && before.contains("]]>")) {
            return Err(Flaw::Malformed);
        }
        let Some(markup) = markup else { break };
        rest = match special(markup)? {
            Some((after, is_text)) if !is_text || !open.is_empty() => after,
            Some(_) => return Err(Flaw::Malformed),
            None => {
                let (tag, after) = split_tag(markup)?;
                if root.is_some() && open.is_empty() {
                    return Err(Flaw::Malformed);
                }
                follow(tag, &mut open)?;
                root = root.or_else(|| tag.split(|c: char| c.is_whitespace() || c == '/').next());
                after
            }
        };
    }
    root.filter(|_| open.is_empty()).ok_or(Flaw::CutOff)
}

/// Whether it holds a character that XML forbids.
fn holds_forbidden_character(text: &str) -> bool {
    let is_control = |byte: u8| byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    // All bytes, without an early end: that is much faster.
    text.bytes().fold(false, |found, byte| found | is_control(byte))
        || (!text.is_ascii() && text.contains(['\u{fffe}', '\u{ffff}']))
}

/// What follows a comment, a declaration or a CDATA section, and whether it is text; `None` for a tag.
fn special(markup: &str) -> Result<Option<(&str, bool)>, Flaw> {
    if markup.starts_with(|c| !matches!(c, '!' | '?')) {
        return Ok(None);
    }
    for (start, end, is_text) in [("!--", "--", false), ("?", "?>", false), ("![CDATA[", "]]>", true)] {
        let Some(content) = markup.strip_prefix(start) else { continue };
        let (_, after) = content.split_once(end).ok_or(Flaw::CutOff)?;
        // Two hyphens end a comment, and nothing else can follow them in it.
        let after = match start {
            "!--" if after.is_empty() => return Err(Flaw::CutOff),
            "!--" => after.strip_prefix('>').ok_or(Flaw::Malformed)?,
            _ => after,
        };
        return Ok(Some((after, is_text)));
    }
    let starts = ["!--", "![CDATA["];
    match markup {
        _ if starts.iter().any(|start| start.starts_with(markup)) => Err(Flaw::CutOff),
        _ if markup.starts_with('!') => Err(Flaw::Malformed),
        _ => Ok(None),
    }
}

/// Splits at the end of a tag. A `>` in quotes does not end it.
fn split_tag(markup: &str) -> Result<(&str, &str), Flaw> {
    let mut quote = None;
    for (at, byte) in markup.bytes().enumerate() {
        match (byte, quote) {
            (b'>', None) => return Ok((&markup[..at], &markup[at + 1..])),
            (b'<', _) => return Err(Flaw::Malformed),
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open => quote = None,
            _ => {}
        }
    }
    Err(Flaw::CutOff)
}

/// Opens or closes an element.
fn follow<'a>(tag: &'a str, open: &mut Vec<&'a str>) -> Result<(), Flaw> {
    if let Some(name) = tag.strip_prefix('/') {
        return if open.pop() == Some(name.trim_end()) { Ok(()) } else { Err(Flaw::Malformed) };
    }
    // Nearly all tags are a name alone.
    if is_name(tag) {
        open.push(tag);
        return Ok(());
    }
    let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
    let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
    if !is_name(name) || !are_attributes(attributes) {
        return Err(Flaw::Malformed);
    }
    if !is_empty {
        open.push(name);
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    // Nearly all are such.
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return true;
    }
    let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | ':');
    name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_alphanumeric() || matches!(c, '-' | '.'))
}

fn are_attributes(mut text: &str) -> bool {
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return true;
        }
        let Some((name, value)) = text.split_once('=') else { return false };
        let value = value.trim_start();
        let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.split_once(quote));
        match quoted {
            Some((_, after)) if is_name(name.trim_end()) && !after.starts_with(is_name_part) => text = after,
            _ => return false,
        }
    }
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_document_has_a_root() {
        for (whole, name) in [
            ("<a></a>", "a"),
            ("<?xml version=\"1.0\"?>\n<a x=\"1\"><b/></a>\n", "a"),
            ("\u{feff}<?xml version=\"1.0\"?><s3:a xmlns:s3=\"x\"><b></b></s3:a >", "s3:a"),
            ("<a/>", "a"),
            ("<a x=\"1>\" y='\"' />", "a"),
            ("<a><!-- a > b < c --><![CDATA[</a>]]>text &amp; > more</a><!-- served by node 3 -->", "a"),
        ] {
            assert_eq!(root(whole.as_bytes()), Ok(name), "{whole}");
        }
    }

    #[test]
    fn what_the_sdk_would_stop_at_is_malformed() {
        for broken in [
            "<a><b></a>",
            "<a></b></a>",
            "<a></a><a></a>",
            "<a></a>text",
            "text<a></a>",
            "nothing",
            "<a><b c></b></a>",
            "<a><b c=d></b></a>",
            "<a><b c=\"d\"e=\"f\"></b></a>",
            "<a><1></1></a>",
            "<a>< b></b></a>",
            "<a><b <c></c></b></a>",
            "<a>]]></a>",
            "<a>\u{1b}</a>",
            "<a><!-- a -- b --></a>",
            "<![CDATA[<a></a>]]>",
            "<!DOCTYPE html><html><br></html>",
            "<a></ a>",
        ] {
            assert_eq!(root(broken.as_bytes()), Err(Flaw::Malformed), "{broken}");
        }
        assert_eq!(root(b"<a>\xff</a>"), Err(Flaw::Malformed));
    }

    #[test]
    fn every_cut_of_a_document_is_cut_off() {
        let document =
            "<?xml version=\"1.0\"?>\n<List x='y'><!-- c --><Name>ü</Name><C><Key><![CDATA[k]]></Key><E/></C></List>";
        for length in 0..document.len() {
            assert_eq!(root(&document.as_bytes()[..length]), Err(Flaw::CutOff), "{length}");
        }
        assert_eq!(root(document.as_bytes()), Ok("List"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>) {
            let _ = root(&bytes);
        }

        #[test]
        fn any_tags_are_judged(text in "[<>/!?\\[\\]\"'= a-c-]{0,40}") {
            let _ = root(text.as_bytes());
        }
    }
}
