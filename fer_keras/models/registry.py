"""The models by name: what exists, which options each takes, and how one is built.

An architecture module registers a builder; nothing here or there imports Keras before a model is built, so `--help` can
list models and options at once.

>>> spec = ModelSpec("cnn", classes=8, image_size=48, channels=1, options={"preset": "variant1"})
>>> model = spec.build(seed=0)

Every model takes float32 pixels 0..255 (n, image_size, image_size, channels), does its preprocessing inside, and gives
float32 softmax probabilities (n, classes).
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fer_keras.errors import ConfigError

if TYPE_CHECKING:
    import keras

#: Keras dtype policies that a model can be built with. The mixed ones compute in 16 bit and keep weights in float32.
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

#: Other names that architectures go by.
ALIASES = {"densenet": "densenet121"}


@dataclass(frozen=True)
class Option:
    """One option of an architecture.

    default: a JSON value.
    check: gives the value in its normal form, or raises ValueError whose text says what was expected.
    help: half a line for people.
    """

    default: Any
    check: Callable[[Any], Any]
    help: str


@dataclass(frozen=True)
class Architecture:
    """What is registered under a name.

    presets: named option sets; explicit options override them. The first is the default.
    check: raises ConfigError where options and picture size do not fit, before anything is built.
    complete: gives the options that are left to be chosen (drawn at random, say), so that the spec holds all of them.
    has_backbone: the model consists of two inner models, "backbone" and "head".
    listed: can be asked for by name alone; False where it is made of models that exist.
    """

    name: str
    build: Callable[[ModelSpec], keras.Model]
    options: Mapping[str, Option]
    presets: Mapping[str, Mapping[str, Any]]
    check: Callable[[ModelSpec], None] | None
    complete: Callable[[ModelSpec], dict[str, Any]] | None
    has_backbone: bool
    listed: bool
    help: str

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: the defaults, then the preset, then what was given. Raises ConfigError."""
        allowed = [*(["preset"] if self.presets else []), *self.options]
        for key in given:
            if key not in allowed:
                raise ConfigError(f"model {self.name} has no option {key!r}; it has {', '.join(allowed)}")
        values = {key: option.default for key, option in self.options.items()}
        result: dict[str, Any] = {}
        if self.presets:
            preset = given.get("preset", next(iter(self.presets)))
            if preset not in self.presets:
                raise ConfigError(f"model {self.name} has no preset {preset!r}; choose from {', '.join(self.presets)}")
            result["preset"] = preset
            values.update(self.presets[preset])
        values.update({key: value for key, value in given.items() if key != "preset"})
        for key, value in values.items():
            try:
                result[key] = self.options[key].check(value)
            except ValueError as error:
                raise ConfigError(f"option {key} of model {self.name} must be {error}, got {value!r}") from None
        return result


_architectures: dict[str, Architecture] = {}


def register(
    name: str,
    *,
    options: Mapping[str, Option],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    check: Callable[[ModelSpec], None] | None = None,
    complete: Callable[[ModelSpec], dict[str, Any]] | None = None,
    has_backbone: bool = False,
    listed: bool = True,
    help: str = "",
) -> Callable[[Callable[[ModelSpec], keras.Model]], Callable[[ModelSpec], keras.Model]]:
    """Decorator: make `build(spec) -> keras.Model` known under a name. Raises ConfigError where the name is taken."""

    def decorate(build: Callable[[ModelSpec], keras.Model]) -> Callable[[ModelSpec], keras.Model]:
        if name in _architectures or name in ALIASES:
            raise ConfigError(f"a model named {name!r} is registered already; choose another name")
        _architectures[name] = Architecture(
            name, build, dict(options), dict(presets or {}), check, complete, has_backbone, listed, help
        )
        return build

    return decorate


@functools.cache
def _import_architectures() -> None:
    """Run the `register` lines. They stand in modules that import this one, hence not at the top."""
    from fer_keras.models import cnn, densenet, ensemble, random_cnn, resnet  # noqa: F401


def architecture(name: str) -> Architecture:
    """What is registered under a name or alias. Raises ConfigError listing the choices."""
    _import_architectures()
    try:
        return _architectures[ALIASES.get(name, name)]
    except (KeyError, TypeError):
        choices = ", ".join([*list_models(), *ALIASES])
        raise ConfigError(f"unknown arch {name!r}; choose from {choices}") from None


def list_models() -> list[str]:
    """The names that `create_model` knows, in alphabetical order; without aliases and what is made of other models."""
    _import_architectures()
    return sorted(name for name, found in _architectures.items() if found.listed)


