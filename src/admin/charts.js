// Numbers in words, lines over time, and the time line of segments. Text is only ever set as text.

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; a string becomes a text node, never markup. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * Makes these the children of a place. One that stays is not moved, since what moves loses the
 * focus; where the focus goes with its element, `heir` gets it.
 */
function settle(place, elements, heir) {
  const kept = new Set(elements);
  const focused = document.activeElement;
  for (const child of [...place.children]) {
    if (kept.has(child)) continue;
    if (child.contains(focused)) heir.focus();
    child.remove();
  }
  elements.forEach((element, at) => {
    if (place.children[at] !== element) place.insertBefore(element, place.children[at] ?? null);
  });
}

function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const DASH = "\u2013";
const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

function count(value) {
  return value === null ? DASH : whole.format(value);
}

function rate(value) {
  if (value === null) return DASH;
  return value < 10 ? tenths.format(value) : whole.format(Math.round(value));
}

function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024 || unit === "TiB") {
      return (unit === "B" || value >= 100 ? whole.format(Math.round(value)) : tenths.format(value)) + "\u00a0" + unit;
    }
    value /= 1024;
  }
}

function latency(us) {
  if (us === null) return [DASH, "ms"];
  if (us >= 1e6) return [hundredths.format(us / 1e6), "s"];
  if (us >= 1e3) return [(us >= 1e4 ? tenths : hundredths).format(us / 1e3), "ms"];
  return [whole.format(Math.round(us)), "\u00b5s"];
}

/** The largest unit that a span of time fills, in words. */
function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return whole.format(Math.floor(seconds / size)) + "\u00a0" + unit;
  }
  return seconds + "\u00a0s";
}

function moment(ms) {
  return new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

// Points of a chart, one a second.
const POINTS = 180;

/** The last three minutes of one number; null where it is not known. */
class Series {
  constructor() { this.points = []; }
  push(value) {
    this.points.push(value);
    if (this.points.length > POINTS) this.points.shift();
  }
  get last() { return this.points.length ? this.points[this.points.length - 1] : null; }
  get highest() { return this.points.reduce((high, value) => Math.max(high, value ?? 0), 0); }
}

/** The least of 1, 2 and 5 times a power of ten that is not below. */
function nice(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((bound) => bound >= value);
}

/** The pieces of a line, as it is broken where points are missing. */
function pieces(series, top) {
  const offset = POINTS - series.points.length;
  const found = [];
  let piece = [];
  series.points.forEach((value, at) => {
    if (value === null) {
      if (piece.length) found.push(piece);
      piece = [];
    } else {
      piece.push([(offset + at) * 300 / (POINTS - 1), 70 - 66 * Math.min(value / top, 1)]);
    }
  });
  if (piece.length) found.push(piece);
  return found;
}

function line(points) {
  const path = points.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L");
  return "M" + path + (points.length === 1 ? "h.5" : "");
}

/** A tile with a number and its line: the second series is drawn dashed. */
class Tile {
  constructor(title, legends) {
    this.title = title;
    this.series = legends.map(() => new Series());
    this.numbers = legends.map(() => el("span"));
    this.units = legends.map(() => el("small"));
    this.legends = legends;
    this.top = el("span");
    this.chart = svg("svg", { viewBox: "0 0 300 72", preserveAspectRatio: "none", role: "img" });
    const pair = el("div", { class: "pair" });
    legends.forEach((legend, at) => {
      const now = el("div", {}, el("p", { class: "now" }, this.numbers[at], this.units[at]));
      if (legend) now.append(el("p", { class: "legend" }, el("span", { class: at ? "swatch other" : "swatch", "aria-hidden": "true" }), legend));
      pair.append(now);
    });
    const axis = el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "3 min ago"), this.top, el("span", {}, "now"));
    this.element = el("div", { class: "tile" }, el("h3", {}, title), pair, this.chart, axis);
  }

  /** Nothing is known of now. */
  gap() {
    for (const series of this.series) series.push(null);
    if (this.words) this.draw(this.words);
  }

  /** `words` makes number and unit of a value. */
  draw(words) {
    this.words = words;
    const top = nice(Math.max(...this.series.map((series) => series.highest)));
    const drawn = [svg("line", { class: "rule", x1: 0, x2: 300, y1: 70, y2: 70 }), svg("line", { class: "rule", x1: 0, x2: 300, y1: 4, y2: 4 })];
    this.series.forEach((series, at) => {
      for (const piece of pieces(series, top)) {
        if (!at) {
          const [first, last] = [piece[0][0], piece[piece.length - 1][0]];
          drawn.push(svg("path", { class: "area", d: line(piece) + "L" + last.toFixed(1) + " 70L" + first.toFixed(1) + " 70Z" }));
        }
        drawn.push(svg("path", { class: at ? "second" : "first", d: line(piece) }));
      }
      const [number, unit] = words(series.last);
      this.numbers[at].textContent = number;
      this.units[at].textContent = "\u00a0" + unit;
    });
    this.chart.replaceChildren(...drawn);
    const empty = this.series.every((series) => series.points.every((value) => value === null));
    this.top.textContent = empty ? "nothing yet" : "top line " + words(top).join("\u00a0");
    const highest = this.series.map((series) => words(series.highest).join(" ")).join(", ");
    const now = this.series.map((series, at) => (this.legends[at] + " " + words(series.last).join(" ")).trim()).join(", ");
    this.chart.setAttribute("aria-label", this.title + " over the last three minutes: now " + now + "; highest " + highest);
  }
}

