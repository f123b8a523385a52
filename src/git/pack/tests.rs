//! Packs of random trees of deltas: what is found in them, and what is held while they are decoded.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_object::Kind;
use gix_pack::data;
use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::entries::Entries;
use super::resolve::{find_ids, granted, plan, reserve_table};
use super::table::Table;
use super::walk::{Content, Plan, Walk};
use super::*;
use crate::git::fixture::{git, git_with_input};
use crate::memory::MemoryBudget;
use std::thread::available_parallelism;

/// An object of a test's pack.
#[derive(Debug, Clone)]
struct Object {
    /// The object before this one that it is a delta on.
    base: Option<usize>,
    /// Its content has this many bytes, at least 8.
    size: usize,
    /// The delta names its base by id.
    by_id: bool,
}

/// Trees of deltas in random order of sizes.
fn objects(by_id: bool) -> impl Strategy<Value = Vec<Object>> {
    let object = (any::<prop::sample::Index>(), 0..4_u8, 8_usize..5_000, prop::bool::weighted(0.3));
    prop::collection::vec(object, 1..40).prop_map(move |drawn| {
        let objects = drawn.into_iter().enumerate().map(|(at, (base, root, size, named))| Object {
            base: (at > 0 && root > 0).then(|| base.index(at)),
            size,
            by_id: by_id && named,
        });
        objects.collect()
    })
}

/// The pack, and each object's content. With `reversed`, deltas that name their bases by id come first.
fn pack_of(objects: &[Object]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let contents: Vec<Vec<u8>> = objects
        .iter()
        .enumerate()
        .map(|(at, object)| {
            (at as u64).to_be_bytes().into_iter().chain(std::iter::repeat_n(b'x', object.size - 8)).collect()
        })
        .collect();
    let mut pack = [b"PACK\0\0\0\x02".as_slice(), &(objects.len() as u32).to_be_bytes()].concat();
    let mut offsets = vec![];
    for (at, object) in objects.iter().enumerate() {
        offsets.push(pack.len() as u64);
        let offset = pack.len() as u64;
        let (header, content) = match object.base {
            None => (data::entry::Header::Blob, contents[at].clone()),
            Some(base) => {
                let delta = delta_between(contents[base].len(), &contents[at]);
                let header = match object.by_id {
                    true => {
                        data::entry::Header::RefDelta { base_id: gix_hash::ObjectId::from(blob_id(&contents[base])) }
                    }
                    false => data::entry::Header::OfsDelta { base_distance: offset - offsets[base] },
                };
                (header, delta)
            }
        };
        header.write_to(content.len() as u64, &mut pack).unwrap();
        let mut deflated = ZlibEncoder::new(&mut pack, Compression::fast());
        deflated.write_all(&content).unwrap();
        deflated.finish().unwrap();
    }
    let trailer = Sha1::digest(&pack);
    pack.extend_from_slice(&trailer);
    (pack, contents)
}

