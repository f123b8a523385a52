//! Decides which connections are served if there are too many.
//!
//! Invariant: there are never more than [`SERVER_CONNECTIONS`], and a client with many connections cannot keep out a client
//! with one, such as the kubelet with its probes.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use crate::descriptors::SERVER_CONNECTIONS;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

/// How many of them one address may have: as many as a browser opens.
const PEER_CONNECTIONS: usize = 6;
/// How long a connection is safe from being closed for a new one.
const CONNECTION_PATIENCE: Duration = Duration::from_millis(250);
/// The same if its own address opens too many. It is long enough for a request that has arrived whole, and short enough
/// that hundreds of queued connections do not keep others waiting.
const PEER_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    begun: Instant,
    handle: AbortHandle,
}

impl Connections {
    /// Waits until there is room for one more from this address, and closes connections that are in the way.
    pub(super) async fn make_room(&mut self, peer: IpAddr) {
        while self.tasks.try_join_next().is_some() {}
        self.forget_finished();
        while let Some((oldest, patience)) = self.in_the_way(peer) {
            let (handle, deadline) = (oldest.handle.clone(), oldest.begun + patience);
            if timeout_at(deadline, self.tasks.join_next()).await.is_err() {
                handle.abort();
                self.tasks.join_next().await;
            }
            self.forget_finished();
        }
    }

    pub(super) fn begin(&mut self, peer: IpAddr, connection: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(connection);
        self.open.push_back(Connection { peer, begun: Instant::now(), handle });
    }

    /// The connection that has to make room for one more from this address, and how long it is safe.
    fn in_the_way(&self, peer: IpAddr) -> Option<(&Connection, Duration)> {
        let held = |peer: IpAddr| self.open.iter().filter(|connection| connection.peer == peer).count();
        let (whose, patience) = if held(peer) >= PEER_CONNECTIONS {
            (peer, PEER_PATIENCE)
        } else if self.open.len() >= SERVER_CONNECTIONS {
            // The address with the most connections loses one.
            (self.open.iter().map(|connection| connection.peer).max_by_key(|peer| held(*peer))?, CONNECTION_PATIENCE)
        } else {
            return None;
        };
        self.open.iter().find(|connection| connection.peer == whose).map(|oldest| (oldest, patience))
    }

    fn forget_finished(&mut self) {
        self.open.retain(|connection| !connection.handle.is_finished());
    }
}
