"""The schema of a bundle's manifest: which entries there are, how large they may be, and that paths are plain names.

Entries that sdmobile of an earlier day did not write are optional. What is only shown (stages, rewrites, versions) is
held to JSON's types and to the bounds of `basics.untrusted`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sdmobile.basics.untrusted import UntrustedError, checked_parts
from sdmobile.formats.bundle.contracts import OPAQUE, PERMUTATIONS, UNIT_AXES

NO_CLIPPING = float("-inf")
"""Diffusers' default of `lambda_min_clipped`, which earlier manifests hold as `-Infinity`."""
_MAX_ELEMENTS = 2**30
_MAX_FILES = 4096
MOST_FILES = 32
"""Files that one component may be cut into."""
_SUFFIXES = {"ios": (".mlpackage",), "android": (".tflite",), "onnx": (".onnx", ".onnx.data")}


def _plain_path(text: str) -> str:
    try:
        checked_parts(text)
    except UntrustedError as error:
        raise ValueError(f"a manifest lists paths inside the bundle only: {error}") from error
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Of components, families, and ways of guidance."""
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,255}$")]
"""Of tensors and signatures, which are never parts of paths."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
"""Of a component's file, which lies at the top of the bundle."""
RelativePath = Annotated[str, AfterValidator(_plain_path)]
Device = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
Text = Annotated[str, StringConstraints(max_length=1 << 16)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\n\r\t]{0,512}$")]
"""What becomes a line of the model card, whose head is YAML."""
Word = Annotated[str, StringConstraints(pattern=r"^[^\s`|]{1,80}$")]
"""What becomes a cell of the model card."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Count = Annotated[int, Field(ge=0, le=1 << 50)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class GeometryEntry(_Entry):
    """Sizes; the family's further ones have the same bounds."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Size] = Field(init=False)

    batch: Annotated[int, Field(ge=1, le=16)]
    latent_channels: Annotated[int, Field(ge=1, le=256)]
    latent_height: Annotated[int, Field(ge=1, le=2048)]
    latent_width: Annotated[int, Field(ge=1, le=2048)]
    image_height: Annotated[int, Field(ge=1, le=16384)]
    image_width: Annotated[int, Field(ge=1, le=16384)]
    context_length: Annotated[int, Field(ge=1, le=4096)]
    context_dim: Annotated[int, Field(ge=1, le=16384)]


class TensorEntry(_Entry):
    """One input or output of a file."""

    name: Label
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 24)]], Field(max_length=8)]
    dtype: Literal["float32", "int32", "int64", "bool"]
    description: Text
    canonical: Label
    layout: Literal["nchw", "nhwc", "tokens", "channels_1_tokens", "token_ids", "vector", "column", "flat", "opaque"]

    @model_validator(mode="after")
    def _axes(self) -> TensorEntry:
        elements = 1
        for size in self.shape:
            elements *= size
        if elements > _MAX_ELEMENTS:
            raise ValueError(f"a tensor has at most {_MAX_ELEMENTS} elements")
        if self.layout != OPAQUE:
            units = UNIT_AXES.get(self.layout, ())
            axes = len(PERMUTATIONS[self.layout]) + len(units)
            if len(self.shape) != axes:
                raise ValueError(f"a shape in the layout {self.layout} has {axes} axes")
            if any(self.shape[axis] != 1 for axis in units):
                raise ValueError(f"axes {', '.join(map(str, units))} of {self.layout}, counted from 0, are 1")
        return self


class ContractEntry(_Entry):
    """What a file takes and returns."""

    target: Literal["ios", "android", "onnx"]
    component: Name
    file_name: FileName
    signature: Label
    inputs: Annotated[list[TensorEntry], Field(min_length=1, max_length=256)]
    outputs: Annotated[list[TensorEntry], Field(min_length=1, max_length=256)]


class StageEntry(_Entry):
    """A step of the export, with whatever it noted down."""

    model_config = ConfigDict(extra="allow")

    name: Text
    seconds: Seconds = 0.0
    peak_rss_bytes: Count = 0


