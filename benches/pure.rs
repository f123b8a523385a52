//! The hot parts that touch no network: names, plans, archives, encryption. `cargo bench --bench pure`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so by panicking")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::SystemTime;

use age::x25519::{Identity, Recipient};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use git_partition_sync_producer::artifact::archive::{self, Contents, Pack};
use git_partition_sync_producer::artifact::encrypt;
use git_partition_sync_producer::files::CheckedFile;
use git_partition_sync_producer::model::key::HeldObject;
use git_partition_sync_producer::model::key::{self, ArchiveFormat, CommitId, Destination};
use git_partition_sync_producer::model::target::Head;
use git_partition_sync_producer::model::target::{Source, Target};
use git_partition_sync_producer::plan::{Crossing, Desired, FormatChoice, MaxRetire, OnRewrite, Policy, plan};

const COMMIT: CommitId = CommitId::from_bytes([7; 20]);
const PACK_BYTES: usize = 64 << 20;

fn destination(n: usize) -> Destination {
    Destination { group: "far/platform/tools".into(), project: format!("project-{n}"), branch: "main".into() }
}

fn keys(c: &mut Criterion) {
    let destination = destination(1);
    let key = key::encode(&destination, COMMIT, ArchiveFormat::Zip).unwrap();
    c.bench_function("key/encode", |b| b.iter(|| key::encode(black_box(&destination), COMMIT, ArchiveFormat::Zip)));
    c.bench_function("key/decode", |b| b.iter(|| key::decode(black_box(&key))));
}

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10);
    for objects in [10_000, 100_000] {
        let target = |n| Target {
            source: Source { project: format!("near/{n}"), branch: "main".into() },
            destination: destination(n),
        };
        let desired =
            Desired { targets: (0..objects).map(|n| (target(n), Head::At(COMMIT))).collect(), refused: vec![] };
        let object = |n| {
            let key = key::encode(&destination(n), COMMIT, ArchiveFormat::Zip).unwrap();
            HeldObject { name: key::decode(&key).unwrap(), key, last_modified: SystemTime::UNIX_EPOCH, bytes: 1 }
        };
        let held: Vec<_> = (0..objects).map(object).collect();
        let policy = Policy {
            format: FormatChoice::Auto,
            max_retire: MaxRetire::Percent(50),
            on_rewrite: OnRewrite::Publish,
            republish: &BTreeSet::new(),
            crossing: Crossing::Whole,
            max_increments: NonZeroUsize::MIN,
        };
        group.throughput(Throughput::Elements(objects as u64));
        group.bench_function(objects.to_string(), |b| b.iter(|| plan(&desired, &held, policy)));
    }
}

fn archives(c: &mut Criterion) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = vec![0x5a; PACK_BYTES];
    file.write_all(&bytes).unwrap();
    let checked = CheckedFile { path: file.path().to_owned(), len: PACK_BYTES as u64, crc32: crc32fast::hash(&bytes) };
    let contents = || {
        let index = CheckedFile { path: "/dev/null".into(), len: 0, crc32: 0 };
        let pack = Pack { name: format!("pack-{COMMIT}"), data: checked.clone(), index: Box::new(move || Ok(index)) };
        Contents { branch: "main".into(), commit: COMMIT, manifest: None, packs: vec![pack] }
    };
    let recipients: [Recipient; 1] = [Identity::generate().to_public()];
    let mut group = c.benchmark_group("stream");
    group.sample_size(10).throughput(Throughput::Bytes(PACK_BYTES as u64));
    for format in ArchiveFormat::ALL {
        group.bench_function(format!("archive/{format}"), |b| {
            b.iter_batched(contents, |contents| archive::write(format, contents, io::sink()), BatchSize::PerIteration)
        });
        group.bench_function(format!("archive and encrypt/{format}"), |b| {
            b.iter_batched(
                contents,
                |contents| {
                    let sealer = encrypt::encrypting(&recipients, io::sink()).unwrap();
                    archive::write(format, contents, sealer).unwrap().finish().unwrap();
                },
                BatchSize::PerIteration,
            )
        });
    }
}

criterion_group!(benches, keys, plans, archives);
criterion_main!(benches);
