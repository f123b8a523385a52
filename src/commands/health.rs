//! `health`: asks the daemon on this machine, as the health check of a container.
//!
//! Invariant: no proxy, no certificate and no setting but the port's is needed, and it ends in time.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::print;
use crate::config;
use crate::model::program::Program;
use crate::text::remote_text;

/// How long the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of the answer is read, in bytes.
const ANSWER_LIMIT_BYTES: u64 = 8 << 10;

/// Asks, and prints what the daemon says.
pub(super) async fn command(settings: config::Health, program: Program) -> ExitCode {
    let config::Health { address } = settings;
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    match timeout(ANSWER_TIMEOUT, ask(address, program)).await.unwrap_or_else(late) {
        Ok(answer) => print(&format!("{}\n", answer.said), answer.is_good),
        Err(error) => {
            tracing::error!("no daemon answers on {address}: {error} (METRICS_SERVER_PORT must be the daemon's)");
            ExitCode::FAILURE
        }
    }
}

struct Answer {
    is_good: bool,
    said: String,
}

async fn ask(address: SocketAddr, program: Program) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![];
    stream.take(ANSWER_LIMIT_BYTES).read_to_end(&mut answer).await?;
    read(&answer, program).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "another program answers"))
}

/// The status, and the body, of an answer; `None` if it is not this program's.
fn read(answer: &[u8], program: Program) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find(|(name, value)| name.eq_ignore_ascii_case("server") && value.trim() == program.name())?;
    Some(Answer { is_good: status == "200", said: remote_text(body.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_200_is_healthy() {
        let read = |text: &str| read(text.as_bytes(), Program::Consumer).map(|answer| (answer.is_good, answer.said));
        let ours = "Server: git-partition-sync-consumer\r\n";
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\nA: b\r\n{ours}\r\nalive\n")), Some((true, "alive".to_owned())));
        let stuck = &format!("HTTP/1.1 503 Service Unavailable\r\n{ours}\r\nno progress \u{1b}[2J");
        assert_eq!(read(stuck), Some((false, "no progress \\u{1b}[2J".to_owned())));
        assert_eq!(read("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(read("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(read("HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nWelcome"), None);
        assert_eq!(read("HTTP/1.1 200 OK\r\nServer: git-partition-sync-producer\r\n\r\nalive"), None);
    }
}
