// Files of a job: from the browser's cache or the server, never used before their SHA-256 is right.

import { sha256 } from "./bytes.js";

const CACHE = "sdmobile-files";
const MARK = "/sdmobile-cached-file/";

/** A file that is not what the job says. */
export class FileFault extends Error {}

/** Returns the cache, or null where the browser has none, or lets a page have none. */
async function openCache() {
  try {
    return await caches.open(CACHE);
  } catch {
    return null;
  }
}

// By content and not by address: the token in the address is another one every time.
const keyOf = (sha) => new URL(MARK + sha, self.location.origin).href;

/** Returns which files of a job are kept from an earlier visit, by name. */
export async function keptFiles(files) {
  const cache = await openCache();
  if (!cache) return new Set();
  const kept = new Set((await cache.keys()).map((request) => request.url));
  return new Set(Object.keys(files).filter((name) => kept.has(keyOf(files[name].sha256))));
}

/** Removes every kept file. */
export async function forgetFiles() {
  await globalThis.caches?.delete(CACHE);
}

/**
 * Returns the bytes of a file of the job.
 *
 * @param name as in the job.
 * @param entry {url, size, sha256}.
 * @param base address that the url is relative to.
 * @param hooks {onBytes(count), onVerify()}: called while bytes come over the network, and before they are checked.
 * @returns {bytes, cached}.
 * @throws FileFault if it does not come whole, or is another one.
 */
export async function loadFile(name, entry, base, { onBytes = () => {}, onVerify = async () => {} } = {}) {
  const cache = await openCache();
  const kept = await cache?.match(keyOf(entry.sha256));
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    await onVerify();
    if (bytes.length === entry.size && (await sha256(bytes)) === entry.sha256) return { bytes, cached: true };
    await cache.delete(keyOf(entry.sha256)); // damaged on this device: fetched again
  }
  const bytes = await download(name, entry, base, onBytes);
  await onVerify();
  const found = await sha256(bytes);
  if (found !== entry.sha256) {
    throw new FileFault(
      `${name} is damaged: its SHA-256 is ${found.slice(0, 16)}…, the job says ${entry.sha256.slice(0, 16)}…`,
    );
  }
  try {
    await cache?.put(keyOf(entry.sha256), new Response(bytes));
  } catch {
    // No room: the next visit fetches it again.
  }
  return { bytes, cached: false };
}

async function download(name, entry, base, onBytes) {
  let response;
  try {
    response = await fetch(new URL(entry.url, base), { cache: "no-store" });
  } catch (error) {
    throw new FileFault(`${name} did not come: ${error.message}`);
  }
  if (!response.ok) throw new FileFault(`${name} did not come: HTTP ${response.status}`);
  const bytes = new Uint8Array(entry.size);
  let at = 0;
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (at + value.length > entry.size)
        throw new FileFault(`${name} is longer than the ${entry.size} bytes of the job`);
      bytes.set(value, at);
      at += value.length;
      onBytes(value.length);
    }
  } catch (error) {
    await reader.cancel().catch(() => {});
    if (error instanceof FileFault) throw error;
    throw new FileFault(`${name} broke off after ${at} of ${entry.size} bytes: ${error.message}`);
  }
  if (at !== entry.size) throw new FileFault(`${name} has ${at} bytes, the job says ${entry.size}`);
  return bytes;
}
