//! Git: the wire protocol, branch heads, packs, verification.

#[cfg(test)]
pub(crate) mod fixture;
pub mod heads;
pub mod lfs;
pub mod pack;
mod references;
pub mod verify;
pub mod wire;
