//! Packet lines, which frame everything Git sends over HTTP, and the pack among them. Protocol: gitprotocol-common(5),
//! gitprotocol-v2(5).
//!
//! Invariant: a body that ends without its end mark is an error; one packet is buffered at most.

use bytes::{Buf, Bytes, BytesMut};
use gix_packetline::PacketLineRef;
use gix_packetline::decode::{Stream, streaming};
use reqwest::Response;

use super::error::WireError;
use crate::net::http::RequestError;
use crate::text::remote_text;

pub(in crate::git) const FLUSH: &[u8] = b"0000";
pub(in crate::git) const DELIMITER: &[u8] = b"0001";

/// Appends one packet. Lines are short: a branch name and a word.
pub(in crate::git) fn data(request: &mut BytesMut, line: &str) {
    request.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

pub(in crate::git) enum Packet {
    Data(Bytes),
    Flush,
    Delimiter,
    ResponseEnd,
    /// The end of the body.
    End,
}

/// The packets of a response. At most one packet, 64 KiB, waits to be completed.
pub(in crate::git) struct Packets {
    response: Response,
    buffer: BytesMut,
}

impl Packets {
    pub(in crate::git) fn new(response: Response) -> Self {
        Self { response, buffer: BytesMut::new() }
    }

    /// Reads the end of the body after the last packet, so that the connection is kept for the next request. A server
    /// that sends more loses its connection.
    pub(in crate::git) async fn drain(&mut self) {
        if self.buffer.is_empty() {
            drop(self.response.chunk().await);
        }
    }

    pub(in crate::git) async fn next(&mut self) -> Result<Packet, WireError> {
        loop {
            if let Some(packet) = take_packet(&mut self.buffer)? {
                return Ok(packet);
            }
            match self.response.chunk().await.map_err(RequestError::from)? {
                Some(chunk) if self.buffer.is_empty() => {
                    self.buffer = chunk.try_into_mut().unwrap_or_else(|shared| shared[..].into())
                }
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(Packet::End),
                None => return Err(WireError::Truncated),
            }
        }
    }
}

/// Cuts one packet off the front of `buffer`; `None` if it is not complete yet.
pub(in crate::git) fn take_packet(buffer: &mut BytesMut) -> Result<Option<Packet>, WireError> {
    let decoded = streaming(buffer).map_err(|_| WireError::Malformed("not a packet line"))?;
    let Stream::Complete { line, bytes_consumed } = decoded else { return Ok(None) };
    let packet = match line {
        PacketLineRef::Flush => Packet::Flush,
        PacketLineRef::Delimiter => Packet::Delimiter,
        PacketLineRef::ResponseEnd => Packet::ResponseEnd,
        PacketLineRef::Data(_) => {
            let mut line = buffer.split_to(bytes_consumed).freeze();
            line.advance(4);
            return match line.strip_prefix(b"ERR ") {
                Some(text) => Err(WireError::reported(text)),
                None => Ok(Some(Packet::Data(line))),
            };
        }
    };
    buffer.advance(bytes_consumed);
    Ok(Some(packet))
}

/// A fetched pack, piece by piece.
pub struct PackStream {
    pub(in crate::git) packets: Packets,
}

impl PackStream {
    /// The next piece; `None` after the last one, once the server has said that the pack is complete. After an error,
    /// what was received so far is useless.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            let mut line = match self.packets.next().await? {
                Packet::Data(line) => line,
                Packet::Flush => {
                    self.packets.drain().await;
                    return Ok(None);
                }
                Packet::Delimiter | Packet::ResponseEnd => {
                    return Err(WireError::Malformed("a delimiter inside the pack"));
                }
                Packet::End => return Err(WireError::Truncated),
            };
            match line.first() {
                Some(1) => {
                    line.advance(1);
                    // An empty piece is the server's sign of life while it prepares the pack.
                    if !line.is_empty() {
                        return Ok(Some(line));
                    }
                }
                Some(2) => {}
                Some(3) => return Err(WireError::Remote(remote_text(&line[1..]))),
                Some(_) | None => return Err(WireError::Malformed("an unknown side band in the pack")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::parse_ref;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_grow(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(packet)) = take_packet(&mut buffer) {
                if let Packet::Data(line) = packet {
                    prop_assert!(line.len() <= bytes.len());
                    let _ = parse_ref(&line);
                }
            }
        }

        #[test]
        fn packets_are_read_back_whatever_the_cuts(lines in proptest::collection::vec("[a-z]{1,30}", 0..10), cut in 1_usize..40) {
            let mut wire = BytesMut::new();
            lines.iter().for_each(|line| data(&mut wire, line));
            let (mut buffer, mut read) = (BytesMut::new(), vec![]);
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(Packet::Data(line)) = take_packet(&mut buffer).unwrap() {
                    read.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(read, lines);
        }
    }
}
