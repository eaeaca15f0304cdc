"""Text: the topics of Python's own documentation, as ``help("topics")`` shows them."""

from __future__ import annotations

import re
from functools import cache

import torch

from ...checked import checked_whole
from .holding_out import held_out_rows, loaded
from .next_token import NextTokenLoss
from .source import Kind, Loaded

KINDS: tuple[Kind, ...] = ("tokens",)
# Fixed, so that a network fits whatever Python's version: newline and printable ASCII.
CHARACTERS = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
_AS_ASCII = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "}
)
LONGEST = 2_048


@cache
def documentation() -> str:
    """Return the topics in alphabetical order, each paragraph once.

    Many topics repeat others whole, and a repeated paragraph would stand on both sides of
    the split. So would the ruled lines of tables: of a mark or of blanks, eight in a row are
    kept. Typographic marks become ASCII; what still is none of ``CHARACTERS`` is left out.
    """
    from pydoc_data.topics import topics

    kept: dict[str, str] = {}
    for _, topic in sorted(topics.items()):
        for paragraph in topic.translate(_AS_ASCII).split("\n\n"):
            kept.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    text = re.sub(r"([^\w\n])\1{8,}", lambda run: 8 * run[1], "\n\n".join(kept.values()))
    return "".join(character for character in text if character in CHARACTERS)


@cache
def _tokens() -> bytes:
    places = bytes(max(CHARACTERS.find(chr(code)), 0) for code in range(256))
    return documentation().encode("ascii").translate(places)


def load(kind: str, seed: int, *, context: int = 64) -> Loaded:
    """Return pieces of ``context`` characters, and for each character the one after it.

    The text is cut into pieces that don't overlap, a fifth of them held out: inputs and
    targets of shape (pieces, context), int64, from 0 to 95. ``classes`` are the characters.
    The text (about 360,000 characters) is that of the Python that runs: another version
    gives other pieces, with the same 96 characters.

    Raises:
        ValueError: context is no whole number from 1 to 2,048.
    """
    context = checked_whole("context", context, 1, LONGEST)
    tokens = torch.frombuffer(bytearray(_tokens()), dtype=torch.uint8).to(torch.int64)
    pieces = (len(tokens) - 1) // context
    inputs = tokens[: pieces * context].reshape(pieces, context)
    targets = tokens[1 : pieces * context + 1].reshape(pieces, context)
    rows = held_out_rows(pieces, seed)
    return loaded(inputs, targets, rows, NextTokenLoss(), len(CHARACTERS), tuple(CHARACTERS))
