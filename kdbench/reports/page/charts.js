// Learning curves, sparklines, accuracy against time and intervals as inline SVG, coloured by page.css.

const DATA = JSON.parse(document.getElementById("data").textContent);

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const percent = (value) => value.toFixed(2);

// About `count` round numbers between low and high.
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(+(n * step).toFixed(10));
  return found;
}

const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

// The mean over the seeds at every epoch that all seeds have.
function meanCurve(row) {
  const others = row.runs.slice(1).map((run) => new Map(run.curve));
  return row.runs[0].curve
    .filter(([epoch]) => others.every((curve) => curve.has(epoch)))
    .map(([epoch, value]) => [epoch, others.reduce((sum, curve) => sum + curve.get(epoch), value) / row.runs.length]);
}

const path = (curve, x, y, low) =>
  "M" + curve.filter(([, value]) => value >= low).map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join("L");

// The first tenth of a long curve may lie below the picture: methods differ later.
function bounds(curves) {
  const latest = Math.max(...curves.flat().map(([epoch]) => epoch));
  const points = curves.flatMap((curve) => curve.filter(([epoch]) => latest < 20 || epoch > latest / 10));
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.06 || 1;
  return { first: Math.min(...curves.flat().map(([epoch]) => epoch)), last: latest, low: Math.max(0, low - margin), high: Math.min(100, high + margin) };
}

function sparkline(row) {
  const curves = row.runs.map((run) => run.curve);
  const { first, last, low, high } = bounds(curves);
  const [x, y] = [scale(first, last, 2, 46), scale(low, high, 16, 2)];
  const picture = svg("svg", { width: 48, height: 18, viewBox: "0 0 48 18", "aria-hidden": "true" });
  if (first === last) {
    const dots = scale(low, high, 6, 42);
    for (const [[, value]] of curves) picture.append(svg("circle", { class: "dot", cx: dots(value), cy: 9, r: 2 }));
    return picture;
  }
  for (const curve of curves) picture.append(svg("path", { class: "line", d: path(curve, x, y, low) }));
  return picture;
}

// Rows that a curve is compared with: same data set, pair and number of epochs.
const beside = (row) =>
  DATA.rows.filter((one) => one !== row && one.dataset === row.dataset && one.pair === row.pair && one.epochs === row.epochs);

