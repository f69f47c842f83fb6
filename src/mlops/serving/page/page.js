// The page of the service: pictures in, answers out. No library, nothing from elsewhere.
"use strict";

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let rows = [];

function cell(row, content, kind) {
  const place = row.insertCell();
  if (kind) place.className = kind;
  place.append(content);
  return place;
}

async function send(path, fields) {
  const body = new FormData();
  for (const [name, file] of fields) body.append(name, file, file.name || "pasted.png");
  let response;
  try {
    response = await fetch(path, { method: "POST", body });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `The service answered ${response.status}.`);
  }
  return response;
}

function show(id) {
  for (const section of ["answer", "several"]) byId(section).hidden = section !== id;
}

async function one(file) {
  const started = performance.now();
  const answer = await (await send("cv_model/", [["file", file]])).json();
  const took = performance.now() - started;
  byId("picture").src = URL.createObjectURL(file);
  byId("overlay").removeAttribute("src");
  byId("unknown").hidden = !answer.is_unknown;
  byId("name").textContent = answer.class_name;
  byId("facts").textContent =
    `Sign ${answer.sign_number}, class ${answer.predicted_class}, ${percent(answer.probability)}; ` +
    `answered in ${took.toFixed(0)} ms by model ${answer.model_version}`;
  const body = byId("ranking").tBodies[0];
  body.replaceChildren();
  for (const entry of answer.top_k) {
    const row = body.insertRow();
    cell(row, entry.class_name);
    const meter = document.createElement("meter");
    meter.value = entry.probability;
    meter.textContent = percent(entry.probability);
    cell(row, meter);
    cell(row, percent(entry.probability), "number");
  }
  show("answer");
  byId("name").focus();
  try {
    byId("overlay").src = URL.createObjectURL(await (await send("cv_model/explain", [["file", file]])).blob());
    byId("overlay").parentElement.hidden = false;
  } catch {
    byId("overlay").parentElement.hidden = true; // a network that cannot say where its evidence lies
  }
}

async function several(files) {
  const { results } = await (await send("cv_model/batch", files.map((file) => ["files", file]))).json();
  const body = byId("several").querySelector("tbody");
  body.replaceChildren();
  rows = [["file", "class", "sign", "number", "probability", "unknown", "error"]];
  results.forEach((answer, place) => {
    const row = body.insertRow();
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(files[place]);
    cell(row, image);
    cell(row, answer.filename);
    if (answer.error) {
      cell(row, "");
      cell(row, "");
      cell(row, "");
      cell(row, answer.error, "error");
    } else {
      cell(row, answer.class_name);
      cell(row, answer.sign_number);
      cell(row, percent(answer.probability), "number");
      cell(row, answer.is_unknown ? "not a known sign" : "", "error");
    }
    rows.push([answer.filename, answer.predicted_class, answer.class_name, answer.sign_number, answer.probability,
      answer.is_unknown, answer.error].map((value) => value ?? ""));
  });
  byId("several-title").textContent = `${files.length} pictures`;
  show("several");
  byId("several-title").focus();
}

async function take(list) {
  const files = [...list].filter((file) => file.type.startsWith("image/") || /\.(ppm|tiff?)$/i.test(file.name));
  const status = byId("status");
  status.className = "";
  if (!files.length) {
    status.textContent = "That is no picture.";
    status.className = "error";
    return;
  }
  status.textContent = "Looking …";
  try {
    await (files.length === 1 ? one(files[0]) : several(files));
    status.textContent = "";
  } catch (error) {
    show(null);
    status.textContent = error.message;
    status.className = "error";
  }
}

function download() {
  // A leading = + - @ would be a formula in a spreadsheet.
  const escape = (value) => `"${String(value).replace(/^([=+\-@])/, "'$1").replaceAll('"', '""')}"`;
  const text = rows.map((row) => row.map(escape).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "signs.csv";
  link.click();
}

for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
}
byId("download").addEventListener("click", download);
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
