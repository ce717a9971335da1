"""Branches and loops, whose blocks are parts of the program."""

from __future__ import annotations

from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Block, Context, op

MOST_ROUNDS = 1_000_000
"""Rounds of a loop after which it is taken for endless."""


@op(moves_data=True)
def cond(pred: bool, blocks: list[Block], context: Context) -> list[Tensor]:
    """The results of the first block where `pred` is true, else of the second."""
    if len(blocks) != 2:
        raise context.unsupported(f"{len(blocks)} blocks instead of 2")
    return blocks[0]() if pred else blocks[1]()


@op(moves_data=True)
def while_loop(loop_vars: list[Tensor], blocks: list[Block], context: Context) -> list[Tensor]:
    """The variables after the second block has renewed them as long as the first finds them true."""
    if len(blocks) != 2:
        raise context.unsupported(f"{len(blocks)} blocks instead of 2")
    goes_on, body = blocks
    for _ in range(MOST_ROUNDS):
        (answer,) = goes_on(*loop_vars)
        if not bool(answer):
            return list(loop_vars)
        loop_vars = body(*loop_vars)
    raise context.unsupported(f"a loop that does not end after {MOST_ROUNDS} rounds")
