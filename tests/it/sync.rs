//! What a pass does for a target list: what appears in the bucket, what goes, and what reaches the far side.

use testbed::git::GitOperation;
use testbed::judge;
use testbed::repo::Repo;
use testbed::world::World;

use crate::support::{assert_holds, count, keys, operations, pass, run, zip_key};

#[test]
fn first_sync_of_many_publishes_every_head() {
    let world = World::start().unwrap();
    let mut expected = vec![];
    for n in 0..30 {
        let source = world.project(&format!("near/p{n}")).unwrap();
        world.sync(&format!("near/p{n}"), "main", &format!("far/p{n}"), "main").unwrap();
        let head = source.head("main").unwrap();
        expected.push((zip_key(&format!("far/p{n}"), "main", &head), source, head));
    }
    expected.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let run = pass(&world).succeeded().logged("published=30");
    assert_eq!(keys(&world), expected.iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>(), "{}", run.log);
    for (key, source, head) in expected.iter().step_by(10) {
        assert_holds(&world, key, source, head, "main");
    }
}

#[test]
fn pass_without_news_is_one_log_line_and_no_transfer() {
    let world = World::start().unwrap();
    for n in 0..3 {
        world.project(&format!("near/p{n}")).unwrap();
        world.sync(&format!("near/p{n}"), "main", &format!("far/p{n}"), "main").unwrap();
    }
    pass(&world).succeeded();
    let before = world.s3().objects();
    world.source.clear_requests();
    world.s3().clear_requests();

    let quiet = pass(&world).succeeded();
    assert_eq!(quiet.lines().len(), 1, "{}", quiet.log);
    assert!(quiet.log.contains("INFO") && quiet.log.contains("unchanged=3"), "{}", quiet.log);
    assert_eq!(quiet.out, "");
    assert_eq!(operations(&world.source.requests()), ["ls-refs"; 3]);
    let requests = world.s3().requests();
    assert_eq!(count(&requests, "ListObjectsV2"), 1);
    let others: Vec<_> = requests.iter().filter(|request| !request.is("ListObjectsV2")).collect();
    assert!(others.len() <= 1 && others.iter().all(|request| request.is("ListMultipartUploads")), "{others:#?}");
    assert_eq!(world.s3().objects(), before);
}

#[test]
fn new_commit_replaces_the_object() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let destination = world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let mut far_side = world.consumer().unwrap();
    far_side.pass().unwrap();
    let old = source.head("main").unwrap();

    let new = source.commit("main", &[("news.txt", "news\n")], "News").unwrap();
    pass(&world).succeeded().logged("the source branch has a new commit").logged("published=1");
    assert_ne!(old, new);
    assert_eq!(keys(&world), [zip_key("far/app", "main", &new)]);
    assert_holds(&world, &keys(&world)[0], &source, &new, "main");
    far_side.pass().unwrap();
    assert_eq!(destination.head("main"), Some(new));
}

#[test]
fn removed_target_is_retired_and_the_others_stay() {
    let world = World::start().unwrap();
    for name in ["stays", "goes"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    pass(&world).succeeded();
    world.unsync("far/goes", "main");
    pass(&world).succeeded().logged("retired far/goes@main").logged("retired=1");
    let stays = world.project("near/stays").unwrap().head("main").unwrap();
    assert_eq!(keys(&world), [zip_key("far/stays", "main", &stays)]);
}

#[test]
fn destination_branch_may_differ_from_the_sources() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let destination = world.sync("near/app", "main", "far/app", "production").unwrap();
    pass(&world).succeeded();
    let head = source.head("main").unwrap();
    let key = zip_key("far/app", "production", &head);
    assert_eq!(keys(&world), [&*key]);
    assert_holds(&world, &key, &source, &head, "production");
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(
        destination.refs().unwrap().into_iter().collect::<Vec<_>>(),
        [("refs/heads/production".to_owned(), head)]
    );
}

