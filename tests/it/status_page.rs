//! The status page: what it shows, in a real browser and without scripts, to whoever looks in whatever way.
//!
//! What it looks like is left in `target/screenshots`, for people to see.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use testbed::archive::Naming;
use testbed::git::Protection;
use testbed::graphql::{Canned, SyncTarget};
use testbed::world::World;

use crate::browser::{Browser, ENTER, SPACE, TAB};
use crate::signatures::Signer;
use crate::site::{address, get, pass_now};
use crate::support::{Daemon, PATIENCE, consumer, program, wait_until};

/// How many updates there would have been in this time, if there were any: a page with work on it is fetched every two
/// seconds.
const UPDATES_WOULD_COME: Duration = Duration::from_secs(5);

/// The least contrast between a text and what is behind it, with the text, and that between a control's edge, or its
/// whole surface, and what is around it. WCAG asks for 4.5 and 3.
const LEAST_CONTRASTS: &str = r"
    const rgb = (text) => { const n = text.match(/[\d.]+/g).map(Number); return { c: n.slice(0, 3), a: n[3] ?? 1 }; };
    const light = (c) => {
        const [r, g, b] = c.map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = (e) => {
        for (; e; e = e.parentElement) { const b = rgb(getComputedStyle(e).backgroundColor); if (b.a > .99) return b.c; }
        return [255, 255, 255];
    };
    const contrast = (a, b) => {
        const [x, y] = [light(a), light(b)];
        return (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
    };
    let [text, edge] = [[99, ''], [99, '']];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || ['SCRIPT', 'TITLE'].includes(e.tagName.toUpperCase())) continue;
        const found = contrast(rgb(getComputedStyle(e).color).c, behind(e));
        if (found < text[0]) text = [found, walk.currentNode.data];
    }
    for (const e of document.querySelectorAll('input:not([type=hidden]), button:not([hidden]), .chip')) {
        const around = behind(e.parentElement);
        const found = Math.max(contrast(rgb(getComputedStyle(e).borderTopColor).c, around), contrast(behind(e), around));
        if (found < edge[0]) edge = [found, e.outerHTML];
    }
    return [text, edge];";

/// Counts the page's requests in `asked`, and lets each take a moment.
const COUNT_REQUESTS: &str = "
    window.asked = 0;
    const real = window.fetch;
    window.fetch = async (...all) => {
        window.asked++;
        await new Promise((go) => setTimeout(go, 500));
        return real(...all);
    };";

/// A world with `count` projects in sync, and a daemon in it after its first pass.
fn in_sync(count: usize) -> (World, Daemon) {
    let world = World::builder().sleep("1h").setting("SYNC_CONCURRENCY", "4").start().unwrap();
    for number in 0..count {
        let (group, name) = [("platform", "api"), ("data", "models"), ("docs", "handbook")][number % 3];
        let project = format!("{group}/{name}-{number}");
        world.project(&project).unwrap();
        world.sync(&project, "main", &format!("mirror/{project}"), "main").unwrap();
    }
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    (world, daemon)
}

/// Makes some targets fail, in different ways.
fn break_some(world: &World) {
    world.sync("billing/reports", "main", "mirror/billing/reports", "main").unwrap();
    world.sync("platform/api-0", "release/2.4", "mirror/platform/api-0", "release/2.4").unwrap();
    world.source.repo("data/models-1").unwrap().commits("main", 1).unwrap();
    world.s3().fail("PutObject", "AccessDenied", 1);
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("http://{}{path}", address(daemon))
}

