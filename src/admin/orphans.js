// The list of orphans, a page at a time, and the dialogs that end one.

const CAUSES = {
  crash: "its process died",
  dropped: "its permit was dropped",
  lease_lapsed: "its lease lapsed",
  failed: "it gave up",
};

// Controls, and what changes the direction or the width of what stands beside it: a key is chosen by
// a client, and must not look like another.
const UNSEEN = /(?! )[\p{C}\p{Z}\p{Variation_Selector}\u115f\u1160\u3164\uffa0]/gu;
const SHOWN_MAX = 160;

/** Text that a client chose, as text; what cannot be seen is written out. */
function data(text, max = Infinity) {
  const place = el("bdi", { class: "data" });
  const letters = [...text];
  const shown = letters.length > max ? letters.slice(0, max).join("") : text;
  let from = 0;
  for (const found of shown.matchAll(UNSEEN)) {
    place.append(shown.slice(from, found.index));
    const code = found[0].codePointAt(0).toString(16).padStart(4, "0");
    place.append(el("span", { class: "escaped" }, "\\u" + code));
    from = found.index + found[0].length;
  }
  place.append(shown.slice(from));
  if (text === "") place.append(el("span", { class: "escaped" }, "(none)"));
  if (shown !== text) place.append(el("span", { class: "escaped" }, "\u2026 " + whole.format(letters.length) + " characters"));
  return place;
}

function cell(label, ...children) {
  return el("td", { role: "cell", "data-label": label }, el("div", {}, ...children));
}

const orphans = { after: [], next: null, search: "", total: null, shown: "", rows: new Map(), asking: 0 };
const PAGE_ROWS = 50;

/** Asks for the page that is shown, and draws it if it is another. */
async function refreshOrphans() {
  const asking = ++orphans.asking;
  const query = new URLSearchParams({ limit: PAGE_ROWS });
  const after = orphans.after[orphans.after.length - 1];
  if (after !== undefined) query.set("after", after);
  if (orphans.search) query.set("search", orphans.search);
  const page = await ask("orphans?" + query);
  // A later question has been asked meanwhile.
  if (asking !== orphans.asking) return;
  if (!page.orphans.length && orphans.after.length) {
    orphans.after.pop();
    return refreshOrphans();
  }
  drawOrphans(page);
}

/** The same; where the list is refused, that is said in its place. */
async function showOrphans() {
  try {
    await refreshOrphans();
  } catch (error) {
    if (error.unreachable) throw error;
    Object.assign(orphans, { total: null, shown: "", rows: new Map() });
    settle($("orphans").tBodies[0], [], $("orphans-title"));
    $("orphans").hidden = true;
    document.querySelector(".pager").hidden = true;
    $("orphans-count").textContent = "";
    $("orphans-none").textContent = "The list cannot be read: " + error.message + ".";
    $("orphans-none").hidden = false;
  }
}

function drawOrphans(page) {
  orphans.next = page.next;
  orphans.total = page.total;
  $("orphans-count").textContent = "(" + whole.format(page.total) + ")";
  const none = $("orphans-none");
  none.hidden = page.matching > 0;
  none.textContent = page.total ? "None of the " + whole.format(page.total) + " orphans matches." : "There are no orphans.";
  $("orphans").hidden = !page.matching;
  const pager = document.querySelector(".pager");
  pager.hidden = page.matching <= page.orphans.length;
  $("earlier").disabled = !orphans.after.length;
  $("later").disabled = page.next === null;
  $("range").textContent = whole.format(page.before + 1) + DASH + whole.format(page.before + page.orphans.length) + " of " + whole.format(page.matching);
  // Rows that are the same stay, and with them the focus.
  const names = page.orphans.map((orphan) => orphan.token + orphan.cause + orphan.checkpoint_bytes);
  if (names.join() !== orphans.shown) {
    orphans.shown = names.join();
    orphans.rows = new Map(page.orphans.map((orphan, at) => [names[at], orphans.rows.get(names[at]) ?? row(orphan)]));
    settle($("orphans").tBodies[0], [...orphans.rows.values()], $("orphans-title"));
    performance.mark("orphans");
  }
  // A button that cannot be pressed any more keeps no focus.
  if (pager.hidden ? pager.contains(document.activeElement) : document.activeElement.disabled) $("orphans-title").focus();
  for (const [at, orphan] of page.orphans.entries()) {
    const age = $("orphans").tBodies[0].rows[at].querySelector("time");
    age.textContent = span(page.now_ms - orphan.claimed_at_ms) + " ago";
  }
}

function row(orphan) {
  const age = el("time", { datetime: new Date(orphan.claimed_at_ms).toISOString(), title: moment(orphan.claimed_at_ms) });
  const name = orphan.key.length > 60 ? orphan.key.slice(0, 60) + "\u2026" : orphan.key;
  const resolve = el("button", { type: "button", "aria-label": "Resolve " + name }, "Resolve\u2026");
  const release = el("button", { type: "button", "aria-label": "Release " + name }, "Release\u2026");
  resolve.addEventListener("click", () => askToResolve(orphan));
  release.addEventListener("click", () => askToRelease(orphan));
  const attempt = "attempt " + orphan.attempt + (orphan.checkpoint_bytes === null ? "" : ", checkpoint of " + bytes(orphan.checkpoint_bytes));
  return el("tr", { role: "row" },
    cell("Organization", data(orphan.organization, SHOWN_MAX)),
    cell("Request", data(orphan.method + " " + orphan.path, SHOWN_MAX), el("span", { class: "sub" }, data(orphan.key, SHOWN_MAX))),
    cell("Why", CAUSES[orphan.cause] ?? orphan.cause, el("span", { class: "sub" }, attempt)),
    cell("Claimed", age),
    cell("Actions", resolve, release));
}