class RewriteEntry(_Entry):
    """What a rule did at one place."""

    model_config = ConfigDict(extra="allow")

    rule: Text
    exactness: Text
    outcome: Text
    reason: Text | None = None
    module: Text | None = None
    node: Text | None = None
    removed: Count = 0
    added: Count = 0


class DetailsEntry(_Entry):
    """Facts of what compressed a component."""

    model_config = ConfigDict(extra="allow")

    deployment_target: Annotated[str, StringConstraints(pattern=r"^iOS[0-9]{1,2}$")] | None = None
    raised_from: Annotated[str, StringConstraints(pattern=r"^iOS[0-9]{1,2}$")] | None = None


class CompressionEntry(_Entry):
    """How a component's weights are stored."""

    model_config = ConfigDict(extra="allow")

    recipe: Text
    bits_per_weight: Annotated[float, Field(ge=0, le=64)]
    details: DetailsEntry = DetailsEntry()


class StreamEntry(_Entry):
    """A stream of a component whose values the file has 2⁻ᵏ as large as the checkpoint."""

    stream: Label
    largest: Annotated[float, Field(ge=0)]
    exponent: Annotated[int, Field(ge=1, le=24)]


class ScalesEntry(_Entry):
    """What keeps a component within float16's range."""

    measured_on: Line
    streams: Annotated[list[StreamEntry], Field(min_length=1, max_length=4096)]

    @model_validator(mode="after")
    def _each_once(self) -> ScalesEntry:
        if len({entry.stream for entry in self.streams}) < len(self.streams):
            raise ValueError("each stream is scaled once")
        return self


class ComponentEntry(_Entry):
    """One component: its files, interface and record."""

    component: Name | None = None
    file: FileName
    files: Annotated[list[FileName], Field(min_length=1, max_length=64)] | None = None
    contract: ContractEntry
    chain: Annotated[list[ContractEntry], Field(max_length=MOST_FILES)] = []
    parameters: Count | None = None
    stages: list[StageEntry] = []
    rewrites: list[RewriteEntry] = []
    rewrite_checks: list[Any] = []
    warnings: list[Text] = []
    bytes: Count | None = None
    sha256: Sha256 | None = None
    compression: CompressionEntry | None = None
    float16_scales: ScalesEntry | None = None
    structure: FileName | None = None

    @property
    def named_files(self) -> list[str]:
        """Every file of the component; manifests that do not list them name what their contracts name."""
        return self.files or [part.file_name for part in self.chain or (self.contract,)]

    @model_validator(mode="after")
    def _files_agree(self) -> ComponentEntry:
        models = [part.file_name for part in self.chain or (self.contract,)]
        beside = [f"{model}.data" for model in models]
        if self.file != models[0]:
            raise ValueError(f"`file` is the first file of the contracts, {models[0]}")
        if len(set(models)) < len(models) or not set(models) <= set(self.named_files) <= {*models, *beside}:
            raise ValueError(f"`files` lists the files of the contracts, {', '.join(models)}")
        if len(set(self.named_files)) < len(self.named_files):
            raise ValueError("`files` lists each file once")
        return self


class GivenEntry(_Entry):
    """What a user said about a checkpoint that does not say it itself."""

    prediction_type: Line | None = None
    clip_skip: Annotated[int, Field(ge=1, le=1024)] | None = None
    distilled: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}(:[1-8])?$")] | None = None


class LoraEntry(_Entry):
    """A LoRA that was fused into the weights."""

    name: Line
    sha256: Sha256
    scale: float


class EmbeddingEntry(_Entry):
    """A learned word that was added to tokenizer and token embedding."""

    name: Line
    sha256: Sha256
    tokens: Annotated[list[Word], Field(min_length=1, max_length=1024)]


class VaeEntry(_Entry):
    """An autoencoder that took the place of the checkpoint's own."""

    name: Line
    class_name: Line
    sha256: Sha256