/// Pictures in light and dark, wide and narrow; nothing sticks out, nothing is hard to read.
#[track_caller]
fn looks_good(browser: &Browser, name: &str) {
    for (width, size) in [(1280, "wide"), (390, "narrow")] {
        for (dark, scheme) in [(false, "light"), (true, "dark")] {
            browser.look(width, dark);
            browser.screenshot(&format!("{name}-{size}-{scheme}"));
            let scroll = browser.script("return document.documentElement.scrollWidth;");
            assert!(scroll.as_u64().unwrap() <= u64::from(width), "{name} is {scroll} wide on {width}");
            let least = browser.script(LEAST_CONTRASTS);
            assert!(least[0][0].as_f64().unwrap() >= 4.5, "{name} {scheme}: contrast {least}");
            assert!(least[1][0].as_f64().unwrap() >= 3.0, "{name} {scheme}: contrast {least}");
        }
    }
    browser.look(1280, false);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn an_operator_sees_at_a_glance_that_all_is_well() {
    let (_world, daemon) = in_sync(12);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "All 12 targets are in sync");
    assert_eq!(browser.text("document.querySelectorAll('tbody tr:not(.section)').length"), "12");
    assert_eq!(browser.text("document.querySelectorAll('.card').length"), "0");
    let groups = browser.text("[...document.querySelectorAll('.section')].map((row) => row.innerText).join('; ')");
    assert_eq!(groups, "mirror/data 4 in sync; mirror/docs 4 in sync; mirror/platform 4 in sync");
    looks_good(&browser, "well");

    // On a phone, too, a healthy target takes one line.
    for width in [1280, 390] {
        browser.look(width, false);
        let heights = "[...document.querySelectorAll('tbody tr:not(.section)')].map((row) => row.offsetHeight)";
        let highest = browser.script(&format!("return Math.max(...{heights});")).as_f64().unwrap();
        assert!(highest < 42.0, "{highest} px on {width}");
    }
    browser.look(1280, false);
    let beside = "document.querySelector('.chart').getBoundingClientRect().top
        < document.getElementById('verdict').getBoundingClientRect().bottom";
    assert_eq!(browser.text(beside), "true", "the passes are beside the verdict");

    browser.script("document.querySelector('.section a').click();");
    let rows = || browser.text("document.querySelectorAll('tbody tr:not(.section)').length");
    wait_until("one group is shown", || browser.text("location.search") == "?group=mirror%2Fdata" && rows() == "4");
    assert_eq!(browser.text("document.querySelector('.only b').innerText"), "group mirror/data");
    assert_eq!(browser.text("document.getElementById('chip-in_sync').innerText"), "In sync 4");
}

#[test]
fn an_operator_sees_what_is_wrong_since_when_and_what_to_do() {
    let (world, daemon) = in_sync(12);
    break_some(&world);
    pass_now(&daemon);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "3 of 14 targets need attention");
    let cards = browser.text("[...document.querySelectorAll('.card')].map((card) => card.innerText).join('\\n')");
    for part in [
        "Source branch cannot be read",
        "2 targets",
        "mirror/billing/reports@main",
        "404 Not Found",
        "has no branch release/2.4",
        "What to do: Does the project still exist",
        "Uploading to S3 fails",
        "check the bucket's policy",
    ] {
        assert!(cards.contains(part), "no {part:?} in {cards}");
    }
    assert!(cards.contains(", seen "), "when it was seen last: {cards}");
    let row = "document.querySelector('tbody tr.failing')";
    let source = browser.text(&format!("{row}.querySelector('.from a').href"));
    assert_eq!(source, format!("{}/data/models-1/-/tree/main", world.source.url()), "its source, in GitLab");
    let strip = browser.text(&format!("{row}.querySelector('.strip svg').getAttribute('aria-label')"));
    assert_eq!(strip, "Last outcomes: 1 in sync, 1 failed; the newest: failed");
    assert_eq!(browser.text(&format!("{row}.querySelector('th').innerText")), "mirror/data/models-1 main");
    browser.script(&format!("{row}.querySelector('summary').click();"));
    let details = browser.text(&format!("{row}.querySelector('dl').innerText"));
    let commit = &crate::site::status(&daemon)["targets"][1]["commit"];
    for part in ["Commit", commit.as_str().unwrap(), "Published", " UTC", "Failing since", "Error last seen"] {
        assert!(details.contains(part), "no {part:?} in {details}");
    }
    browser.script(&format!("{row}.querySelector('details').open = false;"));
    let bars = "[...document.querySelectorAll('.chart line:not(.longest)')].map((bar) => bar.className.baseVal)";
    assert_eq!(browser.text(bars), "bar success,bar incomplete");
    let states =
        browser.text("[...document.querySelectorAll('tbody tr:not(.section)')].map((row) => row.className).join(' ')");
    assert!(states.starts_with("failing blocked blocked in_sync in_sync"), "trouble comes first: {states}");
    looks_good(&browser, "failing");

    world.graphql.respond_with(Canned::errors("the bundle is being built"));
    pass_now(&daemon);
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The last pass failed, and nothing was changed");
    let verdict = browser.text("document.getElementById('verdict').innerText");
    for part in ["the bundle is being built", "What to do: If the server names a field or the query"] {
        assert!(verdict.contains(part), "no {part:?} in {verdict}");
    }
    assert_eq!(browser.text(bars), "bar success,bar incomplete,bar failed,flag failed");
    assert_eq!(
        browser.text("document.querySelector('.legend').innerText").split_whitespace().collect::<Vec<_>>().join(" "),
        "1 succeeded 1 incomplete 1 failed"
    );
    looks_good(&browser, "no-target-list");
}

