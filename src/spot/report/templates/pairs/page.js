"use strict";
// The page: what is chosen, the pair that is shown, the keys.

const BRIEF = 160; // characters of a folded prefix that stay
const $ = (id) => document.getElementById(id);
const state = { index: null, texts: null, list: null, search: null, rows: [], row: -1, raw: false, fold: false, words: "", found: null };

document.addEventListener("DOMContentLoaded", async () => {
  state.index = await unpack($("index"));
  const { index } = state;
  index.id.forEach((id, row) => byId.set(id, byId.get(id) ?? row));
  state.texts = new Texts(index.counts);
  state.search = new Search(index, state.texts);
  state.list = new List($("list"), $("rows"), index, (at) => choose(at));
  for (const node of document.querySelectorAll(".unit")) node.textContent = index.unit;
  kinds();
  $("correct").hidden = new Set(index.verified).size < 2;
  listen();
  refresh(byId.get(wantedId()));
});

const byId = new Map();

function wantedId() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

/** A box for each arm or outcome, if there are several. */
function kinds() {
  const counts = new Map();
  for (const kind of state.index.kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  $("kinds").hidden = counts.size < 2;
  for (const [kind, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    const label = element("label");
    const box = element("input");
    Object.assign(box, { type: "checkbox", name: "kind", value: kind });
    label.append(box, ` ${kind} `, element("small", "", count.toLocaleString("en")));
    $("kinds").querySelector(".chips").append(label);
  }
}

function choice() {
  const number = (id) => ($(id).value === "" ? null : +$(id).value);
  const [a, b] = [+$("low").value, +$("high").value];
  return {
    low: Math.min(a, b), high: Math.max(a, b), sort: $("sort").value, found: state.found,
    kinds: new Set([...document.querySelectorAll("[name=kind]:checked")].map((box) => box.value)),
    correct: document.querySelector("[name=correct]:checked").value,
    prefixLow: number("prefix-low"), prefixHigh: number("prefix-high"),
  };
}

/** Choose anew; the row that is shown stays shown if it passes. */
function refresh(wanted = state.rows[state.list.at] ?? -1) {
  const now = choice();
  state.rows = chosen(state.index, now);
  const at = Math.max(0, state.rows.indexOf(wanted));
  state.list.hold(state.rows, at);
  count();
  histogram(now);
  show(state.rows[at] ?? -1);
}

function count(share = 1) {
  const { rows, index } = state;
  const some = `${rows.length.toLocaleString("en")} of ${index.id.length.toLocaleString("en")} shown`;
  $("count").textContent = share < 1 ? `searching, ${Math.floor(100 * share)}% …` : some;
}

/** Bars of all rows, and of those that pass everything but the range. */
function histogram(now) {
  const { index } = state;
  const tall = new Array(BINS).fill(0);
  const some = new Array(BINS).fill(0);
  for (const ratio of index.ratio) if (ratio !== null) tall[bin(ratio)]++;
  for (const row of chosen(index, now, "ratio")) if (index.ratio[row] !== null) some[bin(index.ratio[row])]++;
  const most = Math.max(1, ...tall);
  const bars = tall.map((all, i) => {
    const bar = element("i", (i + 1) / BINS > now.low && i / BINS < now.high + 1e-9 ? "" : "out");
    bar.style.setProperty("--all", all / most);
    bar.style.setProperty("--some", some[i] / most);
    bar.title = `${i * 5}–${i * 5 + 5}%: ${some[i]} of ${all}`;
    return bar;
  });
  $("histogram").replaceChildren(...bars);
  $("range").textContent = `${Math.round(100 * now.low)}–${Math.round(100 * now.high)}%`;
}

function choose(at) {
  if (!state.rows.length) return;
  const to = Math.max(0, Math.min(state.rows.length - 1, at));
  state.list.show(to);
  show(state.rows[to]);
}

// ---- the pair -----------------------------------------------------------------------------------

/** Show a row; `again` also where it is shown already. */
async function show(row, again = false) {
  if (row === state.row && !again) return;
  state.row = row;
  const main = $("pair");
  stopDrawing();
  if (row === -1) {
    main.replaceChildren(element("p", "nothing", "No pair passes. Press reset, or search for other words."));
    return;
  }
  history.replaceState(null, "", `#${encodeURIComponent(state.index.id[row])}`);
  const body = await state.texts.row(row);
  if (row !== state.row) return;
  const jobs = [];
  const parts = [heading(row, body), question(body, jobs), sides(row, body, jobs)];
  if (body.tries.length) parts.push(tries(body.tries));
  main.replaceChildren(...parts);
  main.scrollTop = 0;
  main.removeAttribute("data-drawn");
  highlight();
  if (state.raw) main.dataset.drawn = "";
  else drawSeen(main, jobs, () => ((main.dataset.drawn = ""), highlight()));
}

function heading(row, body) {
  const { index } = state;
  const head = element("header", "about");
  const title = element("h2", "", index.id[row]);
  const link = element("a", "link", "#");
  link.href = location.hash;
  link.title = "address of this pair";
  title.append(" ", link);
  const facts = element("dl", "facts");
  const tokens = index.tokens[row];
  const said = [
    [`R_LCS${index.unit === "words" ? " in words" : ""}`, percent(index.ratio[row])],
    ["common prefix", index.prefix[row] === null ? null : `${index.prefix[row]} ${index.unit}`],
    ["tokens", tokens && (tokens[0] === null ? tokens[1] : `${tokens[0]} → ${tokens[1]}`)],
    [$("kinds").querySelector("legend").textContent, index.kind[row].replaceAll("_", " ")],
    ["final answer", body.extracted],
    ["truth", body.answer],
  ];
  for (const [name, value] of said) {
    if (value === null || value === undefined || value === "") continue;
    const pair = element("div", name === $("kinds").querySelector("legend").textContent && !index.taken[row] ? "bad" : "");
    const told = element("dd");
    told.append(...shown(String(value)));
    pair.append(element("dt", "", name), told);
    facts.append(pair);
  }
  head.append(title, facts);
  return head;
}

function question(body, jobs) {
  const section = element("section", "question");
  const text = element("div", "text");
  jobs.push(...write(text, body.question, null, "span"));
  section.append(element("h3", "", "question"), text);
  return section;
}

function sides(row, body, jobs) {
  const box = element("div", body.before && body.after ? "sides" : "sides single");
  const not = state.index.taken[row] ? "" : " · not taken";
  const after = body.tries.length && not ? `y⁺${not}: the Oracle's last reply` : `y⁺${not}`;
  for (const [name, label, text, cuts, tag] of [
    ["before", "y⁻", body.before, body.cutsBefore, "del"],
    ["after", after, body.after, body.cutsAfter, "ins"],
  ]) {
    if (text === null || (name === "after" && !text)) continue;
    const section = element("section", name);
    const area = element("div", "text");
    const prefix = cuts ? cuts[0] : 0;
    const begin = state.fold ? folded(text, prefix) : 0;
    if (begin) area.append(unfold(text.slice(0, begin)));
    const own = write(area, text, cuts, tag, begin);
    if (cuts && cuts.length > 1) dim(area, tag);
    jobs.push(...own);
    section.append(element("h3", "", label), area);
    box.append(section);
  }
  if (!body.after) box.append(element("p", "nothing", `No correction: ${state.index.kind[row]}.`));
  return box;
}

/** Where a folded text begins: at a word, not in a formula, a little before the first edit; 0 if it is short. */
function folded(text, prefix) {
  if (prefix < 2 * BRIEF) return 0;
  let at = text.lastIndexOf(" ", prefix - BRIEF) + 1;
  for (const formula of formulas(text)) if (formula.from < at && at < formula.to) at = formula.from;
  return at;
}

function unfold(hidden) {
  const button = element("button", "unfold", `… ${hidden.trim().split(/\s+/).length} words alike …`);
  button.type = "button";
  button.addEventListener("click", () => toggle("fold"));
  return button;
}

/** Put what comes before the first edit into an element of its own, which is paler. */
function dim(area, tag) {
  const first = [...area.childNodes].findIndex((node) => node.nodeType === 1 && (node.matches(tag) || node.querySelector(tag)));
  const prefix = element("span", "prefix");
  prefix.append(...[...area.childNodes].slice(0, first === -1 ? undefined : first));
  area.prepend(prefix);
}

function tries(all) {
  const box = element("section", "tries");
  const list = element("ol");
  for (const each of all) {
    const item = element("li");
    const cost = each.cost ? ` · $${each.cost.toFixed(4)}` : "";
    const line = element("p");
    line.append(element("b", "", each.outcome ?? ""), ...shown(` ${[each.reason, each.prompt, each.model_version].filter(Boolean).join(" · ")}${cost}`));
    item.append(line);
    if (each.text) {
      const details = element("details");
      const text = element("pre");
      text.append(...shown(each.text));
      details.append(element("summary", "", "what the Oracle wrote"), text);
      item.append(details);
    }
    list.append(item);
  }
  box.append(element("h3", "", "what the Oracle was asked"), list);
  return box;
}

/** Colour what was searched for, without touching the page's nodes. */
function highlight() {
  if (!CSS.highlights) return;
  CSS.highlights.delete("found");
  const wanted = state.words.toLowerCase();
  if (!wanted) return;
  const ranges = [];
  const walker = document.createTreeWalker($("pair"), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()) && ranges.length < 500; ) {
    const text = node.data.toLowerCase();
    if (text.length !== node.data.length) continue; // a letter that grows: places would be wrong
    for (let at = -1; (at = text.indexOf(wanted, at + 1)) !== -1 && ranges.length < 500; ) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

// ---- what the reader does -----------------------------------------------------------------------

function toggle(name) {
  state[name] = !state[name];
  $(name).setAttribute("aria-pressed", state[name]);
  show(state.row, true);
}

function find() {
  state.words = $("search").value.trim();
  highlight();
  if (!state.words) {
    state.search.stop();
    if (state.found) {
      state.found = null;
      refresh();
    } else count();
    return;
  }
  count(0.001);
  state.search.run(state.words, $("where").value, (found, share) => {
    state.found = new Set(found);
    if (share < 1) return count(share);
    refresh();
  });
}

/** To the next edit, or the one before. */
function jump(step) {
  const marks = [...document.querySelectorAll(".sides .after [data-edit], .sides .after .whole")];
  if (!marks.length) return;
  const now = marks.findIndex((mark) => mark.classList.contains("now"));
  document.querySelectorAll(".now").forEach((mark) => mark.classList.remove("now"));
  const to = marks[now === -1 ? (step > 0 ? 0 : marks.length - 1) : (now + step + marks.length) % marks.length];
  to.classList.add("now");
  to.scrollIntoView({ block: "center" });
  for (const mark of twins(to)) mark.classList.add("now");
}

function twins(mark) {
  const number = mark.dataset.edit;
  return number === undefined ? [] : document.querySelectorAll(`.sides [data-edit="${number}"]`);
}

const KEYS = {
  j: () => choose(state.list.at + 1), ArrowDown: () => choose(state.list.at + 1),
  k: () => choose(state.list.at - 1), ArrowUp: () => choose(state.list.at - 1),
  n: () => jump(1), N: () => jump(-1), r: () => toggle("raw"), p: () => toggle("fold"),
  "/": () => $("search").select(), "?": () => $("keys").showModal(),
};

const LIST_KEYS = {
  Home: () => choose(0), End: () => choose(state.rows.length - 1), Enter: () => $("pair").focus(),
  PageDown: () => choose(state.list.at + 8), PageUp: () => choose(state.list.at - 8),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const { target, key } = event;
  if (target === $("search")) {
    if (key === "Enter") $("pair").focus();
    else if (key === "Escape" && !$("search").value) $("list").focus();
    else return;
  } else if (target.closest("input:not([type=checkbox]):not([type=radio]), select")) return;
  else if (target === $("list") && LIST_KEYS[key]) LIST_KEYS[key]();
  else if (key.startsWith("Arrow") && $("pair").contains(target)) return; // scrolls the pair
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
}

function listen() {
  document.addEventListener("keydown", pressed);
  let waiting;
  $("choose").addEventListener("input", (event) => {
    clearTimeout(waiting);
    if (event.target === $("search")) waiting = setTimeout(find, 120);
    else if (event.target === $("where")) find();
    else waiting = setTimeout(refresh, 30);
  });
  $("choose").addEventListener("submit", (event) => event.preventDefault());
  $("choose").addEventListener("reset", () =>
    setTimeout(() => {
      state.found = null;
      find();
      refresh();
    }),
  );
  for (const name of ["raw", "fold"]) $(name).addEventListener("click", () => toggle(name));
  $("help").addEventListener("click", () => $("keys").showModal());
  window.addEventListener("hashchange", () => {
    const row = byId.get(wantedId());
    if (row === undefined || row === state.row) return;
    const at = state.rows.indexOf(row);
    if (at !== -1) choose(at);
    else show(row);
  });
  window.addEventListener("beforeprint", drawRest);
  sweep();
  $("pair").addEventListener("pointerover", (event) => {
    document.querySelectorAll(".twin").forEach((mark) => mark.classList.remove("twin"));
    const mark = event.target.closest("[data-edit]");
    if (mark) for (const other of twins(mark)) other.classList.add("twin");
  });
}

/** Drag over the histogram to choose a range. */
function sweep() {
  const box = $("histogram");
  let from = null;
  const bar = (event) => {
    const { left, width } = box.getBoundingClientRect();
    return Math.max(0, Math.min(BINS - 1, Math.floor(((event.clientX - left) / width) * BINS)));
  };
  const set = (event) => {
    const to = bar(event);
    $("low").value = Math.min(from, to) / BINS;
    $("high").value = (Math.max(from, to) + 1) / BINS;
    refresh();
  };
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    from = bar(event);
    set(event);
  });
  box.addEventListener("pointermove", (event) => from !== null && set(event));
  box.addEventListener("pointerup", () => (from = null));
  box.addEventListener("pointercancel", () => (from = null));
}
