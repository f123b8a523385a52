//! An object's content: a repository in an archive, encrypted.

pub mod archive;
pub mod encrypt;
pub(crate) mod error;
pub(crate) mod open;
pub(crate) mod references;
mod unpack;
