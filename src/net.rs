//! HTTP, TLS and proxies, the same for GraphQL, GitLab and S3.

pub mod http;
pub mod proxy;
pub mod tls;

use std::time::Duration;

/// How long the program waits for GraphQL, GitLab and S3; both are above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `CONNECT_TIMEOUT`: for a TCP and TLS connection to be made.
    pub connect: Duration,
    /// `IDLE_TIMEOUT`: for a silent server.
    pub idle: Duration,
}
