//! Finding out which page of a listing is the next one before this one is parsed: that takes about as long as fetching one.
//!
//! Invariant: what is found here is a guess. The parsed page decides, and a page asked for with another token is dropped.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// After a longer page, in bytes, the next one is not asked for ahead: parsed, two such pages would take much memory. A page
/// of 1,000 objects has about 500 KB.
const LIMIT_BYTES: usize = 1 << 20;
const START: &str = "<NextContinuationToken>";
const END: &str = "</NextContinuationToken>";

/// Tells the token for the next page as soon as a page has arrived, before it is parsed.
#[derive(Debug)]
pub(super) struct Ahead(Mutex<Option<oneshot::Sender<String>>>);

impl Ahead {
    /// The receiver gets nothing if no token is found, or the page is long.
    pub(super) fn new() -> (Self, oneshot::Receiver<String>) {
        let (found, token) = oneshot::channel();
        (Self(Mutex::new(Some(found))), token)
    }
}

impl Intercept for Ahead {
    fn name(&self) -> &'static str {
        "Ahead"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        // A second attempt tells nothing.
        if response.status().is_success()
            && let Some(found) = self.0.lock().take()
        {
            let body = response.take_body();
            let announced = Body::size_hint(&body).exact().and_then(|length| usize::try_from(length).ok());
            let page = Vec::with_capacity(announced.unwrap_or_default().min(LIMIT_BYTES));
            *response.body_mut() = SdkBody::from_body_1_x(Watched { body, page, found: Some(found) });
        }
        Ok(())
    }
}

/// A page on its way.
struct Watched {
    body: SdkBody,
    /// What has arrived.
    page: Vec<u8>,
    /// `None` once no token will be sent.
    found: Option<oneshot::Sender<String>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
                if self.page.len() + data.len() > LIMIT_BYTES {
                    self.found = None;
                }
                if self.found.is_some() {
                    self.page.extend_from_slice(data);
                }
            }
            Some(Err(_)) => self.found = None,
            None => {
                let page = mem::take(&mut self.page);
                if let (Some(found), Some(token)) = (self.found.take(), token_in(&page)) {
                    // Nobody waits any more if the listing has ended.
                    drop(found.send(token));
                    // Parsing begins right after the end, and keeps this thread: its other tasks come first, such as the one
                    // of this connection, which the next request uses.
                    self.body = SdkBody::empty();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // The end has to be asked for.
        false
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

/// The token for the next page in a page's XML, if it is easily found. Keys hold no `<` there.
fn token_in(page: &[u8]) -> Option<String> {
    let (_, token) = std::str::from_utf8(page).ok()?.split_once(START)?;
    let (token, _) = token.split_once(END)?;
    // One with escapes is left to the parser.
    (!token.is_empty() && !token.contains('&')).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_where_it_stands_as_it_is() {
        for (page, token) in [
            (
                "<L><IsTruncated>true</IsTruncated><NextContinuationToken>a/b+c=</NextContinuationToken></L>",
                Some("a/b+c="),
            ),
            ("<L><NextContinuationToken></NextContinuationToken></L>", None),
            ("<L><NextContinuationToken>a&amp;b</NextContinuationToken></L>", None),
            ("<L><NextContinuationToken>a", None),
            ("<L><IsTruncated>false</IsTruncated></L>", None),
            ("", None),
        ] {
            assert_eq!(token_in(page.as_bytes()).as_deref(), token, "{page}");
        }
    }
}
