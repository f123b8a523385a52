//! What an object refers to, for the checks that a history is complete.
//!
//! Invariant: every reference of a well-formed object is visited, except submodules' commits: those belong to other
//! repositories.

use gix_hash::ObjectId;
use gix_object::Kind;

const ID_BYTES: usize = 20;

/// An object of this kind does not parse.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) Kind);

/// An entry of a tree.
pub(super) struct TreeEntry<'a> {
    /// `None` for a submodule's commit.
    pub(super) kind: Option<Kind>,
    pub(super) name: &'a [u8],
    pub(super) id: &'a [u8; ID_BYTES],
}

/// A tree's entries, read as Git reads them (`decode_tree_entry` and `canon_mode`).
pub(super) fn tree_entries(mut content: &[u8]) -> impl Iterator<Item = Result<TreeEntry<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if content.is_empty() {
            return None;
        }
        let entry = first_entry(content);
        content = entry.as_ref().map_or(&[], |(_, rest)| rest);
        Some(entry.map(|(entry, _)| entry).ok_or(Malformed(Kind::Tree)))
    })
}

fn first_entry(content: &[u8]) -> Option<(TreeEntry<'_>, &[u8])> {
    const TYPE: u16 = 0o170_000;
    let digits = content.iter().position(|&byte| byte == b' ').filter(|&digits| digits > 0)?;
    let mut mode = 0_u16;
    for digit in &content[..digits] {
        // Git keeps the last 16 bits, too.
        mode = mode << 3 | u16::from(digit.checked_sub(b'0').filter(|digit| *digit < 8)?);
    }
    let rest = &content[digits + 1..];
    let (name, rest) = rest.split_at(rest.iter().position(|&byte| byte == 0).filter(|&end| end > 0)?);
    let (id, rest) = rest[1..].split_first_chunk()?;
    let kind = match mode & TYPE {
        0o100_000 | 0o120_000 => Some(Kind::Blob),
        0o040_000 => Some(Kind::Tree),
        // Every other type, also an unknown one, is a submodule to Git.
        _ => None,
    };
    Some((TreeEntry { kind, name, id }, rest))
}

/// The tree of a commit.
pub(super) fn tree_of(commit: &[u8]) -> Result<[u8; ID_BYTES], Malformed> {
    id_line(commit, b"tree ").map(|(tree, _)| tree).ok_or(Malformed(Kind::Commit))
}

/// Calls `visit` with each object that this one refers to, and the kind it is expected to be.
pub(super) fn each_reference<E: From<Malformed>>(
    kind: Kind,
    content: &[u8],
    mut visit: impl FnMut(Kind, &[u8; ID_BYTES]) -> Result<(), E>,
) -> Result<(), E> {
    let malformed = || Malformed(kind);
    match kind {
        Kind::Blob => Ok(()),
        Kind::Tree => {
            for entry in tree_entries(content) {
                let TreeEntry { kind, id, .. } = entry?;
                kind.map_or(Ok(()), |kind| visit(kind, id))?;
            }
            Ok(())
        }
        Kind::Commit => {
            let (tree, mut rest) = id_line(content, b"tree ").ok_or_else(malformed)?;
            visit(Kind::Tree, &tree)?;
            while let Some((parent, after)) = id_line(rest, b"parent ") {
                visit(Kind::Commit, &parent)?;
                rest = after;
            }
            // A malformed parent line would hide a parent.
            if rest.starts_with(b"parent ") { Err(malformed().into()) } else { Ok(()) }
        }
        Kind::Tag => {
            let (object, rest) = id_line(content, b"object ").ok_or_else(malformed)?;
            let line = rest.strip_prefix(b"type ").and_then(|rest| rest.split(|&byte| byte == b'\n').next());
            visit(line.and_then(|kind| Kind::from_bytes(kind).ok()).ok_or_else(malformed)?, &object)
        }
    }
}

