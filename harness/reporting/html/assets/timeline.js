"use strict";
// A finding's log, decoded, and the chart of it.
const LOST = 1, AFTER = 2, SETUP = 1, PROMISE = 2;
const WHAT = { w: "write", d: "discard", f: "flush", p: "promise", m: "mark" };

// Colour family, light and dark; and a shape, so that no kind is told by colour alone.
const FAMILIES = {
  data: ["#0062ad", "#6cb6ff"], inodes: ["#a64f00", "#ffa657"], names: ["#00704c", "#4cc38a"], maps: ["#7a3ea8", "#c9a0f0"],
  journal: ["#57636d", "#a9b4bd"], tree: ["#a8326e", "#f29bc4"], meta: ["#7a5c00", "#dcbf4a"], none: ["#70777d", "#979fa6"],
};
const LOOKS = {
  "data": ["data", "square"], "inode table": ["inodes", "triangle"], "directory block": ["names", "diamond"],
  "inode bitmap": ["maps", "inverted_triangle"], "block bitmap": ["maps", "triangle"], "group descriptor": ["maps", "hex"],
  "superblock": ["maps", "star"], "extent tree block": ["tree", "hex"], "extended attribute block": ["tree", "square"],
  "symbolic link block": ["tree", "diamond"], "journal superblock": ["journal", "star"], "journal descriptor": ["journal", "triangle"],
  "journal commit": ["journal", "diamond"], "journal revoke": ["journal", "inverted_triangle"], "journal block": ["journal", "square"],
  "metadata": ["meta", "hex"], "unused block": ["none", "circle"], "unknown block": ["none", "circle"],
};
const SHAPES = {
  square: "M3 3h10v10H3z", triangle: "M8 2l6 11H2z", inverted_triangle: "M8 14l6-11H2z", diamond: "M8 1l6 7-6 7-6-7z",
  hex: "M4.5 2h7L15 8l-3.500 6h-7L1 8z", circle: "M8 3a5 5 0 1 1 0 10A5 5 0 0 1 8 3z",
  star: "M8 1l2 5h5l-4 3.500 1.500 5.500L8 12l-4.500 3L5 9.500 1 6h5z",
};
const lookOf = (kind) => LOOKS[kind] ?? LOOKS["unknown block"];
const colorOf = (kind) => FAMILIES[lookOf(kind)[0]][Harness.dark() ? 1 : 0];

