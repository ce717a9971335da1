"""Model files with damaged bytes, and a small .tflite file to damage."""

from __future__ import annotations

import random
import struct

import numpy as np

SIGNATURE = "run"
_ODD_WORDS = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)


def small_tflite() -> bytes:
    """Returns a file with a convolution, an addition and a signature: `x` [1, 4, 4, 2] to `y` [1, 4, 4, 3]."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from tests.lint.corpus.graph import Graph, options

    graph = Graph()
    x = graph.input((1, 4, 4, 2))
    weights = graph.const(np.linspace(-1, 1, 6).reshape(3, 1, 1, 2), "float32")
    bias = graph.const([0.5, 0.25, 0.125], "float32")
    convolution = options("Conv2D", strideH=1, strideW=1)
    (convolved,) = graph.op("CONV_2D", [x, weights, bias], (1, 4, 4, 3), options=convolution)
    (y,) = graph.op("ADD", [convolved, graph.const([1.0, 2.0, 3.0], "float32")], (1, 4, 4, 3), options=options("Add"))
    model = schema.ModelT.InitFromPackedBuf(graph.bytes(y))
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = "x", x
    signature.outputs[0].name, signature.outputs[0].tensorIndex = "y", y
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def damaged(data: bytes, seed: int) -> bytes:
    """Returns the bytes of a file with bits flipped, words replaced or exchanged, bytes added, or its end cut off.

    Args:
        data: the whole file.
        seed: decides what is done, and where.
    """
    chance = random.Random(seed)
    changed = bytearray(data)
    # Half of all damage goes where the descriptions are, at either end of the file, not into the weights.
    near = min(len(data), 1 << 14)
    start = chance.choice([0, 0, len(data) - near])
    size = near if chance.random() < 0.5 else len(data) - start

    def place(width: int) -> int:
        return start + chance.randrange(max(1, size - width))

    kind = chance.choice(["bits", "bytes", "words", "words", "exchange", "insert", "cut", "zeros"])
    for _ in range(chance.randint(1, 4)):
        at = place(8)
        if kind == "bits":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "bytes":
            changed[at] = chance.randrange(256)
        elif kind == "words":
            word = chance.choice((*_ODD_WORDS, len(data), chance.randrange(1 << 32)))
            changed[at & ~3 : (at & ~3) + 4] = struct.pack("<I", word)
        elif kind == "exchange":
            one, other = at & ~3, place(8) & ~3
            changed[one : one + 4], changed[other : other + 4] = changed[other : other + 4], changed[one : one + 4]
    if kind == "insert":
        changed[place(8) : 0] = chance.randbytes(chance.randint(1, 8))
    elif kind == "cut":
        del changed[chance.randrange(len(changed)) :]
    elif kind == "zeros":
        at, count = place(8), chance.randint(1, 64)
        changed[at : at + count] = bytes(len(changed[at : at + count]))
    return bytes(changed)
