//! What is wrong with a store, as the page shows it: brought about in earnest, and gone when it is
//! right again.

use oncelog::{Claim, Fingerprint, ManualClock, Store};

use crate::device::{Device, fill, flip, open_without_first, run_until_full, small};
use crate::driver::Browser;
use crate::server::{Server, body, claim, scope};

/// Opens the page of a store whose alarm of this code is not there yet.
fn calm(server: &Server, code: &str) -> Browser {
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.documentElement.dataset.state === 'live'");
    browser.until("document.querySelector('#timeline svg')");
    assert_eq!(browser.value(&format!("!!{}", found(code))), false, "{code} is there already");
    browser
}

fn found(code: &str) -> String {
    format!("document.querySelector('#alarms [data-code={code}]')")
}

/// Waits for an alarm; its words.
fn shown(browser: &Browser, code: &str) -> String {
    browser.until(&found(code));
    let is_seen = format!("{}.checkVisibility()", found(code));
    assert_eq!(browser.value(&is_seen), true, "{code}");
    browser.text(&format!("{}.textContent", found(code)))
}

fn until_gone(browser: &Browser, code: &str) {
    browser.until(&format!("!{}", found(code)));
}

fn until_announced(browser: &Browser, words: &str) {
    browser.until(&format!("document.getElementById('announcer').textContent.includes('{words}')"));
}

#[test]
fn damage_is_shown_with_its_place_and_spoken_until_it_is_right_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let server = Server::of(small().open(dir.path()).unwrap());
    let browser = calm(&server, "damage");
    flip(dir.path());
    until_announced(&browser, "A damaged place was found.");
    let words = shown(&browser, "damage");
    assert!(words.starts_with("Critical:A damaged place was found."), "{words}");
    assert!(words.contains("Where: segment 1 at byte "), "{words}");
    browser.screenshot("alarm-damage");
    flip(dir.path());
    until_gone(&browser, "damage");
}

#[test]
fn a_lost_segment_is_shown_with_the_time_until_which_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let server = Server::of(open_without_first(dir.path()));
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    let words = shown(&browser, "quarantine");
    assert!(words.starts_with("Critical:A segment is in quarantine."), "{words}");
    assert!(words.contains("Keys that the store does not know are refused until "), "{words}");
    browser.until("document.querySelector('#timeline svg')");
    // What is lost has no times, and does not stretch the line back to 1970.
    let line = browser.text("document.getElementById('timeline').textContent");
    assert!(line.contains("in quarantine"), "{line}");
    let begins =
        browser.value("Math.min(...segmentsNow.segments.map(one => one.begun_at_ms ?? 9e15))");
    assert!(begins.as_f64() > Some(1e12), "{begins}");
    browser.screenshot("alarm-quarantine");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_failed_write_is_shown_and_the_page_goes_on() {
    let device = Device::new();
    let server = Server::of(device.open());
    let browser = calm(&server, "poisoned");
    device.fail_next();
    assert!(server.store.claim(scope("acme", "k"), body()).is_err());
    until_announced(&browser, "A write or a sync failed");
    let words = shown(&browser, "poisoned");
    assert!(words.starts_with("Critical:A write or a sync failed"), "{words}");
    assert_eq!(browser.text("document.documentElement.dataset.state"), "live");
    browser.screenshot("alarm-poisoned");
}

#[test]
fn a_full_disk_is_shown_until_there_is_room() {
    let device = Device::new();
    let server = Server::of(device.open());
    let browser = calm(&server, "full");
    device.fill();
    run_until_full(&server.store, "k");
    let words = shown(&browser, "full");
    assert!(words.starts_with("Critical:No room is left"), "{words}");
    let refused = shown(&browser, "refused");
    assert!(refused.starts_with("Warning:A claim was refused"), "{refused}");
    browser.until("parseFloat(document.querySelector('#gauge .taken').style.width) > 99");
    browser.screenshot("alarm-full");
    device.make_room();
    until_gone(&browser, "full");
}

#[test]
fn orphans_are_an_alarm_and_come_without_taking_the_focus_away() {
    let server = Server::start(Store::options());
    let browser = calm(&server, "orphans");
    drop(claim(&server.store, "import-1"));
    let words = shown(&browser, "orphans");
    assert!(words.starts_with("Warning:An attempt vanished"), "{words}");
    browser.tab_to("e.getAttribute('aria-label') === 'Release import-1'");
    drop(claim(&server.store, "import-2"));
    browser.until("document.querySelectorAll('#orphans tbody tr').length === 2");
    let focused = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(browser.text(focused), "Release import-1", "the row stays");
    for key in ["import-1", "import-2"] {
        server.store.orphan(scope("acme", key)).unwrap().unwrap().release().unwrap();
    }
    until_gone(&browser, "orphans");
    browser.until("document.querySelectorAll('#orphans tbody tr').length === 0");
    let focused = browser.text("document.activeElement.id");
    assert_eq!(focused, "orphans-title", "the row went, and the focus did not go with it");
}