/// Copies what both have in common, the `x`, and inserts the rest.
fn delta_between(base: usize, target: &[u8]) -> Vec<u8> {
    let number = |mut number: usize| {
        let mut bytes = vec![];
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let mut delta = [number(base), number(target.len()), [&[8], &target[..8]].concat()].concat();
    let same = (base - 8).min(target.len() - 8);
    if same > 0 {
        // From offset 8, with a length of three bytes.
        delta.extend([0x80 | 0x01 | 0x10 | 0x20 | 0x40, 8, same as u8, (same >> 8) as u8, (same >> 16) as u8]);
    }
    for inserted in target[8 + same..].chunks(0x7f) {
        delta.push(inserted.len() as u8);
        delta.extend_from_slice(inserted);
    }
    delta
}

fn blob_id(content: &[u8]) -> [u8; 20] {
    gix_object::compute_hash(HASH, Kind::Blob, content).unwrap().as_slice().try_into().unwrap()
}

/// The table of a pack, and its file.
fn table_of(pack: &[u8], dir: &Path) -> (Table, data::File) {
    let path = dir.join("test.pack");
    fs::write(&path, pack).unwrap();
    let entries = Entries::new(pack).unwrap();
    let mut table = Table::new(entries.objects()).unwrap();
    entries.read_into(&mut table).unwrap();
    (table, data::File::at(&path, HASH).unwrap())
}

/// The most that was held at a time, in KiB as the table counts: an object is held from its own visit to that of the last
/// object that is based on it.
fn peak_kib(objects: &[Object], order: &[usize]) -> u64 {
    let kib = |object: usize| objects[object].size as u64 / 1024 + 1;
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    objects.iter().filter_map(|object| object.base).for_each(|base| *waiting.entry(base).or_default() += 1);
    let (mut held, mut peak) = (0, 0);
    for &object in order {
        held += kib(object);
        peak = peak.max(held);
        let mut done = vec![];
        if let Some(base) = objects[object].base {
            *waiting.get_mut(&base).unwrap() -= 1;
            done.push(base);
        }
        done.push(object);
        for object in done {
            if waiting.get(&object).is_none_or(|left| *left == 0) {
                held -= kib(object);
            }
        }
    }
    assert_eq!(held, 0);
    peak
}

/// The least that any order of depth-first decoding holds: all that matters is which child comes last.
fn least_kib(objects: &[Object], object: usize) -> u64 {
    let kib = |object: usize| objects[object].size as u64 / 1024 + 1;
    let children: Vec<usize> = (0..objects.len()).filter(|child| objects[*child].base == Some(object)).collect();
    let needs: Vec<u64> = children.iter().map(|child| least_kib(objects, *child)).collect();
    let with_last = |last: usize| {
        let others = (0..children.len()).filter(|at| *at != last).map(|at| kib(object) + needs[at]);
        others.max().unwrap_or(0).max(kib(object) + kib(children[last])).max(needs[last])
    };
    (0..children.len()).map(with_last).min().unwrap_or(0).max(kib(object))
}

/// The order in which a walk visits the objects.
fn order_of(table: &Table, pack: &data::File, threads: usize) -> Vec<usize> {
    let order = Mutex::new(vec![]);
    let plan = Plan { threads, thread_bytes: u64::MAX, bytes: 0, budget_bytes: u64::MAX };
    let walk = Walk { pack, table, plan, interrupt: &AtomicBool::new(false) };
    let visited = walk.visit(
        |_| true,
        |object, kind, content: Content<'_>| {
            order.lock().unwrap().push(object as usize);
            content.id(kind)
        },
    );
    let order = order.into_inner().unwrap();
    assert_eq!(visited.unwrap() as usize, order.len());
    order
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_table_knows_what_the_walk_will_hold(objects in objects(false)) {
        let dir = tempfile::tempdir().unwrap();
        let (pack, _) = pack_of(&objects);
        let (table, file) = table_of(&pack, dir.path());
        let roots = (0..objects.len()).filter(|object| objects[*object].base.is_none());
        let least = roots.map(|root| least_kib(&objects, root)).max().unwrap();
        prop_assert_eq!(table.need_bytes(), least * 1024, "no order needs less");
        prop_assert_eq!(peak_kib(&objects, &order_of(&table, &file, 1)), least, "and this walk does not need more");
        let mut order = order_of(&table, &file, 3);
        prop_assert!(peak_kib(&objects, &order) <= 3 * least);
        order.sort_unstable();
        prop_assert_eq!(order, (0..objects.len()).collect::<Vec<_>>(), "each object once");
    }

    #[test]
    fn an_index_is_the_one_that_git_makes(objects in objects(true), later in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut pack, _) = pack_of(&objects);
        if later {
            pack = bases_last(&pack, &objects);
        }
        git(dir.path(), &["init", "-q", "--bare", "."]);
        // `--strict` is not asked for: the blobs belong to no tree.
        git_with_input(dir.path(), &["index-pack", "-o", "git.idx", "--stdin", "git.pack"], &pack);
        let memory = MemoryBudget::new(Some(1 << 30));
        let (turns, interrupt) = (IndexTurns::default(), AtomicBool::new(false));
        let limits = ReceiveLimits { pack_bytes: 1 << 30, interrupt: &interrupt, memory: &memory, turns: &turns };
        let ours = tempfile::tempdir().unwrap();
        let (_, index) = receive(&pack[..], ours.path(), &limits, drop).unwrap();
        let [ours, theirs] = [index.path, dir.path().join("git.idx")].map(|path| fs::read(path).unwrap());
        prop_assert_eq!(ours, theirs);
    }
}

/// The same pack with its entries turned round; deltas must name their bases by id for that.
fn bases_last(pack: &[u8], objects: &[Object]) -> Vec<u8> {
    if objects.iter().any(|object| object.base.is_some() && !object.by_id) {
        return pack.to_owned();
    }
    let (table, _) = table_of(pack, tempfile::tempdir().unwrap().path());
    let mut turned = pack[..12].to_owned();
    for object in (0..table.len()).rev() {
        let range = table.range(object);
        turned.extend_from_slice(&pack[range.start as usize..range.end as usize]);
    }
    let trailer = Sha1::digest(&turned);
    turned.extend_from_slice(&trailer);
    turned
}

/// A base with a chain of `depth` deltas, each with one more delta beside it.
fn bush(depth: usize, size: usize) -> Vec<Object> {
    let mut objects = vec![Object { base: None, size, by_id: false }];
    let mut base = 0;
    for _ in 0..depth {
        objects
            .extend([Object { base: Some(base), size, by_id: false }, Object { base: Some(base), size, by_id: false }]);
        base = objects.len() - 1;
    }
    objects
}

