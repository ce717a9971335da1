// Checks and times one component: file by file, on the recorded calls, every output of every run compared.

import { psnr } from "../numbers.js";
import { loadFile } from "./cache.js";
import { newComponent, short } from "./document.js";
import { arrayAt, Fatal, textOf } from "./engine.js";
import { piecesOf } from "./memory.js";

const EQUAL_DB = 999;

/** Returns decibels as the document has them: null where not finite, 999 where equal. */
function decibels(expected, found) {
  if (expected.length !== found.length) return null;
  if (expected.every((value, i) => value === found[i])) return EQUAL_DB;
  const value = psnr(expected, found);
  return Number.isFinite(value) ? Math.min(value, EQUAL_DB) : null;
}

/** Whether two arrays are the same, bit for bit. */
function identical(a, b) {
  const bytes = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const [left, right] = [bytes(a), bytes(b)];
  return left.length === right.length && left.every((value, i) => value === right[i]);
}

/** Returns the recorded calls of a component, arrays by canonical name. */
function callsOf(name, model, golden) {
  const byCanonical = (specs, slices) =>
    Object.fromEntries(specs.map(({ name: own, canonical }) => [canonical, arrayAt(golden.buffer, slices[own])]));
  return golden.calls
    .filter(({ component }) => component === name)
    .map(({ label, inputs, outputs }) => ({
      label,
      values: byCanonical(model.inputs, inputs),
      expected: byCanonical(model.outputs, outputs),
    }));
}

export class ComponentCheck {
  /**
   * @param run {job, settings, base, engine, document, reporter, golden, onBytes}.
   * @param component of the job.
   * @param model of metadata.json.
   */
  constructor(run, component, model) {
    Object.assign(this, { run, component, model });
    this.parts = model.chain.length > 0 ? model.chain : [model];
    this.record = newComponent(component.name);
    this.loaded = [];
    this.gpu = { dispatches: 0, buffers: 0, largestBuffer: 0 };
  }

  /**
   * Loads, checks and times every file.
   *
   * @param keep whether the files stay compiled, so that `call` works afterwards.
   * @throws Fatal where nothing can run any more; any other fault is in the record.
   */
  async check(keep) {
    this.run.document.components.push(this.record);
    try {
      const calls = callsOf(this.component.name, this.model, this.run.golden);
      if (calls.length === 0) throw new Error("golden.json has no recorded call of it");
      for (const part of this.parts) {
        const compiled = await this.load(part);
        await this.runPart(part, compiled, calls);
        if (!keep) this.free();
      }
      this.record.accepted = true;
      if (this.run.engine.accelerator === "webgpu" && this.record.dispatches === 0) {
        throw new Error("the GPU was given nothing to compute");
      }
      const told = this.run.engine.errors();
      if (told.length > 0) throw new Error(told.join("; "));
    } catch (error) {
      this.record.error = short(textOf(error));
      this.free();
      if (error instanceof Fatal) throw error;
    } finally {
      this.record.heap_bytes = this.run.engine.heap();
    }
  }

  /** Returns the outputs of the component, by canonical name; its files must have been kept. */
  async call(inputs) {
    let known = inputs;
    for (const { part, model } of this.loaded) {
      const { outputs } = await this.run.engine.call(model, part, known);
      known = { ...known, ...outputs };
    }
    return Object.fromEntries(this.model.outputs.map(({ canonical }) => [canonical, known[canonical]]));
  }

  /** Gives the runtime's memory back. */
  free() {
    for (const { model } of this.loaded.splice(0)) {
      try {
        model.delete();
      } catch {
        // A runtime that died has nothing to give back.
      }
    }
  }

  async load(part) {
    const { job, settings, base, engine, reporter, onBytes } = this.run;
    const { name } = this.component;
    const { record } = this;
    await reporter.phase("loading", name, part.file);
    const began = performance.now();
    const onVerify = () => reporter.phase("verifying", name, part.file);
    const entry = job.files[part.file];
    const pieces = [];
    for (const [title, piece] of Object.entries(piecesOf(part.file, entry, settings.external))) {
      pieces.push((await loadFile(title, piece, base, { onBytes, onVerify })).bytes);
    }
    const [bytes, data] = pieces;
    record.download_seconds = (record.download_seconds ?? 0) + (performance.now() - began) / 1000;
    await reporter.phase("compiling", name, part.file);
    const { model, seconds, accepted, used, log } = await engine.compile(bytes, data && { name: entry.external.name, data });
    record.used = used;
    record.compile_seconds = (record.compile_seconds ?? 0) + seconds;
    if (!accepted) {
      const words = log.join("\n") || "the runtime does not say why";
      throw new Error(`the GPU does not take all of ${part.file}, and the runtime would use the CPU: ${words}`);
    }
    this.loaded.push({ part, model });
    return model;
  }

  /** Runs one file on all calls, then as often as the job asks; leaves its outputs in the calls. */
  async runPart(part, compiled, calls) {
    const { engine, reporter, job } = this.run;
    const { name } = this.component;
    const { record } = this;
    await reporter.phase("checking", name, part.file);
    const first = [];
    for (const [index, call] of calls.entries()) {
      const { outputs, seconds } = await engine.call(compiled, part, call.values);
      if (index === 0) record.first_seconds = (record.first_seconds ?? 0) + seconds;
      first.push(outputs);
      this.compare(part, call, 0, outputs, outputs);
    }
    await reporter.phase("timing", name, part.file);
    let gpu = null;
    for (let run = 1; run <= job.runs; run++) {
      // The calls take turns, so that a runtime that hands out old results is noticed.
      const index = run % calls.length;
      const result = await engine.call(compiled, part, calls[index].values);
      record.seconds[run - 1] = (record.seconds[run - 1] ?? 0) + result.seconds;
      this.compare(part, calls[index], run, result.outputs, first[index]);
      gpu = result.gpu;
    }
    record.dispatches += gpu.dispatches;
    record.buffers += gpu.buffers;
    record.largest_buffer = Math.max(record.largest_buffer, gpu.largestBuffer);
    this.handOn(part, calls, first);
  }

  /** Compares outputs with PyTorch's; between two files of a chain, where there are none, with the first run's. */
  compare(part, { label, expected }, run, outputs, first) {
    const least = this.component.threshold_db;
    const last = part === this.parts.at(-1);
    for (const { canonical } of part.outputs) {
      const same = identical(outputs[canonical], first[canonical]);
      if (last) {
        const value = decibels(expected[canonical], outputs[canonical]);
        const passed = value !== null && value >= least;
        const check = { label: short(label), run, output: canonical, psnr_db: value, identical_to_first: same, passed };
        this.run.document.checks.push({ component: this.component.name, ...check });
        continue;
      }
      const value = same ? EQUAL_DB : decibels(first[canonical], outputs[canonical]);
      if (value === null || value < least) {
        const figure = value === null ? "not finite" : `${value.toFixed(1)} dB`;
        throw new Error(`${part.file}: run ${run + 1} gives another ${canonical} than run 1 (${figure})`);
      }
    }
  }

  /** Leaves to every call what later files take, and nothing else: what lies between files can be large. */
  handOn(part, calls, first) {
    const later = this.parts.slice(this.parts.indexOf(part) + 1);
    const wanted = new Set(later.flatMap(({ inputs }) => inputs.map(({ canonical }) => canonical)));
    for (const [index, call] of calls.entries()) {
      const values = { ...call.values, ...first[index] };
      call.values = Object.fromEntries(Object.entries(values).filter(([canonical]) => wanted.has(canonical)));
    }
  }
}
