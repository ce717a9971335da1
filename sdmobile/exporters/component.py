"""Exports one component of a checkpoint for one target.

    open ─▶ capture ─▶ rewrite ─▶ for each file: load and scan ─▶ lower ─▶ (android) float16 weights ─▶ file and record

Capture and rewrite see the shapes of the weights alone; the weights of a file are read when it is made, and let go.
Nothing is half-written: the file grows in a hidden folder beside its place and is moved when it is complete.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_of, size_of
from sdmobile.basics.metrics import json_number
from sdmobile.errors import SdmobileError, UnsupportedError
from sdmobile.exporters.chunk_contracts import part_contracts
from sdmobile.exporters.component_errors import explained, room_for
from sdmobile.exporters.component_weights import ComponentWeights, release
from sdmobile.exporters.gpu_warnings import gpu_warnings
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.lowering import LoweringOptions, LoweringRecord, provenance_of
from sdmobile.exporters.stages import StageLog
from sdmobile.exporters.structures.graph_hash import graph_hash
from sdmobile.exporters.structures.keys import facts_of
from sdmobile.exporters.structures.probe import PROBE_SEED
from sdmobile.exporters.structures.structure import write_structure
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Contract
from sdmobile.reference.geometry import geometry_for
from sdmobile.rewrites.options import FLOAT16_SCALES

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.exporters.float16_range import Values

Announce = Callable[[str, str, float, int], None]


@dataclass
class _Run:
    """One job under way: what it works on, and what its stages have found."""

    job: ExportJob
    profile: DeviceProfile
    checkpoint: Checkpoint
    contract: Contract
    options: LoweringOptions
    log: StageLog
    chain: tuple[Contract, ...] = ()
    parameters: int = 0
    rewrites: list[dict[str, Any]] = field(default_factory=list)
    recorded: list[tuple[torch.Tensor, ...]] | None = None
    rewrite_checks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    form_warnings: list[str] = field(default_factory=list)  # those of them that do not depend on weights
    lowered: list[dict[str, Any]] = field(default_factory=list)
    graph: str = ""  # hash of the rewritten graph
    scales: dict[str, Any] = field(default_factory=dict)


def export_component(job: ExportJob, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Exports the job's component and returns its record as a JSON object.

    The file appears under its name in `job.out_dir` only when it is complete; an older one is replaced.

    Args:
        job: what to export.
        progress: is told each stage as one line.

    Raises:
        SdmobileError: bad input, an unsupported request, or a stage that failed (ComponentError naming it).
    """

    def announce(stage: str, event: str, seconds: float, peak: int) -> None:
        if event == "start":
            progress(f"{job.component}: {stage}")
        else:
            progress(f"{job.component}: {stage} took {seconds:.1f} s, peak {peak / 2**30:.2f} GiB")

    return run_stages(job, announce)


def run_stages(job: ExportJob, announce: Announce) -> dict[str, Any]:
    """Does the work of `export_component`; `announce` gets (stage, "start" | "end", seconds, peak bytes)."""
    from sdmobile.checkpoints import open_checkpoint

    log = StageLog(announce)
    with explained(job, log):
        with log.stage("open"):
            checkpoint = open_checkpoint(
                job.checkpoint, job.tokenizer, job.prediction_type, job.changes, controls=job.controls
            )
            provenance = provenance_of(checkpoint, job.content_hash)
        geometry = geometry_for(checkpoint, job.guidance, job.resolution)
        contract = contract_for(checkpoint.family, job.target, job.component, geometry)
        device = _device(job)
        profile = device.deciding()
        summary = checkpoint.family.component(job.component).summary
        options = LoweringOptions(provenance, profile.deployment_target, summary=summary)
        run = _Run(job, profile, checkpoint, contract, options, log)
        job.out_dir.mkdir(parents=True, exist_ok=True)
        prefix = f".{contract.file_name}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=job.out_dir) as scratch, room_for(job, log):
            made, probe = Path(scratch) / "made", Path(scratch) / "probe"
            made.mkdir()
            probe.mkdir()
            _write_files(run, made, probe)
            if job.graph_only:
                return {"graph": run.graph}
            names = sorted(item.name for item in made.iterdir())
            if job.structure is not None and not run.scales:
                _keep_structure(run, names, made, probe, job.structure)
            files = [_move(made / name, job.out_dir) for name in names]
    return _record(run, files)


