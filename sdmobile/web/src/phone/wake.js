// Keeps the screen on while something runs.

/** Asks for a wake lock, again whenever the page comes back to the front; returns a function that ends it. */
export function stayAwake() {
  let lock = null;
  let wanted = true;
  const ask = async () => {
    if (!wanted || document.visibilityState !== "visible") return;
    try {
      lock = await navigator.wakeLock?.request("screen");
      if (!wanted) await lock?.release();
    } catch {
      // Low battery, or a browser without: the page says anyway that it must stay in front.
    }
  };
  document.addEventListener("visibilitychange", ask);
  ask();
  return () => {
    wanted = false;
    document.removeEventListener("visibilitychange", ask);
    lock?.release().catch(() => {});
  };
}