/** The time that this share of the commits between two histograms did not exceed, in microseconds. */
function quantile(before, after, share) {
  const counts = after.buckets.map((bucket, at) => bucket.count - before.buckets[at].count);
  const all = counts.reduce((sum, one) => sum + one, 0);
  if (all <= 0 || counts.some((one) => one < 0)) return null;
  let left = share * all;
  let lower = 0;
  for (const [at, bucket] of after.buckets.entries()) {
    const upper = bucket.le_us ?? 2 * lower;
    if (counts[at] > 0 && left <= counts[at]) return lower + (upper - lower) * left / counts[at];
    left -= counts[at];
    lower = upper;
  }
  return lower;
}

const ROWS_MAX = 24;

/** When each segment goes: not before every older one. */
function withEnds(segments) {
  let goes = 0;
  return segments.map((segment) => {
    goes = Math.max(goes, segment.expires_at_ms ?? 0);
    return { ...segment, goes: goes || null };
  });
}

/** Neighbours together, so that the rows stay few. */
function grouped(segments) {
  const size = Math.ceil(segments.length / ROWS_MAX);
  const groups = [];
  for (let at = 0; at < segments.length; at += size) {
    const some = segments.slice(at, at + size);
    const [first, last] = [some[0], some[some.length - 1]];
    groups.push({
      name: "#" + first.segment + (some.length > 1 ? DASH + last.segment : ""),
      begun: Math.min(...some.map((one) => one.begun_at_ms ?? Infinity)),
      newest: Math.max(...some.map((one) => one.newest_at_ms ?? 0)),
      bytes: some.reduce((sum, one) => sum + one.disk_bytes, 0),
      goes: last.goes,
      tail: last.state === "tail",
      bad: some.some((one) => one.state === "quarantined"),
    });
  }
  return groups;
}

function endInWords(goes, now, tail, bad) {
  if (goes === null) return bad ? "in quarantine" : tail ? "empty" : "at once";
  return goes <= now ? "due" : "in " + span(goes - now);
}

/** Rows of bars over time: what was written when, and how long it is kept. */
function drawTimeline(place, segments, now) {
  const rows = grouped(withEnds(segments));
  const width = Math.max(240, place.clientWidth);
  const [left, right, pitch, head] = [width < 500 ? 52 : 78, width < 500 ? 112 : 150, 20, 22];
  const height = head + rows.length * pitch + 4;
  const from = Math.min(now, ...rows.map((row) => row.begun));
  // An hour at least, so that the marks differ.
  const until = Math.max(now, from + 36e5, ...rows.map((row) => row.goes ?? 0));
  const x = (ms) => left + (width - left - right) * (ms - from) / (until - from);
  const drawn = [];
  const step = (until - from) / (width < 500 ? 1 : 5);
  for (let at = from; at <= until + 1; at += step) {
    drawn.push(svg("line", { class: "tick", x1: x(at), x2: x(at), y1: head - 4, y2: height }));
    const date = new Date(at);
    const text = until - from < 4 * 864e5
      ? date.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" })
      : date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    const anchor = at === from ? "start" : at + step > until + 1 ? "end" : "middle";
    drawn.push(svg("text", { class: "faint", x: x(at), y: 12, "text-anchor": anchor }, text));
  }
  rows.forEach((row, at) => {
    const y = head + at * pitch;
    const ends = bytes(row.bytes) + ", " + endInWords(row.goes, now, row.tail, row.bad);
    drawn.push(svg("text", { x: 0, y: y + pitch - 6 }, row.name), svg("text", { x: width, y: y + pitch - 6, "text-anchor": "end" }, ends));
    // Nothing is known of when the records of a lost file were written.
    if (row.begun === Infinity) return;
    const [start, end] = [x(row.begun), x(Math.max(row.goes ?? row.newest, row.newest))];
    const written = Math.max(3, x(row.newest) - start);
    const tells = row.name + ": " + bytes(row.bytes) + ", written " + moment(row.begun) + " to " + moment(row.newest) + ", goes " + endInWords(row.goes, now, row.tail, row.bad);
    const bars = svg("g", {}, svg("title", {}, tells),
      svg("rect", { class: row.bad ? "kept bad" : "kept", x: start, y: y + 4, width: Math.max(3, end - start), height: pitch - 9, rx: 2 }),
      svg("rect", { class: "written", x: start, y: y + 4, width: written, height: pitch - 9, rx: 2 }));
    drawn.push(bars);
  });
  drawn.push(svg("line", { class: "now", x1: x(now), x2: x(now), y1: head - 4, y2: height }, svg("title", {}, "now")));
  const label = rows.length + " rows of segments, oldest first; the table below has the same in words";
  place.replaceChildren(svg("svg", { viewBox: "0 0 " + width + " " + height, height, role: "img", "aria-label": label }, ...drawn));
}
