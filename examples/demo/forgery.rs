//! Objects in the bucket that the producer did not put there.

use std::rc::Rc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use testbed::archive::Naming;
use testbed::repo::Repo;

use crate::near::key_is_for;
use crate::programs::Side::{Far, Near};
use crate::programs::{PATIENCE, POLL_INTERVAL};
use crate::{Demo, REPLAYED, TARGETS};

/// The target that somebody else writes an object for.
const FORGED: [&str; 4] = TARGETS[3];

impl Demo {
    pub fn forgery(&mut self) -> Result<()> {
        let (story, world) = (Rc::clone(&self.story), &self.world);
        let [forged, replayed] = [FORGED, REPLAYED].map(|[_, _, project, branch]| format!("{project}@{branch}"));
        story.say(
            "Somebody can write to the bucket, and has the public key that everything is encrypted with. They put two objects \
             there:",
        );
        let [_, _, project, branch] = FORGED;
        let repo = Repo::small(self.folder().join("forged"), 1)?;
        repo.commit("main", &[("src/door.txt", "open\n")], "Not from the near side")?;
        let their_commit = repo.head("main").context("no commit")?;
        world.put_head(&repo, "main", project, branch, Naming::Zip)?;
        story.bullet(&format!("for {forged}, with a commit of their own"));
        self.put_back()?;
        story.bullet(&format!("for {replayed}, the one that the producer signed before the forty commits"));

        let heads = || [FORGED, REPLAYED].map(|[_, _, project, branch]| world.far_head(project, branch));
        let before = heads();
        let refused = self.run(Far, &["-run-once"])?.exits_with(1)?;
        let is_refused = |name: &str, why: &str| {
            let mut lines = refused.log.lines().filter(|line| line.contains(&format!("failed: {name} ")));
            lines.next().is_some_and(|line| line.contains(why))
        };
        self.check("one is refused because it is not signed", is_refused(&forged, "it is not signed"))?;
        self.check(
            "the other one is refused because it is older than what arrived",
            is_refused(&replayed, "an earlier object was put back"),
        )?;
        self.check("the far branches are where they were", heads() == before)?;

        story.say(
            "The producer's next pass replaces both. It compares with the newest object in the bucket, so it warns that the \
             branch does not descend from the forged commit. Nothing was rewritten on the near side.",
        );
        let replaced = self.run(Near, &["-run-once"])?.exits_with(0)?;
        self.check(
            "the old commit in its warning is the forged one",
            replaced.log.contains(&format!("old_commit={their_commit} ")),
        )?;
        self.run(Far, &["-run-once"])?.exits_with(0)?;
        self.check("the far branches are still where they were", heads() == before)?;
        story.proves("write access to the bucket moves no far branch, not even with an object that was right once.");
        Ok(())
    }

    /// Puts an object that a pass has replaced back into the bucket, as the newest one of its destination.
    fn put_back(&self) -> Result<()> {
        let (bucket, begun) = (self.world.bucket()?, Instant::now());
        let [_, _, project, branch] = REPLAYED;
        let (key, object) = self.replaced.as_ref().context("nothing was replaced")?;
        loop {
            bucket.put(key, object.clone())?;
            let listed = bucket.list()?;
            let own = listed.iter().find(|it| it.key == *key).map(|it| it.last_modified);
            let mut others = listed.iter().filter(|it| it.key != *key && key_is_for(&it.key, project, branch));
            // The server may know no more than seconds.
            if others.all(|other| Some(other.last_modified) < own) {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "what is put into the bucket is not the newest there");
            thread::sleep(POLL_INTERVAL);
        }
    }
}
