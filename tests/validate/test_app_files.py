"""What an app reads beside the models is compared with the checkpoint, and the reference reads none of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.formats.bundle.reading import BundleError, open_bundle
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import Recording
from sdmobile.reference.resolve import reference_pipeline
from sdmobile.validate.app_files import app_file_checkers
from sdmobile.validate.app_files.comparison import alike, differences
from sdmobile.validate.checks import ExtraCheck
from tests.families.tiny import write_tiny
from tests.validate.breakage import seal
from tests.validate.bundles import write_paper_bundle
from tests.validate.faults import document_faults, manifest_faults, tokenizer_faults
from tests.validate.patients import Anatomy, Patient

FAULTS = [*manifest_faults(), *tokenizer_faults(), *document_faults()]


@pytest.fixture(scope="module")
def paper(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_bundle(tmp_path_factory.mktemp("paper") / "android", tiny_checkpoint, "android")


@pytest.fixture(scope="module")
def anatomy(paper: Path, tiny_checkpoint: Path) -> Anatomy:
    return Anatomy(paper, open_checkpoint(tiny_checkpoint))


def checks(folder: Path, checkpoint: Checkpoint, only: str = "") -> list[ExtraCheck]:
    bundle = open_bundle(folder)
    checkers = app_file_checkers(checkpoint, reference_pipeline(bundle, checkpoint))
    chosen = [checker for name, checker in checkers.items() if name.startswith(only)]
    return [check for checker in chosen for check in checker(bundle, list(bundle.components), Recording())]


def test_a_good_bundle_is_as_the_checkpoint_says(anatomy: Anatomy) -> None:
    results = {check.checker: check for check in checks(anatomy.folder, anatomy.checkpoint)}
    assert {check.failure for check in results.values() if check.status != "passed"} == set()
    assert list(results) == ["manifest", "tokenizer", "scheduler.json", "noise_golden.json", "metadata.json"]
    assert results["scheduler.json"].figures["tables"] >= 16
    assert results["scheduler.json"].figures["largest_error"] < 1e-5
    assert results["tokenizer"].figures["words"] == 558


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_each_fault_is_told(anatomy: Anatomy, fault: object, tmp_path: Path) -> None:
    from tests.validate.faults import Fault

    assert isinstance(fault, Fault)
    patient = anatomy.patient(tmp_path / "patient")
    fault.apply(patient)
    name = fault.kind.partition(":")[0]
    (check,) = checks(patient.sealed().path, anatomy.checkpoint, name)
    assert check.checker == name
    assert check.status == "failed"


def test_an_iphones_bundle_has_no_tables(tiny_checkpoint: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = write_paper_bundle(tmp_path / "ios", tiny_checkpoint, "ios")
    results = checks(folder, checkpoint)
    assert [(check.checker, check.status) for check in results] == [("manifest", "passed"), ("tokenizer", "passed")]


def test_latent_consistencys_tables_draw_noise(tmp_path: Path) -> None:
    path = write_tiny("latent-consistency", tmp_path / "checkpoint")
    folder = write_paper_bundle(tmp_path / "android", path, "android")
    assert {check.status for check in checks(folder, open_checkpoint(path))} == {"passed"}
    patient = Patient(folder, Anatomy(folder, open_checkpoint(path)))
    patient.change_json("scheduler.json", _less_noise)
    (check,) = checks(seal(folder), open_checkpoint(path), "scheduler.json")
    assert check.status == "failed"
    assert "lcm" in check.findings[0]


def _less_noise(document: dict[str, object]) -> None:
    text = json.dumps(document)
    document.update(json.loads(text.replace('"n": 0.', '"n": 0.9')))


def test_the_reference_takes_nothing_from_the_bundle(anatomy: Anatomy, tmp_path: Path) -> None:
    patient = anatomy.patient(tmp_path / "patient")
    good = reference_pipeline(anatomy.bundle, anatomy.checkpoint)
    for fault in FAULTS:
        if fault.kind.startswith(("manifest", "tokenizer: two words")) and "context_length" not in fault.kind:
            fault.apply(patient)
    assert reference_pipeline(patient.sealed(), anatomy.checkpoint) == good
    assert good == PipelineSpec.from_checkpoint(anatomy.checkpoint)
    assert good.tokenizer_dir == anatomy.checkpoint.tokenizer_dir


def test_a_resolution_that_no_export_has(anatomy: Anatomy, tmp_path: Path) -> None:
    patient = anatomy.patient(tmp_path / "patient")
    patient.change_json("manifest.json", lambda manifest: manifest["geometry"].update(image_height=63))
    with pytest.raises(BundleError, match="guidance and resolution"):
        reference_pipeline(patient.sealed(), anatomy.checkpoint)


def test_values_are_compared_by_kind() -> None:
    assert alike(1.0, 1)
    assert alike(0.1 + 0.2, 0.3)
    assert not alike(327741616, 327741615)
    assert not alike(True, 1)
    assert not alike("1", 1)
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == ["a.b is [1, 2]; the checkpoint says [1, 3]"]
    assert differences({}, {"a": None}) == ["a is missing; the checkpoint says null"]
