"""Sampling loops that are known without Diffusers: those of usual configurations ship, others are kept when made.

    data/scheduler_tables.json.xz     made by `make scheduler-tables`; void when other code made it
    cache/schedulers/<key>.json       written whenever Diffusers was asked

A key is of what the loop depends on: settings that no scheduler knows, or that every scheduler has by default, and
those that `scheduler_from_config` overrides, make no other one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sdmobile.basics.files import cache_folder, hash_json, hash_tree, whole_file
from sdmobile.errors import CheckpointError, MissingDependencyError, SdmobileError
from sdmobile.families import flow_matching, noisy_tables, sampler_tables, schedulers, trigflow
from sdmobile.families.few_steps import DISTILLED
from sdmobile.families.flow_matching import TOKENS, check_flow, even_flow_loop, flow_loop
from sdmobile.families.sampler_tables import Loop, Solver, consistency_loop, standard_loop
from sdmobile.families.schedulers import check_schedule
from sdmobile.families.trigflow import check_trigflow, trigflow_loop

STANDARD, CONSISTENCY, FLOW, EVEN_FLOW, TRIGFLOW = "standard", "consistency", "flow", "even flow", "trigflow"
"""Kinds of loops: of any scheduler of diffusion, latent consistency, flow matching (two ways to σ), TrigFlow."""
MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Loop]] = {
    STANDARD: standard_loop,
    CONSISTENCY: consistency_loop,
    FLOW: flow_loop,
    EVEN_FLOW: even_flow_loop,
    TRIGFLOW: trigflow_loop,
}
_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    FLOW: check_flow,
    EVEN_FLOW: check_flow,
    TRIGFLOW: check_trigflow,
}
_OWN = ("_class_name", DISTILLED, TOKENS)
SHIPPED = Path(__file__).resolve().parents[1] / "data" / "scheduler_tables.json.xz"


def loop_of(config: Mapping[str, Any], kind: str = STANDARD) -> Loop:
    """Returns the sampling loop of a scheduler configuration, from Diffusers where it is not known already.

    Args:
        config: the checkpoint's Diffusers scheduler configuration.
        kind: one of the kinds.

    Raises:
        CheckpointError: a configuration that no scheduler takes.
        UnsupportedError: a schedule for which not even a standard solver can be written as tables.
        MissingDependencyError: it is not known, and Diffusers is not installed.
    """
    check_loop(config, kind)
    if (known := known_loop(config, kind)) is not None:
        return known
    loop = _made(config, kind)
    _keep(loop, _key(config, kind))
    return loop


def check_loop(config: Mapping[str, Any], kind: str) -> None:
    """Raises CheckpointError or UnsupportedError unless a scheduler's configuration can be one of a kind of loops."""
    _CHECKS.get(kind, check_schedule)(config)


def _made(config: Mapping[str, Any], kind: str) -> Loop:
    try:
        return MAKERS[kind](config)
    except ModuleNotFoundError as error:
        raise unknown(config) from error


def unknown(config: Mapping[str, Any]) -> MissingDependencyError:
    """Returns the error of a configuration that Diffusers alone knows, where that is not installed."""
    return MissingDependencyError(
        "how an unusual scheduler samples is read off Diffusers, which is not installed",
        config.get("_class_name"),
        "Run: pip install 'sdmobile[torch]'",
    )


def known_loop(config: Mapping[str, Any], kind: str = STANDARD) -> Loop | None:
    """Returns the loop of a configuration as it ships or was kept before, None where it does and was not."""
    key = _key(config, kind)
    return shipped()[key] if key in shipped() else _kept(key)


def _key(config: Mapping[str, Any], kind: str) -> str:
    try:
        return hash_json([kind, essence(config, _defaults())])
    except (TypeError, RecursionError) as error:
        raise CheckpointError("the scheduler configuration must be plain JSON", error) from error


def essence(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a configuration the loop depends on.

    Args:
        config: of a scheduler.
        defaults: by name of the class, the settings that it knows; of "*", the values that are every class's default.
    """
    if config.get("_class_name", schedulers.DEFAULT) not in defaults:
        return dict(config)
    known = {name for names in defaults.values() for name in names}
    common, overridden = defaults["*"], schedulers.OVERRIDDEN
    return {
        name: value
        for name, value in config.items()
        if name in _OWN or (name in known and name not in overridden and not (name in common and common[name] == value))
    }


@cache
def code() -> str:
    """Returns the SHA-256 of the code that the tables come from."""
    root = Path(__file__).parent
    modules = (flow_matching, noisy_tables, sampler_tables, schedulers, trigflow)
    names = (*(module.__name__.rpartition(".")[2] for module in modules), "few_steps", "flow_scheduler")
    return hash_tree(root, [root / f"{name}.py" for name in names])


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    """Returns the shipped file, without loops where other code made it."""
    import lzma

    document: dict[str, Any] = json.loads(lzma.decompress(SHIPPED.read_bytes()))
    return document if document["code"] == code() else {**document, "loops": {}}


def _defaults() -> Mapping[str, Any]:
    return _document()["defaults"]


@lru_cache(maxsize=1)
def shipped() -> dict[str, Loop]:
    """Returns the shipped loops by their keys."""
    return {key: loop_from_json(loop) for key, loop in _document()["loops"].items()}


def _kept_file(key: str) -> Path:
    return cache_folder("schedulers") / f"{hash_json([key, code()])}.json"


def diffusers_version() -> str | None:
    """Returns the installed version of Diffusers, None where there is none."""
    from importlib import metadata  # 25 ms of every command's start

    try:
        return metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=8)
def _kept(key: str) -> Loop | None:
    """Returns what this machine made before, unless another Diffusers is installed now."""
    try:
        document = json.loads(_kept_file(key).read_text("utf-8"))
        return loop_from_json(document["loop"]) if diffusers_version() in (None, document["diffusers"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(loop: Loop, key: str) -> None:
    """Keeps a loop; where that cannot be, it is made again."""
    try:
        with whole_file(_kept_file(key)) as file:
            file.write_text(json.dumps({"diffusers": diffusers_version(), "loop": loop_to_json(loop)}), "utf-8")
    except (OSError, SdmobileError):
        return
    _kept.cache_clear()


def loop_to_json(loop: Loop) -> dict[str, Any]:
    """Returns a loop as JSON values; tables by columns."""
    solvers = [
        {
            **vars(solver),
            "steps": {
                steps: {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}
                for steps, rows in solver.steps.items()
            },
        }
        for solver in loop.solvers
    ]
    return {**vars(loop), "solvers": solvers}


def loop_from_json(document: Mapping[str, Any]) -> Loop:
    """Returns the loop that `loop_to_json` wrote."""

    def rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        lines = zip(*columns.values(), strict=True)
        return [{n: v for n, v in zip(columns, line, strict=True) if v is not None} for line in lines]

    solvers = (
        Solver(**{**solver, "steps": {steps: rows(table) for steps, table in solver["steps"].items()}})
        for solver in document["solvers"]
    )
    return Loop(
        tuple(solvers),
        document["note"],
        document["prediction_type"],
        tuple(document["alphas_cumprod"]),
        tuple(document["lengths"]),
    )
