"""The order in which groups are listed: by letters, but numbers in their names by value, so that 10-19 comes after 3-9."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_T = TypeVar("_T")


def in_order(names: Iterable[str]) -> list[str]:
    """Names as a reader expects them."""
    return sorted(names, key=_key)


def ordered(entries: Mapping[str, _T]) -> dict[str, _T]:
    """A mapping with its names as a reader expects them."""
    return {name: entries[name] for name in in_order(entries)}


def _key(name: str) -> tuple[list[str | int], str]:
    # Text and numbers take turns, so that like is compared with like; the name itself decides between 1 and 01.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))], name
