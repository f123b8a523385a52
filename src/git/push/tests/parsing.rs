//! What is read from a server, byte by byte.

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use proptest::prelude::*;
use testbed::mutate::mutated;

use super::super::advertisement::{Advertisement, Capabilities};
use super::super::report::Report;
use super::odd::{ALL, advertisement, packet};
use super::*;

/// The packets of a body that arrives in pieces of this many bytes.
fn packets_of(body: &[u8], piece_bytes: usize) -> Packets {
    let pieces: Vec<_> =
        body.chunks(piece_bytes).map(Bytes::copy_from_slice).map(Frame::data).map(Ok::<_, io::Error>).collect();
    let body = reqwest::Body::wrap(StreamBody::new(stream::iter(pieces)));
    Packets::new(::http::Response::new(body).into())
}

fn advertised(body: &[u8], piece_bytes: usize) -> Result<Advertisement, WireError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let branches = ["main", "a/b"].into();
    runtime.block_on(Advertisement::read(packets_of(body, piece_bytes), &branches, IDLE))
}

fn reported(body: &[u8], piece_bytes: usize, side_band: bool) -> Result<Report, WireError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(Report::read(packets_of(body, piece_bytes), "main", side_band, IDLE))
}

fn lines(lines: &[&[u8]]) -> Vec<u8> {
    let lines: Vec<_> = lines.iter().map(|line| packet(line)).collect();
    [packet(b"# service=git-receive-pack\n"), b"0000".to_vec(), lines.concat(), b"0000".to_vec()].concat()
}

#[test]
fn an_advertisement_names_branches_among_other_things() {
    let [a, b] = ["0a", "0b"].map(|digits| digits.repeat(20));
    let body = lines(&[
        format!("{a} refs/heads/a/b\0{ALL}\n").as_bytes(),
        format!("{b} refs/heads/main").as_bytes(),
        format!("{b} refs/heads/main/other\n").as_bytes(),
        format!("{b} refs/tags/main\n").as_bytes(),
        format!("{b} refs/tags/main^{{}}\n").as_bytes(),
        format!("{a} .have\n").as_bytes(),
        b"\xff\xfe refs/heads/main\n",
        format!("shallow {a}\n").as_bytes(),
    ]);
    for piece_bytes in [1, 7, 10_000] {
        let read = advertised(&body, piece_bytes).unwrap();
        let heads = [("a/b".to_owned(), a.parse().unwrap()), ("main".to_owned(), b.parse().unwrap())];
        assert_eq!(read.heads, heads.into());
        let all = Capabilities { report_status: true, side_band: true, quiet: true, object_format: true, agent: true };
        assert_eq!(read.capabilities, all);
    }
}

#[test]
fn an_empty_repository_has_no_branches_but_capabilities() {
    let read = advertised(&advertisement("report-status"), 100).unwrap();
    assert_eq!(read.heads, BTreeMap::new());
    assert_eq!(read.capabilities, Capabilities { report_status: true, ..Capabilities::default() });
    assert_eq!(advertised(&lines(&[]), 100).unwrap(), Advertisement::default(), "as older servers say it");
}

#[test]
fn what_is_no_advertisement_is_an_error() {
    let id = "0a".repeat(20);
    for (why, body) in [
        ("another service", [packet(b"# service=git-upload-pack\n"), b"00000000".to_vec()].concat()),
        ("no service", packet(format!("{id} refs/heads/main\0{ALL}\n").as_bytes())),
        ("no flush", packet(b"# service=git-receive-pack\n")),
        ("no end", lines(&[format!("{id} refs/heads/main\0{ALL}\n").as_bytes()])[..60].to_vec()),
        ("nothing", vec![]),
        ("not packets", b"<html>".to_vec()),
        ("no id", lines(&[b"x refs/heads/main\0"])),
        ("a delimiter", [lines(&[]), b"0001".to_vec()].concat()[..35].iter().copied().chain(*b"0001").collect()),
    ] {
        assert!(advertised(&body, 100).is_err(), "{why}");
    }
    let sha256 = advertised(&advertisement("report-status object-format=sha256"), 100);
    assert!(matches!(sha256, Err(WireError::Sha256)), "{sha256:?}");
    let long = lines(&[format!("{} refs/heads/main\0{ALL}\n", "0a".repeat(32)).as_bytes()]);
    assert!(matches!(advertised(&long, 100), Err(WireError::Sha256)));
    let refused = lines(&[b"ERR access \x07denied\n"]);
    assert!(matches!(advertised(&refused, 100), Err(WireError::Remote(text)) if text == "access \\u{7}denied"));
}

