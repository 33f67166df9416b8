// Intervals of the paired comparisons, and the differences of two configurations.

for (const one of document.querySelectorAll("table.paired")) forest(one);

const menus = [document.getElementById("first"), document.getElementById("second")];

function differences() {
  const [a, b] = menus.map((menu) => DATA.runs[+menu.value]);
  const unknown = [a, b].filter((run) => !run.known).map((run) => run.title);
  const names = [...new Set([...Object.keys(a.own), ...Object.keys(b.own)])].filter((name) => a.own[name] !== b.own[name]);
  const origins = Object.keys(a.origin).filter((name) => a.origin[name] !== b.origin[name]);
  const lines = [
    ...(unknown.length ? [] : names.map((name) => [name, a.own[name], b.own[name]])),
    ...origins.map((name) => [name, a.origin[name], b.origin[name]]),
  ];
  const cell = (text) => element("td", { class: "name wide" }, text === undefined ? "–" : element("code", {}, text));
  const made = lines.map(([name, one, other]) => element("tr", {}, element("th", { scope: "row", class: "name" }, element("code", {}, name)), cell(one), cell(other)));
  const notes = unknown.map((title) => `The configuration of ${title} was not recorded.`);
  if (!made.length && !notes.length) notes.push("The same configuration and origin, except for the seed.");
  const said = notes.map((text) => element("tr", {}, element("td", { colspan: "3", class: "wide" }, text)));
  const head = element("thead", {}, element("tr", {}, ...["key", a.title, b.title].map((text) => element("th", { scope: "col", class: "name" }, text))));
  document.getElementById("difference").replaceChildren(head, element("tbody", {}, ...made, ...said));
}

menus.forEach((menu, place) => {
  menu.append(...DATA.runs.map((run, number) => element("option", { value: String(number) }, run.title)));
  menu.value = String(Math.min(place * (DATA.rows[0].runs.length || 1), DATA.runs.length - 1));  // by default the first runs of two rows
});
document.getElementById("versus").addEventListener("input", differences);
document.getElementById("versus").addEventListener("submit", (event) => event.preventDefault());
differences();
