"use strict";
// The rows: unpacking, choosing, searching, and the list, of which only what is seen exists.

const ROW = 58; // px
const BINS = 20;
const KEPT_CHUNKS = 12; // inflated ones in memory

async function unpack(node) {
  const packed = atob(node.textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** The texts of the rows, chunk by chunk; those last used stay in memory. */
class Texts {
  constructor(counts) {
    this.first = [];
    this.chunkOf = [];
    let row = 0;
    counts.forEach((count, chunk) => {
      this.first.push(row);
      for (let i = 0; i < count; i++) this.chunkOf[row++] = chunk;
    });
    this.kept = new Map();
  }

  chunk(number) {
    const known = this.kept.get(number) ?? unpack(document.getElementsByClassName("chunk")[number]);
    this.kept.delete(number);
    this.kept.set(number, known);
    if (this.kept.size > KEPT_CHUNKS) this.kept.delete(this.kept.keys().next().value);
    return known;
  }

  async row(row) {
    const chunk = this.chunkOf[row];
    return named((await this.chunk(chunk))[row - this.first[chunk]]);
  }
}

function named([question, answer, extracted, before, after, cutsBefore, cutsAfter, tries]) {
  return { question, answer, extracted, before, after, cutsBefore, cutsAfter, tries };
}

/** What a search looks at. */
function searched(body, where) {
  if (where === "question") return body.question;
  if (where === "before") return body.before ?? "";
  if (where === "after") return body.after;
  if (where !== "edits") return [body.question, body.before ?? "", body.after, body.answer].join("\n");
  return [[body.before, body.cutsBefore], [body.after, body.cutsAfter]]
    .flatMap(([text, cuts]) => (cuts ? stretches(text, cuts) : []).filter((p) => p.edited).map((p) => text.slice(p.from, p.to)))
    .join("\n");
}

/** The rows that hold the words, as they are found: `tell(found, chunks looked at)`. A newer search ends it. */
class Search {
  constructor(index, texts) {
    Object.assign(this, { index, texts, turn: 0 });
  }

  async run(words, where, tell) {
    const turn = ++this.turn;
    const wanted = words.toLowerCase();
    const found = new Set();
    if (where === "all") this.index.id.forEach((id, row) => id.toLowerCase().includes(wanted) && found.add(row));
    const chunks = this.texts.first.length;
    for (let chunk = 0; chunk < chunks; chunk++) {
      const bodies = await (this.texts.kept.get(chunk) ?? unpack(document.getElementsByClassName("chunk")[chunk]));
      if (turn !== this.turn) return;
      bodies.forEach((body, i) => {
        if (searched(named(body), where).toLowerCase().includes(wanted)) found.add(this.texts.first[chunk] + i);
      });
      if (chunk % 8 === 7) tell(found, (chunk + 1) / chunks);
      if (chunk % 2) await new Promise((resolve) => setTimeout(resolve));
      if (turn !== this.turn) return;
    }
    tell(found, 1);
  }

  stop() {
    this.turn++;
  }
}

/** The rows that a choice lets through, sorted. `choice` holds low, high, kinds, correct, prefixLow … */
function chosen(index, choice, except = "") {
  const rows = [];
  const all = choice.low <= 0 && choice.high >= 1; // then rows without a ratio pass, too
  for (let row = 0; row < index.id.length; row++) {
    const ratio = index.ratio[row];
    const prefix = index.prefix[row];
    if (except !== "ratio" && !all && (ratio === null || ratio < choice.low || ratio > choice.high)) continue;
    if (choice.kinds.size && !choice.kinds.has(index.kind[row])) continue;
    if (choice.correct !== "" && index.verified[row] !== +choice.correct) continue;
    if (choice.prefixLow !== null && (prefix === null || prefix < choice.prefixLow)) continue;
    if (choice.prefixHigh !== null && (prefix === null || prefix > choice.prefixHigh)) continue;
    if (choice.found && !choice.found.has(row)) continue;
    rows.push(row);
  }
  const name = choice.sort.replace("-", "");
  const sign = choice.sort.startsWith("-") ? -1 : 1;
  const values = index[name];
  if (name === "kind") rows.sort((a, b) => (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : a - b));
  else if (name !== "id") rows.sort((a, b) => sign * ((values[a] ?? 2e9) - (values[b] ?? 2e9)) || a - b);
  return rows;
}

function bin(ratio) {
  return Math.min(BINS - 1, Math.floor(ratio * BINS + 1e-9));
}

function percent(ratio) {
  return ratio === null || ratio === undefined ? "–" : `${(100 * ratio).toFixed(1)}%`;
}

/** The list: `rows` are what it holds, of which those in sight have nodes. */
class List {
  constructor(box, inner, index, choose) {
    Object.assign(this, { box, inner, index, choose, rows: [], at: 0, nodes: new Map() });
    let asked = false;
    const later = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => ((asked = false), this.draw()));
    };
    box.addEventListener("scroll", later, { passive: true });
    new ResizeObserver(later).observe(box);
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-at]");
      if (row) choose(+row.dataset.at);
    });
  }

  /** Hold other rows. The row at `at` is the chosen one. */
  hold(rows, at) {
    this.rows = rows;
    this.at = at;
    this.inner.style.height = `${rows.length * ROW}px`;
    this.inner.replaceChildren();
    this.nodes.clear();
    this.show(at);
  }

  /** Scroll until this row is in sight, and mark it as the chosen one. */
  show(at) {
    const before = this.nodes.get(this.at);
    before?.setAttribute("aria-selected", "false");
    this.at = at;
    const { box } = this;
    if (at * ROW < box.scrollTop) box.scrollTop = at * ROW;
    else if ((at + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (at + 1) * ROW - box.clientHeight;
    this.draw();
    this.nodes.get(at)?.setAttribute("aria-selected", "true");
    if (this.rows.length) box.setAttribute("aria-activedescendant", `row-${this.rows[at]}`);
    else box.removeAttribute("aria-activedescendant");
  }

  draw() {
    const { box, rows, nodes } = this;
    const from = Math.max(0, Math.floor(box.scrollTop / ROW) - 4);
    const to = Math.min(rows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 4);
    for (const [at, node] of nodes) {
      if (at < from || at >= to) {
        node.remove();
        nodes.delete(at);
      }
    }
    const fresh = document.createDocumentFragment();
    for (let at = from; at < to; at++) if (!nodes.has(at)) fresh.append(this.node(at));
    this.inner.append(fresh);
  }

  node(at) {
    const { index } = this;
    const row = this.rows[at];
    const node = element("div", index.taken[row] ? "item" : "item refused");
    node.id = `row-${row}`;
    node.dataset.at = at;
    node.style.top = `${at * ROW}px`;
    const about = { role: "option", "aria-selected": at === this.at, "aria-posinset": at + 1, "aria-setsize": this.rows.length };
    for (const [name, value] of Object.entries(about)) node.setAttribute(name, value);
    const line = element("div", "line");
    const bar = element("i");
    bar.style.setProperty("--share", index.ratio[row] ?? 0);
    line.append(element("b", "", percent(index.ratio[row])), bar, element("span", "id", index.id[row]));
    if (!index.taken[row]) line.append(element("em", "", index.kind[row]));
    node.append(line, element("div", "title", index.title[row]));
    this.nodes.set(at, node);
    return node;
  }
}
