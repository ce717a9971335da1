// ML Drift writes its acceptance report ("Following operations are not supported by GPU delegate: …") to the console and
// nowhere else, so the console is kept.

const lines = [];

/** Starts keeping what is printed to the console; call once. */
export function keepConsole() {
  for (const level of ["log", "info", "warn", "error"]) {
    const original = console[level].bind(console);
    console[level] = (...values) => {
      lines.push(values.map(String).join(" "));
      original(...values);
    };
  }
}

/** Returns the lines printed since the last call. */
export function takeLines() {
  return lines.splice(0);
}
