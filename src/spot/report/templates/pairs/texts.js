"use strict";
// A response as nodes: its edited words marked, its formulas found and drawn. Text is only ever text.

const LONGEST_FORMULA = 3000; // characters; a longer one stays text
const DEEPEST_FORMULA = 30; // braces within braces
const MOST_FORMULAS = 1500; // drawn of a response
const EDIT_COLOUR = "#00e0d1"; // tells edited words through KaTeX; the style sheet's colour replaces it
const KATEX = { output: "mathml", throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 200 };
const ENVIRONMENT = /^\\begin\{((?:align|equation|gather|multline|alignat|eqnarray)\*?)\}/;
// Characters that reorder or hide text: each is shown by its number, alone.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g;

/** The stretches of a text between its cuts: kept and edited in turn. */
function stretches(text, cuts) {
  if (!cuts) return [{ from: 0, to: text.length, edited: false, number: 0 }];
  let at = 0;
  return cuts.map((length, i) => ({ from: at, to: (at += length), edited: i % 2 === 1, number: i >> 1 }));
}

/** The formulas of a text in order: `$…$`, `$$…$$`, `\(…\)`, `\[…\]` and environments of displays. */
function formulas(text) {
  const found = [];
  const next = new Map(); // where a closing delimiter comes next, so that each is looked for once
  const closing = (mark, from) => {
    const known = next.get(mark);
    if (known === undefined || (known !== -1 && known < from)) next.set(mark, text.indexOf(mark, from));
    return next.get(mark);
  };
  const opening = /\\[\s\S]|\$\$?/g;
  for (let match; (match = opening.exec(text)); ) {
    const mark = match[0];
    const from = match.index;
    let formula = null;
    if (mark === "\\(" || mark === "\\[") {
      formula = between(from, from + 2, closing(mark === "\\(" ? "\\)" : "\\]", from + 2), 2, mark === "\\[");
    } else if (mark === "$$") {
      formula = between(from, from + 2, closing("$$", from + 2), 2, true);
    } else if (mark === "$") {
      const to = dollar(text, from + 1);
      formula = between(from, from + 1, to, 1, false);
    } else if (mark === "\\b") {
      const name = ENVIRONMENT.exec(text.slice(from, from + 30))?.[1];
      const end = name ? closing(`\\end{${name}}`, from) : -1;
      if (end !== -1) formula = between(from, from, end + name.length + 6, 0, true);
    }
    if (formula && formula.end - formula.start <= LONGEST_FORMULA && /\S/.test(text.slice(formula.start, formula.end))) {
      found.push(formula);
      opening.lastIndex = formula.to;
    }
  }
  return found;

  function between(from, start, end, tail, display) {
    return end === -1 ? null : { from, start, end, to: end + tail, display };
  }
}

/** Where the `$` is that closes a formula: no blank before it, no digit behind it; -1 if there is none. */
function dollar(text, from) {
  if (/\s/.test(text.charAt(from))) return -1;
  for (let i = from; i < text.length && i - from <= LONGEST_FORMULA; i++) {
    const c = text[i];
    if (c === "\\") i++;
    else if (c === "\n" && /\s*\n/y.test(text.slice(i + 1, i + 40))) return -1; // a new paragraph
    else if (c === "$") return /\s/.test(text[i - 1]) || /\d/.test(text.charAt(i + 1)) ? -1 : i;
  }
  return -1;
}

/** Put a text into `parent`; returns the formulas to draw. `tag` is what edited words are: del or ins. */
function write(parent, text, cuts, tag, begin = 0) {
  const pieces = stretches(text, cuts);
  const all = formulas(text).filter((f) => f.from >= begin).slice(0, MOST_FORMULAS);
  const jobs = [];
  let at = begin; // all before it is written
  let next = 0; // of `all`
  for (const piece of pieces) {
    const gap = piece.from === piece.to;
    if (gap ? !piece.edited || piece.from < at : piece.to <= at) continue; // nothing, or written
    const place = piece.edited ? mark(parent, tag, piece) : parent;
    while (next < all.length && all[next].from < piece.to) {
      const formula = all[next++];
      place.append(...shown(text.slice(at, formula.from)));
      const whole = formula.to <= piece.to;
      const span = element("span", formula.display ? "tex display" : "tex");
      // A formula that an edit cuts stands beside the marks, which go on inside of it.
      (whole ? place : parent).append(span);
      const inside = whole ? [] : pieces.filter((p) => meets(p, formula));
      if (whole) span.append(...shown(text.slice(formula.from, formula.to)));
      else for (const p of inside) fill(span, text, formula, p, tag);
      jobs.push({ span, text, formula, inside, tag });
      at = formula.to;
    }
    if (at < piece.to) place.append(...shown(text.slice(at, piece.to)));
    at = Math.max(at, piece.to);
    if (place !== parent && !gap && !place.hasChildNodes()) place.remove();
  }
  return jobs;
}

