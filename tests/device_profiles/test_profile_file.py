"""A user's own profile: used by its path, and what is wrong with it in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.device_profiles import device_key, list_profiles, load_profile, profile_hash, profile_path
from sdmobile.device_profiles.profile_file import ProfileError, read_profile, remarks
from sdmobile.errors import UnsupportedError
from sdmobile.prediction.compare import differences, facts

_TEXT = profile_path("iphone-15-pro").read_text("utf-8")


def _broken(tmp_path: Path, old: str, new: str) -> ProfileError:
    assert old in _TEXT
    path = tmp_path / "mine.toml"
    path.write_text(_TEXT.replace(old, new, 1), "utf-8")
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    return caught.value


def test_a_file_is_a_device_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_TEXT.replace('name = "iphone-15-pro"', 'name = "mine"'), "utf-8")
    found = load_profile(str(path))
    assert found.name == "mine"
    assert found.model_copy(update={"name": "iphone-15-pro"}) == load_profile("iphone-15-pro")
    monkeypatch.chdir(tmp_path)
    assert device_key("mine.toml") == str(path)
    assert device_key("cpu") == "cpu"


def test_a_changed_file_is_another_device_for_the_cache_if_the_change_decides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_TEXT, "utf-8")
    first = profile_hash(str(path))
    assert first == profile_hash("iphone-15-pro")
    path.write_text(_TEXT + "\n# mine\n", "utf-8")
    assert first == profile_hash(str(path))
    path.write_text(_TEXT.replace('value = "iOS17"', 'value = "iOS18"'), "utf-8")
    assert first != profile_hash(str(path))


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ('reliability = "high"', 'reliability = "sure"', "forms.group_norm.reliability", "'sure'"),
        ('target = "ios"', 'target = "watch"', "target", "'ios', 'android' or 'onnx'"),
        ("[limits.file_bytes]", "[limits.file_size]", "limits.file_bytes", "needed"),
        ("[limits.file_bytes]", "[limits.file_size]", "limits.file_size", "Remove it"),
        ('source = "LiteRT gpu_info.cc"\n', "", "hardware.gpu_cores.source", "Say where the value comes from"),
        ("value = 35\n", "", "hardware.neural_engine_peak", 'reliability = "unknown"'),
        ('runtime = "coreml-gpu"', 'runtime = "cuda"', "units.gpu.runtime", "'xnnpack'"),
    ],
)
def test_each_broken_rule_is_named_with_place_value_and_fix(
    old: str, new: str, place: str, words: str, tmp_path: Path
) -> None:
    if old == 'reliability = "high"':
        old, new = 'reliability = "medium"', 'reliability = "sure"'
    error = _broken(tmp_path, old, new)
    lines = [problem.line for problem in error.problems if problem.place == place]
    assert len(lines) == 1, [problem.line for problem in error.problems]
    assert words in lines[0]
    assert error.exit_code == 4
    assert place in error.message()


@pytest.mark.parametrize("value", ["0", "-1.0", "nan", "inf"])
@pytest.mark.parametrize("entry", ["bandwidth", "reorder", "load_bandwidth", "fetch_rate.conv"])
def test_what_divides_is_a_number_above_zero(entry: str, value: str, tmp_path: Path) -> None:
    text = profile_path("galaxy-s23-ultra").read_text("utf-8")
    head, mark, rest = text.partition(f"[latency.gpu.{entry}]\nvalue = ")
    path = tmp_path / "odd.toml"
    path.write_text(f"{head}{mark}{value}{rest[rest.index(chr(10)) :]}", "utf-8")
    with pytest.raises(ProfileError, match=r"above zero|not negative|finite"):
        load_profile(str(path))


def test_an_interval_has_both_ends(tmp_path: Path) -> None:
    text = profile_path("galaxy-s23-ultra").read_text("utf-8")
    path = tmp_path / "odd.toml"
    path.write_text(text.replace("[latency.tflite-gpu.high]", "[latency.gpu.high]"), "utf-8")
    with pytest.raises(ProfileError, match="both low and high"):
        load_profile(str(path))


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    error = _broken(tmp_path, "schema_version = 1", "schema_version = = 1")
    assert "line 1" in error.message()
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(str(tmp_path / "none.toml"))


def test_a_misspelt_device_gets_the_near_name() -> None:
    with pytest.raises(UnsupportedError, match=r"Did you mean iphone-14-pro-max\?"):
        load_profile("iphone-14-pro")
    with pytest.raises(UnsupportedError, match=r"Did you mean galaxy-s23-ultra\?"):
        load_profile("galaxy-23-ultra")


@pytest.mark.parametrize("name", list_profiles())
def test_packaged_profiles_lack_only_what_nobody_published(name: str) -> None:
    profile = load_profile(name)
    found = [line for line in remarks(profile) if "app_memory" not in line]
    bare = [name for name, unit in profile.units.items() if name not in profile.latency and not unit.guesses]
    assert found == [f"units.{unit}: no table [latency.{unit}], so nothing is predicted for it" for unit in bare]


@pytest.mark.parametrize("name", ["cpu", "galaxy-s23-ultra", "iphone-14-pro-max", "iphone-15-pro"])
def test_every_unit_of_the_first_devices_is_predicted(name: str) -> None:
    profile = load_profile(name)
    assert {name for name, unit in profile.units.items() if unit.guesses is None} == profile.latency.keys()


def test_remarks_say_what_a_prediction_lacks() -> None:
    profile = load_profile("iphone-15-pro")
    bare = profile.model_copy(update={"units": {}, "latency": {}})
    assert "nothing can be predicted" in remarks(bare)[0]
    half = profile.model_copy(update={"latency": {}})
    assert len(remarks(half)) == sum(unit.guesses is None for unit in profile.units.values())
    gpu = profile.latency["gpu"]
    high = gpu.bandwidth.model_copy(update={"value": 2.0})
    odd = gpu.model_copy(update={"low": high, "high": high, "efficiency": {"conv": gpu.efficiency["conv"]}})
    found = remarks(profile.model_copy(update={"latency": {"gpu": odd}}))
    assert any("none for depthwise, matmul, attention" in line for line in found)
    assert any("factors around 1" in line for line in found)
    memory = profile.hardware["app_memory"].model_copy(update={"unit": "Gbit"})
    assert "'Gbit'" in remarks(profile.model_copy(update={"hardware": {"app_memory": memory}}))[-1]


def test_every_fact_of_the_file_is_shown() -> None:
    found = facts(load_profile("iphone-15-pro"))
    assert len(found) == _TEXT.count("reliability =")
    assert found["hardware.app_memory"].value == 3.3
    assert (
        found["latency.gpu.efficiency.conv"].value
        == load_profile("iphone-15-pro").latency["gpu"].efficiency["conv"].value
    )
    assert str(found["forms.attention.rows.1"].value).startswith("split_einsum if min_heads 2")


def test_two_devices_side_by_side() -> None:
    left, right = load_profile("iphone-14-pro-max"), load_profile("galaxy-s23-ultra")
    rows = {row.name: row for row in differences(left, right)}
    assert set(rows) == set(facts(left)) | set(facts(right))
    ram = rows["hardware.ram"]
    assert ram.left is not None
    assert ram.right is not None
    assert (ram.left.value, ram.right.value, ram.equal) == (6, 8, False)
    assert rows["hardware.gpu_cores"].right is None
    assert all(row.equal for row in differences(left, left))
    assert rows["hardware.ram"].to_json()["left"]["source"] == ram.left.source