#[test]
fn an_operator_sees_work_go_on_without_reloading() {
    let (world, daemon) = in_sync(3);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    browser.script("document.querySelector('details').open = true;");
    world.source.repo("platform/large").unwrap().fill_incompressible(40, 3).unwrap();
    world.sync("platform/large", "main", "mirror/platform/large", "main").unwrap();
    world.source.repo("data/models-1").unwrap().commits("main", 1).unwrap();
    world.s3().hold("CompleteMultipartUpload");
    world.s3().hold("PutObject");
    daemon.signal(rustix::process::Signal::USR1);
    world.s3().wait_until_held(PATIENCE).unwrap();
    wait_until("the page shows the work", || {
        let now = browser.text("document.getElementById('now').innerText");
        now.contains("mirror/data/models-1@main") && now.contains("40.0 MiB of 40.0 MiB") && now.contains("/s")
    });
    let small = "document.querySelector('.running [data-key=\"mirror/data/models-1@main\"] progress')";
    assert_eq!(browser.text(&format!("{small}.matches(':indeterminate')")), "true", "one request has no progress");
    wait_until("and what is behind", || browser.text("document.title").contains("being brought up to date"));
    looks_good(&browser, "busy");
    world.s3().release();
    wait_until("the page shows that it is done", || {
        browser.text("document.querySelector('h1').innerText") == "All 4 targets are in sync"
    });
    assert_eq!(browser.text("document.getElementById('now').innerText.trim()"), "");
    wait_until("the list of passes has grown, and is open still", || {
        browser.text("document.querySelector('details[open]').innerText").contains("on demand")
    });
    daemon.stop().succeeded();
    wait_until("the page says that the program is gone", || {
        browser.text("document.getElementById('connection').innerText").contains("does not answer")
    });
}

#[test]
fn a_page_that_is_no_longer_true_says_so_where_one_looks() {
    let (_world, daemon) = in_sync(12);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    // It takes connections, and answers none.
    daemon.signal(Signal::STOP);
    let warning = "document.getElementById('connection').innerText";
    wait_until("the page says so", || browser.text(warning).contains("does not answer"));
    let tone =
        "getComputedStyle(document.querySelector('h1')).color === getComputedStyle(document.querySelector('dt')).color";
    assert_eq!(browser.text(tone), "true", "what was good is not green any more");
    looks_good(&browser, "stale");
    browser.look(390, false);
    browser.script("window.scrollTo(0, document.body.scrollHeight);");
    let top = browser.script("return document.getElementById('connection').getBoundingClientRect().top;");
    assert!((0.0..100.0).contains(&top.as_f64().unwrap()), "one sees it wherever one is: {top}");
    daemon.signal(Signal::CONT);
    wait_until("all is well again", || browser.text(warning).is_empty());
}

#[test]
fn a_page_that_nobody_looks_at_asks_for_nothing() {
    let (world, daemon) = in_sync(3);
    let browser = Browser::start();
    world.source.repo("data/models-1").unwrap().commits("main", 1).unwrap();
    world.s3().hold("PutObject");
    daemon.signal(Signal::USR1);
    world.s3().wait_until_held(PATIENCE).unwrap();
    browser.open(&url(&daemon, "/"));
    let asked = || browser.script("return window.asked;").as_u64().unwrap();
    browser.script(COUNT_REQUESTS);
    let hide = |hidden: bool| {
        browser.script(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'));"
        ));
    };
    wait_until("a request is on its way", || asked() == 1);
    hide(true);
    thread::sleep(UPDATES_WOULD_COME);
    assert_eq!(asked(), 1);
    hide(false);
    wait_until("updates go on", || asked() >= 3);
    let now = || browser.text("document.getElementById('now').innerText");
    assert!(now().contains("mirror/data/models-1@main"));

    // With the keyboard alone.
    browser.script("document.getElementById('pause').focus();");
    browser.press(SPACE);
    let pressed = || browser.text("document.getElementById('pause').getAttribute('aria-pressed')");
    assert_eq!(pressed(), "true");
    looks_good(&browser, "paused");
    let before = asked();
    hide(true);
    hide(false);
    world.s3().release();
    thread::sleep(UPDATES_WOULD_COME);
    assert_eq!(asked(), before);
    assert!(now().contains("mirror/data/models-1@main"), "it is as it was");
    browser.press(SPACE);
    assert_eq!(pressed(), "false");
    wait_until("the page has caught up", || now().trim().is_empty());
}

