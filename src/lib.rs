//! Two reconcile daemons. The producer copies GitLab projects, encrypted, into an S3 bucket, for a GitLab in an isolated
//! partition. The consumer pushes them to that GitLab.
//!
//! The modules are layers. Each one imports only from lower layers; `docs/architecture.md` has the table, and a test
//! checks it.
//!
//! ```text
//! commands                             the daemons, check, list, restore
//! server                               metrics, health, status page, webhooks
//! deliver  reconcile                   a pass (observe, plan, apply, report): of the consumer · of the producer
//! config  publish  passes              settings · one target as one stream · when passes begin
//! bucket  status                       S3 · what is in sync, since when and why
//! artifact  workdir                    archive and encryption · files kept on the disk
//! git                                  the wire, heads, packs, verification
//! plan  graphql  progress  telemetry   decisions · targets · progress · logs
//! model  net  terminal                 keys and targets · HTTP and TLS · colour
//! text  files  interrupt  retries     small things that all of them share
//! memory  descriptors  threads         what the objects of repositories may take · limits of the system
//! ```
//!
//! Only what `main`, the tests and the benches use is public.

pub mod artifact;
mod bucket;
pub mod commands;
pub mod config;
mod deliver;
mod descriptors;
pub mod files;
mod git;
pub mod graphql;
mod interrupt;
mod memory;
pub mod model;
mod net;
mod passes;
pub mod plan;
mod progress;
mod publish;
mod reconcile;
mod retries;
mod secret;
mod server;
mod status;
pub mod telemetry;
pub mod terminal;
pub mod text;
mod threads;
mod workdir;