/// The id in the line that `content` begins with, and what follows the line.
fn id_line<'a>(content: &'a [u8], word: &[u8]) -> Option<([u8; ID_BYTES], &'a [u8])> {
    let (digits, rest) = content.strip_prefix(word)?.split_at_checked(2 * ID_BYTES)?;
    let id = ObjectId::from_hex(digits).ok()?.as_slice().try_into().ok()?;
    Some((id, rest.strip_prefix(b"\n")?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    /// What an object refers to, in its order.
    fn named(kind: Kind, content: &[u8]) -> Result<Vec<(Kind, u8)>, Kind> {
        let mut names = vec![];
        let outcome = each_reference(kind, content, |expected, id| {
            names.push((expected, id[0]));
            Ok(())
        });
        outcome.map(|()| names).map_err(|Malformed(kind)| kind)
    }

    fn entry(mode: &str, name: &str, id: u8) -> Vec<u8> {
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[id; 20]].concat()
    }

    #[test]
    fn a_tree_names_everything_but_the_commits_of_submodules() {
        let tree = [
            entry("100644", "a", 1),
            entry("100755", "b", 2),
            entry("120000", "c", 3),
            entry("160000", "d", 4),
            entry("40000", "e", 5),
            // As some old programs wrote them.
            entry("040000", "f", 6),
            entry("100664", "g", 7),
            entry("0000100644", "h", 8),
            // Git takes every type that it does not know for a submodule's.
            entry("0", "i", 9),
            entry("755", "j", 10),
            entry("20000", "k", 11),
            entry("60000", "l", 12),
            entry("140000", "m", 13),
            entry("170000", "n", 14),
            entry("10644", "o", 15),
        ];
        let expected = [
            (Kind::Blob, 1),
            (Kind::Blob, 2),
            (Kind::Blob, 3),
            (Kind::Tree, 5),
            (Kind::Tree, 6),
            (Kind::Blob, 7),
            (Kind::Blob, 8),
        ];
        assert_eq!(named(Kind::Tree, &tree.concat()).unwrap(), expected);
        assert_eq!(named(Kind::Tree, b"").unwrap(), []);
    }

    #[test]
    fn a_commit_names_its_tree_and_its_parents_and_a_tag_its_object() {
        let [a, b, c] = ["0a", "0b", "0c"].map(|digits| digits.repeat(20));
        let commit = format!("tree {a}\nparent {b}\nparent {c}\nauthor parent <p> 0 +0000\n\nparent {a}\n");
        assert_eq!(
            named(Kind::Commit, commit.as_bytes()).unwrap(),
            [(Kind::Tree, 10), (Kind::Commit, 11), (Kind::Commit, 12)]
        );
        assert_eq!(named(Kind::Commit, format!("tree {a}\n").as_bytes()).unwrap(), [(Kind::Tree, 10)]);
        let tag = format!("object {c}\ntype commit\ntag v1\n");
        assert_eq!(named(Kind::Tag, tag.as_bytes()).unwrap(), [(Kind::Commit, 12)]);
        assert_eq!(named(Kind::Blob, commit.as_bytes()).unwrap(), []);
    }

    #[test]
    fn a_malformed_object_is_damage() {
        let [id, short] = ["0a".repeat(20), "0a".repeat(19)];
        for commit in [
            String::new(),
            format!("tree {short}\n"),
            format!("tree {id}"),
            format!("tree {id}\nparent {short}\nauthor "),
        ] {
            assert!(named(Kind::Commit, commit.as_bytes()).unwrap_err() == Kind::Commit, "{commit}");
        }
        let tree = entry("100644", "a", 1);
        assert!(named(Kind::Tree, &tree[..tree.len() - 1]).unwrap_err() == Kind::Tree);
        for mode in ["", "8", "-100644", "10064a"] {
            assert!(named(Kind::Tree, &entry(mode, "a", 1)).unwrap_err() == Kind::Tree, "{mode}");
        }
        assert!(named(Kind::Tree, &entry("100644", "", 1)).unwrap_err() == Kind::Tree, "no name");
        for tag in [String::new(), format!("object {id}\n"), format!("object {id}\ntype nothing\n")] {
            assert!(named(Kind::Tag, tag.as_bytes()).unwrap_err() == Kind::Tag, "{tag}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_objects_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [Kind::Tree, Kind::Commit, Kind::Tag] {
                let _ = named(kind, &content);
            }
        }
    }
}
