//! Servers that answer in odd ways.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;

/// How much of a pack a server may take without reading it, in bytes: the buffers of both ends.
const BUFFERED_BYTES: u64 = 16 << 20;

type Script = Box<dyn FnOnce(&mut TcpStream, &str) + Send>;

/// A server that answers one connection after another as told. Each gets the head of the first request.
fn scripted(scripts: Vec<Script>) -> PushServer {
    scripted_with(IDLE, scripts)
}

fn scripted_with(idle: Duration, scripts: Vec<Script>) -> PushServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            script(&mut stream, &head);
        }
    });
    push_server(&base, "u", "p", idle)
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn content_length(head: &str) -> usize {
    head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap()
}

fn read_body(stream: &mut TcpStream, head: &str) -> Vec<u8> {
    let mut body = vec![0; content_length(head)];
    stream.read_exact(&mut body).unwrap();
    body
}

fn answer(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub(super) fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}

pub(super) const ALL: &str =
    "report-status delete-refs side-band-64k quiet ofs-delta object-format=sha1 agent=git/2.47";

/// What a server without branches says before a push.
pub(super) fn advertisement(capabilities: &str) -> Vec<u8> {
    let none = format!("{} capabilities^{{}}\0{capabilities}\n", "0".repeat(40));
    [packet(b"# service=git-receive-pack\n"), b"0000".to_vec(), packet(none.as_bytes()), b"0000".to_vec()].concat()
}

/// Answers the first request.
fn greets(capabilities: &'static str) -> Script {
    Box::new(move |stream, head| {
        assert!(head.starts_with("GET /g/p.git/info/refs?service=git-receive-pack HTTP/1.1\r\n"), "{head}");
        stream.write_all(&answer("200 OK", ADVERTISEMENT, &advertisement(capabilities))).unwrap();
    })
}

/// Reads the whole push and answers with this.
fn reports(body: Vec<u8>) -> Script {
    Box::new(move |stream, head| {
        read_body(stream, head);
        stream.write_all(&answer("200 OK", RESULT, &body)).unwrap();
    })
}

/// Answers with only the head of the request read, and closes the connection once the client has seen it.
fn interrupts(answer: Vec<u8>) -> Script {
    Box::new(move |stream, _| {
        stream.write_all(&answer).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        drop(io::copy(stream, &mut io::sink()));
    })
}

async fn push_to(server: &PushServer, pack: Vec<u8>) -> Result<(), PushError> {
    let new = CommitId::from_bytes([1; 20]);
    server.push(PROJECT, &RefUpdate { branch: "main", old: None, new }, body(pack)).await
}

/// The report in band 1, cut into pieces of this many bytes.
fn banded(report: &[u8], cut: usize) -> Vec<u8> {
    let pieces: Vec<_> = report.chunks(cut).map(|piece| packet(&[b"\x01", piece].concat())).collect();
    [pieces.concat(), b"0000".to_vec()].concat()
}

fn good() -> Vec<u8> {
    [packet(b"unpack ok\n"), packet(b"ok refs/heads/main\n"), b"0000".to_vec()].concat()
}

#[tokio::test]
async fn a_report_may_be_cut_anywhere_and_hooks_may_speak_in_between() {
    for cut in [1, 3, 5, 1_000] {
        let mut body = packet(b"\x01");
        body.extend(packet(b"\x02remote words\n"));
        body.extend(banded(&good(), cut));
        push_to(&scripted(vec![greets(ALL), reports(body)]), vec![0; 100]).await.unwrap();
    }
    push_to(&scripted(vec![greets("report-status"), reports(good())]), vec![0; 100]).await.unwrap();
}

#[tokio::test]
async fn only_what_the_server_has_is_asked_for() {
    let (tell, told) = mpsc::channel();
    let script: Script = Box::new(move |stream, head| {
        tell.send(read_body(stream, head)).unwrap();
        stream.write_all(&answer("200 OK", RESULT, &good())).unwrap();
    });
    push_to(&scripted(vec![greets("report-status"), script]), b"PACK".to_vec()).await.unwrap();
    let line = format!("{} {} refs/heads/main\0 report-status", "0".repeat(40), "01".repeat(20));
    assert_eq!(told.recv().unwrap(), [packet(line.as_bytes()), b"0000PACK".to_vec()].concat());
}

