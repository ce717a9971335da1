// Everything that changes what is on the screen.

import { median, psnr } from "./numbers.js";

const NAMES = { webgpu: "GPU (WebGPU)", wasm: "CPU (WebAssembly)" };
const element = (id) => document.getElementById(id);

/** Shows what happens now; empty text when nothing does. */
export function showStatus(text) {
  element("status").textContent = text ? `${text} …` : "";
}

/** Shows the one sentence that matters, or hides it. */
export function showOutcome(outcome) {
  const box = element("outcome");
  box.hidden = outcome === null;
  box.textContent = outcome?.text ?? "";
  box.className = outcome?.good ? "good" : "bad";
}

/** Shows which GPU this is and what it can hold. */
export function showDevice(device) {
  if (!device) {
    element("device").textContent = "none that web pages may use";
    return;
  }
  const name = [device.vendor, device.architecture, device.description].filter(Boolean).join(" / ") || "unnamed";
  const largest = (device.maxStorageBufferBindingSize / 2 ** 20).toFixed(0);
  element("device").textContent =
    `${name}; tensors up to ${largest} MiB; float16 ${device.float16 ? "available" : "not available"}`;
}

/** Fills the table with one row per accelerator. */
export function showRows(results) {
  const body = element("rows");
  body.replaceChildren(...results.map((result) => row(cells(result, results))));
  element("results").hidden = results.length === 0;
}

function cells(result, results) {
  const times = result.runs.flatMap((run) => run.seconds);
  const later = median(times.slice(1));
  return [
    ["On", NAMES[result.accelerator]],
    ["Accepted", result.accelerator === "wasm" ? "yes" : result.accepted ? "every operator" : "no"],
    ["Compile", seconds(result.compileSeconds)],
    ["First run", seconds(times[0])],
    ["Later runs", seconds(later)],
    ["Kernel calls", result.accelerator === "wasm" ? "–" : String(kernelCalls(result) ?? "–")],
    ["Agreement", agreement(result, results)],
  ];
}

/** Returns how many kernels one run dispatched, or null if nothing ran. */
export function kernelCalls(result) {
  const run = result.runs[0];
  return run ? Math.round(run.gpu.dispatches / run.seconds.length) : null;
}

function agreement(result, results) {
  const other = results.find((one) => one.accelerator === "wasm");
  if (result === other || !other?.runs[0] || !result.runs[0]) return "–";
  const decibels = other.runs[0].outputs.map(({ name, data }) => {
    const match = result.runs[0].outputs.find((output) => output.name === name);
    return psnr(data, match.data);
  });
  const worst = decibels.some(Number.isNaN) ? NaN : Math.min(...decibels);
  return Number.isNaN(worst) ? "not finite" : `${worst.toFixed(1)} dB`;
}

function row(entries) {
  const line = document.createElement("tr");
  for (const [label, text] of entries) {
    const cell = document.createElement("td");
    cell.dataset.label = label;
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${(value * 1000).toFixed(1)} ms` : `${value.toFixed(2)} s`;
}

/** Shows what the runtime printed. */
export function showLog(lines) {
  element("log").textContent = lines.join("\n") || "(nothing)";
}
