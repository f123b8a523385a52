//! A proxy that opens tunnels (`CONNECT`), and a server whose TLS is too old.
//!
//! Invariant: a tunnel leads to loopback only, whatever name it was asked for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use crate::http::{BoxError, HttpServer, basic, lock};

/// Longest request for a tunnel, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// A proxy for `https://` URLs whose host names only it can resolve. Dropping it closes every tunnel.
pub struct TunnelProxy {
    server: HttpServer,
    state: Arc<State>,
}

struct State {
    routes: HashMap<String, SocketAddr>,
    authorization: Option<String>,
    asked: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
}

impl TunnelProxy {
    /// A proxy that knows these hosts: a name, and the URL of the loopback server that stands for its port 443.
    pub fn start(routes: &[(&str, &str)], login: Option<(&str, &str)>) -> Result<Self> {
        let routes = routes.iter().map(|(host, url)| {
            let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("not a URL")?;
            Ok((format!("{host}:443"), address.parse()?))
        });
        let state = Arc::new(State {
            routes: routes.collect::<Result<_>>()?,
            authorization: login.map(|(user, password)| basic(user, password)),
            asked: Mutex::default(),
            refused: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        let server = HttpServer::listen("tunnel-proxy", 0, move |stream| {
            let state = Arc::clone(&serving);
            async move {
                if let Err(error) = serve(&state, stream).await {
                    tracing::debug!(%error, "a tunnel ended");
                }
            }
        })?;
        Ok(Self { server, state })
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Tunnels that were opened, as `host:port`, each name once, sorted.
    pub fn opened(&self) -> Vec<String> {
        distinct(&self.state.asked)
    }

    /// Hosts that are unknown or were requested without the right login, in the same form.
    pub fn refused(&self) -> Vec<String> {
        distinct(&self.state.refused)
    }
}

fn distinct(list: &Mutex<Vec<String>>) -> Vec<String> {
    let mut list = lock(list).clone();
    list.sort();
    list.dedup();
    list
}

async fn serve(state: &State, mut client: TcpStream) -> Result<(), BoxError> {
    let head = read_head(&mut client).await?;
    let mut lines = head.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let to = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or(request).to_owned();
    let authorization = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    let refusal = if state.authorization.is_some() && authorization != state.authorization {
        Some("407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"")
    } else {
        (!state.routes.contains_key(&to)).then_some("502 Bad Gateway")
    };
    if let Some(status) = refusal {
        lock(&state.refused).push(to);
        client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
        return Ok(());
    }
    let mut server = TcpStream::connect(state.routes[&to]).await?;
    lock(&state.asked).push(to);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Reads up to the empty line. The client sends nothing more until it has an answer.
async fn read_head(client: &mut TcpStream) -> Result<String, BoxError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES {
            return Err("a request without an end".into());
        }
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

/// A server that speaks only TLS 1.1. It answers a `ClientHello` as such a server does, and keeps the client's reply.
pub struct OldTlsServer {
    server: HttpServer,
    replies: Arc<Replies>,
}

/// One entry for each connection, filled when the connection ends.
#[derive(Default)]
struct Replies {
    all: Mutex<Vec<Option<Vec<u8>>>>,
    ended: Condvar,
}

/// How long a connection may take to end after its client has gone.
const ENDED_TIMEOUT: Duration = Duration::from_secs(10);

/// A TLS 1.1 `ServerHello` in its record (RFC 4346): no session, the cipher suite TLS_RSA_WITH_AES_128_CBC_SHA.
fn old_server_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x02];
    hello.extend([0x11; 32]);
    hello.extend([0x00, 0x00, 0x2f, 0x00]);
    let mut record = vec![0x16, 0x03, 0x02, 0x00, u8::try_from(hello.len()).unwrap_or_default() + 4];
    record.extend([0x02, 0x00, 0x00, u8::try_from(hello.len()).unwrap_or_default()]);
    record.extend(hello);
    record
}

impl OldTlsServer {
    /// Listens on a free port.
    pub fn start() -> Result<Self> {
        let replies = Arc::new(Replies::default());
        let kept = Arc::clone(&replies);
        let server = HttpServer::listen("old-tls", 0, move |mut stream| {
            let kept = Arc::clone(&kept);
            async move {
                let number = {
                    let mut all = lock(&kept.all);
                    all.push(None);
                    all.len() - 1
                };
                let reply = greet(&mut stream).await.unwrap_or_default();
                lock(&kept.all)[number] = Some(reply);
                kept.ended.notify_all();
            }
        })?;
        Ok(Self { server, replies })
    }

    /// `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("https://{}:{}", Ipv4Addr::LOCALHOST, self.server.address().port())
    }

    /// What each client said to the greeting of an old server, once all that connected have gone. Empty if nobody came
    /// within a few seconds.
    pub fn replies(&self) -> Vec<Vec<u8>> {
        let Replies { all, ended } = &*self.replies;
        let open = |all: &mut Vec<Option<Vec<u8>>>| all.is_empty() || all.contains(&None);
        let waited = ended.wait_timeout_while(lock(all), ENDED_TIMEOUT, open);
        let (all, _) = waited.unwrap_or_else(PoisonError::into_inner);
        all.iter().flatten().cloned().collect()
    }
}

/// Reads the client's greeting, answers with an old server's, and returns what the client says to that; empty if it
/// closes without a word.
async fn greet(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await?;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([greeting[3], greeting[4]]))];
    stream.read_exact(&mut rest).await?;
    stream.write_all(&old_server_hello()).await?;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    Ok(reply)
}
