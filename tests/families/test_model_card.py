from __future__ import annotations

import pytest

from sdmobile.families.mobile_diffusion import FewStepMobileDiffusion
from sdmobile.families.model_card import model_card
from tests.report.samples import HASH, manifest, validation


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("ios", ["coreml", "compile.sh", "StableDiffusionPipeline", "decoderScaleFactor = 0.18215", "own evaluator"]),
        ("android", ["litert", "`denoise`", "float32 [2, 16, 16, 4]", "noise_golden.json", "LiteRT on a CPU"]),
        ("onnx", ["onnx", "`unet.onnx`", "int64 [1, 77]", "ONNX Runtime on a CPU"]),
    ],
)
def test_how_to_use_it_on_each_target(target: str, expected: list[str]) -> None:
    card = model_card(manifest(target))
    for text in (*expected, HASH, "Nothing was run on a phone", "was not validated", "shapes-64"):
        assert text in card, text
    assert "{signatures}" not in card
    assert "{scaling_factor}" not in card


def test_a_unet_without_an_unconditional_row_is_called_without_guidance() -> None:
    bundle = manifest("ios")
    card = model_card({**bundle, "family": FewStepMobileDiffusion.name, "guidance": "none"})
    assert "request.guidanceScale = 0  //" in card
    assert ".dpmSolverMultistepScheduler" in card
    assert card.count("request.guidanceScale") == 1


def test_licence_is_carried_through() -> None:
    assert "license: Apache-2.0\n" in model_card(manifest())
    assert "**Apache-2.0**" in model_card(manifest())
    unknown = model_card(manifest(licence=None))
    assert "license: unknown\n" in unknown
    assert "does not state its licence" in unknown


def test_evidence_says_what_failed_and_what_was_not_run() -> None:
    card = model_card(manifest(), validation().to_json())
    assert "**Not all checks passed.**" in card
    assert "| Text encoder | evaluator | 71.2 dB | passed |" in card
    assert "| UNet | evaluator | – | failed |" in card
    assert "| VAE encoder | evaluator | – | not run |" in card
    assert "| image, seed 0 | evaluator-fp16 | 30.0 dB | failed |" in card
    assert "count for nothing" in card


def test_compressed_weights_and_the_system_they_need_are_said() -> None:
    bundle = manifest()
    details = {"deployment_target": "iOS18", "raised_from": "iOS17"}
    bundle["components"]["unet"]["compression"] = {"recipe": "palette3", "bits_per_weight": 3.0066, "details": details}
    bundle["components"]["vae_decoder"]["compression"] = {"recipe": "palette6", "bits_per_weight": 6.08, "details": {}}
    rows = {
        line.split("|")[1].strip(): line.split("|")[4].strip()
        for line in model_card(bundle).splitlines()
        if ".mlp" in line and line.startswith("| ")
    }
    assert rows == {
        "Text encoder": "not compressed",
        "UNet": "palette3, 3.01 bits each, from iOS18 on",
        "VAE decoder": "palette6, 6.08 bits each",
        "VAE encoder": "not compressed",
    }


def test_scaled_values_are_said() -> None:
    bundle = manifest()
    streams = [{"stream": f"s{k}", "largest": 1e5 * k, "exponent": k} for k in (3, 5)]
    bundle["components"]["vae_decoder"]["float16_scales"] = {"measured_on": "2 drawn pictures", "streams": streams}
    (line,) = (line for line in model_card(bundle).splitlines() if "65504" in line)
    assert line.startswith("VAE decoder: 2 streams of values were scaled by 2^-3 to 2^-5, exactly")
    assert "5e+05" in line


def test_a_name_is_no_markup() -> None:
    hostile = manifest("ios")
    hostile["source"] = {**hostile["source"], "name": "a`b<script>x</script>", "license": "<b>mine</b>"}
    card = model_card(hostile)
    assert "<script>" not in card
    assert "<b>" not in card
    assert "`a_b_script_x_/script_`" in card
