//! Passes of both sides, one after the other.

use anyhow::{Context as _, Result};
use git_partition_sync_producer::text::human_bytes;
use testbed::bucket::StoredObject;

use crate::near::key_is_for;
use crate::programs::Run;
use crate::programs::Side::{Far, Near};
use crate::{Demo, REMOVED, REPLAYED, TARGETS, projects, still_wanted};

impl Demo {
    pub fn quiet_passes(&mut self) -> Result<()> {
        self.world.source.clear_requests();
        let pass = self.run(Near, &["-run-once"])?.exits_with(0)?;
        let requests = self.world.source.requests();
        let bytes: u64 = requests.iter().map(|request| request.response_bytes).sum();
        self.check("apart from its start, it logged one line", logged_after_start(&pass) == 1)?;
        self.check(
            &format!("{} requests to the GitLab, {} of answers, nothing fetched", requests.len(), human_bytes(bytes)),
            requests.len() == projects() && self.fetched() == 0,
        )?;
        self.world.destination.clear_requests();
        let pass = self.run(Far, &["-run-once"])?.exits_with(0)?;
        let requests = self.world.destination.requests().len();
        self.check("apart from its start, it logged one line", logged_after_start(&pass) == 1)?;
        self.check(
            &format!("{requests} requests to the GitLab, nothing downloaded, nothing pushed"),
            requests == projects() && self.pushes().is_empty(),
        )?;
        self.story.proves("a pass without changes costs one small request per project.");
        Ok(())
    }

    pub fn second_passes(&mut self) -> Result<()> {
        let world = &self.world;
        world.source.clear_requests();
        world.destination.clear_requests();
        let bucket = world.bucket()?;
        let before = bucket.keys()?;
        let [_, _, project, branch] = REPLAYED;
        let replaced = before.iter().find(|key| key_is_for(key, project, branch)).context("not in the bucket")?;
        let replaced = (replaced.clone(), bucket.get(replaced)?);
        self.run(Near, &["-run-once"])?.exits_with(0)?;
        let after = bucket.list()?;
        let new = after.iter().filter(|object| !before.contains(&object.key)).count();
        self.check("three objects are new", new == 3)?;
        let gone = before.iter().filter(|key| after.iter().all(|object| object.key != **key)).count();
        self.check("three are gone: two that were replaced, and that of the removed target", gone == 3)?;
        let [_, _, api, branch] = TARGETS[0];
        let of_api = after.iter().filter(|object| key_is_for(&object.key, api, branch));
        let (increments, wholes): (Vec<_>, Vec<_>) = of_api.partition(|object| object.key.ends_with(".inc.age"));
        let bytes = |objects: &[&StoredObject]| objects.iter().map(|object| object.size).sum::<u64>();
        let (increment, whole) = (bytes(&increments), bytes(&wholes));
        self.check(
            &format!(
                "the one commit of {api} is an object of {}, its whole history one of {}",
                human_bytes(increment),
                human_bytes(whole)
            ),
            increments.len() == 1 && wholes.len() == 1 && increment * 100 < whole,
        )?;
        let (fetched, at_first) = (self.fetched(), self.fetched_at_first);
        self.check(
            &format!("{} were fetched; the first pass needed {}", human_bytes(fetched), human_bytes(at_first)),
            fetched > 0 && fetched * 20 < at_first,
        )?;

        let pass = self.run(Far, &["-run-once"])?.exits_with(0)?;
        self.check("it delivered the three, and warns about the rewritten one", {
            pass.log.contains("delivered=3 ") && pass.log.contains("replaced: mirror/data/pipelines@main")
        })?;
        let one = self.pushed_to(api).first().copied().unwrap_or_default();
        let pack = bytes_in(&pass.log, &format!(" delivered {api}@{branch} ")).context("no pack in the log")?;
        self.check(
            &format!(
                "the one commit of {api} was a push of {}: a pack of {} (`bytes` in the log) and the ref update",
                human_bytes(one),
                human_bytes(pack)
            ),
            pack < one && one < 2_000,
        )?;
        let (pushed, at_first) = (self.pushes().iter().sum(), self.pushed_at_first);
        self.check(
            &format!("all pushes had {}; those of the first pass had {}", human_bytes(pushed), human_bytes(at_first)),
            pushed > 0 && pushed * 20 < at_first,
        )?;
        let [_, _, removed, branch] = REMOVED;
        self.check(
            &format!("{removed} is still in the far GitLab: the consumer deletes nothing there"),
            world.far_head(removed, branch).is_some(),
        )?;
        self.check_histories(&still_wanted(), &world.destination, "on both sides")?;
        self.replaced = Some(replaced);
        self.story.proves("only what changed is fetched, crosses and is pushed.");
        Ok(())
    }

    /// The sizes of the pushes to one project of the far GitLab.
    fn pushed_to(&self, project: &str) -> Vec<u64> {
        let path = format!("/{project}.git/git-receive-pack");
        let requests = self.world.destination.requests().into_iter();
        requests.filter(|request| request.path == path).map(|request| request.request_bytes).collect()
    }
}

/// The field `bytes` of the first log line that says this.
fn bytes_in(log: &str, text: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains(text))?;
    line.split(' ').find_map(|field| field.strip_prefix("bytes="))?.parse().ok()
}

/// How many lines a program logged after the one that says what it is set to do.
fn logged_after_start(run: &Run) -> usize {
    run.log.lines().count().saturating_sub(1)
}
