// Figures about arrays of numbers.

/** Returns a generator of normally distributed numbers that is the same on every device (mulberry32, Box–Muller). */
export function normalNumbers(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/**
 * Returns the peak signal-to-noise ratio in dB, 20·log10((max|b| + 1e-5) / (RMSE + 1e-10)), of b against a; NaN where a
 * value is not finite. The same figure as sdmobile.basics.metrics.psnr.
 */
export function psnr(a, b) {
  let peak = 0;
  let sum = 0;
  for (let i = 0; i < b.length; i++) {
    if (!Number.isFinite(a[i]) || !Number.isFinite(b[i])) return NaN;
    peak = Math.max(peak, Math.abs(b[i]));
    sum += (a[i] - b[i]) ** 2;
  }
  return 20 * Math.log10((peak + 1e-5) / (Math.sqrt(sum / b.length) + 1e-10));
}

/** Returns the middle value, or null of nothing. */
export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.floor(sorted.length / 2)];
}
