//! What needs no server: the recipients and WORKDIR.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use age::x25519::Recipient;

use super::finding::{Check, NAMES_SHOWN};
use crate::artifact::encrypt::encrypting;
use crate::files::available_bytes;
use crate::git::store::Store;
use crate::text::{error_chain, human_bytes};
use crate::workdir::mirrors::MirrorError;
use crate::workdir::{Workdir, WorkdirError};

/// Less free space than this is a warning, in bytes.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;
/// What is written to WORKDIR, in bytes.
const TRIAL_FILE_BYTES: usize = 64 << 10;

pub(super) fn recipients(recipients: &[Recipient]) -> Check {
    const NAME: &str = "recipients";
    let sealed = encrypting(recipients, io::sink()).map_err(io::Error::other).and_then(|sealer| sealer.finish());
    if let Err(error) = sealed {
        let finding = format!("cannot encrypt: {}", error_chain(&error));
        return Check::failed(NAME, finding).advice("Check PUBLIC_KEY.");
    }
    let shown: Vec<_> = recipients.iter().take(NAMES_SHOWN).map(|recipient| short(&recipient.to_string())).collect();
    let more = match recipients.len().saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let finding = format!("{}: {}{more}", recipients.len(), shown.join(", "));
    Check::passed(NAME, finding)
}

/// Both ends of a recipient: enough to tell it from others.
fn short(recipient: &str) -> String {
    match (recipient.get(..12), recipient.get(recipient.len().saturating_sub(6)..)) {
        (Some(start), Some(end)) => format!("{start}…{end}"),
        _ => recipient.to_owned(),
    }
}

pub(super) fn workdir(path: &Path) -> Check {
    const NAME: &str = "WORKDIR";
    let workdir = match Workdir::open(path) {
        Ok(workdir) => workdir,
        Err(WorkdirError::InUse(_)) => {
            let finding = format!("{}: another process is using it, so it was not tried", path.display());
            return Check::warning(NAME, finding)
                .advice("That is fine if it is the daemon. Any other process needs a WORKDIR of its own.");
        }
        Err(error) => {
            return Check::failed(NAME, error_chain(&error))
                .advice("In Kubernetes: mount an emptyDir there; if it is another volume, set fsGroup.");
        }
    };
    if let Err(error) = write_trial_file(&workdir) {
        let finding = format!("{}: cannot write a file: {error}", path.display());
        return Check::failed(NAME, finding).advice("Free space on this file system, or give it more.");
    }
    if let Err(error) = open_trial_repository(&workdir) {
        let finding = format!("{}: cannot open a repository in it: {}", path.display(), error_chain(&error));
        return Check::failed(NAME, finding).advice("Nothing can be published like this. Set another WORKDIR.");
    }
    let free = available_bytes(path);
    let finding = format!("{}: writable, {} free", path.display(), human_bytes(free));
    if free < LITTLE_SPACE_BYTES {
        return Check::warning(NAME, finding)
            .advice("Plan for the largest repository times 1.2, times SYNC_CONCURRENCY, plus MIRROR_CACHE_BYTES.");
    }
    Check::passed(NAME, finding)
}

fn write_trial_file(workdir: &Workdir) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(workdir.mirrors())?;
    file.write_all(&[0; TRIAL_FILE_BYTES])?;
    file.sync_all()
}

/// Opens and packs an empty repository as publishing does.
fn open_trial_repository(workdir: &Workdir) -> Result<(), MirrorError> {
    let folder = tempfile::tempdir_in(workdir.mirrors())?;
    fs::create_dir_all(folder.path().join("objects/pack"))?;
    Ok(Store::open(folder.path())?.try_packing()?)
}
