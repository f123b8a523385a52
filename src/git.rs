//! Git: the wire protocol, branch heads, packs, verification.

#[cfg(test)]
mod agreement;
#[cfg(test)]
pub(crate) mod fixture;
pub mod heads;
pub mod lfs;
mod marks;
pub mod pack;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "for the consumer"))]
pub mod push;
mod references;
pub mod store;
pub mod verify;
pub mod wire;
