"""Runs of the page on phones: what is read, what is believed, what becomes a measurement."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdmobile.device_profiles import load_profile, profile_path
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.component_cost import predict_files
from sdmobile.prediction.measurements import Measurement, MeasurementError, measurement, store
from sdmobile.prediction.measurements_fit import refit, write_refitted
from sdmobile.prediction.measurements_merge import merge
from sdmobile.prediction.phone_run import PhoneRun, PhoneRunError, parse_run
from sdmobile.prediction.phone_run_rows import rows_of_run, unit_of_run
from tests.prediction.assessed import sd15

__all__ = ["sd15"]

_THRESHOLDS = {"unet": 60.0}


def run_document(bundle: str = "0" * 64, seconds: tuple[float, ...] = (2.0, 0.5, 0.7)) -> dict[str, Any]:
    """What the page sends after a run in which all is well."""
    component = {
        "name": "unet", "accepted": True, "used": "webgpu", "dispatches": 501, "download_seconds": 3,
        "compile_seconds": 9.5, "first_seconds": 4.0, "seconds": list(seconds), "heap_bytes": 90 << 20,
        "buffers": 900, "largest_buffer": 1 << 27,
    }  # fmt: skip
    checks = [
        {
            "component": "unet", "label": "t=500", "run": run, "output": "noise_pred", "psnr_db": 131.5,
            "identical_to_first": True, "passed": True,
        }
        for run in range(len(seconds))
    ]  # fmt: skip
    return {
        "schema_version": 1, "kind": "sdmobile-phone-run", "job": "0123456789abcdef", "bundle_sha256": bundle,
        "bundle_name": "shapes-64", "device_profile": "galaxy-s23-ultra", "started": "2026-11-30T10:00:00Z",
        "sdmobile": "0.1.0", "runtime": "LiteRT.js 2.5.3", "page": "1", "accelerator": "webgpu", "precision": "float16",
        "adapter": {"vendor": "qualcomm", "architecture": "adreno-7xx"}, "user_agent": "Chrome/149", "isolated": True,
        "way": "all resident", "components": [component], "checks": checks, "verdict": "passed",
    }  # fmt: skip


def _run(document: dict[str, Any] | None = None, **changes: Any) -> PhoneRun:
    return parse_run(json.dumps((document or run_document()) | changes).encode())


def test_a_run_in_which_all_is_well_has_no_fault() -> None:
    run = _run()
    assert run.faults(_THRESHOLDS) == []
    assert run.unstorable() is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["components"][0].update(used="wasm"), "fell back to wasm"),
        (lambda d: d["components"][0].update(accepted=False), "did not run on the GPU"),
        (lambda d: d["components"][0].update(dispatches=0), "nothing to compute"),
        (lambda d: d["components"][0].update(error="RuntimeError: lost"), "lost"),
        (lambda d: d["components"].clear(), "did not run"),
        (lambda d: d["checks"].clear(), "compared with nothing"),
        (lambda d: d["checks"].pop(), "3 runs were timed, 2 compared"),
        (lambda d: d["checks"][0].update(psnr_db=59.9), "59.9 dB, at least 60"),
        (lambda d: [c.update(psnr_db=20.0) for c in d["checks"]], "t=500, run 1: 20.0 dB"),
        (lambda d: [c.update(psnr_db=None) for c in d["checks"][1:]], "only the first run is right"),
        (lambda d: d.update(verdict="failed", reason="the device was lost"), "the device was lost"),
    ],
)
def test_what_is_wrong_is_found_whatever_the_page_says(change: Any, words: str) -> None:
    document = run_document()
    change(document)
    assert any(words in line for line in _run(document).faults(_THRESHOLDS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accelerator": "wasm"}, "CPU"),
        ({"adapter": None}, "no adapter"),
        ({"adapter": {"vendor": "google", "architecture": "swiftshader"}}, "software"),
        ({"adapter": {"vendor": "qualcomm", "fallback": True}}, "software"),
        ({"hidden": True}, "hidden"),
        ({"external": True}, "weights came in files of their own"),
    ],
)
def test_times_that_are_none_of_a_phones_gpu(sd15: Bundle, changes: dict[str, Any], words: str) -> None:
    run = _run(run_document(sd15.sha256), **changes)
    assert words in str(run.unstorable())
    with pytest.raises(PhoneRunError, match=words):
        rows_of_run(run, sd15, "run.json")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"kind": "sdmobile-phone-job"}, "kind"),
        ({"bundle_sha256": "../../etc"}, "bundle_sha256"),
        ({"device_profile": "../galaxy"}, "device_profile"),
        ({"started": "yesterday"}, "started"),
        ({"extra": 1}, "extra"),
        ({"limits": {"maxBufferSize": -1}}, "limits"),
        ({"components": [{"name": "unet", "accepted": 1}]}, "accepted"),
        ({"components": [{"name": "unet", "accepted": True, "seconds": [-1.0]}]}, "seconds"),
        ({"components": [{"name": "unet", "accepted": True}] * 2}, "told once"),
        ({"picture": {"sha256": "0" * 64, "psnr_db": 1e999, "passed": True}}, "finite"),
    ],
)
def test_other_documents_are_refused_by_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(PhoneRunError, match=place):
        _run(**changes)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": NaN}', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(PhoneRunError):
        parse_run(data)


def test_a_picture_is_a_png() -> None:
    picture = {"sha256": "0" * 64, "psnr_db": 999, "passed": True, "total_seconds": 3.0}
    good = _run(picture=picture | {"png_base64": "iVBORw0KGgo="})
    assert good.picture is not None
    assert good.picture.png().startswith(b"\x89PNG")
    for text in ("aGVsbG8=", "no base64!"):
        other = _run(picture=picture | {"png_base64": text}).picture
        assert other is not None
        with pytest.raises(PhoneRunError):
            other.png()


def test_a_run_gives_the_median_of_what_ran_rightly(sd15: Bundle) -> None:
    document = run_document(sd15.sha256)
    wrong = deepcopy(document["components"][0]) | {"name": "vae_decoder"}
    document["components"].append(wrong)
    document["checks"].append(document["checks"][0] | {"component": "vae_decoder", "psnr_db": 12.0})
    (row,) = rows_of_run(_run(document), sd15, "alice/run.json")
    assert (row.component, row.seconds) == ("unet", 0.7)
    assert row.runtime == "LiteRT.js webgpu 2.5.3 float16"
    assert "qualcomm" in row.place
    assert row.origin == "alice/run.json"
    with pytest.raises(PhoneRunError, match="that it ran"):
        rows_of_run(_run(), sd15, "")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["components"][0].update(accepted=False),  # some of it ran on the CPU
        lambda d: d["checks"].pop(),  # a timed run that nobody compared
        lambda d: d["components"][0].update(dispatches=0),
    ],
)
def test_a_time_that_serve_would_call_failed_is_not_stored(sd15: Bundle, change: Any) -> None:
    document = run_document(sd15.sha256)
    change(document)
    with pytest.raises(PhoneRunError, match="no component of the run was"):
        rows_of_run(_run(document), sd15, "")


def test_every_output_of_every_timed_run_is_compared() -> None:
    document = run_document()
    document["checks"].append(document["checks"][0] | {"output": "second"})
    assert _run(document).faults(_THRESHOLDS) == ["unet: 3 runs were timed, 1 compared"]


def test_a_run_belongs_to_the_unit_of_its_precision_and_maker() -> None:
    assert unit_of_run(_run(), "galaxy-s23-ultra", None).name == "webgpu"
    assert unit_of_run(_run(precision="float32"), "galaxy-s23-ultra", None).name == "webgpu-float32"
    with pytest.raises(UnsupportedError, match="of apple"):
        unit_of_run(_run(), "iphone-15-pro", None)
    assert unit_of_run(_run(adapter={"vendor": "apple"}), "iphone-15-pro", None).name == "webgpu"


def test_nothing_is_predicted_for_a_browser_before_a_fit() -> None:
    with pytest.raises(UnsupportedError, match="nobody has measured"):
        choose_unit("galaxy-s23-ultra", "webgpu")


def _measured(bundle: Bundle, factor: float) -> list[Measurement]:
    """What a browser would measure whose engine takes that much longer than the guesses say."""
    unit = choose_unit("galaxy-s23-ultra", "webgpu", to_fit=True)
    found = []
    for name in bundle.components:
        blank = measurement(bundle, unit, name, 1.0, "a phone", "LiteRT.js webgpu 2.5.3 float16")
        took = factor * predict_files(blank.graphs, unit)[1].seconds
        found.append(measurement(bundle, unit, name, took, "a phone", blank.runtime, f"run of {name}"))
    return found


def test_a_fit_to_a_browsers_times_leaves_the_other_units_alone(sd15: Bundle, tmp_path: Path) -> None:
    rows = _measured(sd15, 1.8)
    unit = choose_unit("galaxy-s23-ultra", "webgpu", to_fit=True)
    with pytest.raises(MeasurementError, match="of the unit"):
        refit(choose_unit("galaxy-s23-ultra"), rows)  # a browser's times never enter OpenCL's fit
    output = tmp_path / "mine.toml"
    write_refitted(profile_path("galaxy-s23-ultra"), "webgpu", refit(unit, rows), output)
    old, new = load_profile("galaxy-s23-ultra"), load_profile(str(output))
    assert {name: new.latency[name] for name in old.latency} == old.latency
    assert set(new.latency) - set(old.latency) == {"webgpu"}
    mine = choose_unit(str(output), "webgpu")
    for row in rows:
        assert predict_files(row.graphs, mine)[1].seconds == pytest.approx(row.seconds, rel=0.1)
    assert mine.reliability == "low"


def test_results_of_many_people_are_merged_each_with_its_origin(sd15: Bundle, tmp_path: Path) -> None:
    results, kept = tmp_path / "results", tmp_path / "kept"
    (results / "alice").mkdir(parents=True)
    for name in ("one.json", "the-same.json"):
        (results / "alice" / name).write_text(json.dumps(run_document(sd15.sha256)))
    (results / "other-bundle.json").write_text(json.dumps(run_document()))
    (results / "software.json").write_text(
        json.dumps(run_document(sd15.sha256) | {"adapter": {"vendor": "google", "architecture": "swiftshader"}})
    )
    (results / "garbage.json").write_text("{")
    for row in _measured(sd15, 2.0)[:1]:
        store(row, results / "bob")
    found = merge(results, [sd15])
    assert [(one.component, one.unit) for one in found.measurements] == [("unet", "webgpu"), ("text_encoder", "webgpu")]
    assert found.measurements[0].origin.startswith("alice/one.json: run 0123456789abcdef")
    assert found.measurements[1].origin == "run of text_encoder"
    assert [line.partition(":")[0] for line in found.left_out] == ["garbage.json", "other-bundle.json", "software.json"]
    assert "made of software" in found.left_out[2]
    for one in found.measurements:
        store(one, kept)
    again = merge(kept, [])
    assert {one.origin for one in again.measurements} == {one.origin for one in found.measurements}


def _nonsense(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts of a graph that no file has."""
    (kind, name, inputs, outputs, attributes), *others = graph["operations"]
    operations = [
        [5, name, inputs, outputs, attributes], [kind, name, "ab", outputs, attributes],
        [kind, name, [10**6], outputs, attributes], [kind, name, inputs, outputs, None], [kind, name],
    ]  # fmt: skip
    return [
        {"operations": []},
        {"tensors": []},
        {"outputs": [10**6]},
        {"format": 7},
        {"file_bytes": "many"},
        *({"operations": [operation, *others]} for operation in operations),
        *({"tensors": [[d, shape, s] for d, _, s in graph["tensors"]]} for shape in ("ab", [-1], [1.5], [2**40], [])),
        {"tensors": [[d, [0] * len(shape), s] for d, shape, s in graph["tensors"]]},
        {"tensors": [[3, shape, s] for _, shape, s in graph["tensors"]]},
        {"tensors": [[d, shape, "a"] for d, shape, _ in graph["tensors"]]},
    ]


