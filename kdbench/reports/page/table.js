// The table of results: sort by a heading, filter, and open the learning curves of a row.

const table = document.getElementById("table");
const body = table.tBodies[0];
const rows = [...body.querySelectorAll("tr.row")];
const details = new Map();  // open rows, with the detail row below each
const dataOf = (row) => DATA.rows[+row.dataset.place];

function compareCells(first, second, sign) {
  if (first === "" || second === "") return (first === "") - (second === "");  // missing values come last in both directions
  const [a, b] = [Number(first), Number(second)];
  return sign * (Number.isNaN(a) || Number.isNaN(b) ? first.localeCompare(second, undefined, { numeric: true }) : a - b);
}

function sortBy(heading) {
  const column = [...heading.parentNode.cells].indexOf(heading);
  const isName = heading.classList.contains("name");
  const next = { none: isName ? "ascending" : "descending", ascending: "descending", descending: "ascending" }[heading.ariaSort];
  for (const other of heading.parentNode.querySelectorAll("[aria-sort]")) other.ariaSort = "none";
  heading.ariaSort = next;
  const sign = next === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.sort;
  rows.sort((a, b) => compareCells(key(a), key(b), sign));
  place();
}

function place() {
  for (const row of rows) {
    body.append(row);
    const detail = details.get(row);
    if (detail) body.append(detail);
  }
}

function filter() {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const menus = [...document.querySelectorAll("#filters select")].filter((menu) => menu.value);
  let shown = 0;
  for (const row of rows) {
    const { pair, loss, setting, dataset } = dataOf(row);
    const text = [pair, loss, setting, dataset, row.textContent].join(" ").toLowerCase();
    const fits = words.every((word) => text.includes(word)) && menus.every((menu) => row.dataset[menu.dataset.filter] === menu.value);
    row.hidden = !fits;
    if (details.has(row)) details.get(row).hidden = !fits;
    shown += fits;
  }
  document.getElementById("count").value = `${shown} of ${rows.length} rows`;
  drawScatter();
}

function drawScatter() {
  const figure = document.getElementById("scatter");
  const shown = rows.filter((row) => !row.hidden).map(dataOf);
  const width = Math.max(280, figure.clientWidth - 30);
  figure.replaceChildren(shown.length ? scatter(shown, width) : "No row matches the filter.");
}

function seeds(row) {
  const head = ["seed", "last %", "best % (epoch)", "s"].map((text) => element("th", { scope: "col", class: "number" }, text));
  const lines = row.runs.flatMap((run) => {
    const texts = [run.seed, percent(run.last), run.best === null ? "–" : `${percent(run.best)} (${run.bestEpoch})`, run.seconds.toFixed(0)];
    const cells = texts.map((text) => element("td", { class: "number" }, String(text)));
    return [element("tr", {}, ...cells), element("tr", {}, element("td", { class: "where", colspan: "4" }, run.where))];
  });
  return element("div", { class: "seeds" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines)));
}

function toggle(row) {
  const button = row.querySelector("button.curve");
  const isOpen = button.ariaExpanded === "true";
  button.ariaExpanded = String(!isOpen);
  hidePeek();
  if (isOpen) {
    details.get(row).remove();
    details.delete(row);
    return;
  }
  const wide = table.parentNode.clientWidth;  // the scrolling box
  const width = wide < 640 ? wide - 30 : Math.min(600, wide * 0.55);
  const inside = element("div", { class: "detail-body" }, explorable(dataOf(row), width, Math.max(220, width * 0.48)), seeds(dataOf(row)));
  const detail = element("tr", { class: "detail" }, element("td", { colspan: String(row.cells.length) }, inside));
  details.set(row, detail);
  row.after(detail);
}

const peek = document.getElementById("peek");

function showPeek(row) {
  if (details.has(row)) return;
  peek.replaceChildren(curves(dataOf(row), 330, 180).picture);
  peek.hidden = false;
  const button = row.querySelector("button.curve").getBoundingClientRect();
  const below = button.bottom + 8 + peek.offsetHeight < innerHeight;
  peek.style.left = `${button.left + scrollX}px`;
  peek.style.top = `${scrollY + (below ? button.bottom + 8 : button.top - 8 - peek.offsetHeight)}px`;
}

function hidePeek() {
  peek.hidden = true;
}

for (const heading of table.querySelectorAll("th[aria-sort]")) heading.firstElementChild.addEventListener("click", () => sortBy(heading));
for (const row of rows) {
  const button = row.querySelector("button.curve");
  button.append(sparkline(dataOf(row)));
  button.addEventListener("click", () => toggle(row));
  button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && showPeek(row));
  button.addEventListener("pointerleave", hidePeek);
}
document.getElementById("filters").addEventListener("input", filter);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
new ResizeObserver(() => {
  table.parentNode.style.setProperty("--box", `${table.parentNode.clientWidth}px`);
  drawScatter();
}).observe(document.getElementById("scatter").parentNode);
filter();
