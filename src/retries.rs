//! Requests that are being tried again, for a person who waits at a terminal.
//!
//! Invariant: it only tells: no request waits for it or depends on it. What is told ends with the request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// How many requests are kept at the same time; of more, the others are not told.
const MOST_KEPT: usize = 512;

/// All of the process, because it has one terminal.
static RETRIES: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

struct Kept {
    id: u64,
    trouble: Trouble,
    attempt: usize,
    of: usize,
}

/// A server that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The server of the target list.
    GraphQl,
    /// The GitLab of this side.
    GitLab,
    /// The bucket.
    S3,
}

impl Server {
    const ALL: [Self; 3] = [Self::GraphQl, Self::GitLab, Self::S3];
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GraphQl => "GraphQL",
            Self::GitLab => "GitLab",
            Self::S3 => "S3",
        })
    }
}

/// What was wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// There was none.
    Silent,
    /// It says so, with this HTTP status.
    Status(u16),
    /// It ended early, or is not an answer at all.
    Broken,
}

impl Flaw {
    /// Whose answer it was.
    pub fn of(self, server: Server) -> Trouble {
        Trouble { server, flaw: self }
    }
}

/// A server, and what was wrong with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    server: Server,
    flaw: Flaw,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, flaw } = self;
        match flaw {
            Flaw::Silent => write!(f, "no answer from {server}"),
            Flaw::Status(status) => write!(f, "{server} answers with status {status}"),
            Flaw::Broken => write!(f, "the answer of {server} is incomplete"),
        }
    }
}

/// A request that is being tried again, until this is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Retry(u64);

impl Retry {
    /// After this trouble, attempt number `attempt` of at most `of` comes next, after a pause.
    pub fn begins(trouble: Trouble, attempt: usize, of: usize) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut retries = RETRIES.lock();
        if retries.len() < MOST_KEPT {
            retries.push(Kept { id, trouble, attempt, of });
        }
        Self(id)
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        RETRIES.lock().retain(|kept| kept.id != self.0);
    }
}

/// A line for each server that does not answer as it should: of its requests the one that has been tried most often.
pub fn lines() -> Vec<String> {
    let retries = RETRIES.lock();
    let line = |server| {
        let of_server = retries.iter().filter(|kept| kept.trouble.server == server);
        let Kept { trouble, attempt, of, .. } = of_server.max_by_key(|kept| kept.attempt)?;
        Some(format!("{trouble}, trying again ({attempt} of {of})"))
    };
    Server::ALL.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_in_trouble_has_a_line_until_its_last_request_ends() {
        // Other tests of this process may try requests again, too; none of them is an S3 server.
        let of_s3 = || lines().into_iter().find(|line| line.contains("S3"));
        let first = Retry::begins(Flaw::Silent.of(Server::S3), 2, 5);
        assert_eq!(of_s3().as_deref(), Some("no answer from S3, trying again (2 of 5)"));
        let second = Retry::begins(Flaw::Status(503).of(Server::S3), 4, 5);
        assert_eq!(of_s3().as_deref(), Some("S3 answers with status 503, trying again (4 of 5)"));
        drop(second);
        assert_eq!(of_s3().as_deref(), Some("no answer from S3, trying again (2 of 5)"));
        drop(first);
        assert_eq!(of_s3(), None);
    }
}
