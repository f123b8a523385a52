//! An object's content: a repository in an archive, encrypted.

pub mod archive;
pub mod encrypt;
pub mod error;
pub mod open;
pub mod unpack;
