//! What needs no server: recipients, identities, keys of signatures and WORKDIR.

use std::fs;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

use age::x25519::Recipient;
use secrecy::ExposeSecret;

use super::finding::{Check, NAMES_SHOWN};
use crate::artifact::encrypt::{Identities, encrypting};
use crate::artifact::signature::{SigningKey, TrustedKeys};
use crate::files::available_bytes;
use crate::git::store::Store;
use crate::model::program::Program;
use crate::secret::Secret;
use crate::text::{error_chain, human_bytes};
use crate::workdir::mirrors::MirrorError;
use crate::workdir::{Folder, Spool, Workdir, WorkdirError};

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
    Check::passed(NAME, format!("{}: {}", recipients.len(), listed(recipients)))
}

/// The recipients of the identities: what the near side must have in PUBLIC_KEY.
pub(super) fn identities(identities: Result<&Identities, &anyhow::Error>) -> Check {
    const NAME: &str = "identities";
    match identities {
        Ok(identities) => {
            let recipients: Vec<_> = identities.recipients().collect();
            let whose = if recipients.len() == 1 { "its recipient is" } else { "their recipients are" };
            Check::passed(NAME, format!("{}: {whose} {}", recipients.len(), listed(&recipients)))
        }
        Err(error) => Check::failed(NAME, error_chain(error.as_ref())).advice("Correct the file, or its path."),
    }
}

/// Which key signs. The far side's TRUSTED_KEYS must have its public part.
pub(super) fn signing_key(key: &SigningKey) -> Check {
    Check::passed("signing key", format!("{}: objects are signed with it", key.id()))
}

/// Whose signatures count.
pub(super) fn trusted_keys(keys: anyhow::Result<Option<TrustedKeys>>) -> Check {
    const NAME: &str = "trusted keys";
    match keys {
        Ok(None) => Check::passed(NAME, "none are set: objects need no signature"),
        Ok(Some(keys)) => {
            let ids: Vec<_> = keys.ids().map(|id| id.to_string()).collect();
            let shown = ids[..ids.len().min(NAMES_SHOWN)].join(", ");
            Check::passed(NAME, format!("{}: {shown}{}; nothing else is taken", ids.len(), and_more(ids.len())))
        }
        Err(error) => Check::failed(NAME, error_chain(error.as_ref())).advice("Correct the file, or its path."),
    }
}

fn listed(recipients: &[Recipient]) -> String {
    let shown: Vec<_> = recipients.iter().take(NAMES_SHOWN).map(|recipient| short(&recipient.to_string())).collect();
    format!("{}{}", shown.join(", "), and_more(recipients.len()))
}

/// How many are not shown of so many.
fn and_more(all: usize) -> String {
    match all.saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// Both ends of a recipient: enough to tell it from others.
fn short(recipient: &str) -> String {
    match (recipient.get(..12), recipient.get(recipient.len().saturating_sub(6)..)) {
        (Some(start), Some(end)) => format!("{start}…{end}"),
        _ => recipient.to_owned(),
    }
}

const WORKDIR: &str = "WORKDIR";

/// WORKDIR, which is left as it was.
pub(super) fn workdir(program: Program, path: &Path) -> Check {
    // Locked until the trials are over.
    let opened = match program {
        Program::Producer => {
            Workdir::open(path).map(|ours| (ours.mirrors(), Box::new(ours) as Box<dyn Deref<Target = Folder>>))
        }
        Program::Consumer => {
            Spool::open(path).map(|ours| (ours.objects(), Box::new(ours) as Box<dyn Deref<Target = Folder>>))
        }
    };
    let (place, ours) = match opened {
        Ok(opened) => opened,
        Err(error @ WorkdirError::InUse(_)) => {
            let finding = format!("{}: another process is using it, so it was not tried", path.display());
            return Check::warning(WORKDIR, finding).advice(error.advice());
        }
        Err(error) => {
            let finding = error_chain(&error);
            let finding = finding.strip_prefix("WORKDIR: ").unwrap_or(&finding);
            return Check::failed(WORKDIR, finding).advice(error.advice());
        }
    };
    let check = tried(program, path, &place);
    ours.remove_if_new();
    check
}

fn tried(program: Program, path: &Path, place: &Path) -> Check {
    const NAME: &str = WORKDIR;
    if let Err(error) = write_trial_file(place) {
        let finding = format!("{}: cannot write a file: {error}", path.display());
        return Check::failed(NAME, finding).advice("Free space on this file system, or give it more.");
    }
    if let Err(error) = open_trial_repository(place) {
        let finding = format!("{}: cannot open a repository in it: {}", path.display(), error_chain(&error));
        return Check::failed(NAME, finding).advice(match program {
            Program::Producer => "Nothing can be published like this. Set another WORKDIR.",
            Program::Consumer => "Nothing can be delivered like this. Set another WORKDIR.",
        });
    }
    let free = available_bytes(path);
    let finding = format!("{}: writable, {} free", path.display(), human_bytes(free));
    if free < LITTLE_SPACE_BYTES {
        return Check::warning(NAME, finding).advice(match program {
            Program::Producer => {
                "Plan for the largest repository times 1.2, times SYNC_CONCURRENCY, plus MIRROR_CACHE_BYTES."
            }
            Program::Consumer => "Plan for the largest object times 1.2, times SYNC_CONCURRENCY.",
        });
    }
    Check::passed(NAME, finding)
}

/// The webhook's secret: the senders put it into a header.
pub(super) fn webhook(secret: &Secret, port: u16) -> Check {
    const NAME: &str = "webhook";
    match secret.read() {
        Ok(secret) if secret.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) => {
            Check::passed(NAME, format!("the daemon takes events of the bucket: POST /webhook on port {port}"))
        }
        Ok(_) => {
            Check::warning(NAME, "the secret holds a space, or a character that not every sender can put into a header")
                .advice("Make another one, with `openssl rand -hex 32`.")
        }
        Err(error) => Check::failed(NAME, error_chain(&error)).advice("Correct the file, or its path."),
    }
}

fn write_trial_file(place: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(place)?;
    file.write_all(&[0; TRIAL_FILE_BYTES])?;
    file.sync_all()
}

/// Opens an empty repository as publishing does.
fn open_trial_repository(place: &Path) -> Result<(), MirrorError> {
    let folder = tempfile::tempdir_in(place)?;
    fs::create_dir_all(folder.path().join("objects/pack"))?;
    Ok(Store::open(folder.path()).map(drop)?)
}
