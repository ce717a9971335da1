// From a latent to the guided prediction, by as many calls of the denoiser as its rows ask for.

/** Returns arrays joined one after the other. */
export function joined(arrays) {
  const whole = new arrays[0].constructor(arrays.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const one of arrays) {
    whole.set(one, at);
    at += one.length;
  }
  return whole;
}

/** Returns uncond + scale·(text − uncond). */
export function guided(unconditional, text, scale) {
  const factor = Math.fround(scale);
  return Float32Array.from(text, (value, i) => {
    const difference = Math.fround(value - unconditional[i]);
    return unconditional[i] + Math.fround(factor * difference);
  });
}

/** Returns the embedding of a guidance scale, as `guidance_embedding` of metadata.json defines it. */
export function guidanceEmbedding(scale, width) {
  const half = width / 2;
  const w = 1000 * (scale - 1);
  const angles = Array.from({ length: half }, (_, i) => w * Math.exp((-i * Math.log(10000)) / (half - 1)));
  return Float32Array.from([...angles.map(Math.sin), ...angles.map(Math.cos)]);
}

/**
 * Returns a function from (latent, timestep) to the guided prediction.
 *
 * @param metadata content of metadata.json: guidance "batch2", "separate", "none" or "embedded".
 * @param scale guidance scale; at most 1, the prediction is that of the text.
 * @param states text features: {unconditional, text}; the first may be null where only one row is computed.
 * @param call async (inputs by canonical name) to the denoiser's output.
 */
export function predictor(metadata, scale, states, call) {
  const row = async (x, timestep, features, further = {}) =>
    call({ sample: x, timestep: Float32Array.of(timestep), encoder_hidden_states: features, ...further });
  switch (metadata.guidance) {
    case "none":
      return (x, timestep) => row(x, timestep, states.text);
    case "embedded": {
      const { input, width } = metadata.guidance_embedding;
      const embedding = guidanceEmbedding(scale, width);
      return (x, timestep) => row(x, timestep, states.text, { [input]: embedding });
    }
    case "separate":
      return async (x, timestep) => {
        if (!(scale > 1)) return row(x, timestep, states.text);
        const unconditional = await row(x, timestep, states.unconditional);
        return guided(unconditional, await row(x, timestep, states.text), scale);
      };
    case "batch2":
      return async (x, timestep) => {
        const both = await call({
          sample: joined([x, x]),
          timestep: Float32Array.of(timestep, timestep),
          encoder_hidden_states: joined([states.unconditional, states.text]),
        });
        const [unconditional, text] = [both.subarray(0, x.length), both.subarray(x.length)];
        return scale > 1 ? guided(unconditional, text, scale) : text;
      };
    default:
      throw new Error(`guidance of the kind ${metadata.guidance} is not known here`);
  }
}

/** Whether the texts of both rows are needed. */
export function takesTwoTexts(metadata) {
  return metadata.guidance === "batch2" || metadata.guidance === "separate";
}
