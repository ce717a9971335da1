// The documented noise of a seed: numpy-mt19937-polar-v1 of noise_golden.json.

const SIZE = 624;
const MIDDLE = 397;

/** MT19937 with the seeding of its 2002 version; see noise_golden.json. */
class MersenneTwister {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const previous = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i;
    }
    this.next = SIZE;
  }

  /** Returns the next 32 bits. */
  bits() {
    if (this.next === SIZE) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** Returns 53 bits in [0, 1). */
  double() {
    const high = this.bits() >>> 5;
    const low = this.bits() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  twist() {
    const s = this.state;
    for (let i = 0; i < SIZE; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % SIZE] & 0x7fffffff);
      s[i] = s[(i + MIDDLE) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }
}

/** The noise of one seed, drawn on: the initial latent first, then what further steps ask for. */
export class NoiseStream {
  constructor(seed) {
    this.twister = new MersenneTwister(seed);
    this.kept = null;
  }

  /** Returns the next normally distributed number, by Marsaglia's polar method. */
  normal() {
    if (this.kept !== null) {
      const value = this.kept;
      this.kept = null;
      return value;
    }
    for (;;) {
      const x1 = 2 * this.twister.double() - 1;
      const x2 = 2 * this.twister.double() - 1;
      const r = x1 * x1 + x2 * x2;
      if (r >= 1 || r === 0) continue;
      const f = Math.sqrt((-2 * Math.log(r)) / r);
      this.kept = f * x1;
      return f * x2;
    }
  }

  /**
   * Returns the next values in the layout of the file, multiplied in float64 and rounded to float32.
   *
   * @param geometry {channels, height, width}: values are drawn in the order C, H, W with W fastest.
   * @param sigma the factor.
   * @param channelsLast whether the file takes [H, W, C].
   */
  draw({ channels, height, width }, sigma, channelsLast) {
    const data = new Float32Array(channels * height * width);
    for (let c = 0; c < channels; c++) {
      for (let place = 0; place < height * width; place++) {
        data[channelsLast ? place * channels + c : c * height * width + place] = this.normal() * sigma;
      }
    }
    return data;
  }
}

/**
 * Returns what is wrong with this device's noise, or null.
 *
 * @param golden content of noise_golden.json.
 */
export function noiseFault(golden) {
  if (golden.definition !== "numpy-mt19937-polar-v1") return `noise of the kind ${golden.definition} is not known here`;
  for (const { seed, bits, normals, float32 } of golden.vectors) {
    const twister = new MersenneTwister(seed);
    if (!bits.every((value) => twister.bits() === value)) return `seed ${seed} gives other bits than noise_golden.json`;
    const stream = new NoiseStream(seed);
    const drawn = normals.map(() => stream.normal());
    // A phone's logarithm may differ in the last bit.
    const off = drawn.findIndex((value, i) => !(Math.abs(value - normals[i]) <= 1e-12));
    if (off >= 0) return `seed ${seed} gives ${drawn[off]}, noise_golden.json has ${normals[off]}`;
    const rounded = drawn.findIndex((value, i) => Math.abs(Math.fround(value) - float32[i]) > 1e-6);
    if (rounded >= 0) return `seed ${seed} is rounded to ${Math.fround(drawn[rounded])}, not ${float32[rounded]}`;
  }
  return null;
}
