//! Packs that Git does not make.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_object::Kind;
use gix_pack::data::entry::Header;

use super::*;
use crate::git::pack::HASH;

fn blob_id(content: &str) -> ObjectId {
    gix_object::compute_hash(HASH, Kind::Blob, content.as_bytes()).unwrap()
}

/// A pack of these entries.
fn pack_of(entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut pack = [b"PACK\0\0\0\x02".as_slice(), &(entries.len() as u32).to_be_bytes()].concat();
    for (header, content) in entries {
        header.write_to(content.len() as u64, &mut pack).unwrap();
        let mut deflated = ZlibEncoder::new(&mut pack, Compression::fast());
        deflated.write_all(content).unwrap();
        deflated.finish().unwrap();
    }
    sealed(pack)
}

/// `target` as a delta on `base`, which inserts everything.
fn on(base: &str, target: &str) -> (Header, Vec<u8>) {
    let number = |number: usize| [number as u8 | 0x80, (number >> 7) as u8];
    let mut delta = [number(base.len()), number(target.len())].concat();
    for inserted in target.as_bytes().chunks(0x7f) {
        delta.push(inserted.len() as u8);
        delta.extend_from_slice(inserted);
    }
    (Header::RefDelta { base_id: blob_id(base) }, delta)
}

fn whole(content: &str) -> (Header, Vec<u8>) {
    (Header::Blob, content.as_bytes().to_vec())
}

#[test]
fn an_object_is_not_added_that_the_pack_has_itself() {
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| text(3, seed));
    let kept = || Kept::with(&pack_of(&[whole(&a), whole(&b), whole(&c)]));
    let ids = |contents: &[&String]| -> Vec<_> { contents.iter().map(|it| blob_id(it).to_string()).collect() };
    // All bases are unknown at first, and two of them follow from the third.
    let mut chain = kept();
    chain.take(&pack_of(&[on(&c, &d), on(&b, &c), on(&a, &b)])).unwrap();
    assert_eq!(chain.ids(1), ids(&[&d, &c, &b, &a]));
    // Based on each other, they follow from nothing.
    let circle = kept().take(&pack_of(&[on(&b, &a), on(&a, &b)])).unwrap_err();
    assert!(matches!(circle, PackError::Damaged(_)), "{circle:?}");
    let itself = kept().take(&pack_of(&[on(&a, &a)])).unwrap_err();
    assert!(matches!(itself, PackError::Damaged(_)), "{itself:?}");
}

#[test]
fn many_deltas_on_one_object_need_it_once() {
    let base = text(100, 1);
    let others: Vec<_> = (2..30).map(|seed| text(3, seed)).collect();
    let mut kept = Kept::with(&pack_of(&[whole(&base)]));
    kept.take(&pack_of(&others.iter().map(|other| on(&base, other)).collect::<Vec<_>>())).unwrap();
    assert_eq!(kept.ids(1).len(), others.len() + 1);
}

#[test]
fn packs_that_have_the_same_objects_are_joined_to_one_that_has_them_once() {
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| text(30, seed));
    let mut kept = Kept::with(&pack_of(&[whole(&a)]));
    kept.take(&pack_of(&[on(&a, &b)])).unwrap();
    kept.take(&pack_of(&[on(&b, &c), whole(&d)])).unwrap();
    kept.take(&pack_of(&[on(&d, &a), on(&c, &b)])).unwrap();
    kept.join(1..4);
    let expected: Vec<_> = [&b, &a, &c, &d].iter().map(|content| blob_id(content).to_string()).collect();
    assert_eq!(kept.ids(1), expected);
}

#[test]
fn deltas_of_joined_packs_do_not_become_deeper_and_deeper() {
    let texts: Vec<_> = (0..2_100).map(|seed| text(1, seed)).collect();
    let mut kept = Kept::with(&pack_of(&[whole("first")]));
    kept.take(&pack_of(&[whole(&texts[0])])).unwrap();
    // Each is a delta on the one before, in packs that come one after the other.
    for texts in texts.windows(2).collect::<Vec<_>>().chunks(300) {
        kept.take(&pack_of(&texts.iter().map(|two| on(&two[0], &two[1])).collect::<Vec<_>>())).unwrap();
    }
    let count = kept.packs.len();
    kept.join(1..count);
    assert_eq!(kept.ids(1), texts.iter().map(|text| blob_id(text).to_string()).collect::<Vec<_>>());
    let listed = git(kept.dir(), &["verify-pack", "-v", kept.packs[1].to_str().unwrap()]);
    let depths =
        listed.lines().filter_map(|line| line.strip_prefix("chain length = ")?.split(':').next()?.parse().ok());
    assert_eq!(depths.max(), Some(1_000_u32));
    assert!(listed.contains("\nnon delta: 3 objects\n"), "{listed}");
}
