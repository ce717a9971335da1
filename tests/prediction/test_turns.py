"""Files that take turns in memory: what an image then takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.costs_schema import Unit
from sdmobile.device_profiles.model import DeviceProfile
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.pipeline_time import Loaded, turns
from tests.prediction.assessed import sd15

__all__ = ["sd15"]


def test_a_component_in_parts_is_loaded_again_at_every_call() -> None:
    together, apart = turns(10.0, [Loaded(1, 2, 3.0), Loaded(4, 20, 8.0), Loaded(1, 1, 1.0)])
    assert (together.first, together.further) == (22.0, 10.0)
    assert apart.first == apart.further == 10.0 + 3.0 + 20 * 8.0 + 1.0


def test_the_files_of_a_bundle_take_their_time(sd15: Bundle) -> None:
    found = assess(sd15, choose_unit("galaxy-s23-ultra"))
    together, apart = found.turns
    assert found.image is not None
    loads = sum(part.prediction.first_run.load or 0.0 for part in found.components if part.calls)
    assert together.further == found.image.seconds
    assert together.first == pytest.approx(found.image.seconds + loads)
    assert apart.further == pytest.approx(together.first)  # every component is one file
    assert [one["loading"] for one in found.to_json()["with_loading"]] == ["all at once", "one at a time"]


def _only_gpu(profile: DeviceProfile) -> dict[str, Unit]:
    return {"gpu": profile.units["gpu"]}


def test_an_unknown_load_is_not_guessed(sd15: Bundle) -> None:
    profile = load_profile("galaxy-s23-ultra")
    silent = profile.latency["gpu"].model_copy(update={"load_bandwidth": None})
    found = assess(
        sd15, choose_unit(profile.model_copy(update={"latency": {"gpu": silent}, "units": _only_gpu(profile)}))
    )
    assert found.turns == ()
    assert replace(found, image=None).turns == ()
