"""The model card of a bundle: what it is, how to use it on the phone, what was checked and what was not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.basics import words
from sdmobile.families import apple, excerpts, family_of
from sdmobile.families.calls import calls_of, files_of
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from sdmobile.families.family import Family

_ENDS_CODE = re.compile(r"[`\x00-\x1f]")
_MARKUP = re.compile(r"[`<>\x00-\x1f]")
_TARGETS = {"ios": "iPhone (Core ML)", "android": "Android (LiteRT)", "onnx": "ONNX Runtime"}
_TAGS = {"ios": "coreml", "android": "litert", "onnx": "onnx"}

_USE = {
    "ios": """\
1. On a Mac, run `compile.sh` in this folder: it turns each `.mlpackage` into the `.mlmodelc` that an app loads
   (`xcrun coremlcompiler` is part of Xcode; there is no such tool for Linux).
2. Load each with Core ML and call it by its inputs' names:

{signatures}
3. `scheduler.json` holds the tables of the sampling loop, `metadata.json` the shapes and names. The initial noise is
   defined by `noise_golden.json`; an implementation is right when it gives those numbers.
4. {guidance}; the latent is divided by {decoding}
   before decoding.

### In Swift

{code}""",
    "android": """\
1. Put the `.tflite` files and `tokenizer/` into the app's files (they are too large for its assets).
2. Load each with LiteRT's `CompiledModel` or `Interpreter` and call it by its signature:

{signatures}
3. `scheduler.json` holds the tables of the sampling loop, `metadata.json` the shapes and names. The initial noise is
   defined by `noise_golden.json`; an implementation is right when it gives those numbers.
4. {guidance}; the latent is divided by {decoding}
   before decoding.

### In Kotlin

{code}""",
    "onnx": """\
Load each file with ONNX Runtime; inputs and outputs are named as below.

