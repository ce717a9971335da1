// The page: looks around, offers what fits, lets the worker run, sends what it found.

import { forgetFiles, keptFiles } from "./cache.js";
import { judge, newDocument, short } from "./document.js";
import { allFiles, canSplit, isIos, memoryPlan } from "./memory.js";
import { sendResults } from "./results.js";
import * as view from "./view.js";
import { stayAwake } from "./wake.js";

const asked = new URLSearchParams(location.search);
const base = document.baseURI;
// What the runtime is called where it never came to load.
const NO_RUNTIME = { runtime: "LiteRT.js", page: "unknown", userAgent: navigator.userAgent };
const NEEDED =
  "On Android: Chrome 121 or newer on Android 12 or newer. On an iPhone: iOS 26 or newer. On a computer: a browser " +
  "with WebGPU switched on.";

/** What the page knows while it is open. */
const state = {
  job: null,
  plan: null,
  around: null,
  worker: null,
  last: null,
  hidden: false,
  running: false,
  accelerator: "webgpu",
  kept: new Set(),
};

document.addEventListener("visibilitychange", () => {
  if (state.running && document.visibilityState === "hidden") state.hidden = true;
});

main().catch((error) => view.showUnsupported(`The page failed: ${error.message ?? error}`, "Load it again."));

async function main() {
  const missing = cannot();
  if (missing) return view.showUnsupported(...missing);
  state.job = await readJob();
  if (!state.job) return;
  view.showBundle(state.job);
  state.worker = new Worker(new URL("wasm/phone_worker.js", base));
  state.worker.addEventListener("message", ({ data }) => hear(data));
  state.worker.addEventListener("error", (event) =>
    broken(`the worker stopped: ${event.message || "it could not start"}`),
  );
  state.worker.postMessage({ kind: "look" });
}

/** Returns why nothing can be done here and what to do about it, or null. */
function cannot() {
  if (!globalThis.isSecureContext) {
    return [
      `This address (${location.origin}) is not secure, and browsers give such pages no GPU.`,
      "Open the page by https (sdmobile serve --lan), or by http://localhost with adb reverse (the command prints how).",
    ];
  }
  if (typeof WebAssembly !== "object") {
    return [
      "This browser runs no WebAssembly.",
      "Some have it switched off, such as iPhones in lockdown mode. Use another browser.",
    ];
  }
  return null;
}

async function readJob() {
  const response = await fetch(new URL("job.json", base), { cache: "no-store" }).catch(() => null);
  if (response?.ok) {
    const job = await response.json();
    if (job.kind === "sdmobile-phone-job" && job.schema_version === 1) return job;
    view.showUnsupported("The server's job is of another version than this page.", "Load the page again.");
    return null;
  }
  const what = response ? `it answers HTTP ${response.status}` : "it does not answer";
  view.showUnsupported(
    `The server has no job here: ${what}.`,
    "It may have ended. Start sdmobile serve again, and scan its new code.",
  );
  return null;
}

function hear(message) {
  const heard = {
    around: () => lookedAround(message.around),
    phase: () => {
      state.last = message.document;
      view.showPhase(message, state.job);
    },
    component: () => view.showComponents(state.job, (state.last = message.document)),
    bytes: () => view.showBytes(message.received),
    preview: () => view.showPreview(message),
    done: () => finish(message.document),
    broken: () => broken(message.text),
  };
  return heard[message.kind]?.();
}

/** The worker told what the browser has. */
async function lookedAround(around) {
  state.around = around;
  if (!around.offered && navigator.gpu) {
    around.problem = "this browser offers WebGPU to pages, and not to their workers, where this page computes";
  }
  if (asked.get("accelerator") === "wasm") state.accelerator = "wasm";
  if (state.accelerator === "webgpu" && around.problem) {
    view.showUnsupported(`No GPU: ${around.problem}.`, NEEDED, () => {
      state.accelerator = "wasm";
      return ready();
    });
    return;
  }
  await ready();
}

async function ready() {
  const { job, around } = state;
  state.plan = planned();
  state.kept = await keptFiles(allFiles(job, state.plan.external));
  view.showReady(state, start);
  const way = { whole: "all resident", each: "one at a time" }[asked.get("way")];
  if (way) view.chooseWay(way);
  if (asked.get("auto") === "1" && view.canStart()) view.pressStart();
  else if (around.problem && state.accelerator === "webgpu") view.showUnsupported(around.problem, "");
}

/** Returns what fits, with weights in files of their own where not everything does otherwise. */
function planned() {
  const { job, around, accelerator } = state;
  const ios = isIos(navigator);
  const plain = memoryPlan(job, { ios });
  const useful = !plain.wholeFits || asked.get("external") === "1";
  const external = useful && canSplit(job, { jspi: around.jspi, accelerator });
  return external ? memoryPlan(job, { ios, external }) : plain;
}

/** Starts the run in the chosen way. */
function start(way) {
  state.running = true;
  state.hidden = document.visibilityState === "hidden";
  state.awake = stayAwake();
  const { accelerator, plan } = state;
  const { userAgent } = navigator;
  const settings = { accelerator, way, ios: isIos(navigator), external: plan.external, userAgent };
  state.last = newDocument(state.job, settings, state.around, NO_RUNTIME);
  view.showRunning(state.job, state.plan, state.kept);
  state.worker.postMessage({ kind: "run", job: state.job, settings });
}

/** The worker is gone: what it had told is all that there is. */
function broken(text) {
  if (!state.running) return view.showUnsupported(`The page failed: ${text}.`, "Load it again.");
  const found = state.last;
  const phase = found.phases.at(-1);
  const where = phase ? ` (while ${phase.phase}${phase.component ? ` ${phase.component}` : ""})` : "";
  found.errors.push(short(`${text}${where}`));
  judge(found, state.job);
  return finish(found);
}

async function finish(found) {
  if (!state.running) return;
  state.running = false;
  state.awake?.();
  found.hidden = state.hidden;
  await view.showOutcome(found, state.job);
  view.showPosted(await sendResults(found, state.job, base));
  const kept = await keptFiles(allFiles(state.job, state.plan.external));
  view.showKept(kept, state.job, forgetFiles);
}
