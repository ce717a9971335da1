"""Order by value: sorting, the largest elements, and the choice of boxes by score."""

from __future__ import annotations

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op


@op(moves_data=True)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """The indices that sort x along an axis; equal elements keep their order."""
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices.to(torch.int32)


@op(moves_data=True)
def topk(
    x: Tensor,
    context: Context,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> list[Tensor]:
    """The k largest (or smallest) elements along an axis in order, and their indices; k = −1 takes all.

    Without `sort` any order is right, so it is the same.
    """
    if output_indices_dtype not in ("int32", "uint16"):
        raise context.unsupported(f"output_indices_dtype {output_indices_dtype}")
    count = x.shape[axis] if k == -1 else k
    ordered = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, indices = (part.narrow(axis, 0, count) for part in ordered)
    return [values, indices.to(torch.int32)] if return_indices else [values]


@op(moves_data=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    context: Context,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> list[Tensor]:
    """Boxes by falling score, without those that overlap a chosen one by more than a share of their union.

    The score of a box is the largest of its classes. Boxes are (x, y, width, height) around their centre: [n, B, 4],
    with scores [n, B, K] and the number of chosen boxes as fourth result; from iOS 17 on [n, 4, B], [n, K, B] and
    without it. As coremltools' tests have it: what is left of `max_boxes` is 0, its index −1; if no score reaches the
    threshold, the best box is chosen.
    """
    last = context.ios >= 17
    if last:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    chosen = [
        _choose(box, score, iou_threshold, max_boxes, score_threshold, per_class_suppression)
        for box, score in zip(boxes, scores, strict=True)
    ]
    results = [
        torch.stack([_padded(x[i], max_boxes, 0) for x, i in zip(of, chosen, strict=True)]) for of in (boxes, scores)
    ]
    if last:
        results = [each.transpose(1, 2) for each in results]
    results.append(torch.stack([_padded(i, max_boxes, -1) for i in chosen]).to(torch.int32))
    return results if last else [*results, torch.tensor([len(i) for i in chosen], dtype=torch.int32)]


def _choose(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int, score_threshold: float | None, per_class: bool
) -> Tensor:
    """Returns the indices of the boxes [B, 4] that remain, by falling score."""
    best, classes = scores.max(-1)
    order = torch.sort(best, descending=True, stable=True).indices
    if score_threshold is not None:
        order = order[best[order] >= score_threshold]
    if not len(order):
        return best.argmax()[None]
    free = torch.ones(len(boxes), dtype=torch.bool)
    kept: list[int] = []
    for index in order.tolist():
        if len(kept) < most and free[index]:
            kept.append(index)
            overlaps = _overlap(boxes[index], boxes) > iou_threshold
            free &= ~(overlaps & (classes == classes[index])) if per_class else ~overlaps
    return torch.tensor(kept)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box and others [B, 4]; 0 where both are empty."""
    (centre, size), (centres, sizes) = box.split(2), others.split(2, -1)
    low, high = (
        torch.maximum(centre - size / 2, centres - sizes / 2),
        torch.minimum(centre + size / 2, centres + sizes / 2),
    )
    common = (high - low).clamp(min=0).prod(-1)
    union = size.prod() + sizes.prod(-1) - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))


def _padded(x: Tensor, count: int, value: int) -> Tensor:
    """Returns x with as many rows as `count`, new ones filled."""
    rows = x.new_full((count - len(x), *x.shape[1:]), value)
    return torch.cat([x, rows])
