//! The program as its users meet it: the real binary, real Git repositories, real servers on loopback.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod alerts;
mod browser;
mod bucket;
mod check;
mod connectivity;
mod credentials;
mod daemon;
mod docs;
mod dry_run;
mod failures;
mod formats;
mod guards;
mod hostile;
mod http;
mod layers;
mod lfs;
mod limits;
mod list_restore;
mod logs;
mod manual;
mod memory;
mod memory_budget;
mod metrics;
mod mirrors;
mod odd;
mod overlap;
mod packs;
mod pr_check;
mod republish;
mod rewrites;
mod seaweed;
mod secrets;
mod settings;
mod shards;
mod shipping;
mod site;
mod status_page;
mod support;
mod sync;
mod targets;
mod terminal;
mod transport;
mod webhook;
