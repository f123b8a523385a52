//! A reconcile daemon that copies GitLab projects, encrypted, into an S3 bucket, for a GitLab in an isolated partition.
//!
//! One pass, in the order of the modules it goes through:
//!
//! ```text
//! target ── which projects go where (GraphQL)      ┐ desired
//! probe ─── where their branches are (Git, wire)   ┘
//! bucket ── what is there already (S3, key)          observed
//!              │
//!            plan ── every decision, a plain function
//!              │
//!            apply ── each action on its own, a bounded number at a time
//!              │
//!           publish ── fetch (wire, pack, mirror) ► archive ► encrypt ► upload (bucket), as one stream
//!              │
//!            report ── what was done and what was not, and why
//! ```
//!
//! `reconcile` ties a pass together and repeats it, before its time where `trigger` says so; `config` says how; `shard`
//! says whose a destination is where several replicas share the work; `workdir` and `mirror` keep what may be kept between
//! passes. `status`, `progress` and `metrics` are told what goes on, and `server` shows it; `check`, `list` and
//! `restore` are for people too, and `terminal` is how they look there.

pub mod artifact;
pub mod bucket;
pub mod commands;
pub mod config;
mod descriptors;
pub mod files;
mod git;
pub mod graphql;
pub mod model;
mod net;
pub mod plan;
mod progress;
mod publish;
mod reconcile;
mod secret;
mod server;
mod status;
pub mod telemetry;
pub mod terminal;
pub mod text;
mod workdir;
