// Asks for the figures every second while the page is seen, and says so when nobody answers.

// Without the name and password that an address may hold, which fetch refuses.
const base = location.origin + location.pathname.replace(/\/?$/, "/");
const POLL_MS = 1000;
const SEGMENTS_EVERY = 10;
const ORPHANS_EVERY = 5;
const WINDOW_MS = 10000;

/** What was told last. */
let figuresNow = { ttl_ms: 0 };
let answers = [];
let lastGood = null;
let polls = 0;
let segmentsNow = null;

/** JSON of a route; with a body, a change. */
async function ask(route, body) {
  const change = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  // A change may take as long as it takes; its outcome is to be known.
  const signal = body === undefined ? AbortSignal.timeout(5000) : undefined;
  let response;
  try {
    response = await fetch(base + route, { ...change, signal, cache: "no-store", redirect: "manual" });
  } catch {
    throw Object.assign(new Error("the server does not answer"), { unreachable: true });
  }
  if (response.type === "opaqueredirect") {
    throw Object.assign(new Error("you are signed out; load the page again to sign in"), { status: 401 });
  }
  const told = await response.json().catch(() => null);
  if (response.ok && told !== null) return told;
  const refused = response.status === 401 || response.status === 403;
  const words = told?.detail ?? "the server answered " + response.status;
  throw Object.assign(new Error(refused && body === undefined ? words + "; load the page again to sign in" : words), { status: response.status });
}

function announce(text) {
  $("announcer").textContent = text;
  const state = $("state-text");
  state.textContent = text;
  state.dataset.until = String(performance.now() + 6000);
}

const tiles = {
  claims: new Tile("Claims granted", [""]),
  replays: new Tile("Replays", [""]),
  conflicts: new Tile("Conflicts", [""]),
  commits: new Tile("Commit latency, last 10 s", ["half within", "99\u00a0% within"]),
};
for (const tile of Object.values(tiles)) $("tiles").append(tile.element);

/** How much a counter grew a second since the last answer; null over a gap or a restart. */
function growth(name) {
  if (answers.length < 2) return null;
  const [before, after] = answers.slice(-2);
  const [grown, took] = [after.told.figures[name] - before.told.figures[name], after.at - before.at];
  return grown < 0 || took > 5 * POLL_MS ? null : grown * 1000 / took;
}

/** The oldest answer of the window that the newest can be compared with. */
function windowStart(ms) {
  const newest = answers[answers.length - 1];
  return answers.find((one) => newest.at - one.at <= ms);
}

function drawTiles() {
  const perSecond = (value) => [rate(value), "per s"];
  for (const [tile, name] of [["claims", "granted"], ["replays", "replayed"], ["conflicts", "conflicts"]]) {
    tiles[tile].series[0].push(growth(name));
    tiles[tile].draw(perSecond);
  }
  const [before, after] = [windowStart(WINDOW_MS), answers[answers.length - 1]];
  [0.5, 0.99].forEach((share, at) => {
    tiles.commits.series[at].push(quantile(before.told.commit_latency, after.told.commit_latency, share));
  });
  tiles.commits.draw(latency);
}

