"""Whether a .tflite file is whole, judged by LiteRT, which verifies its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import RuntimeFault, _flatbuffer
from edgekit.runtime.engines import litert
from tests.model_files import int8_tflite

SMALL = int8_tflite()


def whole(data: bytes) -> bool:
    try:
        _flatbuffer.check(data, "x.tflite")
    except RuntimeFault:
        return False
    return True


def loads(data: bytes) -> bool:
    try:
        litert.load(data)
    except RuntimeFault:
        return False
    return True


def test_files_of_others_are_whole_until_they_are_cut(shared: Path) -> None:
    """Some end with a zip of labels, which the engine leaves alone."""
    for path in (shared / "models").glob("*.tflite"):
        data = path.read_bytes()
        assert whole(data)
        for length in range(0, len(data) * 9 // 10, len(data) // 50):
            assert not whole(data[:length])


def test_the_fault_says_what_to_do() -> None:
    with pytest.raises(RuntimeFault, match=r"^x: not an intact .tflite file \(.*\); fetch it again$"):
        _flatbuffer.check(SMALL[:100], "x")


def test_a_file_cut_anywhere_is_refused_where_litert_refuses_it() -> None:
    for length in range(len(SMALL)):
        assert whole(SMALL[:length]) <= loads(SMALL[:length])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_any_bytes_give_an_answer(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(SMALL)
    for place, content in changes:
        data[place : place + len(content)] = content
    whole(bytes(data))
