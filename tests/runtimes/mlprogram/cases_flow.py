"""Cases of branches, loops and lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtimes.mlprogram.cases import Array, Case

_RANDOM = np.random.default_rng(5)


def _x(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _branches() -> list[Case]:
    """Both branches use a value from around them; one is in another."""
    x = _x(2, 3)
    cases = []
    for sign, expected in ((1.0, x * 2 + 1), (-1.0, x - 2), (-9.0, x)):
        flag = np.array([sign], np.float32)

        def chosen(mb: Any, x: Any, flag: Any) -> Any:
            twice, one = mb.mul(x=x, y=np.float32(2)), np.float32(1)
            flag = mb.squeeze(x=flag, axes=[0])

            def otherwise() -> Any:
                near = mb.greater(x=flag, y=np.float32(-5))
                less, same = (lambda: mb.sub(x=x, y=np.float32(2))), (lambda: mb.sub(x=twice, y=x))
                return mb.cond(pred=near, _true_fn=less, _false_fn=same)

            positive = mb.greater(x=flag, y=np.float32(0))
            return mb.cond(pred=positive, _true_fn=lambda: mb.add(x=twice, y=one), _false_fn=otherwise)

        cases.append(Case(f"cond_{sign}", [x, flag], chosen, expected))
    return cases


def _loops() -> list[Case]:
    """A loop with one in it, and one that never begins."""
    start, most = np.array([0.0], np.float32), np.array([10.0], np.float32)

    def nested(mb: Any, x: Any, y: Any) -> Any:
        """While i < y: while 2·i < i + 3: i += 1; i += 2."""
        three = mb.const(val=np.array([3.0], np.float32))

        def inner(i: Any) -> Any:
            return mb.less(x=mb.mul(x=i, y=np.float32(2)), y=mb.add(x=i, y=three))

        def body(i: Any, j: Any) -> Any:
            raised = mb.while_loop(_cond=inner, _body=lambda i: mb.add(x=i, y=np.float32(1)), loop_vars=(i,))
            return mb.add(x=raised, y=np.float32(2)), j

        return mb.while_loop(_cond=lambda i, j: mb.less(x=i, y=j), _body=body, loop_vars=(x, y))[0]

    i = 0.0
    while i < 10:
        while 2 * i < i + 3:
            i += 1
        i += 2
    return [
        Case("loop", [start, most], nested, np.array([i])),
        Case("loop_none", [most + 1, most], nested, most + 1),
    ]


def lists() -> list[Case]:
    """Writing, also behind the end, reading, and the length."""
    a, b = _x(2, 3), _x(4, 3)
    where = np.array([5, 0, 3, 1], np.int32)

    def written(mb: Any, a: Any, b: Any, i: Any) -> Any:
        ls = mb.make_list(init_length=2, elem_shape=(3,))
        ls = mb.list_write(
            ls=ls, index=1, value=mb.squeeze(x=mb.slice_by_size(x=a, begin=[0, 0], size=[1, 3]), axes=[0])
        )
        return mb.list_scatter(ls=ls, indices=i, value=b)

    expected = np.zeros((6, 3), np.float32)
    expected[1] = a[0]
    expected[where] = b

    def gathered(mb: Any, *given: Any) -> Any:
        return mb.list_gather(ls=written(mb, *given), indices=[5, 2, 0])

    def counted(mb: Any, *given: Any) -> Any:
        return mb.cast(x=mb.list_length(ls=written(mb, *given)), dtype="fp32")

    def powers(mb: Any, x: Any, n: Any) -> Any:
        """The list of x⁰ to xⁿ⁻¹, as long as n says."""
        limit = mb.squeeze(x=n, axes=[0])
        ls = mb.make_list(init_length=1, elem_shape=(2, 3))

        def body(i: Any, power: Any, ls: Any) -> Any:
            return mb.add(x=i, y=1), mb.mul(x=power, y=x), mb.list_write(ls=ls, index=i, value=power)

        goes_on = lambda i, power, ls: mb.less(x=i, y=limit)  # noqa: E731
        ones = mb.fill(shape=[2, 3], value=np.float32(1))
        _, _, ls = mb.while_loop(_cond=goes_on, _body=body, loop_vars=(0, ones, ls))
        return mb.list_gather(ls=ls, indices=mb.range_1d(start=0, end=mb.list_length(ls=ls), step=1))

    given = [a, b, where]
    cases = [
        Case("list_read", given, lambda mb, *g: mb.list_read(ls=written(mb, *g), index=3), expected[3]),
        Case("list_gather", given, gathered, expected[[5, 2, 0]]),
        Case("list_length", given, counted, np.array(6)),
    ]
    for count in (1, 4):
        expected = np.stack([a**i for i in range(count)])
        cases.append(Case(f"list_loop_{count}", [a, np.array([count], np.int32)], powers, expected))
    return cases


def flow() -> list[Case]:
    """Branches and loops."""
    return [*_branches(), *_loops()]


FAMILIES = {"flow": flow, "lists": lists}
LISTS = {"make_list", "list_write", "list_scatter"}
"""Operations of lists, which are no results of a program: the cases hold them beside their own."""
