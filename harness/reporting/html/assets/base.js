"use strict";
// What every page has: theme, copying, announcements, keys, charts. Pages add their own through `Harness`.
const Harness = (() => {
  const root = document.documentElement;
  const starters = [];
  const painters = [];
  const keys = new Map();
  const byId = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  const element = (tag, name = "", text = "") => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };

  const say = (text) => {
    byId("said").textContent = "";
    setTimeout(() => { byId("said").textContent = text; }, 30);
  };

  // Theme: the system's, until the button says otherwise; remembered in this page only.
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const repaint = () => painters.forEach((paint) => paint());
  const toggleTheme = () => {
    root.dataset.theme = dark() ? "light" : "dark";
    say(`${root.dataset.theme} theme`);
    repaint();
  };

  // A page from disk may be refused navigator.clipboard: then the old way, by a selection.
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = element("textarea", "sr");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };

  const copy = async (button) => {
    const before = document.activeElement;
    const done = await copied(button.dataset.copy);
    if (before) before.focus({ preventScroll: true });
    button.textContent = done ? "Copied" : "Select it by hand";
    button.classList.toggle("done", done);
    say(done ? "copied" : "could not be copied");
    setTimeout(() => { button.textContent = "Copy"; button.classList.remove("done"); }, 2500);
  };

  // Text and grid of a chart in the page's colours; what is drawn with data sees to itself.
  const INK = { text_color: "ink", major_label_text_color: "ink", axis_label_text_color: "muted", label_text_color: "ink" };
  const LINES = { grid_line_color: "line", axis_line_color: "line", major_tick_line_color: "line", minor_tick_line_color: "line" };
  const paintDocument = (doc) => {
    for (const model of doc.all_models ?? doc._all_models.values()) {
      for (const [property, name] of [...Object.entries(INK), ...Object.entries(LINES)]) {
        if (property in model.properties && !model.type.match(/^(Text|Line|Segment|Scatter|Span|VSpan)$/)) model[property] = color(name);
      }
    }
  };

  // A chart from its JSON. `prepare(document)` fills it before it is drawn for the first time.
  const embed = async (item, place, prepare = () => {}) => {
    const doc = Bokeh.require("document").Document.from_json(item.doc);
    prepare(doc);
    const paint = () => paintDocument(doc);
    painters.push(paint);
    paint();
    await Bokeh.embed.add_document_standalone(doc, place);
    return doc;
  };

  const lazily = (place, work) => {
    const watcher = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        watcher.disconnect();
        work();
      }
    }, { rootMargin: "300px" });
    watcher.observe(place);
  };

  const failed = (place, error) => {
    place.replaceChildren(element("p", "note", "This chart could not be drawn. The tables hold the same."));
    console.error(error);
  };

  const embedAll = () => {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const item = JSON.parse(place.nextElementSibling.textContent);
      lazily(place, () => embed(item, place).catch((error) => failed(place, error)));
    }
  };

  const help = () => (byId("help").open ? byId("help").close() : byId("help").showModal());
  const typing = (target) => target.closest?.("input, textarea, select, [contenteditable]");

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const act = keys.get(event.key);
    if (!act || (byId("help").open && event.key !== "?")) return;
    event.preventDefault();
    act();
  };

  const start = async () => {
    byId("theme").addEventListener("click", toggleTheme);
    byId("help-open").addEventListener("click", help);
    keys.set("t", toggleTheme);
    keys.set("?", help);
    document.addEventListener("keydown", onKey);
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button) copy(button);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    addEventListener("beforeprint", () => {
      document.querySelectorAll("details").forEach((each) => { each.open = true; });
    });
    embedAll();
    for (const starter of starters) {
      try { await starter(); } catch (error) { console.error(error); }
    }
    // What a reader waits for: the first chart is on the screen, and the filter answers.
    requestAnimationFrame(() => requestAnimationFrame(() => { root.dataset.ready = String(Math.round(performance.now())); }));
  };

  return { keys, color, dark, element, say, embed, lazily, failed, start, onStart: (f) => starters.push(f), onTheme: (f) => painters.push(f) };
})();