#[test]
fn branches_that_could_not_stand_side_by_side_cross_together() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let rel = source.commits("feature/deep/er", 2).unwrap();
    let rel_1 = source.commits("rel/1", 3).unwrap();
    world.sync("near/app", "feature/deep/er", "far/app", "rel").unwrap();
    let other = world.sync("near/app", "rel/1", "far/other", "rel/1").unwrap();
    let third = world.sync("near/app", "main", "far/app", "rel/1").unwrap();
    pass(&world).succeeded();
    let main = source.head("main").unwrap();
    let mut expected =
        [zip_key("far/app", "rel", &rel), zip_key("far/app", "rel/1", &main), zip_key("far/other", "rel/1", &rel_1)];
    expected.sort();
    assert_eq!(keys(&world), expected);
    assert_holds(&world, &zip_key("far/app", "rel", &rel), &source, &rel, "rel");
    assert_holds(&world, &zip_key("far/app", "rel/1", &main), &source, &main, "rel/1");
    assert_holds(&world, &zip_key("far/other", "rel/1", &rel_1), &source, &rel_1, "rel/1");

    // One repository cannot hold both, so the far side takes them one after the other.
    world.unsync("far/app", "rel");
    pass(&world).succeeded();
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(third.head("rel/1"), Some(main));
    assert_eq!(other.head("rel/1"), Some(rel_1));
}

#[test]
fn nested_groups_and_equal_names_are_kept_apart() {
    let world = World::start().unwrap();
    let mut expected = vec![];
    for (source, destination) in
        [("a/app", "far/a/app"), ("b/app", "far/b/app"), ("a/b/c/d/app", "far/deep/er/still/app")]
    {
        let repo = world.project(source).unwrap();
        let far = world.sync(source, "main", destination, "main").unwrap();
        expected.push((repo.head("main").unwrap(), far, destination));
    }
    pass(&world).succeeded();
    world.consumer().unwrap().pass().unwrap();
    for (head, far, destination) in &expected {
        assert!(keys(&world).contains(&zip_key(destination, "main", head)));
        assert_eq!(far.head("main").as_ref(), Some(head), "{destination}");
    }
    assert_eq!(keys(&world).len(), 3);
}

#[test]
fn two_branches_of_one_project_take_one_probe() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let stable = source.commits("stable", 4).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    world.sync("near/app", "stable", "far/app", "stable").unwrap();
    pass(&world).succeeded();
    assert_eq!(operations(&world.source.requests()), ["fetch", "fetch", "ls-refs"]);
    let main = source.head("main").unwrap();
    assert_holds(&world, &zip_key("far/app", "main", &main), &source, &main, "main");
    assert_holds(&world, &zip_key("far/app", "stable", &stable), &source, &stable, "stable");
}

#[test]
fn branch_whose_name_only_begins_like_the_wanted_one_is_not_taken() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    source.commits("main-2", 1).unwrap();
    source.commits("mainline/x", 1).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    assert_eq!(keys(&world), [zip_key("far/app", "main", &source.head("main").unwrap())]);
}

#[test]
fn changed_destination_branch_moves_the_same_commit() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    world.unsync("far/app", "main");
    world.sync("near/app", "main", "far/app", "trunk").unwrap();
    world.source.clear_requests();

    pass(&world).succeeded().logged("published=1").logged("retired=0");
    let head = source.head("main").unwrap();
    assert_eq!(keys(&world).len(), 2, "the old one stays until the new one is up");
    pass(&world).succeeded().logged("published=0").logged("retired=1");
    assert_eq!(keys(&world), [zip_key("far/app", "trunk", &head)]);
    assert_holds(&world, &keys(&world)[0], &source, &head, "trunk");
    assert_eq!(operations(&world.source.requests()), ["ls-refs"; 2], "the kept repository serves, nothing is fetched");
}

#[test]
fn names_in_any_script_cross() {
    let world = World::start().unwrap();
    let source = world.project("nähe/проект-世界").unwrap();
    let head = source.commits("wörk/分支-🦀", 2).unwrap();
    let destination = world.sync("nähe/проект-世界", "wörk/分支-🦀", "fern/ziel-é", "ветка/日本").unwrap();
    pass(&world).succeeded();
    let key = zip_key("fern/ziel-é", "ветка/日本", &head);
    assert_eq!(keys(&world), [&*key]);
    assert_holds(&world, &key, &source, &head, "ветка/日本");
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head("ветка/日本"), Some(head));
}

#[test]
fn odd_repository_crosses_whole() {
    let world = World::start().unwrap();
    let source = Repo::odd(world.source.repo_path("near/odd")).unwrap();
    let destination = world.sync("near/odd", "main", "far/odd", "main").unwrap();
    world.sync("near/odd", "wörk/分支", "far/odd", "work").unwrap();
    pass(&world).succeeded();
    for (from, to) in [("main", "main"), ("wörk/分支", "work")] {
        let head = source.head(from).unwrap();
        assert_holds(&world, &zip_key("far/odd", to, &head), &source, &head, to);
    }
    world.consumer().unwrap().pass().unwrap();
    destination.fsck().unwrap();
    for (from, to) in [("main", "main"), ("wörk/分支", "work")] {
        let here = judge::object_names(source.path(), &format!("refs/heads/{from}")).unwrap();
        assert_eq!(judge::object_names(destination.path(), &format!("refs/heads/{to}")).unwrap(), here);
    }
}

