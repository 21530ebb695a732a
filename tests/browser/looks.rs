//! How the page looks: widths, contrast in light and dark, and names for what is not text.

use std::time::{Duration, SystemTime};

use oncelog::{Durability, Fingerprint, ManualClock, Store};

use crate::driver::{Browser, ENTER};
use crate::server::{Server, body, claim, orphans, scope};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Text whose contrast with what is behind it is below 4.5:1 (WCAG 2.2, 1.4.3), and its contrast.
const FAINT: &str = r"
    const channel = (value) =>
      value <= 10.31475 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    const parse = (color) => color.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = parse(getComputedStyle(at).backgroundColor);
        if (color.length === 3 || color[3] === 1) return color;
      }
      return [255, 255, 255];
    };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      const box = element.getBoundingClientRect();
      if (!walker.currentNode.data.trim() || !box.width || !box.height) continue;
      if (['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(element.tagName)) continue;
      if (!element.checkVisibility({ visibilityProperty: true })) continue;
      const style = getComputedStyle(element);
      const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
      const [a, b] = [light(parse(ink)), light(behind(element))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) faint.push(contrast.toFixed(2) + ': ' + walker.currentNode.data.trim());
    }
    return faint;";

/// Buttons whose words do not stand in one line.
const SQUEEZED: &str = r"
    return [...document.querySelectorAll('button')]
      .filter((button) => button.offsetHeight > 50 || button.offsetWidth > innerWidth)
      .map((button) => button.textContent + ' is ' + button.offsetHeight + ' high');";

/// What a screen reader would have no name for, ids that come twice, headings that skip a level.
const UNNAMED: &str = r"
    const faults = [];
    for (const control of document.querySelectorAll('input, select, textarea')) {
      if (!control.labels.length) faults.push('no label: ' + control.outerHTML);
    }
    for (const button of document.querySelectorAll('button')) {
      const name = button.getAttribute('aria-label') ?? button.textContent;
      const is_seen = !button.closest('dialog:not([open])');
      if (!name.trim() && is_seen) faults.push('no name: ' + button.outerHTML);
    }
    for (const image of document.querySelectorAll('svg, [role=img]')) {
      const name = image.getAttribute('aria-label');
      if (!name) faults.push('no name: ' + image.outerHTML.slice(0, 80));
    }
    const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
    faults.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => 'twice: ' + id));
    let level = 0;
    for (const heading of document.querySelectorAll('h1, main h2, main h3')) {
      const own = Number(heading.tagName[1]);
      if (own > level + 1) faults.push('a level is skipped: ' + heading.textContent);
      level = own;
    }
    if (!document.documentElement.lang || !document.title) faults.push('no language or title');
    return faults;";

/// What is pressed and is smaller than 24 by 24 pixels (WCAG 2.2, 2.5.8), and what leaves the order
/// of the document when Tab is pressed.
const SMALL: &str = r"
    const faults = [];
    for (const target of document.querySelectorAll('button, input, select, textarea, summary, a')) {
      const label = ['checkbox', 'radio'].includes(target.type) ? target.closest('label') : null;
      const { width, height } = (label ?? target).getBoundingClientRect();
      if (width && (width < 24 || height < 24)) {
        faults.push(target.tagName + ' is ' + width + ' by ' + height);
      }
    }
    const ordered = [...document.querySelectorAll('[tabindex]')].filter((one) => one.tabIndex > 0);
    return faults.concat(ordered.map((one) => 'an order of its own: ' + one.outerHTML));";

/// Twenty days of work on a clock that is moved by hand, with some of everything.
fn busy() -> Server {
    let now = SystemTime::now();
    let clock = ManualClock::at(now - 20 * DAY);
    let options = Store::options()
        .clock(clock.clone())
        .bucket(DAY)
        .segment_bytes(8 << 20)
        .disk_budget_bytes(256 << 20);
    let server = Server::start(options);
    for day in 0..20_u64 {
        for number in 0..40 + 17 * day % 60 {
            let key = format!("d{day}-{number}");
            claim(&server.store, &key).complete(&vec![b'x'; 4096]).unwrap();
        }
        clock.advance(DAY);
    }
    let keys = ["hubspot-contact-123-create-v1", "order:1001/pay", "import-2026-11-30#row=17"];
    orphans(&server.store, &keys.map(String::from));
    let saved = claim(&server.store, "invoice-2026-0042");
    saved.save_checkpoint(b"charged: ch_123").unwrap();
    saved.give_up().unwrap();
    clock.advance(Duration::from_secs(5000));
    server
}

/// Opens the page and works until the charts have some points: many for a picture.
fn opened_at_work(server: &Server) -> Browser {
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.documentElement.dataset.state === 'live'");
    browser.until("document.querySelector('#timeline svg')");
    let seconds = if std::env::var_os("ONCELOG_SCREENSHOTS").is_some() { 60 } else { 3 };
    let seen = format!("answers.length > {seconds} && tiles.commits.series[1].last !== null");
    let other = Fingerprint::of(b"another request");
    let mut round = 0;
    while browser.value(&seen) != true {
        // Some seconds are busier than others.
        for number in 0..2 + round / 40 % 9 {
            let key = format!("r{round}-{number}");
            claim(&server.store, &key).complete(b"created").unwrap();
            for _ in 0..round % 4 {
                drop(server.store.claim(scope("acme", &key), body()).unwrap());
            }
            if round % 5 == 0 {
                drop(server.store.claim(scope("acme", &key), other).unwrap());
            }
        }
        round += 1;
    }
    browser
}