#[test]
fn a_screen_reader_hears_of_another_verdict_and_not_of_every_figure() {
    let (world, daemon) = in_sync(12);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    let heard = || browser.text("document.getElementById('announcement').textContent");
    let title = || browser.text("document.querySelector('h1').innerText");
    assert_eq!(heard(), "");
    break_some(&world);
    pass_now(&daemon);
    wait_until("it is told", || heard() == "3 of 14 targets need attention");
    world.unsync("mirror/billing/reports", "main");
    pass_now(&daemon);
    wait_until("the page shows it", || title() == "1 of 13 targets needs attention");
    assert_eq!(heard(), "3 of 14 targets need attention");
    world.unsync("mirror/platform/api-0", "release/2.4");
    pass_now(&daemon);
    wait_until("it is told that all is well", || heard() == "All 12 targets are in sync");
    browser.script("document.getElementById('q').focus();");
    browser.press("models");
    wait_until("it is told what was found", || heard() == "4 of 12 targets");
}

#[test]
fn an_operator_sees_that_the_program_hangs_and_where() {
    let world = World::builder().sleep("1h").setting("STALL_TIMEOUT", "1s").start().unwrap();
    world.source.repo("platform/large").unwrap().fill_incompressible(20, 3).unwrap();
    world.sync("platform/large", "main", "mirror/platform/large", "main").unwrap();
    world.s3().hold("CompleteMultipartUpload");
    let daemon = Daemon::spawn(program(&world, &[]));
    let browser = Browser::start();
    world.s3().wait_until_held(PATIENCE).unwrap();
    wait_until("the health check is red", || get(&daemon, "/healthz").status == 503);
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The program hangs");
    let detail = browser.text("document.querySelector('.detail').innerText");
    assert!(detail.contains("uploading mirror/platform/large@main"), "{detail}");
    assert!(browser.text("document.getElementById('now').innerText").contains("20.0 MiB of 20.0 MiB"));
    looks_good(&browser, "stalled");
}

#[test]
fn an_operator_sees_what_the_retire_guard_holds_back() {
    let (world, daemon) = in_sync(9);
    let targets = world.graphql.targets();
    world.graphql.set_targets(targets[..1].to_vec());
    pass_now(&daemon);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The retire guard holds objects back");
    let card =
        browser.text("document.querySelector('.card').innerText").split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "8 of the 9 destinations held are no longer wanted and MAX_RETIRE allows 4 in 24 h: nothing is retired",
        "Would be retired 8 of 9 Allowed in 24 h 4 Used of that 0",
        "Held back: mirror/data/models-1@main mirror/data/models-4@main mirror/data/models-7@main \
         mirror/docs/handbook-2@main mirror/docs/handbook-5@main and 3 more",
    ] {
        assert!(card.contains(part), "no {part:?} in {card}");
    }
    looks_good(&browser, "guarded");

    world.graphql.set_targets(vec![]);
    pass_now(&daemon);
    browser.open(&url(&daemon, "/"));
    let card = browser.text("document.querySelector('.card').innerText");
    assert!(card.contains("the bucket holds 9 destination(s): nothing is retired"), "{card}");
}

#[test]
fn targets_with_one_kind_of_trouble_are_shown_and_all_of_them_again() {
    let (world, daemon) = in_sync(3);
    for number in 0..7 {
        world
            .sync(&format!("billing/gone-{number}"), "main", &format!("mirror/billing/gone-{number}"), "main")
            .unwrap();
    }
    world.source.repo("data/models-1").unwrap().commits("main", 1).unwrap();
    world.s3().fail("PutObject", "AccessDenied", 1);
    pass_now(&daemon);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    let rows = || browser.text("document.querySelectorAll('tbody tr:not(.section)').length");
    let current = || browser.text("document.querySelectorAll('.chip[aria-current]').length");
    assert_eq!((rows().as_str(), current().as_str()), ("10", "1"));
    assert_eq!(browser.text("document.querySelectorAll('.only').length"), "0");
    browser.script("[...document.querySelectorAll('.card a')].find((a) => a.innerText == '2 more').click();");
    wait_until("those are shown", || rows() == "7" && browser.text("location.search") == "?cause=unreadable");
    assert_eq!(current(), "0");
    assert_eq!(browser.text("document.querySelector('.only b').innerText"), "Source branch cannot be read");
    looks_good(&browser, "one-cause");
    browser.script("document.querySelector('.only a').click();");
    wait_until("all are shown", || rows() == "10" && current() == "1");
}

