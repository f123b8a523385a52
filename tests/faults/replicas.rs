//! Two processes on one bucket, each with a WORKDIR of its own.

use std::collections::BTreeSet;

use testbed::world::World;

use crate::invariants::{self, Ledger};
use crate::support::{Daemon, pass, program, s3_writes, wait_until};

/// How often something is pushed.
const ROUNDS: usize = 20;

#[test]
fn two_at_once_converge_without_loss() {
    let world = World::builder().sleep("20ms").start().unwrap();
    let names = ["a", "b", "c"];
    for name in names {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let daemons = ["first", "second"].map(|name| {
        let mut command = program(&world, &[]);
        command.env("WORKDIR", world.scratch().unwrap().join(name));
        Daemon::spawn(command)
    });
    let mut random = fastrand::Rng::with_seed(1);
    let mut ledger = Ledger::default();
    let mut before = BTreeSet::new();
    for round in 0..ROUNDS {
        let repo = world.source.repo(&format!("near/{}", names[random.usize(..names.len())])).unwrap();
        if random.u8(..5) == 0 {
            repo.force_root("main", &[("round", round.to_string())]).unwrap();
        } else {
            repo.commits("main", 1).unwrap();
        }
        ledger.note(&world);
        let first = daemons[round % 2].log().matches("pass done").count();
        daemons[round % 2].wait_until_logged("pass done", first + 1);
        let held = invariants::held(&world);
        assert!(held.is_superset(&before), "{before:?} became {held:?}");
        before = held;
    }
    wait_until("the bucket holds what is wanted", || world.s3().keys() == invariants::wanted_keys(&world));
    for daemon in daemons {
        let run = daemon.stop().succeeded();
        assert!(!run.log.contains(" ERROR "), "{}", run.log);
        invariants::check(&world, &mut ledger, &before, &run);
    }
    let run = pass(&world).succeeded();
    invariants::check_converged(&world, &run);
    world.s3().clear_requests();
    pass(&world).succeeded();
    assert_eq!(s3_writes(&world), [""; 0], "the second pass is quiet");
}
