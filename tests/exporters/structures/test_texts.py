"""The texts of a Core ML model, as protocol buffers themselves write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.exporters.lowering import CONVERSION_DATE, Provenance
from sdmobile.exporters.structures.texts import cut_metadata, metadata_field, texts_for, varint, varint_bytes
from sdmobile.formats.mlprogram.write import program_bytes

_TEXT = st.text(max_size=200)


def _model(texts: dict[str, Any]) -> bytes:
    from coremltools.proto import Model_pb2

    model: Any = Model_pb2.Model()
    model.specificationVersion = 8
    model.description.input.add().name = "x"
    for name in ("shortDescription", "versionString", "author", "license"):
        setattr(model.description.metadata, name, texts[name])
    for key, value in texts["userDefined"].items():
        model.description.metadata.userDefined[key] = value
    model.mlProgram.version = 1
    return program_bytes(model)


@given(
    st.fixed_dictionaries(
        {name: _TEXT.filter(bool) for name in ("shortDescription", "versionString", "author", "license")}
    ),
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), _TEXT, min_size=1, max_size=8),
)
@settings(deadline=None)  # the first one imports coremltools
def test_texts_are_cut_out_and_written_again(texts: dict[str, Any], own: dict[str, str]) -> None:
    content = _model({**texts, "userDefined": own})
    length, begin, start, end, found = cut_metadata(content)
    assert found == {**texts, "userDefined": own}
    written = metadata_field(found)
    assert written == content[start:end]
    assert content[:length] + varint_bytes(end - begin) + content[begin:start] + written + content[end:] == content


@given(st.integers(0, 1 << 40))
def test_a_varint_is_read_as_it_was_written(value: int) -> None:
    data = varint_bytes(value)
    assert varint(data, 0) == (value, len(data))


def test_a_checkpoint_puts_its_own_texts_in_place_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    template = {"userDefined": {"sdmobile.source": "another", "kept": "1", CONVERSION_DATE: "2026-01-01"}}
    texts = texts_for(template, Provenance("mine", "abc", None, 0.5, "epsilon", "9"), "unet", "A denoiser")
    assert texts["shortDescription"] == "A denoiser. From mine."
    assert "does not say" not in texts["license"]
    assert texts["userDefined"] | {} == {
        "kept": "1",
        CONVERSION_DATE: "1970-01-01",
        "sdmobile.version": "9",
        "sdmobile.component": "unet",
        "sdmobile.source": "mine",
        "sdmobile.source_hash": "abc",
        "sdmobile.license": "unknown",
        "sdmobile.scaling_factor": "0.5",
        "sdmobile.prediction_type": "epsilon",
    }