#[test]
fn whatever_has_the_focus_keeps_it_when_the_page_changes() {
    let (world, daemon) = in_sync(6);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    let row = |name: &str| format!("document.querySelector('[data-key=\"mirror/{name}@main\"]')");
    let focused = |element: &str| browser.text(&format!("document.activeElement === {element}")) == "true";
    let first = || browser.text("document.querySelector('tbody tr:not(.section)').dataset.key");
    browser.script(&format!("{}.querySelector('details').open = true;", row("docs/handbook-2")));
    let summary = format!("{}.querySelector('summary')", row("platform/api-3"));
    browser.script(&format!("{summary}.focus();"));
    browser.press(ENTER);
    // Two rows go up: the one that has the focus, and another one.
    for name in ["platform/api-3", "platform/api-0"] {
        world.source.repo(name).unwrap().commits("main", 1).unwrap();
    }
    world.s3().fail("PutObject", "AccessDenied", 2);
    pass_now(&daemon);
    wait_until("they are on top", || first() == "mirror/platform/api-0@main");
    assert!(focused(&summary));
    let open = "[...document.querySelectorAll('tbody details[open]')].map((d) => d.closest('tr').dataset.key).sort()";
    assert_eq!(browser.text(open), "mirror/docs/handbook-2@main,mirror/platform/api-3@main");

    let chip = "document.getElementById('chip-in_sync')";
    browser.script(&format!("{chip}.focus();"));
    pass_now(&daemon);
    wait_until("they are down again", || first() == "mirror/data/models-1@main");
    assert!(focused(chip));
    assert_eq!(browser.text(open), "mirror/docs/handbook-2@main,mirror/platform/api-3@main");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn there_is_something_to_see_before_anything_is_known() {
    let world = World::builder().sleep("1h").start().unwrap();
    world.graphql.set_latency(PATIENCE);
    let daemon = Daemon::spawn(program(&world, &[]));
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The first pass is under way");
    looks_good(&browser, "empty");
}

#[test]
fn an_empty_target_list_is_not_green_and_the_page_says_how_to_fill_it() {
    let (_world, daemon) = in_sync(0);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The target list is empty");
    assert_eq!(browser.text("document.getElementById('verdict').className"), "verdict warn");
    let verdict = browser.text("document.getElementById('verdict').innerText");
    assert!(verdict.contains("What to do: Add a gitlabSync entry to the data of GRAPHQL_SERVER"), "{verdict}");
    looks_good(&browser, "nothing");
    browser.script("document.querySelector('.verdict a').click();");
    wait_until("it is explained", || browser.text("document.querySelector('h1').innerText") == "The target list");

    let world = World::builder().sleep("1h").start().unwrap();
    let daemon = Daemon::spawn(consumer(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The bucket holds nothing yet");
    assert!(browser.text("document.getElementById('verdict').innerText").contains("compare AWS_S3_BUCKET"));
    looks_good(&browser, "far-nothing");
}

#[test]
fn a_chain_of_increments_is_shown_on_both_sides() {
    let world = World::builder().sleep("1h").setting("CROSSING", "incremental").start().unwrap();
    world.destination.group("far").unwrap();
    let source = world.project("near/app").unwrap();
    source.fill_incompressible(1, 7).unwrap();
    world.sync("near/app", "main", "far/app", "main").unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let browser = Browser::start();
    let size = || browser.text("document.querySelector('tbody .num').innerText");
    browser.open(&url(&daemon, "/"));
    assert!(!size().contains("whole"), "{}", size());
    for n in 1..=2 {
        source.commits("main", 1).unwrap();
        pass_now(&daemon);
        browser.open(&url(&daemon, "/"));
        assert!(size().starts_with(&format!("whole + {n}")), "{}", size());
    }
    let details = browser.text("document.querySelector('tbody dl').textContent");
    assert!(details.contains("the whole history, and on top of it 2 increments"), "{details}");
    let saved = crate::site::status(&daemon)["targets"][0]["saved_bytes"].as_u64().unwrap();
    let objects = world.bucket().unwrap().list().unwrap();
    let (increments, wholes): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object.key.ends_with(".inc.age"));
    assert_eq!(saved, increments.iter().map(|increment| wholes[0].size - increment.size).sum::<u64>());
    assert!(details.contains("Saved by increments2.2 MiB"), "{details}");
    looks_good(&browser, "chain");
    drop(daemon);
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let again = crate::site::status(&daemon)["targets"][0]["saved_bytes"].as_u64().unwrap();
    assert_eq!(again, saved, "the bucket tells it to the next process");
    let far = Daemon::spawn(consumer(&world, &[]));
    far.wait_until_logged("pass done", 1);
    browser.open(&url(&far, "/"));
    assert!(size().starts_with("whole + 2"), "{}", size());
    assert_eq!(
        browser.text("document.querySelector('tbody th a[href*=\"/-/\"]').href"),
        format!("{}/far/app/-/tree/main", world.destination.url())
    );
    assert_eq!(crate::site::status(&far)["targets"][0]["increments"], 2);
    looks_good(&browser, "far-chain");
}

#[test]
fn each_side_says_who_signs_and_what_is_refused_and_why() {
    let world = World::builder().sleep("1h").start().unwrap();
    let signer = Signer::new(&world, "signing");
    world.destination.group("mirror").unwrap();
    let facts = |browser: &Browser| browser.text("document.querySelector('.verdict .facts').innerText");
    let browser = Browser::start();
    let unsigned = Daemon::spawn(program(&world, &[]));
    unsigned.wait_until_logged("pass done", 1);
    browser.open(&url(&unsigned, "/"));
    assert!(facts(&browser).contains("not signed"), "{}", facts(&browser));
    assert_eq!(crate::site::status(&unsigned)["signing_key"], serde_json::Value::Null);
    unsigned.stop().succeeded();
    for name in ["api", "models"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("mirror/{name}"), "main").unwrap();
    }
    let mut near = program(&world, &[]);
    near.env("SIGNING_KEY_FILE", signer.file());
    let near = Daemon::spawn(near);
    near.wait_until_logged("pass done", 1);
    let id = crate::site::status(&near)["signing_key"].as_str().unwrap().to_owned();
    browser.open(&url(&near, "/"));
    assert!(facts(&browser).contains(&id), "{}", facts(&browser));
    let source = world.source.repo("near/api").unwrap();
    world.put_head(&source, "main", "mirror/planted", "main", Naming::Zip).unwrap();

    let far = |trusted: &str| {
        let mut far = consumer(&world, &[]);
        far.env("TRUSTED_KEYS", trusted);
        let far = Daemon::spawn(far);
        far.wait_until_logged("pass done", 1);
        far
    };
    let origins = |daemon: &Daemon| {
        let targets = crate::site::status(daemon)["targets"].as_array().unwrap().clone();
        targets.iter().map(|it| (it["origin"].clone(), it["signed_by"].clone())).collect::<Vec<_>>()
    };
    let (signed, null) = ((serde_json::Value::from("signed"), id.clone().into()), serde_json::Value::Null);
    let trusting = far(&signer.public_key());
    assert_eq!(crate::site::status(&trusting)["trusted_keys"], serde_json::json!([id]));
    assert_eq!(origins(&trusting), [signed.clone(), signed.clone(), (null.clone(), null.clone())]);
    for again in [false, true] {
        if again {
            pass_now(&trusting);
        }
        browser.open(&url(&trusting, "/"));
        assert!(facts(&browser).contains(&id), "{}", facts(&browser));
        let card = browser.text("document.querySelector('.card').innerText");
        for part in ["mirror/planted@main", "it is not signed", "What to do: Find out who wrote the object"] {
            assert!(card.contains(part), "no {part:?} in {card}");
        }
        let column = browser.text("[...document.querySelectorAll('tbody td.origin')].map((td) => td.innerText.trim())");
        assert_eq!(column, format!("unknown,{id},{id}"), "the refused one comes first");
    }
    looks_good(&browser, "far-signed");
    trusting.stop().succeeded();

    // A process that did not deliver it does not know; and without trusted keys everything is taken.
    let taking = far("");
    assert_eq!(crate::site::status(&taking)["trusted_keys"], null);
    let unsigned = (serde_json::Value::from("unsigned"), null.clone());
    assert_eq!(origins(&taking), [(null.clone(), null.clone()), (null.clone(), null), unsigned]);
    browser.open(&url(&taking, "/"));
    assert!(facts(&browser).contains("none: unsigned objects are taken"), "{}", facts(&browser));
}

#[test]
fn the_runbook_is_served_by_the_program_itself() {
    let (_world, daemon) = in_sync(1);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    browser.script("document.getElementById('runbook').click();");
    wait_until("it is there", || browser.text("document.querySelector('h1').innerText") == "For the on-call");
    looks_good(&browser, "runbook");
    browser.script("[...document.querySelectorAll('article a')].find((a) => a.innerText == 'consumer.md').click();");
    wait_until("a link leads on", || browser.text("location.pathname") == "/docs/consumer.md");
    browser.open(&url(&daemon, "/docs/operations.md#a-target-in-trouble"));
    let top = browser.script("return document.getElementById('a-target-in-trouble').getBoundingClientRect().top;");
    assert!((0.0..300.0).contains(&top.as_f64().unwrap()), "{top}");
    browser.script("document.querySelector('.brand a').click();");
    wait_until("and back", || browser.text("location.pathname") == "/");
    assert_eq!(browser.complaints(), [""; 0]);
    for (path, status) in [("/README.md", 200), ("/docs/nothing.md", 404), ("/docs/..%2fCargo.toml", 404)] {
        assert_eq!(get(&daemon, path).status, status, "{path}");
    }
}

#[test]
fn two_thousand_targets_are_found_by_typing() {
    let (world, daemon) = in_sync(1);
    // All of them have the same source; most of the work is to show them.
    let targets =
        (0..2_000).map(|n| SyncTarget::new("platform/gone", "main", &format!("mirror/group-{}/p{n}", n % 7), "main"));
    let mut all = world.graphql.targets();
    all.extend(targets);
    world.graphql.set_targets(all);
    pass_now(&daemon);
    let page = get(&daemon, "/");
    assert!(page.body.len() < 1 << 20, "{} bytes", page.body.len());
    assert!(page.body.matches("the server answered 404 Not Found").count() <= 2 + 200, "in the details of each row");
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "2,000 of 2,001 targets need attention");
    assert_eq!(browser.text("document.querySelectorAll('tbody tr:not(.section)').length"), "200");
    browser.script("document.getElementById('next').click();");
    wait_until("the next page is there", || browser.text("document.body.innerText").contains("Page 2 of 11"));
    browser.script("document.getElementById('q').focus();");
    browser.press("P1234");
    wait_until("one row is left", || browser.text("document.querySelectorAll('tbody tr:not(.section)').length") == "1");
    assert!(browser.text("document.querySelector('tbody th[scope=row]').innerText").contains("mirror/group-2/p1234"));
    assert_eq!(browser.text("document.activeElement.id"), "q", "typing goes on");
    browser.press(" nowhere");
    wait_until("none is", || browser.text("document.getElementById('list').innerText").contains("No target matches"));
    assert_eq!(browser.complaints(), [""; 0]);
    browser.open(&url(&daemon, "/"));
    looks_good(&browser, "many");
    // With the keyboard from the last row to the next page.
    browser.script("[...document.querySelectorAll('tbody summary')].at(-1).focus();");
    browser.press(TAB);
    assert_eq!(browser.text("document.activeElement.id"), "next");
    browser.press(ENTER);
    wait_until("the next page is there", || browser.text("document.body.innerText").contains("Page 2 of 11"));
}

