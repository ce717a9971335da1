"""What one row of padding for all saves a training step of `shapes-64-dit`, in turns in one run.

    python -m benchmarks.dit_step [--threads 2] [--rounds 10]

A step is the transformer's forward and backward pass and AdamW, batch 64 of random latents and texts; captions are not
encoded. Prints one JSON line: median seconds of each, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

from sdmobile.training.config import CONTEXT_LENGTH, LATENT_CHANNELS, LATENT_SIZE
from sdmobile.training.dit.config import transformer_config
from sdmobile.training.dit.repeated_rows import RepeatedRows, with_one_idle_row

BATCH, LONGEST = 64, 24  # tokens of the longest caption


def main() -> None:
    """Measures both kinds of step, one after the other, in every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = transformer_config()
    transformer: Any = SD3Transformer2DModel(**config)
    rows = RepeatedRows()
    transformer.set_attn_processor(rows)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)
    texts = {"all": CONTEXT_LENGTH, "one": LONGEST + 1}
    seconds: dict[str, list[float]] = {name: [] for name in texts}
    for turn in range(options.rounds + 1):
        for name, length in texts.items():
            rows.padding = CONTEXT_LENGTH - length + 1
            took = _step(transformer, optimizer, length, config["joint_attention_dim"])
            if turn:  # the first round warms up
                seconds[name].append(took)
    ratios = [whole / short for whole, short in zip(seconds["all"], seconds["one"], strict=True)]
    medians = {f"seconds_{name}": round(statistics.median(values), 3) for name, values in seconds.items()}
    print(json.dumps({**medians, "ratio": round(statistics.median(ratios), 2), "threads": options.threads}))


def _step(transformer: Any, optimizer: torch.optim.Optimizer, length: int, width: int) -> float:
    latents = torch.randn(BATCH, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    features, pooled, times = torch.randn(BATCH, length, width), torch.randn(BATCH, width), 1000 * torch.rand(BATCH)
    started = time.perf_counter()
    velocity = transformer(latents, with_one_idle_row(features), pooled, times, return_dict=False)[0]
    (velocity - latents).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