function pairs(list, entries) {
  list.replaceChildren(...entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function drawFacts(told) {
  const figures = told.figures;
  const refused = windowStart(180000).told.figures.refused;
  pairs($("facts"), [
    ["Responses kept", count(figures.responses)],
    ["Running now", count(figures.in_flight)],
    ["Orphans", count(figures.orphans)],
    ["Refused, 3 min", count(Math.max(0, figures.refused - refused))],
    ["On disk", bytes(figures.disk_bytes)],
    ["Index in memory", bytes(figures.index_bytes)],
    ["Kept for", span(told.ttl_ms)],
    ["Durability", told.durability],
  ]);
}

function drawRoom(told) {
  const { disk_bytes: taken, headroom_bytes: left, reserved_bytes: reserved } = told.figures;
  const share = left / Math.max(1, taken + left);
  $("gauge").firstElementChild.style.width = (100 * (1 - share)).toFixed(2) + "%";
  const first = windowStart(180000);
  const [grown, took] = [told.figures.appended_bytes - first.told.figures.appended_bytes, answers[answers.length - 1].at - first.at];
  let lasts = "";
  if (grown > 0 && took >= 10000 && left > 0) lasts = " As fast as in the last minutes, and with nothing expiring, that lasts " + span(left / grown * took) + ".";
  const words = bytes(left) + " left (" + tenths.format(100 * share) + "\u00a0%), " + bytes(taken) + " taken, of which " + bytes(reserved) + " are kept so that every open claim can end.";
  $("room").textContent = words + lasts;
  $("gauge").setAttribute("aria-label", words);
}

const SEVERITIES = { critical: "Critical", warning: "Warning", notice: "Notice" };

const CALM = el("li", { class: "calm" }, "None. The store takes claims, the clock is confirmed, and no damage is known.");
/** The alarms that are shown, by their codes. */
let alarmsShown = new Map();

function drawAlarms(told) {
  const alarms = [...told.alarms];
  const refused = told.figures.refused - windowStart(180000).told.figures.refused;
  if (refused > 0) {
    alarms.push({ code: "refused", severity: "warning", summary: (refused === 1 ? "A claim was" : whole.format(refused) + " claims were") + " refused in the last minutes.", advice: "Something is full: see the head-room, and the open claims of one organization." });
  }
  // Each circumstance is an alarm of its own, and never changes.
  const named = alarms.map((alarm) => [alarm.code === "environment" ? alarm.summary : alarm.code, alarm]);
  const heard = named.filter(([name, alarm]) => !alarmsShown.has(name) && alarm.severity !== "notice");
  alarmsShown = new Map(named.map(([name, alarm]) => [name, alarmsShown.get(name) ?? new Shown(alarm)]));
  for (const [name, alarm] of named) alarmsShown.get(name).draw(alarm, told);
  const items = [...alarmsShown.values()].map((shown) => shown.item);
  settle($("alarms"), items.length ? items : [CALM], $("alarms-title"));
  // What was there when the page came is read with it.
  if (polls > 0 && heard.length) $("announcer").textContent = heard.map(([, alarm]) => SEVERITIES[alarm.severity] + ": " + alarm.summary).join(" ");
}

/** One alarm, which keeps its element while its words change. */
class Shown {
  constructor(alarm) {
    this.summary = el("span");
    this.advice = el("p");
    this.more = el("p");
    this.item = el("li", { class: "alarm " + alarm.severity, "data-code": alarm.code },
      el("p", {}, el("span", { class: "severity" }, SEVERITIES[alarm.severity] + ":"), this.summary), this.advice);
    if (alarm.code === "clock_held") this.item.append(acceptButton());
    if (alarm.code === "damage" || alarm.code === "quarantine") this.item.append(this.more);
  }

  draw(alarm, told) {
    setText(this.summary, alarm.summary);
    setText(this.advice, alarm.advice);
    if (alarm.code === "damage") setText(this.more, "Where: " + placesOf(told));
    if (alarm.code === "quarantine" && told.quarantined_until_ms !== null) {
      setText(this.more, "Keys that the store does not know are refused until " + moment(told.quarantined_until_ms) + ".");
    }
  }
}

const PLACES_MAX = 10;

/** The first of the damaged places, in words. */
function placesOf(told) {
  const places = told.damage.slice(0, PLACES_MAX).map((place) => "segment " + place.segment + " at byte " + whole.format(place.offset) + ", " + place.what);
  const left = told.figures.damaged_records - places.length;
  return places.join("; ") + (left > 0 ? "; and " + whole.format(left) + " more" : "") + ".";
}

function acceptButton() {
  const button = el("button", { type: "button" }, "Accept the clock\u2026");
  button.addEventListener("click", () => confirmWith({
    title: "Accept the clock",
    button: "The time is right",
    body: [
      facts([["Clock of the machine", moment(figuresNow.now_ms)], ["Time of the store", moment(figuresNow.store_time_ms)]]),
      el("p", {}, "The store follows the clock at once. What has expired by then is dropped for good; if the clock is wrong, operations can run twice."),
    ],
    send: async () => {
      await ask("accept-clock", {});
      return "The clock is accepted.";
    },
  }));
  return button;
}

function flat(value) {
  if (value === null) return DASH;
  if (Array.isArray(value)) return value.length ? value.map(flat).join("; ") : "none";
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => name + " " + flat(one)).join(", ");
  return typeof value === "number" ? count(value) : String(value);
}

const spaced = (name) => name.replaceAll("_", " ");

function drawFigures(told) {
  const entries = Object.entries(told.figures);
  pairs($("figures"), entries.map(([name, value]) => [spaced(name), count(value)]));
  pairs($("recovery"), Object.entries(told.recovery).map(([name, value]) => [spaced(name), flat(value)]));
}

const TABLE_ROWS_MAX = 500;

const momentOrNone = (ms) => ms === null ? DASH : moment(ms);

async function refreshSegments() {
  segmentsNow = await ask("segments");
  drawSegments();
}

function drawSegments() {
  if (!segmentsNow) return;
  const now = segmentsNow.store_time_ms;
  drawTimeline($("timeline"), segmentsNow.segments, now);
  const rows = withEnds(segmentsNow.segments).slice(-TABLE_ROWS_MAX).map((segment) => {
    const tail = segment.state === "tail";
    const cells = [count(segment.segment), segment.state, bytes(segment.disk_bytes), count(segment.responses), momentOrNone(segment.begun_at_ms), momentOrNone(segment.newest_at_ms), endInWords(segment.goes, now, tail, segment.state === "quarantined")];
    return el("tr", {}, ...cells.map((text) => el("td", {}, text)));
  });
  $("segments").tBodies[0].replaceChildren(...rows);
}

/** Says in words and for every figure whether it is of now. */
function setState(state, text) {
  const until = Number($("state-text").dataset.until ?? 0);
  if (document.documentElement.dataset.state !== state || performance.now() > until) $("state-text").textContent = text;
  if (document.documentElement.dataset.state === state) return;
  document.documentElement.dataset.state = state;
  for (const mark of document.querySelectorAll(".stale-mark")) mark.hidden = state !== "stale";
  document.title = state === "stale" ? "Not answering \u2013 oncelog" : "oncelog";
}

function notLive() {
  return "Not live" + (lastGood === null ? "" : " since " + new Date(lastGood).toLocaleTimeString("en-GB"));
}

function fail(error) {
  for (const tile of Object.values(tiles)) tile.gap();
  // What comes after the gap is not compared with what came before it.
  const since = lastGood === null ? "" : " since " + new Date(lastGood).toLocaleTimeString("en-GB");
  const words = error.unreachable ? "The server has not answered" + since + "." : "No figures" + since + ": " + error.message + ".";
  $("unreachable").textContent = words + (lastGood === null ? "" : " What is below is from then, and stale.");
  $("unreachable").hidden = false;
  setState("stale", notLive());
}

async function poll() {
  try {
    const told = await ask("stats");
    answers.push({ at: performance.now(), told });
    if (answers.length > POINTS + 1) answers.shift();
    figuresNow = told;
    lastGood = Date.now();
    $("unreachable").hidden = true;
    setState("live", "Live");
    $("who").textContent = "as " + told.operator;
    $("backup").hidden = !told.backups;
    drawTiles();
    drawAlarms(told);
    drawFacts(told);
    drawRoom(told);
    drawFigures(told);
    if (polls === 0) performance.mark("figures");
    const others = [];
    if (polls % SEGMENTS_EVERY === 0 || told.figures.segments !== segmentsNow?.segments.length) others.push(refreshSegments());
    if (polls % ORPHANS_EVERY === 0 || told.figures.orphans !== orphans.total) others.push(showOrphans());
    polls += 1;
    await Promise.all(others);
  } catch (error) {
    // Whatever it is, what is seen is not of now.
    if (!error.unreachable && !error.status) console.error(error);
    fail(error);
  }
}

let timer = null;

async function loop() {
  timer = null;
  await poll();
  if (!document.hidden && timer === null) timer = setTimeout(loop, POLL_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || timer !== null) return;
  // Until an answer comes, what is seen is from before the page was hidden.
  if (lastGood !== null && Date.now() - lastGood > 3 * POLL_MS) setState("stale", notLive());
  loop();
});