def _device(job: ExportJob) -> DeviceProfile:
    """Returns the profile of the device that the job names, or of the target's default device."""
    from sdmobile.device_profiles import default_profile, load_profile

    profile = default_profile(job.target) if job.device is None else load_profile(job.device)
    if profile.target != job.target:
        raise UnsupportedError(f"{profile.name} takes the target {profile.target}", job.target)
    return profile


def _write_files(run: _Run, folder: Path, probe: Path) -> None:
    """Writes the component's files, each from its weights to the file; what one took in memory is free for the next.

    Args:
        run: the job.
        folder: of the files.
        probe: gets the same files of random weights, where a structure is wanted.
    """
    from sdmobile.reference.subject import hollow_component
    from sdmobile.rewrites.folding import absent, fill

    hollow, names = hollow_component(run.checkpoint, run.job.target, run.job.component)
    model = run.checkpoint.family.component(run.job.component).model
    weights = ComponentWeights(run.checkpoint, model, names, run.job.probe)
    parts, run.chain = _parts(run, _graph(run, hollow, weights))
    values = _recorded_values(run) if run.job.float32_islands else []
    probed = run.job.structure is not None and not run.scales
    if probed or run.job.graph_only:
        run.graph = graph_hash(parts)
    if run.job.graph_only:
        return
    for number, contract in enumerate(run.chain, start=1):
        label = "" if len(run.chain) == 1 else f" {number}"
        part = parts.pop(0)
        with run.log.stage("load" + label) as details:
            # The witness keeps float32 weights.
            program = fill(part, weights.read if run.job.target == "onnx" else weights.scanned)
            details["fp16_losses"] = _losses(run, weights)
        calls = _recorded_calls(run, program, contract, values, label) if values else ()
        with run.log.stage("lower" + label) as details:
            record = _lower(run, program, contract, folder / contract.file_name, calls)
            details.update(record.to_json())
        run.lowered.append(record.to_json())
        # What the graph itself holds may be in later parts, too.
        release(program, absent(part) if parts or probed else None)
        del program
        if run.job.target == "android":
            _cast_to_float16(run, folder / contract.file_name)
            run.warnings += gpu_warnings(folder / contract.file_name, _device(run.job).runtime)
        if probed:
            with run.log.stage("probe" + label):
                program = fill(part, replace(weights, probe=PROBE_SEED).read)
                _lower(run, program, contract, probe / contract.file_name, ())
                release(program, absent(part) if parts else None)
                del program
            if run.job.target == "android":
                _cast_to_float16(run, probe / contract.file_name)


def _lower(
    run: _Run, program: ExportedProgram, contract: Contract, path: Path, calls: tuple[tuple[torch.Tensor, ...], ...]
) -> LoweringRecord:
    return lower_to_file(program, contract, path, replace(run.options, recorded_inputs=calls))


def _losses(run: _Run, weights: ComponentWeights) -> list[dict[str, Any]]:
    """Returns what float16 loses of the weights that were read last; warns of what it cannot hold."""
    from sdmobile.basics.float16 import warnings_for

    losses = weights.new_losses()
    run.warnings += warnings_for(losses)
    return [loss.to_json() for loss in losses]


def _keep_structure(run: _Run, names: list[str], made: Path, probe: Path, place: Path) -> None:
    """Learns the structure of the finished files from those of random weights, and keeps it."""
    from sdmobile.exporters.structures.making import make_structure

    with run.log.stage("structure") as details:
        model, device = run.checkpoint.family.component(run.job.component).model, _device(run.job).name
        named = run.job.device or device  # the path of a user's profile, which has no name that others know
        facts = facts_of(run.checkpoint, run.contract, named, run.job.rewrites, run.job.chunks)
        form = _form(run, names)
        try:
            structure = make_structure(
                facts, run.checkpoint, device, model, form, names, made, probe, run.job.probe, run.graph
            )
            details["bytes"] = write_structure(structure, place)
        except (SdmobileError, OSError) as error:
            if run.job.probe is not None:
                raise
            details["refused"] = str(error)  # the files themselves are as they should be