def default_options(name: str) -> dict[str, Any]:
    """Every option of an architecture with its default value. Raises ConfigError for an unknown name."""
    return architecture(name).resolve({})


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a model again, as JSON values; written into run folders and exported models.

    name: the registered name; an alias becomes the name it stands for.
    classes: number of probabilities.
    image_size: height and width of the pictures, in pixels.
    channels: 1 for grey, 3 for RGB.
    options: given ones; after construction it holds every option of the architecture with its value, so that a default
        that changes later does not change models that exist.

    Raises ConfigError where a value is impossible or does not fit the others.
    """

    name: str
    classes: int
    image_size: int
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = architecture(self.name)
        object.__setattr__(self, "name", found.name)
        for key, minimum in (("classes", 2), ("image_size", 1)):
            value = getattr(self, key)
            if not _is_whole(value) or value < minimum:
                raise ConfigError(f"{key} must be a whole number of {minimum} or more, got {value!r}")
            object.__setattr__(self, key, int(value))
        if self.channels not in (1, 3):
            raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels!r}")
        object.__setattr__(self, "channels", int(self.channels))
        object.__setattr__(self, "options", found.resolve(self.options))
        if found.complete:
            object.__setattr__(self, "options", found.resolve(found.complete(self)))
        if found.check:
            found.check(self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` takes it back."""
        return {
            "name": self.name,
            "classes": self.classes,
            "image_size": self.image_size,
            "channels": self.channels,
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_dict` gave. Raises ConfigError where an entry is missing or unknown."""
        keys = {"name", "classes", "image_size", "channels", "options"}
        if not isinstance(value, Mapping) or set(value) != keys:
            got = ", ".join(sorted(map(str, value))) if isinstance(value, Mapping) else type(value).__name__
            raise ConfigError(f"a model spec has the entries {', '.join(sorted(keys))}; got {got}")
        return cls(**value)

    def build(self, seed: int = 0, precision: str = "float32") -> keras.Model:
        """A new Keras model with random weights.

        seed: gives the initial weights and the dropout masks; the same seed gives the same model whatever was built
            before. Keras's and Python's own random state stay as they were.
        precision: a Keras dtype policy, one of PRECISIONS, for the layers of this model only.
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        with _drawing_seeds_from(seed), _dtype_policy(precision):
            return architecture(self.name).build(self)


def create_model(
    name: str,
    *,
    classes: int,
    image_size: int,
    channels: int,
    seed: int = 0,
    precision: str = "float32",
    **options: Any,
) -> keras.Model:
    """Build a model by name: float32 pixels 0..255 (n, image_size, image_size, channels) -> probabilities (n, classes).

    options: those of the architecture, see `default_options(name)`.
    Raises ConfigError for an unknown name or option, or values that do not fit.
    """
    return ModelSpec(name, classes, image_size, channels, options).build(seed, precision)


@contextlib.contextmanager
def _drawing_seeds_from(seed: int) -> Iterator[None]:
    """Keras layers that are given no seed take one from Python's `random` when made; here that is reproducible.

    This reaches the layers of keras.applications too, which cannot be given seeds.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# Checks of option values. Each says in its ValueError what was expected; `Architecture.resolve` says the rest.


def _is_whole(value: Any) -> bool:
    import numbers

    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(minimum: int) -> Callable[[Any], int]:
    """Check: a whole number of `minimum` or more."""

    def check(value: Any) -> int:
        if not _is_whole(value) or value < minimum:
            raise ValueError(f"a whole number of {minimum} or more")
        return int(value)

    return check


def whole_list(minimum: int, *, or_one: bool = False) -> Callable[[Any], Any]:
    """Check: a list of whole numbers of `minimum` or more, not empty; with `or_one` a single number is fine too."""
    expected = f"a list of whole numbers of {minimum} or more" + (", or one such number" if or_one else "")

    def check(value: Any) -> Any:
        if or_one and _is_whole(value) and value >= minimum:
            return int(value)
        if not isinstance(value, (list, tuple)) or not value or not all(_is_whole(v) and v >= minimum for v in value):
            raise ValueError(expected)
        return [int(v) for v in value]

    return check


def or_chosen(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Check: null, which leaves the value to the architecture's `complete`, or what another check takes."""
    return lambda value: None if value is None else check(value)


def fraction_below_one(value: Any) -> float:
    """Check: a number from 0 up to but not 1, such as a dropout rate."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("a number from 0 up to, but not, 1")
    return float(value)


def flag(value: Any) -> bool:
    """Check: true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    """Check: one of the words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value

    return check
