"use strict";
// A table of any length of which only the rows in sight are in the page. Rows are all of one height.
class VirtualTable {
  // columns: [{ name, label, width }]; fill(row element, item): puts cells into it; onMark(item): a row was chosen.
  constructor(place, { label, columns, fill, onMark, height = 28 }) {
    Object.assign(this, { fill, onMark, height, items: [], marked: null, from: -1, to: -1 });
    const E = Harness.element;
    this.box = E("div", "vtable");
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "grid");
    this.box.setAttribute("aria-label", label);
    const head = E("div", "vrow vhead");
    head.setAttribute("role", "row");
    for (const column of columns) {
      const cell = E("div", `cell ${column.name}`, column.label);
      cell.setAttribute("role", "columnheader");
      head.append(cell);
    }
    this.body = E("div", "vbody");
    this.body.setAttribute("role", "rowgroup");
    this.empty = E("p", "vempty muted", "Nothing matches.");
    this.box.append(head, this.body, this.empty);
    place.append(this.box);
    this.id = `v${VirtualTable.count = (VirtualTable.count ?? 0) + 1}`;
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest(".vrow");
      if (row) this.mark(this.items[Number(row.dataset.at)], { tell: true });
    });
    new ResizeObserver(() => this.draw(true)).observe(this.box);
  }

  show(items) {
    this.items = items;
    this.body.style.height = `${items.length * this.height}px`;
    this.box.setAttribute("aria-rowcount", items.length + 1);
    this.empty.hidden = items.length > 0;
    this.draw(true);
  }

  draw(anew = false) {
    const seen = Math.ceil((this.box.clientHeight || 400) / this.height);
    const from = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 8);
    const to = Math.min(this.items.length, from + seen + 16);
    if (!anew && from === this.from && to === this.to) return;
    this.from = from;
    this.to = to;
    const rows = [];
    for (let at = from; at < to; at += 1) {
      const row = Harness.element("div", "vrow");
      row.setAttribute("role", "row");
      row.setAttribute("aria-rowindex", at + 2);
      row.dataset.at = at;
      row.id = `${this.id}-${at}`;
      row.style.top = `${at * this.height}px`;
      this.fill(row, this.items[at]);
      for (const cell of row.children) cell.setAttribute("role", "gridcell");
      if (this.items[at] === this.marked) {
        row.classList.add("marked");
        row.setAttribute("aria-selected", "true");
      }
      rows.push(row);
    }
    this.body.replaceChildren(...rows);
  }

  // Choose a row, and bring it into sight within the table. False: the filter hides it.
  mark(item, { tell = false } = {}) {
    const at = this.items.indexOf(item);
    if (at < 0) return false;
    this.marked = item;
    const top = at * this.height;
    const view = this.box.clientHeight - 2 * this.height;
    if (top < this.box.scrollTop || top > this.box.scrollTop + view - this.height) this.box.scrollTop = Math.max(0, top - view / 2);
    this.draw(true);
    this.box.setAttribute("aria-activedescendant", `${this.id}-${at}`);
    if (tell) this.onMark?.(item);
    return true;
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 2);
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined || !this.items.length) return;
    event.preventDefault();
    const at = this.items.indexOf(this.marked);
    const next = Math.min(this.items.length - 1, Math.max(0, (at < 0 ? -1 : at) + move));
    this.mark(this.items[Math.max(0, next)], { tell: true });
  }
}
