//! An object's content: a repository in an archive, encrypted.

pub mod archive;
pub mod encrypt;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod increment;
pub(crate) mod open;
pub(crate) mod origin;
pub(crate) mod references;
pub(crate) mod signature;
pub(crate) mod stream;
mod unpack;
mod walk;

pub(crate) use self::walk::Limits;
