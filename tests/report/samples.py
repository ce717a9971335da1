"""A manifest and a validation result with everything that a report can show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmobile.basics.metrics import Metrics
from sdmobile.checkpoints.shapes64.obedience import Obedience
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.reference.overflow import OverflowScan, Peak
from sdmobile.validate.checks import PREDICTED, ComponentCheck, ExtraCheck, SampleCheck, Status, TrajectoryCheck
from sdmobile.validate.results import ValidationReport
from sdmobile.validate.thresholds import Limits, Thresholds
from tests.families import COMPONENTS, SD

GEOMETRY = Geometry(2, 4, 16, 16, 64, 64, 77, 32)
HASH = "0123456789abcdef" * 4


def manifest(target: str = "ios", licence: str | None = "Apache-2.0") -> dict[str, Any]:
    records = {}
    for name in COMPONENTS:
        contract = contract_for(SD, target, name, GEOMETRY)
        records[name] = {
            "file": contract.file_name,
            "contract": contract.to_json(),
            "parameters": 3_216_548,
            "bytes": 6_500_000,
            "stages": [
                {"name": "load", "seconds": 0.5, "peak_rss_bytes": 400 * 2**20},
                {"name": "lower", "seconds": 130.0, "peak_rss_bytes": 900 * 2**20},
            ],
            "rewrites": [],
            "warnings": [],
        }
    applied = {"rule": "group_norm", "exactness": "exact-up-to-rounding", "outcome": "applied", "reason": None}
    records["unet"]["rewrites"] = [
        *({**applied, "node": f"n{i}", "module": f"down_blocks.{i}.norm"} for i in range(6)),
        {**applied, "outcome": "refused", "node": "n9", "module": "mid", "reason": "11 channels in 4 groups"},
    ]
    records["unet"]["warnings"] = ["kept <two> layers in float32"]
    return {
        "schema_version": 1,
        "kind": "sdmobile-bundle",
        "target": target,
        "device": "iphone-15-pro",
        "created": "2026-01-02T03:04:05Z",
        "sdmobile_version": "0.1.0",
        "source": {"name": "shapes-64", "content_hash": HASH, "license": licence, "prediction_type": "epsilon"},
        "geometry": GEOMETRY.to_json(),
        "guidance": "batch2",
        "pipeline": {"scaling_factor": 0.18215, "vae_scale_factor": 4, "scheduler": {"_class_name": "DDIMScheduler"}},
        "components": records,
        "files": {"Unet.mlpackage/Manifest.json": {"sha256": HASH, "bytes": 617}},
        "versions": {"torch": "2.13.0"},
    }


def validation() -> ValidationReport:
    good = Metrics(71.25, 60.5, 1.5e-3, 0.9999999, 0)
    bad = Metrics(float("nan"), float("nan"), float("nan"), float("nan"), 3)
    rows = (SampleCheck("00ff00ff00ff00ff", "prompt 1, step 1, t=801", good, 0.1),)
    limits = Limits(60.0)
    components = (
        ComponentCheck("text_encoder", "evaluator", Status.PASSED, rows, good, limits=limits),
        ComponentCheck("unet", "evaluator", Status.FAILED, rows, bad, limits=limits),
        ComponentCheck("vae_decoder", "evaluator", Status.ERROR, (), None, "RuntimeError: <boom>"),
        ComponentCheck("vae_encoder", "evaluator", Status.NOT_RUN, (), None, "not among --components"),
    )
    prompt = "a <b>red</b> circle & a square"
    trajectories = (
        TrajectoryCheck(
            prompt,
            0,
            "evaluator",
            Status.PASSED,
            (801, 601, 401),
            (60.0, 55.5, 52.25),
            48.5,
            0,
            1.5,
            latent_rmse=(1e-3, 2e-3, 8e-3),
            image_ssim=0.9876,
            obedience=Obedience((), ()),
            limits=limits,
        ),
        TrajectoryCheck(
            prompt,
            0,
            "evaluator-fp16",
            Status.FAILED,
            (801, 601, 401),
            (50.0, float("nan"), 40.0),
            30.0,
            0,
            1.0,
            latent_rmse=(1e-2, float("nan"), 8e-2),
            image_ssim=0.5,
            obedience=Obedience((), ("1 objects, not 2",)),
            limits=limits,
        ),
        TrajectoryCheck("kein Kreis – 円", 1, "evaluator", Status.ERROR, reason="RuntimeError: no memory"),
    )
    return ValidationReport(
        target="ios",
        source={"name": "shapes-64", "content_hash": HASH, "license": "Apache-2.0"},
        thresholds=Thresholds(),
        settings={"prompts": [prompt, "kein Kreis – 円"], "seeds": [0, 1], "steps": 3, "guidance_scale": 7.5},
        components=components,
        trajectories=trajectories,
        seconds=200.0,
        versions={"torch": "2.13.0"},
        extras=(
            ExtraCheck("lint ml-drift", "unet", Status.FAILED, PREDICTED, "1 node refused", ("BROADCAST_TO in <mid>",)),
            ExtraCheck("adb", "unet", Status.PASSED, "Pixel 9", figures={"inference_ms": 12.5}),
        ),
        overflow=(
            OverflowScan("unet", 7e4, (Peak("mid.attn1", "attention scores", 7e4, "prompt 1, step 1", {}),)),
            OverflowScan("vae_decoder", 12.0, ()),
        ),
    )


def images() -> list[dict[str, NDArray[np.float32]]]:
    ramp = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(1, 3, 64, 64)
    return [{"torch": ramp, "evaluator": ramp, "evaluator-fp16": -ramp}, {"torch": ramp}]
