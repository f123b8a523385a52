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

pub mod apply;
pub mod archive;
pub mod bucket;
pub mod check;
pub mod config;
pub mod connectivity;
pub mod duration;
pub mod encrypt;
pub mod http;
pub mod inspect;
pub mod key;
pub mod limits;
pub mod list;
pub mod metrics;
pub mod mirror;
pub mod pack;
pub mod plan;
pub mod prcheck;
pub mod probe;
pub mod progress;
pub mod proxy;
pub mod publish;
pub mod reconcile;
pub mod report;
pub mod restore;
pub mod server;
pub mod shard;
pub mod status;
pub mod target;
pub mod telemetry;
pub mod terminal;
pub mod tls;
pub mod trigger;
pub mod wire;
pub mod workdir;
