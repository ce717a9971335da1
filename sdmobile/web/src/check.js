// The headless side of the page: takes its order as addresses, returns figures, and puts outputs where it was told to.

import { arrayOf, describeDevice, heap, runModel, start } from "./engine.js";

async function bytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
  return response.arrayBuffer();
}

/** Loads the runtime and returns the device, or null where there is no GPU. */
export async function device() {
  console.debug("[phase] loading the runtime");
  await start();
  return describeDevice();
}

/**
 * Runs a file with given inputs.
 *
 * @param order {model, samples: [[{name, dtype, shape, url}]], accelerator, precision, signature, repeat, outputs}; the
 *   last is the address below which each output is PUT as `<sample>-<index>.bin`.
 * @returns what `runModel` returns, with addresses in the place of arrays, the device and the heap.
 */
export async function check(order) {
  const phase = (text) => console.debug(`[phase] ${text}`);
  await start();
  phase("loading the file");
  const model = new Uint8Array(await bytes(order.model));
  const samples = [];
  for (const sample of order.samples) {
    samples.push(
      await Promise.all(sample.map(async (input) => ({ ...input, data: arrayOf(input.dtype, await bytes(input.url)) }))),
    );
  }
  const result = await runModel(model, { ...order, samples, onPhase: phase });
  for (const [i, run] of result.runs.entries()) {
    for (const [j, output] of run.outputs.entries()) {
      output.file = `${i}-${j}.bin`;
      const response = await fetch(`${order.outputs}/${output.file}`, { method: "PUT", body: output.data });
      if (!response.ok) throw new Error(`${output.file}: HTTP ${response.status}`);
      delete output.data;
    }
  }
  delete result.inputs;
  return { ...result, device: describeDevice(), heap: heap(), isolated: globalThis.crossOriginIsolated === true };
}