function markOf(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `mark family-${lookOf(kind)[0]}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[lookOf(kind)[1]]);
  svg.append(path);
  return svg;
}

const numbers = new Intl.NumberFormat("en");
const grouped = (number) => numbers.format(number);
const bytes = (number) => {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (number < 1024 || unit === "GiB") return `${Number.isInteger(number) ? number : number.toFixed(1)} ${unit}`;
    number /= 1024;
  }
  return "";
};

class Log {
  constructor(raw) {
    const sums = (steps) => { let sum = 0; return steps.map((step) => (sum += step)); };
    const { entries, pieces, strings } = raw;
    const events = sums(entries.event), epochs = sums(entries.epoch), running = sums(entries.step);
    this.cut = raw.cut;
    this.begin = raw.begin;
    this.steps = raw.steps.text.map((text, n) => ({
      n, text: strings[text], begin: raw.steps.begin[n], end: raw.steps.end[n], result: strings[raw.steps.result[n]],
      setup: !!(Number(raw.steps.flags[n]) & SETUP), promise: !!(Number(raw.steps.flags[n]) & PROMISE),
      durable: raw.steps.durable[n], state: strings[raw.steps.state[n]],
    }));
    let at = 0;
    this.entries = events.map((event, n) => {
      const own = [];
      for (let end = at + entries.pieces[n]; at < end; at += 1) {
        own.push({ kind: raw.kinds[pieces.kind[at]], text: strings[pieces.text[at]], path: strings[pieces.path[at]] });
      }
      const flags = Number(entries.flags[n]);
      return {
        n, event, what: WHAT[entries.what[n]], epoch: epochs[n], offset: entries.offset[n], length: entries.length[n], pieces: own,
        lost: !!(flags & LOST), after: !!(flags & AFTER), text: strings[entries.text[n]], step: this.steps[running[n]],
      };
    });
    this.last = this.entries.length ? this.entries[this.entries.length - 1].event : this.cut;
    this.writes = this.entries.filter((entry) => entry.what === "write" || entry.what === "discard");
    this.lost = this.entries.filter((entry) => entry.lost);
    this.cutRow = { cut: true, event: this.cut };
    const counts = new Map();
    for (const entry of this.writes) for (const kind of this.kindsOf(entry)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    this.kinds = raw.kinds.filter((kind) => counts.has(kind)).map((kind) => [kind, counts.get(kind)]);
  }

  kindsOf(entry) {
    return entry.pieces.length ? [...new Set(entry.pieces.map((piece) => piece.kind))] : ["unknown block"];
  }

  place(entry) { return `${bytes(entry.length)} at byte ${grouped(entry.offset)}`; }

  name(entry) {
    if (entry.pieces.length) return entry.pieces.map((piece) => piece.text).join("; ");
    if (entry.what === "flush") return "all that was written before it is durable";
    return entry.text;
  }

  state(entry) {
    if (entry.after) return "after the cut";
    if (entry.what !== "write" && entry.what !== "discard") return "";
    return entry.lost ? "lost" : "on the disk";
  }
}

// Where an operation's effect was at the cut: the renderer of its bar, by its state.
const GROUPS = ["durable", "cached", "memory", "other"];
const GROUP_OF = { "durable": "durable", "in the device's cache": "cached", "in memory only": "memory", "running": "memory" };

// The chart: what Python laid out, filled with one log, in the page's colours.
class Timeline {
  constructor(doc, log, onChoose) {
    this.log = log;
    this.doc = doc;
    this.onChoose = onChoose;
    this.narrow = innerWidth < 600;
    this.byOffset = false;
    this.fill();
    for (const name of ["writes", "promises", ...GROUPS]) this.source(name).selected.properties.indices.change.connect(() => this.chosen(name));
    Harness.onTheme(() => this.paint());
  }

  get(name) { return this.doc.get_model_by_name(name); }
  source(name) { return this.get(`${name} source`); }
  all(name) { return [...(this.doc.all_models ?? this.doc._all_models.values())].filter((model) => model.name === name); }

  chosen(name) {
    const source = this.source(name);
    const [at] = source.selected.indices;
    if (at === undefined) return;
    const index = source.data.index[at];
    source.selected.indices = [];
    const entry = GROUPS.includes(name) ? this.log.entries.find((each) => each.step?.n === index) : this.log.entries[index];
    if (entry) this.onChoose(entry);
  }

  fill() {
    const { log } = this;
    this.points = [];
    this.rows = log.kinds.map(([kind]) => kind);
    for (const entry of log.writes) for (const kind of log.kindsOf(entry)) this.points.push([entry, kind]);
    const range = this.get("rows");
    this.fit();
    const labels = new Map(this.rows.map((kind, n) => [this.rows.length - n, this.short(kind)]));
    this.get("row ticks").ticks = [...labels.keys()];
    this.get("by kind").major_label_overrides = labels;
    range.start = 0.3;
    range.end = this.rows.length + 0.7;
    this.get("log").height = Math.min(420, Math.max(150, 60 + 30 * this.rows.length));
    for (const plot of ["steps", "log"]) {
      this.get(plot).min_border_left = this.narrow ? 104 : 196;
      this.get(plot).min_border_right = 16;
      // A finger on the chart scrolls the page; the buttons zoom.
      if (matchMedia("(pointer: coarse)").matches) this.get(plot).toolbar.active_drag = null;
    }
    this.fillSteps();
    for (const cut of this.all("cut")) cut.location = log.cut - 0.5;
    for (const after of this.all("after")) after.left = log.cut - 0.5;
    // A long log is first seen where the power went.
    if (log.entries.length > 400) this.around(log.cut, 100);
    else this.whole();
    this.paint();
  }

  short(text) {
    const most = this.narrow ? 15 : 30;
    return text.length > most ? `${text.slice(0, most - 1)}…` : text;
  }

  fillSteps() {
    this.promises = this.log.entries.filter((entry) => entry.what === "promise");
    const rows = this.log.steps.length + (this.promises.length ? 1 : 0);
    this.get("steps").visible = rows > 0;
    this.get("steps").height = 24 + 22 * Math.min(16, Math.max(2, rows));
    this.flushes = this.log.entries.filter((entry) => entry.what === "flush").map((entry) => entry.event);
    this.source("flushes").data = { x: this.flushes };
    const events = this.get("events");
    events.properties.end.change.connect(() => this.follow());
    events.properties.start.change.connect(() => this.follow());
  }

  // Of many operations, those in sight fill the plot, and are named if they are few. Of many flushes, each is fainter.
  follow() {
    const { start, end } = this.get("events");
    if (start === this.seen?.[0] && end === this.seen?.[1]) return;
    this.seen = [start, end];
    const { steps } = this.log;
    const seen = steps.length <= 16 ? steps : steps.filter((step) => step.begin <= end && (step.end < 0 || step.end >= start));
    const low = seen.length ? -seen[seen.length - 1].n : 1, high = seen.length ? -seen[0].n : 0;
    const labels = new Map();
    if (seen.length <= 16) for (const step of seen) labels.set(-step.n, this.short(step.text));
    else labels.set((low + high) / 2, `${grouped(seen.length)} operations`);
    // One row for promises, below the operations, as high as one sixteenth of the plot at least.
    const row = Math.max(1, (high - low) / 16);
    if (this.promises.length) labels.set(low - row, "promises");
    this.get("step ticks").ticks = [...labels.keys()];
    this.get("steps").left[0].major_label_overrides = labels;
    this.get("step rows").setv({ start: low - (this.promises.length ? 1.7 * row : 0.7), end: high + 0.7 * row });
    this.paintPromises(low - row);
    if (this.colors) this.fillWrites();
    const many = this.flushes.filter((event) => event >= start && event <= end).length;
    this.get("flush lines").glyph.line_alpha = { value: many > 120 ? Math.max(0.12, 60 / many) : 0.9 };
  }

  // Everything that has a colour of the theme.
  paint() {
    const ink = Harness.color("cut"), here = Harness.color("accent");
    for (const cut of this.all("cut")) cut.line_color = ink;
    for (const span of this.all("here")) span.line_color = here;
    this.colors = new Map(this.rows.map((kind) => [kind, colorOf(kind)]));
    this.filled = undefined;
    this.fillWrites();
    this.paintSteps();
    this.paintPromises(this.promisesAt);
    this.paintHere();
  }

  heightOf(entry, kind) { return this.byOffset ? entry.offset : this.rows.length - this.rows.indexOf(kind); }

  // The writes in sight and as many on both sides: what a reader does not look at costs nothing.
  fillWrites() {
    const { start, end } = this.get("events");
    if (this.filled && start >= this.filled[0] && end <= this.filled[1]) return;
    const room = this.points.length > 2000 ? end - start : Infinity;
    this.filled = [start - room, end + room];
    const { log, colors } = this;
    const points = this.points.filter(([entry]) => entry.event >= this.filled[0] && entry.event <= this.filled[1]);
    const of = (get) => points.map(([entry, kind]) => get(entry, kind));
    this.source("writes").data = {
      x: of((entry) => entry.event), y: of((entry, kind) => this.heightOf(entry, kind)), marker: of((_, kind) => lookOf(kind)[1]),
      color: of((_, kind) => colors.get(kind)), alpha: of((entry) => (entry.lost ? 0 : entry.after ? 0.25 : 0.9)),
      line: of((entry) => (entry.after ? 0.5 : 1)), size: of((entry) => (entry.lost ? 11 : 9)), name: of((entry) => log.name(entry)),
      place: of((entry) => log.place(entry)), state: of((entry) => log.state(entry)), index: of((entry) => entry.n),
    };
    const crossed = points.filter(([entry]) => entry.lost), lost = Harness.color("lost");
    this.source("lost").data = {
      x: crossed.map(([entry]) => entry.event), y: crossed.map(([entry, kind]) => this.heightOf(entry, kind)), color: crossed.map(() => lost),
    };
  }

  paintSteps() {
    const { log } = this;
    const end = (step) => (step.end < 0 ? log.last + 0.4 : Math.max(step.end, step.begin + 0.4));
    for (const group of GROUPS) {
      const own = log.steps.filter((step) => (GROUP_OF[step.state] ?? "other") === group);
      const fill = Harness.color(group === "other" ? "muted" : group);
      this.source(group).data = {
        y: own.map((step) => -step.n), begin: own.map((step) => step.begin), end: own.map(end),
        until: own.map((step) => Math.max(step.durable, end(step))), fill: own.map(() => fill), text: own.map((step) => step.text),
        state: own.map((step) => step.state || "not known"), result: own.map((step) => step.result), index: own.map((step) => step.n),
      };
    }
  }

  paintPromises(y) {
    const ink = Harness.color("ink"), faint = Harness.color("faint");
    this.promisesAt = y;
    const of = (get) => this.promises.map(get);
    this.source("promises").data = {
      x: of((entry) => entry.event), y: of(() => y), text: of((entry) => entry.text), index: of((entry) => entry.n),
      color: of((entry) => (entry.after ? faint : ink)),
    };
  }

  paintHere() {
    const kinds = this.here && this.here.length ? this.log.kindsOf(this.here) : [], accent = Harness.color("accent");
    this.source("here").data = {
      x: kinds.map(() => this.here.event), y: kinds.map((kind) => this.heightOf(this.here, kind)), color: kinds.map(() => accent),
    };
    for (const span of this.all("here")) {
      span.visible = !!this.here;
      if (this.here) span.location = this.here.event;
    }
  }

  // Show where `entry` is; move the view only if it is out of it.
  mark(entry) {
    this.here = entry;
    const { start, end } = this.get("events");
    if (entry.event < start || entry.event > end) this.view(entry.event - (end - start) / 2, entry.event + (end - start) / 2);
    this.paintHere();
  }

  view(start, end) {
    const events = this.get("events");
    events.setv({ start, end });
  }

  whole() {
    const steps = this.log.steps.filter((step) => !step.setup || step.begin >= this.log.begin);
    const first = this.log.entries.length ? this.log.entries[0].event : 0;
    const begin = Math.min(first, ...steps.slice(0, 1).map((step) => step.begin));
    const end = Math.max(this.log.last, this.log.cut), room = Math.max(1, (end - begin) * 0.015);
    this.view(begin - room, end + room);
  }

  around(at = this.log.cut, half = 30) { this.view(at - half, at + half); }

  zoom(factor) {
    const { start, end } = this.get("events");
    const middle = this.here && this.here.event > start && this.here.event < end ? this.here.event : (start + end) / 2;
    this.view(middle - (middle - start) * factor, middle + (end - middle) * factor);
  }

  fit() {
    const range = this.get("rows");
    if (this.byOffset) {
      const most = Math.max(1, ...[this.log.writes.reduce((far, entry) => Math.max(far, entry.offset + entry.length), 0)]);
      range.setv({ start: -most * 0.05, end: most * 1.05 });
    } else {
      range.setv({ start: 0.3, end: this.rows.length + 0.7 });
    }
  }

  toggleAxis() {
    this.byOffset = !this.byOffset;
    this.get("by kind").visible = !this.byOffset;
    this.get("by offset").visible = this.byOffset;
    this.fit();
    this.paint();
    return this.byOffset;
  }
}
