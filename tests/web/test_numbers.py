"""Noise, tables, guidance, pixels and PNG of the page beside those of the package."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdmobile.basics.metrics import to_pixels
from sdmobile.families import family_named
from sdmobile.families.latent_consistency import guidance_embedding
from sdmobile.families.scheduler_document import scheduler_document
from sdmobile.reference.noise import NoiseStream, golden_vectors
from tests.web.screens import Modules

_TRAINING = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "dpm++": {"_class_name": "DPMSolverMultistepScheduler"},
    "three steps of memory": {"_class_name": "UniPCMultistepScheduler", "solver_order": 3},
    "two calls a step": {"_class_name": "HeunDiscreteScheduler"},
    "predicts v": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "predicts the picture": {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "trailing",
        "prediction_type": "sample",
    },
    "few steps with noise": {"_class_name": "LCMScheduler"},
    "ancestral": {"_class_name": "EulerAncestralDiscreteScheduler"},
    "flow matching": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "one step": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
}


def test_the_golden_noise_is_reproduced(modules: Modules) -> None:
    assert modules.call("noise.js", "return m.noiseFault(given[0]);", golden_vectors()) is None


def test_wrong_noise_is_noticed(modules: Modules) -> None:
    for key, place in (("bits", 7), ("normals", 3), ("float32", 15)):
        vectors = json.loads(json.dumps(golden_vectors()))
        vectors["vectors"][2][key][place] += 1
        fault = modules.call("noise.js", "return m.noiseFault(given[0]);", vectors)
        assert fault is not None
        assert "seed 42" in fault


@pytest.mark.parametrize("channels_last", [True, False])
def test_latents_are_those_of_the_reference(modules: Modules, channels_last: bool) -> None:
    body = """
      const stream = new m.NoiseStream(given[0]);
      const shape = { channels: 4, height: 6, width: 10 };
      return [1.5, 1].map((sigma) => Array.from(stream.draw(shape, sigma, given[1])));
    """
    found = modules.call("noise.js", body, 4294967295, channels_last)
    stream = NoiseStream(4294967295, (1, 4, 6, 10))
    for values, sigma in zip(found, (1.5, 1.0), strict=True):
        expected = stream.draw(sigma)
        expected = expected.transpose(0, 2, 3, 1) if channels_last else expected
        assert np.array_equal(np.float32(values), expected.ravel())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_kind_of_table_is_run_as_it_says(modules: Modules, schedule: str) -> None:
    """The tables themselves are compared with Diffusers by `sdmobile validate`."""
    document = _document(SCHEDULES[schedule])
    solver = document["solvers"][document["default_solver"]]
    document = {key: value for key, value in document.items() if key != "alphas_cumprod"}
    draw = np.random.RandomState(0)
    lengths = [length for length in solver["steps"] if int(length) in (1, 2, 3, 8, 20)]
    assert len(lengths) > 1
    for steps in lengths:
        rows = solver["steps"][steps]
        start = draw.standard_normal(24).astype(np.float32)
        predictions, fresh = draw.standard_normal((2, len(rows), 24)).astype(np.float32)
        expected = _run(rows, document["prediction_type"], start, predictions, fresh)
        assert expected[-1].std() > 0.01  # a table that ends in nothing would test nothing
        found = modules.call("sampler.js", _LOOP, document, int(steps), *map(_listed, (start, predictions, fresh)))
        assert found["start"] == pytest.approx(solver["init_noise_sigma"])
        for values, right in zip(found["latents"], expected, strict=True):
            assert np.abs(np.float32(values) - right).max() <= 1e-5 * max(1.0, float(np.abs(right).max()))


def _document(schedule: Mapping[str, Any]) -> dict[str, Any]:
    if "shift" in schedule:
        return family_named("stable-diffusion-3").scheduler_document(schedule, 1.5305, 0.0609)
    return scheduler_document({**_TRAINING, **schedule}, 0.18215)


_LOOP = """
  const [document, steps, start, predictions, fresh] = given;
  const table = m.tableOf(document, steps);
  const latents = [];
  let calls = 0;
  const last = await m.sampleLatent(document, table, Float32Array.from(start), {
    predict: async (x, timestep, index) => {
      if (timestep !== table.rows[index].timestep) throw new Error(`timestep ${timestep}`);
      if (index > 0) latents.push(Array.from(x));
      return Float32Array.from(predictions[calls++]);
    },
    draw: () => Float32Array.from(fresh[calls - 1]),
  });
  return { start: table.start, latents: [...latents, Array.from(last)] };
