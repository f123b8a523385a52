//! Answers in gzip, for whoever takes that: a page of 200 targets is fetched every few seconds while it is looked at.

use std::io::Write;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;

/// Shorter answers are left as they are, in bytes: they fit into one packet.
const SHORT_BYTES: usize = 1_400;

/// The answer, compressed where that is of use and the client takes it.
pub(super) async fn gzip(request: Request, next: Next) -> Response {
    let accepted = accepts_gzip(request.headers());
    let (mut head, body) = next.run(request).await.into_parts();
    head.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    // All answers are in memory as a whole already.
    let plain = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return super::failed(&error),
    };
    let compressed = if accepted && plain.len() >= SHORT_BYTES { compressed(&plain).ok() } else { None };
    let body = match compressed {
        Some(compressed) => {
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers.remove(header::CONTENT_LENGTH);
            Bytes::from(compressed)
        }
        None => plain,
    };
    Response::from_parts(head, Body::from(body)).into_response()
}

/// Whether one of the codings is gzip, and not with a weight of 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_some_and(|weight| weight > 0.0)
    })
}

fn compressed(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        let accepts = |value: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for value in ["gzip", "gzip, deflate, br", "br;q=1.0, GZIP;q=0.5", "deflate , gzip ; q=0.001"] {
            assert!(accepts(value), "{value}");
        }
        for value in ["", "identity", "br, gzip;q=0", "gzip;q=0.000", "xgzip", "gzip;q=x"] {
            assert!(!accepts(value), "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
