"use strict";
// Everything that comes from a model is put into the page as text (textContent, value), never as markup.

const $ = (id) => document.getElementById(id);
const session = crypto.randomUUID();
let tasks = []; // {id, title, done, wrong}; wrong: saved, without the true answer
let current = -1;
let attempt = "";
let serial = 0;
let unsaved = 0;

async function ask(path, body, options = {}) {
  const reply = await fetch(path, body === undefined ? options : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
  });
  const answer = await reply.json();
  if (!reply.ok) throw new Error(answer.error);
  return answer;
}

// Runs at most one request of a kind at a time, then one more with what came last in between.
function latest(send) {
  let waiting = null;
  let running = null;
  const run = async () => {
    while (waiting !== null) {
      const value = waiting;
      waiting = null;
      await send(value); // never throws
    }
    running = null;
  };
  return (value) => {
    waiting = value;
    running ??= run();
    return running;
  };
}

function note(text, bad = false) {
  $("saved").textContent = text;
  $("saved").classList.toggle("bad", bad);
}

const save = latest(async (edit) => {
  try {
    const { done, wrong } = await ask("save", edit);
    Object.assign(tasks[edit.index], { done, wrong });
    unsaved = edit.serial === serial ? 0 : 1;
    if (!unsaved) note("saved");
    overview();
  } catch (error) {
    note(`not saved: ${error.message}`, true);
  }
});

const look = latest(async (asked) => {
  try {
    const seen = await ask("look", asked);
    if (asked.index !== current) return;
    pieces($("before"), seen.before, "del");
    pieces($("after"), seen.after, "ins");
    $("ratio").textContent = seen.ratio === null ? "–" : `${(100 * seen.ratio).toFixed(1)}%`;
    $("verdict").textContent = seen.extracted === null ? "none found" : `${seen.extracted}: ${seen.verdict}`;
    $("verdict").className = seen.verdict === "correct" ? "good" : "bad";
  } catch (error) {
    note(`no connection: ${error.message}`, true);
  }
});

function pieces(place, parts, tag) {
  place.replaceChildren(...parts.map(([text, edited]) => {
    const part = document.createElement(edited ? tag : "span");
    part.textContent = text;
    return part;
  }));
}

function overview() {
  const done = tasks.filter((task) => task.done).length;
  const wrong = tasks.filter((task) => task.wrong).length;
  $("progress").textContent = `${done} of ${tasks.length} corrected${wrong ? `, ${wrong} without the true answer` : ""}`;
  $("bar").max = tasks.length || 1;
  $("bar").value = done;
  [...$("list").children].forEach((item, index) => {
    item.classList.toggle("done", tasks[index].done);
    item.classList.toggle("wrong", tasks[index].wrong);
    if (index === current) item.firstChild.setAttribute("aria-current", "true");
    else item.firstChild.removeAttribute("aria-current");
  });
  $("previous").disabled = current <= 0;
  $("next").disabled = current >= tasks.length - 1;
}

function edited() {
  serial += 1;
  unsaved = 1;
  note("saving …");
  const edit = { index: current, text: $("correction").value, session, serial };
  look({ index: current, text: edit.text });
  return save(edit);
}

async function open(index) {
  if (index < 0 || index >= tasks.length) return;
  if (unsaved) await edited();
  if (unsaved) return; // it could not be saved, and says so
  const task = await ask(`task/${index}`);
  current = index;
  attempt = task.response;
  $("question").textContent = task.question;
  $("answer").textContent = task.answer;
  $("correction").value = task.correction || task.response;
  $("desk").hidden = false;
  history.replaceState(null, "", `#${index + 1}`);
  overview();
  $("list").children[index].scrollIntoView({ block: "nearest" });
  await look({ index, text: $("correction").value });
}

async function finish() {
  const left = tasks.filter((task) => !task.done).length;
  if (left && !confirm(`Without a correction that ends in the true answer, and left out: ${left} of ${tasks.length}. Finish?`)) return;
  if (unsaved) await edited();
  if (unsaved) return;
  try {
    await ask("finish", {});
    $("desk").hidden = true;
    $("over").hidden = false;
    $("over").textContent = "Finished. Everything is saved, and the run goes on; you can close this page.";
    document.querySelectorAll("button").forEach((button) => { button.disabled = true; });
  } catch (error) {
    note(`not finished: ${error.message}`, true);
  }
}

async function begin() {
  tasks = await ask("tasks");
  $("list").replaceChildren(...tasks.map((task, index) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = task.title;
    button.title = task.id;
    button.addEventListener("click", () => open(index));
    item.append(button);
    return item;
  }));
  overview();
  const first = tasks.findIndex((task) => !task.done);
  await open(Number(location.hash.slice(1)) - 1 in tasks ? Number(location.hash.slice(1)) - 1 : Math.max(first, 0));
}

$("correction").addEventListener("input", edited);
$("previous").addEventListener("click", () => open(current - 1));
$("next").addEventListener("click", () => open(current + 1));
$("reset").addEventListener("click", () => { $("correction").value = attempt; edited(); });
$("finish").addEventListener("click", finish);
addEventListener("keydown", (event) => {
  if (!event.altKey || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
  event.preventDefault();
  open(current + (event.key === "ArrowRight" ? 1 : -1));
});
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
begin().catch((error) => note(`no connection: ${error.message}`, true));
