//! Git: the wire protocol, branch heads, packs, verification.

pub mod account;
#[cfg(test)]
mod agreement;
#[cfg(test)]
pub(crate) mod fixture;
pub mod heads;
pub mod lfs;
mod marks;
pub mod pack;
pub mod push;
mod references;
pub mod store;
pub mod verify;
pub mod wire;
