// The document that a run leaves, and what it says for and against the bundle.

/** Longest text that the server takes. */
const LONGEST = 4000;

/** Returns a text that the server takes. */
export function short(text) {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} …` : text;
}

/**
 * Returns an empty document.
 *
 * @param job of the server.
 * @param settings {accelerator, way, external}.
 * @param around of `lookAround`.
 * @param facts {runtime, page, userAgent}.
 */
export function newDocument(job, { accelerator, way, external }, around, { runtime, page, userAgent }) {
  return {
    schema_version: 1,
    kind: "sdmobile-phone-run",
    job: job.id,
    bundle_sha256: job.bundle.sha256,
    bundle_name: job.bundle.name,
    device_profile: job.bundle.device,
    started: new Date().toISOString(),
    sdmobile: job.sdmobile,
    runtime,
    page,
    accelerator,
    precision: job.precision,
    adapter: around.adapter,
    features: around.features,
    limits: around.limits,
    user_agent: short(userAgent),
    isolated: around.isolated,
    hidden: false,
    jspi: around.jspi,
    external,
    way,
    components: [],
    checks: [],
    picture: null,
    phases: [],
    errors: [],
    verdict: "failed",
    reason: "it did not come to an end",
  };
}

/** Returns the record of a component that has not run. */
export function newComponent(name) {
  return {
    name,
    accepted: false,
    used: null,
    dispatches: 0,
    download_seconds: null,
    compile_seconds: null,
    first_seconds: null,
    seconds: [],
    heap_bytes: 0,
    buffers: 0,
    largest_buffer: 0,
    error: null,
  };
}

/** Returns what is wrong with a run, in sentences, the worst first. */
export function faults(document, job) {
  const found = [...document.errors];
  for (const { name } of job.components) {
    const record = document.components.find((one) => one.name === name);
    if (!record) found.push(`${name} did not run`);
    else if (record.error && !found.includes(record.error)) found.push(`${name}: ${record.error}`);
  }
  for (const { name, threshold_db: least } of job.components) {
    const low = document.checks.filter((one) => one.component === name && !one.passed);
    if (low.length === 0) continue;
    const worst = low.reduce((a, b) => ((b.psnr_db ?? -Infinity) < (a.psnr_db ?? -Infinity) ? b : a));
    const figure = worst.psnr_db === null ? "not finite" : `${worst.psnr_db.toFixed(1)} dB`;
    const first = low.every((one) => one.run > 0) ? "only the first run is right (LiteRT issue 8065): " : "";
    found.push(`${name}: ${first}${worst.label}, run ${worst.run + 1}: ${figure}, at least ${least} dB is asked`);
  }
  if (document.picture && !document.picture.passed) {
    const { psnr_db: decibels } = document.picture;
    found.push(`the picture is not PyTorch's: ${decibels === null ? "another size" : `${decibels.toFixed(1)} dB`}`);
  }
  return found;
}

/** Writes verdict and reason; `note` is what else should be known of a run that passed. */
export function judge(document, job, note = "") {
  const found = faults(document, job);
  document.verdict = found.length === 0 ? "passed" : "failed";
  const count = document.components.length;
  const good = `Every output of every run agrees with PyTorch's (${count} component${count === 1 ? "" : "s"})`;
  document.reason = short(found.length === 0 ? [good, note].filter(Boolean).join("; ") : found.join("\n"));
  document.errors = document.errors.map(short);
}
