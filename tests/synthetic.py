"""Write checkpoints with seeded random weights, for tests and for measuring at full size.

Parity of random weights proves the arithmetic of an export, not the quality of pictures.
"""

from __future__ import annotations

import inspect
import io
import json
import shutil
import zlib
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.checkpoints.bpe import write_clip_tokenizer
from sdmobile.checkpoints.modules import empty_module
from sdmobile.families import qwen3
from sdmobile.families.sana_text import INSTRUCTION
from sdmobile.families.schedulers import STABLE_DIFFUSION
from sdmobile.families.tokenizer_kinds import CLIP, QWEN, T5
from sdmobile.families.tokenizer_kinds import GEMMA as GEMMA_KIND
from tests.families import SD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from sdmobile.families.family import Family

Preset = Literal["tiny", "sd15", "sdxl"]

WEIGHT_FILES = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
# Stable Diffusion 1.5's own counts: they tell whether a preset has its shape.
SD15_PARAMETERS = {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863}
_COUNTS = {
    "sd15": SD15_PARAMETERS,
    "sdxl": {
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "unet": 2_567_463_684,
        "vae": 83_653_863,
    },
}
_SIZES = ("small", "large")
_COLOURS = ("red", "green", "blue", "yellow")
_SHAPES = ("circle", "square", "triangle", "star")
# The encoder of each kind of tokenizer, as Transformers calls it.
_TEXT_MODELS = {"clip": "clip_text_model", "t5": "t5", "gemma": "gemma2", "qwen": "qwen3"}
GEMMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
}
"""A Gemma 2 of two layers, of which the second one sees everything and the first has a window."""
QWEN3: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_theta": 1e6,
}
"""A Qwen3 of three layers."""
# What Qwen3's own template makes of one message, with thinking left open, or left out.
_TALK = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CORPUS = tuple(f"a {size} {colour} {shape} on white" for size in _SIZES for colour in _COLOURS for shape in _SHAPES)


def write_checkpoint(
    folder: Path,
    preset: Preset = "tiny",
    seed: int = 0,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    family: Family = SD,
    instead: Mapping[str, dict[str, Any]] | None = None,
) -> Path:
    """Writes a Diffusers folder with random float16 weights, one component after the other.

    Matrices and convolutions get U(-1/√fan_in, 1/√fan_in), norms U(0.8, 1.2) and U(-0.1, 0.1), embeddings N(0, 0.02²).

    Args:
        folder: where it goes; it is created.
        preset: "tiny" (32×32 pixels, under a megabyte), "sd15" (the shapes of Stable Diffusion 1.5, 2.1 GB) or "sdxl"
            (those of Stable Diffusion XL, 6.9 GB), whose family has to be given too.
        seed: same seed, same bytes.
        changes: to the configurations of "unet" and so on, of "scheduler" and of the "index"; for other families.
        family: whose models they are.
        instead: whole configurations, of models, or of the "scheduler", that have little in common with the preset's.

    Returns:
        The folder.
    """
    changes = changes or {}
    presets = {**_PRESETS[preset], **(instead or {})}
    scheduler = {**(presets.pop("scheduler", None) or STABLE_DIFFUSION)}
    presets = {name: config for name, config in presets.items() if name in {model.name for model in family.models}}
    configs = {name: {**config, **changes.get(name, {})} for name, config in presets.items()}
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = None if preset == "tiny" else 49408
    kind = family.tokenizer_kind.name
    tokens = _write_tokenizer(folder / "tokenizer", kind, vocab_size)
    for component, config in configs.items():
        config = {"_class_name": family.model(component).classes[0], **config}
        if component.startswith("text_encoder"):
            config |= {"architectures": [config.pop("_class_name")], "model_type": _TEXT_MODELS[kind]}
            config |= {"vocab_size": tokens}
        if component.startswith("text_encoder") and kind == CLIP.name:
            config |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": 1}
        module = empty_module(family.model(component), config)
        buffers = family.model(component).build(config) if _stored_buffers(module) else None
        count = sum(parameter.numel() for parameter in module.parameters())
        known = {} if component in changes else _COUNTS.get(preset, {})
        if (wanted := known.get(component, count)) != count:
            raise AssertionError(f"{component} has {count} parameters, {preset} has {wanted}")
        _write_component(folder / component, config, module, WEIGHT_FILES[component], seed, buffers)
    further = XL if "text_encoder_2" in configs else {}
    scheduler |= {} if "scheduler" in (instead or {}) else further.get("scheduler", {})
    scheduler |= changes.get("scheduler", {})
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", {**_MODEL_INDEX, **further.get("index", {}), **changes.get("index", {})})
    if further:
        _write_second_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path, kind: str, vocab_size: int | None) -> int:
    """Writes the tokenizer of a kind; returns its identifiers."""
    if kind == CLIP.name:
        return write_clip_tokenizer(folder, CORPUS, vocab_size)
    writers = {
        T5.name: write_unigram_tokenizer,
        GEMMA_KIND.name: write_gemma_tokenizer,
        QWEN.name: write_qwen_tokenizer,
    }
    return writers[kind](folder)