#[test]
fn repository_of_one_empty_commit_crosses() {
    let world = World::start().unwrap();
    let source = world.source.repo("near/empty").unwrap();
    let none: [(&str, &str); 0] = [];
    let head = source.commit("main", &none, "Nothing yet").unwrap();
    let destination = world.sync("near/empty", "main", "far/empty", "main").unwrap();
    pass(&world).succeeded();
    assert_holds(&world, &zip_key("far/empty", "main", &head), &source, &head, "main");
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.head("main"), Some(head));
}

#[test]
fn tags_and_other_branches_stay_behind() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    source.branch_from("secret", "main").unwrap();
    source.commit("secret", &[("secret.txt", "not for the far side\n")], "Secret").unwrap();
    source.git(&["tag", "v1", "main"]).unwrap();
    source.git(&["tag", "v2-secret", "secret"]).unwrap();
    let destination = world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let head = source.head("main").unwrap();
    assert_holds(&world, &keys(&world)[0], &source, &head, "main");
    world.consumer().unwrap().pass().unwrap();
    assert_eq!(destination.refs().unwrap().into_keys().collect::<Vec<_>>(), ["refs/heads/main"]);
}

#[test]
fn one_source_can_feed_several_destinations() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    let head = source.head("main").unwrap();
    for destination in ["far/one", "far/two", "far/three"] {
        world.sync("near/app", "main", destination, "main").unwrap();
    }
    pass(&world).succeeded().logged("published=3");
    for destination in ["far/one", "far/two", "far/three"] {
        assert_holds(&world, &zip_key(destination, "main", &head), &source, &head, "main");
    }
    assert_eq!(operations(&world.source.requests()), ["fetch", "ls-refs"], "one fetch serves all three");
}

#[test]
fn a_renamed_destination_stays_as_long_as_its_successor_cannot_be_published() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let old = keys(&world);
    world.unsync("far/app", "main");
    world.sync("near/app", "main", "mirror/renamed", "main").unwrap();
    // Another commit and another name: only the record under WORKDIR knows that it is the same project.
    source.commits("main", 1).unwrap();
    for _ in 0..2 {
        world.s3().fail("PutObject", "AccessDenied", 1);
        pass(&world).failed().logged("destinations without a target are kept for now").logged("mirror/renamed@main");
        assert_eq!(keys(&world), old);
    }
    pass(&world).succeeded().logged("published mirror/renamed@main");
    pass(&world).succeeded().logged("retired far/app@main");
    assert_eq!(keys(&world), [zip_key("mirror/renamed", "main", &source.head("main").unwrap())]);
}

#[test]
fn a_renamed_destination_whose_source_cannot_be_read_is_not_retired() {
    let world = World::start().unwrap();
    world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let old = keys(&world);
    world.unsync("far/app", "main");
    world.sync("near/app", "mian", "mirror/renamed", "main").unwrap();
    let run = run(&world, &["-run-once", "-output=json"]).failed().logged("blocked: mirror/renamed@main");
    assert_eq!(keys(&world), old);
    let kept = &run.json()["held_retirements"][0];
    assert_eq!((&kept["project"], &kept["objects"]), (&"app".into(), &1.into()));
    // The typo is corrected: the successor comes first.
    world.unsync("mirror/renamed", "main");
    world.sync("near/app", "main", "mirror/renamed", "main").unwrap();
    pass(&world).succeeded().logged("published mirror/renamed@main").logged("retired=0");
    pass(&world).succeeded().logged("retired far/app@main");
}

#[test]
fn an_object_published_again_because_its_branch_moved_back_is_not_deleted_as_superseded() {
    let world = World::start().unwrap();
    let source = world.project("near/app").unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    pass(&world).succeeded();
    let old = source.head("main").unwrap();
    source.commits("main", 1).unwrap();
    let (back, to) = (source.clone(), old.clone());
    // Between probe and fetch: the planned commit is gone, and the branch is where the held object is.
    world.source.before("near/app", GitOperation::Fetch, move || {
        back.git(&["update-ref", "refs/heads/main", &to]).unwrap();
        back.prune().unwrap();
    });
    pass(&world).succeeded().logged("published far/app@main");
    let key = zip_key("far/app", "main", &old);
    assert_eq!(keys(&world), [key.as_str()]);
    assert_holds(&world, &key, &source, &old, "main");
}