let typing = null;
$("search").addEventListener("submit", (event) => event.preventDefault());
$("sought").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    orphans.search = $("sought").value;
    orphans.after = [];
    refreshOrphans().then(() => announce($("orphans-none").hidden ? $("range").textContent + " orphans" : $("orphans-none").textContent), fail);
  }, 200);
});
$("later").addEventListener("click", () => {
  orphans.after.push(orphans.next);
  refreshOrphans().then(() => $("orphans-title").scrollIntoView(), fail);
});
$("earlier").addEventListener("click", () => {
  orphans.after.pop();
  refreshOrphans().then(() => $("orphans-title").scrollIntoView(), fail);
});
$("dialog-cancel").addEventListener("click", () => $("dialog").close());

/** A form whose fields are shown once more before they are sent. */
function tool(id, words) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.target));
    const { title, button, text, body, done } = words(fields);
    confirmWith({
      title,
      button,
      body: [facts(Object.entries(fields)), el("p", {}, text)],
      send: async () => {
        const told = await ask(id, body);
        event.target.reset();
        return done(told);
      },
    });
  });
}

tool("forget", (fields) => ({
  title: "Forget a key",
  button: "Erase it",
  text: "What is stored of it is erased, and a retry runs the operation again.",
  body: { scope: fields },
  done: () => "Forgotten.",
}));
tool("forget-organization", (fields) => ({
  title: "Forget an organization",
  button: "Erase everything of it",
  text: "Everything of it that has ended is erased, and its retries run again. This reads the whole store, and may take a while.",
  body: fields,
  done: (told) => whole.format(told.forgotten) + " responses are forgotten.",
}));
tool("backup", (fields) => ({
  title: "Make a backup",
  button: "Make it",
  text: "The store is copied and the copy verified. Requests go on meanwhile; it may take a while.",
  body: fields,
  done: (told) => "The backup has " + whole.format(told.records) + " records, all verified.",
}));

let resizing = null;
new ResizeObserver(() => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(drawSegments);
}).observe($("timeline"));

loop();
