"""Bundles that are broken on purpose: each is caught, and what is wrong is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sdmobile.basics.metrics import psnr
from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import EXIT_CHECKPOINT
from sdmobile.formats.bundle.reading import BundleError
from sdmobile.report.html import render_report
from sdmobile.report.junit import junit
from sdmobile.report.markdown import markdown
from sdmobile.runtimes.mlprogram import MLProgram
from sdmobile.validate.check import validate_bundle
from sdmobile.validate.checkers import CheckerChoice
from sdmobile.validate.checks import ExtraCheck
from sdmobile.validate.options import ValidationOptions
from sdmobile.validate.results import ValidationReport
from sdmobile.validate.weights import check_weights
from tests.validate.breakage import Flatbuffer, Package, seal
from tests.validate.bundles import copy_bundle, read_manifest, write_exported_bundle
from tests.validate.faults import graph_faults, weight_faults
from tests.validate.patients import Anatomy
from tests.validate.scaled import scaled_checkpoint

COMPONENT = "vae_encoder"  # the smallest with convolutions, norms and attention
QUERY = "encoder.mid_block.attentions.0.to_q"
PROJECTION = "encoder.mid_block.attentions.0.to_out.0"
NORM = "encoder.mid_block.resnets.0.norm1"
ROOT = "VAEEncoder.mlpackage"
OUTPUT = "encoder.conv_out"
CONVOLUTION = "encoder.mid_block.resnets.0.conv1"
FIRST_NORM = "encoder.down_blocks.0.resnets.0.norm1"
FILE = "vae_encoder.tflite"
ANDROID = ("android", "android plain")
BUNDLES = ("ios", *ANDROID)


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bundle of one component for each phone, for Android without composites too; read them, do not change them."""
    root = tmp_path_factory.mktemp("whole")
    return {
        name: write_exported_bundle(
            root / name, tiny_checkpoint, name.split()[0], (COMPONENT,), plain_ops=name.endswith("plain")
        )
        for name in BUNDLES
    }


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


class Bench:
    """Breaks copies of the bundles and validates them."""

    def __init__(self, whole: dict[str, Path], checkpoint: Path, recordings: Path, scratch: Path) -> None:
        self.checkpoint = checkpoint
        self._whole, self._recordings, self._scratch = whole, recordings, scratch

    def copy(self, target: str) -> Path:
        return copy_bundle(self._whole[target], self._scratch / target)

    def report(self, folder: Path, runtime: str = "auto", lint: str = "off", bisect: bool = True) -> ValidationReport:
        options = ValidationOptions(
            checkers=CheckerChoice(lint=lint).checkers(),
            reference=self.checkpoint,
            prompts=("a red circle",),
            steps=1,
            runtime=runtime,
            max_samples=1,
            threads=1,
            cache_dir=self._recordings,
            bisect_dir=self._scratch / "parts" if bisect else None,
        )
        return validate_bundle(folder, options).report


@pytest.fixture
def bench(whole: dict[str, Path], tiny_checkpoint: Path, recordings: Path, tmp_path: Path) -> Bench:
    return Bench(whole, tiny_checkpoint, recordings, tmp_path)


@pytest.mark.parametrize("target", BUNDLES)
def test_a_whole_bundle_has_no_culprit(bench: Bench, target: str) -> None:
    report = bench.report(bench.copy(target))
    assert report.passed
    assert report.culprits == ()


def test_nothing_is_looked_for_where_all_is_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("sdmobile.validate.cause.find_cause", never)
    report = bench.report(bench.copy("ios"), bisect=False)
    assert report.passed
    assert [check.cause for check in report.components] == [None, None]


def test_a_transposed_weight_on_ios(bench: Bench) -> None:
    folder = bench.copy("ios")
    fragment = QUERY.replace(".", "_") + "_weight"
    Package(folder / ROOT).change_weight(fragment, lambda array: array.swapaxes(0, 1))
    report = bench.report(seal(folder), "evaluator")
    assert not report.passed
    (culprit,) = report.culprits
    assert culprit.module == QUERY
    assert culprit.reproduced
    assert culprit.alone_db < 30
    assert f"holds the values of {QUERY}.weight transposed" in culprit.faults[0]
    assert QUERY in culprit.sentence


def test_the_report_names_the_module_without_being_asked(bench: Bench) -> None:
    folder = bench.copy("ios")
    Package(folder / ROOT).change_weight(f"{OUTPUT}_weight".replace(".", "_"), lambda array: array[:, ::-1])
    report = bench.report(seal(folder), bisect=False)
    exact, rounded = report.components
    assert (exact.status, rounded.status, report.culprits) == ("failed", "failed", ())
    assert exact.cause is not None
    assert (exact.cause.kind, exact.cause.module, exact.cause.type) == ("differs", OUTPUT, "conv")
    assert f"holds the values of {OUTPUT}.weight" in exact.cause.sentence
    assert rounded.cause is not None
    assert rounded.cause.sentence == f"wrong in float32 already, see there: {OUTPUT}"
    (alone,) = bench.report(folder, "evaluator-fp16", bisect=False).components
    assert alone.cause is not None
    assert (alone.cause.kind, alone.cause.module) == ("differs", OUTPUT)
    found = report.to_json()
    assert found["components"][0]["cause"]["operation"] == exact.cause.operation
    for text in (report.failures[0], markdown(found), junit(found), render_report(read_manifest(folder), found)):
        assert f"{OUTPUT} differs first" in text


