//! Addresses where nothing answers. Each keeps its port, so that no other test can listen there.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpSocket;

/// How long a connection to a full port is tried before the port counts as full.
const FULL_AFTER: Duration = Duration::from_millis(200);

/// Most connections that a listener with the smallest backlog takes before any is accepted.
const MOST_FILLERS: usize = 16;

/// A port that refuses connections.
#[derive(Debug)]
pub struct ClosedPort {
    address: SocketAddr,
    // Bound and never listening: the system answers each attempt with a reset.
    _socket: TcpSocket,
}

impl ClosedPort {
    /// Takes a port.
    pub fn new() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A port that neither accepts nor refuses connections.
#[derive(Debug)]
pub struct FullPort {
    address: SocketAddr,
    _listener: TcpListener,
    _fillers: Vec<TcpStream>,
}

impl FullPort {
    /// Takes a port, listens, and fills the queue of connections, which are never accepted.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            socket.listen(1)?.into_std()
        })?;
        let address = listener.local_addr()?;
        let mut fillers = Vec::new();
        while fillers.len() < MOST_FILLERS {
            match TcpStream::connect_timeout(&address, FULL_AFTER) {
                Ok(stream) => fillers.push(stream),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Ok(Self { address, _listener: listener, _fillers: fillers });
                }
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the queue of a listener does not fill on this system")
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
