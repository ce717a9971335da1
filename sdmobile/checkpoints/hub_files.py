"""Which files of a repository make a checkpoint, decided from the list of their names.

What nobody reads stays where it is: other precisions, pickles, other frameworks' weights, safety checkers, pictures.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sdmobile.checkpoints.folder import MODELS
from sdmobile.checkpoints.hub import WEIGHTS, HubName
from sdmobile.checkpoints.weights import best_weights
from sdmobile.errors import CheckpointError

INDEX = "model_index.json"
_SMALL = re.compile(
    rf"README\.md|{INDEX}|scheduler/scheduler_config\.json|({'|'.join(MODELS)})/config\.json"
    r"|tokenizer(_\d)?/(vocab\.json|merges\.txt|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|spiece\.model)"
)
_ONLY = "only .safetensors files are taken from the Hub"
_SHOWN = 8


def small_files(names: Collection[str]) -> list[str]:
    """Returns the files of a Diffusers folder that say what it is: all but weights, lists of shards included."""
    listed = [entry for model in MODELS if (entry := weight_file(names, model)) and entry.endswith(".json")]
    return [*filter(_SMALL.fullmatch, sorted(names)), *listed]


def weight_file(names: Collection[str], model: str) -> str | None:
    """Returns the file of a Diffusers folder that holds a model's weights, fp16 first, or the list of its shards.

    Args:
        names: of the repository's files.
        model: its folder, "" for the top.
    """
    here = [path.rpartition("/")[2] for path in names if path.rpartition("/")[0] == model and WEIGHTS in path]
    best = best_weights(here, half_first=True)
    return None if best is None else f"{model}/{best[0]}".lstrip("/")


def no_weights(name: HubName, names: Collection[str], model: str) -> CheckpointError:
    """Returns that a repository has no weights of a model that would be taken, with what it has."""
    found = sorted(path for path in names if path.startswith(f"{model}/")) or ["nothing"]
    return CheckpointError(
        _ONLY,
        f"{model} of {name} has {listed(found)}",
        "Convert it with `from_pretrained(…).save_pretrained(FOLDER)` of Diffusers, and give the folder.",
    )


def single_file(name: HubName, names: Collection[str]) -> str:
    """Returns the file of a repository that is a checkpoint: the one that was named, or the only one at its top.

    Raises:
        CheckpointError: there is no such file, none or several.
    """
    weights = sorted(path for path in names if path.endswith(WEIGHTS))
    if name.file is not None:
        if name.file not in weights:
            what = f"{name} is none" if name.file in names else f"{name.repository} has no {name.file}"
            raise CheckpointError(_ONLY, what, f"Those that there are: {listed(weights or ['none'])}")
        return name.file
    top = [path for path in weights if "/" not in path]
    if len(top) == 1 and not (
        f"{top[0]}".startswith(("model.", "diffusion_pytorch_model.")) and "config.json" in names
    ):
        return top[0]
    if len(top) > 1:
        raise CheckpointError(
            "a repository with several single-file checkpoints needs the name of one",
            f"{name} has {listed(top)}",
            f"Write {name}/FILE.",
        )
    raise CheckpointError(
        f"a repository that is a checkpoint holds {INDEX}, or one {WEIGHTS} file with all components",
        f"{name} has {listed(sorted(path for path in names if '/' not in path) or ['nothing'])}",
        "Give one of a text-to-image pipeline.",
    )


def beside(names: Collection[str], file: str) -> Iterator[str]:
    """Yields what lies beside a single file and is read with it: tokenizer, scheduler, training configuration."""
    folder = file[: file.rfind("/") + 1]
    stated = f"{file.removesuffix(WEIGHTS)}.yaml"
    for path in sorted(names):
        below = path.removeprefix(folder) if path.startswith(folder) else ""
        if path == stated or (below.startswith(("tokenizer/", "scheduler/")) and _SMALL.fullmatch(below)):
            yield path


def listed(paths: list[str]) -> str:
    """Returns paths for people, the first of them."""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
