//! A stand-in for `crate::deliver`: it lists the bucket, shows each destination as behind, and delivers nothing.
//!
//! THE LEAD REMOVES IT.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bucket::{Bucket, BucketError};
use crate::config;
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::status::{BucketCount, PassSummary, Seen, Status, TargetState, TargetStatus, Trigger, Watched, Whole};
use crate::text::{error_chain, objects};
use crate::workdir::Workdir;

pub struct Deliverer {
    settings: config::Consume,
    bucket: Bucket,
    status: Arc<Status>,
    requested: Arc<Notify>,
}

/// What a pass would do, or did.
#[derive(Debug, Serialize)]
pub struct Plan {
    waiting: usize,
}

impl Plan {
    pub fn text(&self) -> String {
        format!("Plan: {} wait\n", objects(self.waiting))
    }

    pub fn is_clean(&self) -> bool {
        self.waiting == 0
    }

    pub fn is_success(&self) -> bool {
        self.waiting == 0
    }
}

impl Deliverer {
    pub async fn new(settings: config::Consume, roots: &TrustRoots, requested: Arc<Notify>) -> anyhow::Result<Self> {
        let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
        let status = Status::new(Program::Consumer, &settings.instance, settings.stall_timeout, settings.dry_run);
        Ok(Self { settings, bucket, status: Arc::new(status), requested })
    }

    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    pub fn open(&self) -> anyhow::Result<()> {
        Workdir::open_for(Program::Consumer, &self.settings.workdir)?;
        self.status.watches(Watched::Folder(self.settings.workdir.clone()));
        Ok(())
    }

    pub async fn preview(&self, trigger: Trigger, stop: &CancellationToken) -> Result<Plan, BucketError> {
        self.pass(trigger, stop).await
    }

    pub async fn pass(&self, trigger: Trigger, stop: &CancellationToken) -> Result<Plan, BucketError> {
        let pass = self.status.pass_begins(trigger);
        let listing = stop.run_until_cancelled(self.bucket.list()).await.unwrap_or(Err(BucketError::Stopped));
        let result = listing.map(|listing| {
            self.status.seen(pass, |known| {
                let record = |object: &crate::model::key::HeldObject| {
                    let destination = &object.name.destination;
                    let since = known.since(destination, TargetState::Behind, None);
                    let record = TargetStatus {
                        waiting: Some(object.name.commit.clone()),
                        bytes: Some(object.bytes),
                        published: Some(object.last_modified),
                        pending: Some("nothing is delivered yet".to_owned()),
                        ..TargetStatus::new(destination, TargetState::Behind, since)
                    };
                    (destination.clone(), Arc::new(record))
                };
                let bucket = BucketCount { objects: listing.held.len(), foreign: listing.foreign.count };
                Seen {
                    records: listing.held.iter().map(record).collect(),
                    actions: 0,
                    whole: Some(Whole { bucket, budget: None, guard: None }),
                }
            });
            tracing::info!("pass done");
            Plan { waiting: listing.held.len() }
        });
        let summary = result.as_ref().map_err(|error| error_chain(error)).map(|plan| PassSummary {
            success: plan.is_success(),
            transferred: 0,
            retired: 0,
            troubled: 0,
        });
        self.status.pass_ends(pass, summary);
        result
    }

    pub async fn run(&self, stop: &CancellationToken) {
        let mut trigger = Some(Trigger::Schedule);
        while let Some(began_by) = trigger {
            if let Err(error) = self.pass(began_by, stop).await {
                tracing::error!("the pass failed: {}", error_chain(&error));
            }
            trigger = self.wait(stop).await;
        }
    }

    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        self.status.sleeps(self.settings.sleep);
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = tokio::time::sleep(self.settings.sleep) => Some(Trigger::Schedule),
            () = self.requested.notified() => Some(Trigger::Signal),
        }
    }
}
