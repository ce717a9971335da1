// From the decoder's numbers to 8-bit pixels, and what a latent looks like meanwhile.

/**
 * Returns RGB bytes of a decoder's output in [−1, 1]; what is not finite is black.
 *
 * @param image float32 of one picture.
 * @param channelsLast whether it is [H, W, 3]; else [3, H, W].
 */
export function toPixels(image, channelsLast) {
  const pixels = new Uint8Array(image.length);
  const area = image.length / 3;
  for (let i = 0; i < image.length; i++) {
    const value = channelsLast ? image[i] : image[(i % 3) * area + Math.floor(i / 3)];
    const unit = Number.isFinite(value) ? Math.min(Math.max(value / 2 + 0.5, 0), 1) : 0;
    // Exact so far, and the only half that a float32 gives is 127.5: NumPy's rounding to even is the same.
    pixels[i] = Math.round(unit * 255);
  }
  return pixels;
}

/** Returns the PSNR in dB of 8-bit pixels against others, 999 where equal, null where they are not as many. */
export function pixelDecibels(pixels, expected) {
  if (pixels.length !== expected.length) return null;
  let sum = 0;
  for (let i = 0; i < pixels.length; i++) sum += (pixels[i] - expected[i]) ** 2;
  return sum === 0 ? 999 : 20 * Math.log10(255 / Math.sqrt(sum / pixels.length));
}

/**
 * Returns RGBA bytes that show three channels of a latent, each stretched to its own range.
 *
 * @param latent of one picture.
 * @param geometry {channels, height, width}.
 * @param channelsLast its layout.
 */
export function previewOf(latent, { channels, height, width }, channelsLast) {
  const area = height * width;
  const at = (place, channel) => latent[channelsLast ? place * channels + channel : channel * area + place];
  const data = new Uint8ClampedArray(4 * area).fill(255);
  for (let shown = 0; shown < 3; shown++) {
    const channel = Math.min(shown, channels - 1);
    let [low, high] = [Infinity, -Infinity];
    for (let place = 0; place < area; place++) {
      low = Math.min(low, at(place, channel));
      high = Math.max(high, at(place, channel));
    }
    for (let place = 0; place < area; place++) {
      data[4 * place + shown] = (255 * (at(place, channel) - low)) / (high - low || 1);
    }
  }
  return { data, width, height };
}
