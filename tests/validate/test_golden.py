"""Recorded calls beside a bundle: the bytes are what its files take, and what does not belong to it is not used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdmobile.errors import OutputError
from sdmobile.formats.bundle.contracts import OPAQUE, TensorSpec
from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import Recording, record
from sdmobile.reference.sampling import SampleRequest
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.validate import check
from sdmobile.validate import golden as golden_module
from sdmobile.validate.golden import DATA, DOCUMENT, Golden, make_golden, read_golden, write_golden
from sdmobile.validate.golden_recording import (
    NASTY_TEXTS,
    PictureOrder,
    covers,
    golden_of,
    record_golden,
    token_ids,
)
from sdmobile.validate.page_picture import has_table, scheduler_name, why_no_picture
from tests.validate.bundles import write_paper_bundle
from tests.validate.serve.site import COMPONENTS, REQUEST, paper_bundle, pixels_of, samples_of, with_golden


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(paper_bundle(tmp_path / "bundle"))


def _array(golden: Golden, entry: dict[str, Any]) -> np.ndarray:
    """Returns an array as a page reads it."""
    kind = np.dtype(entry["dtype"]).newbyteorder("<")
    assert entry["offset"] % 64 == 0
    count = entry["bytes"] // kind.itemsize
    return np.frombuffer(golden.data, kind, count, entry["offset"]).reshape(entry["shape"])


def test_the_bytes_are_what_the_files_take(bundle: Bundle) -> None:
    golden = with_golden(bundle.path)
    samples = samples_of()
    assert len(golden.document["calls"]) == 2 * len(COMPONENTS)
    for name in COMPONENTS:
        contract = bundle.components[name].contract
        for call, sample in zip(golden.calls(name), samples[name], strict=True):
            assert call["label"] == sample.label
            for key, array in contract.to_target(sample.inputs).items():
                found = _array(golden, call["inputs"][key])
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, array)
            outputs = {key: _array(golden, entry) for key, entry in call["outputs"].items()}
            for key, array in contract.from_target(outputs).items():
                np.testing.assert_array_equal(array, sample.outputs[key])
    assert _array(golden, golden.calls("text_encoder")[0]["inputs"]["tokens"]).dtype == np.int32
    np.testing.assert_array_equal(golden.pixels(), pixels_of())


def test_a_chain_takes_what_no_part_makes(bundle: Bundle) -> None:
    """The first part takes the latent, the second the text and what crossed; the outputs are the last one's."""
    whole = bundle.components["unet"]
    crossing = TensorSpec("mul_7", (2, 5), "float32", "Value between two parts", "mul_7", OPAQUE)
    sample, timestep, text = whole.contract.inputs
    first = replace(whole.contract, file_name="unet_1.tflite", inputs=(sample, timestep), outputs=(crossing,))
    last = replace(whole.contract, file_name="unet_2.tflite", inputs=(crossing, timestep, text))
    parts = tuple(replace(whole, contract=contract) for contract in (first, last))
    chained = replace(bundle, components={**bundle.components, "unet": replace(whole, chain=parts)})
    golden = make_golden(chained, samples_of(("unet",), 1), {}, None)
    (call,) = golden.calls("unet")
    assert list(call["inputs"]) == [sample.name, timestep.name, text.name]
    assert list(call["outputs"]) == [spec.name for spec in whole.contract.outputs]


def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    golden = with_golden(bundle.path)
    assert read_golden(bundle) == (golden, None)
    assert json.loads((bundle.path / DOCUMENT).read_text())["bin"]["size"] == (bundle.path / DATA).stat().st_size
    open_bundle(bundle.path)  # is as whole as before


def test_without_any_there_is_no_reason_either(bundle: Bundle) -> None:
    assert read_golden(bundle) == (None, None)


def _edited(folder: Path, **changes: Any) -> None:
    document = {**json.loads((folder / DOCUMENT).read_text()), **changes}
    (folder / DOCUMENT).write_text(json.dumps(document))


_HARMS: dict[str, Any] = {
    "belongs to another bundle": lambda folder: _edited(folder, bundle_sha256="0" * 64),
    "of another kind": lambda folder: _edited(folder, kind="sdmobile-bundle"),
    "or version": lambda folder: _edited(folder, schema_version=2),
    "golden.bin is not what": lambda folder: (folder / DATA).write_bytes((folder / DATA).read_bytes() + b"x"),
    "cannot be read": lambda folder: (folder / DOCUMENT).write_text("{"),
    "is not as sdmobile writes it": lambda folder: _edited(folder, calls=[{}]),
    "as sdmobile writes": lambda folder: _edited(folder, calls=5),
    "as sdmobile": lambda folder: _edited(folder, picture={"prompt": "x"}),
    "not as sdmobile": lambda folder: (folder / DOCUMENT).write_text("[1]"),
}


