//! SeaweedFS starts, serves, and is gone afterwards.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use testbed::bucket::Bucket;
use testbed::seaweed::Seaweed;

use crate::complaint;

#[test]
fn seaweed_serves_a_bucket_and_ends() -> Result<()> {
    if !Seaweed::is_installed() {
        eprintln!("SeaweedFS is not installed; skipped");
        return Ok(());
    }
    let server = Seaweed::start(None)?;
    let bucket = Bucket::new(&server.endpoint())?;
    assert_eq!(bucket.list()?, []);
    bucket.put("a/b==.zip.age", "content")?;
    bucket.put(&"k".repeat(1024), "longest")?;
    assert_eq!(bucket.get("a/b==.zip.age")?, b"content");
    assert_eq!(bucket.keys()?.len(), 2);
    assert!(bucket.list()?[0].last_modified.elapsed().is_ok_and(|age| age < Duration::from_secs(60)));
    bucket.delete("a/b==.zip.age")?;
    assert_eq!(bucket.keys()?, ["k".repeat(1024)]);
    assert_eq!(bucket.list_multipart_uploads()?, []);

    let address = server.endpoint().endpoint.replace("http://", "");
    TcpStream::connect(&address)?;
    drop(server);
    complaint(TcpStream::connect(&address)).map(drop)
}
