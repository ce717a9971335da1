"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

# Side by side, as many processes as cores: more threads only wait for each other. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Never the net, and never the user's token: a name that is taken for one of the Hub's is asked for where nobody
# listens. Its client reads these when it is imported; the server of the tests speaks plain HTTP.
os.environ.update(HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN_PATH=os.devnull, HF_HUB_DISABLE_XET="1")

# Under nohup, children ignore what the tests of stopping send them.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores Ctrl-C, and so do its children
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.validate.fixtures import onnx_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.torch_runner import TorchRunner
    from tests.hub_server import Hub

__all__ = ["onnx_bundle"]


@pytest.fixture(scope="session", autouse=True)
def _structures_of_the_package_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the user's structures, and no export makes one: that takes as long again."""
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.exporters.structures import find

    folder = tmp_path_factory.mktemp("structures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "kept_folder", lambda: folder)
        patch.setattr(ExportPlan, "place_of", lambda plan, component: None)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Diffusers folder of the Stable Diffusion shape with seeded random weights; read it, do not change it."""
    from tests.synthetic import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", preset="tiny", seed=0)


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    from sdmobile.checkpoints import open_checkpoint

    return open_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def spec(checkpoint: Checkpoint) -> PipelineSpec:
    from sdmobile.reference.pipeline import PipelineSpec

    return PipelineSpec.from_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def torch_runner(checkpoint: Checkpoint, spec: PipelineSpec) -> TorchRunner:
    from sdmobile.reference.torch_runner import TorchRunner

    return TorchRunner(checkpoint, spec.geometry)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server of the Hub's protocol on this machine, which everything asks, and an empty cache."""
    from tests.hub_server import running_hub

    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
