// A whole run: small files, then component after component, then the picture, then the verdict.

import { mebibytes, sha256 } from "./bytes.js";
import { loadFile } from "./cache.js";
import { ComponentCheck } from "./components.js";
import { judge, newComponent, newDocument, short } from "./document.js";
import { Engine, Fatal, RUNTIME, textOf } from "./engine.js";
import { inOrder, memoryPlan } from "./memory.js";
import { noiseFault } from "./noise.js";
import { Picture } from "./picture.js";
import { Reporter } from "./reporter.js";
import { Tokenizer } from "./tokenizer.js";

/**
 * Runs a job.
 *
 * @param job of the server.
 * @param settings {accelerator, way, ios, external, userAgent}.
 * @param around of `lookAround`.
 * @param base address of the page.
 * @param tell (message) to the page.
 * @returns the document.
 */
export async function runJob(job, settings, around, base, tell) {
  const run = new Run(job, settings, base, tell);
  const page = await pageHash();
  run.document = newDocument(job, settings, around, { runtime: RUNTIME, page, userAgent: settings.userAgent });
  const address = job.mode === "static" ? null : new URL("progress", base);
  run.reporter = new Reporter(run.document, address, tell, () => run.engine.heap());
  try {
    await run.prepare();
    await run.components();
    await run.draw();
  } catch (error) {
    run.document.errors.push(short(textOf(error)));
  }
  run.document.errors.push(...run.engine.errors()); // of the picture, or come late
  judge(run.document, job, run.note);
  return run.document;
}

/** Returns the SHA-256 of the script that computes, this one, so that a document says what made it. */
async function pageHash() {
  const response = await fetch(self.location.href).catch(() => null);
  return response?.ok ? sha256(await response.arrayBuffer()) : "unknown";
}

class Run {
  constructor(job, settings, base, tell) {
    Object.assign(this, { job, settings, base, tell });
    this.engine = new Engine(settings.accelerator, job.precision);
    this.plan = memoryPlan(job, settings);
    this.resident = settings.way === "all resident";
    this.kept = new Map();
    this.note = "";
    this.received = 0;
    this.onBytes = (count) => {
      this.received += count;
      tell({ kind: "bytes", received: this.received });
    };
  }

  /** Loads the small files and the runtime, and checks what the page computes by itself. */
  async prepare() {
    const { job } = this;
    await this.reporter.phase("loading", null, "small files");
    const small = {};
    for (const name of ["metadata.json", "golden.json", "golden.bin"]) small[name] = await this.file(name);
    this.metadata = json(small["metadata.json"]);
    this.golden = { ...json(small["golden.json"]), buffer: small["golden.bin"].buffer };
    if (this.golden.bundle_sha256 !== job.bundle.sha256) throw new Error("golden.json was recorded for another bundle");
    await this.reporter.phase("loading", null, "the runtime");
    await this.engine.start(new URL("wasm/", this.base).href, this.settings.external);
    if (job.picture || this.golden.tokens?.length) await this.prepareTexts();
    if (job.picture) await this.preparePicture();
    else this.note = job.no_picture ?? "";
  }

  /** Reads the tokenizer, and tries it on the texts whose identifiers were recorded. */
  async prepareTexts() {
    const { folder } = this.metadata.tokenizer;
    const names = ["vocab.json", "merges.txt", "tokenizer_config.json"].map((name) => `${folder}/${name}`);
    const [vocabulary, merges, config] = [
      await this.file(names[0]),
      await this.file(names[1]),
      await this.file(names[2]),
    ];
    await this.reporter.phase("checking", null, "the tokenizer");
    this.tokenizer = new Tokenizer(json(vocabulary), text(merges), this.metadata.tokenizer, json(config));
    for (const { text: given, ids } of this.golden.tokens ?? []) {
      const found = this.tokenizer.encode(given);
      if (found.length !== ids.length || !ids.every((id, i) => id === found[i])) {
        this.document.errors.push(short(`the page's tokenizer gives other identifiers for ${JSON.stringify(given)}`));
      }
    }
  }

  async preparePicture() {
    const scheduler = json(await this.file("scheduler.json"));
    await this.reporter.phase("checking", null, "the noise");
    const fault = noiseFault(json(await this.file("noise_golden.json")));
    if (fault) throw new Error(`the page's noise is wrong: ${fault}`);
    if (!this.resident && !this.plan.picture) {
      this.note = "no picture: one of its components does not fit into the runtime's memory as a whole";
      return;
    }
    const hooks = {
      phase: (...words) => this.reporter.phase(...words),
      preview: (image, index, count) => this.tell({ kind: "preview", image, index, count }),
    };
    this.picture = new Picture(this.job.picture, this.job.stages, this.metadata, scheduler, this.tokenizer, hooks);
  }

  /** Checks every component; one after the other, its part of the picture is drawn before it is freed. */
  async components() {
    for (const component of inOrder(this.job)) {
      const { name } = component;
      const planned = this.plan.components.find((one) => one.name === name);
      if (!planned.fits) {
        this.leaveOut(planned);
        continue;
      }
      const drawn = this.picture !== undefined && this.job.stages.includes(name);
      const check = new ComponentCheck(this, component, this.metadata.models[name]);
      await check.check(this.resident || drawn);
      this.tell({ kind: "component", document: this.document });
      if (check.record.error !== null) this.giveUpPicture(name);
      else if (this.resident) this.kept.set(name, check);
      else {
        if (drawn && this.picture) await this.stage(name, check);
        check.free();
      }
    }
  }

  /** Records a component that was not loaded because its largest file does not fit. */
  leaveOut({ name, largest, file }) {
    const record = newComponent(name);
    const needs = `${file} needs ${mebibytes(largest)} of the runtime's memory`;
    record.error = `${needs}, which has ${mebibytes(this.plan.limit)} here: export with more --chunks`;
    this.document.components.push(record);
    this.giveUpPicture(name);
  }

  giveUpPicture(name) {
    if (this.job.stages.includes(name)) this.picture = undefined;
  }

  /** Computes a stage of the picture; a fault ends the picture, and the run only if nothing can run any more. */
  async stage(name, check) {
    try {
      await this.picture.stage(name, (inputs) => check.call(inputs));
      if (name !== this.job.stages.at(-1)) return;
      const { offset, bytes } = this.job.picture.expected.pixels;
      this.document.picture = await this.picture.record(new Uint8Array(this.golden.buffer, offset, bytes));
    } catch (error) {
      if (error instanceof Fatal) throw error;
      this.document.errors.push(short(`the picture: ${textOf(error)}`));
      this.picture = undefined;
    }
  }

  /** Draws the picture with all components in memory. */
  async draw() {
    if (!this.resident || !this.picture) return;
    for (const name of this.job.stages) if (this.picture) await this.stage(name, this.kept.get(name));
    for (const check of this.kept.values()) check.free();
  }

  async file(name) {
    const entry = this.job.files[name];
    if (!entry) throw new Error(`the job has no file ${name}`);
    return (await loadFile(name, entry, this.base, { onBytes: this.onBytes })).bytes;
  }
}

const text = (bytes) => new TextDecoder().decode(bytes);
const json = (bytes) => JSON.parse(text(bytes));
