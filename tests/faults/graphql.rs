//! The GraphQL server fails: without a target list nothing changes.

use testbed::fault::{ALWAYS, At, Fault};

use crate::case::{Case, Outcome, Scene, any, run_all, unreachable};
use crate::common::{mishaps, words};

#[test]
fn the_target_list_is_had_whole_or_nothing_changes() {
    let mishaps = mishaps().into_iter().map(|mishap| {
        let place = |scene: &Scene, times, fault| scene.graphql.on(any("query"), times, fault);
        let case = Case::of(mishap, Outcome::NothingChanges, words, place);
        case.says("no target list from GRAPHQL_SERVER")
    });
    let mut cases: Vec<Case> = mishaps.collect();
    let no_list = |name: &str, says: &str, fault: fn(&str) -> Fault| {
        Case::new(name, Outcome::NothingChanges, move |scene| {
            let elsewhere = scene.elsewhere.url();
            scene.graphql.on(any("query"), ALWAYS, fault(&elsewhere));
        })
        .says("no target list from GRAPHQL_SERVER")
        .says(says)
    };
    cases.push(no_list("half a list", "is not what the query asks for", |_| Fault::truncate(At::Half)));
    cases.push(no_list("an empty answer", "is not what the query asks for", |_| Fault::alter(|_| vec![])));
    cases.push(no_list("redirect elsewhere", "it is another server", |to| {
        Fault::status_with(307, "location", &format!("{to}/graphql"))
    }));
    cases.push(no_list("redirect to a login page", "another kind of page", |_| {
        Fault::status_with(302, "location", "/users/sign_in")
    }));
    cases.push(no_list("redirects in a circle", "too many redirects", |_| {
        Fault::status_with(308, "location", "/graphql")
    }));
    cases.extend(unreachable("GRAPHQL_SERVER", "/graphql", Outcome::NothingChanges, words));
    run_all(cases);
}
