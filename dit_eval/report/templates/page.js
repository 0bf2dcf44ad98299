"use strict";
// What the page can do beyond being read: sort, filter and choose rows and columns of tables, compare and copy them,
// name points of figures, enlarge these. It asks for nothing from elsewhere, and writes texts as texts, never as HTML.

// An element with attributes, listeners (on: {click: ...}) and children.
function make(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children);
  return element;
}

const button = (text, click, more = {}) => make("button", { type: "button", on: { click }, ...more }, text);

// ---- One tip and one dialog for the whole page ----

const tip = document.body.appendChild(make("div", { id: "tip", role: "tooltip", hidden: true }));

let tipOwner = null;

function showTip(owner, ...content) {
  hideTip();
  tip.replaceChildren(...content);
  tip.hidden = false;
  (owner.closest("dialog") ?? document.body).append(tip); // above a dialog only what is in it is seen
  owner.setAttribute("aria-describedby", "tip");
  tipOwner = owner;
  placeTip();
}

function placeTip() {
  if (!tipOwner) return;
  const place = tipOwner.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const below = place.bottom + tip.offsetHeight + 12 < window.innerHeight || place.top < tip.offsetHeight + 12;
  tip.style.left = `${Math.max(8, Math.min(place.left, room))}px`;
  tip.style.top = `${below ? place.bottom + 6 : place.top - tip.offsetHeight - 6}px`;
}

function hideTip() {
  tip.hidden = true;
  tipOwner?.removeAttribute("aria-describedby");
  tipOwner = null;
}

// Under the pointer and with the focus, an element says more of itself.
function withTip(owner, content) {
  for (const event of ["pointerenter", "focus"]) owner.addEventListener(event, () => showTip(owner, ...content()));
  for (const event of ["pointerleave", "blur"]) owner.addEventListener(event, hideTip);
}

document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", placeTip, { passive: true, capture: true });

const dialog = document.body.appendChild(make("dialog"));
let whenClosed = () => {};
dialog.addEventListener("close", () => {
  document.body.append(tip);
  hideTip();
  whenClosed();
  dialog.replaceChildren();
});

function openDialog(title, content, closed = () => {}) {
  whenClosed = closed;
  const head = make("div", { class: "head" }, make("h2", { id: "dialog-title" }, title), button("Close", () => dialog.close()));
  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.replaceChildren(head, content);
  dialog.showModal();
}

// ---- The clipboard ----

async function copy(text, say) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Where a page may not write it, as in some mail programs: by selection, and last by hand.
    const area = document.body.appendChild(make("textarea"));
    area.value = text;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) {
      const shown = make("textarea", { class: "by-hand", readonly: true, "aria-label": "Text to copy" });
      shown.value = text;
      openDialog("Copy this text", shown);
      shown.select();
      return;
    }
  }
  say("Copied");
}

// ---- Formats, as the report's own files have them ----

const DASH = "-";
const FORMULA = /^\s*[=+\-@＝＋－＠\t\r\n]/;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const TEX = {
  "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "\u00a0": "~", "\u2212": "$-$",
  "\u2193": "$\\downarrow$", "\u2191": "$\\uparrow$", "\u00d7": "$\\times$", "\u00b1": "$\\pm$",
};