function frame(width, height, box, xTicks, yTicks, x, y, xTitle) {
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img" });
  for (const value of yTicks) {
    picture.append(svg("line", { class: "grid", x1: box.left, x2: width - box.right, y1: y(value), y2: y(value) }));
    picture.append(svg("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const value of xTicks)
    picture.append(svg("text", { x: x(value), y: height - box.bottom + 16, "text-anchor": "middle" }, String(value)));
  picture.append(svg("text", { x: width - box.right, y: height - 4, "text-anchor": "end" }, xTitle));
  return picture;
}

// The learning curves of a row: seeds are thin, their mean is thick, other rows of the pair lie behind, the teacher is dashed.
function curves(row, width, height) {
  const box = { left: 34, right: 64, top: 22, bottom: 36 };
  const mean = meanCurve(row);
  const others = beside(row).map((one) => [one.loss, meanCurve(one)]).filter(([, curve]) => curve.length);
  const area = bounds([...row.runs.map((run) => run.curve), ...others.map(([, curve]) => curve)]);
  const onScale = row.teacher !== null && row.teacher - area.high <= area.high - area.low;
  if (onScale && row.teacher > area.high) area.high = Math.min(100, row.teacher + (row.teacher - area.low) * 0.04);
  const x = scale(area.first, area.last, box.left, width - box.right);
  const y = scale(area.low, area.high, height - box.bottom, box.top);
  const epochs = ticks(area.first, area.last, 6).filter(Number.isInteger);
  const picture = frame(width, height, box, area.first === area.last ? [area.first] : epochs, ticks(area.low, area.high, 5), x, y, "epoch");
  picture.setAttribute("aria-label", `Test ${row.score} by epoch of ${row.loss}; last epoch ${percent(row.mean)} per cent on average`);
  picture.append(svg("text", { x: 0, y: 11 }, `test ${row.score} %`));
  for (const [, curve] of others) picture.append(svg("path", { class: "line other", d: path(curve, x, y, area.low) }));
  if (row.teacher !== null) teacherLine(picture, row.teacher, onScale && row.teacher >= area.low, row.teacher > area.high, { width, box, y });
  for (const run of row.runs) {
    picture.append(svg("path", { class: "line", d: path(run.curve, x, y, area.low) }));
    const [epoch, value] = run.curve[run.curve.length - 1];
    picture.append(svg("circle", { class: "dot small", cx: x(epoch), cy: y(value), r: 2.5 }));
  }
  if (mean.length) {
    const [epoch, value] = mean[mean.length - 1];
    picture.append(svg("path", { class: "line mean", d: path(mean, x, y, area.low) }), svg("circle", { class: "dot", cx: x(epoch), cy: y(value), r: 3 }));
    picture.append(svg("text", { class: "strong label", x: x(epoch) + 8, y: y(value) + 4 }, row.loss));
    nameOthers(picture, others, [y(value)], x, y);
  }
  return { picture, x, y, area, box };
}

// The names of the other rows at the ends of their curves, where there is room.
function nameOthers(picture, others, taken, x, y) {
  for (const [loss, curve] of others) {
    const [epoch, value] = curve[curve.length - 1];
    if (taken.some((height) => Math.abs(height - y(value)) < 12)) continue;
    taken.push(y(value));
    picture.append(svg("text", { class: "other", x: x(epoch) + 8, y: y(value) + 4 }, loss));
  }
}

// The teacher as a line, or as an arrow where it is off the scale.
function teacherLine(picture, score, onScale, isAbove, { width, box, y }) {
  const words = `${onScale ? "" : isAbove ? "↑ " : "↓ "}teacher ${percent(score)}`;
  const height = onScale ? y(score) : box.top - 2;
  if (onScale) picture.append(svg("line", { class: "line teacher", x1: box.left, x2: width - box.right, y1: height, y2: height }));
  picture.append(svg("text", { class: "teacher", x: width - box.right, y: onScale ? height - 5 : 11, "text-anchor": "end" }, words));
}

// Curves with a readout at the epoch under the pointer, or at the one chosen with the arrow keys.
function explorable(row, width, height) {
  const { picture, x, box } = curves(row, width, height);
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const cursor = svg("line", { class: "cursor", y1: box.top, y2: height - box.bottom, visibility: "hidden" });
  const epochs = [...new Set(row.runs.flatMap((run) => run.curve.map(([epoch]) => epoch)))].sort((a, b) => a - b);
  let place = epochs.length - 1;
  const show = (now) => {
    place = Math.max(0, Math.min(epochs.length - 1, now));
    const epoch = epochs[place];
    const said = row.runs.map((run) => [run.seed, new Map(run.curve).get(epoch)]).filter(([, value]) => value !== undefined);
    readout.replaceChildren(`epoch ${epoch}: `);
    said.forEach(([seed, value], n) => readout.append(n ? ", " : "", `seed ${seed} `, element("b", {}, percent(value))));
    cursor.setAttribute("x1", x(epoch));
    cursor.setAttribute("x2", x(epoch));
    cursor.setAttribute("visibility", "visible");
  };
  const nearest = (event) => {
    const { left, width: shown } = picture.getBoundingClientRect();
    const at = ((event.clientX - left) / shown) * width;
    const away = epochs.map((epoch) => Math.abs(x(epoch) - at));
    show(away.indexOf(Math.min(...away)));
  };
  picture.append(cursor);
  picture.setAttribute("tabindex", "0");
  picture.addEventListener("pointermove", nearest);
  picture.addEventListener("pointerdown", nearest);
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); show(place + step); }
  });
  show(place);
  cursor.setAttribute("visibility", "hidden");
  return element("div", {}, picture, readout);
}

