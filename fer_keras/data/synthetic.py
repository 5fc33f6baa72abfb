"""Parametric faces that the project draws itself: the embedded default data, and faces with known attributes.

Each face is a list of filled outlines, placed by facial action units (FACS): brows, lids, nose wrinkle, lip corners, jaw.
A person keeps face shape, hair and skin over eight pictures, one per emotion, so that emotion is independent of every
attribute: a model judged by group on unmodified drawn faces has nothing to find. Gender presentation, age group and skin
tone are drawing conventions with known truth; they say nothing about people.

Drawing is plain arithmetic on numpy arrays (an exact-area polygon filler, no fonts, no threads, no system library), and
randomness uses uniform numbers of PCG64 only, so the same (seed, index) gives the same pixels on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError
from fer_keras.labels import EMOTIONS

if TYPE_CHECKING:
    import pandas as pd

GENDERS = ("Female", "Male")
AGE_GROUPS = ("child", "young", "adult", "senior")
SKIN_TONES = ("light", "medium", "dark")
#: Attribute columns of the table that `draw_faces` returns, in its order.
COLUMNS = ("label", "gender", "age_group", "skin_tone", "identity", "hair", "glasses", "beard")
PICTURES_PER_PERSON = len(EMOTIONS)
MIN_SIZE, MAX_SIZE = 32, 512

_PICTURE, _NOISE, _PERSON, _PEOPLE = 0, 1, 2, 3  # separate random streams of one seed


def draw_faces(count: int = 2400, seed: int = 0, size: int = 48, channels: int = 1) -> tuple[np.ndarray, pd.DataFrame]:
    """Draw `count` faces.

    Returns (faces, table): faces uint8 (count, size, size, channels), grey or RGB, 0..255; table with one row a face and the
    columns of COLUMNS: label, gender, age_group, skin_tone, identity ("person0012"), hair, glasses ("yes"/"no"), beard
    ("yes"/"no"). Raises ConfigError for count < 1, a size outside 32..512, channels other than 1 or 3, or a negative seed.
    """
    import pandas as pd

    if count < 1:
        raise ConfigError(f"count must be 1 or more drawn faces, got {count}")
    _check(0, seed, size, channels)
    faces = np.empty((count, size, size, channels), np.uint8)
    rows = []
    for index in range(count):
        faces[index] = draw_face(index, seed, size, channels)
        rows.append(describe_face(index, seed))
    return faces, pd.DataFrame(rows, columns=list(COLUMNS))


def draw_face(index: int, seed: int = 0, size: int = 48, channels: int = 1) -> np.ndarray:
    """Draw face number `index` of a seed: uint8 (size, size, channels), grey or RGB, 0..255.

    The same face comes out, larger or smaller, at every size. Raises ConfigError as `draw_faces` does.
    """
    _check(index, seed, size, channels)
    person, picture = _cast(index, seed)
    drawing = _Drawing(channels)
    _draw_head(drawing, person, picture)
    return drawing.render(picture, size, _Chance(seed, _NOISE, index))


def describe_face(index: int, seed: int = 0) -> dict[str, str]:
    """What is known about face number `index` of a seed, without drawing it: the columns of COLUMNS."""
    person, picture = _cast(index, seed)
    return {
        "label": picture.emotion,
        "gender": person.gender,
        "age_group": person.age_group,
        "skin_tone": person.skin_tone,
        "identity": f"person{index // PICTURES_PER_PERSON:04d}",
        "hair": person.hair,
        "glasses": "yes" if picture.glasses else "no",
        "beard": "yes" if person.beard > 0 else "no",
    }


def _check(index: int, seed: int, size: int, channels: int) -> None:
    if index < 0:
        raise ConfigError(f"a drawn face's index is 0 or more, got {index}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(f"drawn faces can be {MIN_SIZE} to {MAX_SIZE} pixels wide, got size {size}; the usual one is 48")
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")


class _Chance:
    """Random numbers from uniform doubles alone: numpy may change its other distributions between releases."""

    def __init__(self, *entropy: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._pool: list[float] = []

    def unit(self) -> float:
        """From 0 up to 1."""
        if not self._pool:
            self._pool = self._generator.random(64).tolist()
        return self._pool.pop()

    def between(self, low: float, high: float) -> float:
        """Uniform from low to high."""
        return low + (high - low) * self.unit()

    def around(self, centre: float, spread: float) -> float:
        """Bell-shaped around a centre, standard deviation `spread`, never further than three of them."""
        return centre + spread * 2.0 * (self.unit() + self.unit() + self.unit() - 1.5)

    def happens(self, probability: float) -> bool:
        """True with a probability."""
        return self.unit() < probability

    def choose(self, options: Sequence) -> Any:
        """One element, all equally likely."""
        return options[int(self.unit() * len(options))]

    def shuffled(self, options: Sequence) -> list:
        """A random order (Fisher-Yates)."""
        items = list(options)
        for last in range(len(items) - 1, 0, -1):
            other = int(self.unit() * (last + 1))
            items[last], items[other] = items[other], items[last]
        return items

    def field(self, shape: tuple[int, ...]) -> np.ndarray:
        """float64 array, bell-shaped around 0 with standard deviation 1."""
        parts = self._generator.random((3, *shape))
        return (parts[0] + parts[1] + parts[2] - 1.5) * 2.0


# --- who is in the picture ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Person:
    """One person: what stays the same over the pictures. Lengths are in half face heights; y points down."""

    gender: str
    age_group: str
    skin_tone: str
    skin: tuple[float, float, float]
    hair_colour: tuple[float, float, float]
    lip_colour: tuple[float, float, float]
    iris: tuple[float, float, float]
    hair: str
    fringe: bool
    hair_side: int
    wears_glasses: bool
    glasses_round: float
    beard: float
    face_width: float
    jaw: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    brow_y: float
    brow_thickness: float
    brow_arch: float
    nose_y: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip: float
    mouth_rest: float
    brow_rest: float
    lines: float
    lashes: float


@lru_cache(maxsize=16)  # the pictures of one person follow each other
def _person_and_turns(number: int, seed: int) -> tuple[_Person, tuple[str, ...]]:
    chance = _Chance(seed, _PERSON, number)
    turns = tuple(chance.shuffled(EMOTIONS))
    return _person(number, seed, chance), turns


@lru_cache(maxsize=1)  # a face is usually drawn and described one after the other
def _cast(index: int, seed: int) -> tuple[_Person, _Picture]:
    """Who is on picture `index`, doing what."""
    number, turn = divmod(index, PICTURES_PER_PERSON)
    person, turns = _person_and_turns(number, seed)
    return person, _Picture.shot(turns[turn], _Chance(seed, _PICTURE, index), person)


def _attributes(number: int, seed: int) -> tuple[str, str, str]:
    """Gender, age group and skin tone of a person.

    Every 12 people hold each age x skin once and six of each gender; every 24 hold each of the 24 combinations once.
    """
    half_block, place = divmod(number, 12)
    cells = [(age, skin) for age in range(len(AGE_GROUPS)) for skin in range(len(SKIN_TONES))]
    age, skin = _Chance(seed, _PEOPLE, half_block).shuffled(cells)[place]
    return GENDERS[(age + skin + half_block) % 2], AGE_GROUPS[age], SKIN_TONES[skin]


def _person(number: int, seed: int, chance: _Chance) -> _Person:
    gender, age, tone = _attributes(number, seed)
    female, child, senior = gender == "Female", age == "child", age == "senior"
    skin = {"light": (226, 184, 160), "medium": (188, 142, 112), "dark": (138, 98, 76)}[tone]
    warmth, shade = chance.around(0, 4), chance.around(1, 0.03)
    skin = tuple(channel * shade + warmth * sign for channel, sign in zip(skin, (1, 0, -1), strict=True))
    hairs = {
        "light": ((60, 42, 32), (110, 76, 48), (176, 136, 84), (140, 70, 40), (36, 30, 30)),
        "medium": ((34, 28, 26), (52, 38, 30), (84, 58, 40)),
        "dark": ((26, 22, 22), (40, 30, 26)),
    }[tone]
    hair_colour = chance.choose(hairs)
    if senior and chance.happens(0.8):
        grey = chance.between(120, 205)
        hair_colour = (grey, grey, grey * 0.98)
    elif senior or (age == "adult" and chance.happens(0.15)):
        hair_colour = tuple(0.6 * channel + 0.4 * 130 for channel in hair_colour)
    if female:
        hair = chance.choose(("long", "long", "bob", "bun", "curly", "short") if not senior else ("bob", "short", "bun", "curly"))
    else:
        hair = chance.choose({"senior": ("bald", "receding", "short", "short")}.get(age, ("short", "short", "parted", "curly")))
        if age == "adult" and chance.happens(0.2):
            hair = "bald"
    makeup = chance.between(0.3, 1.0) if female and not child else chance.between(0, 0.15)
    natural = tuple(channel * factor for channel, factor in zip(skin, (0.82, 0.62, 0.62), strict=True))
    red = (168, 48, 62)
    lips = tuple(0.55 * makeup * target + (1 - 0.55 * makeup) * own for target, own in zip(red, natural, strict=True))
    beard = 0.0
    if not female and age in ("adult", "senior") and chance.happens(0.4):
        beard = chance.between(0.3, 0.75)
    rounder = {"child": 1.0, "young": 0.25, "adult": 0.0, "senior": 0.1}[age]
    return _Person(
        gender=gender,
        age_group=age,
        skin_tone=tone,
        skin=skin,
        hair_colour=hair_colour,
        lip_colour=lips,
        iris=chance.choose(((60, 42, 30), (50, 36, 28), (70, 90, 110), (74, 88, 60)) if tone == "light" else ((44, 30, 24),)),
        hair=hair,
        fringe=hair in ("long", "bob", "short", "parted") and chance.happens(0.35),
        hair_side=chance.choose((-1, 1)),
        wears_glasses=chance.happens(0.3),
        glasses_round=chance.unit(),
        beard=beard,
        face_width=chance.around(0.77, 0.025) + 0.06 * rounder - (0.01 if female else -0.01),
        jaw=chance.around(0.52 if female else 0.42, 0.03) - 0.03 * rounder,
        eye_x=chance.around(0.345, 0.015),
        eye_y=chance.around(-0.12, 0.02) + 0.07 * rounder,
        eye_width=chance.around(0.175, 0.01) + 0.02 * rounder,
        eye_height=chance.around(0.095, 0.008) + 0.02 * rounder,
        eye_tilt=chance.around(0.015, 0.015),
        brow_y=chance.around(-0.3, 0.015) + 0.01 * rounder - (0.02 if female else 0),
        brow_thickness=chance.around(0.032 if female else 0.044, 0.004) - 0.006 * rounder,
        brow_arch=chance.around(0.05 if female else 0.035, 0.012),
        nose_y=chance.around(0.27, 0.02) + 0.01 * rounder,
        nose_width=chance.around(0.135, 0.012) + (0 if female else 0.012) - 0.02 * rounder,
        mouth_y=chance.around(0.57, 0.018) + 0.01 * rounder,
        mouth_width=chance.around(0.285, 0.018) - 0.03 * rounder,
        lip=chance.around(1.1 if female else 0.85, 0.1),
        mouth_rest=chance.around(0, 0.01),
        brow_rest=chance.around(0, 0.011),
        lines={"child": 0.0, "young": 0.0, "adult": 0.15, "senior": 0.5}[age] * chance.between(0.7, 1.2),
        lashes=(0.6 + 0.4 * chance.unit()) if female else 0.0,
    )


# --- what the face does ------------------------------------------------------------------------------------------------


@dataclass
class _ActionUnits:
    """Strength of facial action units, 0 (rest) to about 1 (strong). The numbers are those of FACS."""

    inner_brow_raise: float = 0.0  # AU1
    outer_brow_raise: float = 0.0  # AU2
    brow_lower: float = 0.0  # AU4
    lid_raise: float = 0.0  # AU5
    cheek_raise: float = 0.0  # AU6
    lid_tighten: float = 0.0  # AU7
    nose_wrinkle: float = 0.0  # AU9
    upper_lip_raise: float = 0.0  # AU10
    corner_pull: float = 0.0  # AU12
    dimple: float = 0.0  # AU14, one side
    corner_depress: float = 0.0  # AU15
    chin_raise: float = 0.0  # AU17
    lip_stretch: float = 0.0  # AU20
    lip_press: float = 0.0  # AU23 and AU24
    lips_part: float = 0.0  # AU25
    jaw_drop: float = 0.0  # AU26 and AU27
    lid_droop: float = 0.0  # AU43, partly closed


# Several ways to show one emotion, as in Ekman's and Du's tables of prototypes; contempt's units act on one side only.
_PROTOTYPES: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "neutral": ({}, {}, {"lips_part": 0.25}),
    "happiness": (
        {"corner_pull": 1.0, "cheek_raise": 0.6},
        {"corner_pull": 1.0, "cheek_raise": 0.7, "lips_part": 0.8},
        {"corner_pull": 0.95, "cheek_raise": 1.0, "lips_part": 0.7, "jaw_drop": 0.4},
    ),
    "surprise": (
        {"inner_brow_raise": 1.0, "outer_brow_raise": 1.0, "lid_raise": 0.8, "jaw_drop": 0.9},
        {"inner_brow_raise": 0.9, "outer_brow_raise": 1.0, "lid_raise": 1.0, "jaw_drop": 0.55},
    ),
    "sadness": (
        {"inner_brow_raise": 1.0, "brow_lower": 0.4, "corner_depress": 1.0, "chin_raise": 0.7, "lid_droop": 0.3},
        {"inner_brow_raise": 0.9, "brow_lower": 0.3, "corner_depress": 0.9, "chin_raise": 0.3, "lid_droop": 0.8},
    ),
    "anger": (
        {"brow_lower": 1.0, "lid_raise": 0.3, "lid_tighten": 0.5, "lip_press": 1.0, "chin_raise": 0.3},
        {"brow_lower": 1.0, "lid_raise": 0.2, "lid_tighten": 0.7, "lips_part": 0.9, "lip_stretch": 0.25, "corner_depress": 0.3},
    ),
    "disgust": (
        {
            "nose_wrinkle": 1.0,
            "upper_lip_raise": 0.9,
            "brow_lower": 0.45,
            "lid_tighten": 0.8,
            "corner_depress": 0.4,
            "cheek_raise": 0.4,
        },
        {
            "nose_wrinkle": 0.9,
            "upper_lip_raise": 1.0,
            "brow_lower": 0.3,
            "lid_tighten": 0.8,
            "lips_part": 0.45,
            "cheek_raise": 0.4,
        },
    ),
    "fear": (
        {
            "inner_brow_raise": 1.0,
            "outer_brow_raise": 0.4,
            "brow_lower": 0.5,
            "lid_raise": 1.0,
            "lip_stretch": 1.0,
            "lips_part": 0.4,
        },
        {
            "inner_brow_raise": 0.95,
            "outer_brow_raise": 0.4,
            "brow_lower": 0.5,
            "lid_raise": 0.95,
            "lip_stretch": 0.85,
            "lips_part": 0.8,
            "jaw_drop": 0.35,
        },
    ),
    "contempt": (
        {"corner_pull": 0.95, "dimple": 1.1, "outer_brow_raise": 0.7, "lid_droop": 0.3},
        {"corner_pull": 1.15, "dimple": 1.1, "outer_brow_raise": 0.3, "lid_tighten": 0.25, "lid_droop": 0.2},
    ),
}


@dataclass
class _Picture:
    """One shot of a person: expression, pose, light and camera."""

    emotion: str
    units: _ActionUnits
    side: int  # where one-sided units act: -1 left in the picture, 1 right, 0 both
    glasses: bool
    teeth: float
    gaze: tuple[float, float]
    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]
    light: tuple[float, float]
    gain: float
    offset: float
    backdrop: tuple[float, float, float]
    backdrop_slope: tuple[float, float]
    shirt: tuple[float, float, float]
    blur: float
    noise: float

    @classmethod
    def shot(cls, emotion: str, chance: _Chance, person: _Person) -> _Picture:
        """Draw the chances of one picture. Nothing but the action units depends on the emotion."""
        strength = chance.between(0.65, 1.1)
        units = _ActionUnits()
        prototype = chance.choose(_PROTOTYPES[emotion])
        for unit in fields(_ActionUnits):
            own = prototype.get(unit.name, 0.0) * strength * chance.between(0.82, 1.15)
            stray = max(0.0, chance.around(0.0, 0.05))  # no face is fully at rest
            setattr(units, unit.name, own + stray)
        units.dimple = prototype.get("dimple", 0.0) * strength
        side = chance.choose((-1, 1))
        backdrop = chance.between(40, 225)
        return cls(
            emotion=emotion,
            units=units,
            side=side if emotion == "contempt" else 0,
            glasses=person.wears_glasses and chance.happens(0.85),
            teeth=chance.between(0.6, 1.0),
            gaze=(chance.around(0, 0.22), chance.around(0, 0.12)),
            yaw=chance.around(0, 0.13),
            pitch=chance.around(0, 0.08),
            roll=chance.around(0, 0.08),
            scale=chance.around(1.08, 0.045),
            shift=(chance.around(0, 0.022), chance.around(-0.015, 0.022)),
            light=(chance.around(0, 0.14), chance.around(-0.04, 0.1)),
            gain=chance.around(0.96, 0.08),
            offset=chance.around(0, 7),
            backdrop=tuple(backdrop + chance.around(0, 10) for _ in range(3)),
            backdrop_slope=(chance.around(0, 18), chance.around(0, 18)),
            shirt=tuple(chance.between(25, 220) for _ in range(3)),
            blur=chance.between(0.004, 0.014),
            noise=chance.between(1.0, 5.5),
        )


# --- drawing -----------------------------------------------------------------------------------------------------------
# Points are complex numbers, x + iy, x to the right and y down: one array operation where pairs would need two.

_U = np.linspace(-1.0, 1.0, 17)  # along the mouth and the lids, from left to right
_BOW = 1.0 - _U * _U
_ROUND = np.sqrt(_BOW)
_REACH = np.abs(_U) * np.sqrt(np.abs(_U))
_T = np.linspace(0.0, 1.0, 9)
_B0, _B1, _B2 = (1 - _T) * (1 - _T), 2 * _T * (1 - _T), _T * _T
_JAGGED = np.resize([1.0, -0.6, 0.3, -1.0, 0.8, -0.4], 15)
_TAPER = 0.35 + 0.65 * 4 * _T * (1 - _T)
_TURN = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
_SIN, _COS = np.sin(_TURN), np.cos(_TURN)
_OUTLINE = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
_OUTLINE_SIN, _OUTLINE_COS = np.sin(_OUTLINE), np.cos(_OUTLINE)
_ARC = np.linspace(-1.9, 1.9, 25)  # over the skull, 0 is the crown
_ARC_SIN, _ARC_COS = np.sin(_ARC), np.cos(_ARC)
_FAINT = 0.05  # lines of less alpha are left out
_NOT_YET = np.zeros(18, complex)  # holds the place of a stroke's outline
_GRID = 4096.0  # places are rounded to this part of a pixel, which swallows the last-digit differences between machines


def _curve(start: tuple[float, float], control: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Quadratic Bezier curve, complex (9,)."""
    return _B0 * complex(*start) + _B1 * complex(*control) + _B2 * complex(*end)


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array([complex(*point) for point in points])