#[test]
fn a_deep_bush_of_deltas_takes_no_more_than_two_of_its_objects_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let objects = bush(60, 4_096);
    let (table, file) = table_of(&pack_of(&objects).0, dir.path());
    assert_eq!(table.need_bytes(), 2 * 5 * 1024);
    assert_eq!(peak_kib(&objects, &order_of(&table, &file, 1)), 2 * 5);
}

/// What becomes of a pack under this budget.
fn received_within(pack: &[u8], budget: u64) -> Result<(), PackError> {
    let (memory, turns) = (MemoryBudget::new(Some(budget)), IndexTurns::default());
    let interrupt = AtomicBool::new(false);
    let limits = ReceiveLimits { pack_bytes: 1 << 30, interrupt: &interrupt, memory: &memory, turns: &turns };
    let dir = tempfile::tempdir().unwrap();
    let received = receive(pack, dir.path(), &limits, drop).map(drop);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), if received.is_ok() { 2 } else { 0 });
    received
}

#[test]
fn a_pack_of_too_many_objects_is_refused_by_its_header() {
    // Not one byte of an entry follows.
    let header = [b"PACK\0\0\0\x02".as_slice(), &5_000_000_u32.to_be_bytes()].concat();
    match received_within(&header, 100 << 20) {
        Err(PackError::Memory(Shortage::Objects { objects: 5_000_000, needed: 285_000_000, budget })) => {
            assert_eq!(budget, 100 << 20);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(received_within(&header, 300 << 20), Err(PackError::Damaged(_))), "it is read");
}

#[test]
fn deltas_that_take_too_much_memory_are_refused_before_they_are_decoded() {
    // A complete binary tree is the worst: each level is held.
    let mut objects = vec![Object { base: None, size: 3_000_000, by_id: false }];
    objects.extend((1..31).map(|at| Object { base: Some((at - 1) / 2), size: 3_000_000, by_id: false }));
    let (pack, _) = pack_of(&objects);
    let (table, _) = table_of(&pack, tempfile::tempdir().unwrap().path());
    assert_eq!(table.need_bytes(), 5 * 2_930 * 1024, "one for each level");
    let needed = table.need_bytes() + table.longest_instructions() + walk::THREAD_BYTES;
    received_within(&pack, needed + 31 * 57).unwrap();
    match received_within(&pack, needed + 31 * 57 - 1) {
        Err(PackError::Memory(Shortage::Deltas { needed: told, .. })) => assert_eq!(told, needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn deltas_that_name_their_bases_by_id_are_counted_while_they_are_found() {
    // A chain in which each base has one more delta: how deep it is shows only on the way.
    let by_id = |objects: Vec<Object>| -> Vec<Object> {
        objects.into_iter().map(|object| Object { by_id: object.base.is_some(), ..object }).collect()
    };
    let (pack, _) = pack_of(&by_id(bush(60, 400_000)));
    received_within(&pack, 80 << 20).unwrap();
    let refused = received_within(&pack, 16 << 20);
    assert!(matches!(refused, Err(PackError::Memory(Shortage::Deltas { .. }))), "{refused:?}");
}

#[test]
fn threads_are_as_many_as_the_memory_allows() {
    let objects: Vec<_> =
        (0..2_500).map(|at| Object { base: (at > 0).then(|| (at - 1) / 2), size: 8, by_id: false }).collect();
    let (mut table, file) = table_of(&pack_of(&objects).0, tempfile::tempdir().unwrap().path());
    let interrupt = AtomicBool::new(false);
    for (budget, expected) in [(1 << 30, available_parallelism().unwrap().get()), (16 << 20, 1)] {
        let memory = MemoryBudget::new(Some(budget));
        let (_, mut share) = reserve_table(&memory, 2_500, 0, &interrupt).unwrap();
        let plan = plan(&table, &memory);
        assert!(granted(plan, &mut share, &interrupt).unwrap());
        assert_eq!(plan.threads, expected);
        assert!(find_ids(&mut table, &file, plan, &interrupt).unwrap());
    }
}

#[test]
fn two_packs_that_need_more_than_half_of_the_memory_each_are_both_taken() {
    // Each needs 15 of 24 MiB for its buffers, so together they would wait for each other.
    let mut objects = vec![Object { base: None, size: 2_500_000, by_id: false }];
    objects.extend((1..15).map(|at| Object { base: Some((at - 1) / 2), size: 2_500_000, by_id: false }));
    let (pack, _) = pack_of(&objects);
    let (memory, turns, interrupt) = (MemoryBudget::new(Some(24 << 20)), IndexTurns::default(), AtomicBool::new(false));
    let limits = ReceiveLimits { pack_bytes: 1 << 30, interrupt: &interrupt, memory: &memory, turns: &turns };
    let needed = plan(&table_of(&pack, tempfile::tempdir().unwrap().path()).0, &memory).bytes;
    assert!(needed > memory.common_bytes() && needed < memory.bytes(), "{needed}");
    for _ in 0..5 {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| receive(&pack[..], tempfile::tempdir().unwrap().path(), &limits, drop).unwrap());
            }
        });
    }
}