/** What is to be changed, in full. */
function facts(pairs) {
  const list = el("dl", { class: "what" });
  for (const [name, value] of pairs) list.append(el("dt", {}, name), el("dd", {}, typeof value === "string" ? data(value) : value));
  return list;
}

function factsOf(orphan) {
  return facts([
    ["Organization", orphan.organization],
    ["Request", orphan.method + " " + orphan.path],
    ["Key", orphan.key],
    ["Claimed", moment(orphan.claimed_at_ms)],
    ["Attempt", orphan.attempt + ", " + (CAUSES[orphan.cause] ?? orphan.cause)],
    ["Operation", orphan.operation],
    ["Token", orphan.token],
  ]);
}

function seen(orphan) {
  const { organization, method, path, key, token } = orphan;
  return { scope: { organization, method, path, key }, token };
}

let dialogs = 0;

/** What is said of a change that did not succeed. An answer of 4xx alone says that nothing was done. */
function failure(error) {
  if (error.status >= 400 && error.status < 500) return "Nothing was changed: " + error.message;
  return "It may have been done all the same: " + error.message + ". Look again before it is repeated.";
}

/**
 * Opens the dialog; `send` makes the change and returns what is to be said when it is done, and
 * `then` brings the page up to date. Whoever closes the dialog meanwhile hears of the end as well,
 * and no other dialog does.
 */
function confirmWith({ title, button, body, send, then }) {
  const dialog = $("dialog");
  const mine = ++dialogs;
  const isShown = () => dialog.open && dialogs === mine;
  $("dialog-title").textContent = title;
  $("dialog-do").textContent = button;
  $("dialog-do").disabled = false;
  $("dialog-body").replaceChildren(...body);
  $("dialog-error").hidden = true;
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    $("dialog-do").disabled = true;
    $("dialog-error").hidden = true;
    try {
      const done = await send();
      const wasShown = isShown();
      if (wasShown) dialog.close();
      announce(done);
      if (then) await then(wasShown);
    } catch (error) {
      if (isShown()) {
        $("dialog-error").textContent = failure(error);
        $("dialog-error").hidden = false;
      } else {
        announce(title + ". " + failure(error));
      }
    } finally {
      if (dialogs === mine) $("dialog-do").disabled = false;
    }
  };
  dialog.showModal();
}

async function refreshAfter(wasShown) {
  // The button that was used goes with its row.
  if (wasShown) $("orphans-title").focus();
  await refreshOrphans().catch(() => {});
}

function field(label, control, wide) {
  return el("label", wide ? { class: "whole" } : {}, label, control);
}

function askToResolve(orphan) {
  const status = el("input", { type: "number", min: 200, max: 599, value: 200, required: "" });
  const type = el("input", { value: "application/json", autocomplete: "off" });
  const location = el("input", { autocomplete: "off" });
  const text = el("textarea", { spellcheck: "false" });
  const parts = el("div", { class: "fields" }, field("Status", status), field("Content type", type), field("Location, if any", location, true), field("Body", text, true));
  const raw = el("textarea", { spellcheck: "false" });
  const whole = el("div", { class: "fields", hidden: "" }, field("Bytes, as text", raw, true));
  const choices = [
    ["http", "An HTTP response, as the API's clients are to get it"],
    ["text", "Plain bytes, for programs that use the store without the HTTP layer"],
  ];
  if (orphan.checkpoint_status !== null) {
    choices.unshift(["checkpoint", "The response with status " + orphan.checkpoint_status + " that the attempt saved as its checkpoint"]);
  }
  const set = el("fieldset", {}, el("legend", {}, "What every retry gets"));
  choices.forEach(([value, words], at) => {
    const radio = el("input", { type: "radio", name: "response", value });
    radio.checked = at === 0;
    set.append(el("label", { class: "choice" }, radio, words));
  });
  const chosen = () => set.querySelector("input:checked").value;
  const show = () => {
    parts.hidden = chosen() !== "http";
    whole.hidden = chosen() !== "text";
    status.required = !parts.hidden;
  };
  set.addEventListener("change", show);
  show();
  const response = () => {
    if (chosen() === "checkpoint") return "checkpoint";
    if (chosen() === "text") return { text: raw.value };
    const headers = [["content-type", type.value], ["location", location.value]].filter(([, value]) => value);
    return { http: { status: Number(status.value), headers, body: text.value } };
  };
  confirmWith({
    title: "Resolve: it did happen",
    button: "Store the response",
    body: [factsOf(orphan), el("p", {}, "The operation counts as completed. Every retry gets this response, for " + span(figuresNow.ttl_ms) + ", and never runs it again."), set, parts, whole],
    send: async () => {
      const done = await ask("orphans/resolve", { ...seen(orphan), response: response() });
      return done.response_kept ? "Resolved: retries get the response." : "Resolved, but there was no room for the response: retries are told that it ran.";
    },
    then: refreshAfter,
  });
}

function askToRelease(orphan) {
  const sure = el("input", { type: "checkbox", required: "" });
  confirmWith({
    title: "Release: it did not happen",
    button: "Free the key",
    body: [factsOf(orphan), el("p", {}, "The key becomes free, and the next retry runs the operation. If the first attempt did have an effect, or still commits one, it happens twice."), el("label", { class: "choice" }, sure, "I have looked where the effect would be. It is not there, and no attempt can still bring it about.")],
    send: async () => {
      await ask("orphans/release", seen(orphan));
      return "Released: the key is free.";
    },
    then: refreshAfter,
  });
}