def write_qwen_tokenizer(folder: Path, pieces: int = 320) -> int:
    """Writes Qwen's kind of tokenizer, learned from the corpus, with its special tokens where Qwen3 has them.

    Args:
        folder: gets `tokenizer.json` and `tokenizer_config.json`, with the template of a talk.
        pieces: at most, those of single bytes included.

    Returns:
        The rows that an embedding must have.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(CORPUS, trainer)
    model = json.loads(learned.to_str())["model"]
    special = {token: qwen3.PAD + at for at, token in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))}
    tokenizer: Any = Qwen2Tokenizer(
        vocab={**model["vocab"], **special}, merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = _TALK
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return qwen3.PAD + len(special)


def write_gemma_tokenizer(folder: Path, pieces: int = 640) -> int:
    """Writes Gemma's kind of tokenizer, learned from the corpus and SANA's instruction; returns its identifiers.

    Args:
        folder: gets `tokenizer.json` and `tokenizer_config.json`.
        pieces: at most, the special ones and those of single bytes included.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581?[^\u2581]+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=pieces, special_tokens=special, show_progress=False)
    texts = (*CORPUS, *INSTRUCTION.splitlines())
    learned.train_from_iterator([text.replace(" ", "\u2581") for text in texts], trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return len(tokenizer)


def write_unigram_tokenizer(folder: Path, pieces: int = 80) -> int:
    """Writes T5's kind of tokenizer, learned from the corpus, in SentencePiece's file; returns its identifiers.

    Args:
        folder: gets `spiece.model`.
        pieces: at most, the three special ones included; Transformers adds a hundred sentinels.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sizes = {"vocab_size": pieces, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2}
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="unigram", **special, **sizes
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    from transformers import T5Tokenizer

    return len(T5Tokenizer.from_pretrained(str(folder), local_files_only=True))


def preset(name: Preset) -> dict[str, dict[str, Any]]:
    """Returns the configurations of a preset's models."""
    return _PRESETS[name]


def write_control_network(folder: Path, checkpoint: Path, seed: int = 0) -> Path:
    """Writes a ControlNet with random float16 weights for a checkpoint's UNet; none of its convolutions is zero."""
    import torch
    from diffusers import ControlNetModel

    stated = json.loads((checkpoint / "unet" / "config.json").read_text("utf-8"))
    own = inspect.signature(ControlNetModel.__init__).parameters
    config = {key: value for key, value in stated.items() if key in own}
    levels = len(json.loads((checkpoint / "vae" / "config.json").read_text("utf-8"))["block_out_channels"])
    config["conditioning_embedding_out_channels"] = [16, 32, 96, 256][:levels]
    with torch.device("meta"):
        module: Any = ControlNetModel.from_config(config)
    full = {**module.config, "_class_name": "ControlNetModel"}
    _write_component(folder, full, module, WEIGHT_FILES["unet"], seed)
    return folder


def _write_second_tokenizer(folder: Path) -> None:
    """Writes the tokenizer of Stable Diffusion XL's second text encoder: the first one's, but for what fills up."""
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        stated = json.loads((folder / "tokenizer_2" / name).read_text("utf-8"))
        _write_json(folder / "tokenizer_2" / name, {**stated, "pad_token": "!"})


def _stored_buffers(module: nn.Module) -> list[str]:
    """Returns the names of tables that a checkpoint stores beside its weights."""
    return [name for name, _ in module.named_buffers() if name in module.state_dict()]


def _write_component(
    folder: Path,
    config: dict[str, Any],
    module: nn.Module,
    file_name: str,
    seed: int,
    buffers: nn.Module | None = None,
) -> None:
    """Writes one model; `buffers` is the same one that holds its tables, where it stores any."""
    from safetensors.torch import save_file

    prefix = "text_model." if config.get("model_type") == "clip_text_model" else ""
    places = {name: "" if name.startswith("text_projection.") else prefix for name, _ in module.named_parameters()}
    tensors = {place + name: _random(name, module, seed) for name, place in places.items()}
    if buffers is not None:
        tensors |= {name: buffers.get_buffer(name).half() for name in _stored_buffers(module)}
    _write_json(folder / "config.json", config)
    save_file(tensors, folder / file_name, metadata={"format": "pt"})


def _random(name: str, module: nn.Module, seed: int) -> torch.Tensor:
    import torch

    owner_name, _, kind = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    shape = owner.get_parameter(kind).shape
    # One stream per tensor: a tensor's values depend on its name, not on what was drawn before.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    values = torch.empty(shape)
    if isinstance(owner, torch.nn.Embedding):
        values.normal_(0.0, 0.02, generator=generator)
    elif isinstance(owner, torch.nn.GroupNorm | torch.nn.LayerNorm) or "Norm" in type(owner).__name__:
        low, high = (0.8, 1.2) if kind == "weight" else (-0.1, 0.1)
        values.uniform_(low, high, generator=generator)
    else:
        bound = dict(owner.named_parameters()).get("weight", owner.get_parameter(kind))[0].numel() ** -0.5
        values.uniform_(-bound, bound, generator=generator)
    return values.half()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

_TINY: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
    },
    "unet": {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [16, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 32,
        "scaling_factor": 0.18215,
    },
}

_SD15: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
    },
    "unet": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
}

TINY_TEXT = _TINY["text_encoder"]
SD15_VAE = _SD15["vae"]
XL: dict[str, dict[str, Any]] = {
    "scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    "index": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    },
}
"""What a checkpoint with a second text encoder has besides."""
_SDXL: dict[str, dict[str, Any]] = {
    "text_encoder": _SD15["text_encoder"],
    "text_encoder_2": {
        **_SD15["text_encoder"],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    "unet": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "norm_num_groups": 32,
    },
    "vae": {**_SD15["vae"], "sample_size": 1024, "scaling_factor": 0.13025},
}
_PRESETS = {"tiny": _TINY, "sd15": _SD15, "sdxl": _SDXL}
