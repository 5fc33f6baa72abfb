"""Emotion names, their order, and label maps. The only place that knows them.

The canonical names are those of FER+ (Barsoum et al. 2016, https://doi.org/10.1145/2993148.2993165), in its column order.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fer_keras.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

#: The eight FER+ emotions, in the order of its vote columns and of every model output.
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")

#: The ten FER+ vote columns: the emotions, then "unknown" and "NF" (no face).
VOTE_NAMES = (*EMOTIONS, "unknown", "NF")

#: FER2013's emotion codes 0..6 (Goodfellow et al. 2013), as canonical names.
FER2013_CODES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")

_SYNONYMS = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "contemptuous": "contempt",
}


def spelled(name: str) -> str:
    """A name without spaces around it, in composed letters (NFC): macOS writes "é" as two characters that look like one."""
    return unicodedata.normalize("NFC", name).strip()


def canonical(name: str) -> str:
    """The FER+ name of an emotion ("Angry" -> "anger"); any other name comes back as `spelled`, otherwise as it is."""
    plain = spelled(name)
    lowered = plain.lower()
    lowered = _SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EMOTIONS else plain


def is_emotion(name: str) -> bool:
    """Whether a name is an emotion of FER+ or a synonym of one."""
    return canonical(name) in EMOTIONS


def canonical_names(names: Iterable[str], found: bool = False) -> dict[str, str]:
    """Map the class names of a data set to the names to use.

    Where every name is an emotion ("angry", "Happy"), the canonical names are used, so that sets from different places
    agree. Where one is not ("focused"), it is a class set of its own and all names stay as they are, but those that differ
    only in upper and lower case are one class, in the spelling that comes first.

    found: the names are those that the data happens to have. Then those of one emotion ("happy", "Happiness") are one class too,
    in a class set of its own as well; in names that somebody chose, "joy" beside "happy" is meant.
    """
    names = list(dict.fromkeys(names))
    if all(is_emotion(name) for name in names):
        return {name: canonical(name) for name in names}
    first: dict[str, str] = {}
    same = canonical if found else spelled
    return {name: first.setdefault(same(name).casefold(), spelled(name)) for name in names}


def by_emotion(labels: Iterable[str]) -> dict[str, str]:
    """From each FER+ emotion that exactly one of the labels is a name of to that label: {"happiness": "happy"}."""
    named: dict[str, list[str]] = {}
    for label in labels:
        named.setdefault(canonical(label), []).append(label)
    return {name: found[0] for name, found in named.items() if name in EMOTIONS and len(found) == 1}


def words_to_map(lacking: Iterable[str], known: Iterable[str]) -> str:
    """The option of training.prepare that leaves no class which a model lacks, and what it does.

    A class that is another name of one that the model knows becomes that one; others are dropped.
    """
    known = set(known)
    words = ",".join(f"{label}={canonical(label) if canonical(label) in known else ''}" for label in lacking)
    return f"--map {words} (NAME= drops a class, NAME=OTHER merges it)"


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Unique names, emotions first in FER+ order, then the others alphabetically."""
    unique = set(names)
    return tuple(name for name in EMOTIONS if name in unique) + tuple(sorted(unique - set(EMOTIONS)))


def joined_name(parts: Sequence[str], sign: str) -> str:
    """Names joined by a sign between spaces: (("Female", "child"), "&") -> "Female & child".

    Other parts have another name: those with the sign, or a quotation mark, in them stand in quotation marks, as in JSON.
    """
    if len(parts) == 1:
        return parts[0]
    plain = [sign not in part.split() and '"' not in part and part == part.strip() for part in parts]
    told = (part if as_it_is else json.dumps(part, ensure_ascii=False) for part, as_it_is in zip(parts, plain, strict=True))
    return f" {sign} ".join(told)


def joined_names(parts: Sequence[np.ndarray], sign: str) -> np.ndarray:
    """`joined_name` of each row of some columns: str (n,) each -> str (n,)."""
    import numpy as np

    rows = list(zip(*(part.tolist() for part in parts), strict=True))
    names = {row: joined_name(row, sign) for row in set(rows)}
    return np.array([names[row] for row in rows], dtype=str)


def split_names(text: str) -> list[str]:
    r"""Names between commas; a comma that belongs to a name has a backslash before it: "sad,happy\, very" are two."""
    parts = (spelled(part.replace(r"\,", ",")) for part in re.split(r"(?<!\\),", text))
    return [part for part in parts if part]


def parse_label_map(text: str | None) -> dict[str, str | None]:
    """Read `--map` text: `disgust=anger,happy=joyful,contempt=` merges, renames and drops (nothing after `=`).

    A comma in a name is written as `split_names` reads it.
    Raises ConfigError where an entry is not `from=to` or a name is mapped twice.
    """
    mapping: dict[str, str | None] = {}
    for entry in split_names(text or ""):
        source, sign, target = (part.strip() for part in entry.partition("="))
        if not sign or not source:
            raise ConfigError(
                f"a label map is FROM=TO (or FROM= to drop), got {entry!r}; example: --map disgust=anger,contempt= "
                r"(write \, for a comma in a name)"
            )
        if source in mapping:
            raise ConfigError(f"label {source!r} is mapped twice in {text!r}; name it once")
        mapping[source] = target or None
    return mapping


def resolve_label_map(mapping: Mapping[str, str | None], known: Iterable[str]) -> dict[str, str | None]:
    """A complete map from each known label to its name in the data set (None: dropped).

    The keys of `mapping` may be synonyms ("angry" for "anger", or the other way), in any case. A chain is not followed: a=b,b=c
    sends a to b.
    Raises ConfigError where a key is not a known label, two keys are the same one, or nothing is left.
    """
    known = list(known)
    complete: dict[str, str | None] = {name: name for name in known}
    any_case = {name.casefold(): name for name in known}
    of_emotion = by_emotion(known)
    keys: dict[str, str] = {}
    for source, target in mapping.items():
        name = source if source in complete else any_case.get(source.casefold())
        name = name or of_emotion.get(canonical(source), source)
        if name not in complete:
            raise ConfigError(f"unknown label {source!r} in the label map; this data has {', '.join(known)}")
        if name in keys:
            raise ConfigError(f"{keys[name]!r} and {source!r} of the label map are both the label {name!r}; name it once")
        keys[name] = source
        complete[name] = target
    if not any(complete.values()):
        raise ConfigError("the label map drops every label; keep at least two")
    return complete