#[test]
fn an_endless_advertisement_or_report_is_given_up() {
    let id = "0a".repeat(20);
    let line = packet(format!("{id} refs/heads/{}\n", "x".repeat(60_000)).as_bytes());
    let endless = [packet(b"# service=git-receive-pack\n"), b"0000".to_vec(), line.repeat(1_200)].concat();
    let read = advertised(&endless, 1 << 20);
    assert!(matches!(read, Err(WireError::Request(RequestError::TooLong { .. }))), "{read:?}");
    for side_band in [true, false] {
        let line = packet(format!("ng refs/heads/{}\n", "x".repeat(900)).as_bytes());
        let line = if side_band { packet(&[b"\x01".to_vec(), line].concat()) } else { line };
        let read = reported(&line.repeat(100), 1_000, side_band);
        assert!(matches!(read, Err(WireError::Request(RequestError::TooLong { .. }))), "{read:?}");
    }
    // A hook may talk as much as it likes.
    let talk = packet(&[b"\x02", &b"x".repeat(60_000)[..]].concat()).repeat(100);
    let end = [packet(&[b"\x01".to_vec(), packet(b"unpack ok\n")].concat()), b"0000".to_vec()].concat();
    reported(&[talk, end].concat(), 1 << 20, true).unwrap();
}

fn good_report() -> Vec<u8> {
    let report = [packet(b"unpack ok\n"), packet(b"ok refs/heads/main\n"), b"0000".to_vec()].concat();
    [packet(b"\x02words\n"), packet(&[b"\x01".to_vec(), report].concat()), b"0000".to_vec()].concat()
}

#[test]
fn a_damaged_report_is_not_taken_for_another_branch_s_or_worse() {
    let good = good_report();
    reported(&good, 9, true).unwrap().outcome().unwrap();
    let (mut taken, mut read) = (0, 0);
    for seed in 0..2_000 {
        let damaged = mutated(&good, seed);
        if let Ok(report) = reported(&damaged, 16 + usize::try_from(seed % 50).unwrap(), true) {
            read += 1;
            if report.outcome().is_ok() {
                taken += 1;
                let has = |words: &[u8]| damaged.windows(words.len()).any(|it| it == words);
                assert!(has(b"unpack ok") && has(b"ok refs/heads/main"), "seed {seed}");
            }
        }
    }
    assert!(taken > 0 && read > taken, "{taken} of {read}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_answers_never_panic(
        body in proptest::collection::vec(any::<u8>(), 0..400),
        after_start in any::<bool>(),
        piece_bytes in 1_usize..50,
    ) {
        let start = if after_start { lines(&[])[..35].to_vec() } else { vec![] };
        let _ = advertised(&[start, body.clone()].concat(), piece_bytes);
        for side_band in [true, false] {
            if let Ok(report) = reported(&body, piece_bytes, side_band) {
                prop_assert!(report.outcome().is_err());
            }
        }
    }

    #[test]
    fn arbitrary_lines_in_packets_never_panic(
        sent in proptest::collection::vec((0_u8..5, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        piece_bytes in 1_usize..50,
    ) {
        let body: Vec<u8> = sent.iter().flat_map(|(band, text)| packet(&[&[*band][..], text].concat())).collect();
        let _ = advertised(&[lines(&[])[..35].to_vec(), body.clone(), b"0000".to_vec()].concat(), piece_bytes);
        for side_band in [true, false] {
            let _ = reported(&[body.clone(), b"0000".to_vec()].concat(), piece_bytes, side_band).map(Report::outcome);
        }
    }
}
