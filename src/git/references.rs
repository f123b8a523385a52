//! What an object refers to, for the checks that a history is complete.
//!
//! Invariant: every reference of a well-formed object is visited, except submodules' commits: those belong to other
//! repositories.

use gix_hash::ObjectId;
use gix_object::{Kind, TreeRefIter};

/// An object of this kind does not parse.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) Kind);

/// Calls `visit` with each object that this one refers to, and the kind it is expected to be, if that is known.
pub(super) fn each_reference<E: From<Malformed>>(
    kind: Kind,
    content: &[u8],
    mut visit: impl FnMut(Option<Kind>, &[u8; 20]) -> Result<(), E>,
) -> Result<(), E> {
    let malformed = || Malformed(kind);
    match kind {
        Kind::Blob => Ok(()),
        Kind::Tree => {
            for entry in TreeRefIter::from_bytes(content, gix_hash::Kind::Sha1) {
                let entry = entry.map_err(|_| malformed())?;
                if !entry.mode.is_commit() {
                    let kind = if entry.mode.is_tree() { Kind::Tree } else { Kind::Blob };
                    visit(Some(kind), entry.oid.as_bytes().try_into().map_err(|_| malformed())?)?;
                }
            }
            Ok(())
        }
        Kind::Commit => {
            let (tree, mut rest) = id_line(content, b"tree ").ok_or_else(malformed)?;
            visit(Some(Kind::Tree), &tree)?;
            while let Some((parent, after)) = id_line(rest, b"parent ") {
                visit(Some(Kind::Commit), &parent)?;
                rest = after;
            }
            // A malformed parent line would hide a parent.
            if rest.starts_with(b"parent ") { Err(malformed().into()) } else { Ok(()) }
        }
        Kind::Tag => {
            let (object, rest) = id_line(content, b"object ").ok_or_else(malformed)?;
            let line = rest.strip_prefix(b"type ").and_then(|rest| rest.split(|&byte| byte == b'\n').next());
            visit(line.and_then(|kind| Kind::from_bytes(kind).ok()), &object)
        }
    }
}

/// The id in the line that `content` begins with, and what follows the line.
fn id_line<'a>(content: &'a [u8], word: &[u8]) -> Option<([u8; 20], &'a [u8])> {
    let (digits, rest) = content.strip_prefix(word)?.split_at_checked(2 * 20)?;
    let id = ObjectId::from_hex(digits).ok()?.as_slice().try_into().ok()?;
    Some((id, rest.strip_prefix(b"\n")?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    /// What an object refers to, in its order.
    fn named(kind: Kind, content: &[u8]) -> Result<Vec<(Option<Kind>, u8)>, Kind> {
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
        ];
        let expected = [
            (Some(Kind::Blob), 1),
            (Some(Kind::Blob), 2),
            (Some(Kind::Blob), 3),
            (Some(Kind::Tree), 5),
            (Some(Kind::Tree), 6),
            (Some(Kind::Blob), 7),
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
            [(Some(Kind::Tree), 10), (Some(Kind::Commit), 11), (Some(Kind::Commit), 12)]
        );
        assert_eq!(named(Kind::Commit, format!("tree {a}\n").as_bytes()).unwrap(), [(Some(Kind::Tree), 10)]);
        let tag = format!("object {c}\ntype commit\ntag v1\n");
        assert_eq!(named(Kind::Tag, tag.as_bytes()).unwrap(), [(Some(Kind::Commit), 12)]);
        assert_eq!(named(Kind::Tag, format!("object {c}\n").as_bytes()).unwrap(), [(None, 12)]);
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
        assert!(named(Kind::Tag, b"").unwrap_err() == Kind::Tag);
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
