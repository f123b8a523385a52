//! Asking the running program over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Daemon, PATIENCE, wait_until};

/// An answer of the program's server.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no header {name} in {}", self.head))
    }
}

/// Where the program listens, once its log says so.
#[track_caller]
pub fn address(daemon: &Daemon) -> SocketAddr {
    daemon.wait_until_logged("status page on http://", 1);
    let log = daemon.log();
    let (_, rest) = log.split_once("status page on http://").unwrap();
    rest.split_once('/').unwrap().0.parse().unwrap()
}

/// Sends a request and reads the answer to its end.
#[track_caller]
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    request_announcing(body.len(), address, method, path, headers, body)
}

/// The same, with another length of the body announced than it has.
#[track_caller]
pub fn request_announcing(
    length: usize,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = vec![];
    connection.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[track_caller]
pub fn get(daemon: &Daemon, path: &str) -> Answer {
    request(address(daemon), "GET", path, &[], "")
}

#[track_caller]
pub fn status(daemon: &Daemon) -> Value {
    serde_json::from_str(&get(daemon, "/status.json").body).unwrap()
}

/// The sample with these labels, in any order of them; `None` where there is none.
pub fn sample(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let rest = series.strip_prefix(name)?.strip_prefix('{')?;
        labels.iter().all(|(name, value)| rest.contains(&format!("{name}=\"{value}\""))).then(|| value.parse().ok())?
    })
}

/// Asks for a full pass and waits until it, and so what it saw, is over.
#[track_caller]
pub fn pass_now(daemon: &Daemon) {
    let full = |status: &Value| {
        let history = status["history"].as_array().unwrap();
        history.iter().filter(|pass| pass["trigger"] == "signal").count()
    };
    let before = full(&status(daemon));
    daemon.signal(Signal::USR1);
    wait_until("the pass asked for is over", || full(&status(daemon)) > before);
}
