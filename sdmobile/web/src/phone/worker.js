// The worker: everything that computes, so that the page stays alive. A classic script beside the runtime's files: in a
// module the runtime's own loader fails, and elsewhere it does not find its WebAssembly.

import { handles, lookAround, textOf } from "./engine.js";
import { runJob } from "./run.js";

const base = new URL("../", self.location.href);
const tell = (message) => self.postMessage(message);
let around = null;
self.sdmobile = handles;

self.addEventListener("message", async ({ data }) => {
  try {
    if (data.kind === "look") {
      around = await lookAround();
      tell({ kind: "around", around });
    } else if (data.kind === "run") {
      tell({ kind: "done", document: await runJob(data.job, data.settings, around, base, tell) });
    }
  } catch (error) {
    tell({ kind: "broken", text: textOf(error) });
  }
});
