// Everything that changes what is on the screen.

import { median } from "../numbers.js";
import { mebibytes } from "./bytes.js";
import { bytesToLoad } from "./memory.js";

const PLACES = { webgpu: "GPU (WebGPU)", wasm: "CPU of the browser" };
const BRIEFLY = { webgpu: "GPU", wasm: "CPU" };
const PHASES = {
  loading: "Loading",
  verifying: "Verifying",
  compiling: "Compiling",
  checking: "Checking",
  timing: "Timing",
  encoding: "Encoding the text",
  sampling: "Sampling",
  decoding: "Decoding",
};
const SCREENS = ["unsupported", "ready", "running", "result"];
const element = (id) => document.getElementById(id);
const say = (text) => (element("status").textContent = text);

/** Shows one screen and moves the focus to its heading. */
function show(screen) {
  for (const id of SCREENS) element(id).hidden = id !== screen;
  element(screen).querySelector("h2").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function make(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Shows what is checked. */
export function showBundle({ bundle, sdmobile, runtime }) {
  element("bundle").dataset.known = "yes";
  element("bundle").textContent = `${bundle.name}, by sdmobile ${sdmobile}, with ${runtime}`;
}

/** Shows why nothing can be done, and what would help. */
export function showUnsupported(because, remedy, useCpu = null) {
  if (!element("bundle").dataset.known) element("bundle").textContent = "";
  element("because").textContent = because;
  element("remedy").textContent = remedy;
  element("cpu-offer").hidden = useCpu === null;
  if (useCpu) element("use-cpu").onclick = useCpu;
  show("unsupported");
  say("");
}

/** Shows the device and what fits, and calls `start(way)` when the button is pressed. */
export function showReady({ job, plan, around, kept, accelerator }, start) {
  element("device").replaceChildren(
    ...deviceLines(job, plan, around, kept, accelerator).flatMap(([name, words]) => [
      make("dt", name),
      make("dd", words),
    ]),
  );
  const { wholeFits, whole, each: most, limit, components } = plan;
  const unfit = components.filter(({ fits }) => !fits);
  const needs = (bytes) => `about ${mebibytes(bytes)} of the ${mebibytes(limit)} that the runtime can have here`;
  element("whole-words").textContent = wholeFits
    ? `${job.picture ? "Draws the picture. " : ""}Needs ${needs(whole)}.`
    : `Does not fit: it would need ${needs(whole)}.`;
  const drawn = plan.picture ? "; the picture is drawn on the way" : "";
  element("each-words").textContent = `Each is loaded, checked, timed and freed${drawn}. Needs at most ${needs(most)}.`;
  const possible = unfit.length < components.length;
  refuse(unfit, limit, possible);
  const [all, each] = document.querySelectorAll("[name=way]");
  [all.disabled, each.disabled] = [!wholeFits, !possible];
  [all.checked, each.checked] = [wholeFits, !wholeFits && possible];
  element("start").disabled = !possible;
  element("choices").onsubmit = (event) => {
    event.preventDefault();
    start(new FormData(event.target).get("way"));
  };
  show("ready");
  say("");
}

/** Names what does not fit. */
function refuse(unfit, limit, possible) {
  const box = element("refusal");
  box.hidden = unfit.length === 0;
  const names = unfit.map(
    ({ name, file, largest }) => `${name}: ${file} would need ${mebibytes(largest)} of ${mebibytes(limit)}`,
  );
  const fate = possible ? "Not loaded, because it does not fit" : "Nothing is loaded, because nothing fits";
  box.textContent = `${fate}:\n${names.join("\n")}\nExport with more --chunks, or with --quantize.`;
}

function deviceLines(job, plan, { adapter, limits, features, problem }, kept, accelerator) {
  const toLoad = bytesToLoad(job, plan, kept);
  const loading = toLoad === 0 ? "nothing: all files are kept from an earlier visit" : mebibytes(toLoad);
  const gpu = adapter ? nameOf(adapter) : problem;
  const lines = [
    ["Runs on", PLACES[accelerator]],
    ["GPU", gpu],
  ];
  if (adapter) {
    lines.push(["Buffers up to", mebibytes(limits.maxStorageBufferBindingSize)]);
    lines.push(["Textures up to", `${limits.maxTextureDimension2D} × ${limits.maxTextureDimension2D}`]);
    lines.push(["float16", features.includes("shader-f16") ? "the GPU computes it" : "the GPU does not compute it"]);
  }
  if (plan.external) lines.push(["Weights", "in files of their own, of which the runtime keeps less (JSPI)"]);
  lines.push(["Computes in", job.precision], ["Timed runs", String(job.runs)], ["To load", loading]);
  if (job.picture)
    lines.push(["Picture", `“${job.picture.prompt}”, ${counted(job.picture.steps, "step")}, seed ${job.picture.seed}`]);
  else if (job.no_picture) lines.push(["Picture", `none: ${job.no_picture}`]);
  return lines;
}

const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function nameOf({ vendor, architecture, device, description }) {
  return [vendor, architecture, device, description].filter(Boolean).join(" / ") || "unnamed";
}

/** Chooses a way, where it is possible. */
export function chooseWay(way) {
  const choice = document.querySelector(`[name=way][value="${way}"]`);
  if (!choice.disabled) choice.checked = true;
}

export const canStart = () => !element("start").disabled;
export const pressStart = () => element("start").click();

let bytesToCome = 0;

/** Shows that it runs. */
export function showRunning(job, plan, kept) {
  bytesToCome = bytesToLoad(job, plan, kept);
  showComponents(job, { components: [], checks: [] });
  element("preview").hidden = true;
  show("running");
}

/** Shows what begins now. */
export function showPhase({ phase, component, detail, document: found }, job) {
  const words = PHASES[phase] ?? phase;
  const title = [words, component].filter(Boolean).join(" ");
  element("phase").textContent = title;
  element("detail").textContent = detail ?? "";
  const bar = element("progress");
  if (phase !== "sampling") bar.removeAttribute("value");
  // Steps come too fast to be read aloud one by one.
  if (phase !== "sampling" || found.phases.at(-2)?.phase !== "sampling") say(`${title} …`);
  showComponents(job, found, component, words);
}

/** Shows how much of the files has come over the network. */
export function showBytes(received) {
  const bar = element("progress");
  bar.max = bytesToCome;
  bar.value = received;
  element("detail").textContent = `${mebibytes(received)} of ${mebibytes(bytesToCome)} loaded`;
}

/** Shows every component and how far it is. */
export function showComponents(job, found, current = null, words = "") {
  const lines = job.components.map(({ name }) => {
    const line = make("li", "");
    const record = found.components.find((one) => one.name === name);
    const state = name === current ? `${words.toLowerCase()} …` : record ? standing(record, found) : "waits";
    line.append(make("strong", name), make("span", state, record?.error ? "state bad" : "state"));
    return line;
  });
  element("components").replaceChildren(...lines);
}

function standing(record, found) {
  if (record.error) return record.error.split("\n")[0];
  return agreement(record, found);
}

function agreement({ name }, { checks }) {
  const own = checks.filter((one) => one.component === name);
  if (own.length === 0) return "–";
  if (own.some((one) => one.psnr_db === null)) return "not finite";
  const worst = Math.min(...own.map((one) => one.psnr_db));
  return `${worst === 999 ? "equal" : `${worst.toFixed(1)} dB`}${own.every((one) => one.passed) ? "" : ", too little"}`;
}

/** Shows how far the picture is. */
export function showPreview({ image, index, count }) {
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").putImageData(new ImageData(image.data, image.width, image.height), 0, 0);
  canvas.setAttribute("aria-label", `Preview of the latent after step ${index} of ${count}`);
  element("preview").hidden = false;
  const bar = element("progress");
  bar.max = count;
  bar.value = index;
}

/** Shows what came of it. */
export async function showOutcome(found, job) {
  const passed = found.verdict === "passed";
  element("verdict").textContent = passed ? "Passed" : "Failed";
  element("verdict").className = passed ? "good" : "bad";
  element("reason").textContent = found.reason;
  element("times-void").hidden = !found.hidden;
  element("rows").replaceChildren(...found.components.map((record) => row(cells(record, found))));
  element("times").hidden = found.components.length === 0;
  const { picture, ...rest } = found;
  element("log").textContent = JSON.stringify(
    { ...rest, picture: picture && { ...picture, png_base64: "…" } },
    null,
    1,
  );
  element("download").href = URL.createObjectURL(new Blob([JSON.stringify(found)], { type: "application/json" }));
  await showPicture(picture, job);
  show("result");
  say(`Done: ${found.verdict}.`);
}

async function showPicture(picture, job) {
  element("picture").hidden = picture === null;
  if (!picture) return;
  const bytes = Uint8Array.from(atob(picture.png_base64), (letter) => letter.charCodeAt(0));
  const image = element("drawn");
  image.alt = `The picture that this device drew of: ${job.picture.prompt}`;
  image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  await image.decode().catch(() => {});
  const same =
    picture.psnr_db === 999 ? "every pixel is PyTorch's" : `${picture.psnr_db?.toFixed(1) ?? "–"} dB against PyTorch's`;
  element("caption").textContent = `“${job.picture.prompt}” in ${seconds(picture.total_seconds)}; ${same}`;
}

function cells(record, found) {
  return [
    ["Component", record.name],
    ["Ran on", record.used ? BRIEFLY[record.used] : "–"],
    ["Load", seconds(record.download_seconds)],
    ["Compile", seconds(record.compile_seconds)],
    ["First run", seconds(record.first_seconds)],
    ["Later runs", seconds(median(record.seconds))],
    ["Kernel calls", record.used === "webgpu" ? String(record.dispatches) : "–"],
    ["Memory", record.heap_bytes ? mebibytes(record.heap_bytes) : "–"],
    ["Agreement", record.error ? "failed" : agreement(record, found)],
  ];
}

function row([[, name], ...entries]) {
  const line = document.createElement("tr");
  const head = make("th", name);
  head.scope = "row";
  line.append(head);
  for (const [label, text] of entries) {
    const cell = make("td", text);
    cell.dataset.label = label;
    line.append(cell);
  }
  return line;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(2)} s`;
}

/** Shows whether the server has the results. */
export function showPosted({ sent, text }) {
  const line = element("posted");
  line.textContent = text;
  line.className = sent ? "good" : "bad";
}

/** Shows what the browser keeps for the next visit. */
export function showKept(kept, job, forget) {
  const bytes = [...kept].reduce((sum, name) => sum + job.files[name].size, 0);
  element("kept").hidden = bytes === 0;
  element("kept-words").textContent = `This browser keeps ${mebibytes(bytes)} for the next visit.`;
  element("forget").onclick = async () => {
    await forget();
    element("kept").hidden = true;
    say("The kept files are deleted.");
  };
}
