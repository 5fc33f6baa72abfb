"""Emotion names, their order, and label maps. The only place that knows them.

The canonical names are those of FER+ (Barsoum et al. 2016, https://doi.org/10.1145/2993148.2993165), in its column order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fer_keras.errors import ConfigError

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


def canonical(name: str) -> str:
    """The FER+ name of an emotion ("Angry" -> "anger"); any other name comes back stripped, otherwise as it is."""
    plain = name.strip()
    lowered = plain.lower()
    lowered = _SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EMOTIONS else plain


def is_emotion(name: str) -> bool:
    """Whether a name is an emotion of FER+ or a synonym of one."""
    return canonical(name) in EMOTIONS


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Map the class names of a data set to the names to use.

    Where every name is an emotion ("angry", "Happy"), the canonical names are used, so that sets from different places
    agree. Where one is not ("focused"), it is a class set of its own and all names stay as they are.
    """
    names = list(dict.fromkeys(names))
    if all(is_emotion(name) for name in names):
        return {name: canonical(name) for name in names}
    return {name: name.strip() for name in names}


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Unique names, emotions first in FER+ order, then the others alphabetically."""
    unique = set(names)
    return tuple(name for name in EMOTIONS if name in unique) + tuple(sorted(unique - set(EMOTIONS)))


def parse_label_map(text: str | None) -> dict[str, str | None]:
    """Read `--map` text: `disgust=anger,happy=joyful,contempt=` merges, renames and drops (nothing after `=`).

    Raises ConfigError where an entry is not `from=to` or a name is mapped twice.
    """
    mapping: dict[str, str | None] = {}
    for entry in filter(None, (part.strip() for part in (text or "").split(","))):
        source, sign, target = (part.strip() for part in entry.partition("="))
        if not sign or not source:
            raise ConfigError(f"a label map is FROM=TO (or FROM= to drop), got {entry!r}; example: --map disgust=anger,contempt=")
        if source in mapping:
            raise ConfigError(f"label {source!r} is mapped twice in {text!r}; name it once")
        mapping[source] = target or None
    return mapping


def resolve_label_map(mapping: Mapping[str, str | None], known: Iterable[str]) -> dict[str, str | None]:
    """A complete map from each known label to its name in the data set (None: dropped).

    The keys of `mapping` may be synonyms ("angry" for "anger"). A chain is not followed: a=b,b=c sends a to b.
    Raises ConfigError where a key is not a known label, or nothing is left.
    """
    known = list(known)
    complete: dict[str, str | None] = {name: name for name in known}
    for source, target in mapping.items():
        name = source if source in complete else canonical(source)
        if name not in complete:
            raise ConfigError(f"unknown label {source!r} in the label map; this data has {', '.join(known)}")
        complete[name] = target
    if not any(complete.values()):
        raise ConfigError("the label map drops every label; keep at least two")
    return complete
