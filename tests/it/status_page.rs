//! The status page: what it shows, in a real browser and without scripts, to whoever looks in whatever way.
//!
//! What it looks like is left in `target/screenshots`, for people to see.

use testbed::graphql::{Canned, SyncTarget};
use testbed::world::World;

use crate::browser::Browser;
use crate::site::{address, get, pass_now};
use crate::support::{Daemon, PATIENCE, program, wait_until};

/// The contrast between each text and what is behind it, the least first, with the text. WCAG asks for 4.5.
const LEAST_CONTRAST: &str = r"
    const rgb = (text) => { const n = text.match(/[\d.]+/g).map(Number); return { c: n.slice(0, 3), a: n[3] ?? 1 }; };
    const light = (c) => {
        const [r, g, b] = c.map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = (e) => {
        for (; e; e = e.parentElement) { const b = rgb(getComputedStyle(e).backgroundColor); if (b.a > .99) return b.c; }
        return [255, 255, 255];
    };
    let least = [99, ''];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || ['SCRIPT', 'TITLE'].includes(e.tagName.toUpperCase())) continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color).c), light(behind(e))];
        const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (contrast < least[0]) least = [contrast, walk.currentNode.data];
    }
    return least;";

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
            let least = browser.script(LEAST_CONTRAST);
            assert!(least[0].as_f64().unwrap() >= 4.5, "{name} {scheme}: contrast {least}");
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
    assert_eq!(browser.text("document.querySelectorAll('tbody tr').length"), "12");
    assert_eq!(browser.text("document.querySelectorAll('.card').length"), "0");
    looks_good(&browser, "well");
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
        "Source branch that cannot be read",
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
    let states = browser.text("[...document.querySelectorAll('tbody tr')].map((row) => row.className).join(' ')");
    assert!(states.starts_with("failing blocked blocked in_sync in_sync"), "trouble comes first: {states}");
    looks_good(&browser, "failing");

    world.graphql.respond_with(Canned::errors("the bundle is being built"));
    pass_now(&daemon);
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "The last pass failed, and nothing was changed");
    assert!(browser.text("document.querySelector('.detail').innerText").contains("the bundle is being built"));
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
        now.contains("mirror/data/models-1@main") && now.contains("40.0 MiB of 40.0 MiB")
    });
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
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    assert_eq!(browser.text("document.querySelector('h1').innerText"), "2,000 of 2,001 targets need attention");
    assert_eq!(browser.text("document.querySelectorAll('tbody tr').length"), "200");
    browser.script("document.getElementById('next').click();");
    wait_until("the next page is there", || browser.text("document.body.innerText").contains("Page 2 of 11"));
    browser.script("document.getElementById('q').focus();");
    browser.press("P1234");
    wait_until("one row is left", || browser.text("document.querySelectorAll('tbody tr').length") == "1");
    assert!(browser.text("document.querySelector('tbody th').innerText").contains("mirror/group-2/p1234"));
    assert_eq!(browser.text("document.activeElement.id"), "q", "typing goes on");
    browser.press(" nowhere");
    wait_until("none is", || browser.text("document.getElementById('list').innerText").contains("No target fits"));
    assert_eq!(browser.complaints(), [""; 0]);
    browser.open(&url(&daemon, "/"));
    browser.screenshot("many");
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
    assert_eq!(browser.text("document.querySelectorAll('tbody tr').length"), "1");
    assert_eq!(browser.text("document.querySelector('#chip-blocked').getAttribute('aria-current')"), "true");
    browser.script("document.getElementById('q').select();");
    browser.press("release\u{e007}");
    wait_until("the form was sent", || browser.text("location.search + document.readyState").contains("q=release"));
    wait_until("the page is there", || browser.text("document.readyState") == "complete");
    assert!(browser.text("location.search").contains("state=blocked"), "the state stays");
    assert_eq!(browser.text("document.querySelectorAll('tbody tr').length"), "1");
}

#[test]
fn keyboard_and_screen_reader_get_along() {
    let (_world, daemon) = in_sync(3);
    let browser = Browser::start();
    browser.open(&url(&daemon, "/"));
    browser.script("document.body.focus();");
    browser.press("\u{e004}");
    assert_eq!(browser.text("document.activeElement.innerText"), "Skip to the targets");
    browser.press("\u{e007}");
    assert_eq!(browser.text("location.hash"), "#targets");
    let outline = browser.text("getComputedStyle(document.querySelector('#q')).outlineStyle");
    browser.script("document.getElementById('q').focus();");
    let focused = browser.text("getComputedStyle(document.querySelector('#q')).outlineStyle");
    assert_ne!(outline, focused, "one sees where the focus is");
    for (what, count) in [
        ("main", "1"),
        ("h1", "1"),
        ("table caption", "1"),
        ("tbody th[scope=row]", "3"),
        ("label[for=q]", "1"),
        ("svg[role=img][aria-label]", "1"),
        ("[role=status] h1", "1"),
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