def _ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    return (x + width * _COS) + 1j * (y + height * _SIN)


def _between(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Outline of what lies between two curves over the same x."""
    return np.concatenate([x + 1j * top, (x + 1j * bottom)[::-1]])


def _ribbon(points: np.ndarray, half_width: float | np.ndarray) -> np.ndarray:
    """Outline of a line with a thickness. complex (n,) -> (2 n,)."""
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    across = along * (1j * half_width / (np.abs(along) + 1e-9))
    return np.concatenate([points + across, (points - across)[::-1]])


@dataclass
class _Drawing:
    """A list of shapes, painted in order.

    Depth says how a shape moves when the head turns: 0 lies on the face's curved surface, more stands out of it, None
    belongs to the outline of the head, which does not move.
    """

    channels: int
    contours: list[np.ndarray] = field(default_factory=list)
    depths: list[float | None] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # the polygon that a contour belongs to
    alphas: list[float] = field(default_factory=list)  # of each polygon
    strokes: list[tuple] = field(default_factory=list)
    glows: list[tuple] = field(default_factory=list)
    layers: list[tuple] = field(default_factory=list)

    def paint(self, colour: Sequence[float]) -> tuple[float, ...]:
        """A colour (RGB 0..255) in the drawing's channels; grey is ITU-R 601 luma."""
        if self.channels == 3:
            return tuple(colour)
        return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2],)

    def fill(
        self,
        *contours: np.ndarray,
        colour: Sequence[float],
        alpha: float = 1.0,
        depth: float | None = 0.0,
        inside: int | None = None,
    ) -> int:
        """Fill contours (several of opposite direction make a ring). `inside` names a polygon that clips this one."""
        number = len(self.alphas)
        self.alphas.append(min(max(alpha, 0.0), 1.0))
        for contour in contours:
            self.contours.append(contour)
            self.depths.append(depth)
            self.owners.append(number)
        self.layers.append((True, number, inside, self.paint(colour)))
        return number

    def line(
        self,
        points: np.ndarray,
        width: float | np.ndarray,
        colour: Sequence[float],
        alpha: float = 1.0,
        depth: float | None = 0.0,
    ) -> None:
        """A line of half width `width`; nothing where it would hardly be visible."""
        if alpha > _FAINT:
            self.fill(_ribbon(points, width), colour=colour, alpha=alpha, depth=depth)

    def stroke(
        self,
        start: tuple[float, float],
        control: tuple[float, float],
        end: tuple[float, float],
        width: float | np.ndarray,
        colour: Sequence[float],
        alpha: float = 1.0,
        depth: float | None = 0.0,
    ) -> None:
        """A line along a quadratic Bezier curve. All strokes get their outlines together, in `render`: there are many."""
        if alpha > _FAINT:
            self.strokes.append((len(self.contours), complex(*start), complex(*control), complex(*end), width))
            self.fill(_NOT_YET, colour=colour, alpha=alpha, depth=depth)

    def glow(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Sequence[float],
        alpha: float,
        depth: float | None = 0.0,
        inside: int | None = None,
    ) -> None:
        """A soft ellipse: shading, blush, sockets."""
        if alpha > _FAINT:
            self.layers.append((False, len(self.glows), inside, self.paint(colour)))
            self.glows.append((complex(*centre), complex(*radii), depth, min(alpha, 1.0)))

    def render(self, picture: _Picture, size: int, chance: _Chance) -> np.ndarray:
        """Paint everything: uint8 (size, size, channels)."""
        self._outline_strokes()
        counts = [len(contour) for contour in self.contours]
        centres, radii, glow_depths, glow_alphas = zip(*self.glows, strict=True)
        depths = np.array([np.nan if depth is None else depth for depth in (*self.depths, *glow_depths)])
        depths = np.repeat(depths, counts + [1] * len(centres))
        places = _project(np.concatenate([*self.contours, centres]), depths, picture, size)
        masks = _coverage(places[: -len(centres)], counts, self.owners, self.alphas, size)
        unit = 0.45 * size * picture.scale
        glows = _soft_ellipses(places[-len(centres) :], np.array(radii) * unit, glow_alphas, size)
        axis = (np.arange(size) + 0.5) / size * 2.0 - 1.0
        across, down = axis[None, :], axis[:, None]
        shade = across * picture.backdrop_slope[0] + down * picture.backdrop_slope[1]
        canvas = np.stack([level + shade for level in self.paint(picture.backdrop)])
        for is_polygon, number, inside, colour in self.layers:
            patch = masks[number] if is_polygon else glows[number]
            if inside is not None:
                patch = _overlap(patch, masks[inside])
            top, left, mask = patch
            area = canvas[:, top : top + mask.shape[0], left : left + mask.shape[1]]
            for plane, level in zip(area, colour, strict=True):
                change = level - plane
                change *= mask
                plane += change
        canvas *= (1.0 + picture.light[0] * across + picture.light[1] * down) * picture.gain
        canvas += picture.offset
        canvas = _blurred(canvas, picture.blur * size)
        canvas += chance.field((size, size)) * picture.noise
        return np.clip(np.floor(canvas + 0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()

    def _outline_strokes(self) -> None:
        """What `_curve` and `_ribbon` do, for all strokes at once."""
        where, *ends, widths = zip(*self.strokes, strict=True)
        start, control, end = (np.array(each)[:, None] for each in ends)
        points = _B0 * start + _B1 * control + _B2 * end
        along = (control - start) * (1 - _T) + (end - control) * _T
        across = along * (1j / (np.abs(along) + 1e-9)) * np.stack([np.broadcast_to(width, _T.shape) for width in widths])
        outlines = np.concatenate([points + across, (points - across)[:, ::-1]], axis=1)
        for number, outline in zip(where, outlines, strict=True):
            self.contours[number] = outline


def _project(points: np.ndarray, depth: np.ndarray, picture: _Picture, size: int) -> np.ndarray:
    """Face coordinates -> pixels, both complex. Features slide over a rounded head as it turns and nods; then roll, scale,
    shift. A depth of NaN does not slide.
    """
    x, y = points.real, points.imag
    # sine and cosine by their series: the angles are small, and the digits are the same everywhere
    yaw, pitch, roll = picture.yaw, picture.pitch, picture.roll
    relief = np.sqrt(np.maximum(0.0, 1.0 - x * x * 1.5 - y * y * 0.8)) * 0.62 + depth
    moved = x * (1.0 - yaw * yaw / 2) + relief * yaw + 1j * (y * (1.0 - pitch * pitch / 2) + relief * pitch)
    turned = np.where(np.isnan(depth), points, moved)
    sine, cosine = roll - roll * roll * roll / 6, 1.0 - roll * roll / 2
    unit = 0.45 * size * picture.scale
    placed = turned * complex(cosine * unit, sine * unit) + complex(0.5 + picture.shift[0], 0.5 + picture.shift[1]) * size
    return np.floor(placed.real * _GRID + 0.5) / _GRID + 1j * (np.floor(placed.imag * _GRID + 0.5) / _GRID)


def _coverage(
    points: np.ndarray, counts: list[int], owners: list[int], alphas: Sequence[float], size: int
) -> list[tuple[int, int, np.ndarray]]:
    """Share of every pixel that each polygon covers, times its alpha.

    Returns one (top, left, float64 (height, width) 0..1) patch a polygon. Every edge adds, on each of a few lines per
    pixel row, the area to its right; the running sum along the row is the cover. All polygons are summed in one flat
    array: a closed outline's row ends at zero, so one row's sum does not run into the next.
    """
    lines = 4 if size <= 64 else 3 if size <= 128 else 2
    starts = np.cumsum(counts) - counts
    following = np.arange(1, len(points) + 1)
    following[starts + np.array(counts) - 1] = starts
    # the box of each polygon; its contours follow each other
    first_point = starts[np.flatnonzero(np.diff(owners, prepend=-1))]
    limits = [np.minimum.reduceat(points.real, first_point), np.maximum.reduceat(points.real, first_point)]
    limits += [np.minimum.reduceat(points.imag, first_point), np.maximum.reduceat(points.imag, first_point)]
    left, right, top, bottom = np.clip(np.stack(limits), 0, size)
    left, top = left.astype(np.int64), top.astype(np.int64)
    width, height = np.ceil(right).astype(np.int64) - left, np.ceil(bottom).astype(np.int64) - top
    offset = np.cumsum(height * (width + 2))
    total = int(offset[-1])
    offset -= height * (width + 2)

    owner = np.repeat(owners, counts)
    x, y = points.real, points.imag * lines
    end_x, end_y = x[following], y[following]
    steps = np.stack([y, end_y])
    limit = np.clip(np.ceil(steps - 0.5), 0, size * lines).astype(np.int64)
    spans = np.abs(limit[1] - limit[0])
    edge = np.repeat(np.arange(len(points)), spans)
    line = np.arange(len(edge)) + np.repeat(np.minimum(limit[0], limit[1]) - np.cumsum(spans) + spans, spans)
    rise = end_y - y
    gradient = (end_x - x) / np.where(rise == 0, 1.0, rise)
    of = owner[edge]
    crossing = (x - y * gradient)[edge] + (line + 0.5) * gradient[edge] - left[of]
    crossing = np.minimum(np.maximum(crossing, 0.0), width[of])
    column = crossing.astype(np.int64)
    sign = np.where(rise > 0, -1.0 / lines, 1.0 / lines)[edge]
    beyond = sign * (crossing - column)
    cell = offset[of] + (line // lines - top[of]) * (width[of] + 2) + column
    area = np.bincount(cell, sign - beyond, total + 1) + np.bincount(cell + 1, beyond, total + 1)
    cover = np.minimum(np.abs(np.cumsum(area)), 1.0)
    cover[:-1] *= np.repeat(alphas, height * (width + 2))
    return [
        (y0, x0, cover[start : start + rows * (columns + 2)].reshape(rows, columns + 2)[:, :columns])
        for y0, x0, rows, columns, start in np.stack([top, left, height, width, offset], axis=1).tolist()
    ]


def _overlap(patch: tuple[int, int, np.ndarray], other: tuple[int, int, np.ndarray]) -> tuple[int, int, np.ndarray]:
    """The product of two patches, where both are."""
    (top, left, mask), (other_top, other_left, other_mask) = patch, other
    low, high = max(top, other_top), min(top + mask.shape[0], other_top + other_mask.shape[0])
    start, stop = max(left, other_left), min(left + mask.shape[1], other_left + other_mask.shape[1])
    high, stop = max(low, high), max(start, stop)
    return (
        low,
        start,
        mask[low - top : high - top, start - left : stop - left]
        * other_mask[low - other_top : high - other_top, start - other_left : stop - other_left],
    )


def _soft_ellipses(
    centres: np.ndarray, radii: np.ndarray, alphas: Sequence[float], size: int
) -> list[tuple[int, int, np.ndarray]]:
    """Patches as `_coverage` returns, each alpha in its centre and 0 at its rim. complex (n,) centres and radii, in pixels."""
    axis = np.arange(size) + 0.5
    across = (axis - centres.real[:, None]) / radii.real[:, None]
    down = (axis - centres.imag[:, None]) / radii.imag[:, None]
    across, down = 1.0 - across * across, down * down
    low, high = centres - radii, centres + radii
    boxes = np.clip(np.stack([low.imag, high.imag + 1, low.real, high.real + 1]), 0, size).astype(np.int64).T.tolist()
    patches = []
    for number, (top, bottom, left, right) in enumerate(boxes):
        mask = across[number, None, left:right] - down[number, top:bottom, None]
        np.maximum(mask, 0.0, out=mask)
        mask *= mask
        mask *= alphas[number]
        patches.append((top, left, mask))
    return patches


def _blurred(canvas: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of float64 (channels, size, size), edges repeated."""
    radius = int(2.5 * sigma) + 1
    weights = [int(_GRID * 16 * math.exp(-0.5 * (step / sigma) ** 2)) for step in range(radius + 1)]
    whole = weights[0] + 2 * sum(weights[1:])
    for axis in (1, 2):
        length = canvas.shape[axis]
        ahead = np.arange(length)
        total = canvas * (weights[0] / whole)
        for step in range(1, radius + 1):
            before, after = np.maximum(ahead - step, 0), np.minimum(ahead + step, length - 1)
            total += (canvas.take(before, axis) + canvas.take(after, axis)) * (weights[step] / whole)
        canvas = total
    return canvas


# --- the parts of a face -----------------------------------------------------------------------------------------------


def _mixed(colour: Sequence[float], other: Sequence[float], share: float) -> tuple[float, ...]:
    return tuple(a * (1 - share) + b * share for a, b in zip(colour, other, strict=True))


def _times(colour: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(part * factor for part in colour)


def _draw_head(drawing: _Drawing, person: _Person, picture: _Picture) -> None:
    units = picture.units
    chin = 1.0 + 0.07 * units.jaw_drop
    width = person.face_width
    skin = person.skin
    _hair_behind(drawing, person)
    neck = width * (0.62 if person.gender == "Male" else 0.5)
    drawing.fill(
        _polygon((-1.5, 1.9), (-1.25, 1.38), (-neck, 1.2), (neck, 1.2), (1.25, 1.38), (1.5, 1.9)),
        colour=picture.shirt,
        depth=None,
    )
    drawing.fill(
        _polygon((-neck, 0.5), (neck, 0.5), (neck * 1.02, 1.25), (0.0, 1.42), (-neck * 1.02, 1.25)),
        colour=_times(skin, 0.78),
        depth=None,
    )
    if person.hair not in ("long", "bob"):  # long hair covers the ears
        for side in (-1, 1):
            drawing.fill(_ellipse(side * width * 1.01, 0.02, 0.1, 0.2), colour=_times(skin, 0.88), depth=None)
    # a round skull above; below, the cheeks run down to a jaw that is squarer (small exponent) or more pointed
    fall = np.maximum(0.0, _OUTLINE_COS)
    jaw = np.sign(_OUTLINE_SIN) * (np.maximum(0.0, 1.0 - fall * fall) ** person.jaw) * (1.0 - 0.13 * fall)
    across = width * np.where(_OUTLINE_COS > 0, jaw, _OUTLINE_SIN)
    head = drawing.fill(across + 1j * np.where(_OUTLINE_COS > 0, chin, 1.0) * _OUTLINE_COS, colour=skin, depth=None)
    dark = _times(skin, 0.42)
    for side in (-1, 1):  # the face turns away from the light at its sides
        drawing.glow((side * width, 0.2), (0.38, 1.0), _times(skin, 0.62), 0.5, depth=None, inside=head)
        drawing.glow((side * 0.42, 0.25 - 0.05 * units.cheek_raise), (0.3, 0.25), (215, 120, 105), 0.18, inside=head)
    drawing.glow((0.0, -0.55), (0.5, 0.3), _mixed(skin, (255, 250, 240), 0.35), 0.4, inside=head)
    if person.beard > 0:
        _beard(drawing, person, units, head, chin)
    _wrinkles(drawing, person, units, dark)
    _nose(drawing, person, units, dark)
    _mouth(drawing, person, picture, dark)
    for side in (-1, 1):
        _eye(drawing, person, picture, side, dark)
    _hair_front(drawing, person)
    for side in (-1, 1):  # after the hair: a fringe must not hide raised brows
        _brow(drawing, person, picture, side)
    if picture.glasses:
        _glasses(drawing, person)


def _eye(drawing: _Drawing, person: _Person, picture: _Picture, side: int, dark: Sequence[float]) -> None:
    units = picture.units
    x, y, half = side * person.eye_x, person.eye_y, person.eye_width
    upper = person.eye_height * (1.0 + 0.7 * units.lid_raise - 0.65 * units.lid_droop - 0.3 * units.lid_tighten)
    upper *= 1.0 - 0.25 * units.cheek_raise
    lower = person.eye_height * (0.62 + 0.2 * units.lid_raise - 0.6 * units.lid_tighten - 0.75 * units.cheek_raise)
    upper = max(upper, 0.02)
    lower = max(lower, 0.022 - upper)
    tilt = -person.eye_tilt * side * _U
    left = x + half * _U
    top, bottom = y + tilt - upper * _ROUND * (0.55 + 0.45 * _BOW), y + tilt + lower * _BOW
    shadow = _times(person.skin, 0.66)
    drawing.glow((x, y - 0.09), (half * 1.5, 0.17), shadow, 0.45)
    white = drawing.fill(_between(left, top, bottom), colour=(232, 228, 222))
    gaze_x, gaze_y = picture.gaze
    centre_x, centre_y = x + gaze_x * half * 0.8, y - 0.01 + gaze_y * 0.1 + 0.012 * units.lid_droop
    drawing.fill(_ellipse(centre_x, centre_y, 0.088, 0.088), colour=person.iris, inside=white)
    drawing.fill(_ellipse(centre_x, centre_y, 0.042, 0.042), colour=(12, 10, 10), inside=white)
    drawing.fill(_ellipse(centre_x - 0.03, centre_y - 0.035, 0.018, 0.018), colour=(250, 250, 250), alpha=0.9, inside=white)
    lash = _mixed(dark, (15, 12, 12), 0.35 + 0.5 * person.lashes)
    drawing.line(left + 1j * (top - 0.008), 0.019 + 0.009 * person.lashes, lash)
    drawing.line(left + 1j * (bottom + 0.006), 0.009, dark, 0.55)
    crease = top - 0.05 - 0.02 * units.lid_droop
    drawing.line((left + 1j * crease)[2:-2], 0.008, dark, 0.45 * (1 - 0.5 * units.lid_tighten))
    bag = 0.25 * person.lines + 0.55 * units.cheek_raise + 0.35 * units.lid_tighten
    drawing.line((left + 1j * (bottom + 0.075 * (0.5 + _BOW * 0.5)))[2:-2], 0.011, dark, 0.5 * bag)


def _brow(drawing: _Drawing, person: _Person, picture: _Picture, side: int) -> None:
    units = picture.units
    raised = units.outer_brow_raise
    inner_raise = units.inner_brow_raise
    if picture.side:  # only one brow rises
        raised = raised * (1.0 if side == picture.side else 0.0)
        inner_raise += 0.4 * raised
    lowered = units.brow_lower
    inner_y = -0.19 * inner_raise + 0.2 * lowered * (1 - 0.6 * min(inner_raise, 1)) + 0.05 * units.nose_wrinkle
    middle_y = -0.09 * inner_raise - 0.14 * raised + 0.12 * lowered * (1 - 0.6 * min(inner_raise, 1)) + 0.03 * units.nose_wrinkle
    outer_y = 0.03 * inner_raise - 0.17 * raised + 0.02 * lowered + 0.01 * units.cheek_raise
    y = person.brow_y + person.brow_rest
    pinch = 0.05 * lowered + 0.02 * units.nose_wrinkle
    start = (side * (person.eye_x - 0.19 - pinch), y + 0.01 + inner_y)
    middle = (side * (person.eye_x + 0.02 - pinch * 0.5), y - 2 * person.brow_arch + middle_y * 1.3)
    end = (side * (person.eye_x + 0.23), y + 0.03 + outer_y)
    thickness = person.brow_thickness * (1.25 - 0.75 * _T) * (1 + 0.15 * lowered)
    # hair of the brow is kept darker than the skin by the same share for everyone: brows carry much of an expression
    colour = _mixed(_times(person.skin, 0.3), person.hair_colour, 0.2)
    drawing.stroke(start, middle, end, thickness, colour, 0.95)


def _nose(drawing: _Drawing, person: _Person, units: _ActionUnits, dark: Sequence[float]) -> None:
    wrinkle = units.nose_wrinkle
    y = person.nose_y - 0.05 * wrinkle - 0.02 * units.upper_lip_raise
    half = person.nose_width * (1 + 0.15 * wrinkle + 0.1 * units.corner_pull)
    skin = person.skin
    drawing.glow((0.0, 0.05), (0.09, 0.35), _mixed(skin, (255, 250, 240), 0.5), 0.5, depth=0.12)
    drawing.stroke((0.075, -0.12), (0.05, 0.05), (0.1, y - 0.1), 0.018, _times(skin, 0.62), 0.45, depth=0.1)
    drawing.glow((0.0, y + 0.02), (half * 1.3, 0.1), _times(skin, 0.6), 0.6, depth=0.12)
    for side in (-1, 1):
        drawing.stroke(
            (side * half * 0.85, y - 0.1),
            (side * half * 1.35, y - 0.02),
            (side * half * 0.75, y + 0.02),
            0.014,
            dark,
            0.7,
            depth=0.1,
        )
        drawing.fill(_ellipse(side * half * 0.48, y + 0.012, 0.036, 0.02), colour=_times(dark, 0.55), alpha=0.9, depth=0.14)
        for step in range(3):  # wrinkles beside and over the bridge
            low = -0.13 + 0.075 * step
            drawing.stroke(
                (side * 0.02, low - 0.01),
                (side * 0.07, low - 0.025),
                (side * (0.115 + 0.02 * step), low + 0.05),
                0.013,
                dark,
                0.8 * wrinkle,
                depth=0.1,
            )


def _mouth(drawing: _Drawing, person: _Person, picture: _Picture, dark: Sequence[float]) -> None:
    units = picture.units
    jaw, part, press = min(units.jaw_drop, 1.1), units.lips_part, min(units.lip_press, 1.0)
    pull, stretch, raise_ = units.corner_pull, units.lip_stretch, units.upper_lip_raise
    pulls = [pull, pull]  # left, right in the picture
    if picture.side:
        pulls[0 if picture.side > 0 else 1] *= 0.08
    smile = (pulls[0] + pulls[1]) / 2
    narrow = jaw * 0.3 * (1 - min(1.0, smile + stretch))
    base = person.mouth_width * (1 - narrow - 0.08 * press - 0.06 * units.chin_raise - 0.05 * raise_)
    y = person.mouth_y + 0.05 * jaw - 0.035 * units.chin_raise - 0.015 * smile
    reach = [base * (1 + 0.3 * each + 0.38 * stretch) for each in pulls]
    depress = 0.13 * units.corner_depress
    corners = [depress + person.mouth_rest - 0.16 * each + 0.03 * stretch for each in pulls]
    if picture.side:
        corners[0 if picture.side < 0 else 1] -= 0.02 * units.dimple
    right = _U > 0
    x = np.where(right, reach[1], reach[0]) * _U
    rest = y + np.where(right, corners[1], corners[0]) * _REACH
    # how far the lips are apart, above and below the line between the corners
    up = 0.02 * part + 0.035 * jaw + 0.1 * raise_ + 0.05 * smile * min(1.0, part + jaw) + 0.015 * stretch * part
    down = 0.085 * part + 0.27 * jaw + 0.015 * stretch * part
    open_ = part + jaw + 0.35 * raise_
    squared = min(1.0, 0.7 * stretch + (0.7 * part if units.brow_lower > 0.3 else 0.0))
    shape = _BOW * (1 - squared) + _ROUND * squared
    if jaw > 0.2:
        shape = shape * (1 - min(jaw, 1.0) * 0.6) + _ROUND * min(jaw, 1.0) * 0.6
    inner_top = rest - up * shape
    inner_bottom = rest + np.maximum(down * shape, -up * shape + 0.004)
    if open_ < 0.12:
        inner_bottom = inner_top + 0.006
    upper_lip = 0.052 * person.lip * (1 - 0.8 * press) * (1 - 0.3 * smile) * (1 + 0.15 * raise_)
    lower_lip = 0.075 * person.lip * (1 - 0.75 * press) * (1 - 0.25 * smile) * (1 + 0.25 * raise_ + 0.15 * units.chin_raise)
    bow = _BOW * (1.0 - 0.22 * (1 - np.minimum(1.0, np.abs(_U) * 4)))
    outer_top, outer_bottom = inner_top - upper_lip * bow, inner_bottom + lower_lip * _BOW
    lips = person.lip_colour
    band = _between(x, outer_top, outer_bottom)
    drawing.glow((0.0, float(outer_bottom[8]) + 0.06), (0.2, 0.06), _times(person.skin, 0.66), 0.5 + 0.4 * units.chin_raise)
    drawing.fill(band, colour=lips)
    drawing.fill(_between(x, outer_top, inner_top), colour=_times(lips, 0.84))
    hole = drawing.fill(_between(x, inner_top, inner_bottom), colour=(46, 16, 18))
    gap = up + down
    if open_ >= 0.12 and gap > 0.03:
        white = _times((236, 232, 222), picture.teeth * 0.15 + 0.85)
        if jaw > 0.25:
            drawing.glow((0.0, y + down * 0.85), (base * 0.8, down * 0.6), (170, 70, 76), 0.8, inside=hole)
        visible = min(1.0, part + 0.9 * raise_ + 0.25 * jaw) * (0.35 if jaw > 0.5 and smile < 0.4 else 1.0)
        tall = min(0.1, 0.75 * gap) * picture.teeth
        drawing.fill(
            _between(x * 0.93, inner_top, inner_top + tall),
            colour=white,
            alpha=visible,
            inside=hole,
        )
        if squared > 0.25:  # stretched or squared mouths bare the lower teeth too
            low = min(0.07, 0.4 * gap)
            drawing.fill(
                _between(x * 0.9, inner_bottom - low, inner_bottom),
                colour=white,
                alpha=min(1.0, 0.9 * squared),
                inside=hole,
            )
            drawing.line(x * 0.93 + 1j * ((inner_top + inner_bottom) / 2), 0.007, dark, 0.6)
    else:
        thickness = (0.013 + 0.007 * press) * (0.6 + 0.4 * _BOW)
        drawing.line(x + 1j * ((inner_top + inner_bottom) / 2), thickness, _times(dark, 0.7), 0.95)
    for side, each, width, corner in zip((-1, 1), pulls, reach, corners, strict=True):
        drawing.glow((side * width, y + corner), (0.06, 0.05), _times(dark, 0.9), 0.5 + 0.3 * each)
        fold = 0.55 * person.lines + 0.75 * each + 0.7 * units.nose_wrinkle + 0.25 * raise_
        fold_start = person.nose_width + 0.06
        drawing.stroke(
            (side * fold_start, person.nose_y - 0.06 - 0.05 * units.nose_wrinkle),
            (side * (fold_start + 0.13 + 0.06 * each), person.nose_y + 0.04),
            (side * (width + 0.085), y + corner * 0.6 + 0.02),
            0.014 * _TAPER,
            dark,
            0.55 * fold,
        )
        if picture.side == side:  # the tightened corner of contempt
            drawing.stroke(
                (side * (width + 0.05), y + corner - 0.09),
                (side * (width + 0.1), y + corner),
                (side * (width + 0.04), y + corner + 0.08),
                0.019 * _TAPER,
                dark,
                0.85 * units.dimple,
            )
        if units.corner_depress > 0.15:
            drawing.stroke(
                (side * (width + 0.01), y + corner),
                (side * (width + 0.06), y + corner + 0.05),
                (side * (width + 0.05), y + corner + 0.13),
                0.013 * _TAPER,
                dark,
                0.6 * units.corner_depress,
            )
    chin_y = y + 0.24 + 0.25 * jaw
    drawing.stroke(
        (-0.13, chin_y + 0.03), (0.0, chin_y - 0.05), (0.13, chin_y + 0.03), 0.013 * _TAPER, dark, 0.55 * units.chin_raise
    )


def _wrinkles(drawing: _Drawing, person: _Person, units: _ActionUnits, dark: Sequence[float]) -> None:
    raised = max(units.inner_brow_raise * 0.7, (units.inner_brow_raise + units.outer_brow_raise) * 0.5)
    for step in range(3):
        y = -0.56 - 0.085 * step - 0.04 * raised
        half = 0.4 - 0.05 * step
        bend = 0.05 - 0.08 * max(0.0, units.inner_brow_raise - units.outer_brow_raise)
        drawing.stroke(
            (-half, y + 0.01), (0.0, y - bend), (half, y + 0.01), 0.01 * _TAPER, dark, 0.3 * person.lines + 0.4 * raised
        )
    for side in (-1, 1):
        drawing.stroke(
            (side * 0.05, -0.42),
            (side * 0.035, -0.32),
            (side * 0.06, -0.2),
            0.014 * _TAPER,
            dark,
            0.75 * units.brow_lower * (1 - 0.4 * min(1.0, units.inner_brow_raise)) + 0.1 * person.lines,
        )
        for step in (-1, 0, 1):  # crow's feet
            start = person.eye_x + person.eye_width + 0.03
            drawing.stroke(
                (side * start, person.eye_y + 0.02 * step),
                (side * (start + 0.05), person.eye_y + 0.035 * step),
                (side * (start + 0.1), person.eye_y + 0.07 * step),
                0.008,
                dark,
                0.35 * person.lines + 0.35 * units.cheek_raise,
            )


def _beard(drawing: _Drawing, person: _Person, units: _ActionUnits, head: int, chin: float) -> None:
    colour = _mixed(_times(person.skin, 0.5), person.hair_colour, 0.5)
    width, y = person.face_width, person.mouth_y
    around = np.concatenate(
        [
            _curve((-width * 1.05, 0.15), (-width * 0.85, 0.5), (-0.4, y - 0.12)),
            _curve((-0.3, y - 0.17), (0.0, y - 0.22), (0.3, y - 0.17)),
            _curve((0.4, y - 0.12), (width * 0.85, 0.5), (width * 1.05, 0.15)),
            _curve((width * 1.1, 0.7), (0.0, chin * 1.55), (-width * 1.1, 0.7)),
        ]
    )
    drawing.fill(around, colour=colour, alpha=person.beard * 0.8, depth=None, inside=head)
    drawing.glow(
        (0.0, y + 0.02 + 0.1 * units.jaw_drop), (0.55, 0.27), person.skin, 0.9
    )  # the beard thins around the lips, which must stay readable


def _hair_behind(drawing: _Drawing, person: _Person) -> None:
    width, colour = person.face_width, _times(person.hair_colour, 0.82)
    if person.hair in ("long", "bob"):
        low = 1.6 if person.hair == "long" else 0.75
        drawing.fill(
            np.concatenate(
                [
                    width * 1.2 * _ARC_SIN + 1j * (-1.14 * _ARC_COS - 0.02),
                    _curve((width * 1.3, 0.45), (width * 1.4, low * 0.8), (width * 1.1, low)),
                    _curve((-width * 1.1, low), (-width * 1.4, low * 0.8), (-width * 1.3, 0.45)),
                ]
            ),
            colour=colour,
            depth=None,
        )
    elif person.hair == "bun":
        drawing.fill(_ellipse(0.0, -1.16, 0.3, 0.24), colour=colour, depth=None)
    elif person.hair == "curly":
        for step in range(11):
            place = 1 + step * 2  # every second point of the arc over the skull
            x, y = width * 1.08 * _ARC_SIN[place], -1.0 * _ARC_COS[place]
            drawing.fill(_ellipse(x, y, 0.22, 0.2), colour=colour, depth=None)


def _hair_front(drawing: _Drawing, person: _Person) -> None:
    """Hair over the forehead: from the crown down to a hairline, with temples and strands."""
    if person.hair == "bald":
        return
    width, colour, hair = person.face_width, person.hair_colour, person.hair
    line = -0.9 if hair == "receding" else -0.6 if person.fringe else -0.72
    temple = {"receding": -0.3, "bun": -0.25, "long": 0.15, "bob": 0.15}.get(hair, -0.12)
    volume = {"receding": 1.02, "bun": 1.06, "short": 1.15, "parted": 1.17}.get(hair, 1.13)
    reach = slice(1, -1) if temple > 0 else slice(4, -4)
    crown = width * (volume - 0.05) * _ARC_SIN[reach] - 1j * volume * _ARC_COS[reach]
    part = {"parted": -0.4, "long": 0.15, "short": 0.1}.get(hair, 0.0) * width * person.hair_side
    corner = 0.93 if person.fringe else 0.86
    low = line + (0.12 if hair == "parted" else 0.0)  # combed over to one side
    right = _curve((width * 0.99, temple), (width * corner, low - 0.12), (part, line - 0.03))
    left = _curve((part, line - 0.03), (-width * corner, line - 0.12), (-width * 0.99, temple))
    hairline = np.concatenate([right, left[1:]])
    hairline[1:-1] += 1j * 0.022 * _JAGGED  # locks, not the rim of a cap
    drawing.fill(np.concatenate([crown, hairline]), colour=colour, depth=None)
    light, shade = _mixed(colour, (255, 250, 240), 0.22), _times(colour, 0.7)
    for step, tint in zip((-0.62, -0.36, -0.12, 0.14, 0.4, 0.64), (shade, light, shade, light, light, shade), strict=True):
        x = width * step
        drawing.stroke(
            (part + (x - part) * 0.5, -volume + 0.16 * step * step + 0.02),
            (x * 1.05, -0.95),
            (x * 1.12, line - 0.08 + 0.25 * step * step),
            0.022 * _TAPER,
            tint,
            0.5,
            depth=None,
        )


def _glasses(drawing: _Drawing, person: _Person) -> None:
    colour = _mixed((28, 26, 30), person.hair_colour, 0.2)
    y = person.eye_y + 0.01
    wide, tall = 0.245, 0.165 + 0.05 * person.glasses_round
    square = 1.0 - person.glasses_round
    for side in (-1, 1):
        # between an ellipse and a rounded box
        bulge = 1.0 + square * 0.9 * (_SIN * _SIN) * (_COS * _COS)
        ring = side * (person.eye_x + 0.01) + wide * _COS * bulge + 1j * (y + tall * _SIN * bulge)
        centre = complex(side * (person.eye_x + 0.01), y)
        inner = centre + (ring - centre) * 0.87
        drawing.fill(ring, colour=(255, 255, 255), alpha=0.07, depth=0.06)
        drawing.fill(ring, inner[::-1], colour=colour, alpha=0.9, depth=0.06)
        drawing.line(
            _polygon((side * (person.eye_x + wide), y - 0.04), (side * person.face_width, y - 0.06)),
            0.018,
            colour,
            0.85,
            depth=0.0,
        )
    gap = person.eye_x - wide + 0.01
    drawing.stroke((-gap, y - 0.03), (0.0, y - 0.08), (gap, y - 0.03), 0.018, colour, 0.9, depth=0.1)