@pytest.mark.parametrize("target", ANDROID)
def test_a_transposed_weight_on_android(bench: Bench, target: str) -> None:
    module = QUERY if target == "android" else PROJECTION  # written out, the query takes attention's scale
    folder = bench.copy(target)
    Flatbuffer(folder / FILE).change_weight(module, (32, 32), np.transpose)
    report = bench.report(seal(folder))
    assert not report.passed
    (culprit,) = report.culprits
    assert any(f"holds the values of {module}.weight transposed" in fault for fault in culprit.faults)
    assert culprit.reproduced
    assert module in culprit.sentence


@pytest.mark.parametrize("target", ANDROID)
def test_a_transposed_weight_after_a_norm_is_not_the_norms_fault(bench: Bench, target: str) -> None:
    """Written out, a norm leaves values that are none of PyTorch's, and its epsilon as a root."""
    folder = bench.copy(target)
    Flatbuffer(folder / FILE).change_weight(CONVOLUTION, (32, 3, 3, 32), lambda array: array.transpose(3, 1, 2, 0))
    (culprit,) = bench.report(seal(folder)).culprits
    assert any(f"holds the values of {CONVOLUTION}.weight transposed" in fault for fault in culprit.faults)
    assert not any("epsilon" in fault for fault in culprit.faults)
    assert culprit.module == CONVOLUTION


@pytest.mark.parametrize("target", ANDROID)
def test_a_wrong_epsilon_on_android(bench: Bench, target: str) -> None:
    """The files hold √ε, 0.001."""
    folder = bench.copy(target)
    Flatbuffer(folder / FILE).set_scalar(NORM, 1e-3, 0.1)
    report = bench.report(seal(folder))
    assert not report.passed
    (culprit,) = report.culprits
    assert culprit.reproduced
    assert NORM in culprit.modules
    assert NORM in culprit.sentence
    if target == "android plain":
        assert any("PyTorch has the epsilon 1e-06; the file has 0.1" in fault for fault in culprit.faults)


def test_a_wrong_epsilon(bench: Bench) -> None:
    folder = bench.copy("ios")
    Package(folder / ROOT).set_epsilon(NORM.replace(".", "_"), 1e-2)
    report = bench.report(seal(folder), "evaluator")
    assert not report.passed
    (culprit,) = report.culprits
    assert (culprit.module, culprit.reproduced) == (NORM, True)
    assert "PyTorch has the epsilon 1e-06; the file has 0.01" in culprit.faults[0]