const markdownText = (text) => text.replace(/[\\`*_[\]<>&|~@]|:(?=\/\/)|(?<=www)\./gi, "\\$&");

function texText(text) {
  const escaped = [...text].map((sign) => TEX[sign] ?? (sign < "\u0080" ? sign : "?")).join("");
  return /^\s*[[*]/.test(text) ? `{}${escaped}` : escaped; // else it would belong to the end of the row before
}

function csvText(text) {
  const safe = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Each takes { title, columns: [{ key, title, isNumber }], rows: [[{ text, full, isBest }]] }.
const FORMATS = {
  Markdown({ title, columns, rows }) {
    const line = (cells) => `| ${cells.join(" | ")} |`;
    const bold = ({ text, isBest }) => (isBest ? `**${markdownText(text)}**` : markdownText(text));
    const head = [line(columns.map((column) => markdownText(column.title)))];
    head.push(`|${columns.map((column) => (column.isNumber ? "--:" : ":--")).join("|")}|`);
    return `**${markdownText(title)}**\n\n${[...head, ...rows.map((row) => line(row.map(bold)))].join("\n")}\n`;
  },
  LaTeX({ title, columns, rows }) {
    const line = (cells) => `${cells.join(" & ")} \\\\`;
    const cell = ({ text, isBest }) => (text === DASH ? "--" : isBest ? `\\textbf{${texText(text)}}` : texText(text));
    return [
      "% \\usepackage{booktabs}", "\\begin{table}[tbp]", "\\centering", `\\caption{${texText(title)}.}`,
      `\\begin{tabular}{${columns.map((column) => (column.isNumber ? "r" : "l")).join("")}}`, "\\toprule",
      line(columns.map((column) => texText(column.title))), "\\midrule", ...rows.map((row) => line(row.map(cell))),
      "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
    ].join("\n"); // prettier-ignore
  },
  CSV({ columns, rows }) {
    const lines = [columns.map((column) => column.key), ...rows.map((row) => row.map(({ full }) => (full === DASH ? "" : full)))];
    return lines.map((line) => `${line.map(csvText).join(",")}\n`).join("");
  },
};

// ---- Tables ----

// A cell's text without marks of notes, tags and tick boxes.
function textOf(cell) {
  const plain = cell.cloneNode(true);
  for (const mark of plain.querySelectorAll("sup, .tag, input")) mark.remove();
  return plain.textContent.trim();
}

const LONG = 40; // rows, above which a table is folded

const numberOf = (text) => (text === DASH ? NaN : parseFloat(text.replace("\u2212", "-").replace("+", "")));

class LiveTable {
  constructor(table) {
    this.table = table;
    this.block = table.closest(".block");
    this.title = table.caption.textContent.trim();
    this.columns = [...table.tHead.rows[0].cells].flatMap((head, index) =>
      head.dataset.key
        ? [{ head, index, key: head.dataset.key, title: head.textContent.trim(), isNumber: head.classList.contains("number") }]
        : [],
    );
    this.rows = [...table.tBodies[0].rows].map((row) => ({
      row,
      cells: this.columns.map(({ index }) => {
        const cell = row.cells[index];
        const text = textOf(cell);
        return { text, full: cell.dataset.value ?? text, isBest: cell.querySelector("strong") !== null };
      }),
    }));
    this.hidden = new Set();
    this.words = [];
    this.onlyTicked = false;
    for (const column of this.columns) column.head.querySelector("button").addEventListener("click", () => this.sort(column));
    if (this.rows.length > 1) this.addTicks();
    this.addTools();
    this.foldColumns();
    if (this.rows.length > LONG) this.foldRows();
    this.show();
    new ResizeObserver(() => this.fit()).observe(this.block);
  }

  // Numbers as numbers, cells without one last; a second press turns the order round.
  sort(column) {
    const descending = column.head.getAttribute("aria-sort") === "ascending";
    const place = this.columns.indexOf(column);
    const key = ({ cells }) => {
      const number = column.isNumber ? numberOf(cells[place].full) : NaN;
      return { number, text: cells[place].text, empty: cells[place].text === DASH || (column.isNumber && Number.isNaN(number)) };
    };
    const compared = (a, b) => {
      if (a.empty !== b.empty) return a.empty ? 1 : -1;
      const order = Number.isNaN(a.number) ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.number - b.number;
      return descending ? -order : order;
    };
    this.rows.sort((a, b) => compared(key(a), key(b)));
    for (const other of this.columns) other.head.removeAttribute("aria-sort");
    column.head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    this.table.tBodies[0].append(...this.rows.map(({ row }) => row));
    this.show();
  }

  addTicks() {
    for (const each of this.rows) {
      each.tick = make("input", { type: "checkbox", "aria-label": `Tick ${each.cells[0].text}`, on: { change: () => this.show() } });
      each.row.cells[0].prepend(each.tick);
    }
  }

  addTools() {
    const tools = make("div", { class: "tools", role: "group", "aria-label": `Tools of ${this.title}` });
    this.status = make("span", { role: "status" });
    if (this.rows.length > 1) {
      const hint = this.columns.some((column) => column.key === "fid") ? "Search, or fid<10" : "Search";
      const search = make("input", { type: "search", placeholder: hint, "aria-label": `Search ${this.title}; a column can be compared, as in fid<10` });
      search.addEventListener("input", () => {
        this.words = search.value.trim().split(/\s+/).filter(Boolean).map((word) => this.wanted(word));
        this.show();
      });
      this.only = button("Only ticked", () => {
        this.onlyTicked = !this.onlyTicked;
        this.show();
      });
      this.comparison = button("Compare", () => this.compare());
      tools.append(search, this.only, this.comparison);
    }
    const boxes = this.columns.slice(1).map((column) => {
      column.box = make("input", { type: "checkbox", on: { change: () => this.choose(column, column.box.checked) } });
      column.box.checked = true;
      return make("label", {}, column.box, ` ${column.title}`);
    });
    const menu = make("details", { class: "menu" }, make("summary", {}, "Columns"), make("div", {}, ...boxes));
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
    });
    const copies = Object.keys(FORMATS).map((name) => button(name, () => copy(this.text(name), (said) => (this.status.textContent = `${said} as ${name}`))));
    tools.append(menu, make("span", { class: "copy", role: "group", "aria-label": "Copy what is shown as" }, "Copy ", ...copies), this.status);
    this.block.prepend(tools);
  }

  // Of a long table the first rows are shown, until all are wanted; what is copied is whole.
  foldRows() {
    this.block.classList.add("short");
    const all = button(`Show all ${this.rows.length} rows`, () => {
      this.block.classList.remove("short");
      all.remove();
    }, { class: "all" });
    this.table.after(all);
  }

  // Settings that are the same in all rows need no column; a line says what they are.
  foldColumns() {
    for (const column of this.columns) if ("folded" in column.head.dataset) this.choose(column, false);
    const same = this.columns.filter(({ head }, place) => "setting" in head.dataset && new Set(this.rows.map(({ cells }) => cells[place].text)).size === 1);
    for (const column of same) this.choose(column, false);
    const facts = same.map((column) => `${column.title} ${this.rows[0].cells[this.columns.indexOf(column)].text}`);
    if (facts.length) this.table.after(make("p", { class: "about same" }, `${this.rows.length > 1 ? "The same in all rows" : "Also"}: ${facts.join("; ")}.`));
  }

  choose(column, shown) {
    this.hidden[shown ? "delete" : "add"](column);
    column.box.checked = shown;
    for (const row of this.table.rows) row.cells[column.index].hidden = !shown;
    this.fit();
  }

  // A word of a search: a text that a row has to hold, or a bound of a column.
  wanted(word) {
    const [, name, sign, bound] = word.match(/^([^<>=]+)(<=|>=|<|>|=)([\d.+-]+)$/) ?? [];
    const meant = (column) => column.key === name.toLowerCase() || column.title.toLowerCase().startsWith(name.toLowerCase());
    const place = name ? this.columns.findIndex((column) => column.isNumber && meant(column)) : -1;
    if (place < 0) return ({ cells }) => cells.some(({ text }) => text.toLowerCase().includes(word.toLowerCase()));
    const limit = parseFloat(bound);
    const holds = { "<": (n) => n < limit, ">": (n) => n > limit, "<=": (n) => n <= limit, ">=": (n) => n >= limit, "=": (n) => n === limit };
    return ({ cells }) => holds[sign](numberOf(cells[place].full));
  }

  get ticked() {
    return this.rows.filter(({ tick }) => tick?.checked);
  }

  show() {
    const ticked = this.ticked;
    if (!ticked.length) this.onlyTicked = false;
    let shown = 0;
    for (const each of this.rows) {
      each.row.hidden = !this.words.every((fits) => fits(each)) || (this.onlyTicked && !each.tick.checked);
      each.row.classList.toggle("ticked", Boolean(each.tick?.checked));
      each.row.classList.toggle("later", shown >= LONG);
      shown += !each.row.hidden;
    }
    this.status.textContent = shown < this.rows.length ? `${shown} of ${this.rows.length} rows` : "";
    if (!this.only) return;
    this.only.disabled = !ticked.length;
    this.only.setAttribute("aria-pressed", this.onlyTicked);
    this.comparison.disabled = ticked.length < 2;
    this.comparison.textContent = ticked.length < 2 ? "Compare" : `Compare ${ticked.length}`;
  }

  // What is shown, in a format.
  text(name) {
    const places = this.columns.keys().filter((place) => !this.hidden.has(this.columns[place])).toArray();
    return FORMATS[name]({
      title: this.title,
      columns: places.map((place) => this.columns[place]),
      rows: this.rows.filter(({ row }) => !row.hidden).map(({ cells }) => places.map((place) => cells[place])),
    });
  }

  // The ticked rows side by side: a column for each, what differs marked, numbers with their distance from the first.
  compare() {
    const chosen = this.ticked;
    const heads = chosen.map(({ row, cells }) => {
      const image = row.querySelector("td.samples img")?.cloneNode();
      return make("th", { scope: "col" }, cells[0].text, ...(image ? [make("br"), image] : []));
    });
    const lines = this.columns.slice(1).flatMap((column, index) => {
      const cells = chosen.map((each) => each.cells[index + 1]);
      if (cells.every(({ text }) => text === DASH)) return [];
      const differs = column.key !== "source" && new Set(cells.map(({ text }) => text)).size > 1;
      const first = numberOf(cells[0].full);
      const shown = cells.map(({ text, full }, place) => {
        const off = column.isNumber && place && differs ? numberOf(full) - first : NaN;
        const sign = off < 0 ? "\u2212" : "+";
        const said = Number.isNaN(off) || !off ? [] : [make("small", {}, ` ${sign}${Math.abs(off).toLocaleString("en", { maximumSignificantDigits: 3 })}`)];
        return make("td", { class: column.isNumber ? "number" : "text" }, text, ...said);
      });
      return [make("tr", { class: differs ? "differs" : "" }, make("th", { scope: "row" }, column.title), ...shown)];
    });
    const table = make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...lines));
    openDialog(`${chosen.length} rows compared`, make("div", { class: "compared", tabindex: "0" }, table));
  }

  // Where the columns find no room beside each other, each row becomes a card.
  fit() {
    this.block.classList.remove("cards");
    this.block.classList.toggle("cards", this.table.scrollWidth > this.block.clientWidth + 1);
  }
}

const tables = [...document.querySelectorAll("table.live")].map((table) => new LiveTable(table));

// How a run was made, at its name.
for (const link of document.querySelectorAll("a.how")) {
  const facts = document.querySelector(link.hash)?.querySelector("dl");
  if (facts) withTip(link, () => [facts.cloneNode(true)]);
}

// ---- Figures ----

// Names of points: under the pointer, and with the arrow keys one after the other.
for (const marks of document.querySelectorAll("svg.marks")) {
  const points = [...marks.children];
  points.forEach((point, place) => {
    const text = point.querySelector("title").textContent;
    point.replaceChildren(); // the browser's own tip would come too
    point.setAttribute("aria-label", text);
    point.setAttribute("tabindex", place ? -1 : 0);
    withTip(point, () => [text]);
    point.addEventListener("click", () => point.focus());
    point.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const next = points[place + steps[event.key]];
      if (!(event.key in steps)) return;
      event.preventDefault();
      if (!next) return;
      point.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

// Zoom: the picture grows within its frame, which scrolls, by keys and touch too.
for (const figure of document.querySelectorAll("figure")) {
  const [view, plot] = [figure.querySelector(".view"), figure.querySelector(".plot")];
  const title = figure.querySelector("h3").textContent;
  let zoom = 1;

  function setZoom(wanted, x = view.clientWidth / 2, y = view.clientHeight / 2) {
    const before = zoom;
    zoom = Math.min(8, Math.max(1, wanted));
    if (before === 1) view.style.height = `${view.clientHeight}px`;
    if (zoom === 1) view.style.height = "";
    plot.style.width = `${100 * zoom}%`;
    view.classList.toggle("zoomed", zoom > 1);
    view.toggleAttribute("tabindex", zoom > 1);
    if (zoom > 1) view.setAttribute("tabindex", "0");
    view.scrollLeft = ((view.scrollLeft + x) * zoom) / before - x;
    view.scrollTop = ((view.scrollTop + y) * zoom) / before - y;
    for (const each of view.parentElement.querySelectorAll("[data-zoomed]")) each.disabled = zoom === 1;
  }

  const zoomTools = () => [
    button("+", () => setZoom(zoom * 1.5), { "aria-label": `Zoom in: ${title}` }),
    button("\u2212", () => setZoom(zoom / 1.5), { "aria-label": `Zoom out: ${title}`, "data-zoomed": "", disabled: zoom === 1 }),
    button("1:1", () => setZoom(1), { "aria-label": `Original size: ${title}`, "data-zoomed": "", disabled: zoom === 1 }),
  ];
  const enlarge = button("Enlarge", () => {
    setZoom(1);
    const room = make("div", { class: "large" }, make("div", { class: "tools" }, ...zoomTools()), view);
    openDialog(title, room, () => {
      setZoom(1);
      figure.querySelector("figcaption").before(view);
      enlarge.focus();
    });
  }, { "aria-label": `Enlarge: ${title}` });
  figure.querySelector("h3").after(make("div", { class: "tools" }, ...zoomTools(), enlarge));

  view.setAttribute("role", "region");
  view.setAttribute("aria-label", title);
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const frame = view.getBoundingClientRect();
    setZoom(zoom * Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
  view.addEventListener("keydown", (event) => {
    const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 }[event.key];
    if (factor !== undefined && !event.ctrlKey && !event.metaKey) setZoom(zoom * factor);
  });
  view.addEventListener("pointerdown", (event) => {
    if (zoom === 1 || event.pointerType !== "mouse") return;
    event.preventDefault();
    const drag = (moved) => view.scrollBy(-moved.movementX, -moved.movementY);
    view.addEventListener("pointermove", drag);
    window.addEventListener("pointerup", () => view.removeEventListener("pointermove", drag), { once: true });
  });
}

// Data of a figure or table on the clipboard, beside the link that saves it.
for (const link of document.querySelectorAll("a.data")) {
  const copied = button("Copy", () => copy(decodeURIComponent(link.href.slice(link.href.indexOf(",") + 1)), (said) => (copied.textContent = said)), { "aria-label": `Copy ${link.download}`, class: "small" });
  link.after(" ", copied);
}

// ---- The page ----

// What a link leads to is unfolded.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();

// An open menu closes when something else is pressed; a slash goes to the nearest search.
document.addEventListener("pointerdown", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea")) return;
  const searches = [...document.querySelectorAll("input[type=search]")].filter((search) => search.offsetParent);
  const near = searches.find((search) => search.getBoundingClientRect().top > -20) ?? searches[0];
  if (!near) return;
  event.preventDefault();
  near.focus();
});

// Paper has room for tables as tables.
window.addEventListener("beforeprint", () => tables.forEach(({ block }) => block.classList.remove("cards")));
window.addEventListener("afterprint", () => tables.forEach((table) => table.fit()));
