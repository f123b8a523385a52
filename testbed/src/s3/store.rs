//! The bucket's content: objects in the order of their keys' bytes, and open multipart uploads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use s3s::dto::{Checksum, ChecksumAlgorithm};

use crate::bucket::{OpenUpload, StoredObject};

/// Bytes as they were received, without copying; or only their number.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    chunks: Option<Vec<Bytes>>,
    size: u64,
}

impl Content {
    pub(super) fn new(chunks: Vec<Bytes>) -> Self {
        let size = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks: Some(chunks), size }
    }

    pub(super) fn discarded(size: u64) -> Self {
        Self { chunks: None, size }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// `None` if the bytes were discarded.
    pub(super) fn chunks(&self) -> Option<&[Bytes]> {
        self.chunks.as_deref()
    }

    /// The contents joined; discarded if any of them is.
    pub(super) fn concat<'a>(contents: impl IntoIterator<Item = &'a Content>) -> Self {
        let whole = Self { chunks: Some(Vec::new()), size: 0 };
        contents.into_iter().fold(whole, |whole, next| Self {
            size: whole.size + next.size,
            chunks: whole.chunks.zip(next.chunks.clone()).map(|(mut chunks, next)| {
                chunks.extend(next);
                chunks
            }),
        })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) last_modified: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) checksum: Checksum,
    pub(super) last_modified: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) algorithm: Option<ChecksumAlgorithm>,
    pub(super) initiated: SystemTime,
    pub(super) parts: BTreeMap<i32, Part>,
}

/// A page of a listing, and whether there is more after it.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) truncated: bool,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    discard: bool,
    objects: BTreeMap<String, Object>,
    /// By key and upload id, which is the order S3 lists them in.
    uploads: BTreeMap<(String, String), Upload>,
    uploads_made: u64,
}

impl Store {
    pub(super) fn new(discard: bool) -> Self {
        Self { discard, ..Self::default() }
    }

    /// Whether contents are dropped when they are received.
    pub(super) fn discards(&self) -> bool {
        self.discard
    }

    pub(super) fn object(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)
    }

    pub(super) fn put(&mut self, key: &str, content: Content, etag: String, last_modified: SystemTime) {
        let last_modified = whole_milliseconds(last_modified);
        self.objects.insert(key.to_owned(), Object { content, etag, last_modified });
    }

    pub(super) fn delete(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    pub(super) fn set_last_modified(&mut self, key: &str, last_modified: SystemTime) -> bool {
        let object = self.objects.get_mut(key);
        object.map(|object| object.last_modified = whole_milliseconds(last_modified)).is_some()
    }

    pub(super) fn objects(&self) -> Vec<StoredObject> {
        self.objects.iter().map(|(key, object)| described(key, object)).collect()
    }

    /// The objects after a key that start with a prefix, `count` at most.
    pub(super) fn page(&self, after: Option<&str>, prefix: &str, count: usize) -> Page<StoredObject> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = self
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| described(key, object));
        let items = found.by_ref().take(count).collect();
        Page { items, truncated: found.next().is_some() }
    }

    pub(super) fn start_upload(
        &mut self,
        key: &str,
        algorithm: Option<ChecksumAlgorithm>,
        initiated: SystemTime,
    ) -> String {
        self.uploads_made += 1;
        let id = format!("upload-{:08}", self.uploads_made);
        let upload = Upload { algorithm, initiated: whole_milliseconds(initiated), parts: BTreeMap::new() };
        self.uploads.insert((key.to_owned(), id.clone()), upload);
        id
    }

    pub(super) fn upload(&mut self, key: &str, id: &str) -> Option<&mut Upload> {
        self.uploads.get_mut(&(key.to_owned(), id.to_owned()))
    }

    pub(super) fn remove_upload(&mut self, key: &str, id: &str) -> bool {
        self.uploads.remove(&(key.to_owned(), id.to_owned())).is_some()
    }

    pub(super) fn uploads(&self) -> Vec<OpenUpload> {
        self.uploads_page(None, "", usize::MAX).items
    }

    /// The uploads after a (key, id) whose key starts with a prefix, `count` at most.
    pub(super) fn uploads_page(&self, after: Option<(String, String)>, prefix: &str, count: usize) -> Page<OpenUpload> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found =
            self.uploads.range((from, Bound::Unbounded)).filter(|((key, _), _)| key.starts_with(prefix)).map(
                |((key, id), upload)| OpenUpload {
                    key: key.clone(),
                    upload_id: id.clone(),
                    initiated: upload.initiated,
                    parts: upload.parts.len(),
                },
            );
        let items = found.by_ref().take(count).collect();
        Page { items, truncated: found.next().is_some() }
    }
}

fn described(key: &str, object: &Object) -> StoredObject {
    StoredObject {
        key: key.to_owned(),
        size: object.content.size(),
        last_modified: object.last_modified,
        etag: object.etag.clone(),
    }
}

/// S3's times are in milliseconds. Stored times are rounded too, so that a time read back equals the one listed.
pub(super) fn whole_milliseconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::new(since_epoch.as_secs(), since_epoch.subsec_millis() * 1_000_000)
}