@pytest.mark.parametrize("words", _HARMS)
def test_what_does_not_belong_to_the_bundle_is_not_used(bundle: Bundle, words: str) -> None:
    with_golden(bundle.path)
    _HARMS[words](bundle.path)
    golden, reason = read_golden(bundle)
    assert golden is None
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    "change", [{"offset": -64}, {"offset": 1 << 40}, {"bytes": 4}, {"shape": [9]}, {"offset": 0.5}]
)
def test_an_array_outside_the_file_is_not_used(bundle: Bundle, change: dict[str, Any]) -> None:
    document = with_golden(bundle.path).document
    next(iter(document["calls"][0]["inputs"].values())).update(change)
    _edited(bundle.path, calls=document["calls"])
    assert read_golden(bundle)[0] is None


@pytest.mark.parametrize(
    "change",
    [
        {"width": -16, "height": -12},
        {"width": 16.0},
        {"width": True, "height": 192},
        {"sha256": "0" * 64},
        {"psnr_db": "x"},
    ],
)
def test_an_impossible_picture_is_not_used(bundle: Bundle, change: dict[str, Any]) -> None:
    picture = with_golden(bundle.path).document["picture"]
    _edited(bundle.path, picture={**picture, "expected": {**picture["expected"], **change}})
    assert read_golden(bundle)[0] is None


def _each(document: dict[str, Any], **changes: Any) -> None:
    for call in document["calls"]:
        call.update(changes)


def _first(document: dict[str, Any], **changes: Any) -> None:
    next(iter(document["calls"][0]["inputs"].values())).update(changes)


_LIES: dict[str, Any] = {
    "labels that are lists": lambda d: _each(d, component=["a"], label=["b"]),
    "a label that comes back shortened": lambda d: _each(d, label="a" * 5000),
    "a component that the bundle lacks": lambda d: d["calls"].append({**d["calls"][0], "component": "stranger"}),
    "no inputs": lambda d: _each(d, inputs={}),
    "no outputs": lambda d: _each(d, outputs={}),
    "another output": lambda d: _each(d, outputs={"other": next(iter(d["calls"][0]["outputs"].values()))}),
    "another type of the same size": lambda d: _first(d, dtype="float32"),
    "sizes below zero": lambda d: _first(d, shape=[-size for size in d["calls"][0]["inputs"]["tokens"]["shape"]]),
    "sizes whose product wraps": lambda d: _first(d, shape=[2**52, 2**12], bytes=0),
    "no tokens": lambda d: d.pop("tokens"),
    "tokens of another kind": lambda d: d.update(tokens=[{"text": 5, "ids": "x"}]),
    "a picture that any other equals": lambda d: d["picture"]["expected"].update(psnr_db=-1000),
    "steps without a table": lambda d: d["picture"].update(steps=3),
    "steps and a half": lambda d: d["picture"].update(steps=1.5),
    "no seed": lambda d: d["picture"].update(seed=-1),
    "prompts that are lists": lambda d: d["picture"].update(prompt=["a"], negative_prompt=["b"]),
}


@pytest.mark.parametrize("lie", _LIES)
def test_what_the_files_do_not_take_is_not_used_and_is_replaced(bundle: Bundle, lie: str) -> None:
    good = with_golden(bundle.path)
    document = json.loads(good.text)
    _LIES[lie](document)
    (bundle.path / DOCUMENT).write_text(json.dumps(document))
    assert read_golden(bundle) == (None, "golden.json is not as sdmobile writes it")
    assert write_golden(bundle, good)