#[test]
fn an_alarm_that_changes_keeps_the_focus_in_those_that_stay() {
    let now = std::time::SystemTime::now();
    let clock = ManualClock::at(now);
    let server = Server::start(Store::options().clock(clock.clone()));
    let browser = calm(&server, "clock_held");
    clock.set_wall(now + std::time::Duration::from_secs(400 * 24 * 3600));
    until_announced(&browser, "The clock jumped forward");
    browser.tab_to("e.textContent.startsWith('Accept the clock')");
    for number in 1..3 {
        drop(claim(&server.store, &format!("import-{number}")));
        let words = if number == 1 { "An attempt vanished" } else { "2 attempts vanished" };
        browser.until(&format!("{}?.textContent.includes('{words}')", found("orphans")));
        let focused = browser.text("document.activeElement.textContent");
        assert!(focused.starts_with("Accept the clock"), "{focused}");
    }
}

#[test]
fn a_change_whose_answer_is_lost_is_not_said_to_be_undone() {
    let mut server = Server::start(Store::options());
    drop(claim(&server.store, "import-1"));
    let browser = calm(&server, "damage");
    browser.until("document.querySelector('#orphans tbody tr')");
    browser.run("document.querySelector('[aria-label=\"Release import-1\"]').click()");
    browser.run("document.querySelector('#dialog [type=checkbox]').click()");
    server.stop();
    browser.until("document.documentElement.dataset.state === 'stale'");
    browser.run("document.getElementById('dialog-do').click()");
    browser.until("!document.getElementById('dialog-error').hidden");
    let said = browser.text("document.getElementById('dialog-error').textContent");
    assert!(said.starts_with("It may have been done all the same"), "{said}");
    assert!(!said.contains("Nothing was changed"), "{said}");
}

#[test]
fn the_end_of_a_change_closes_no_other_dialog_than_its_own() {
    let server = Server::start(Store::options());
    for key in ["import-1", "import-2"] {
        drop(claim(&server.store, key));
    }
    let browser = calm(&server, "damage");
    browser.until("document.querySelectorAll('#orphans tbody tr').length === 2");
    // The answer to a change is held back.
    browser.run(
        "const real = window.fetch; \
         window.fetch = async (address, init) => { \
           const answer = await real(address, init); \
           if (init.method) await new Promise((go) => { window.go = go; }); \
           return answer; };",
    );
    browser.run("document.querySelector('[aria-label=\"Release import-1\"]').click()");
    browser.run("document.querySelector('#dialog [type=checkbox]').click()");
    browser.run("document.getElementById('dialog-do').click()");
    browser.until("window.go");
    browser.run("document.getElementById('dialog').close()");
    browser.run("document.querySelector('[aria-label=\"Release import-2\"]').click()");
    browser.run("window.go()");
    until_announced(&browser, "Released: the key is free.");
    assert_eq!(browser.value("document.getElementById('dialog').open"), true);
    let about = browser.text("document.getElementById('dialog-body').textContent");
    assert!(about.contains("import-2"), "{about}");
    assert_eq!(server.store.stats().orphans, 1);
}

#[test]
fn a_hostile_organization_and_path_are_shown_as_text() {
    let server = Server::start(Store::options());
    let hostile = "<script>document.title = 'owned'</script>";
    let scope = oncelog::Scope {
        organization: hostile,
        method: "<b>POST</b>",
        path: "/<img src=x onerror=\"document.title='owned'\">",
        key: "import-1",
    };
    let Claim::Granted(permit) = server.store.claim(scope, Fingerprint::of(b"x")).unwrap() else {
        panic!("it is the first")
    };
    drop(permit);
    let browser = calm(&server, "damage");
    browser.until("document.querySelector('#orphans tbody tr')");
    let cell = "document.querySelector('#orphans tbody td .data').textContent";
    assert_eq!(browser.text(cell), hostile);
    browser.run("document.querySelector('[aria-label=\"Resolve import-1\"]').click()");
    let about = browser.text("document.getElementById('dialog-body').textContent");
    assert!(about.contains(hostile) && about.contains("<b>POST</b> /<img"), "{about}");
    let made = "document.querySelectorAll('main :is(script, img, b), dialog :is(script, img, b)')";
    assert_eq!(browser.value(&format!("{made}.length")), 0);
    assert_eq!(browser.text("document.title"), "oncelog");
    assert_eq!(browser.console(), Vec::<String>::new());
}
