"""Whatever rules a device selects, and whichever of them a user leaves out, a network stays the same function."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.device_profiles import list_profiles, load_profile
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.program import run
from sdmobile.rewrites.registry import rules_for
from tests.rewrites.networks import Attention, Network, build, networks

# Rules hold 100 dB and more each, some networks amplify; an exchange of operands leaves 10 to 60 dB.
BOUND_DB = 95.0


def rule_sets() -> dict[tuple[str, ...], tuple[str, bool]]:
    """Returns every set of rules that a device gets by itself or with --plain-ops, with one device that gets it."""
    sets = {}
    for device in list_profiles():
        for plain in (False, True):
            rules = rules_for(load_profile(device), RewriteOptions(plain))
            sets.setdefault(tuple(rule.name for rule in rules), (device, plain))
    return {names: choice for names, choice in sets.items() if names}


@st.composite
def selections(draw: st.DrawFn) -> tuple[str, RewriteOptions]:
    """Returns a device, and options that keep a part of its rules, in half of the cases all."""
    names, (device, plain) = draw(st.sampled_from(sorted(rule_sets().items())))
    without = draw(st.one_of(st.just([]), st.lists(st.sampled_from(names), max_size=4, unique=True)))
    return device, RewriteOptions(plain, without=tuple(without))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks of this size are faster in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def level(network: Network, device: str, options: RewriteOptions) -> float:
    """Returns the PSNR in dB of a network after a device's rules against the same as captured, in float32."""
    program, inputs = build(network)
    rewritten = rewrite(program, rules_for(load_profile(device), options)).program
    return agreement(run(program, inputs), run(rewritten, inputs))


@given(network=networks, selection=selections())
@settings(max_examples=50, derandomize=True, deadline=None, database=None)
def test_a_network_stays_the_same_function(network: Network, selection: tuple[str, RewriteOptions]) -> None:
    assert level(network, *selection) >= BOUND_DB


@pytest.mark.parametrize(("device", "plain"), [("android-cpu", False), ("galaxy-s23-ultra", True)])
def test_normalised_queries_and_keys_are_not_exchanged(device: str, plain: bool) -> None:
    """Both norms are copies of one traced body; attention takes the two as operands."""
    network = Network((Attention(4, True, 0, "none", "operator", False),), (4, 5), 1, 0)
    assert level(network, device, RewriteOptions(plain)) >= 120.0
