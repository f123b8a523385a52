//! Reading an object.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::ByteStream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::error::failed;
use super::{Bucket, BucketError};

impl Bucket {
    /// An object's content, for a blocking thread. `came` is told of each piece's length in bytes. Once `stop` is cancelled,
    /// reading fails as if the download had broken.
    pub async fn download<F: FnMut(usize) + Send + Unpin + 'static>(
        &self,
        key: &str,
        stop: &CancellationToken,
        came: F,
    ) -> Result<impl Read + Send + use<F>, BucketError> {
        self.get(key, None, stop, came).await
    }

    /// The first bytes of an object, that many or all if there are fewer.
    pub async fn download_start(
        &self,
        key: &str,
        bytes: u64,
        stop: &CancellationToken,
    ) -> Result<impl Read + Send + use<>, BucketError> {
        let range = format!("bytes=0-{}", bytes.saturating_sub(1));
        // A server that does not know ranges sends everything.
        Ok(self.get(key, Some(range), stop, |_| {}).await?.take(bytes))
    }

    async fn get<F: FnMut(usize) + Send + Unpin + 'static>(
        &self,
        key: &str,
        range: Option<String>,
        stop: &CancellationToken,
        came: F,
    ) -> Result<impl Read + Send + use<F>, BucketError> {
        let get = self.client.get_object().bucket(&self.name).key(key).set_range(range).send();
        let object = stop.run_until_cancelled(get).await.ok_or(BucketError::Stopped)?;
        let body: ByteStream = object.map_err(failed("read an object"))?.body;
        let stopped = Box::pin(stop.clone().cancelled_owned());
        Ok(SyncIoBridge::new(Watched { inner: body.into_async_read(), stopped, came }))
    }
}

/// Tells what is read, until it is stopped.
struct Watched<R, F> {
    inner: R,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    came: F,
}

impl<R: AsyncRead + Unpin, F: FnMut(usize) + Unpin> AsyncRead for Watched<R, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stopped.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::other("stopped"))),
            Poll::Pending => {
                let before = buffer.filled().len();
                let read = Pin::new(&mut self.inner).poll_read(context, buffer);
                (self.came)(buffer.filled().len() - before);
                read
            }
        }
    }
}