def test_exchanged_halves_of_an_output(bench: Bench) -> None:
    """Mean and log-variance exchanged."""
    folder = bench.copy("ios")
    Package(folder / ROOT).change_weight("p_quant_conv_weight", lambda array: np.roll(array, len(array) // 2, axis=0))
    report = bench.report(seal(folder), "evaluator")
    assert [check.status for check in report.components] == ["failed"]
    (culprit,) = report.culprits
    assert culprit.module == "quant_conv"
    assert "quant_conv.weight with the two halves of its first axis exchanged" in culprit.faults[0]


@pytest.mark.parametrize("target", ANDROID)
def test_exchanged_halves_of_an_output_on_android(bench: Bench, target: str) -> None:
    folder = bench.copy(target)
    Flatbuffer(folder / FILE).change_weight("quant_conv", (8, 1, 1, 8), lambda array: np.roll(array, 4, axis=0))
    report = bench.report(seal(folder))
    assert [check.status for check in report.components] == ["failed"]
    (culprit,) = report.culprits
    assert culprit.module == "quant_conv"
    assert "quant_conv.weight with the two halves of its first axis exchanged" in culprit.faults[0]


def test_an_output_that_reads_another_value(bench: Bench) -> None:
    folder = bench.copy("ios")
    package = Package(folder / ROOT)
    earlier = [name for name, op in package.by_output.items() if op.type == "conv" and "encoder_conv_out" in name]
    package.output_from(earlier[0])
    report = bench.report(seal(folder), "evaluator")
    assert [check.status for check in report.components] == ["failed"]
    (culprit,) = report.culprits
    assert culprit.reproduced
    assert [name for name in culprit.operations if name != "latent_dist"] == []


def test_a_norm_that_overflows_float16(bench: Bench, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """GroupNorm written out squares what it normalises; a few hundred squared is beyond float16."""
    checkpoint = scaled_checkpoint(tiny_checkpoint, tmp_path / "scaled", ["encoder.conv_in."], 4000.0)
    bench.checkpoint = checkpoint
    without = ("group_norm_instance_norm",)
    folder = write_exported_bundle(tmp_path / "written-out", checkpoint, "ios", (COMPONENT,), without)
    report = bench.report(folder)
    status = {check.runtime: check.status for check in report.components}
    assert (status["evaluator"], status["evaluator-fp16"]) == ("passed", "failed")
    (culprit,) = report.culprits
    assert (culprit.runtime, culprit.module) == ("evaluator-fp16", FIRST_NORM)
    assert culprit.reproduced
    cause = next(check.cause for check in report.components if check.runtime == "evaluator-fp16")
    assert cause is not None
    assert (cause.kind, cause.module, cause.type) == ("overflow", FIRST_NORM, "square")
    assert "--float32-islands" in report.failures[0]
    assert f"of module {FIRST_NORM} overflows float16" in report.failures[0]


@pytest.mark.parametrize(("target", "file"), [("ios", "weights/weight.bin"), ("android", "vae_encoder.tflite")])
def test_a_truncated_file(bench: Bench, target: str, file: str) -> None:
    folder = bench.copy(target)
    path = next(folder.rglob(file))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError, match="was changed or damaged") as caught:
        bench.report(folder)
    assert path.relative_to(folder).as_posix() in str(caught.value)
    assert caught.value.exit_code == EXIT_CHECKPOINT
    report = bench.report(seal(folder))  # the manifest agrees now, the file is still half a file
    assert {check.status for check in report.components} == {"error"}
    assert not report.passed
    assert report.failures[0].startswith(f"{COMPONENT} on ")
    if target == "ios":
        assert all("weight.bin must be a complete weight file" in line for line in report.failures)


def lints(report: ValidationReport) -> list[ExtraCheck]:
    return [check for check in report.extras if check.checker.startswith("lint")]


def test_an_operator_that_the_gpu_refuses_though_the_numbers_are_right(bench: Bench) -> None:
    folder = bench.copy("android")
    (before,) = lints(bench.report(folder, lint="report"))
    assert (before.status, before.findings) == ("passed", ())
    Flatbuffer(folder / FILE).insert_broadcast(after="CONV_2D")
    report = bench.report(seal(folder), lint="fail")
    assert [check.status for check in report.components] == ["passed"]
    (refusal,) = lints(report)
    assert not report.passed
    assert (refusal.component, refusal.status) == (COMPONENT, "failed")
    assert refusal.findings[0].startswith("BROADCAST_TO")
    assert any("BROADCAST_TO" in line for line in report.failures)
    assert " in encoder." in refusal.findings[0]


def test_what_is_saved_runs_by_itself(bench: Bench) -> None:
    folder = bench.copy("ios")
    Package(folder / ROOT).set_epsilon(NORM.replace(".", "_"), 1e-2)
    (culprit,) = bench.report(seal(folder), "evaluator").culprits
    assert culprit.folder is not None
    place = Path(culprit.folder)
    names = sorted(file.name for file in place.iterdir())
    assert names == ["README.txt", "expected.npz", "inputs.npz", "subgraph.mlpackage"]
    found = MLProgram(place / "subgraph.mlpackage").predict(dict(np.load(place / "inputs.npz")))
    expected = dict(np.load(place / "expected.npz"))
    assert list(found) == list(expected)
    level = psnr(*(side[name] for name in expected for side in (expected, found)))
    assert level == pytest.approx(culprit.alone_db, abs=0.5)  # the inputs are stored in float16
    assert NORM in (place / "README.txt").read_text("utf-8")


def test_what_is_saved_for_android_runs_in_litert(bench: Bench) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = bench.copy("android")
    Flatbuffer(folder / FILE).change_weight(QUERY, (32, 32), np.transpose)
    (culprit,) = bench.report(seal(folder)).culprits
    assert culprit.folder is not None
    place = Path(culprit.folder)
    run = Interpreter(str(place / "subgraph.tflite")).get_signature_runner("main")
    found = run(**np.load(place / "inputs.npz"))["output"]
    assert psnr(np.load(place / "expected.npz")["output"], found) == pytest.approx(culprit.alone_db, abs=0.1)


@pytest.mark.parametrize("target", BUNDLES)
def test_stored_weights_are_the_checkpoints(bench: Bench, target: str, tmp_path: Path) -> None:
    anatomy = Anatomy(bench.copy(target), open_checkpoint(bench.checkpoint))
    (good,) = check_weights(anatomy.bundle, anatomy.checkpoint, [COMPONENT])
    assert (good.status, good.findings) == ("passed", ())
    assert good.figures["parameters"] == len(good.tensors) == 54
    assert good.figures["epsilons"] == 10
    assert {tensor["verdict"] for tensor in good.tensors} <= {"exact", "within its scheme"}
    faults = [*weight_faults(anatomy, COMPONENT), *graph_faults(anatomy, COMPONENT)]
    by_running = {"the file's output is an earlier value"}
    if target != "android":  # elsewhere operations of attention have names that do not tell whose they are
        by_running.add("two operations that take each other's weight")
    assert len(faults) == 12
    for number, fault in enumerate(faults):
        patient = anatomy.patient(tmp_path / f"patient-{number}")
        fault.apply(patient)
        assert (patient.check(COMPONENT).status == "failed") is (fault.kind not in by_running), fault.kind
        shutil.rmtree(patient.folder)
