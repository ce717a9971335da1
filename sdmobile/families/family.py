"""What a family states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError
from sdmobile.families import apple
from sdmobile.families.component import TEXT, UNCONDITIONAL, Component, Config, Guidance, Model, Role, Row, Shapes
from sdmobile.families.control import Control, ControlPart, app_facts, controlled
from sdmobile.families.tokenizer_kinds import CLIP, TokenizerKind

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sdmobile.families.component import Arrays, Encode, Run
    from sdmobile.families.edit import Edit
    from sdmobile.families.facts import Facts
    from sdmobile.formats.bundle.contracts import Geometry


class Family(ABC):
    """A kind of diffusion model: recognition, components, conditioning, sampling, names on each phone.

    Subclasses state the class variables; whatever they do not override is latent diffusion as in Rombach et al.,
    arXiv 2112.10752.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    models: tuple[Model, ...]
    components: tuple[Component, ...]
    controls: tuple[Control, ...] = ()
    """The control networks beside the family's own models: a family with some is made by `with_controls`."""
    control_parts: ClassVar[tuple[ControlPart, ...]] = ()
    """The classes of control networks that the family can take."""
    guidances: ClassVar[tuple[Guidance, ...]]
    """The first is the default."""
    guidance_rows: ClassVar[tuple[Row, ...]] = (UNCONDITIONAL, TEXT)
    """What a guided step predicts, in the order of a batch; one row has the prompt, which alone is left unguided."""
    rows_order: ClassVar[str] = "the unconditional row first"
    """Says the order in the descriptions of files."""
    tokenizer_kind: ClassVar[TokenizerKind] = CLIP
    """How texts become identifiers of tokens."""
    default_steps: ClassVar[int]
    default_guidance_scale: ClassVar[float]
    second_pad: ClassVar[int | None] = None
    """Identifier that fills up texts for a second text encoder; for the first it is the tokenizer's `pad_token`."""
    word_tensors: ClassVar[Mapping[str, str]] = {}
    """By text encoder: the tensor of a learned word's file that holds its vectors, where there are two."""
    default_image_guidance_scale: ClassVar[float | None] = None
    """None where a picture does not guide."""
    takes_picture: ClassVar[bool] = False
    """Whether the denoiser takes a picture beside the noise."""
    takes_mask: ClassVar[bool] = False
    """Whether it takes the picture's mask, too."""
    loop_kind: ClassVar[str] = "standard"
    """Of its sampling loops, as `kept_tables` has them."""
    distillable: ClassVar[bool] = False
    """Whether a checkpoint may have been distilled to few steps without another network, so that the user says it."""
    tag: ClassVar[str]
    """In the model card, as model hubs sort by it."""
    task: ClassVar[str] = "text-to-image"
    """`pipeline_tag` of the model card."""
    guidance_rule: ClassVar[str]
    """What an app does with the guidance scale, as half a sentence of the model card."""
    app_use: Mapping[str, str] = {}
    """Steps to use a bundle in a target's usual app, for targets that have one that is made for the family."""
    app_scripts: Mapping[str, tuple[str, str]] = {"ios": (apple.SCRIPT, apple.compile_script())}
    """By target: name and text of the program that makes a bundle ready for an app."""
    app_tokenizer: ClassVar[Mapping[str, str]] = {"ios": "."}
    """By target: the folder where an app looks for the tokenizer; elsewhere it is `tokenizer`."""

    app_chunks: ClassVar[int] = 2
    """Files that the usual app on an iPhone can read a denoiser from, at most."""

    # -- recognition

    @abstractmethod
    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        """Returns whether a Diffusers folder is of the family, by its index and its models' configurations."""

    @abstractmethod
    def claims_file(self, shapes: Shapes) -> bool:
        """Returns whether a single file with tensors of these names and shapes is of the family."""

    def claims_sampling(self, family: Family, scheduler_config: Config, guidance_scale: float | None) -> bool:
        """Returns whether a checkpoint of another family's models is of this one by how it is sampled.

        Args:
            family: that claimed the models.
            scheduler_config: the checkpoint's.
            guidance_scale: that its card asks for, None where it does not say.
        """
        return False

    @abstractmethod
    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        """Raises CheckpointError or UnsupportedError unless `model_index.json` names models that are supported."""

    @abstractmethod
    def check_file(self, names: Sequence[str], path: Path) -> None:
        """Raises CheckpointError or UnsupportedError unless a single file holds the family's models, and no other's."""

    @abstractmethod
    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        """Checks that the models fit each other; returns what they say, and notes what had to be assumed.

        Raises:
            CheckpointError: they do not fit, or a configuration lacks what is needed.
            UnsupportedError: a task or prediction type that is not supported.
        """

    def file_scheduler(
        self, metadata: Mapping[str, str], names: Sequence[str], said: Mapping[str, Any], notes: list[str]
    ) -> Config:
        """Returns the noise schedule of a single file that has none beside it.

        Args:
            metadata: of the file.
            names: of its tensors.
            said: what the user or a training configuration beside it says, in Diffusers' keys.
            notes: gets what had to be assumed.

        Raises:
            UnsupportedError: the family has no usual one.
        """
        raise UnsupportedError("a single file needs scheduler/scheduler_config.json beside it", self.title)

    def file_latent_size(
        self, metadata: Mapping[str, str], configs: Mapping[str, Config], names: Sequence[str], notes: list[str]
    ) -> tuple[int, int]:
        """Returns the latent size (h, w) of a single file, from its metadata or assumed.

        Raises:
            UnsupportedError: the family has no usual one.
        """
        raise UnsupportedError("a single file must say its resolution in modelspec.resolution", self.title)

    # -- parts

    def model(self, name: str) -> Model:
        """Returns a model by name."""
        return next(model for model in self.models if model.name == name)

    def component(self, name: str) -> Component:
        """Returns a component by name.

        Raises:
            UnsupportedError: there is none of that name.
        """
        for component in self.components:
            if component.name == name:
                return component
        raise UnsupportedError(f"the component must be one of {', '.join(self.names)}", name, nearest(name, self.names))

    def control_part(self, name: object) -> ControlPart:
        """Returns what the family knows of control networks of a class, or of the first class of a kind.

        Raises:
            UnsupportedError: the family takes none of that name.
        """
        for part in self.control_parts:
            if name in (part.kind, *part.model.classes):
                return part
        known = ", ".join(name for part in self.control_parts for name in part.model.classes)
        if not known:
            raise UnsupportedError(f"{self.title} takes no control network", name, "Leave it out.")
        raise UnsupportedError(f"the control network of {self.title} must be one of {known}", name)

    def with_controls(self, controls: Sequence[Control]) -> Family:
        """Returns the family with control networks: as many more components, and a denoiser that takes what they add.

        Args:
            controls: the networks; the family has none yet.

        Raises:
            UnsupportedError: the family takes no such network, or they do not go together.
        """
        return controlled(self, controls) if controls else self

    @property
    def names(self) -> tuple[str, ...]:
        """The components' names in pipeline order."""
        return tuple(component.name for component in self.components)

    def of_role(self, role: Role) -> tuple[Component, ...]:
        """Returns the components that are for something."""
        return tuple(component for component in self.components if component.role is role)

    @property
    def denoiser(self) -> Component:
        """The component that every step calls; large ones may be cut into several files."""
        return self.of_role(Role.DENOISER)[0]

    @property
    def decoder(self) -> Component:
        """The component that makes the picture."""
        return self.of_role(Role.DECODER)[0]

    @property
    def sampling(self) -> tuple[str, ...]:
        """Names of the components without which no picture can be made."""
        return tuple(c.name for c in self.components if self.takes_picture or c.role is not Role.IMAGE_ENCODER)

    def calls_of(self, component: Component, guidance: Guidance, steps: int) -> int:
        """Returns how often a component is called for one picture of so many steps."""
        if component.role is Role.IMAGE_ENCODER:
            return int(self.takes_picture)
        return guidance.calls_of(component.role, steps)

    def guidance(self, name: str | None) -> Guidance:
        """Returns a way of guidance by name, the default for None.

        Raises:
            UnsupportedError: the family has none of that name.
        """
        for guidance in self.guidances:
            if name in (None, guidance.name):
                return guidance
        known = [guidance.name for guidance in self.guidances]
        raise UnsupportedError(
            f"the guidance of {self.title} must be one of {', '.join(known)}", name, nearest(name, known)
        )

    def pad_token(self, configs: Mapping[str, Config]) -> str | None:
        """Returns what fills up a text where the tokenizer's files do not say; None for what ends it."""
        return None

    # -- conditioning and sampling

    def usual_sampling(
        self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]
    ) -> tuple[int | None, float | None]:
        """Returns steps and guidance scale that scheduler or models ask for; None for the family's defaults.

        Args:
            configs: of the models.
            scheduler_config: which tells what was distilled to few steps.
            notes: gets what was concluded.
        """
        from sdmobile.families.few_steps import few_steps

        few = few_steps(scheduler_config)
        if few is None:
            return None, None
        notes.append(
            f"scheduler: {few.reason}; {few.steps} steps at a guidance scale of {few.guidance_scale:g} assumed"
        )
        return few.steps, few.guidance_scale

    def zeros_where_empty(self, index: Mapping[str, Any]) -> bool:
        """Returns `Facts.zeros_where_empty`.

        Args:
            index: `model_index.json`, empty for a single file.
        """
        return False

    @abstractmethod
    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        """Returns what one text gives one row of the denoiser's inputs.

        Args:
            token_ids: padded, [1, L].
            run: computes a text encoder.
            geometry: the sizes of the export.
        """

    def conditioning(self, guidance_scale: float, geometry: Geometry) -> Arrays:
        """Returns the denoiser's further inputs of one row, the same in every step."""
        return {}

    def usual_edit(self, seed: int, geometry: Geometry) -> Edit | None:
        """Returns the picture and mask of a sampling run that is given none; None where the denoiser takes none."""
        return None

    def encode_image(self, image: NDArray[np.float32], run: Run) -> NDArray[np.float32]:
        """Returns the latent of a picture, [1, C, h, w]: the mean of its distribution; nothing is drawn, nor scaled.

        Args:
            image: [1, 3, H, W] in [-1, 1].
            run: computes the image encoder.
        """
        encoder = self.of_role(Role.IMAGE_ENCODER)[0]
        moments = run(encoder.name, {encoder.inputs[0].name: image})[encoder.outputs[0].name]
        return moments[:, : moments.shape[1] // 2]

    def beside_latent(
        self, edit: Edit, geometry: Geometry, scaling_factor: float, encode: Encode
    ) -> NDArray[np.float32] | None:
        """Returns the channels that the denoiser takes after the noisy latent, the same in every step, [1, K, h, w].

        Args:
            edit: picture and mask.
            geometry: the sizes of the export.
            scaling_factor: of latents.
            encode: see `encode_image`.

        Returns:
            None where it takes the noisy latent alone.
        """
        return None

    def guided(self, guidance_scale: float) -> bool:
        """Returns whether the unconditional row matters: not at a scale of at most 1, where ε is ε_text."""
        return guidance_scale > 1.0

    def guide(
        self, rows: Sequence[NDArray[np.float32]], scale: float, image_scale: float | None
    ) -> NDArray[np.float32]:
        """Returns the guided prediction, ε_uncond + s·(ε_text − ε_uncond), as [N, C, h, w].

        Args:
            rows: predictions of `guidance_rows`, in that order, [N, C, h, w] each.
            scale: s.
            image_scale: of families with a `default_image_guidance_scale`, None for it.
        """
        import numpy as np

        without, with_text = rows
        return without + np.float32(scale) * (with_text - without)

    def schedule_at(self, config: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
        """Returns a checkpoint's scheduler configuration as it is for pictures of a size, h and w in latent cells."""
        return config

    def scheduler(self, config: Mapping[str, Any], name: str | None, steps: int) -> Any:
        """Returns a Diffusers scheduler with its timesteps set.

        Raises:
            UnsupportedError: no such scheduler, or not so many steps.
            CheckpointError: the configuration is not usable.
        """
        from sdmobile.families.few_steps import set_timesteps
        from sdmobile.families.schedulers import scheduler_from_config

        scheduler = scheduler_from_config(config, name)
        try:
            set_timesteps(scheduler, config, steps)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            value = f"{steps} ({type(error).__name__}: {error})".splitlines()[0]
            raise UnsupportedError(f"{type(scheduler).__name__} must take so many steps", value) from error
        return scheduler

    def step(
        self,
        scheduler: Any,
        prediction: Tensor,
        timestep: Tensor,
        latent: Tensor,
        generator: torch.Generator,
        noise: Callable[[], NDArray[np.float32]],
    ) -> Tensor:
        """Returns the latent after one step, [1, C, h, w].

        Args:
            scheduler: from `scheduler`.
            prediction: of the denoiser, guided, [1, C, h, w].
            timestep: of the training schedule.
            latent: before the step.
            generator: for schedulers that draw noise by torch.
            noise: draws the next values of the documented noise, [1, C, h, w]; a phone can draw them too.
        """
        from sdmobile.families.schedulers import ANCESTRAL, LCM, ancestral_step, consistency_step, step_settings

        drawing = {LCM: consistency_step, ANCESTRAL: ancestral_step}.get(type(scheduler).__name__)
        if drawing is not None:
            return drawing(scheduler, prediction, timestep, latent, noise)
        settings = step_settings(scheduler, generator)
        return scheduler.step(prediction, timestep, latent, **settings, return_dict=False)[0]

    # -- phones

    @abstractmethod
    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        """Returns the content of `scheduler.json`: the loop as tables, so that an app needs no scheduler library.

        Args:
            config: the checkpoint's Diffusers scheduler configuration.
            scaling_factor: latents are divided by it before decoding.
            shift_factor: then it is added to them.

        Raises:
            UnsupportedError: the scheduler cannot be written as tables.
        """

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        """Returns where a target's usual app, as it is, would compute something else."""
        return []

    def tokenizer_differences(self, target: str, pad_token: str, eos_token: str, added: Mapping[str, int]) -> list[str]:
        """Returns where a target's usual app, as it is, would make other tokens of a text.

        Args:
            target: ios, android or onnx.
            pad_token, eos_token: that fill up and end a text.
            added: identifiers of tokens that are looked for before a text is split.
        """
        return []

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        """Returns what an Android app must know beside tables, layouts and the files' inputs; goes to metadata.json."""
        return app_facts(self.controls)
