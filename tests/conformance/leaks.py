"""What of a DICOM file is in messages: values of its tags in any spelling that a careless program gives them, and pixels.

Knows nothing of what the product means to send: it is given a file and messages, and says what it found.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.valuerep import PersonName

from tests.parties.ear import Heard

RUN = 16  # pixels

# Legitimately public: what is said of the pixel spacing and the image's size. All else is looked for.
PUBLIC_TAGS = {
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PhysicalDeltaX",
    "PhysicalDeltaY",
    "PixelData",  # looked for as pixels
}
# Words that say nothing of a person and that the schema uses too; a value that is more than one of them is looked for.
PUBLIC_WORDS = {
    "none",
    "area",
    "head",
    "chest",
    "lung",
    "lungs",
    "device",
    "dicom",
    "standard",
    "site",
    "image",
    "right",
    "left",
}
_OPAQUE = re.compile(r"[0-9a-f-]{8,}")  # digests and ids: chance puts short values into them
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Secret:
    """One value of one tag, in one spelling."""

    tag: str
    text: str  # lower case

    @property
    def is_word(self) -> bool:
        """Short, or one word: found where it stands alone, else chance finds it everywhere."""
        return len(self.text) < 8


def secrets(file: FileDataset) -> list[Secret]:
    """Every value of every tag, nested and private ones too: texts of 3 or more characters, numbers of 4 or more digits."""
    found: dict[Secret, None] = {}
    for part in (file, file.file_meta):
        for tag, value in _values(part):
            for text in _spellings(value):
                if text not in PUBLIC_WORDS:
                    found[Secret(tag, text)] = None
    return list(found)


def _values(part: Dataset) -> Iterator[tuple[str, Any]]:
    for element in part:
        name = element.keyword or f"private {element.tag}"
        if name in PUBLIC_TAGS:
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _values(item)
        elif element.VM > 1 and not isinstance(element.value, (str, bytes)):
            yield from ((name, each) for each in element.value)
        elif element.value is not None:
            yield name, element.value


def _spellings(value: Any) -> Iterator[str]:
    """As it is; a name also in its parts; a date or time also with dashes or colons."""
    if isinstance(value, bytes):
        yield from _texts(value.decode("latin-1").strip("\0 "))
        yield from _texts(value.strip(b"\0").hex())
    elif isinstance(value, PersonName):
        yield from _texts(str(value))
        for part in re.split(r"[\^= ]+", str(value)):
            yield from _texts(part)
    else:
        text = str(value).strip()
        yield from _texts(text)
        if match := re.match(r"((?:19|20)\d\d)(\d\d)(\d\d)", text):
            yield "-".join(match.groups())
        elif match := re.match(r"([0-2]\d)([0-5]\d)([0-5]\d)(?:\.\d+)?$", text):
            yield ":".join(match.groups())


def _texts(text: str) -> Iterator[str]:
    """None, where it is too short to mean anything."""
    digits = sum(char.isdigit() for char in text)
    is_number = re.fullmatch(r"[-+0-9.eE]+", text) is not None
    if (is_number and digits >= 4) or (not is_number and len(text) >= 3):
        yield text.lower()


def told(messages: Iterable[Heard], hidden: Iterable[Secret]) -> set[str]:
    """Which secrets are in any message: topic, properties, payload as it came and unpacked."""
    strings = {string for message in messages for string in _strings(message)}
    opaque = {string for string in strings if _OPAQUE.fullmatch(string)}
    words = {word for string in strings - opaque for word in _WORD.findall(string)} | strings
    everything = "\n".join(strings)
    return {
        f"{secret.tag}: {secret.text}"
        for secret in hidden
        if (secret.text in words if secret.is_word else secret.text in everything)
    }


def _strings(message: Heard) -> Iterator[str]:
    """Every text and number that a message holds, lower case."""
    parts: list[Any] = [message.topic, *message.topic.split("/"), message.properties]
    for payload in {message.payload, message.plain}:
        parts.append(payload.decode("latin-1"))
    with contextlib.suppress(msgspec.DecodeError):
        parts.append(message.body)
    yield from (text.lower() for part in parts for text in _leaves(part))


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from _leaves(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(value)
    elif isinstance(node, bytes):
        yield node.decode("latin-1")
        yield node.hex()
    elif node is not None and not isinstance(node, bool):
        yield str(node)


# ---------------------------------------------------------------- pixels


def runs(frames: Iterable[NDArray[np.uint8]]) -> set[bytes]:
    """Every `RUN` pixels in a row of the frames, but those of one or two greys: they are no picture."""
    found: set[bytes] = set()
    for frame in frames:
        for line in np.atleast_2d(frame.reshape(frame.shape[0], -1)):
            windows = np.lib.stride_tricks.sliding_window_view(line, RUN)
            ranged = windows.max(axis=1).astype(int) - windows.min(axis=1) > 2
            found.update(window.tobytes() for window in windows[ranged])
    return found


def shown(messages: Iterable[Heard], pixels: set[bytes]) -> list[str]:
    """The topics of messages that hold such a run: as bytes, packed or not, in Base64, in hex or as a list of numbers."""
    return [
        message.topic
        for message in messages
        if any(
            blob[start : start + RUN] in pixels
            for blob in _blobs(message)
            for start in range(max(0, len(blob) - RUN + 1))
        )
    ]


def _blobs(message: Heard) -> Iterator[bytes]:
    yield message.payload
    yield message.plain
    texts = [message.topic, message.payload.decode("latin-1"), message.plain.decode("latin-1")]
    texts += [str(value) for value in message.properties.values()]
    for text in texts:
        for run in re.findall(r"[A-Za-z0-9+/_-]{22,}", text):
            for skipped in range(4):  # wherever it begins
                part = run[skipped:].replace("-", "+").replace("_", "/")
                yield base64.b64decode(part[: len(part) // 4 * 4])
        for run in re.findall(r"[0-9a-fA-F]{32,}", text):
            for skipped in range(2):
                part = run[skipped:]
                yield binascii.unhexlify(part[: len(part) // 2 * 2])
        for run in re.findall(r"\d{1,3}(?:\s*,\s*\d{1,3}){15,}", text):
            numbers = [int(number) for number in run.split(",")]
            yield bytes(number if number < 256 else 0 for number in numbers)