{signatures}
{code}""",
}
_PRECISION = "gpu precision"  # the checker of `sdmobile validate --precision`
_CODE = {"ios": excerpts.swift, "android": excerpts.kotlin, "onnx": excerpts.python}


def model_card(manifest: Mapping[str, Any], validation: Mapping[str, Any] | None = None) -> str:
    """Writes the README.md of a bundle.

    Args:
        manifest: the bundle's manifest.json.
        validation: `ValidationReport.to_json()`, or None if the bundle was not validated.

    Returns:
        Markdown with the front matter that model hubs read.
    """
    manifest = {**manifest, "source": _plain(manifest["source"])}
    target, source = manifest["target"], manifest["source"]
    parts = [
        _front_matter(target, source, family_of(manifest)),
        f"# {source['name']} for {_TARGETS[target]}",
        _summary(manifest) + _controlled(manifest),
        "## Use\n\n" + _use(manifest) + _words(manifest),
        "## Files\n\n" + _files(manifest) + _scaled(manifest),
        "## Evidence\n\n" + _evidence(validation),
        "## Limits\n\n" + _limits(manifest),
        "## Licence\n\n" + _licence(source),
    ]
    return "\n\n".join(parts) + "\n"


def _plain(source: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a stranger's checkpoint says of itself, without what a page would read as markup.

    Backquotes end code, and names and licences stand outside of it; a learned word such as `<toy>` stands in code.
    """

    def cleaned(value: Any, marks: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return marks.sub("_", value)
        if isinstance(value, Mapping):
            return {key: cleaned(one, marks) for key, one in value.items()}
        return [cleaned(one, marks) for one in value] if isinstance(value, list) else value

    return {key: cleaned(value, _MARKUP if key in ("name", "license") else _ENDS_CODE) for key, value in source.items()}


def _front_matter(target: str, source: Mapping[str, Any], family: Family) -> str:
    lines = ["---", f"pipeline_tag: {family.task}", f"license: {source.get('license') or 'unknown'}"]
    lines += [f"base_model: {source['repository']}"] if source.get("repository") else []
    return "\n".join([*lines, "tags:", f"- {_TAGS[target]}", f"- {family.tag}", "- sdmobile", "---"])


def _summary(manifest: Mapping[str, Any]) -> str:
    source, g = manifest["source"], manifest["geometry"]
    calls = family_of(manifest).guidance(manifest["guidance"]).sentence
    device = f" for {manifest['device']}" if manifest.get("device") else ""
    name = f"{source['repository']}` at commit `{source['commit']}" if source.get("repository") else source["name"]
    return (
        f"Exported{device} by sdmobile {manifest.get('sdmobile_version', '')} from `{name}`{_changes(source)}, whose "
        f"content hash is `{source['content_hash']}`. Pictures of {g['image_width']} × {g['image_height']} pixels; "
        f"{calls}. "
        "Every stage of the export is recorded in `manifest.json`."
    )


def _changes(source: Mapping[str, Any]) -> str:
    """Returns what was put on top of the checkpoint, as part of a sentence."""
    parts = [f"the LoRA `{lora['name']}` at scale {lora['scale']:g}" for lora in source.get("loras", ())]
    parts += [f"the word `{word['tokens'][0]}` of `{word['name']}`" for word in source.get("embeddings", ())]
    if (vae := source.get("vae")) is not None:
        parts.append(f"the autoencoder `{vae['name']}` ({vae['class_name']})")
    if (skipped := (source.get("given") or {}).get("clip_skip")) is not None:
        parts.append(f"{skipped} layer{'s' if skipped > 1 else ''} of the text encoder left out")
    return "".join(f", with {part}" for part in parts)


def _words(manifest: Mapping[str, Any]) -> str:
    """Returns what an app does with learned words, nothing where there are none."""
    learned = manifest["source"].get("embeddings") or ()
    if not learned:
        return ""
    rows = ["| word | stands for | of |", "|---|---|---|"]
    for word in learned:
        tokens = " ".join(f"`{token}`" for token in word["tokens"])
        rows.append(f"| `{word['tokens'][0]}` | {tokens} | `{word['name']}` |")
    text = (
        "Learned words are tokens of `vocab.json` and `added_tokens.json`. Look for them in the lower-case text before "
        "anything is split, the longest first, and put all the tokens of a word in its place:"
    )
    lines = [text, "\n".join(rows)]
    if manifest["target"] in family_of(manifest).app_use:
        lines.append(
            "Apple's Swift package does not look for them: its `BPETokenizer` splits such a word into pieces that mean "
            "something else. Give `TextEncoder` a tokenizer that does, or identifiers of your own."
        )
    return "\n\n" + "\n\n".join(lines)


def _controlled(manifest: Mapping[str, Any]) -> str:
    """Returns what a card says of control networks, nothing where there are none."""
    family = family_of(manifest)
    networks = [part for part in family.components if part.role in (Role.CONTROL, Role.PLUGIN)]
    told = []
    for part, control in zip(networks, family.controls, strict=True):
        file = manifest["components"].get(part.name, {}).get("file")
        where = f"`{file}`" if file else "a file that was not exported"
        scaled = "" if control.scale == 1 else f", whose outputs are multiplied by {control.scale:g}"
        told.append(f"`{control.name}` in {where}{scaled}")
    if not told:
        return ""
    if len(told) == 1:
        return f" A picture controls what is drawn, by the control network {told[0]}."
    who = "Apple's package" if manifest["target"] in family.app_use else "The app"
    return (
        f" {len(told)} pictures control what is drawn, each by a control network of its own: {'; '.join(told)}. {who} "
        "adds up their outputs of one name; the sums are the UNet's inputs of the same names."
    )


def _use(manifest: Mapping[str, Any]) -> str:
    # Not str.format: Swift and Markdown have braces of their own.
    family = family_of(manifest)
    text = family.app_use.get(manifest["target"]) or _USE[manifest["target"]]
    for name, value in {
        "{guidance}": family.guidance_rule,
        "{decoding}": _decoding(manifest["pipeline"]),
        "{scaling_factor}": str(manifest["pipeline"]["scaling_factor"]),
        "{shift_factor}": str(manifest["pipeline"].get("shift_factor", 0.0)),
        "{timestep_shift}": str((manifest["pipeline"].get("scheduler") or {}).get("shift", 1.0)),
        "{guidance_scale}": f"{_stated(manifest, 'guidance_scale', family.default_guidance_scale):g}",
        "{steps}": f"{_stated(manifest, 'steps', family.default_steps):g}",
        "{prompt}": "a large red circle in the center on a white background",
        "{sampler}": apple.sampler(manifest["pipeline"].get("scheduler") or {}),
        "{resources}": _resources(manifest),
        "{side}": str(manifest["geometry"]["image_height"]),
        "{size}": "{image_width} × {image_height}".format(**manifest["geometry"]),
        "{signatures}": _signatures(manifest),
        "{code}": _CODE[manifest["target"]](calls_of(manifest, family)),
    }.items():
        text = text.replace(name, value)
    return text


def _decoding(pipeline: Mapping[str, Any]) -> str:
    """Returns what the last latent is divided by, and what is added to it."""
    shift = pipeline.get("shift_factor", 0.0)
    return f"{pipeline['scaling_factor']}" + (f", and {shift} is added to it," if shift else "")


def _stated(manifest: Mapping[str, Any], key: str, default: float) -> float:
    """Returns what the pipeline says, which may be 0."""
    value = manifest["pipeline"].get(key)
    return default if value is None else value


def _resources(manifest: Mapping[str, Any]) -> str:
    """Returns the compiled models that an iPhone's app loads, as a list."""
    files = [contract["file_name"] for record in manifest["components"].values() for contract in files_of(record)]
    return ", ".join(f"`{name.replace('.mlpackage', '.mlmodelc')}`" for name in files)


def _signatures(manifest: Mapping[str, Any]) -> str:
    rows = ["   | file | signature | inputs | output |", "   |---|---|---|---|"]
    for contract in (each for record in manifest["components"].values() for each in files_of(record)):
        inputs = ", ".join(_tensor(spec) for spec in contract["inputs"])
        outputs = ", ".join(_tensor(spec) for spec in contract["outputs"])
        rows.append(f"   | `{contract['file_name']}` | `{contract['signature']}` | {inputs} | {outputs} |")
    return "\n".join(rows) + "\n"


def _tensor(spec: Mapping[str, Any]) -> str:
    return f"`{spec['name']}` {spec['dtype']} [{', '.join(map(str, spec['shape']))}]"


def _files(manifest: Mapping[str, Any]) -> str:
    rows = ["| component | file | parameters | weights | size |", "|---|---|---|---|---|"]
    for name, record in manifest["components"].items():
        parameters, size = words.count(record.get("parameters")), words.size(record.get("bytes"))
        weights = _weights(record.get("compression"))
        files = ", ".join(f"`{contract['file_name']}`" for contract in files_of(record))
        rows.append(f"| {words.title(name)} | {files} | {parameters} | {weights} | {size} |")
    return "\n".join(rows)


def _scaled(manifest: Mapping[str, Any]) -> str:
    """Returns which components were kept within float16's range, nothing where none was."""
    lines = [(name, words.scaled_streams(record)) for name, record in manifest["components"].items()]
    return "".join(f"\n\n{words.title(name)}: {line}." for name, line in lines if line is not None)


def _weights(compression: Mapping[str, Any] | None) -> str:
    """Returns how the weights of a file are stored, and the oldest system that loads it if that is not the device's."""
    if compression is None:
        return "not compressed"
    raised = compression.get("details", {})
    since = f", from {raised['deployment_target']} on" if "raised_from" in raised else ""
    return f"{compression['recipe']}, {compression['bits_per_weight']:.2f} bits each{since}"


def _evidence(validation: Mapping[str, Any] | None) -> str:
    if validation is None:
        return "This bundle was not validated. `sdmobile validate` on this folder does it."
    limit = validation["thresholds"]
    text = [
        "Compared with float32 PyTorch on inputs recorded from a sampling run; needed were at least "
        f"{limit['component_db']:g} dB PSNR per component and {limit['image_db']:g} dB for final images. **"
        + ("All checks that were run passed." if validation["passed"] else "Not all checks passed.")
        + "**",
        "| what | run by | PSNR | result |\n|---|---|---|---|\n" + "\n".join(_evidence_rows(validation)),
    ]
    if advice := [check for check in validation["extras"] if check["checker"] == _PRECISION and check["findings"]]:
        text.append(
            "**The GPU's precision** (`GpuOptions.precision`), simulated in float16, run on no phone:\n\n"
            + "\n".join(f"- {words.title(check['component'])}: {check['findings'][0]}" for check in advice)
        )
    if not validation["complete"]:
        text.append("Some checks were left out; they are marked `not run` and count for nothing.")
    return "\n\n".join(text)


def _evidence_rows(validation: Mapping[str, Any]) -> list[str]:
    rows = []
    for check in validation["components"]:
        level = words.decibels(check["worst"]["psnr_db"]) if check["worst"] else words.UNKNOWN
        rows.append(f"| {words.title(check['component'])} | {check['runtime']} | {level} | {check['status']} |")
    for check in validation["trajectories"]:
        level = words.decibels(check["image_psnr_db"])
        rows.append(f"| image, seed {check['seed']} | {check['runtime']} | {level} | {check['status']} |")
    return rows


def _limits(manifest: Mapping[str, Any]) -> str:
    how = {
        "ios": "The Core ML packages were run by sdmobile's own evaluator unless the table names `coreml`. It tells "
        "that a file encodes the right arithmetic, not what the Neural Engine makes of it.",
        "android": "The files were run by LiteRT on a CPU.",
        "onnx": "The files were run by ONNX Runtime on a CPU.",
    }[manifest["target"]]
    return f"**Nothing was run on a phone**: neither speed nor memory on a device was measured. {how}"


def _licence(source: Mapping[str, Any]) -> str:
    licence = source.get("license")
    if licence is None:
        return (
            "The source checkpoint does not state its licence. It governs these files too: find out before you "
            "distribute them."
        )
    return f"The weights keep the licence of the source checkpoint: **{licence}**."