#[tokio::test]
async fn a_server_that_does_not_report_gets_nothing() {
    let pushed = push_to(&scripted(vec![greets("side-band-64k")]), vec![0; 100]).await;
    assert!(matches!(pushed, Err(PushError::NoReport)), "{pushed:?}");
    assert!(pushed.unwrap_err().to_string().contains("report-status"));
}

#[tokio::test]
async fn a_push_is_taken_only_if_the_report_says_so_for_its_branch() {
    let report = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| packet(line.as_bytes())).collect();
        banded(&[lines.concat(), b"0000".to_vec()].concat(), 1_000)
    };
    for (lines, expected) in [
        (&["unpack ok\n"][..], Refusal::Other),
        (&["ok refs/heads/main\n"], Refusal::Other),
        (&["unpack ok\n", "ok refs/heads/mai\n"], Refusal::Other),
        (&["unpack ok\n", "ok refs/heads/main \n", "ng refs/heads/main no\n"], Refusal::Other),
        (&["unpack index-pack failed\n", "ok refs/heads/main\n"], Refusal::Unpacker),
        (&["unpack ok\n", "ng refs/heads/main failed to update ref\n"], Refusal::Moved),
        (&[], Refusal::Other),
    ] {
        let pushed = push_to(&scripted(vec![greets(ALL), reports(report(lines))]), vec![0; 100]).await;
        assert_eq!(refusal(pushed).0, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn an_overloaded_gitlab_is_asked_again_later() {
    // Its own words, with another packet as the end of the report.
    let mut body = packet(&[b"\x01".to_vec(), packet(b"unpack server is busy"), b"0000".to_vec()].concat());
    body.extend(packet(b"\x02GitLab is currently unable to handle this request due to load.\n"));
    body.extend(b"0000");
    let (refusal, words) = refusal(push_to(&scripted(vec![greets(ALL), reports(body)]), vec![0; 100]).await);
    assert_eq!((refusal, refusal.wants_whole()), (Refusal::Busy, false));
    assert_eq!(words, "server is busy|GitLab is currently unable to handle this request due to load.");
}

#[tokio::test]
async fn what_the_server_says_on_the_error_band_is_the_error() {
    let body = [packet(b"\x02before\n"), packet(b"\x03out of \x07memory\n")].concat();
    let error = push_to(&scripted(vec![greets(ALL), reports(body)]), vec![0; 100]).await.unwrap_err();
    assert!(error.all_sent(), "{error}");
    assert!(
        matches!(&error, PushError::During { source: WireError::Remote(text), .. } if text == "out of \\u{7}memory"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_report_without_the_end_of_the_answer_is_enough_and_half_a_report_is_not() {
    let whole = banded(&good(), 1_000);
    push_to(&scripted(vec![greets(ALL), reports(whole[..whole.len() - 4].to_vec())]), vec![0; 100]).await.unwrap();
    let report = good();
    let half = banded(&report[..report.len() - 6], 1_000);
    let half = half[..half.len() - 4].to_vec();
    let error = push_to(&scripted(vec![greets(ALL), reports(half)]), vec![0; 100]).await.unwrap_err();
    assert!(matches!(&error, PushError::During { all_sent: true, source: WireError::Truncated }), "{error:?}");
    assert!(crate::net::http::Retryable::retry(&error).0, "the branch's head tells whether it was taken");
}

#[tokio::test]
async fn an_answer_that_comes_early_is_the_answer() {
    let page = b"<html>413 Request Entity Too Large</html>";
    let plain = b"HTTP Basic: Access denied";
    for (status, content_type, body, expected) in [
        ("413 Payload Too Large", "text/html", &page[..], Some(Refusal::TooLarge)),
        (
            "403 Forbidden",
            "text/plain",
            b"You are not allowed to push code to this project.",
            Some(Refusal::NotAllowed),
        ),
        ("401 Unauthorized", "text/plain", plain, None),
        ("302 Found", "text/html", b"", None),
        ("503 Service Unavailable", "text/html", b"", None),
    ] {
        let server = scripted(vec![greets(ALL), interrupts(answer(status, content_type, body))]);
        let (mut writer, pack) = pack_channel(4 * BUFFERED_BYTES);
        // More than the connection takes.
        let writing = thread::spawn(move || writer.write_all(&vec![0; 4 * BUFFERED_BYTES as usize]));
        let new = CommitId::from_bytes([1; 20]);
        let pushed = server.push(PROJECT, &RefUpdate { branch: "main", old: None, new }, pack).await;
        match (pushed.unwrap_err(), expected) {
            (error, Some(expected)) => assert_eq!(error.refusal(), Some(expected), "{status}"),
            (PushError::NotTaken(WireError::Request(RequestError::Status { status: found, .. })), None) => {
                assert!(status.starts_with(found.as_str()) && found.is_client_error(), "{status} {found}");
            }
            (
                PushError::During { source: WireError::Request(RequestError::Status { status: found, .. }), .. },
                None,
            ) => {
                assert!(status.starts_with(found.as_str()) && !found.is_client_error(), "{status} {found}");
            }
            (other, _) => panic!("{status}: {other:?}"),
        }
        // A server that reads on may get all of it.
        if let Err(error) = writing.join().unwrap() {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{status}");
        }
    }
}

#[tokio::test]
async fn a_writer_fails_once_the_server_has_answered() {
    let server = scripted(vec![greets(ALL), interrupts(answer("413 Payload Too Large", "text/plain", b""))]);
    let (mut writer, pack) = pack_channel(1_000);
    let (go_on, answered) = mpsc::channel::<()>();
    let writing = thread::spawn(move || {
        writer.write_all(&[0; 500]).unwrap();
        answered.recv().unwrap();
        writer.write_all(&[0; 500])
    });
    let new = CommitId::from_bytes([1; 20]);
    let pushed = server.push(PROJECT, &RefUpdate { branch: "main", old: None, new }, pack).await;
    assert_eq!(refusal(pushed).0, Refusal::TooLarge);
    go_on.send(()).unwrap();
    assert_eq!(writing.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_redirected_upload_is_not_sent_again() {
    let redirect =
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /g/q.git/git-receive-pack\r\nContent-Length: 0\r\n\r\n";
    let server = scripted(vec![greets(ALL), interrupts(redirect.to_vec())]);
    let error = push_to(&server, vec![0; 100]).await.unwrap_err();
    let redirected = matches!(&error, PushError::During { source: WireError::Request(RequestError::Redirect { to, .. }), .. } if to.ends_with("/g/q.git/git-receive-pack"));
    assert!(redirected, "{error:?}");
}

#[tokio::test]
async fn a_lost_connection_tells_whether_everything_was_sent() {
    let lost: Script = Box::new(|stream, head| drop(read_body(stream, head)));
    let error = push_to(&scripted(vec![greets(ALL), lost]), vec![0; 100]).await.unwrap_err();
    assert!(error.all_sent() && crate::net::http::Retryable::retry(&error).0, "{error:?}");
    let early: Script = Box::new(|stream, _| stream.read_exact(&mut [0; 50]).unwrap());
    let error = push_to(&scripted(vec![greets(ALL), early]), vec![0; 4 * BUFFERED_BYTES as usize]).await.unwrap_err();
    assert!(!error.all_sent() && crate::net::http::Retryable::retry(&error).0, "{error:?}");
}

// The connection ends in another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_writer_that_gives_up_breaks_the_request_off() {
    let (tell, told) = mpsc::channel();
    let script: Script = Box::new(move |stream, head| {
        let mut body = vec![];
        let read = stream.read_to_end(&mut body);
        // It may break off before its head has come.
        let announced = if head.is_empty() { usize::MAX } else { content_length(head) };
        tell.send((announced, body.len(), read.is_ok())).unwrap();
    });
    let server = scripted(vec![greets(ALL), script]);
    let (mut writer, pack) = pack_channel(1_000);
    thread::spawn(move || writer.write_all(&[0; 400]).unwrap());
    let new = CommitId::from_bytes([1; 20]);
    let error = server.push(PROJECT, &RefUpdate { branch: "main", old: None, new }, pack).await.unwrap_err();
    assert!(matches!(&error, PushError::During { all_sent: false, source: WireError::Request(RequestError::Unfed) }));
    assert!(!crate::net::http::Retryable::retry(&error).0, "the writer knows why");
    let (announced, received, _) = told.recv().unwrap();
    assert!(received < announced, "{received} of {announced}");
}

#[test]
fn a_writer_writes_no_more_than_it_announced() {
    let (mut writer, body) = pack_channel(10);
    writer.write_all(&[0; 8]).unwrap();
    assert_eq!(writer.write_all(&[0; 3]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    drop(body);
    assert_eq!(writer.write_all(&[0; 2]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_server_that_takes_or_says_nothing_is_given_up() {
    let idle = Duration::from_millis(300);
    let (tell, told) = mpsc::channel::<()>();
    let silent: Script = Box::new(move |_, _| _ = told.recv());
    let server = scripted_with(idle, vec![greets(ALL), silent]);
    let error = push_to(&server, vec![0; 8 * BUFFERED_BYTES as usize]).await.unwrap_err();
    assert!(matches!(&error, PushError::During { all_sent: false, .. }), "{error:?}");
    drop(tell);

    for answered in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-receive-pack-result\r\n\r\n"] {
        let (tell, told) = mpsc::channel::<()>();
        let silent: Script = Box::new(move |stream, head| {
            read_body(stream, head);
            stream.write_all(answered).unwrap();
            _ = told.recv();
        });
        let server = scripted_with(idle, vec![greets(ALL), silent]);
        let error = push_to(&server, vec![0; 100]).await.unwrap_err();
        let is_late = matches!(&error, PushError::During { source: WireError::Request(RequestError::Late(_)), .. });
        assert!(is_late && error.all_sent(), "{error:?}");
        drop(tell);
    }

    let (tell, told) = mpsc::channel::<()>();
    let silent: Script = Box::new(move |_, _| _ = told.recv());
    let heads = scripted_with(idle, vec![silent]).heads_for_push(PROJECT, &["main"].into()).await;
    assert!(matches!(heads, Err(WireError::Request(RequestError::Late(_)))), "{heads:?}");
    drop(tell);
}

#[tokio::test]
async fn a_slow_source_is_not_the_server_s_silence() {
    let idle = Duration::from_millis(200);
    let server = scripted_with(idle, vec![greets(ALL), reports(banded(&good(), 100))]);
    let (mut writer, pack) = pack_channel(3);
    thread::spawn(move || {
        for _ in 0..3 {
            thread::sleep(2 * idle);
            writer.write_all(&[0]).unwrap();
        }
    });
    let new = CommitId::from_bytes([1; 20]);
    server.push(PROJECT, &RefUpdate { branch: "main", old: None, new }, pack).await.unwrap();
}

#[tokio::test]
async fn pages_for_people_are_not_answers_to_git() {
    let page = |body: Vec<u8>| -> Script { Box::new(move |stream, _| stream.write_all(&body).unwrap()) };
    let login = page(answer("200 OK", "text/html; charset=utf-8", b"<html>Sign in"));
    let heads = scripted(vec![login]).heads_for_push(PROJECT, &["main"].into()).await;
    assert!(matches!(&heads, Err(WireError::NotGit(kind)) if kind.starts_with("text/html")), "{heads:?}");
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: /users/sign_in\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let heads = scripted(vec![page(redirect.to_vec())]).heads_for_push(PROJECT, &["main"].into()).await;
    let words = heads.unwrap_err().to_string();
    assert!(words.contains("/users/sign_in") && words.contains("token is not accepted"), "{words}");
    let error =
        push_to(&scripted(vec![greets(ALL), page(answer("200 OK", "text/html", b"<html>"))]), vec![0; 100]).await;
    assert!(matches!(&error, Err(PushError::During { source: WireError::NotGit(_), .. })), "{error:?}");
}