class SourceEntry(_Entry):
    """The checkpoint; repository and commit where it came from the Hub."""

    name: Line
    path_name: Line | None = None
    content_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,128}$")] = ""
    repository: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$")] | None = None
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None
    license: Line | None = None
    prediction_type: Line | None = None
    given: GivenEntry = GivenEntry()
    notes: list[Text] = []
    loras: Annotated[list[LoraEntry], Field(max_length=64)] = []
    embeddings: Annotated[list[EmbeddingEntry], Field(max_length=64)] = []
    vae: VaeEntry | None = None


class PipelineEntry(_Entry):
    """What the loop around the denoiser needs."""

    scaling_factor: Annotated[float, Field(gt=1e-6, lt=1e6)]
    vae_scale_factor: Annotated[int, Field(ge=1, le=1024)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    scheduler: dict[Text, Any]
    zeros_where_empty: bool = False
    shift_factor: Annotated[float, Field(gt=-1e6, lt=1e6)] = 0.0

    @model_validator(mode="after")
    def _bounded(self) -> PipelineEntry:
        waiting: list[Any] = [self.scheduler]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict | list):
                if len(item) > 10_000:
                    raise ValueError("a scheduler's configuration has at most 10000 entries")
                waiting += item.values() if isinstance(item, dict) else item
            elif isinstance(item, int | float) and abs(item) > 1e6 and item != NO_CLIPPING:
                raise ValueError(f"a number of a scheduler's configuration lies within ±1e6, not {item}")
        return self


class ControlEntry(_Entry):
    """A control network beside the family's own models."""

    kind: Name
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    maps: Annotated[
        list[Annotated[list[Annotated[int, Field(ge=1, le=1 << 16)]], Field(min_length=2, max_length=2)]],
        Field(min_length=1, max_length=64),
    ]
    scale: float = 1.0


class FileEntry(_Entry):
    """Size and hash of a file."""

    sha256: Sha256
    bytes: Count


class ManifestEntry(_Entry):
    """The whole manifest."""

    schema_version: Literal[1]
    kind: Literal["sdmobile-bundle"]
    family: Name | None = None
    control: ControlEntry | Annotated[list[ControlEntry], Field(min_length=2, max_length=8)] | None = None
    target: Literal["ios", "android", "onnx"]
    device: Device | None = None
    created: Line | None = None
    sdmobile_version: Line | None = None
    source: SourceEntry
    geometry: GeometryEntry
    guidance: Name
    pipeline: PipelineEntry
    components: Annotated[dict[Name, ComponentEntry], Field(min_length=1, max_length=32)]
    warnings: list[Text] = []
    versions: dict[Text, Text | None] = {}
    recipe: dict[Text, Any] | None = None
    files: Annotated[dict[RelativePath, FileEntry], Field(max_length=_MAX_FILES)]

    @model_validator(mode="after")
    def _components_agree(self) -> ManifestEntry:
        owners: dict[str, str] = {}
        for name, entry in self.components.items():
            for contract in (entry.contract, *entry.chain):
                if (contract.component, contract.target) != (name, self.target):
                    raise ValueError(f"the contract of {name} is for {contract.component} on {contract.target}")
            if entry.component not in (None, name):
                raise ValueError(f"the record of {name} is of {entry.component}")
            for file in entry.named_files:
                if not file.endswith(_SUFFIXES[self.target]):
                    raise ValueError(f"a file of {name} for {self.target} ends in {_SUFFIXES[self.target][0]}: {file}")
                if owners.setdefault(file, name) != name:
                    raise ValueError(f"{file} belongs to {owners[file]} and to {name}")
        return self

    @model_validator(mode="after")
    def _device_is_listed(self) -> ManifestEntry:
        if self.device is not None and self.device.endswith(".toml") and self.device not in self.files:
            raise ValueError(f"the device's profile must be a listed file: {self.device}")
        return self
