"""A catalogue of deliberate faults: what converters, copying and editing by hand could do to a bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmobile.reference.subject import wrapped_component
from sdmobile.validate.weights.transforms import parameters_of
from tests.validate.breakage import Flatbuffer, Package
from tests.validate.patients import Anatomy, Patient

BUNDLE = "bundle"
_MATRIX = r"\.(to_k|k_proj)\.weight$"
_OTHER = (("to_k", "to_v"), ("k_proj", "v_proj"))
_BIAS = r"\.(conv1|fc1|proj)\.bias$"
_WEIGHT = r"\.(conv1|fc1|proj)\.weight$"
_NORM = r"norm\w*\.weight$"


@dataclass(frozen=True)
class Fault:
    """One deliberate fault.

    Args:
        kind: what is wrong, in words.
        place: canonical name of the component, or "bundle".
        apply: damages a copy.
    """

    kind: str
    place: str
    apply: Callable[[Patient], object]


def faults_of(anatomy: Anatomy) -> Iterator[Fault]:
    """Yields every fault that a bundle can have."""
    for name, component in anatomy.bundle.components.items():
        compressed = bool(component.record.get("compression"))
        yield from weight_faults(anatomy, name)
        if compressed:
            yield from table_faults(anatomy, name)
        elif anatomy.bundle.target != "onnx":
            yield from graph_faults(anatomy, name)
    yield from manifest_faults()
    yield from tokenizer_faults()
    if (anatomy.folder / "scheduler.json").is_file():
        yield from document_faults()


def weight_faults(anatomy: Anatomy, component: str) -> Iterator[Fault]:
    """Yields damage of single weights."""
    names = _parameters(anatomy, component)
    matrix, weight, bias, norm = (_first(names, pattern) for pattern in (_MATRIX, _WEIGHT, _BIAS, _NORM))
    embedding = next((name for name in names if name.endswith("token_embedding.weight")), None)
    if embedding is not None:
        yield Fault("all but 28 rows of the embedding zeroed", component, _changing(component, embedding, _zero_rows))
    if bias is not None:
        yield Fault("one bias zeroed", component, _changing(component, bias, np.zeros_like))
    if matrix is not None:
        yield Fault("one attention matrix transposed", component, _changing(component, matrix, _transposed))
        pair = matrix, next(matrix.replace(key, value) for key, value in _OTHER if key in matrix)
        yield Fault("two weights of one shape exchanged", component, lambda p: p.exchange(component, *pair))
    if weight is not None:
        yield Fault("one weight multiplied by 1.1", component, _changing(component, weight, _grown))
        yield Fault("the largest value of one weight negated", component, _changing(component, weight, _negated))
        yield Fault("two output channels of one weight exchanged", component, _changing(component, weight, _rolled))
    if norm is not None:
        partner = norm.removesuffix("weight") + "bias"
        yield Fault("weight and bias of a norm exchanged", component, lambda p: p.exchange(component, norm, partner))
        yield Fault("one value of a norm's weight not a number", component, _changing(component, norm, _unset))


def table_faults(anatomy: Anatomy, component: str) -> Iterator[Fault]:
    """Yields damage of what compressed weights are decoded by."""
    names = _parameters(anatomy, component)
    weight = _first(names, _WEIGHT) or _first(names, _MATRIX)
    if weight is None:
        return

    def table(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Patient], object]:
        return lambda patient: patient.change_table(component, weight, change)

    yield Fault("all scales or entries of one weight multiplied by 1.1", component, table(_grown))
    yield Fault("one scale or entry of one weight multiplied by 1.1", component, table(_one_grown))


def graph_faults(anatomy: Anatomy, component: str) -> Iterator[Fault]:
    """Yields damage of the program around the weights."""
    norm = next(name for name in _parameters(anatomy, component) if re.search(_NORM, name)).removesuffix(".weight")
    yield Fault("one epsilon multiplied by 100", component, lambda patient: _other_epsilon(patient, component, norm))
    matrix = _first(_parameters(anatomy, component), _MATRIX)
    if matrix is not None:
        pair = matrix, next(matrix.replace(key, value) for key, value in _OTHER if key in matrix)
        yield Fault(
            "an operation that takes another's weight",
            component,
            lambda p: _taken(p, component, pair, each=False),
        )
        yield Fault(
            "two operations that take each other's weight",
            component,
            lambda p: _taken(p, component, pair, each=True),
        )
    yield Fault("the file's output is an earlier value", component, lambda patient: _early(patient, component))


def manifest_faults() -> Iterator[Fault]:
    """Yields manifests that do not say what the checkpoint says."""

    def pipeline(name: str, change: Callable[[Any], Any]) -> Callable[[Patient], object]:
        return _manifest(
            lambda manifest: manifest["pipeline"].__setitem__(name, change(manifest["pipeline"].get(name)))
        )

    def scheduler(name: str, value: Any) -> Callable[[Patient], object]:
        return _manifest(lambda manifest: manifest["pipeline"]["scheduler"].__setitem__(name, value))

    yield Fault("manifest: scaling_factor 0.5", BUNDLE, pipeline("scaling_factor", lambda _: 0.5))
    yield Fault("manifest: guidance_scale 1", BUNDLE, pipeline("guidance_scale", lambda _: 1.0))
    yield Fault("manifest: vae_scale_factor doubled", BUNDLE, pipeline("vae_scale_factor", lambda old: 2 * old))
    yield Fault("manifest: prediction_type v_prediction", BUNDLE, scheduler("prediction_type", "v_prediction"))
    yield Fault("manifest: beta_end 0.02", BUNDLE, scheduler("beta_end", 0.02))
    yield Fault("manifest: another scheduler", BUNDLE, scheduler("_class_name", "EulerDiscreteScheduler"))
    yield Fault(
        "manifest: context_length 76", BUNDLE, _manifest(lambda m: m["geometry"].__setitem__("context_length", 76))
    )
    yield Fault(
        "manifest: another prediction in its source",
        BUNDLE,
        _manifest(lambda m: m["source"].__setitem__("prediction_type", "sample")),
    )


def tokenizer_faults() -> Iterator[Fault]:
    """Yields tokenizers that give other ids."""
    yield Fault("tokenizer: two words exchanged", BUNDLE, _vocabulary(_exchange_words))
    yield Fault("tokenizer: all words moved by one", BUNDLE, _vocabulary(_move_words))
    yield Fault("tokenizer: one word missing", BUNDLE, _vocabulary(lambda words: words.pop(next(iter(words)))))
    yield Fault("tokenizer: two merges exchanged", BUNDLE, _merges(_exchange_merges))
    yield Fault(
        "tokenizer: the last 20 merges missing", BUNDLE, _merges(lambda lines: lines.__delitem__(slice(-20, None)))
    )
    yield Fault("tokenizer: another padding", BUNDLE, _other_padding)


def document_faults() -> Iterator[Fault]:
    """Yields files for apps that run the loop themselves with wrong content."""
    tables = "scheduler.json"

    def rows(change: Callable[[list[dict[str, float]]], object]) -> Callable[[Patient], object]:
        def apply(document: Any) -> None:
            solver = next(iter(document["solvers"].values()))
            change(solver["steps"][max(solver["steps"], key=int)])

        return _json(tables, apply)

    yield Fault("scheduler.json: empty", BUNDLE, _json(tables, lambda _: {}))
    yield Fault("scheduler.json: all coefficients multiplied by 1.1", BUNDLE, rows(_all_grown))
    yield Fault("scheduler.json: one coefficient multiplied by 1.01", BUNDLE, rows(_one_coefficient))
    yield Fault(
        "scheduler.json: one timestep off by one", BUNDLE, rows(lambda r: r[1].update(timestep=r[1]["timestep"] + 1))
    )
    yield Fault("scheduler.json: two rows exchanged", BUNDLE, rows(_exchange_rows))
    yield Fault("scheduler.json: last row missing", BUNDLE, rows(lambda r: r.pop()))
    yield Fault("scheduler.json: scaling_factor 0.5", BUNDLE, _json(tables, lambda d: d.update(scaling_factor=0.5)))
    yield Fault("scheduler.json: init_noise_sigma 1.1", BUNDLE, _json(tables, _louder))
    yield Fault("scheduler.json: predicts v", BUNDLE, _json(tables, lambda d: d.update(prediction_type="v_prediction")))
    yield Fault(
        "scheduler.json: one training step", BUNDLE, _json(tables, lambda d: d["alphas_cumprod"].__setitem__(9, 0.5))
    )
    yield Fault("scheduler.json: missing", BUNDLE, lambda patient: (patient.folder / tables).unlink())
    yield from _further_documents()


def _further_documents() -> Iterator[Fault]:
    noise, facts = "noise_golden.json", "metadata.json"

    def vector(change: Callable[[dict[str, Any]], object]) -> Callable[[Patient], object]:
        return _json(noise, lambda document: change(document["vectors"][0]))

    def tokenizer(**entries: Any) -> Callable[[Patient], object]:
        return _json(facts, lambda document: document["tokenizer"].update(entries))

    yield Fault(
        "noise_golden.json: normals multiplied by 1.1", BUNDLE, vector(lambda v: v.update(normals=_times(v["normals"])))
    )
    yield Fault("noise_golden.json: one bit", BUNDLE, vector(lambda v: v["bits"].__setitem__(3, v["bits"][3] ^ 1)))
    yield Fault("noise_golden.json: another seed", BUNDLE, vector(lambda v: v.update(seed=7)))
    yield Fault("noise_golden.json: another hash", BUNDLE, vector(lambda v: v["latent"].update(sum=0.0)))
    yield Fault("metadata.json: another padding", BUNDLE, tokenizer(padding="<|startoftext|>"))
    yield Fault("metadata.json: another end of text", BUNDLE, tokenizer(eos_token_id=1))
    yield Fault("metadata.json: length 76", BUNDLE, tokenizer(length=76))
    yield Fault("metadata.json: scaling_factor 0.5", BUNDLE, _json(facts, lambda d: d.update(scaling_factor=0.5)))
    yield Fault("metadata.json: inputs exchanged", BUNDLE, _json(facts, _exchange_inputs))
    yield Fault("metadata.json: another signature", BUNDLE, _json(facts, _other_signature))
    yield Fault("metadata.json: a turn of another file", BUNDLE, _json(facts, _other_turns))


def _parameters(anatomy: Anatomy, component: str) -> list[str]:
    module = wrapped_component(anatomy.checkpoint, anatomy.bundle.target, component)
    return [p.name for p in parameters_of(module) if np.any(p.array)]


def _first(names: list[str], pattern: str) -> str | None:
    return next((name for name in names if re.search(pattern, name)), None)


def _changing(
    component: str, parameter: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Patient], object]:
    return lambda patient: patient.change(component, parameter, change)


def _zero_rows(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[28:] = 0
    return array


def _transposed(array: np.ndarray) -> np.ndarray:
    """Transposes a square matrix, wherever its two long axes lie."""
    square = array.reshape([length for length in array.shape if length != 1])
    return square.swapaxes(0, 1).reshape(array.shape)


def _grown(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        return array * np.float32(1.1)
    return np.roll(array, 1)  # integers and indices


def _one_grown(array: np.ndarray) -> np.ndarray:
    flat = array.copy().reshape(-1)
    flat[np.abs(flat.astype(np.float32)).argmax()] *= array.dtype.type(1.1)
    return flat.reshape(array.shape)


def _negated(array: np.ndarray) -> np.ndarray:
    flat = array.copy().reshape(-1)
    largest = np.abs(flat.astype(np.float32)).argmax()
    flat[largest] = -flat[largest] if array.dtype.kind in "fi" else ~flat[largest]
    return flat.reshape(array.shape)


def _rolled(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[[0, 1]] = array[[1, 0]]
    return array


def _unset(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.reshape(-1)[0] = np.nan
    return array


def _other_epsilon(patient: Patient, component: str, norm: str) -> None:
    (file,) = patient.files(component)[:1]
    if patient.target == "ios":
        Package(file).multiply_epsilon(norm.replace(".", "_"), 100.0)
    else:
        Flatbuffer(file).multiply_epsilon(norm, 100.0)


def _taken(patient: Patient, component: str, names: tuple[str, str], each: bool) -> None:
    """Lets what takes the first of two weights take the second; where asked, what takes the second the first."""
    first, second = (patient.anatomy.stored(component, name) for name in names)
    for file in patient.files(component):
        editor = Package(file) if patient.target == "ios" else Flatbuffer(file)
        if editor.exchange_takers(first, second) if each else editor.take_instead(first, second):
            return
    raise AssertionError(names)


def _early(patient: Patient, component: str) -> None:
    file = patient.files(component)[-1]
    (Package(file) if patient.target == "ios" else Flatbuffer(file)).return_early()


def _json(name: str, change: Callable[[Any], object]) -> Callable[[Patient], object]:
    def only_documents(document: Any) -> Any:
        result = change(document)
        return result if result == {} else None

    return lambda patient: patient.change_json(name, only_documents)


def _manifest(change: Callable[[Any], object]) -> Callable[[Patient], object]:
    return _json("manifest.json", change)


def _vocabulary(change: Callable[[dict[str, int]], object]) -> Callable[[Patient], object]:
    def apply(patient: Patient) -> None:
        patient.change_json(
            str(patient.tokenizer.relative_to(patient.folder) / "vocab.json"), lambda d: change(d) and None
        )

    return apply


def _exchange_words(words: dict[str, int]) -> None:
    first, second = [word for word in words if word.endswith("</w>")][-2:]
    words[first], words[second] = words[second], words[first]


def _move_words(words: dict[str, int]) -> None:
    numbers = list(words.values())
    words.update(zip(words, numbers[1:] + numbers[:1], strict=True))


def _merges(change: Callable[[list[str]], object]) -> Callable[[Patient], object]:
    def apply(patient: Patient) -> None:
        file = patient.tokenizer / "merges.txt"
        lines = file.read_text("utf-8").splitlines()
        change(lines)
        file.write_text("\n".join(lines) + "\n", "utf-8")

    return apply


def _exchange_merges(lines: list[str]) -> None:
    lines[1], lines[-1] = lines[-1], lines[1]


def _other_padding(patient: Patient) -> None:
    config = patient.tokenizer / "tokenizer_config.json"
    if not config.is_file():
        config.write_text("{}", "utf-8")
    special = patient.tokenizer / "special_tokens_map.json"
    for file in (config, special):
        if file.is_file():
            patient.change_json(str(file.relative_to(patient.folder)), lambda d: d.update(pad_token="<|startoftext|>"))


def _all_grown(rows: list[dict[str, float]]) -> None:
    for row in rows:
        row.update({key: row[key] * 1.1 for key in "abc" if key in row})


def _one_coefficient(rows: list[dict[str, float]]) -> None:
    rows[len(rows) // 2]["b"] *= 1.01


def _exchange_rows(rows: list[dict[str, float]]) -> None:
    rows[1], rows[2] = rows[2], rows[1]


def _louder(document: Any) -> None:
    for entry in (document, *document["solvers"].values()):
        if "init_noise_sigma" in entry:
            entry["init_noise_sigma"] *= 1.1


def _times(values: list[float]) -> list[float]:
    return [value * 1.1 for value in values]


def _denoiser(document: Mapping[str, Any]) -> Any:
    return document["models"]["unet"]


def _exchange_inputs(document: Any) -> None:
    inputs = _denoiser(document)["inputs"]
    inputs[0]["name"], inputs[1]["name"] = inputs[1]["name"], inputs[0]["name"]


def _other_turns(document: Any) -> None:
    document["turns"][0]["files"] = ["decoder.tflite"]


def _other_signature(document: Any) -> None:
    _denoiser(document)["signature"] = "main_2"
