"use strict";
// The findings of a run: each with its chart, its tables and its jumps, made when it is opened.
class Finding {
  constructor(details) {
    this.details = details;
    this.find = (selector) => details.querySelector(selector);
    this.kinds = new Set();
    this.lostOnly = false;
    details.addEventListener("toggle", () => { if (details.open) this.open(); });
    details.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) this.act(button.dataset.do, button);
    });
  }

  // Tables at once, the chart when it is drawn. Later calls wait for the first.
  open() {
    this.details.open = true;
    this.opened ??= this.make();
    return this.opened;
  }

  async make() {
    this.log = new Log(JSON.parse(this.find(".log-data").textContent));
    this.makeSteps();
    this.makeTable();
    this.makeChips();
    this.find(".filter-box").addEventListener("input", () => this.filter());
    this.filter();
    const place = this.find(".timeline");
    try {
      // Each copy of the chart needs models of its own.
      const text = document.getElementById("timeline").textContent.replaceAll(/"p(\d+)"/g, `"f${this.details.dataset.finding}p$1"`);
      await Harness.embed(JSON.parse(text), place, (doc) => {
        this.timeline = new Timeline(doc, this.log, (entry) => this.show(entry));
      });
    } catch (error) {
      this.timeline = undefined;
      Harness.failed(place, error);
    }
  }

  makeSteps() {
    const part = this.find(".steps-part");
    part.hidden = !this.log.steps.length;
    if (part.hidden) return;
    const E = Harness.element;
    const columns = [["n", "#"], ["state", "At the cut"], ["name", "Operation"], ["result", "Result"], ["durable", "Durable"]];
    const table = new VirtualTable(this.find(".steps-table"), {
      label: "Operations",
      columns: columns.map(([name, label]) => ({ name, label })),
      fill: (row, step) => {
        if (step.setup) row.classList.add("quiet");
        const state = E("div", "cell state", step.state || "not known");
        state.dataset.state = step.state;
        const durable = step.durable >= 0 ? `after event ${grouped(step.durable)}` : "never, or wrote nothing";
        row.append(E("div", "cell n", String(step.n)), state, E("div", "cell name u", step.text + (step.promise ? "  (promises)" : "")),
          E("div", "cell result", step.result), E("div", "cell durable", durable));
      },
      onMark: (step) => { const entry = this.log.entries.find((each) => each.step === step); if (entry) this.show(entry); },
    });
    table.box.classList.add("steps");
    table.show(this.log.steps);
  }

  makeTable() {
    const columns = [["event", "Event"], ["state", "State"], ["name", "What"], ["step", "During"], ["offset", "At byte"], ["length", "Size"]];
    this.table = new VirtualTable(this.find(".log-table"), {
      label: "Block log",
      columns: columns.map(([name, label]) => ({ name, label })),
      fill: (row, entry) => this.fillRow(row, entry),
      onMark: (entry) => { if (!entry.cut) this.timeline?.mark(entry); },
    });
  }

  fillRow(row, entry) {
    const E = Harness.element;
    if (entry.cut) {
      row.classList.add("the-cut");
      row.append(E("div", "cell", `⚡ the power went before event ${grouped(entry.event)}; nothing below happened`));
      return;
    }
    row.classList.add(`is-${entry.what}`);
    if (entry.lost) row.classList.add("is-lost");
    if (entry.after) row.classList.add("is-after");
    const state = E("div", "cell state", entry.lost ? "✕ lost" : this.log.state(entry));
    const name = E("div", "cell name u");
    if (entry.what === "write" || entry.what === "discard") {
      for (const kind of this.log.kindsOf(entry)) name.append(markOf(kind));
      if (entry.what === "discard") name.append("discard: ");
      name.append(this.log.name(entry) || "unknown block");
    } else {
      name.append(E("b", "", entry.what), ` ${this.log.name(entry)}`);
    }
    name.title = name.textContent;
    const step = E("div", "cell step u", entry.step ? entry.step.text : "");
    step.title = step.textContent;
    const sized = entry.length > 0;
    row.append(E("div", "cell event", grouped(entry.event)), state, name, step,
      E("div", "cell offset", sized ? grouped(entry.offset) : ""), E("div", "cell length", sized ? bytes(entry.length) : ""));
  }

  makeChips() {
    const chips = this.find(".chips");
    for (const [kind, number] of this.log.kinds) {
      const chip = Harness.element("button", "chip");
      chip.type = "button";
      chip.setAttribute("aria-pressed", "false");
      chip.append(markOf(kind), ` ${kind} `, Harness.element("span", "muted", grouped(number)));
      chip.addEventListener("click", () => {
        if (!this.kinds.delete(kind)) this.kinds.add(kind);
        chip.setAttribute("aria-pressed", String(this.kinds.has(kind)));
        this.filter();
      });
      chips.append(chip);
    }
  }

  // The words that a row is found by.
  words(entry) {
    entry.words ??= [entry.what, this.log.state(entry), ...entry.pieces.flatMap((piece) => [piece.kind, piece.text, piece.path]),
      entry.text, entry.step?.text ?? "", `event ${entry.event}`].join("\n").toLowerCase();
    return entry.words;
  }

  filter() {
    const wanted = this.find(".filter-box").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (entry) => (!this.lostOnly || entry.lost)
      && (!this.kinds.size || entry.pieces.some((piece) => this.kinds.has(piece.kind)) || (!entry.pieces.length && entry.length && this.kinds.has("unknown block")))
      && wanted.every((word) => this.words(entry).includes(word));
    const items = this.log.entries.filter(fits);
    this.find(".shown").textContent = `${grouped(items.length)} of ${grouped(this.log.entries.length)} events`;
    const at = items.findIndex((entry) => entry.event >= this.log.cut);
    if (items.length) items.splice(at < 0 ? items.length : at, 0, this.log.cutRow);
    this.table.show(items);
  }

  unfilter() {
    this.find(".filter-box").value = "";
    this.kinds.clear();
    this.details.querySelectorAll(".chip").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    this.setLostOnly(false);
    this.filter();
  }

  setLostOnly(on) {
    this.lostOnly = on;
    this.find('[data-do="lost-only"]').setAttribute("aria-pressed", String(on));
  }

  // Mark a row, in the table and in the chart; a filter that hides it goes.
  show(item) {
    if (!this.table.mark(item)) {
      this.unfilter();
      this.table.mark(item);
    }
    if (!item.cut) this.timeline?.mark(item);
  }

  bring(element) {
    const { top, bottom } = element.getBoundingClientRect();
    if (top < 56 || bottom > innerHeight) element.scrollIntoView({ block: "center" });
  }

  async jump(to) {
    await this.open();
    if (to === "divergence") return this.divergence();
    if (to === "cut") {
      this.show(this.log.cutRow);
      this.timeline?.around();
    } else if (!this.log.lost.length) {
      return Harness.say("no write was lost");
    } else {
      const { lost } = this.log;
      const at = lost.indexOf(this.table.marked);
      const next = to === "lost" ? 0 : at < 0 ? (to === "next" ? 0 : lost.length - 1) : (at + (to === "next" ? 1 : -1) + lost.length) % lost.length;
      this.show(lost[next]);
      Harness.say(`lost write ${next + 1} of ${lost.length}: ${this.log.name(lost[next])}`);
    }
    this.bring(this.table.box);
    return undefined;
  }

  divergence() {
    const target = this.find("mark.first") ?? this.find("tr.differs") ?? this.find(".sides");
    target.scrollIntoView({ block: "center", inline: "center" });
    target.focus?.({ preventScroll: true });
    Harness.say(this.find("mark.first") ? "the first byte that differs" : "no differing byte is known");
  }

  act(what, button) {
    const chart = this.timeline;
    const acts = {
      whole: () => chart?.whole(), around: () => chart?.around(), in: () => chart?.zoom(0.5), out: () => chart?.zoom(2),
      axis: () => button.setAttribute("aria-pressed", String(chart?.toggleAxis() ?? false)),
      "lost-only": () => { this.setLostOnly(!this.lostOnly); this.filter(); },
    };
    if (acts[what]) acts[what]();
    else this.jump(what);
  }
}

Harness.onStart(async () => {
  const findings = [...document.querySelectorAll("[data-finding]")].map((details) => new Finding(details));
  if (!findings.length) return;
  let current = 0;
  const go = (to) => {
    current = Math.min(findings.length - 1, Math.max(0, to));
    findings[current].open();
    findings[current].details.scrollIntoView({ block: "start" });
    findings[current].find("summary").focus({ preventScroll: true });
  };
  findings.forEach((finding, n) => {
    finding.details.addEventListener("focusin", () => { current = n; });
    finding.details.addEventListener("click", () => { current = n; });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#finding-"]');
    if (link) { event.preventDefault(); go(Number(link.hash.slice(9)) - 1); }
  });
  const { keys } = Harness;
  keys.set("/", async () => { await findings[current].open(); const box = findings[current].find(".filter-box"); box.focus(); findings[current].bring(box); });
  keys.set("j", () => go(current + 1));
  keys.set("k", () => go(current - 1));
  for (const [key, to] of [["n", "next"], ["p", "previous"], ["d", "divergence"], ["c", "cut"]]) keys.set(key, () => findings[current].jump(to));
  await findings[0].open();
});
