"""A word that is wrong is answered with the nearest right one, wherever the right ones are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.basics.words import nearest
from sdmobile.cli.app import run


@pytest.mark.parametrize(
    ("command", "code", "meant"),
    [
        ("export --targt ios", 2, "--target"),
        ("export -target ios", 2, "--target"),
        ("export --target ios --quite", 2, "--quiet"),
        ("--debgu inspect", 2, "--debug"),
        ("exprt", 2, "'export'"),
        ("quantize aply", 2, "'apply'"),
        ("export --target andriod", 5, "android"),
        ("export --target ios,onx", 5, "onnx"),
        ("export --target ios --device iphone-15-prp", 5, "iphone-15-pro"),
        ("export --target ios --components text_encoder,vae_decodr", 5, "vae_decoder"),
        ("export --target ios --guidance batch", 5, "batch2"),
        ("export --target ios --without geglu_splt", 5, "geglu_split"),
        ("export --target ios --allow-approximate relu_atention", 5, "relu_attention"),
        ("export --target ios --quantize palete6", 5, "palette6"),
        ("export --target ios --prediction-type epsilom", 2, "epsilon"),
        ("generate -p x --scheduler eulr", 5, "euler"),
        ("generate -p x --scheduler DDIMSchedular", 5, "DDIMScheduler"),
        ("validate BUNDLE --runtime orrt", 5, "ort"),
        ("validate BUNDLE --components unt", 5, "unet"),
        ("validate BUNDLE --lint fial", 2, "fail"),
        ("validate BUNDLE --format jsn", 2, "json"),
        ("gpu-check BUNDLE --way browzer", 2, "browser"),
        ("lint x.tflite --runtime mldrift", 2, "ml-drift"),
        ("profile BUNDLE --device galaxy-s23-ultra --unit gpuu", 5, "gpu"),
        ("quantize analyze --schemes palete4", 5, "palette4"),
        ("quantize analyze --through cal", 5, "call"),
        ("rewrites explain --rule geglu_spli", 5, "geglu_split"),
        ("rewrites explain --component une", 5, "unet"),
        ("devices compare cpu cpuu", 5, "cpu"),
        ("train mobile structur", 2, "structure"),
    ],
)
def test_the_nearest_name(
    command: str,
    code: int,
    meant: str,
    onnx_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([str(onnx_bundle) if word == "BUNDLE" else word for word in command.split()]) == code
    captured = capsys.readouterr()
    assert f"Did you mean {meant}?" in captured.err
    assert captured.out == ""


def test_nothing_is_guessed_where_nothing_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--target", "blackberry"]) == 5
    assert run(["export", "--zzz"]) == 2
    assert run(["validate", "x", "--lint", "zzz"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_known_word_is_not_what_was_meant() -> None:
    assert nearest("call", ("call", "trajectory")) is None
    assert nearest("Call ", ("call", "trajectory")) == "Did you mean call?"
