"""The faces that the project draws itself, read as any other source."""

from __future__ import annotations

from collections.abc import Iterator

from fer_keras.data.sources.base import Picture, SourceTable
from fer_keras.data.synthetic import describe_face, draw_face
from fer_keras.labels import EMOTIONS

DEFAULT_COUNT = 2400
GROUP_COLUMNS = ("gender", "age_group", "skin_tone", "hair", "glasses", "beard")


class DrawnFaces:
    """`count` drawn faces of a seed, at the size that is asked for; no files."""

    def __init__(self, count: int | None = None, seed: int = 0, size: int = 48) -> None:
        self.count, self.seed, self.size = count or DEFAULT_COUNT, seed, size

    def fingerprint(self) -> str:
        """The settings say it all, except which version of the drawing made the faces."""
        import hashlib

        return hashlib.blake2b(draw_face(0, self.seed, self.size, 3).tobytes(), digest_size=16).hexdigest()

    def read(self) -> SourceTable:
        """Emotion, identity and every attribute of each face."""
        import pandas as pd

        rows = pd.DataFrame([describe_face(index, self.seed) for index in range(self.count)])
        rows["split"] = ""
        rows["source"] = [f"drawn:{self.seed}:{index}" for index in range(self.count)]
        return SourceTable(rows, EMOTIONS, group_columns=GROUP_COLUMNS)

    def pictures(self, channels: int) -> Iterator[Picture]:
        """Draw them one by one."""
        return (Picture(draw_face(index, self.seed, self.size, channels)) for index in range(self.count))
