// What fits into the runtime's memory, told before anything is loaded.
//
// A compiled file stays in that memory, at several times its size; WebAssembly has 2 GiB of it, and an iPhone ends a
// page long before. The figures come with the job: they were measured (docs/phone.md). Less stays of a file whose weights
// come beside it, in a file of the runtime's own file system; only the build for JSPI can do that, and only for the GPU.

const TOKENIZER = /(^|\/)(vocab\.json|merges\.txt|tokenizer_config\.json)$/;

/** Returns the components of a job in the order in which they run: those of a picture first. */
export function inOrder({ components, stages }) {
  const place = ({ name }) => (stages.includes(name) ? stages.indexOf(name) : stages.length);
  return [...components].sort((a, b) => place(a) - place(b));
}

/** Whether a job has weights in files of their own, and this browser can use them. */
export function canSplit(job, { jspi, accelerator }) {
  const models = job.components.flatMap(({ parts }) => parts);
  return jspi && accelerator === "webgpu" && models.some(({ file }) => job.files[file].external);
}

/** Returns what is loaded for a file of the job, by name: the file, or a model and its weights. */
export function piecesOf(name, entry, external) {
  if (!external || !entry.external) return { [name]: entry };
  return { [`${name}, without weights`]: entry.external.model, [`${name}, weights`]: entry.external.weights };
}

/** Returns every file of a job by name, as `piecesOf` has them. */
export function allFiles(job, external) {
  return Object.assign({}, ...Object.entries(job.files).map(([name, entry]) => piecesOf(name, entry, external)));
}

/**
 * Returns what fits.
 *
 * @param job of the server.
 * @param device {ios, external}: whether this is an iPhone or iPad; whether weights come in files of their own.
 * @returns {limit, external, whole, wholeFits, each, picture, components}: bytes of everything at once, and of what is in memory
 *   at most when one component follows the other; whether a picture can be drawn that way; for every component {name,
 *   bytes, largest, file, fits, resident}: all its files at once, its largest one, that one's name, whether it fits,
 *   whether all do.
 */
export function memoryPlan(job, { ios, external = false }) {
  const { plain_factor, external_factor, limit_bytes: most, ios_limit_bytes: iosMost } = job.memory;
  const held = ({ size, external: pieces, widened = 0 }) =>
    external && pieces
      ? plain_factor * pieces.model.size + external_factor * (pieces.weights.size + widened)
      : plain_factor * (size + widened);
  const limit = ios ? iosMost : most;
  const components = inOrder(job).map(({ name, parts }) => {
    const sizes = parts.map(({ file }) => ({ file, bytes: Math.ceil(held(job.files[file])) }));
    const largest = sizes.reduce((a, b) => (b.bytes > a.bytes ? b : a));
    const bytes = sizes.reduce((sum, one) => sum + one.bytes, 0);
    return {
      name,
      bytes,
      largest: largest.bytes,
      file: largest.file,
      fits: largest.bytes <= limit,
      resident: bytes <= limit,
    };
  });
  const whole = components.reduce((sum, one) => sum + one.bytes, 0);
  const drawn = components.filter(({ name }) => job.stages.includes(name));
  const picture = Boolean(job.picture) && drawn.length === job.stages.length && drawn.every(({ resident }) => resident);
  // A component that draws stays whole until it has drawn; of another, only one file is there at a time.
  const atMost = (one) => (picture && job.stages.includes(one.name) ? one.bytes : one.largest);
  const each = Math.max(0, ...components.filter(({ fits }) => fits).map(atMost));
  return { limit, external, whole, wholeFits: whole <= limit, each, picture, components };
}

/** Returns the bytes that a run takes over the network: of the files that it needs and that are not kept. */
export function bytesToLoad(job, plan, kept) {
  const unfit = new Set(plan.components.filter(({ fits }) => !fits).map(({ name }) => name));
  const names = job.components
    .filter(({ name }) => !unfit.has(name))
    .flatMap(({ parts }) => parts.map(({ file }) => file));
  names.push("metadata.json", "golden.json", "golden.bin");
  names.push(...Object.keys(job.files).filter((name) => TOKENIZER.test(name)));
  if (job.picture) names.push("scheduler.json", "noise_golden.json");
  const pieces = names.filter((name) => job.files[name]).map((name) => piecesOf(name, job.files[name], plan.external));
  const left = Object.entries(Object.assign({}, ...pieces)).filter(([name]) => !kept.has(name));
  return left.reduce((sum, [, { size }]) => sum + size, 0);
}

/** Whether a browser's own words are those of an iPhone or iPad; the latter says that it is a Mac. */
export function isIos({ userAgent, platform, maxTouchPoints }) {
  return /iPhone|iPad|iPod/.test(userAgent) || (/^Mac/.test(platform) && maxTouchPoints > 1);
}