#[test]
fn without_scripts_everything_is_there_and_can_be_found() {
    let (world, daemon) = in_sync(12);
    break_some(&world);
    pass_now(&daemon);
    let browser = Browser::start();
    browser.allow_scripts(false);
    browser.open(&url(&daemon, "/?state=blocked&q=REPORTS"));
    assert!(browser.text("document.querySelector('#list').innerText").contains("1 of 14 targets"));
    assert_eq!(browser.text("document.querySelectorAll('tbody tr:not(.section)').length"), "1");
    assert_eq!(browser.text("document.querySelector('#chip-blocked').getAttribute('aria-current')"), "true");
    assert_eq!(browser.text("document.getElementById('pause').hidden"), "true", "there is nothing to pause");
    browser.script("document.getElementById('q').select();");
    browser.press("release\u{e007}");
    wait_until("the form was sent", || browser.text("location.search + document.readyState").contains("q=release"));
    wait_until("the page is there", || browser.text("document.readyState") == "complete");
    assert!(browser.text("location.search").contains("state=blocked"), "the state stays");
    assert_eq!(browser.text("document.querySelectorAll('tbody tr:not(.section)').length"), "1");
}

#[test]
fn keyboard_and_screen_reader_get_along() {
    let (_world, daemon) = in_sync(3);
    let browser = Browser::start();
    browser.look(1280, false);
    browser.open(&url(&daemon, "/"));
    browser.script("document.body.focus();");
    browser.press(TAB);
    assert_eq!(browser.text("document.activeElement.innerText"), "Skip to the targets");
    let mut way = vec![];
    for _ in 0..21 {
        browser.press(TAB);
        let focused = "document.activeElement.id || document.activeElement.textContent";
        way.push(browser.text(focused));
        let outline = browser.text("getComputedStyle(document.activeElement).outlineWidth");
        assert_eq!(outline, "3px", "one sees where the focus is: {way:?}");
    }
    assert_eq!(
        way,
        [
            "runbook",
            "pause",
            "List of the last passes",
            "q",
            "Find",
            "chip-",
            "chip-failing",
            "chip-blocked",
            "chip-behind",
            "chip-in_sync",
            "mirror/data",
            "data/models-1@main",
            "Details of mirror/data/models-1@main",
            "mirror/docs",
            "docs/handbook-2@main",
            "Details of mirror/docs/handbook-2@main",
            "mirror/platform",
            "platform/api-0@main",
            "Details of mirror/platform/api-0@main",
            "documentation",
            "status.json",
        ]
    );
    browser.script("document.querySelector('.skip').focus();");
    browser.press(ENTER);
    assert_eq!(browser.text("location.hash"), "#targets");
    for (what, count) in [
        ("main", "1"),
        ("h1", "1"),
        ("table caption", "1"),
        ("tbody th[scope=row]", "3"),
        ("label[for=q]", "1"),
        ("svg.chart[role=img][aria-label]", "1"),
        (".strip svg[role=img][aria-label]", "3"),
        ("[role=status] h1", "0"),
        ("#announcement[role=status]", "1"),
        ("#connection[role=status]", "1"),
        ("[title]", "0"),
        ("html[lang=en]", "1"),
        ("img:not([alt])", "0"),
    ] {
        assert_eq!(browser.text(&format!("document.querySelectorAll('{what}').length")), count, "{what}");
    }
}