#[test]
fn text_has_contrast_and_the_page_has_no_overflow_in_light_and_dark_wide_and_narrow() {
    let server = busy();
    let browser = opened_at_work(&server);
    for scheme in ["light", "dark"] {
        browser.set_scheme(scheme);
        for width in [1280, 400, 320] {
            browser.set_width(width);
            browser.until(&format!("innerWidth === {width}"));
            // The time line is drawn again for the width.
            browser.until(
                "document.querySelector('#timeline svg').viewBox.baseVal.width \
                 === Math.max(240, document.getElementById('timeline').clientWidth)",
            );
            let scroll = browser.value("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(scroll <= width.into(), "{scheme} at {width}: {scroll}");
            assert_eq!(browser.run(FAINT), serde_json::json!([]), "{scheme} at {width}");
            assert_eq!(browser.run(SQUEEZED), serde_json::json!([]), "{scheme} at {width}");
            assert_eq!(browser.run(SMALL), serde_json::json!([]), "{scheme} at {width}");
            browser.screenshot(&format!("busy-{scheme}-{width}"));
        }
    }
    assert_eq!(browser.run(UNNAMED), serde_json::json!([]));
}

#[test]
fn an_empty_store_and_every_dialog_are_readable_and_named() {
    let server = Server::start(Store::options());
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.querySelector('#timeline svg')");
    browser.screenshot("empty-light-1280");
    for details in ["details:nth-of-type(1)", "#all-title ~ details"] {
        browser.run(&format!("document.querySelectorAll('{details}').forEach(d => d.open = true)"));
    }
    for scheme in ["light", "dark"] {
        browser.set_scheme(scheme);
        browser.set_width(400);
        browser.until("innerWidth === 400");
        assert_eq!(browser.run(FAINT), serde_json::json!([]), "{scheme}");
        assert_eq!(browser.value("document.documentElement.scrollWidth"), 400);
        browser.screenshot(&format!("empty-{scheme}-400"));
    }
    assert_eq!(browser.run(UNNAMED), serde_json::json!([]));
    drop(claim(&server.store, "k"));
    browser.until("document.querySelector('#orphans tbody tr')");
    for button in ["Resolve", "Release"] {
        browser.run(&format!("document.querySelector('[aria-label^={button}]').click()"));
        assert_eq!(browser.run(FAINT), serde_json::json!([]), "{button}");
        assert_eq!(browser.run(UNNAMED), serde_json::json!([]), "{button}");
        assert_eq!(browser.run(SMALL), serde_json::json!([]), "{button}");
        browser.screenshot(&format!("dialog-{button}-400"));
        browser.run("document.getElementById('dialog').close()");
    }
}

#[test]
fn alarms_are_words_and_a_held_clock_is_accepted_by_keyboard() {
    let clock = ManualClock::at(SystemTime::now());
    let options = Store::options()
        .clock(clock.clone())
        .segment_bytes(8 << 20)
        .disk_budget_bytes(16 << 20)
        .durability(Durability::Buffered { sync_every: Duration::from_millis(100) });
    let server = Server::start(options);
    claim(&server.store, "k").complete(b"created").unwrap();
    clock.set_wall(SystemTime::now() + 400 * DAY);
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.querySelector('[data-code=clock_held]')");
    let words = browser.text("document.querySelector('[data-code=clock_held]').textContent");
    assert!(words.starts_with("Warning:The clock jumped forward"), "{words}");
    assert!(browser.value("document.querySelectorAll('#alarms .alarm').length").as_u64() > Some(2));
    for scheme in ["dark", "light"] {
        browser.set_scheme(scheme);
        assert_eq!(browser.run(FAINT), serde_json::json!([]), "{scheme}");
        browser.screenshot(&format!("alarms-{scheme}"));
    }
    browser.tab_to("e.textContent.startsWith('Accept the clock')");
    browser.press(&[ENTER]);
    browser.until("document.getElementById('dialog').open");
    browser.screenshot("dialog-clock");
    browser.tab_to("e.textContent === 'The time is right'");
    browser.press(&[ENTER]);
    browser.until("!document.querySelector('[data-code=clock_held]')");
    assert!(!server.store.stats().clock_held);
}

#[test]
fn the_checks_of_looks_find_the_faults_they_are_for() {
    let server = Server::start(Store::options());
    let browser = Browser::start(server.proxy.port());
    browser.open(&server.page());
    browser.until("document.querySelector('#timeline svg')");
    browser.run("const p = el('p', {}, 'faint'); p.style.color = '#888'; document.body.append(p);");
    let faint = browser.run(FAINT);
    assert_eq!(faint.as_array().unwrap().len(), 1, "{faint}");
    assert!(faint[0].as_str().unwrap().ends_with(": faint"), "{faint}");
    browser.run(
        "document.body.append(el('input'), el('button'), svg('svg'), el('p', { id: 'main' })); \
         document.getElementById('main').append(el('h4', {}, 'x'), el('h1', {}, 'y'), el('h3'));",
    );
    let unnamed = browser.run(UNNAMED);
    assert_eq!(unnamed.as_array().unwrap().len(), 5, "{unnamed}");
    assert_eq!(browser.run(SQUEEZED), serde_json::json!([]));
    browser.run(
        "const b = el('button', {}, 'x y'); b.style.height = '90px'; document.body.append(b);",
    );
    assert_eq!(browser.run(SQUEEZED), serde_json::json!(["x y is 90 high"]));
    assert_eq!(browser.run(SMALL), serde_json::json!([]));
    browser.run("document.body.append(el('a', { href: '#', tabindex: 3 }, '.'));");
    assert_eq!(browser.run(SMALL).as_array().unwrap().len(), 2);
    browser.run("const p = el('p', {}, 'x'); p.style.width = '5000px'; document.body.append(p);");
    assert!(browser.value("document.documentElement.scrollWidth").as_u64().unwrap() > 1280);
}
