from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grimp
import numpy as np
import pytest

from sdmobile.basics.fingerprint import deciding_files
from sdmobile.checkpoints import open_checkpoint
from sdmobile.quantize.sensitivity_analysis import AnalysisPlan, analyse
from sdmobile.quantize.sensitivity_study import (
    ANALYSIS_PROMPTS,
    JUDGING_PROMPTS,
    LEFT_OUT,
    SELECTION_PROMPTS,
    judging_requests,
    requests_for,
    weights_key,
)
from sdmobile.quantize.sensitivity_work import computed


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    seen: list[int] = []

    def piece(index: int) -> np.ndarray:
        seen.append(index)
        if index == 3:
            raise KeyboardInterrupt
        return np.array([index, index**2], np.float64)

    with pytest.raises(KeyboardInterrupt):
        computed("squares", range(5), piece, tmp_path)
    whole = computed("squares", range(5), lambda i: np.array([i, i**2], np.float64), tmp_path)
    assert seen == [0, 1, 2, 3]
    np.testing.assert_array_equal(whole, [[i, i**2] for i in range(5)])
    # All are kept now, and a damaged one is computed again.
    (tmp_path / "squares-000002.npy").write_bytes(b"cut off")
    again = computed("squares", [2, 4], lambda i: np.array([-i, 0.0]), tmp_path)
    np.testing.assert_array_equal(again, [[-2, 0], [4, 16]])


def test_the_sets_of_prompts_do_not_meet(tiny_checkpoint: Path) -> None:
    sets = [set(ANALYSIS_PROMPTS), set(SELECTION_PROMPTS), set(JUDGING_PROMPTS)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    held_out = {request.prompt for request in judging_requests(open_checkpoint(None), 64, 20)}
    assert not held_out & set.union(*sets)


def test_an_analysis_does_not_depend_on_what_was_kept_of_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_checkpoint)
    schemes = ("palette2", "int8c")

    def run(folder: str, probes: int, direct: int) -> dict[str, np.ndarray]:
        requests = requests_for(opened, ["a circle"], 2)
        plan = AnalysisPlan("unet", requests, schemes, max_samples=1, probes=probes, direct=direct)
        return dict(analyse(opened, plan, tmp_path / folder, tmp_path / "recordings").errors)

    first = run("a", 1, 2)
    kept = run("a", 1, 3)
    fresh = run("b", 1, 3)
    np.testing.assert_array_equal(kept["probes"], first["probes"])
    for method in ("probes", "direct"):
        np.testing.assert_array_equal(kept[method], fresh[method])
    assert int(np.isfinite(fresh["direct"]).any(axis=1).sum()) == 3


def test_what_is_kept_is_of_all_code_that_takes_part() -> None:
    """Every module that an analysis imports, at the top or in a function, is in the hash of what is kept."""
    imported = grimp.build_graph("sdmobile", cache_dir=None).find_upstream_modules(
        "sdmobile.quantize.sensitivity_analysis"
    )
    covered = {name.removesuffix(".py").removesuffix("/__init__") for name in deciding_files(LEFT_OUT)}
    names = {name.removeprefix("sdmobile.").replace(".", "/") for name in imported if name != "sdmobile"}
    assert {"families/schedulers", "quantize/schemes", "reference/sampling"} <= names
    assert names <= covered


def test_another_library_or_code_has_other_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {weights_key("source", "unet")}
    for name in ("code_hash", "library_closure"):
        monkeypatch.setattr(f"sdmobile.quantize.sensitivity_study.{name}", lambda _, name=name: f"another {name}")
        keys.add(weights_key("source", "unet"))
    assert len(keys) == 3


@pytest.mark.slow
def test_two_processes_find_the_same_bits_as_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = ["quantize", "analyze", str(tiny_checkpoint), "--schemes", "palette2,int8c", "--steps", "2"]
    command += ["--max-samples", "2", "--probes", "2", "--direct", "3", "--through", "call", "-o"]
    # Sums depend on the number of threads; it is the same in both.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SDMOBILE_CACHE": str(tmp_path / "one")}
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    subprocess.run([sys.executable, "-m", "sdmobile.cli.app", *command, str(one)], env=environment, check=True)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29653"]
    environment |= {"SDMOBILE_CACHE": str(tmp_path / "two"), "ACCELERATE_USE_CPU": "true"}
    called = [sys.executable, "-m", *launch, "-m", "sdmobile.cli.app", *command, str(two)]
    subprocess.run(called, env=environment, check=True)
    assert json.loads(one.read_text()) == json.loads(two.read_text())
    # Neither process computed all: each piece was written once, by one of them.
    assert len(list((tmp_path / "two" / "quantize" / "work").rglob("probes-*.npy"))) == 8
