// Loads LiteRT.js and runs one .tflite file on one accelerator.

import { getWebGpuDevice, loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { takeLines } from "./console_log.js";
import { normalNumbers } from "./numbers.js";
import { deviceErrors, installProbe, since, snapshot, watchDevice } from "./probe.js";

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
// What LiteRT.js 2.5.3 is built with: the maximum that its WebAssembly files declare, and `getHeapMax` beside them.
const HEAP_LIMIT = 2 ** 31;
let started = null;
let runtime = null;

/** Loads the runtime once; threads need the isolation headers that `crossOriginIsolated` reports. */
export function start() {
  started ??= (async () => {
    installProbe();
    const threads = globalThis.crossOriginIsolated === true;
    runtime = await loadLiteRt(new URL("wasm/", document.baseURI).href, { threads });
    const device = getWebGpuDevice();
    if (device) watchDevice(device);
  })();
  return started;
}

/** Returns what computes: the adapter's own words, and the limits that decide which tensors fit. */
export function describeDevice() {
  const device = getWebGpuDevice();
  if (!device) return null;
  const { vendor, architecture, device: model, description } = device.adapterInfo;
  return {
    vendor,
    architecture,
    device: model,
    description,
    float16: device.features.has("shader-f16"),
    maxBufferSize: device.limits.maxBufferSize,
    maxStorageBufferBindingSize: device.limits.maxStorageBufferBindingSize,
  };
}

/** Returns the bytes of WebAssembly memory that were needed at most so far, for it never shrinks, and the most there is. */
export function heap() {
  return { bytes: runtime?.liteRtWasm.HEAPU8.buffer.byteLength ?? 0, limit: HEAP_LIMIT };
}

/** Returns a typed array from bytes that came over the network. */
export function arrayOf(dtype, buffer) {
  if (!(dtype in ARRAYS)) throw new Error(`LiteRT.js takes float32, int32 and uint8 tensors, not ${dtype}`);
  return new ARRAYS[dtype](buffer);
}

/** Returns inputs for a file that comes without any: normally distributed numbers, and zeros where integers are wanted. */
export function madeUpInputs(details) {
  const next = normalNumbers(0);
  return details.map(({ name, dtype, shape }) => {
    const data = new ARRAYS[dtype](shape.reduce((product, size) => product * size, 1));
    if (dtype === "float32") data.forEach((_, i) => (data[i] = next()));
    return { name, dtype, shape: Array.from(shape), data };
  });
}

/**
 * Compiles a file and runs it.
 *
 * @param model bytes of the .tflite file.
 * @param options.accelerator "wasm" or "webgpu".
 * @param options.precision "float32" or "float16", for webgpu.
 * @param options.signature key of the signature; null for the first.
 * @param options.samples lists of {name, dtype, shape, data}; null for one made-up sample.
 * @param options.repeat how often each sample is run.
 * @param options.onPhase called with what happens now.
 * @returns {accepted, compileSeconds, runs, log, errors}; each run has seconds, outputs and what reached the GPU.
 */
export async function runModel(model, options) {
  const { accelerator, precision = "float32", signature = null, repeat = 1, onPhase = () => {} } = options;
  takeLines();
  onPhase(`compiling for ${accelerator}`);
  const began = performance.now();
  const gpuOptions = { precision: precision === "float16" ? "fp16" : "fp32" };
  const compiled = await loadAndCompile(model, { accelerator, gpuOptions });
  const result = { accelerator, accepted: compiled.isFullyAccelerated, runs: [], inputs: [], errors: [], log: [] };
  result.compileSeconds = (performance.now() - began) / 1000;
  try {
    if (result.accepted || accelerator === "wasm") {
      const runner = signature === null ? compiled : compiled.signatures[signature];
      if (!runner) throw new Error(`the file has no signature ${signature}`);
      const samples = options.samples ?? [madeUpInputs(runner.getInputDetails())];
      result.inputs = samples[0];
      for (const [index, sample] of samples.entries()) {
        onPhase(`running sample ${index + 1} of ${samples.length} on ${accelerator}`);
        result.runs.push(await runSample(runner, sample, accelerator, repeat));
      }
    }
  } finally {
    compiled.delete();
    result.log = takeLines();
    result.errors = accelerator === "webgpu" ? deviceErrors() : [];
  }
  return result;
}

async function runSample(runner, sample, accelerator, repeat) {
  const before = snapshot();
  const seconds = [];
  let outputs = [];
  for (let i = 0; i < repeat; i++) {
    const began = performance.now();
    const inputs = {};
    for (const { name, shape, data } of sample) {
      const tensor = new Tensor(data, shape);
      inputs[name] = accelerator === "webgpu" ? await tensor.moveTo("webgpu") : tensor;
    }
    const results = await runner.run(inputs);
    outputs = await Promise.all(Object.entries(results).map(([name, tensor]) => read(name, tensor)));
    seconds.push((performance.now() - began) / 1000);
    Object.values(inputs).forEach((tensor) => tensor.delete());
  }
  return { seconds, outputs, gpu: since(before) };
}

/** Brings one output to the CPU and says where it was before. */
async function read(name, tensor) {
  const place = tensor.accelerator;
  const { dtype, layout } = tensor.type;
  const data = await tensor.data();
  tensor.delete();
  return { name, dtype, shape: Array.from(layout.dimensions), data, place };
}
