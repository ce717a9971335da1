// Counts what reaches the GPU. "Fully accelerated" is what the runtime says about itself; these counts are what the
// browser was really asked to do, so a run that left them at zero did not use the GPU.

const counts = { dispatches: 0, submits: 0, pipelines: 0, buffers: 0, largestBuffer: 0 };
const errors = [];

/** Calls `observe(arguments)` before each call of a method of a browser interface. */
function watch(constructor, method, observe) {
  const original = constructor?.prototype[method];
  if (!original) return;
  constructor.prototype[method] = function (...values) {
    observe(values);
    return original.apply(this, values);
  };
}

/** Starts counting; call once, before any WebGPU device exists. */
export function installProbe() {
  const add = (name) => () => counts[name]++;
  watch(globalThis.GPUComputePassEncoder, "dispatchWorkgroups", add("dispatches"));
  watch(globalThis.GPUComputePassEncoder, "dispatchWorkgroupsIndirect", add("dispatches"));
  watch(globalThis.GPUQueue, "submit", add("submits"));
  watch(globalThis.GPUDevice, "createComputePipeline", add("pipelines"));
  watch(globalThis.GPUDevice, "createComputePipelineAsync", add("pipelines"));
  watch(globalThis.GPUDevice, "createBuffer", ([descriptor]) => {
    counts.buffers++;
    counts.largestBuffer = Math.max(counts.largestBuffer, descriptor.size);
  });
}

/** Collects errors that WebGPU reports to nobody in particular: a failed validation, memory that ran out, a lost device. */
export function watchDevice(device) {
  device.addEventListener("uncapturederror", ({ error }) => errors.push(`${error.constructor.name}: ${error.message}`));
  device.lost.then(({ reason, message }) => {
    if (reason !== "destroyed") errors.push(`the GPU device was lost: ${message}`);
  });
}

/** Returns the counts so far. */
export function snapshot() {
  return { ...counts };
}

/** Returns what was counted since a snapshot; the largest buffer is the largest of all so far. */
export function since(before) {
  const difference = Object.fromEntries(Object.entries(counts).map(([name, value]) => [name, value - before[name]]));
  return { ...difference, largestBuffer: counts.largestBuffer };
}

/** Returns the WebGPU errors so far. */
export function deviceErrors() {
  return [...errors];
}