def test_bytes_come_before_the_document_that_names_them(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(golden_module, "write_whole", lambda file, data: order.append(file.name))
    write_golden(bundle, make_golden(bundle, samples_of(), {}, None))
    assert order == [DATA, DOCUMENT]


def test_less_does_not_take_the_place_of_more(bundle: Bundle) -> None:
    drawn = REQUEST, pixels_of()
    more = make_golden(bundle, samples_of(), {}, drawn)
    assert write_golden(bundle, more)
    assert not write_golden(bundle, more)
    assert not write_golden(bundle, make_golden(bundle, samples_of(("unet",)), {}, None))
    assert not write_golden(bundle, make_golden(bundle, samples_of(), {}, None))
    assert read_golden(bundle)[0] == more
    assert write_golden(bundle, make_golden(bundle, samples_of(calls=1), {}, drawn))
    assert read_golden(bundle)[0] != more


def test_what_is_enough_for_a_page(bundle: Bundle) -> None:
    golden = make_golden(bundle, samples_of(("unet", "vae_decoder")), {}, (REQUEST, pixels_of()))
    assert covers(golden, ("unet",), PictureOrder())
    assert covers(golden, ("unet", "vae_decoder"), PictureOrder("a circle", 7, 2))
    assert not covers(golden, ("unet", "text_encoder"), PictureOrder())
    for other in (PictureOrder("a square"), PictureOrder(seed=0), PictureOrder(steps=20)):
        assert not covers(golden, ("unet",), other)
        assert covers(golden, ("unet",), other, picture=False)
    assert not covers(make_golden(bundle, samples_of(), {}, None), ("unet",), PictureOrder())


@pytest.fixture
def real(tmp_path: Path, tiny_checkpoint: Path) -> Bundle:
    """The denoiser of the tiny checkpoint on paper, with the small files that an export writes."""
    return open_bundle(write_paper_bundle(tmp_path / "real", tiny_checkpoint, "android"))


def test_the_table_of_the_page_is_asked_for_by_its_name(real: Bundle) -> None:
    tables = json.loads((real.path / "scheduler.json").read_text())
    solver = tables["solvers"][tables["default_solver"]]
    own = real.pipeline["scheduler"]["_class_name"]
    assert scheduler_name(real) == (None if solver["diffusers_class"] == own else tables["default_solver"])
    assert has_table(real, int(next(iter(solver["steps"]))))
    assert not has_table(real, 999)
    assert why_no_picture(real) == "the bundle has no text_encoder and no vae_decoder"


def test_texts_have_the_tokenizers_identifiers(spec: PipelineSpec) -> None:
    found = token_ids(spec)
    assert list(found) == list(NASTY_TEXTS)
    assert len(NASTY_TEXTS) >= 12
    assert {len(ids) for ids in found.values()} == {spec.geometry.context_length}
    assert len({tuple(ids) for ids in found.values()}) == len(found)


def test_a_recording_gives_a_few_calls_and_a_picture(
    bundle: Bundle, spec: PipelineSpec, torch_runner: TorchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdmobile.basics.metrics import to_pixels
    from sdmobile.families.contracts import contract_for
    from sdmobile.validate import golden_recording

    names = ("text_encoder", "unet", "vae_decoder")
    requests = [SampleRequest(text, "", 4, 1, 3.0, "dpm++") for text in ("a circle", "a square")]
    recording = record(torch_runner, spec, requests, names, 9)
    contracts = {name: contract_for(spec.family, "android", name, spec.geometry) for name in names}
    components = {name: replace(bundle.components[name], contract=contracts[name]) for name in names}
    fitting = replace(bundle, components=components)
    monkeypatch.setattr(golden_recording, "scheduler_name", lambda _: "dpm++")
    monkeypatch.setattr(golden_recording, "has_table", lambda _, steps: steps == 4)
    golden = golden_of(fitting, spec, recording)
    assert {name: len(golden.calls(name)) for name in names} == {"text_encoder": 2, "unet": 3, "vae_decoder": 1}
    assert golden.picture is not None
    assert (golden.picture["prompt"], golden.picture["seed"], golden.picture["steps"]) == ("a circle", 1, 4)
    np.testing.assert_array_equal(golden.pixels(), to_pixels(recording.runs[0].image))
    monkeypatch.setattr(golden_recording, "scheduler_name", lambda _: None)
    assert golden_of(fitting, spec, recording).picture is None  # sampled by another solver than the page's
    monkeypatch.setattr(golden_recording, "scheduler_name", lambda _: "dpm++")
    monkeypatch.setattr(golden_recording, "has_table", lambda _, steps: False)
    assert golden_of(fitting, spec, recording).picture is None


def test_large_calls_are_fewer(bundle: Bundle, spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdmobile.validate import golden_recording

    recording = Recording(samples_of(calls=3))
    one = recording.samples["unet"][0]
    size = sum(array.nbytes for array in (*one.inputs.values(), *one.outputs.values()))
    for limit, calls in ((size - 1, 1), (2 * size, 2), (100 * size, 3)):
        monkeypatch.setattr(golden_recording, "_MAX_BYTES", limit)
        assert len(golden_of(bundle, spec, recording).calls("unet")) == calls


def test_it_is_recorded_once(
    real: Bundle, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = PictureOrder("a circle", 3, 2)
    first = record_golden(real, order, tiny_checkpoint, cache_dir=tmp_path / "cache")
    assert [call["label"].partition(", t=")[0] for call in first.calls("unet")] == [
        f"prompt 1, step {number}"
        for number in (1, 2, 3)  # PNDM takes one call more than steps
    ]
    monkeypatch.setattr(TorchRunner, "run", lambda *_: pytest.fail("sampled again"))
    assert record_golden(real, order, tiny_checkpoint, cache_dir=tmp_path / "cache") == first


def _subject(bundle: Bundle, spec: PipelineSpec, golden: bool) -> Any:
    return SimpleNamespace(bundle=bundle, spec=spec, options=SimpleNamespace(golden=golden))


def test_validate_puts_them_into_android_bundles(
    bundle: Bundle, spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recording = Recording(samples_of())
    check._keep_calls(_subject(bundle, spec, False), recording)
    check._keep_calls(_subject(replace(bundle, target="ios"), spec, True), recording)
    assert read_golden(bundle) == (None, None)
    check._keep_calls(_subject(bundle, spec, True), recording)
    golden, _ = read_golden(bundle)
    assert golden is not None
    assert {call["component"] for call in golden.document["calls"]} == set(COMPONENTS)

    def refuse(*_: object) -> None:
        raise OutputError("the output must be writable", "read-only")

    monkeypatch.setattr(golden_module, "write_golden", refuse)
    check._keep_calls(_subject(bundle, spec, True), recording)
    assert "note: the recorded calls were not put into the bundle" in caplog.text
