// The review page.

import { byId, element, item, kept, named, percent, say } from "./common.js";

const reviewer = Math.random().toString(36).slice(2); // so that two reviewers get different images

let queue = []; // the images to label next; the first one is shown
let classes = [];
let counted = { labelled: 0, waiting: 0 };
let done = []; // labelled images of this tab, for undo, with the ID of their label
let matches = []; // the classes in the list, in its order
let marked = 0; // position in `matches`
let busy = false; // a request is running: further keys and clicks do nothing
let imageUrl;

/** Sends a request with the token. Error messages are for display on the page. */
async function call(path, body) {
  const options = { headers: { Authorization: `Bearer ${kept.adminToken ?? ""}` } };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(path, options).catch(() => {
    throw new Error("The service does not respond. Nothing was stored; try again in a moment.");
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const error = new Error(problem.detail ?? `The service returned HTTP status ${response.status}.`);
  throw Object.assign(error, { status: response.status });
}

/** Runs one action at a time, so that a double click or a held key does nothing twice. */
async function alone(action) {
  if (busy) return;
  busy = true;
  byId("task").setAttribute("aria-busy", true);
  try {
    await action();
  } catch (error) {
    say(error.message, "error");
    if (error.status === 401) askForToken();
  } finally {
    busy = false;
    byId("task").removeAttribute("aria-busy");
  }
}

function askForToken() {
  for (const id of ["task", "progress", "undo", "reload", "note"]) byId(id).hidden = true;
  byId("token-form").hidden = false;
  byId("token").focus();
}

async function load(words = "") {
  const found = await (await call(`review/queue?reviewer=${reviewer}`)).json();
  queue = found.images;
  classes = found.classes;
  counted = found;
  byId("token-form").hidden = true;
  byId("note").hidden = !found.unreadable_days.length;
  byId("note").textContent = `Not shown: ${found.unreadable_days.join(", ")}. These days are compacted, and the service has no pyarrow to read them.`;
  show(words);
}

/** Shows the first image of the queue. */
function show(words = "") {
  const current = queue[0];
  const { labelled, waiting } = counted;
  byId("progress").hidden = false;
  byId("bar").max = Math.max(1, labelled + waiting);
  byId("bar").value = labelled;
  byId("count").textContent = `${labelled} labelled, ${waiting} to go`;
  byId("task").hidden = !current;
  byId("undo").hidden = !done.length;
  byId("reload").hidden = Boolean(current);
  URL.revokeObjectURL(imageUrl);
  say(words || (current ? "" : "There are no images to label."));
  byId("search").value = "";
  if (!current) {
    (done.length ? byId("undo") : byId("reload")).focus();
    return;
  }
  showFacts(current);
  showImage(current);
  filter();
  byId("search").focus();
}

function showFacts(current) {
  const predicted = classes[current.predicted_class].name;
  const facts = [
    ["Answered", current.is_unknown ? `Not a known ${item} (${predicted})` : predicted],
    ["Probability", percent(current.probability)],
    ["Feedback", current.feedback],
    ["Time", new Date(current.time).toLocaleString()],
    ["Request", `${current.request_id}, image ${current.image_number}`],
  ];
  const rows = facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", name), named("dd", value)]);
  byId("facts").replaceChildren(...rows);
}

async function showImage(current) {
  const [image, note] = [byId("image"), byId("image-note")];
  image.hidden = true;
  note.textContent = current.has_image ? "" : "No image is stored, only its record.";
  if (!current.has_image) return;
  try {
    const response = await call(`review/image?record_id=${encodeURIComponent(current.record_id)}`);
    const blob = await response.blob();
    if (current !== queue[0]) return; // labelled meanwhile
    imageUrl = URL.createObjectURL(blob);
    image.src = imageUrl;
    image.hidden = false;
  } catch (error) {
    if (current === queue[0]) note.textContent = error.message;
  }
}

/** Lists the classes that fit to the search, the probable ones first. */
function filter() {
  const words = byId("search").value.trim().toLowerCase();
  const current = queue[0];
  const first = [...new Set([current.predicted_class, ...current.prediction_set])].map((id) => classes[id]);
  const all = [...first, ...classes.filter((entry) => !first.includes(entry))].filter(Boolean);
  const exact = (entry) => [entry.number, String(entry.class_id), entry.name.toLowerCase()].includes(words);
  const fits = (entry) => `${entry.name} ${entry.number ?? ""}`.toLowerCase().includes(words) || exact(entry);
  matches = words ? all.filter(fits) : all;
  mark(0);
}

function mark(place) {
  marked = Math.max(0, Math.min(place, matches.length - 1));
  const rows = matches.map((entry, position) => {
    const row = element("li");
    row.append(named("span", entry.name), element("span", entry.number ?? String(entry.class_id)));
    row.id = `class-${entry.class_id}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", position === marked);
    row.addEventListener("click", () => decide("class", entry.class_id));
    return row;
  });
  byId("classes").replaceChildren(...(rows.length ? rows : [element("li", "No class has this name or number.", "empty")]));
  const chosen = rows[marked];
  byId("search").setAttribute("aria-activedescendant", chosen?.id ?? "");
  chosen?.scrollIntoView({ block: "nearest" });
}

/** Stores the label of the shown image and shows the next one. */
function decide(verdict, classId = null) {
  return alone(async () => {
    const current = queue[0];
    if (!current) return;
    const said = verdict === "class" ? classes[classId].name : { none: "None of the classes", unclear: "Cannot tell" }[verdict];
    let words = `Stored: ${said}.`;
    try {
      const body = { record_id: current.record_id, verdict, class_id: classId, expected: current.label_id };
      const stored = await (await call("review/labels", body)).json();
      current.label_id = stored.label_id;
      done.push(current);
    } catch (error) {
      if (error.status !== 409 && error.status !== 404) throw error; // the image stays
      words = error.message;
    }
    queue.shift();
    counted.labelled += 1;
    counted.waiting -= 1;
    if (queue.length && words.startsWith("Stored")) show(words);
    else await load(words); // also after a contradiction: another reviewer has the same images
  });
}

function undo() {
  return alone(async () => {
    const last = done.at(-1);
    if (!last) return;
    const body = { record_id: last.record_id, verdict: "withdrawn", class_id: null, expected: last.label_id };
    try {
      last.label_id = (await (await call("review/labels", body)).json()).label_id;
      done.pop();
    } catch (error) {
      if (error.status === 409 || error.status === 404) done.pop(); // never possible again
      byId("undo").hidden = !done.length;
      throw error;
    }
    queue.unshift(last);
    counted.labelled -= 1;
    counted.waiting += 1;
    show("The label was withdrawn.");
  });
}

byId("search").addEventListener("input", filter);
byId("search").addEventListener("keydown", (event) => {
  const keys = {
    ArrowDown: () => mark(marked + 1),
    ArrowUp: () => mark(marked - 1),
    Enter: () => !event.repeat && matches.length && decide("class", matches[marked].class_id),
    Escape: () => { event.target.value = ""; filter(); },
  };
  if (!event.target.value && !event.repeat) Object.assign(keys, { "-": () => decide("none"), "?": () => decide("unclear") });
  if (event.isComposing || event.altKey || event.ctrlKey || event.metaKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || byId("search").value) return; // text has an undo of its own
  event.preventDefault();
  undo();
});
byId("none").addEventListener("click", () => decide("none"));
byId("unclear").addEventListener("click", () => decide("unclear"));
byId("undo").addEventListener("click", undo);
byId("reload").addEventListener("click", () => alone(() => load()));
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  kept.adminToken = byId("token").value;
  byId("token").value = "";
  alone(() => load());
});

if (kept.adminToken) alone(() => load());
else askForToken();
