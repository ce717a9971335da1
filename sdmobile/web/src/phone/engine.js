// LiteRT.js in a worker: compiles files for one accelerator, runs their signatures, notices a lost device.

import { getWebGpuDevice, loadAndCompile, loadLiteRt, loadModelAndWeights, Tensor } from "@litertjs/core";
import { keepConsole, takeLines } from "../console_log.js";
import { deviceErrors, installProbe, since, snapshot, watchDevice } from "../probe.js";

/** The version that package.json pins. */
export const RUNTIME = "LiteRT.js 2.5.3";
const PIECE = 4 << 20; // bytes
const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
// The tests look in here: to lose the device, to make a runtime that computes wrongly.
export const handles = { Tensor, device: getWebGpuDevice };

/** The device is lost, or the runtime is: nothing runs after it. */
export class Fatal extends Error {}

/** Returns a copy of a slice of bytes as an array of a dtype. */
export function arrayAt(buffer, { dtype, offset, bytes }) {
  if (!(dtype in ARRAYS)) throw new Error(`LiteRT.js takes float32, int32 and uint8 tensors, not ${dtype}`);
  return new ARRAYS[dtype](buffer.slice(offset, offset + bytes));
}

/** Returns what this browser has, without loading the runtime. */
export async function lookAround() {
  const jspi = "Suspending" in WebAssembly;
  let adapter = null;
  const offered = Boolean(navigator.gpu);
  let problem = offered ? null : "this browser offers web pages no WebGPU";
  try {
    adapter = (await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" })) ?? null;
    if (navigator.gpu && !adapter) problem = "this browser has WebGPU, and found no GPU for it";
  } catch (error) {
    problem = `this browser's WebGPU failed: ${error.message}`;
  }
  return {
    offered,
    jspi,
    isolated: globalThis.crossOriginIsolated === true,
    problem,
    ...(adapter ? await described(adapter) : none()),
  };
}

const none = () => ({ adapter: null, features: [], limits: {} });

async function described(adapter) {
  // Browsers of before 2024 have a method in the place of the property.
  const info = adapter.info ?? (await adapter.requestAdapterInfo?.()) ?? {};
  const { vendor = "", architecture = "", device = "", description = "", isFallbackAdapter } = info;
  const limits = {};
  for (const name in adapter.limits) if (typeof adapter.limits[name] === "number") limits[name] = adapter.limits[name];
  return {
    adapter: {
      vendor,
      architecture,
      device,
      description,
      fallback: isFallbackAdapter ?? adapter.isFallbackAdapter ?? null,
    },
    features: [...adapter.features].sort(),
    limits,
  };
}

export class Engine {
  /** @param accelerator "webgpu" or "wasm". @param precision "float32" or "float16", for webgpu. */
  constructor(accelerator, precision) {
    Object.assign(this, { accelerator, precision });
    this.lost = new Promise(() => {});
    this.told = 0;
  }

  /** Loads the runtime from a folder; only its build for JSPI takes weights in files of their own. */
  async start(folder, jspi) {
    keepConsole();
    installProbe();
    // No threads: inside of a worker the threaded build waits for ever.
    this.runtime = await loadLiteRt(folder, { threads: false, jspi });
    const device = getWebGpuDevice();
    if (this.accelerator === "wasm") return;
    if (!device) throw new Fatal(`the browser gave no GPU device: ${takeLines().join("; ") || "it does not say why"}`);
    if (this.precision === "float16" && !device.features.has("shader-f16")) {
      throw new Fatal("this GPU computes no float16 in the browser (it lacks shader-f16): choose float32");
    }
    watchDevice(device);
    this.lost = device.lost.then(({ reason, message }) => {
      throw new Fatal(`the GPU device was lost (${reason}): ${message || "the browser does not say why"}`);
    });
    this.lost.catch(() => {}); // heard wherever something waits
  }

  /** Bytes of the runtime's memory; it never shrinks. */
  heap() {
    return this.runtime?.liteRtWasm.HEAPU8.buffer.byteLength ?? 0;
  }

  /**
   * Compiles a file.
   *
   * @param bytes of the model.
   * @param weights bytes of its weights, and the name that the model knows them by; undefined if it holds them itself.
   * @returns {model, seconds, accepted, used, log}; the model is null unless all of it runs where it should.
   */
  async compile(bytes, weights) {
    takeLines();
    const began = performance.now();
    const gpuOptions = { precision: this.precision === "float16" ? "fp16" : "fp32" };
    const options = { accelerator: this.accelerator, gpuOptions };
    const compiling = weights ? this.compileSplit(bytes, weights, options) : loadAndCompile(bytes, options);
    const model = await this.survive(compiling);
    const seconds = (performance.now() - began) / 1000;
    const used = model.options.accelerator === "webgpu" ? "webgpu" : "wasm";
    // On the CPU the runtime calls no file fully accelerated.
    const accepted = this.accelerator === "wasm" || (used === "webgpu" && model.isFullyAccelerated);
    if (!accepted) model.delete();
    return { model: accepted ? model : null, seconds, accepted, used, log: takeLines() };
  }

  /** Compiles a model whose weights lie in a file of the runtime's file system, which its loader looks for there. */
  async compileSplit(bytes, { name, data }, options) {
    const files = this.runtime.liteRtWasm;
    files.FS_createDataFile("/", name, data, true, false, true);
    try {
      return await loadModelAndWeights(bytes, inPieces(data), options);
    } finally {
      files.FS_unlink(`/${name}`);
    }
  }

  /**
   * Runs a signature once.
   *
   * @param model of `compile`.
   * @param part {signature, inputs, outputs} as in metadata.json.
   * @param known arrays by canonical name.
   * @returns {outputs, seconds, gpu}: outputs by canonical name, and what reached the GPU.
   */
  async call(model, part, known) {
    const runner = model.signatures[part.signature];
    if (!runner) throw new Error(`the file has no signature ${part.signature}`);
    const before = snapshot();
    const began = performance.now();
    const inputs = {};
    for (const { name, canonical, shape } of part.inputs) {
      if (!known[canonical]) throw new Error(`nothing is known to give for the input ${canonical}`);
      const tensor = new Tensor(known[canonical], shape);
      inputs[name] = this.accelerator === "webgpu" ? await this.survive(tensor.moveTo("webgpu")) : tensor;
    }
    const results = await this.survive(runner.run(inputs));
    const outputs = {};
    for (const { name, canonical } of part.outputs) {
      outputs[canonical] = await this.survive(results[name].data());
    }
    const seconds = (performance.now() - began) / 1000;
    for (const tensor of [...Object.values(inputs), ...Object.values(results)]) tensor.delete();
    return { outputs, seconds, gpu: since(before) };
  }

  /** Returns the errors that WebGPU has told to nobody since the last call. */
  errors() {
    if (this.accelerator !== "webgpu") return [];
    const all = deviceErrors();
    const fresh = all.slice(this.told);
    this.told = all.length;
    return fresh;
  }

  /** Waits for a result, but not after the device was lost; an abort of the runtime is the end of it. */
  async survive(promise) {
    try {
      return await Promise.race([promise, this.lost]);
    } catch (error) {
      if (error instanceof Fatal) throw error;
      const text = textOf(error);
      if (error instanceof WebAssembly.RuntimeError || text.includes("Aborted("))
        throw new Fatal(`the runtime died: ${text}`);
      throw error;
    }
  }
}

/** Returns bytes as a stream that ends. */
function inPieces(data) {
  let at = 0;
  const pull = (controller) => {
    if (at >= data.length) return controller.close();
    return controller.enqueue(data.subarray(at, (at += PIECE)));
  };
  return new ReadableStream({ pull });
}

/** Returns an error in words; the runtime also throws things that are none. */
export function textOf(error) {
  return error?.message ?? String(error);
}