"""


def _listed(array: Any) -> Any:
    return array.tolist()


def _run(rows: list[dict[str, float]], kind: str, x: Any, predictions: Any, fresh: Any) -> list[Any]:
    """Returns the latents of a table by its formulas, in float64 between roundings to float32."""
    latents, past = [], []
    for row, p, z in zip(rows, predictions.astype(np.float64), fresh.astype(np.float64), strict=True):
        x = x.astype(np.float64)
        clean = {
            "epsilon": lambda x=x, p=p, row=row: (x - row["sigma"] * p) / row["alpha"],
            "v_prediction": lambda x=x, p=p, row=row: row["alpha"] * x - row["sigma"] * p,
            "sample": lambda p=p: p,
            "flow": lambda x=x, p=p, row=row: x - row["sigma"] * p,
        }[kind]()
        past = [clean, *past][:3]
        terms = zip((row["b"], row.get("c", 0.0), row.get("d", 0.0)), past, strict=False)
        x = np.float32(row["a"] * x + sum(factor * term for factor, term in terms) + row.get("n", 0.0) * z)
        latents.append(x)
    return latents


def test_a_table_that_is_not_there_is_named(modules: Modules) -> None:
    document = scheduler_document({**_TRAINING, **SCHEDULES["dpm++"]}, 0.18215)
    words = modules.call(
        "sampler.js", "try { m.tableOf(given[0], 7); } catch (error) { return error.message; }", document
    )
    assert "no table of dpm++ for 7 steps: dpm++ has 1, 2, 3" in words
    for row in document["solvers"]["dpm++"]["steps"]["2"]:
        row["e"] = 1.0
    words = modules.call(
        "sampler.js", "try { m.tableOf(given[0], 2); } catch (error) { return error.message; }", document
    )
    assert "a column that is not known here: e" in words


_GUIDE = """
  const [metadata, scale, x] = given;
  const calls = [];
  const states = { unconditional: Float32Array.of(1, 2), text: Float32Array.of(3, 4) };
  // What a denoiser returns: the sample times the first number of its row of text.
  const call = async ({ sample, timestep, encoder_hidden_states: text, ...further }) => {
    calls.push({ sample: [...sample], timestep: [...timestep], text: [...text], further: Object.keys(further) });
    return sample.map((value, i) => value * text[2 * Math.floor(i / x.length)]);
  };
  const result = await m.predictor(metadata, scale, states, call)(Float32Array.from(x), 7);
  return { calls, result: Array.from(result) };