// Place labels to the right, left, above or below their point so that they overlap nothing; drop those that do not fit.
function placeLabels(points, from, limit) {
  const taken = points.map(({ px, py }) => [px - 4, py - 4, px + 4, py + 4]);
  const free = (a) => a[0] >= from && a[2] <= limit && taken.every((b) => a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1]);
  return points.map((point) => {
    const wide = 6.6 * point.text.length;
    const around = [[8, 4, "start", 0], [-8, 4, "end", -wide], [0, -9, "middle", -wide / 2], [0, 18, "middle", -wide / 2]];
    for (const [dx, dy, anchor, shift] of around) {
      const [left, base] = [point.px + dx + shift, point.py + dy];
      const rectangle = [left, base - 10, left + wide, base + 2];
      if (free(rectangle)) { taken.push(rectangle); return { ...point, dx, dy, anchor }; }
    }
    return { ...point, anchor: null };
  });
}

function timeUnit(longest) {
  return [["hours", 3600], ["minutes", 60], ["seconds", 1]].find(([, seconds]) => longest >= 3 * seconds) || ["seconds", 1];
}

function scatter(rows, width) {
  const height = Math.max(240, Math.min(380, width * 0.5)), box = { left: 34, right: 20, top: 24, bottom: 38 };
  const runs = rows.flatMap((row) => row.runs);
  const [unit, one] = timeUnit(Math.max(...runs.map((run) => run.seconds)));
  const times = runs.map((run) => run.seconds / one), values = runs.map((run) => run.last);
  const [slow, low, high] = [Math.max(...times), Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.1 || 1;
  const x = scale(0, slow * 1.08, box.left, width - box.right);
  const y = scale(Math.max(0, low - margin), Math.min(100, high + margin), height - box.bottom, box.top);
  const picture = frame(width, height, box, ticks(0, slow * 1.08, width < 500 ? 4 : 8), ticks(Math.max(0, low - margin), Math.min(100, high + margin), 5), x, y, `training time, ${unit}`);
  picture.setAttribute("aria-label", "Test score at the last epoch against training time");
  picture.append(svg("text", { x: 0, y: 11 }, `last test ${rows[0].score} %`));
  for (const row of rows) {
    for (const run of row.runs) {
      const [px, py] = [x(run.seconds / one), y(run.last)];
      picture.append(svg("line", { class: "whisker", x1: x(row.seconds / one), y1: y(row.mean), x2: px, y2: py }));
      picture.append(svg("circle", { class: "dot small", cx: px, cy: py, r: 2.5 }, svg("title", {}, `${row.loss}, seed ${run.seed}: ${percent(run.last)} %`)));
    }
  }
  const several = new Set(rows.map((row) => row.pair)).size > 1;
  const points = rows.map((row) => ({ row, px: x(row.seconds / one), py: y(row.mean), text: several ? `${row.loss}, ${row.pair}` : row.loss }));
  for (const { row, px, py, text, dx, dy, anchor } of placeLabels(points, box.left, width)) {
    const title = svg("title", {}, `${row.loss}, ${row.pair}${row.setting ? `, ${row.setting}` : ""}: ${percent(row.mean)} % in ${(row.seconds / one).toFixed(1)} ${unit}`);
    picture.append(svg("circle", { class: "dot", cx: px, cy: py, r: 4 }, title));
    if (anchor) picture.append(svg("text", { class: "label", x: px + dx, y: py + dy, "text-anchor": anchor }, text));
  }
  return picture;
}

// Draw mean difference and interval of each row of a comparison table on one scale, with a line at zero.
function forest(table) {
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, ...row.dataset }));
  const ends = rows.flatMap(({ mean, low, high }) => [mean, low || mean, high || mean].map(Number));
  const x = scale(Math.min(0, ...ends), Math.max(0, ...ends), 6, 144);
  for (const { row, mean, low, high } of rows) {
    const picture = svg("svg", { viewBox: "0 0 150 22", "aria-hidden": "true" }, svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 22 }));
    if (low !== "") picture.append(svg("line", { class: "span", x1: x(+low), x2: x(+high), y1: 11, y2: 11 }));
    picture.append(svg("circle", { class: "dot", cx: x(+mean), cy: 11, r: 3.5 }));
    row.querySelector(".forest").append(picture);
  }
}
