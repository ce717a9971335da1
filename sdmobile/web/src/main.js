// The page itself: a file, a button, a table.

import { check, device } from "./check.js";
import { keepConsole, takeLines } from "./console_log.js";
import { describeDevice, heap, runModel, start } from "./engine.js";
import { kernelCalls, showDevice, showLog, showOutcome, showRows, showStatus } from "./view.js";

keepConsole();
globalThis.sdmobile = { check, device, heap };

const form = document.querySelector("form");
const button = form.querySelector("button");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  showRows([]);
  showOutcome(null);
  try {
    await run(new FormData(form));
  } catch (error) {
    showStatus("");
    showOutcome({ good: false, text: `It failed: ${error.message ?? error}` });
    showLog(takeLines());
  } finally {
    button.disabled = false;
  }
});

async function run(fields) {
  showStatus("loading the runtime");
  await start();
  showDevice(describeDevice());
  const model = new Uint8Array(await fields.get("model").arrayBuffer());
  const shared = { precision: fields.get("precision"), repeat: Number(fields.get("repeat")), onPhase: showStatus };
  const results = [];
  if (describeDevice()) {
    results.push(await runModel(model, { ...shared, accelerator: "webgpu", samples: null }));
    showRows(results);
  }
  if (fields.get("compare") === "on") {
    results.push(await runModel(model, { ...shared, accelerator: "wasm", samples: null }));
    showRows(results);
  }
  showStatus("");
  showOutcome(outcome(results));
  showLog(results.flatMap((result) => [...result.log, ...result.errors]));
}

function outcome(results) {
  const gpu = results.find((result) => result.accelerator === "webgpu");
  if (!gpu) return { good: false, text: "This browser offers no GPU to web pages (WebGPU): the file ran on the CPU only." };
  if (!gpu.accepted) return { good: false, text: "The GPU refuses part of this file; the log below says which operators." };
  if (gpu.errors.length > 0) return { good: false, text: `The GPU reported an error: ${gpu.errors[0]}` };
  if (!gpu.runs.every((run) => run.gpu.dispatches > 0)) return { good: false, text: "The GPU was given nothing to compute." };
  return { good: true, text: `The whole file ran on the GPU, in ${kernelCalls(gpu)} kernel calls.` };
}

start()
  .then(() => showDevice(describeDevice()))
  .catch((error) => showOutcome({ good: false, text: `The runtime did not load: ${error.message ?? error}` }));
