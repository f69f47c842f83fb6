// The web page of the service.

import { byId, element, item, kept, named, percent, say } from "./common.js";

const PER_REQUEST = 16; // images per batch request; small, to show results step by step
const LARGE = 1_500_000; // bytes; a larger JPEG image is scaled down before it is sent
const SIDE = 1024; // longer side of a scaled image in px
const UNKNOWN = `Not a known ${item}`;

let waiting = []; // the current images
let running; // aborts the requests for the current images
let urls = []; // object URLs of the images on the page
let table = []; // rows of the CSV file to download
const classCounts = {}; // number of classes by model version

const milliseconds = (since) => `${Math.round(performance.now() - since)} ms`;

/** Returns the number of a class in its catalogue, with `before`; nothing if it has none. */
const numbered = (number, before = "") => (number == null ? "" : `${before}${item} ${number}`);
const credentials = () => (kept.apiKey ? { "X-API-Key": kept.apiKey } : {});

function address(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

/** Shows one of the two cards, or none, and releases the images of the previous result. */
function turnTo(card) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  for (const id of ["answer", "several"]) byId(id).hidden = id !== card;
}

/** Posts images and returns the response as `json` or `blob`. Error messages are for display on the page. */
async function send(path, part, files, signal, read) {
  const body = new FormData();
  for (const file of files) body.append(part, file);
  let response;
  try {
    response = await fetch(path, { method: "POST", body, headers: credentials(), signal });
    if (response.ok) return await response[read]();
  } catch {
    signal.throwIfAborted();
    for (const file of files) {
      await file.slice(0, 1).arrayBuffer().catch(() => {
        throw new Error(`The file ${file.name} cannot be read. It may be a folder, or it was moved or changed.`);
      });
    }
    throw new Error("The service does not respond. Try again in a moment.");
  }
  const problem = await response.json().catch(() => ({})); // an error of a proxy is not JSON
  const error = new Error(problem.detail ?? `The service returned HTTP status ${response.status}.`);
  throw Object.assign(error, { status: response.status });
}

/** Shows how many classes the model knows, if the service says so. */
async function showClassCount(version, signal) {
  byId("count").textContent = "";
  try {
    if (!classCounts[version]) {
      const model = await (await fetch("model", { headers: credentials(), signal })).json();
      classCounts[model.model_version] = model.classes.length;
    }
    const count = classCounts[version];
    if (count && !signal.aborted) byId("count").textContent = `${count} `;
  } catch { /* the sentence is also correct without the number */ }
}

/** Scales a large JPEG image down. It can exceed the service's limit, and the network's input is much smaller. */
async function reduced(file) {
  if (file.type !== "image/jpeg" || file.size < LARGE) return file;
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [image.width * scale, image.height * scale];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, file.type, 0.95));
    image.close();
    return new File([blob ?? file], file.name, { type: file.type });
  } catch {
    return file; // the service reports the error
  }
}

/** Shows an image, or the text `words` if the browser cannot display it. */
function view(id, blob, words) {
  const note = byId(`${id}-note`);
  note.textContent = "";
  byId(id).hidden = false;
  byId(id).onerror = () => {
    byId(id).hidden = true;
    note.textContent = words;
  };
  byId(id).src = address(blob);
}

async function showOne(file, signal) {
  const sent = await reduced(file);
  const started = performance.now();
  const answer = await send("cv_model/", "file", [sent], signal, "json");
  const took = milliseconds(started);
  signal.throwIfAborted();
  turnTo("answer");
  view("image", file, "This browser cannot display this format.");
  byId("image").alt = `The image ${file.name}`;
  byId("overlay").hidden = true;
  byId("overlay-note").textContent = "";

  const name = answer.is_unknown ? UNKNOWN : answer.class_name;
  byId("name").textContent = name;
  byId("unknown").hidden = !answer.is_unknown;
  if (answer.is_unknown) showClassCount(answer.model_version, signal);
  byId("facts").replaceChildren();
  const facts = { "Answered in": took, Model: answer.model_version };
  const known = { Number: answer.sign_number, Class: answer.predicted_class, Probability: percent(answer.probability) };
  for (const [fact, value] of Object.entries(answer.is_unknown ? facts : { ...known, ...facts })) {
    if (value == null) continue; // a class without a number
    const pair = element("div", element("dt", fact));
    pair.append(element("dd", String(value)));
    byId("facts").append(pair);
  }
  byId("ranking-title").textContent = answer.is_unknown ? "Most similar classes" : "Most probable classes";
  byId("ranking").classList.toggle("doubted", answer.is_unknown);
  byId("ranking").replaceChildren(...answer.top_k.map((entry) => {
    const row = element("li", named("span", entry.class_name));
    const fill = element("div");
    fill.style.width = `${100 * entry.probability}%`; // the security policy forbids inline styles in HTML
    row.append(" ", element("span", percent(entry.probability), "share"), element("div", fill, "track"));
    return row;
  }));
  say(answer.is_unknown ? `${name}.` : `${name}${numbered(answer.sign_number, ", ")}, ${percent(answer.probability)}.`, "heard");
  byId("answer").scrollIntoView({ block: "nearest" });

  try {
    const overlay = await send("cv_model/explain", "file", [sent], signal, "blob");
    signal.throwIfAborted();
    view("overlay", overlay, "");
  } catch (error) {
    if (!signal.aborted) byId("overlay-note").textContent = error.message; // some networks do not support it
  }
}

