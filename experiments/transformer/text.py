"""Text that is on every machine: the sources of Python's standard library, as characters.

The text is every `*.py` of the standard library, in the order of their paths, without what tests
the library (`test`, `tests`), what was installed beside it (`site-packages`), its tables of
encodings (`encodings`), and its editor and converter (`idlelib`, `lib2to3`). With Python 3.11.7
these are 479 files of 9.65 million characters, and 4.50 bits per character by unigrams.

There are 96 characters: the line break and the 95 printable ones of ASCII. Any other character
becomes a question mark. Every tenth file is for tests.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
LEFT_OUT = {"site-packages", "test", "tests", "encodings", "idlelib", "lib2to3"}
_OTHER = ALPHABET.index("?")
_TOKENS = np.array([ALPHABET.find(chr(i)) for i in range(128)])
_TOKENS = np.where(_TOKENS < 0, _OTHER, _TOKENS).astype(np.uint8)


class Text(NamedTuple):
    """Tokens `(characters,)`, uint8, for training and for tests."""

    train: np.ndarray
    test: np.ndarray


def sources() -> list[Path]:
    """Return the paths of the sources, in order."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(folder) for path in folder.rglob("*.py")]
    return [folder / path for path in sorted(paths) if not LEFT_OUT & set(path.parts)]


def load() -> Text:
    """Return the tokens of all sources."""
    tokens = [encode(path.read_text("utf-8")) for path in sources()]
    kept = [i % 10 != 9 for i in range(len(tokens))]
    return Text(*(np.concatenate([t for t, k in zip(tokens, kept, strict=True) if k == train])
                  for train in (True, False)))  # fmt: skip


def encode(text: str) -> np.ndarray:
    """Return the tokens of a text, numbers of characters in ALPHABET."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return np.where(points < 128, _TOKENS[np.minimum(points, 127)], _OTHER).astype(np.uint8)


def decode(tokens: np.ndarray) -> str:
    """Return the text of tokens."""
    return "".join(ALPHABET[token] for token in np.asarray(tokens))


def windows(
    tokens: Array, count: int, context: int, key: Array
) -> Int[Array, "count context_and_next"]:
    """Draw windows of context + 1 tokens, which may begin at any token but the last ones."""
    starts = jax.random.randint(key, (count, 1), 0, len(tokens) - context)
    return jnp.asarray(tokens)[starts + jnp.arange(context + 1)].astype(jnp.int32)


def spread(tokens: np.ndarray, context: int, count: int | None = None) -> np.ndarray:
    """Return windows of context + 1 tokens, one after the other, or `count` of them, spread evenly.

    Every character but the first is predicted once if all windows are taken.
    """
    starts = np.arange(0, len(tokens) - context, context)
    if count is not None:
        starts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    return tokens[starts[:, None] + np.arange(context + 1)].astype(np.int32)


def unigram_bits(tokens: np.ndarray) -> float:
    """Return the entropy of the characters by their frequencies, in bits per character."""
    shares = np.bincount(tokens, minlength=len(ALPHABET)) / len(tokens)
    return float(-sum(p * np.log2(p) for p in shares if p))
