//! One connection through the proxy: HTTP/1.1, one request after the other, each held whole in memory.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{At, Fault, Moment, Seen, State};

/// Longest head of a request or an answer.
const HEAD_LIMIT_BYTES: usize = 64 << 10;

type Client = Either<TcpStream, TlsStream<TcpStream>>;

/// A request or an answer: its first line and headers, without the empty line, and its whole body.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The head, with the body's actual length instead of its framing headers.
    fn framed(&self, length: usize) -> String {
        let kept = self.head.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !["content-length", "transfer-encoding", "connection"].iter().any(|other| name.eq_ignore_ascii_case(other))
        });
        let mut head: Vec<String> = kept.map(str::to_owned).collect();
        let bodyless = [" 204", " 304"].iter().any(|status| head[0].contains(status));
        if !bodyless {
            head.push(format!("content-length: {length}"));
        }
        head.join("\r\n") + "\r\n\r\n"
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The offset of `at` in a body.
pub(super) fn place(body: &[u8], at: At) -> usize {
    let half = body.len() / 2;
    match at {
        At::Half => half,
        At::PacketLine => {
            let (mut end, mut rest) = (0, body);
            while let Some(length) = packet_length(rest).filter(|length| end + length <= half) {
                end += length;
                rest = &rest[length..];
            }
            end
        }
    }
}

/// The length of the first Git packet: four hexadecimal digits. A value below four is a packet by itself.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(bytes.get(..4)?).ok()?;
    let length = usize::from_str_radix(digits, 16).ok()?.max(4);
    (length <= bytes.len()).then_some(length)
}

pub(super) async fn serve(
    state: &State,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    upstream: SocketAddr,
) -> Result<()> {
    let mut client = match tls {
        None => Either::Left(stream),
        Some(tls) => Either::Right(tls.accept(stream).await?),
    };
    let mut buffer = BytesMut::new();
    while let Some(request) = read_request(&mut client, &mut buffer).await? {
        let fault = state.take(&seen(&request)?);
        if !exchange(state, &mut client, &mut buffer, &request, upstream, fault).await? {
            break;
        }
    }
    Ok(())
}

fn seen(request: &Message) -> Result<Seen> {
    let mut words = request.head.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().context("a request without a target")?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    Ok(Seen { method: method.to_owned(), path, query: query.to_owned(), body: request.body.clone() })
}

/// Serves one request; whether the connection can take another.
async fn exchange(
    state: &State,
    client: &mut Client,
    buffer: &mut BytesMut,
    request: &Message,
    upstream: SocketAddr,
    mut fault: Option<Fault>,
) -> Result<bool> {
    while matches!(fault, Some(Fault::Hold(Moment::Unsent))) {
        hold(state, client, buffer).await?;
        fault = state.take(&seen(request)?);
    }
    match &fault {
        Some(Fault::Reset(Moment::Unsent)) => return reset(client),
        Some(Fault::Answer { status, headers, body }) => {
            let mut head = format!("HTTP/1.1 {status} From-The-Test");
            headers.iter().for_each(|(name, value)| head.push_str(&format!("\r\n{name}: {value}")));
            return send(client, &Message { head, body: body.clone() }).await.map(|()| true);
        }
        _ => {}
    }
    let mut answer = match &fault {
        Some(Fault::AlterRequest(alteration)) => {
            let altered = Message { head: request.head.clone(), body: alteration(request.body.clone()) };
            forward(&altered, upstream).await?
        }
        _ => forward(request, upstream).await?,
    };
    match fault {
        Some(Fault::Reset(Moment::Unanswered)) => return reset(client),
        Some(Fault::Reset(Moment::Within(at))) => {
            send_until(client, &answer, at).await?;
            return reset(client);
        }
        Some(Fault::Reset(Moment::Answered)) => {
            send(client, &answer).await?;
            return reset(client);
        }
        Some(Fault::Close(at)) => {
            send_until(client, &answer, at).await?;
            client.shutdown().await?;
            return Ok(false);
        }
        Some(Fault::Hold(Moment::Unanswered)) => hold(state, client, buffer).await?,
        Some(Fault::Hold(Moment::Within(at))) => {
            let sent = send_until(client, &answer, at).await?;
            hold(state, client, buffer).await?;
            client.write_all(&answer.body[sent..]).await?;
            client.flush().await?;
            return Ok(true);
        }
        Some(Fault::Hold(Moment::Answered)) => {
            send(client, &answer).await?;
            hold(state, client, buffer).await?;
            return Ok(true);
        }
        Some(Fault::Trickle { pieces, pause }) => {
            let mut whole = answer.framed(answer.body.len()).into_bytes();
            whole.extend_from_slice(&answer.body);
            for piece in whole.chunks(whole.len().div_ceil(pieces)) {
                tokio::time::sleep(pause).await;
                client.write_all(piece).await?;
                client.flush().await?;
            }
            return Ok(true);
        }
        Some(Fault::Alter(alteration)) => answer.body = alteration(std::mem::take(&mut answer.body)),
        None
        | Some(
            Fault::Reset(Moment::Unsent) | Fault::Hold(Moment::Unsent) | Fault::Answer { .. } | Fault::AlterRequest(_),
        ) => {}
    }
    send(client, &answer).await.map(|()| true)
}