/** Whether a stretch has some of a formula, or is a gap inside of it. */
function meets(piece, formula) {
  if (piece.from === piece.to) return piece.edited && formula.from < piece.from && piece.from < formula.to;
  return piece.from < formula.to && formula.from < piece.to;
}

/** The part of a cut formula that lies in one stretch. */
function fill(span, text, formula, piece, tag) {
  const part = text.slice(Math.max(piece.from, formula.from), Math.min(piece.to, formula.to));
  (piece.edited ? mark(span, tag, piece) : span).append(...shown(part));
}

/** An element for edited words; without words it shows where the other side has some. */
function mark(parent, tag, piece) {
  const node = element(tag, piece.from === piece.to ? "gap" : "");
  node.dataset.edit = piece.number;
  parent.append(node);
  return node;
}

function element(tag, name = "", text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return node;
}

/** A text as nodes, what cannot be seen made visible. */
function shown(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    const node = element("span", "unseen", match[0]);
    node.dataset.code = `U+${code}`;
    nodes.push(node);
    at = match.index + 1;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

/** A formula as a node, or null where KaTeX cannot: then its source stays. */
function drawn({ text, formula, inside, tag }) {
  const source = text.slice(formula.start, formula.end);
  if (depth(source) > DEEPEST_FORMULA) return null;
  const options = { ...KATEX, displayMode: formula.display };
  let node = document.createElement("span");
  const edited = inside.some((piece) => piece.edited);
  const inColour = edited && coloured(node, text, formula, inside, tag, options);
  if (!inColour && !rendered(node, source, options)) return null;
  const note = node.querySelector("annotation");
  if (note) note.textContent = source;
  if (edited && !inColour) {
    const whole = element(tag, "whole");
    whole.title = "edited inside: its source (r) shows which words";
    whole.append(node);
    node = whole;
  }
  return node;
}

function put({ span }, node) {
  if (node === null) return;
  span.replaceChildren(node);
  span.classList.add("drawn");
}

/** Draw with the edited words in a colour of their own; false where they are no formula by themselves. */
function coloured(node, text, formula, inside, tag, options) {
  let source = "";
  for (const piece of inside) {
    const part = text.slice(Math.max(piece.from, formula.start), Math.min(piece.to, formula.end));
    if (!piece.edited) source += part;
    else if (!part.trim() || !balanced(part)) return false; // a delimiter, a gap, half of an argument
    else if (/[&#%]|\\\\|\\(?:begin|end|left|right|over|atop|choose|color|def|gdef|let|newcommand|limits|nolimits)\b/.test(part)) return false;
    else source += `\\textcolor{${EDIT_COLOUR}}{${part}}`;
  }
  if (!rendered(node, source, options)) return false;
  for (const part of node.querySelectorAll(`[mathcolor="${EDIT_COLOUR}"]`)) {
    part.removeAttribute("mathcolor");
    part.setAttribute("class", tag);
  }
  return true;
}

function rendered(node, source, options) {
  try {
    katex.render(source, node, options);
    return true;
  } catch {
    return false; // no formula, or one that is too much: its source stays
  }
}

function balanced(part) {
  let open = 0;
  for (const c of part) {
    open += c === "{" ? 1 : c === "}" ? -1 : 0;
    if (open < 0) return false;
  }
  return open === 0;
}

function depth(source) {
  let open = 0;
  let most = 0;
  for (const c of source) {
    if (c === "{") most = Math.max(most, ++open);
    else if (c === "}") open--;
  }
  return most;
}

const PATIENCE = 60; // ms that a pair is looked at before its formulas are drawn: some only pass by
const drawing = { turn: 0, watch: null, left: new Map() };

function stopDrawing() {
  drawing.turn++;
  drawing.watch?.disconnect();
  drawing.left.clear();
}

/**
 * Draw the formulas that come into sight of `root`, in slices of some milliseconds, and put them in together:
 * each time one is put in, all of its text is laid out again.
 */
function drawSeen(root, jobs, done) {
  stopDrawing();
  const { turn, left } = drawing;
  for (const job of jobs) left.set(job.span, job);
  const seen = async (entries) => {
    const now = entries.filter((entry) => entry.isIntersecting && left.has(entry.target)).map((entry) => left.get(entry.target));
    for (const job of now) {
      left.delete(job.span);
      drawing.watch.unobserve(job.span);
    }
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    if (turn !== drawing.turn) return;
    const nodes = [];
    let end = performance.now() + 10;
    for (const job of now) {
      if (performance.now() > end) {
        await new Promise((resolve) => setTimeout(resolve));
        if (turn !== drawing.turn) return;
        end = performance.now() + 10;
      }
      nodes.push(drawn(job));
    }
    now.forEach((job, i) => put(job, nodes[i]));
    done();
  };
  drawing.watch = new IntersectionObserver(seen, { root, rootMargin: "400px 0px" });
  for (const job of jobs) drawing.watch.observe(job.span);
  if (!jobs.length) done();
}

/** Paper shows all. */
function drawRest() {
  for (const job of drawing.left.values()) put(job, drawn(job));
  stopDrawing();
}
