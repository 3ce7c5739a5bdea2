"""The name of a row in a message's user properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sync.row_name import RowName, read, spelled


@given(
    epoch=st.from_regex("[0-9a-f]{1,64}", fullmatch=True),
    seq=st.integers(1, 10**18 - 1),
    sender=st.from_regex("[0-9a-zA-Z_-]{1,64}", fullmatch=True),
    encoding=st.none() | st.just("zd1"),
)
def test_what_is_written_is_read_in_either_form(
    epoch: str, seq: int, sender: str, encoding: str | None
) -> None:
    name = RowName(epoch, seq, sender, encoding)
    assert read(spelled(name)) == name
    assert len(spelled(name)) == (3 if encoding is None else 1)


def test_by_names_sender_and_encoding_may_be_missing() -> None:
    assert read((("epoch", "e"), ("seq", "7"), ("other", "x"))) == RowName("e", 7, None)
    assert read((("epoch", "e"), ("seq", "7"), ("sender", "two words"))) == RowName("e", 7, None)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"epoch": "e"},
        {"epoch": "", "seq": "1"},
        {"epoch": "e\0", "seq": "1"},
        {"epoch": "e" * 201, "seq": "1"},
        {"epoch": "e", "seq": "01"},
        {"epoch": "e", "seq": "0"},
        {"r": "zd1 e 1"},
        {"r": "zd1 e 0 s"},
        {"r": "zd1  e 1 s"},
        {"r": "zd1 e 1 s "},
        {"r": "zd1 e 1 s\n"},
        {"r": "", "epoch": "e", "seq": "1"},
    ],
)
def test_what_names_no_row_is_none(told: dict[str, str]) -> None:
    assert read(told.items()) is None