/// The connection ends with a reset as soon as it is dropped.
fn reset(client: &Client) -> Result<bool> {
    let tcp = match client {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    };
    tcp.set_zero_linger()?;
    Ok(false)
}

/// Waits for the release; fails if the client disconnects first.
async fn hold(state: &State, client: &mut Client, buffer: &mut BytesMut) -> Result<()> {
    let gone = async { while client.read_buf(buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = state.hold() => Ok(()),
        () = gone => bail!("the client has disconnected"),
    }
}

async fn send(client: &mut Client, message: &Message) -> Result<()> {
    client.write_all(message.framed(message.body.len()).as_bytes()).await?;
    client.write_all(&message.body).await?;
    client.flush().await?;
    Ok(())
}

/// Sends the head and a part of its body; returns how much of the body.
async fn send_until(client: &mut Client, message: &Message, at: At) -> Result<usize> {
    let sent = place(&message.body, at);
    client.write_all(message.framed(message.body.len()).as_bytes()).await?;
    client.write_all(&message.body[..sent]).await?;
    client.flush().await?;
    Ok(sent)
}

/// The next request; `None` if the client sends no more.
async fn read_request(client: &mut Client, buffer: &mut BytesMut) -> Result<Option<Message>> {
    let Some(head) = read_head(client, buffer).await? else { return Ok(None) };
    if header(&head, "expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        client.flush().await?;
    }
    let body = match header(&head, "content-length").map(str::parse::<usize>).transpose()? {
        Some(length) => {
            while buffer.len() < length {
                ensure!(client.read_buf(buffer).await? > 0, "a request that ends within its body");
            }
            buffer.split_to(length).to_vec()
        }
        None if header(&head, "transfer-encoding").is_some() => loop {
            if let Some((body, length)) = unchunked(buffer)? {
                buffer.advance(length);
                break body;
            }
            ensure!(client.read_buf(buffer).await? > 0, "a request that ends within its body");
        },
        None => Vec::new(),
    };
    Ok(Some(Message { head, body }))
}

/// The next head, cut off the front of the buffer; `None` if the connection ends before it begins.
async fn read_head(client: &mut Client, buffer: &mut BytesMut) -> Result<Option<String>> {
    loop {
        if let Some(head) = take_head(buffer)? {
            return Ok(Some(head));
        }
        if client.read_buf(buffer).await? == 0 {
            ensure!(buffer.is_empty(), "a request that ends within its head");
            return Ok(None);
        }
    }
}

fn take_head(buffer: &mut BytesMut) -> Result<Option<String>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(buffer.len() < HEAD_LIMIT_BYTES, "a head without an end");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.advance(end + 4);
    Ok(Some(head))
}

/// Forwards the request on its own connection and reads the whole answer.
async fn forward(request: &Message, upstream: SocketAddr) -> Result<Message> {
    let mut server = TcpStream::connect(upstream).await?;
    let mut head = request.framed(request.body.len());
    head.insert_str(head.len() - 2, "connection: close\r\n");
    server.write_all(head.as_bytes()).await?;
    server.write_all(&request.body).await?;
    let mut received = BytesMut::new();
    while server.read_buf(&mut received).await? > 0 {}
    loop {
        let head = take_head(&mut received)?.context("an answer without a head")?;
        if head.starts_with("HTTP/1.1 1") {
            continue;
        }
        let answer = Message { head, body: received.to_vec() };
        if answer.header("transfer-encoding").is_none() {
            return Ok(answer);
        }
        let (body, _) = unchunked(&received)?.context("an answer that ends within its body")?;
        return Ok(Message { body, ..answer });
    }
}

/// The content of a chunked body and how many bytes it takes on the wire; `None` if it is not complete.
fn unchunked(wire: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = wire[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&wire[at..at + line])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        at += line + 2;
        if size == 0 {
            // Trailers are ignored; an empty line ends them.
            let Some(end) = wire[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
            return Ok(Some((body, at + end + 2)));
        }
        let Some(chunk) = wire.get(at..at + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}
