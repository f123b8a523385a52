//! Decides which connections are served if there are too many.
//!
//! Invariant: nobody waits for anybody. There are never more than [`SERVER_CONNECTIONS`], a surplus one is closed at once,
//! and a client with many connections cannot keep out a client with one, such as the kubelet with its probes.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::descriptors::{CLOSING_CONNECTIONS, SERVER_CONNECTIONS};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How many of them one address may have: as many as a browser opens.
const PEER_CONNECTIONS: usize = 6;
/// How long a connection whose request has arrived is safe from being closed for a new one of an address that has as many.
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the head of a connection's request has arrived.
pub(super) type HasRequest = Arc<AtomicBool>;

#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Those open, and those that were closed and have not noticed yet.
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    begun: Instant,
    has_request: HasRequest,
    handle: AbortHandle,
}

impl Connection {
    fn is_old(&self) -> bool {
        self.begun.elapsed() >= REQUEST_PATIENCE
    }
}

impl Connections {
    /// Whether closed connections take the place of new ones.
    pub(super) fn are_crowded(&self) -> bool {
        self.tasks.len() >= SERVER_CONNECTIONS + CLOSING_CONNECTIONS
    }

    /// Serves one more connection, if there is room for it or another one has to make room.
    pub(super) fn begin<F>(&mut self, peer: IpAddr, connection: impl FnOnce(HasRequest) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.handle.is_finished());
        if self.are_crowded() || !self.make_room(peer) {
            return;
        }
        let has_request = HasRequest::default();
        let handle = self.tasks.spawn(connection(Arc::clone(&has_request)));
        self.open.push_back(Connection { peer, begun: Instant::now(), has_request, handle });
    }

    /// Whether there is room for one more from this address; a connection that is in the way is closed.
    fn make_room(&mut self, peer: IpAddr) -> bool {
        let held = |peer: IpAddr| self.open.iter().filter(|connection| connection.peer == peer).count();
        let crowd = if held(peer) >= PEER_CONNECTIONS {
            Some(peer)
        } else if self.open.len() >= SERVER_CONNECTIONS {
            // The address with the most connections loses one.
            self.open.iter().map(|connection| connection.peer).max_by_key(|peer| held(*peer))
        } else {
            return true;
        };
        let of_crowd = |connection: &Connection| Some(connection.peer) == crowd;
        // Those without a request first, most likely some of many that only wait; the oldest of them.
        let idle = |it: &Connection| of_crowd(it) && !it.has_request.load(Ordering::Relaxed);
        let victim = self.open.iter().position(idle);
        // An address with few connections comes before requests of one with many.
        let is_fair = crowd.is_some_and(|crowd| held(crowd) > held(peer) + 1);
        let victim = victim.or_else(|| self.open.iter().position(|it| of_crowd(it) && (is_fair || it.is_old())));
        let Some(victim) = victim.and_then(|at| self.open.remove(at)) else { return false };
        victim.handle.abort();
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use futures_util::future;

    fn peer(number: u8) -> IpAddr {
        [127, 0, 0, number].into()
    }

    /// A connection that never ends, with or without a request.
    fn open(connections: &mut Connections, number: u8, has_request: bool) {
        connections.begin(peer(number), |flag| {
            flag.store(has_request, Ordering::Relaxed);
            future::pending()
        });
    }

    fn peers(connections: &Connections) -> Vec<u8> {
        connections
            .open
            .iter()
            .map(|connection| connection.peer.to_string().rsplit('.').next().unwrap().parse().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn of_connections_without_a_request_the_newest_stay() {
        let mut connections = Connections::default();
        open(&mut connections, 9, false);
        for _ in 0..1_000 {
            open(&mut connections, 1, false);
            tokio::task::yield_now().await;
        }
        assert_eq!(peers(&connections), [9, 1, 1, 1, 1, 1, 1]);
        open(&mut connections, 2, true);
        open(&mut connections, 3, false);
        assert_eq!(peers(&connections), [9, 1, 1, 1, 1, 1, 2, 3], "the crowd makes room");
        for number in 10..100 {
            open(&mut connections, number, false);
            tokio::task::yield_now().await;
        }
        assert!(peers(&connections).contains(&2), "a request that has arrived is answered: {:?}", peers(&connections));
    }

    #[tokio::test]
    async fn requests_that_take_long_make_room_and_others_do_not() {
        let mut connections = Connections::default();
        (0..6).for_each(|_| open(&mut connections, 1, true));
        open(&mut connections, 1, true);
        assert_eq!(peers(&connections), [1; 6], "the seventh is closed");
        assert_eq!(connections.tasks.len(), 6);
        connections.open[0].begun -= REQUEST_PATIENCE;
        open(&mut connections, 1, true);
        tokio::task::yield_now().await;
        assert_eq!((peers(&connections), connections.tasks.len()), (vec![1; 6], 7), "the oldest is closed");
    }

    #[tokio::test]
    async fn requests_of_a_busy_address_make_room_for_one_that_has_none() {
        let mut connections = Connections::default();
        for number in [1, 2, 1, 2, 1, 2, 1, 2] {
            open(&mut connections, number, true);
        }
        open(&mut connections, 3, true);
        assert_eq!(peers(&connections).len(), SERVER_CONNECTIONS);
        assert!(peers(&connections).ends_with(&[3]), "{:?}", peers(&connections));
        open(&mut connections, 1, true);
        assert!(peers(&connections).contains(&3), "but not the other way round");
    }

    #[tokio::test]
    async fn those_that_do_not_notice_that_they_are_closed_are_bounded() {
        let mut connections = Connections::default();
        // No task runs in between.
        (0..1_000).for_each(|_| open(&mut connections, 1, false));
        assert_eq!(connections.tasks.len(), SERVER_CONNECTIONS + CLOSING_CONNECTIONS);
    }
}