def test_a_run_of_which_something_cannot_be_kept_is_left_out_whole(sd15: Bundle, tmp_path: Path) -> None:
    document = run_document(sd15.sha256)
    document["components"].append(document["components"][0] | {"name": "stranger"})
    document["checks"] += [check | {"component": "stranger"} for check in document["checks"]]
    (tmp_path / "run.json").write_text(json.dumps(document))
    found = merge(tmp_path, [sd15])
    assert not found.measurements
    assert "stranger" in found.left_out[0]


def test_a_run_on_a_profile_of_ones_own_is_merged_with_the_bundle_that_carries_it(sd15: Bundle, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(
        profile_path("galaxy-s23-ultra").read_text("utf-8").replace('name = "galaxy-s23-ultra"', 'name = "mine"')
    )
    carrying = replace(sd15, manifest={**sd15.manifest, "device": "mine.toml"}, files={**sd15.files, "mine.toml": own})
    (tmp_path / "run.json").write_text(json.dumps(run_document(sd15.sha256) | {"device_profile": "mine"}))
    assert [one.device for one in merge(tmp_path, [carrying]).measurements] == ["mine"]
    assert not merge(tmp_path, [sd15]).measurements


def test_a_damaged_or_lying_stored_measurement_is_left_out(sd15: Bundle, tmp_path: Path) -> None:
    import gzip

    (row,) = _measured(sd15, 2.0)[:1]
    path = store(row, tmp_path / "there")
    known = json.loads(gzip.decompress(path.read_bytes()))
    lies: list[dict[str, Any]] = [
        {"device": "../../etc"}, {"seconds": -1}, {"seconds": "1"}, {"runtime": ""}, {"unit": 3}, {"graphs": 1},
        {"device": "nokia-3310"}, {"place": "llvmpipe"}, {"version": 2}, {"measured": False}, {"unit": "webgpu\n"},
        {"unit": "no-such-unit"}, {"runtime": "LiteRT.js webgpu 2.5.3 float32"}, {"graphs": []},
        *({"graphs": [known["graphs"][0] | change]} for change in _nonsense(known["graphs"][0])),
    ]  # fmt: skip
    folder = tmp_path / "lies"
    folder.mkdir()
    for number, lie in enumerate(lies):
        (folder / f"{number}.json.gz").write_bytes(gzip.compress(json.dumps(known | lie).encode()))
    (folder / "bomb.json.gz").write_bytes(gzip.compress(b" " * (1 << 26)))
    flipped = bytearray(path.read_bytes())
    flipped[20] ^= 0xFF
    (folder / "flipped.json.gz").write_bytes(flipped)
    found = merge(folder, [])
    assert not found.measurements
    assert len(found.left_out) == len(lies) + 2
    with pytest.raises(MeasurementError, match="from a folder"):
        merge(tmp_path / "missing", [])