def _form(run: _Run, names: list[str]) -> dict[str, Any]:
    """Returns what the manifest keeps about the component, whatever its weights."""
    return {
        "component": run.job.component,
        "file": run.chain[0].file_name,
        "files": names,
        "contract": run.contract.to_json(),
        "chain": [contract.to_json() for contract in run.chain] if len(run.chain) > 1 else [],
        "parameters": run.parameters,
        "rewrites": run.rewrites,
        "rewrite_checks": [],
        "warnings": run.form_warnings,
        "lowered": run.lowered,
    }


def _recorded_values(run: _Run) -> Values:
    """Returns the component's inputs in a short sampling run of the whole reference."""
    from sdmobile.exporters.float16_range import values_of

    with run.log.stage("sample"):
        return values_of(run.contract, _check_inputs(run))


def _recorded_calls(
    run: _Run, program: ExportedProgram, contract: Contract, values: Values, label: str
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Returns a file's inputs in that run; warns of overflow where the file cannot avoid it."""
    from sdmobile.exporters.float16_range import calls_of, overflow_warnings, pass_on

    calls = calls_of(contract, values)
    with run.log.stage("float16 range" + label):
        if run.job.target == "android":
            run.warnings += overflow_warnings(program, calls)
        if contract is not run.chain[-1]:
            pass_on(program, contract, values)
    return calls


def _parts(run: _Run, program: ExportedProgram) -> tuple[list[ExportedProgram], tuple[Contract, ...]]:
    """Returns the programs and contracts of the component's files: one, or the chain that the user asked for."""
    if run.job.chunks == 1 or run.job.component != run.checkpoint.family.denoiser.name:
        return [program], (run.contract,)
    from sdmobile.exporters.chunks import split

    with run.log.stage("chunk") as details:
        parts = split(program, run.job.chunks)
        contracts = part_contracts(run.contract, program, parts)
        details["parts"] = [
            {
                "file": contract.file_name,
                "float32_weight_bytes": part.weight_bytes,
                "passed_on": [{"name": spec.name, "shape": list(spec.shape)} for spec in contract.outputs],
            }
            for part, contract in zip(parts, contracts, strict=True)
        ]
    return [part.program for part in parts], contracts


def _graph(run: _Run, hollow: torch.nn.Module, weights: ComponentWeights) -> ExportedProgram:
    """Returns the rewritten graph over weights that are yet to come."""
    from sdmobile.reference.capture import capture

    module = _scaled(run, hollow, weights)
    with run.log.stage("capture") as details:
        run.parameters = details["parameters"] = sum(p.numel() for p in module.parameters())
        program, details["removed"] = capture(module, run.contract)
        details["nodes"] = len(program.graph.nodes)
    with run.log.stage("rewrite") as details:
        return _rewrite(run, program, weights, details)


def _scaled(run: _Run, hollow: torch.nn.Module, weights: ComponentWeights) -> torch.nn.Module:
    """Keeps a component within float16's range by scales that norms take out again: then it comes with its weights."""
    from sdmobile.exporters.float16_range import scale_streams
    from sdmobile.reference.subject import wrapped_component

    checkpoint, component = run.checkpoint, run.job.component
    streams = checkpoint.family.component(component).streams(hollow)
    unscaled = run.job.probe is not None or FLOAT16_SCALES in run.job.rewrites.without
    if run.job.target == "onnx" or not streams.names or unscaled:
        return hollow
    geometry = geometry_for(checkpoint, run.job.guidance, run.job.resolution)
    recorded = _check_inputs(run) if run.job.float32_islands else []
    with run.log.stage("float16 scales") as details:
        load = partial(wrapped_component, checkpoint, run.job.target, component)
        found, module = scale_streams(load, streams, checkpoint, run.contract, geometry, recorded)
        details["largest"] = json_number(found.largest)
    if found.refused is not None:
        run.warnings.append(f"values beyond float16's range were not scaled: {found.refused}")
    if module is None:
        return hollow
    run.scales = {FLOAT16_SCALES: found.to_json()}
    for name, tensor in module.named_parameters():
        weights.scan(name, tensor)
    return module


def _rewrite(
    run: _Run, program: ExportedProgram, weights: ComponentWeights, details: dict[str, Any]
) -> ExportedProgram:
    """Applies the device's rules and keeps their records."""
    from sdmobile.rewrites.engine import rewrite
    from sdmobile.rewrites.folding import fill
    from sdmobile.rewrites.naming import name_by_module
    from sdmobile.rewrites.registry import rules_for
    from sdmobile.rewrites.rule import Outcome

    options = run.job.rewrites
    rules = rules_for(run.profile, options)
    rewritten = rewrite(program, rules)
    run.rewrites = [record.to_json() for record in rewritten.records]
    if options.check:
        inputs = _check_inputs(run)
        run.rewrite_checks = [check.to_json() for check in rewrite(fill(program, weights.read), rules, inputs).checks]
        gc.collect()
    choosing = {rule.name for rule in rules if rule.selective}
    refused = [r for r in rewritten.records if r.outcome == Outcome.REFUSED and r.rule not in choosing]
    lines = [f"{r.rule} refused {r.module}: {r.reason}" for r in refused]
    run.warnings += lines
    run.form_warnings += lines
    for outcome in Outcome:
        details[outcome.value] = sum(record.outcome == outcome for record in rewritten.records)
    details["nodes"] = len(rewritten.program.graph.nodes)
    return name_by_module(rewritten.program)


def _check_inputs(run: _Run) -> list[tuple[torch.Tensor, ...]]:
    """Returns inputs of the component from a short sampling run."""
    from sdmobile.reference.component_inputs import as_tensors, recorded_samples

    if run.recorded is None:
        geometry = geometry_for(run.checkpoint, run.job.guidance, run.job.resolution)
        samples = recorded_samples(run.checkpoint, run.job.component, geometry, run.job.guidance)
        run.recorded = [as_tensors(run.contract, sample) for sample in samples]
    return run.recorded


def lower_to_file(program: ExportedProgram, contract: Contract, path: Path, options: LoweringOptions) -> LoweringRecord:
    """Calls the target's lowering."""
    if contract.target == "ios":
        from sdmobile.exporters.coreml.lower import lower
    elif contract.target == "android":
        from sdmobile.exporters.litert.lower import lower
    else:
        from sdmobile.exporters.onnx.lower import lower
    return lower(program, contract, path, options)


def _cast_to_float16(run: _Run, path: Path) -> None:
    """Replaces a float32 `.tflite` by one with float16 weights."""
    from sdmobile.quantize.tflite_float16 import cast_weights

    gc.collect()  # graphs hold their weights in reference cycles
    source = path.rename(path.with_name("float32.tflite"))
    with run.log.stage("float16" if len(run.chain) == 1 else f"float16 {path.stem}") as details:
        details.update(cast_weights(source, path, run.profile.forms.of("embedding") == "float32").to_json())
    source.unlink()


def _move(path: Path, folder: Path) -> Path:
    """Moves a finished file or folder to its place, over an older one."""
    target = folder / path.name
    if target.is_dir():
        shutil.rmtree(target)
    return path.replace(target)


def _record(run: _Run, files: list[Path]) -> dict[str, Any]:
    """Returns everything that the manifest keeps about the component."""
    return {
        **{key: value for key, value in _form(run, [path.name for path in files]).items() if key != "lowered"},
        "stages": [record.to_json() for record in run.log.records],
        "rewrite_checks": run.rewrite_checks,
        "warnings": run.warnings,
        **run.scales,
        "bytes": size_of(files),
        "sha256": hash_of(files),
    }