"""


@pytest.mark.parametrize(
    ("guidance", "scale", "calls", "factor"),
    [
        ("batch2", 3.0, 1, 1 + 3 * (3 - 1)),
        ("batch2", 1.0, 1, 3),
        ("separate", 3.0, 2, 1 + 3 * (3 - 1)),
        ("separate", 1.0, 1, 3),
        ("none", 7.5, 1, 3),
    ],
)
def test_guidance_takes_its_rows(modules: Modules, guidance: str, scale: float, calls: int, factor: float) -> None:
    found = modules.call("guidance.js", _GUIDE, {"guidance": guidance}, scale, [0.5, -2.0, 1.25])
    assert found["result"] == [0.5 * factor, -2.0 * factor, 1.25 * factor]
    assert len(found["calls"]) == calls
    rows = 2 if guidance == "batch2" else 1
    assert all(call["timestep"] == [7] * rows and len(call["sample"]) == 3 * rows for call in found["calls"])
    if guidance == "batch2":
        assert found["calls"][0]["text"] == [1, 2, 3, 4]  # the unconditional row first


def test_a_guidance_scale_is_embedded_as_the_reference_does(modules: Modules) -> None:
    facts = {"guidance": "embedded", "guidance_embedding": {"input": "guidance_embedding", "width": 64}}
    found = modules.call("guidance.js", _GUIDE, facts, 8.5, [1.0])
    assert found["calls"][0]["further"] == ["guidance_embedding"]
    values = modules.call("guidance.js", "return Array.from(m.guidanceEmbedding(8.5, 64));")
    # The reference computes angles of thousands in float32.
    assert np.abs(np.float32(values) - guidance_embedding(8.5, 64)[0]).max() < 1e-3


def test_pixels_are_the_reference_s(modules: Modules) -> None:
    image = np.random.RandomState(0).uniform(-1.2, 1.2, (1, 3, 8, 16)).astype(np.float32)
    halves = (np.arange(255, dtype=np.float64) + 0.5) / 255 * 2 - 1
    image.ravel()[:255] = halves
    image.ravel()[300:304] = (np.nan, np.inf, -np.inf, 0.0)
    expected = to_pixels(image).ravel().tolist()
    body = "return Array.from(m.toPixels(Float32Array.from(given[0].map((v) => v ?? NaN)), given[1]));"
    for array, channels_last in ((image, False), (image.transpose(0, 2, 3, 1), True)):
        values = [None if not np.isfinite(value) else float(value) for value in array.ravel()]
        assert modules.call("pixels.js", body, values, channels_last) == expected


def test_pixels_are_compared_in_decibels(modules: Modules) -> None:
    body = "return m.pixelDecibels(Uint8Array.from(given[0]), Uint8Array.from(given[1]));"
    assert modules.call("pixels.js", body, [1, 2, 3], [1, 2, 3]) == 999
    assert modules.call("pixels.js", body, [1, 2, 3], [1, 2, 3, 4]) is None
    assert modules.call("pixels.js", body, [0, 0, 0], [255, 255, 255]) == 0
    assert modules.call("pixels.js", body, [0, 0, 0, 0], [1, 0, 0, 0]) == pytest.approx(20 * np.log10(255 / 0.5))


def test_a_png_has_every_pixel(modules: Modules) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    body = """
      const { base64 } = await import("/src/phone/bytes.js");
      return base64(await m.encodePng(Uint8Array.from(given[0]), 7, 5));
    """
    data = base64.b64decode(modules.call("png.js", body, pixels.ravel().tolist()))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.mode, image.size) == ("RGB", (7, 5))
        assert np.array_equal(np.asarray(image), pixels)


def test_memory_is_told_before_anything_is_loaded(modules: Modules) -> None:
    job = {
        "memory": {"plain_factor": 4.0, "external_factor": 2.7, "limit_bytes": 1000, "ios_limit_bytes": 500},
        "files": {"a": {"size": 10}, "b": {"size": 90}, "c": {"size": 130}, "d": {"size": 20}, "e": {"size": 300}},
        "components": [
            {"name": "vae_decoder", "parts": [{"file": "d"}]},
            {"name": "text_encoder", "parts": [{"file": "a"}]},
            {"name": "unet", "parts": [{"file": "b"}, {"file": "c"}]},
        ],
        "picture": {},
        "stages": ["text_encoder", "unet", "vae_decoder"],
    }
    plan = modules.call("memory.js", "return m.memoryPlan(given[0], { ios: false });", job)
    assert [one["name"] for one in plan["components"]] == ["text_encoder", "unet", "vae_decoder"]
    assert (plan["whole"], plan["wholeFits"], plan["picture"], plan["each"]) == (1000, True, True, 880)
    plan = modules.call("memory.js", "return m.memoryPlan(given[0], { ios: true });", job)
    assert (plan["limit"], plan["wholeFits"], plan["picture"], plan["each"]) == (500, False, False, 80)
    unet = plan["components"][1]
    assert (unet["file"], unet["largest"], unet["fits"], unet["resident"]) == ("c", 520, False, False)


@pytest.mark.parametrize(
    ("agent", "platform", "points", "ios"),
    [
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X)", "iPhone", 5, True),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "MacIntel", 5, True),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "MacIntel", 0, False),
        ("Mozilla/5.0 (Linux; Android 14; SM-S921U)", "Linux armv81", 5, False),
    ],
)
def test_phones_with_less_memory_are_known(modules: Modules, agent: str, platform: str, points: int, ios: bool) -> None:
    given = {"userAgent": agent, "platform": platform, "maxTouchPoints": points}
    assert modules.call("memory.js", "return m.isIos(given[0]);", given) is ios
