//! What a pass does to the bucket, through to the far side.

use testbed::judge;
use testbed::world::World;

use crate::support::{keys, pass, zip_key};

#[test]
fn first_sync_publishes_every_target_and_the_second_pass_is_quiet() {
    let world = World::start().unwrap();
    let mut expected = vec![];
    for n in 0..5 {
        let repo = world.project(&format!("near/p{n}")).unwrap();
        world.sync(&format!("near/p{n}"), "main", &format!("far/p{n}"), "main").unwrap();
        expected.push(zip_key(&format!("far/p{n}"), "main", &repo.head("main").unwrap()));
    }
    expected.sort();
    let first = pass(&world).succeeded();
    assert_eq!(keys(&world), expected, "{}", first.log);
    let content = world.unpack(&expected[0]).unwrap();
    judge::git_fsck(&content).unwrap();

    world.source.clear_requests();
    world.s3().clear_requests();
    let second = pass(&world).succeeded();
    assert_eq!(second.log.lines().count(), 1, "{}", second.log);
    assert_eq!(world.source.requests().len(), 5);
    println!(
        "{:#?}",
        world.s3().requests().iter().map(|r| format!("{} {} {:?}", r.method, r.path, r.query)).collect::<Vec<_>>()
    );
    println!("{}{}", first.log, second.log);
}