/** Classifies images in one request, or in several smaller ones if they exceed the service's limits. */
async function askBatch(files, signal) {
  try {
    return (await send("cv_model/batch", "files", files, signal, "json")).results;
  } catch (error) {
    if (error.status !== 413) throw error;
    if (files.length === 1) return [{ error: error.message }];
    const half = files.length >> 1;
    return [...await askBatch(files.slice(0, half), signal), ...await askBatch(files.slice(half), signal)];
  }
}

async function showSeveral(files, signal) {
  const started = performance.now();
  for (let done = 0; done < files.length; done += PER_REQUEST) {
    if (done) say(`${done} of ${files.length} images …`);
    const chunk = files.slice(done, done + PER_REQUEST);
    const sent = [];
    for (const file of chunk) sent.push(await reduced(file)); // not in parallel, because each takes 50 MB
    const results = await askBatch(sent, signal).catch((error) => {
      if (!done || error.status === 401) throw error;
      return chunk.map(() => ({ error: error.message })); // keeps the results of earlier requests
    });
    signal.throwIfAborted();
    if (!done) {
      turnTo("several");
      byId("rows").replaceChildren();
      table = [["file", "class", "name", "number", "probability", "is_unknown", "error"]];
    }
    results.forEach((answer, place) => addRow(chunk[place], answer));
    byId("several-title").textContent = `${table.length - 1} images in ${milliseconds(started)}`;
  }
  const refused = table.slice(1).filter((row) => row.at(-1)).length;
  say(`${files.length} images processed${refused ? `, ${refused} of them with errors` : ""}.`, "heard");
}

function addRow(file, answer) {
  const row = byId("rows").insertRow();
  const image = element("img");
  image.alt = ""; // the next cell has its name
  image.onerror = () => { image.hidden = true; };
  image.src = address(file);
  row.insertCell().append(image);
  const head = named("th", file.name);
  head.scope = "row";
  row.append(head);
  const { class_name: name, sign_number: number } = answer;
  if (answer.error) row.insertCell().append(element("span", answer.error, "error"));
  else if (answer.is_unknown) {
    const similar = element("span", "most similar: ", "small");
    similar.append(element("bdi", name));
    row.insertCell().append(element("strong", UNKNOWN, "warn"), similar);
  } else row.insertCell().append(named("strong", name), element("span", numbered(number), "small"));
  row.insertCell().append(answer.error ? "–" : percent(answer.probability));
  table.push([file.name, answer.predicted_class, name, number, answer.probability, answer.is_unknown, answer.error]);
}

async function take(files, missing) {
  if (!files.length) return say(missing, "error");
  running?.abort(); // new images replace the previous ones
  running = new AbortController();
  const { signal } = running;
  waiting = [...files];
  byId("key-form").hidden = true;
  document.body.setAttribute("aria-busy", "true");
  say("Classifying …");
  try {
    await (waiting.length === 1 ? showOne(waiting[0], signal) : showSeveral(waiting, signal));
  } catch (error) {
    if (signal.aborted) return;
    turnTo(null);
    if (error.status === 401) askForKey();
    else say(error.message, "error");
  } finally {
    if (!signal.aborted) document.body.removeAttribute("aria-busy");
  }
}

function askForKey() {
  if (kept.apiKey) say("This API key is not valid.", "error");
  else say("The service requires an API key.");
  byId("key-form").hidden = false;
  byId("key").focus();
}

function download() {
  // A spreadsheet would execute a cell that starts like a formula.
  const quoted = (value) => `"${String(value ?? "").replace(/^(?=\s*[=+\-@\t\r＝＋－＠])/, "'").replaceAll('"', '""')}"`;
  const text = table.map((row) => row.map(quoted).join(",")).join("\r\n");
  const link = element("a");
  link.href = address(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" })); // Excel needs the byte order mark to read UTF-8
  link.download = "predictions.csv";
  link.click();
}

for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", ({ target }) => {
    take([...target.files], "No image was chosen.");
    target.value = ""; // otherwise choosing the same image again would have no effect
  });
}
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  kept.apiKey = byId("key").value;
  byId("files").focus();
  take(waiting);
});
byId("download").addEventListener("click", download);
document.addEventListener("paste", (event) => {
  if (event.target !== byId("key")) take(event.clipboardData.files, "The clipboard contains no image.");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files, "The dropped content has no image.");
  });
}
