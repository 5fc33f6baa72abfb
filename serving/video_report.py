"""What was seen in videos, person by person: lines for the terminal, and a page with everybody's timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.evaluation import plots, report
from serving.drawing import GREY, label_colour
from serving.videos import FrameRows, VideoFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A timeline has so many steps; where several frames fall into one, they are averaged.
STEPS = 400
#: People of one video that are shown: as timelines and as lines of the page, and on the terminal. The others are counted.
MAX_TIMELINES = 12
MAX_LINES = 100
MAX_PRINTED = 20
#: Times in a film as long as this, in seconds, are told by the clock.
LONG_S = 120
_TICKS_S = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


@dataclass
class Person:
    """One track of one video, added up frame by frame.

    seen_s: first and last time. shown: frames by the label that was shown. sums: step -> (k + 2,): the sum of the
    probabilities, the frames, and those among them that were uncertain.
    """

    track_id: int
    frames: int = 0
    uncertain: int = 0
    seen_s: tuple[float, float] = (0.0, 0.0)
    shown: Counter[str] = field(default_factory=Counter)
    sums: dict[int, np.ndarray] = field(default_factory=dict)

    def mean(self) -> np.ndarray:
        """Mean probabilities over all frames: (k,)."""
        total = sum(self.sums.values())
        return total[:-2] / total[-2]


@dataclass
class VideoSummary:
    """One video. no_face: analysed frames in which nobody was seen. looked: steps with an analysed frame."""

    facts: VideoFacts
    looked: set[int] = field(default_factory=set)
    people: dict[int, Person] = field(default_factory=dict)
    no_face: int = 0

    def longest(self, most: int) -> list[Person]:
        """Those who were seen in the most frames, at most so many, by id."""
        chosen = sorted(self.people.values(), key=lambda person: -person.frames)[:most]
        return sorted(chosen, key=lambda person: person.track_id)


def summarise(videos: Iterable[Iterable[FrameRows]], facts: Sequence[VideoFacts]) -> list[VideoSummary]:
    """Add up a table, video by video."""
    return [_summary(rows, each) for rows, each in zip(videos, facts, strict=True)]


def _summary(rows: Iterable[FrameRows], facts: VideoFacts) -> VideoSummary:
    summary = VideoSummary(facts)
    for row in rows:
        if row.time_s is None:
            continue
        summary.no_face += not row.faces
        step = min(STEPS - 1, int(row.time_s / facts.seconds * STEPS))
        summary.looked.add(step)
        for face in row.faces:
            person = summary.people.get(face.track_id)
            if person is None:
                person = summary.people[face.track_id] = Person(face.track_id, seen_s=(row.time_s, row.time_s))
            person.frames += 1
            person.uncertain += face.uncertain
            person.seen_s = (person.seen_s[0], row.time_s)
            person.shown[face.label] += 1
            values = np.array([*face.probabilities, 1.0, float(face.uncertain)])
            person.sums[step] = person.sums.get(step, 0.0) + values
    return summary


def lines_of(summary: VideoSummary) -> list[str]:
    """A video as lines for the terminal."""
    facts = summary.facts
    start = f"{facts.path}: {facts.frames} frames analysed, {facts.seconds:.1f} s"
    lines = [f"{start}, {_people(len(summary.people))}, {summary.no_face} without a face"]
    if facts.error:
        lines.append(f"  warning: {facts.error}" if facts.frames else f"  error: {facts.error}")
    if facts.note:
        lines.append(f"  warning: {facts.note}")
    for person in summary.longest(MAX_PRINTED):
        label, frames = person.shown.most_common(1)[0]
        first, last = person.seen_s
        seen = f"{first:.1f}-{last:.1f} s" if facts.seconds < LONG_S else f"{clock_text(first)}-{clock_text(last)}"
        share = f"{frames / person.frames:.0%}"
        lines.append(
            f"  person {person.track_id:>3}  {seen:>15}  {person.frames:>6} frames  mostly {label:<12} {share:>4}"
            f"  uncertain {person.uncertain / person.frames:.0%}"
        )
    if len(summary.people) > MAX_PRINTED:
        lines.append(f"  and {len(summary.people) - MAX_PRINTED} who were seen for a shorter time")
    return lines


def plot_timelines(summary: VideoSummary, labels: Sequence[str]) -> Figure:
    """The probabilities of each person over time, stacked; blank where a person was not seen, grey below where uncertain."""
    from matplotlib.patches import Patch

    people = summary.longest(MAX_TIMELINES)
    figure = plots.new_figure(10.5, 1.1 + 0.95 * len(people))
    grid = figure.subplots(len(people), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.linspace(0.0, summary.facts.seconds, STEPS + 1)
    # A frame is shown until the next one that was analysed.
    shown_at = np.maximum.accumulate([step if step in summary.looked else 0 for step in range(STEPS)])
    for axes, person in zip(grid, people, strict=True):
        shares = np.full((STEPS, len(labels)), np.nan)
        unsure = np.full(STEPS, np.nan)
        for step, sums in person.sums.items():
            shares[step] = sums[:-2] / sums[:-2].sum()
            if sums[-1] * 2 > sums[-2]:
                unsure[step] = -0.05
        shares, unsure = shares[shown_at], unsure[shown_at]
        below = np.zeros(STEPS)
        for index in range(len(labels)):
            above = below + shares[:, index]
            axes.stairs(above, edges, baseline=np.nan_to_num(below), fill=True, color=label_colour(index), linewidth=0)
            below = above
        axes.stairs(unsure, edges, baseline=-0.16, fill=True, color=GREY, linewidth=0)
        axes.set(xlim=(0, edges[-1]), ylim=(-0.18, 1.0), yticks=(0, 0.5, 1))
        axes.set_ylabel(f"person {person.track_id}", rotation=0, ha="right", va="center")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    if summary.facts.seconds < LONG_S:
        grid[-1].set_xlabel("seconds")
    else:
        step_s = next((step for step in _TICKS_S if summary.facts.seconds <= 10 * step), 10 * _TICKS_S[-1])
        grid[-1].set_xticks(np.arange(0, summary.facts.seconds, step_s))
        grid[-1].xaxis.set_major_formatter(lambda seconds, _: clock_text(seconds))
    handles = [Patch(color=label_colour(index), label=label) for index, label in enumerate(labels)]
    handles.append(Patch(color=GREY, label="uncertain"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(9, len(handles)), frameon=False, fontsize=9)
    return figure


def page_of(summaries: Sequence[VideoSummary], labels: Sequence[str], about: Sequence[str]) -> str:
    """The page, as HTML. about: sentences on how it was made."""
    import pandas as pd

    notes = [
        *about,
        "Probabilities are calibrated and smoothed over time. A person is a face that was followed; who is out of view for some "
        "seconds, or behind a cut of the film, may come back as another. A model names what a face looks like to it, not what "
        "somebody feels.",
    ]
    sections = [("", "\n".join(report.paragraph_html(note, note=True) for note in notes))]
    for summary in summaries:
        facts = summary.facts
        parts = [
            report.paragraph_html(
                f"{_length(facts.seconds)}, {facts.frames} frames analysed, {_people(len(summary.people))}, "
                f"{summary.no_face} frames without a face."
            )
        ]
        if facts.error:
            parts.append(report.paragraph_html(f"Not whole: {facts.error}"))
        if facts.note:
            parts.append(report.paragraph_html(f"Note: {facts.note}"))
        if summary.people:
            people = summary.longest(MAX_LINES)
            timelines = summary.longest(MAX_TIMELINES)
            alt = f"Stacked probabilities over time of {_people(len(timelines))}"
            caption = "Probability of each label over time; grey below: the label is uncertain."
            if len(summary.people) > len(timelines):
                caption += f" Of {len(summary.people)} people, the {len(timelines)} seen longest."
            parts.append(report.image_html(plots.png_bytes(plot_timelines(summary, labels)), alt, caption))
            parts.append(report.table_html(pd.DataFrame([_line(person, labels, facts.seconds) for person in people]), decimals=2))
            if len(summary.people) > len(people):
                parts.append(report.paragraph_html(f"And {len(summary.people) - len(people)} more, seen for a shorter time."))
        sections.append((facts.path, "\n".join(parts)))
    return report.html_page("Faces in videos", sections)


def clock_text(seconds: float) -> str:
    """1:05 or 1:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _length(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < LONG_S else f"{clock_text(seconds)} long"


def _people(number: int) -> str:
    return f"{number} {'person' if number == 1 else 'people'}"


def _line(person: Person, labels: Sequence[str], film_s: float) -> dict[str, Any]:
    label, frames = person.shown.most_common(1)[0]
    first, last = person.seen_s
    times = {"from (s)": first, "to (s)": last} if film_s < LONG_S else {"from": clock_text(first), "to": clock_text(last)}
    line = {"person": person.track_id, **times, "frames": person.frames}
    line |= {"mostly": label, "share of frames": frames / person.frames, "uncertain": person.uncertain / person.frames}
    return line | {f"mean {name}": float(value) for name, value in zip(labels, person.mean(), strict=True)}
