// Tells the page and the server what happens, each phase before it begins: a page that the phone ends leaves a trace.

const LONGEST_DETAIL = 200;
const PATIENCE = 5000; // milliseconds for the server to take a line
const MOST_FAILURES = 2;

export class Reporter {
  /**
   * @param document of the run.
   * @param address of the server's `progress`, or null where nobody listens.
   * @param tell (message) to the page.
   * @param heap () bytes of the runtime's memory.
   */
  constructor(document, address, tell, heap) {
    Object.assign(this, { document, address, tell, heap });
    this.began = performance.now();
    this.sequence = 0;
    this.failures = 0;
  }

  /** Tells that something begins, and waits until the server knows. */
  async phase(phase, component = null, detail = "") {
    this.document.phases.push({ phase, component, at: (performance.now() - this.began) / 1000 });
    this.tell({ kind: "phase", phase, component, detail, document: this.document });
    if (this.address === null || this.failures >= MOST_FAILURES) return;
    const brief = detail.slice(0, LONGEST_DETAIL);
    const line = { sequence: this.sequence++, phase, component, detail: brief, heap: this.heap() || null };
    try {
      const response = await fetch(this.address, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(line),
        signal: AbortSignal.timeout(PATIENCE),
      });
      this.failures = response.ok ? 0 : this.failures + 1;
    } catch {
      this.failures++; // the run goes on; the page offers its document in the end
    }
  }
}
