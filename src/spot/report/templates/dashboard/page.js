
"use strict";
// Draws what it is given and, when served, fetches it again. Everything from runs goes in as text.
const first = JSON.parse(document.getElementById("data").textContent);
const DOMAINS = ["in-domain", "OOD", "general", "average"];
const drawn = new Map(); // a group's key → what was drawn of it: {node, parts: {name: [json, node]}}

/** An element with attributes, custom properties (--x) and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "polyline", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--") || name === "width%") node.style.setProperty(name === "width%" ? "width" : name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function row(kind, cells, attributes = {}) {
  return make("tr", attributes, ...cells.map((cell) => (cell instanceof Node ? cell : make(kind, {}, cell))));
}

function jobCell(job) {
  const what = job.text && job.state === "running" ? job.text : job.text ? `${job.state} at ${job.text}` : job.state;
  const bar = job.share === null ? null
    : make("div", { class: "bar" }, make("i", { "width%": `${Math.min(100, 100 * job.share)}%` }));
  return make("div", { class: `job ${job.state}`, title: `job ${job.job}: ${job.tip}` },
    make("span", { class: "state" }, what), bar, job.line ? make("small", { title: job.line }, job.line) : null);
}

/** Jobs by arm (rows) and seed (columns). */
function grid(group) {
  const seeds = [...group.seeds, ...(group.arms.some((arm) => arm.jobs.some((job) => job.seed === null)) ? [null] : [])];
  const head = row("th", ["", ...seeds.map((seed) => (seed === null ? "" : `seed ${seed}`))]);
  const rows = group.arms.map((arm) => row("td", [
    make("th", { class: "arm", scope: "row", "--arm": `var(${arm.colour})` }, arm.label),
    ...seeds.map((seed) => make("td", {}, ...arm.jobs.filter((job) => job.seed === seed).map(jobCell))),
  ]));
  return make("div", { class: "wide" }, make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function scores(group) {
  if (!group.scores.length) return null;
  const head = row("th", ["mean over seeds, % (difference to the base)", "seeds", ...DOMAINS]);
  const rows = group.scores.map((of) => row("td", [make("th", { scope: "row" }, of.label), String(of.seeds), ...of.cells]));
  return make("div", {}, make("h3", {}, "Finished"),
    make("div", { class: "wide" }, make("table", { class: "scores" }, make("thead", {}, head), make("tbody", {}, ...rows))));
}

const short = (value) => (value === 0 ? "0" : Math.abs(value) >= 1000 || Math.abs(value) < 0.01 ? value.toExponential(0) : String(+value.toPrecision(3)));

/** One small chart: lines over steps, with the extremes and the last step at its edges. */
function chart({ title, lines }) {
  const [width, height, left, top, bottom] = [200, 90, 30, 4, 12];
  const points = lines.flatMap((line) => line.points);
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - 2);
  const y = (value) => height - bottom - (y1 === y0 ? 0.5 : (value - y0) / (y1 - y0)) * (height - bottom - top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} over steps` },
    make("line", { class: "axis", x1: left, x2: width, y1: height - bottom, y2: height - bottom }),
    make("text", { x: left - 3, y: top + 6, "text-anchor": "end" }, short(y1)),
    make("text", { x: left - 3, y: height - bottom, "text-anchor": "end" }, y1 === y0 ? "" : short(y0)),
    make("text", { x: width, y: height - 2, "text-anchor": "end" }, `step ${x1}`));
  lines.forEach((line, index) => svg.append(make("polyline", {
    class: index ? "second" : "first",
    points: line.points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" "),
  }, make("title", {}, line.name || title))));
  const last = lines.map((line) => [line.name, short(line.points[line.points.length - 1][1])].filter(Boolean).join(" "));
  return make("figure", {}, make("figcaption", {}, `${title}: ${last.join(", ")}`), svg);
}

function curves(group) {
  if (!group.curves.length) return null;
  return make("div", {}, make("h3", {}, "In training (dashed: y⁻)"), make("div", { class: "cards" },
    ...group.curves.map((curve) => make("div", { class: "card", "--arm": `var(${curve.colour})` },
      make("b", { class: "arm" }, curve.label), make("div", { class: "charts" }, ...curve.charts.map(chart))))));
}

function failures(group) {
  if (!group.failures.length) return null;
  return make("div", {}, make("h3", {}, "Failed"), ...group.failures.map((of) => make("p", { class: "failure" },
    make("b", {}, `job ${of.job}, ${of.arm}${of.exit === null ? "" : `, exit code ${of.exit}`}: `), of.said)));
}

function head(group) {
  const counts = Object.entries(group.counts).map(([state, count]) => make("span", { class: `count ${state}` }, `${count} ${state}`));
  return make("div", { class: "head" }, make("h2", {}, group.name), ...counts);
}

/** Redraw the parts of a group that changed, so that the page does not move under its reader. */
function update(group) {
  if (!drawn.has(group.key)) drawn.set(group.key, { node: make("section", { class: "group" }), parts: {} });
  const { node, parts } = drawn.get(group.key);
  const of = { head: [head, ["name", "counts"]], grid: [grid, ["arms", "seeds"]], failures: [failures, ["failures"]],
    curves: [curves, ["curves"]], scores: [scores, ["scores"]] };
  for (const [name, [draw, keys]] of Object.entries(of)) {
    const text = JSON.stringify(keys.map((key) => group[key]));
    if (parts[name] && parts[name][0] === text) continue;
    const place = parts[name] ? parts[name][1] : node.appendChild(make("div"));
    const scrolled = [...place.querySelectorAll(".wide")].map((wide) => wide.scrollLeft);
    place.replaceChildren(...[draw(group)].filter(Boolean));
    place.querySelectorAll(".wide").forEach((wide, index) => { wide.scrollLeft = scrolled[index] || 0; });
    parts[name] = [text, place];
  }
  return node;
}

function show(seen) {
  document.title = `${seen.title} · spot`;
  document.getElementById("title").textContent = seen.title;
  const nodes = seen.groups.map(update), main = document.getElementById("groups");
  if (nodes.length !== main.children.length || nodes.some((node, index) => node !== main.children[index])) main.replaceChildren(...nodes);
  if (!nodes.length) main.replaceChildren(make("p", {}, `There is no run in ${seen.folder} yet.`));
  const when = new Date(1000 * seen.now), status = document.getElementById("status");
  status.className = "";
  status.textContent = first.every ? `as of ${when.toLocaleTimeString()}` : `as of ${when.toLocaleString()}`;
}

async function refresh() {
  try {
    const reply = await fetch("data.json", { cache: "no-store" });
    if (!reply.ok) throw new Error(await reply.text());
    show(await reply.json());
  } catch (error) {
    const status = document.getElementById("status");
    status.className = "lost";
    status.textContent = `nothing new: ${error instanceof TypeError ? "spot dashboard has ended" : error.message}`;
  }
  setTimeout(refresh, 1000 * first.every);
}

show(first);
if (first.every) setTimeout(refresh, 1000 * first.every);
