"""One call for every kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import meant
from sdmobile.device_profiles.runtime_rules.tflite_operators import GPU_RUNTIMES
from sdmobile.errors import EXIT_USAGE, SdmobileError, UnsupportedError
from sdmobile.formats.errors import FormatError
from sdmobile.lint.engine import Engine
from sdmobile.lint.limits import Limits, limits_of
from sdmobile.lint.report import Finding, LintReport

if TYPE_CHECKING:
    from sdmobile.device_profiles import DeviceProfile
    from sdmobile.formats.bundle.reading import BundleComponent

RUNTIMES = (*GPU_RUNTIMES, "core-ml")
DEPLOYMENT_TARGET = "deployment-target"
_DEFAULTS = {".tflite": "ml-drift", ".mlpackage": "core-ml"}
_TARGETS = {".tflite": "android", ".mlpackage": "ios"}
_LINTED = {
    **{name: name for name in GPU_RUNTIMES},
    "coreml-ne": "core-ml",
    "coreml-gpu": "core-ml",
    "ml-drift-webgpu": "ml-drift",
}
"""The runtimes of device profiles that have a lint, with its name."""
_SUFFIXES = {"ml-drift": ".tflite", "tflite-gpu": ".tflite", "core-ml": ".mlpackage"}


class RuntimeNameError(SdmobileError):
    """The runtime is unknown or does not go with the file."""

    exit_code = EXIT_USAGE


def lint_file(
    path: Path, runtime: str | None = None, limits: Limits | None = None, engine: Engine | None = None
) -> LintReport:
    """Predicts what a runtime says to one file.

    Args:
        path: a `.tflite` file or an `.mlpackage` folder.
        runtime: "ml-drift", "tflite-gpu" or "core-ml"; None for "ml-drift" or "core-ml" by the suffix.
        limits: what the device can hold; None checks no sizes.
        engine: the build of LiteRT and the GPU's maker; None for the tested build on the device's GPU.

    Returns:
        Findings and verdict.

    Raises:
        FormatError: the file is missing, truncated or of another format.
        RuntimeNameError: the runtime is unknown or does not go with the file.
    """
    chosen = runtime or _DEFAULTS.get(path.suffix.lower())
    if chosen is None:
        raise FormatError("a file to lint must be a .tflite file or an .mlpackage", path)
    if chosen not in RUNTIMES:
        rest = f"Choose one of {', '.join(RUNTIMES)}"
        raise RuntimeNameError("the runtime must be known", chosen, meant(chosen, RUNTIMES, rest))
    if path.suffix.lower() != _SUFFIXES[chosen]:
        raise RuntimeNameError(f"{chosen} takes {_SUFFIXES[chosen]} files", path.name, "Choose another --runtime")
    if chosen == "core-ml":
        from sdmobile.lint.coreml import lint_package

        return lint_package(path, limits or Limits())
    from sdmobile.lint.tflite.delegate import lint_tflite

    held = limits or Limits()
    known = engine or Engine()
    known = replace(known, maker=known.maker or held.maker)
    return lint_tflite(path, chosen, held, known)  # pyright: ignore[reportArgumentType]


def lint_bundle(
    folder: Path, runtime: str | None = None, device: str | None = None, engine: Engine | None = None
) -> list[LintReport]:
    """Predicts what the runtime of a bundle's device says to each of its files.

    Args:
        folder: the bundle.
        runtime: another runtime than the device's.
        device: a device profile for the sizes; None for that of the bundle.
        engine: as `lint_file`.

    Returns:
        One report per file, in the order of the pipeline; a component in chunks has several.

    Raises:
        BundleError: the folder is no whole bundle.
        UnsupportedError: the bundle's target, or the runtime of its device, has no lint.
    """
    from sdmobile.formats.bundle.reading import open_bundle

    bundle = open_bundle(folder)
    if bundle.target not in ("ios", "android"):
        raise UnsupportedError("a lint exists for the targets ios and android", bundle.target)
    chosen = device or bundle.device
    runtime, limits = runtime or device_runtime(bundle.target, chosen), device_limits(bundle.target, chosen)
    parts = [part for component in bundle.components.values() for part in component.chain or (component,)]
    return [lint_component(part, runtime, limits, engine) for part in parts]


def lint_component(
    component: BundleComponent, runtime: str | None, limits: Limits, engine: Engine | None = None
) -> LintReport:
    """Predicts what a runtime says to a component's file, or to one part of its chain; otherwise as `lint_file`.

    A recipe that needs a newer iOS than the device profile serves has raised the deployment target of the file, and its
    user was told so: the report warns of it and does not refuse the file.
    """
    profile, recipe = limits.deployment_target, component.record.get("compression") or {}
    raised = _deployment_target(recipe)
    if profile is None or raised is None or raised <= profile:
        return lint_file(component.path, runtime, limits, engine)
    report = lint_file(component.path, runtime, replace(limits, deployment_target=raised), engine)
    warning = Finding(
        "warning",
        DEPLOYMENT_TARGET,
        f"the recipe {recipe['recipe']} raised the deployment target to iOS {raised}; the device profile serves from "
        f"iOS {profile}",
        f"Compress with --deployment-target iOS{profile}, if phones with iOS {profile} must load it",
        "the bundle's manifest",
    )
    return replace(report, findings=(warning, *report.findings))


def _deployment_target(recipe: Mapping[str, Any]) -> int | None:
    """Returns the iOS version that a component's record of compression says it needs; None if it says nothing."""
    target = (recipe.get("details") or {}).get("deployment_target")
    return None if target is None else int(target.removeprefix("iOS"))


def device_limits(target: str, device: str | None) -> Limits:
    """Returns the limits of a device, by default those of the target's default device.

    Raises:
        UnsupportedError: no such device.
        RuntimeNameError: the device runs files of another target.
    """
    return limits_of(_profile(target, device))


def device_runtime(target: str, device: str | None) -> str:
    """Returns the runtime that a device's files are linted for: the one that its profile names first.

    Raises:
        UnsupportedError: no such device, or its runtime has no lint, as that of CPUs.
        RuntimeNameError: the device runs files of another target.
    """
    profile = _profile(target, device)
    runtime = linted_runtime(profile)
    if runtime is None:
        raise UnsupportedError(
            f"a lint exists for the runtimes {', '.join(RUNTIMES)}",
            f"{profile.name}, whose runtime is {profile.runtime}",
            "Give --runtime to lint the files for another one",
        )
    return runtime


def linted_runtime(profile: DeviceProfile) -> str | None:
    """Returns the lint's name of a device's runtime: None if it has no lint, the target's if the profile names none."""
    if profile.runtime is None:
        return next(runtime for runtime, suffix in _SUFFIXES.items() if _TARGETS[suffix] == profile.target)
    return _LINTED.get(profile.runtime)


def _profile(target: str, device: str | None) -> DeviceProfile:
    from sdmobile.device_profiles import default_profile, load_profile

    profile = load_profile(device) if device else default_profile(target)
    if profile.target != target:
        raise RuntimeNameError(f"{device} must run files for {target}", profile.target, "Choose another --device")
    return profile


def target_of(path: Path) -> str:
    """Returns the target that a file is for, by its suffix.

    Raises:
        FormatError: the suffix is none of a file that can be linted.
    """
    target = _TARGETS.get(path.suffix.lower())
    if target is None:
        raise FormatError("a file to lint must be a .tflite file or an .mlpackage", path)
    return target