#[test]
fn nothing_that_anybody_wrote_acts_on_the_page() {
    let world = World::builder().sleep("1h").setting("INSTANCE_SHARD", "<b>shard</b>").start().unwrap();
    let evil = r#""><script>document.title='owned'</script><img src=x onerror=alert(1)>"#;
    world.sync("near/gone", evil, "far/gone", evil).unwrap();
    world.graphql.respond_normally();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let browser = Browser::start();
    let query: String =
        "/?q=%22%3E%3Cscript%3Edocument.title%3D'owned'%3C/script%3E&state=%22%3E%3Ci%3E&cause=%3Ci%3E".to_owned();
    for path in ["/", &query] {
        let page = get(&daemon, path).body;
        for tag in ["<script>", "<img src=x", "<b>shard", "<i>"] {
            assert!(!page.contains(tag), "{tag} in {path}");
        }
        browser.open(&url(&daemon, path));
        assert_ne!(browser.text("document.title"), "owned");
        assert_eq!(browser.text("document.scripts.length"), "1");
        assert_eq!(browser.complaints(), [""; 0]);
    }
    assert!(get(&daemon, "/").body.contains("&#60;script&#62;"), "it is shown");
}

#[test]
fn the_consumer_s_page_shows_the_far_side_what_waits_and_why() {
    let world = World::builder().sleep("1h").start().unwrap();
    for name in ["api", "models", "handbook"] {
        let repo = world.project(&format!("near/{name}")).unwrap();
        world.put_head(&repo, "main", &format!("mirror/platform/{name}"), "main", Naming::Zip).unwrap();
        world.destination.repo(&format!("mirror/platform/{name}")).unwrap();
    }
    let daemon = Daemon::spawn(consumer(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "All 3 destinations are in sync");
    looks_good(&browser, "far-well");

    let published = world.far_head("mirror/platform/models", "main").unwrap();
    let source = world.source.repo("near/models").unwrap();
    source.commits("main", 1).unwrap();
    world.put_head(&source, "main", "mirror/platform/models", "main", Naming::Zip).unwrap();
    world.destination.protect("mirror/platform/models", "main", Protection::NoPush);
    pass_now(&daemon);
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "1 of 3 destinations needs attention");
    let card = browser.text("document.querySelector('.card').innerText");
    for part in ["Far branch is protected", "mirror/platform/models@main", "Protected branches", "not allowed to push"]
    {
        assert!(card.contains(part), "no {part:?} in {card}");
    }
    let row = browser.text("document.querySelector('tbody tr:not(.section)').innerText");
    let waiting = source.head("main").unwrap();
    for part in [&published[..10], &waiting[..10], "→"] {
        assert!(row.contains(part), "no {part:?} in {row}");
    }
    looks_good(&browser, "far-trouble");
}
