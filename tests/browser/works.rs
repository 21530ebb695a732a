//! What the page does: figures move, orphans end, hostile keys stay text, no other host is asked.

use oncelog::{Claim, Fingerprint, Status, Store};

use crate::driver::{Browser, ENTER, ESCAPE, SPACE};
use crate::server::{Server, body, claim, orphans, scope};

fn opened(server: &Server) -> Browser {
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.documentElement.dataset.state === 'live'");
    browser
}

/// Claims, replays and conflicts, some of each.
fn work(store: &Store, round: u64) {
    for number in 0..20 {
        let key = format!("r{round}-{number}");
        claim(store, &key).complete(b"created").unwrap();
        assert_eq!(store.claim(scope("acme", &key), body()).unwrap().kind(), "replay");
        let other = store.claim(scope("acme", &key), Fingerprint::of(b"other")).unwrap();
        assert_eq!(other.kind(), "conflict");
    }
}

#[test]
fn figures_move_under_load_without_an_error_or_a_request_to_another_host() {
    let server = Server::start(Store::options());
    let browser = opened(&server);
    for title in ["Claims granted", "Replays", "Conflicts"] {
        let number = format!(
            "[...document.querySelectorAll('.tile')].find(t => t.querySelector('h3').textContent \
             === '{title}').querySelector('.now span').textContent"
        );
        let mut round = server.store.stats().granted;
        // The load goes on until a second of it was seen.
        while browser.value(&format!("parseFloat({number}) > 0")) != true {
            work(&server.store, round);
            round += 1;
        }
    }
    browser.until("/\\d/.test(document.querySelectorAll('.tile')[3].textContent)");
    let granted = server.store.stats().granted;
    browser.until(&format!("figuresNow.figures.granted === {granted}"));
    let asked = browser.requests().into_iter().map(|address| address.replace("olivia@", ""));
    let asked: Vec<String> = asked.collect();
    assert!(asked.len() > 3, "{asked:?}");
    let elsewhere =
        |address: &&String| !address.starts_with(&server.origin()) && !address.starts_with("data:");
    assert_eq!(asked.iter().filter(elsewhere).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_request_to_another_host_would_be_seen_and_the_policy_stops_it() {
    const ELSEWHERE: &str = "http://elsewhere.example/";
    let server = Server::start(Store::options());
    let browser = opened(&server);
    let ask = format!("return fetch('{ELSEWHERE}').catch(() => 'refused');");
    let heard = |server: &Server| server.heard().iter().any(|line| line.contains(ELSEWHERE));
    assert_eq!(browser.run(&ask), "refused");
    assert!(!heard(&server), "the policy stops it");
    assert!(browser.console().iter().any(|line| line.contains("Content Security Policy")));
    browser.requests();
    // The same from a page without a policy.
    browser.open("data:text/html,<title>plain</title>");
    assert_eq!(browser.run(&ask), "refused");
    assert!(heard(&server) && browser.requests().iter().any(|address| address == ELSEWHERE));
}

#[test]
fn an_orphan_is_resolved_by_keyboard_alone_and_focus_is_never_lost() {
    let server = Server::start(Store::options());
    drop(claim(&server.store, "import-1"));
    let browser = opened(&server);
    browser.until("document.querySelector('#orphans tbody tr')");
    browser.tab_to("e.textContent === 'Skip to the content'");
    browser.press(&[ENTER]);
    browser.until("document.activeElement.id === 'main'");
    browser.tab_to("e.getAttribute('aria-label') === 'Resolve import-1'");
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.text(outline), "solid", "the focus is seen");
    browser.press(&[ENTER]);
    browser.until("document.getElementById('dialog').open");
    browser.press(&[ESCAPE]);
    browser.until("!document.getElementById('dialog').open");
    let focused = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(browser.text(focused), "Resolve import-1", "the focus goes back");
    browser.press(&[SPACE]);
    browser.until("document.getElementById('dialog').open");
    browser.screenshot("dialog-resolve");
    browser.tab_to("e.tagName === 'TEXTAREA' && e.offsetParent");
    browser.type_text("order 7");
    browser.tab_to("e.textContent === 'Store the response'");
    browser.press(&[ENTER]);
    browser.until("!document.getElementById('dialog').open");
    browser.until("document.getElementById('announcer').textContent.startsWith('Resolved')");
    assert_eq!(browser.text("document.activeElement.id"), "orphans-title");
    browser
        .until("document.getElementById('orphans-none').textContent === 'There are no orphans.'");
    let found = server.store.lookup(scope("acme", "import-1")).unwrap();
    let Some(Status::Completed(stored)) = found else { panic!("{found:?}") };
    assert!(stored.bytes().unwrap().ends_with(b"order 7"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn an_orphan_is_released_only_once_somebody_has_said_that_they_looked() {
    let server = Server::start(Store::options());
    drop(claim(&server.store, "import-1"));
    let browser = opened(&server);
    browser.until("document.querySelector('#orphans tbody tr')");
    browser.tab_to("e.getAttribute('aria-label') === 'Release import-1'");
    browser.press(&[ENTER]);
    browser.tab_to("e.textContent === 'Free the key'");
    browser.press(&[ENTER]);
    assert_eq!(browser.value("document.getElementById('dialog').open"), true);
    assert_eq!(server.store.stats().orphans, 1);
    browser.screenshot("dialog-release");
    browser.tab_to("e.type === 'checkbox'");
    browser.press(&[SPACE, ENTER]);
    browser.until("!document.getElementById('dialog').open");
    assert_eq!(server.store.stats().orphans, 0);
}

#[test]
fn an_orphan_that_was_taken_over_meanwhile_is_left_alone_and_the_dialog_says_so() {
    let server = Server::start(Store::options());
    drop(claim(&server.store, "import-1"));
    let browser = opened(&server);
    browser.until("document.querySelector('#orphans tbody tr')");
    browser.tab_to("e.getAttribute('aria-label') === 'Release import-1'");
    browser.press(&[ENTER]);
    let orphan = server.store.orphan(scope("acme", "import-1")).unwrap().unwrap();
    let Claim::Granted(second) = orphan.take_over().unwrap() else { panic!("it is taken over") };
    browser.tab_to("e.type === 'checkbox'");
    browser.press(&[SPACE, ENTER]);
    browser.until("!document.getElementById('dialog-error').hidden");
    let said = browser.text("document.getElementById('dialog-error').textContent");
    assert!(said.contains("Nothing was changed") && said.contains("no longer"), "{said}");
    second.complete(b"created").unwrap();
}

#[test]
fn hostile_keys_are_shown_as_text() {
    let server = Server::start(Store::options());
    let long = "x".repeat(4_000);
    let keys = [
        "<script>document.title = 'owned'</script>",
        "\"><img src=x onerror=\"document.title='owned'\">",
        "line\nfeed\tand \u{202e}desrever\u{200b}",
        &long,
    ];
    for key in keys {
        drop(claim(&server.store, key));
    }
    let browser = opened(&server);
    browser.until("document.querySelectorAll('#orphans tbody tr').length === 4");
    browser.screenshot("hostile");
    let shown = |row: usize| {
        let key = format!("document.querySelectorAll('#orphans tbody tr')[{row}]");
        browser.text(&format!("{key}.querySelector('.sub .data').textContent"))
    };
    assert_eq!([shown(0), shown(1)], keys[..2]);
    assert_eq!(shown(2), "line\\u000afeed\\u0009and \\u202edesrever\\u200b");
    assert!(shown(3).ends_with("\u{2026} 4,000 characters") && shown(3).len() < 200);
    let made = browser.value("document.querySelectorAll('#orphans script, #orphans img').length");
    assert_eq!((made, browser.text("document.title")), (0.into(), "oncelog".to_owned()));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn ten_thousand_orphans_are_shown_within_a_second_and_found() {
    let server = Server::start(Store::options());
    orphans(&server.store, &(0..10_000).map(|n| format!("import-{n:05}")).collect::<Vec<_>>());
    let browser = opened(&server);
    browser.until("performance.getEntriesByName('orphans').length");
    let mark = |name: &str| {
        browser
            .value(&format!("performance.getEntriesByName('{name}')[0].startTime"))
            .as_f64()
            .unwrap()
    };
    println!("figures after {:.0} ms, orphans after {:.0} ms", mark("figures"), mark("orphans"));
    let took = |route: &str| {
        let entries = "performance.getEntriesByType('resource')";
        browser.value(&format!("{entries}.find(entry => entry.name.includes('{route}')).duration"))
    };
    println!("/stats took {} ms, /orphans {} ms", took("/stats"), took("/orphans?"));
    assert!(mark("orphans") < 1000.0);
    assert_eq!(browser.text("document.getElementById('orphans-count').textContent"), "(10,000)");
    assert_eq!(browser.value("document.querySelectorAll('#orphans tbody tr').length"), 50);
    browser.screenshot("orphans-10000");
    let range = "document.getElementById('range').textContent";
    assert_eq!(browser.text(range), "1\u{2013}50 of 10,000");
    browser.tab_to("e.id === 'later'");
    browser.press(&[ENTER]);
    browser.until(&format!("{range}.startsWith('51')"));
    browser.press(&[ENTER]);
    browser.until(&format!("{range}.startsWith('101')"));
    browser.run("document.getElementById('sought').focus()");
    browser.type_text("import-07777");
    browser.until("document.querySelectorAll('#orphans tbody tr').length === 1");
    let row = browser.text("document.querySelector('#orphans tbody tr').textContent");
    assert!(row.contains("import-07777"), "{row}");
}

#[test]
fn a_closed_store_is_an_alarm_and_its_orphans_are_not_shown_any_more() {
    let server = Server::start(Store::options());
    drop(claim(&server.store, "import-1"));
    let browser = opened(&server);
    browser.until("document.querySelector('#orphans tbody tr')");
    server.store.clone().close().unwrap();
    browser.until("document.querySelector('[data-code=closed]')");
    browser.until("document.getElementById('orphans').hidden");
    let said = browser.text("document.getElementById('orphans-none').textContent");
    assert_eq!(said, "The list cannot be read: the store is closed.");
    assert_eq!(browser.text("document.documentElement.dataset.state"), "live");
}

#[test]
fn what_was_seen_before_the_page_was_hidden_is_stale_when_it_is_seen_again() {
    let server = Server::start(Store::options());
    let browser = opened(&server);
    // As a browser tells a page that its tab went to the back, and then to the front.
    browser.run(
        "window.hidden = true; \
         Object.defineProperty(document, 'hidden', { get: () => window.hidden });",
    );
    browser.until("timer === null && polls > 1");
    let state = browser.run(
        "lastGood -= 3600000; window.hidden = false; \
         document.dispatchEvent(new Event('visibilitychange')); \
         return document.documentElement.dataset.state;",
    );
    assert_eq!(state, "stale");
    browser.until("document.documentElement.dataset.state === 'live'");
}

#[test]
fn figures_of_a_server_that_is_gone_are_marked_stale() {
    let mut server = Server::start(Store::options());
    let browser = opened(&server);
    let marks = "[...document.querySelectorAll('.stale-mark')]";
    assert_eq!(browser.value(&format!("{marks}.every(mark => mark.hidden)")), true);
    server.stop();
    browser.until("document.documentElement.dataset.state === 'stale'");
    assert_eq!(browser.value(&format!("{marks}.every(mark => !mark.hidden)")), true);
    let said = browser.text("document.getElementById('unreachable').textContent");
    assert!(
        said.starts_with("The server has not answered since ") && said.ends_with("stale."),
        "{said}"
    );
    assert_eq!(browser.value("document.getElementById('unreachable').hidden"), false);
    assert!(browser.text("document.title").starts_with("Not answering"));
    let numbers = "[...document.querySelectorAll('.tile .now span:not(.swatch)')]";
    assert_eq!(browser.value(&format!("{numbers}.every(n => n.textContent === '\\u2013')")), true);
    browser.screenshot("gone");
}
