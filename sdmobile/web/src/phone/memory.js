// What fits into the runtime's memory, told before anything is loaded.
//
// A compiled file stays in that memory, at several times its size; WebAssembly has 2 GiB of it, and an iPhone ends a
// page long before. The figures come with the job: they were measured (docs/phone.md).

/** The components that draw a picture, in the order in which they are needed. */
export const STAGES = ["text_encoder", "unet", "vae_decoder"];

/** Returns the components of a job in the order in which they run: those of a picture first. */
export function inOrder(components) {
  const place = ({ name }) => (STAGES.includes(name) ? STAGES.indexOf(name) : STAGES.length);
  return [...components].sort((a, b) => place(a) - place(b));
}

/**
 * Returns what fits.
 *
 * @param job of the server.
 * @param device {ios}: whether this is an iPhone or iPad.
 * @returns {limit, whole, wholeFits, each, picture, components}: bytes of everything at once, and of what is in memory
 *   at most when one component follows the other; whether a picture can be drawn that way; for every component {name,
 *   bytes, largest, file, fits, resident}: all its files at once, its largest one, that one's name, whether it fits,
 *   whether all do.
 */
export function memoryPlan(job, { ios }) {
  const { plain_factor: factor, limit_bytes: most, ios_limit_bytes: iosMost } = job.memory;
  const limit = ios ? iosMost : most;
  const components = inOrder(job.components).map(({ name, parts }) => {
    const sizes = parts.map(({ file }) => ({ file, bytes: Math.ceil(factor * job.files[file].size) }));
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
  const drawn = components.filter(({ name }) => STAGES.includes(name));
  const picture = Boolean(job.picture) && drawn.length === STAGES.length && drawn.every(({ resident }) => resident);
  // A component that draws stays whole until it has drawn; of another, only one file is there at a time.
  const held = (one) => (picture && STAGES.includes(one.name) ? one.bytes : one.largest);
  const each = Math.max(0, ...components.filter(({ fits }) => fits).map(held));
  return { limit, whole, wholeFits: whole <= limit, each, picture, components };
}

/** Whether a browser's own words are those of an iPhone or iPad; the latter says that it is a Mac. */
export function isIos({ userAgent, platform, maxTouchPoints }) {
  return /iPhone|iPad|iPod/.test(userAgent) || (/^Mac/.test(platform) && maxTouchPoints > 1);
}
