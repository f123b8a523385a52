//! HTTP, TLS and proxies, the same for GraphQL, GitLab and S3.

pub mod http;
pub mod proxy;
pub mod tls;

use std::time::Duration;

/// How long GraphQL, GitLab and S3 are waited for, each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `CONNECT_TIMEOUT`: for a TCP and TLS connection to come about; above zero.
    pub connect: Duration,
    /// `IDLE_TIMEOUT`: for a server that says nothing; above zero.
    pub idle: Duration,
}
