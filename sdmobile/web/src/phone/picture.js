// Draws the picture of the job: text, loop, decoder, each with what `call` computes.

import { base64, sha256 } from "./bytes.js";
import { predictor, takesTwoTexts } from "./guidance.js";
import { NoiseStream } from "./noise.js";
import { pixelDecibels, previewOf, toPixels } from "./pixels.js";
import { encodePng } from "./png.js";
import { sampleLatent, tableOf } from "./sampler.js";

const secondsSince = (began) => (performance.now() - began) / 1000;

export class Picture {
  /**
   * @param order `picture` of the job.
   * @param stages `stages` of the job: names of text encoder, denoiser and decoder.
   * @param metadata content of metadata.json.
   * @param scheduler content of scheduler.json.
   * @param tokenizer a Tokenizer.
   * @param hooks {phase(name, component, detail), preview(image, index, count)}.
   */
  constructor(order, stages, metadata, scheduler, tokenizer, hooks) {
    const [encoder, denoiser, decoder] = stages;
    Object.assign(this, { order, encoder, denoiser, decoder, metadata, scheduler, tokenizer, hooks });
    const { latent_channels: channels, latent_height: height, latent_width: width } = metadata.geometry;
    this.latent = { channels, height, width };
    this.table = tableOf(scheduler, order.steps);
    this.stepSeconds = [];
    this.total = 0;
  }

  /** Computes the stage of a component; they come in the order of a picture. */
  async stage(name, call) {
    const stages = { [this.encoder]: this.encode, [this.denoiser]: this.denoise, [this.decoder]: this.decode };
    await stages[name].call(this, call);
  }

  async encode(call) {
    await this.hooks.phase("encoding", this.encoder, this.order.prompt);
    const began = performance.now();
    const features = async (text) => (await call({ input_ids: this.tokenizer.encode(text) })).last_hidden_state;
    const unconditional = takesTwoTexts(this.metadata) ? await features(this.order.negative_prompt) : null;
    this.states = { unconditional, text: await features(this.order.prompt) };
    this.total += secondsSince(began);
  }

  async denoise(call) {
    const { order, metadata, scheduler, table, latent } = this;
    const channelsLast = this.layoutOf(this.denoiser, "sample") === "nhwc";
    const stream = new NoiseStream(order.seed);
    const count = table.rows.length;
    const predict = predictor(
      metadata,
      order.guidance_scale,
      this.states,
      async (inputs) => (await call(inputs)).noise_pred,
    );
    const step = async (x, timestep, index) => {
      await this.hooks.phase("sampling", this.denoiser, `step ${index + 1} of ${count}`);
      this.began = performance.now();
      return predict(x, timestep);
    };
    const onStep = async (index, clean) => {
      this.stepSeconds.push(secondsSince(this.began));
      this.total += this.stepSeconds.at(-1);
      this.hooks.preview(previewOf(clean, latent, channelsLast), index + 1, count);
    };
    this.x = await sampleLatent(scheduler, table, stream.draw(latent, table.start, channelsLast), {
      predict: step,
      draw: () => stream.draw(latent, 1, channelsLast),
      onStep,
    });
  }

  async decode(call) {
    await this.hooks.phase("decoding", this.decoder);
    const began = performance.now();
    const factor = Math.fround(this.scheduler.scaling_factor);
    const shift = Math.fround(this.scheduler.shift_factor ?? 0);
    const { image } = await call({ latent: this.x.map((value) => Math.fround(value / factor) + shift) });
    this.pixels = toPixels(image, this.layoutOf(this.decoder, "latent") === "nhwc");
    this.total += secondsSince(began);
  }

  /** Returns the layout of an input as metadata.json has it. */
  layoutOf(component, canonical) {
    return this.metadata.models[component].inputs.find((input) => input.canonical === canonical).layout;
  }

  /**
   * Returns what the document has of the picture.
   *
   * @param expected RGB bytes of PyTorch's.
   */
  async record(expected) {
    const { width, height, psnr_db: least } = this.order.expected;
    const { image_width: ownWidth, image_height: ownHeight } = this.metadata.geometry;
    const decibels = ownWidth === width && ownHeight === height ? pixelDecibels(this.pixels, expected) : null;
    return {
      sha256: await sha256(this.pixels),
      psnr_db: decibels,
      passed: decibels !== null && decibels >= least,
      png_base64: base64(await encodePng(this.pixels, ownWidth, ownHeight)),
      step_seconds: this.stepSeconds,
      total_seconds: this.total,
    };
  }
}
