"""Every setting of a training run: one dataclass, from which the command line and the config file are made."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_keras.cli import words
from fer_keras.errors import ConfigError
from fer_keras.models.registry import ALIASES

if TYPE_CHECKING:
    from fer_keras.data.pipeline import Augmentation, Mixing

TWO_PHASES = ("densenet121", "densenet169", "densenet201")
#: The config files that come with the project.
SHIPPED_CONFIGS = Path(__file__).resolve().parent / "configs"
#: Of --config.
FILE_HELP = "settings in a YAML or JSON file, or the NAME of one in training/configs, by the same names; flags win"
#: How pictures are varied: what makes the new pictures of `--balance-by augment` too, and what does not.
_OF_NEW = ("flip", "rotate", "shift", "brightness", "contrast")
_OF_VARIED = ("zoom", "erase", "dark", "blur", "noise")


def _setting(default: Any, help: str, **more: Any) -> Any:
    metadata = {"help": help, **more}
    if isinstance(default, (list, dict)):
        return field(default_factory=type(default), metadata=metadata)  # only empty ones are used
    return field(default=default, metadata=metadata)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.replace(" ", "").split(",")]


@dataclass(frozen=True)
class TrainConfig:
    """All settings of `training.train`, `None` meaning the default of the architecture or of the data.

    `resolved()` replaces every None that has a value by then; the run folder keeps the result.
    """

    data: str | None = _setting(None, "prepared data set (a folder from training.prepare); default: drawn faces", type=str)
    arch: str = _setting("cnn", "cnn, random_cnn, resnet, densenet (= densenet121), densenet169 or densenet201", type=str)
    # model
    preset: str | None = _setting(None, "named set of cnn options: main, variant1, variant2", type=str)
    layers: list[int] | None = _setting(None, "width of each conv stage, e.g. 64,128,256", type=_numbers)
    convs_per_stage: list[int] | None = _setting(None, "convolutions in each stage: one number, or one a stage", type=_numbers)
    conv_kernel: int | None = _setting(None, "size of the convolution kernels", type=int)
    pool_kernel: int | None = _setting(None, "size and stride of the pooling", type=int)
    batch_norm: bool | None = _setting(None, "batch normalisation", switch=("--batch-norm", "--no-batch-norm"))
    dropout: float | None = _setting(None, "share of features dropped before the last layer", type=float)
    head_units: list[int] | None = _setting(None, "width of the hidden layers of the head, e.g. 256", type=_numbers)
    input_size: int | None = _setting(None, "densenet: side in pixels that faces are resized to inside the model", type=int)
    options: dict[str, Any] = _setting({}, "further model option, KEY=VALUE (repeatable)", type="option")
    channels: int | None = _setting(
        None, "model input in colour or grey; default: as the data", switch=("--rgb", "--gray"), values=(3, 1)
    )
    precision: str = _setting(
        "auto",
        "arithmetic; auto takes mixed_bfloat16 where the hardware on which the run is begun is faster with it",
        type=str,
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    # transfer
    weights: str = _setting(
        "auto",
        "where to start: densenet's backbone from auto, imagenet, none, a FILE, or a NAME in saved_models/; another network from "
        "a NAME that has its architecture, or afresh (auto)",
        type=str,
    )
    frozen_epochs: int | None = _setting(
        None,
        "densenet: most epochs with the backbone frozen (default 20); 0: none, all is trained at once (from scratch with "
        "--weights none)",
        type=int,
    )
    finetune_epochs: int | None = _setting(
        None, "densenet: most epochs with the last blocks unfrozen (default 8); 0: none", type=int
    )
    finetune_lr: float = _setting(3e-4, "densenet: highest learning rate while fine-tuning", type=float)
    unfreeze_blocks: int = _setting(1, "densenet: how many dense blocks, from the end, are fine-tuned (1 to 4)", type=int)
    frozen_features: str = _setting(
        "cached",
        "cached: run the frozen backbone once and train the head on its output; live: run it in every epoch",
        type=str,
        choices=("cached", "live"),
    )
    frozen_batch_size: int | None = _setting(
        None,
        "densenet: faces in a batch while the backbone is frozen; default 256, fewer where an epoch would have under six batches",
        type=int,
    )
    feature_views: int = _setting(0, "augmented views of each face whose features are cached beside the plain one", type=int)
    # training
    epochs: int | None = _setting(None, "most epochs (with two phases: of each that is not set to 0)", type=int)
    batch_size: int = _setting(64, "faces in a batch", type=int)
    lr: float | None = _setting(
        None, "highest learning rate (default 0.001; densenet with its backbone frozen 0.003)", type=float
    )
    optimizer: str = _setting("adamw", "optimizer", type=str, choices=("adamw", "adam", "sgd"))
    weight_decay: float = _setting(1e-4, "weight decay of adamw", type=float)
    schedule: str = _setting("cosine", "learning rate over time, after the warm-up", type=str, choices=("cosine", "constant"))
    warmup: float = _setting(0.1, "share of the training over which the learning rate rises to its highest", type=float)
    patience: int = _setting(0, "stop after so many epochs without a better validation loss; 0: never (frozen: 5)", type=int)
    best_after: int | None = _setting(
        None,
        "look for the best model after this epoch, counted over both phases; default 10, lower for short runs",
        type=int,
    )
    label_smoothing: float = _setting(0.0, "share of the target spread over all classes", type=float)
    targets: str = _setting(
        "auto",
        "hard labels, soft labels from votes, or FER+'s majority filter; auto: soft where there are votes",
        type=str,
        choices=("auto", "hard", "soft", "majority"),
    )
    teacher: str | None = _setting(
        None,
        "distillation: an exported model (a path or a NAME in saved_models/) whose answers are mixed into the targets; it must "
        "not have been trained on faces that the result is judged by",
        type=str,
    )
    teacher_share: float | None = _setting(None, "share of the targets that is the teacher's (default 0.5)", type=float)
    teacher_asked: str | None = _setting(
        None,
        "faces: the teacher is asked once, about the faces as they are (the default); views: about each varied picture, moved "
        "and lit as its pupil sees it, which takes longer; never on cached features",
        type=str,
        choices=("faces", "views"),
    )
    encoding: str = _setting("one-hot", "form of the targets", switch=("--one-hot", "--sparse"), values=("one-hot", "sparse"))
    balance: list[str] = _setting([], "columns whose cells count alike: label, gender, label,gender...; none", type=words)
    balance_by: str = _setting(
        "weight",
        "weight: in the loss; resample: draw short cells more often; augment: new pictures for short cells; mean-flip: cut "
        "large cells to the mean, mirror short ones up to it; dro: group DRO, weight for the cells of highest loss",
        type=str,
        choices=("weight", "resample", "augment", "mean-flip", "dro"),
    )
    balance_target: int | None = _setting(
        None, "augment: faces that short cells are brought up to; default: as many as the largest cell has", type=int
    )
    dro_step: float = _setting(0.01, "dro: step size of the weights of the cells", type=float)
    balance_power: float = _setting(1.0, "how far to balance: 1 fully, 0.5 by the square root, 0 not at all", type=float)
    # augmentation
    augment: bool = _setting(True, "vary the training pictures", switch=("--augment", "--no-augment"))
    flip: bool = _setting(True, "mirror half of them", switch=("--flip", "--no-flip"))
    rotate: float = _setting(12.0, "largest rotation in degrees", type=float)
    shift: float = _setting(0.1, "largest shift, share of the side", type=float)
    zoom: float = _setting(0.15, "largest zoom in or out, share of the size", type=float)
    brightness: float = _setting(0.2, "largest change of brightness, share of white", type=float)
    contrast: float = _setting(0.2, "largest change of contrast, share", type=float)
    erase: float = _setting(0.25, "largest erased square, share of the side", type=float)
    dark: float = _setting(0.0, "most light that is missing, share, in half of them", type=float)
    blur: float = _setting(0.0, "widest blur, sigma as a share of the side, in half of them", type=float)
    noise: float = _setting(0.0, "strongest noise, standard deviation as a share of white, in half of them", type=float)
    mixup: float = _setting(
        0.0,
        "blend pairs of pictures and targets, shares from Beta(this, this); 0: not; 0.2, say; never on cached features",
        type=float,
    )
    cutmix: float = _setting(
        0.0,
        "put a piece of one picture onto another, area from Beta(this, this); 0: not; 1, say; never on cached features",
        type=float,
    )
    # the rest
    seed: int = _setting(0, "seed of everything random", type=int)
    out: str | None = _setting(None, "run folder; default runs/TIME-ARCH", type=str)
    export: str | None = _setting(None, "name of the exported model under saved_models/; default DATA-ARCH", type=str)
    overwrite: bool = _setting(False, "replace an exported model of that name", flag=True)
    saved_models: str = _setting(
        "saved_models", "folder of exported models; a NAME that is not there is looked for among the shipped ones", type=str
    )
    tensorboard: bool = _setting(True, "write TensorBoard logs", switch=("--tensorboard", "--no-tensorboard"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", ALIASES.get(self.arch, self.arch))
        if self.balance == ["none"]:
            object.__setattr__(self, "balance", [])
            object.__setattr__(self, "balance_by", "weight")
            object.__setattr__(self, "balance_target", None)
        bounds: dict[str, tuple[float, float]] = {
            "batch_size": (1, 65536),
            "frozen_batch_size": (1, 65536),
            "epochs": (1, 100000),
            "frozen_epochs": (0, 100000),
            "finetune_epochs": (0, 100000),
            "unfreeze_blocks": (1, 4),
            "feature_views": (0, 64),
            "warmup": (0, 0.9),
            "patience": (0, 100000),
            "best_after": (0, 100000),
            "label_smoothing": (0, 0.9),
            "teacher_share": (0, 1),
            "balance_power": (0, 1),
            "balance_target": (1, 10**7),
            "dro_step": (1e-6, 100),
            "weight_decay": (0, 1),
            "seed": (0, 2**31 - 1),
            "lr": (1e-12, 1e6),
            "finetune_lr": (1e-12, 1e6),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name.replace('_', '-')} must be from {low:g} to {high:g}, got {value}")
        for item in dataclasses.fields(self):
            choices = item.metadata.get("choices") or item.metadata.get("values")
            value = getattr(self, item.name)
            if choices and value is not None and value not in choices:
                raise ConfigError(f"{item.name.replace('_', '-')} must be one of {', '.join(map(str, choices))}, got {value!r}")
        self.new_pictures()
        if self.balance_by != "weight" and not self.balance:
            raise ConfigError(f"--balance-by {self.balance_by} needs cells to balance, such as --balance label or gender")
        if self.balance_target is not None and self.balance_by != "augment":
            raise ConfigError("--balance-target is for --balance-by augment, which brings short cells up to it")
        if self.encoding == "sparse" and self.targets == "soft":
            raise ConfigError("soft targets are distributions and need --one-hot; use --targets hard or majority with --sparse")
        if self.teacher_share is not None and not self.teacher:
            raise ConfigError("--teacher-share is for --teacher, which names the model that teaches")
        if self.teacher_asked and not self.teacher:
            raise ConfigError("--teacher-asked is for --teacher, which names the model that teaches")
        if self.teacher_asked == "views" and not self.augment:
            raise ConfigError(
                "--no-augment leaves training pictures as they are; leave --teacher-asked views out, or --no-augment"
            )
        if self.encoding == "sparse" and self.teacher:
            raise ConfigError("what a teacher says is a distribution and needs --one-hot")
        if self.encoding == "sparse" and self.label_smoothing:
            raise ConfigError("label smoothing needs --one-hot targets")
        if self.mixing() and not self.augment:
            raise ConfigError(
                "--no-augment leaves training pictures as they are; leave --mixup and --cutmix out, or --no-augment"
            )
        if self.mixing() and self.encoding == "sparse":
            raise ConfigError("mixed targets are distributions and need --one-hot")
        if self.mixing() and self.balance_by == "dro":
            raise ConfigError(
                "group DRO needs pictures that are of one cell, and mixed ones are of two; leave mixup and cutmix out"
            )

    @property
    def two_phases(self) -> bool:
        """Whether the architecture has a pretrained backbone: frozen first, then fine-tuned."""
        return self.arch in TWO_PHASES

    @property
    def most_epochs(self) -> int:
        """Epochs of all phases, of resolved settings."""
        return self.frozen_epochs + self.finetune_epochs if self.two_phases else self.epochs

    @property
    def sees_pictures(self) -> bool:
        """Whether some epoch is given pictures, not the features of a frozen backbone alone; of resolved settings."""
        return not self.two_phases or self.finetune_epochs > 0 or self.frozen_features == "live"

    def resolved(self) -> TrainConfig:
        """The same settings with the defaults of the architecture filled in."""
        if self.two_phases:
            filled = {
                "frozen_epochs": next(value for value in (self.frozen_epochs, self.epochs, 20) if value is not None),
                "finetune_epochs": next(value for value in (self.finetune_epochs, self.epochs, 8) if value is not None),
            }
            total = filled["frozen_epochs"] + filled["finetune_epochs"]
            if not total:
                raise ConfigError("frozen-epochs and finetune-epochs are both 0; there is nothing to train")
            if self.teacher_asked == "views" and filled["frozen_epochs"] and self.frozen_features == "cached":
                raise ConfigError(
                    "a teacher can't be asked about varied pictures where the frozen backbone's features are cached; give "
                    "--frozen-features live, --frozen-epochs 0 or --teacher-asked faces"
                )
        else:
            filled = {"epochs": self.epochs or 30}
            total = filled["epochs"]
        # A head on a frozen backbone learns in 20 epochs at 3e-3 what takes it 40 at 1e-3; a whole network wants smaller steps.
        filled["lr"] = self.lr or (3e-3 if filled.get("frozen_epochs") else 1e-3)
        if self.teacher:
            filled["teacher_share"] = 0.5 if self.teacher_share is None else self.teacher_share
            filled["teacher_asked"] = self.teacher_asked or "faces"
        filled["best_after"] = min(10, total // 3) if self.best_after is None else self.best_after
        return dataclasses.replace(self, **filled)

    def augmentation(self) -> Augmentation | None:
        """How training pictures are varied from epoch to epoch, or None."""
        return self.new_pictures() if self.augment else None

    def mixing(self) -> Mixing | None:
        """How training pictures are mixed with each other, or None."""
        from fer_keras.data.pipeline import Mixing

        mixing = Mixing(mixup=self.mixup, cutmix=self.cutmix)
        return mixing or None

    def new_pictures(self) -> Augmentation:
        """How the new pictures of `--balance-by augment` differ from those they are made of, with or without --augment."""
        from fer_keras.data.pipeline import Augmentation

        return Augmentation(
            flip=self.flip,
            rotate_deg=self.rotate,
            shift=self.shift,
            zoom=self.zoom,
            brightness=self.brightness,
            contrast=self.contrast,
            erase=self.erase,
            dark=self.dark,
            blur=self.blur,
            noise=self.noise,
        )

    def model_options(self) -> dict[str, Any]:
        """The options given for the model, without those left to its defaults."""
        cnn = ("preset", "layers", "convs_per_stage", "conv_kernel", "pool_kernel", "batch_norm")
        names = (*cnn, "dropout", "head_units", "input_size")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        single = ("convs_per_stage",) if self.two_phases else ("convs_per_stage", "head_units")
        for name in single:
            if len(given.get(name, ())) == 1:
                given[name] = given[name][0]
        return {**given, **self.options}

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], origin: str = "the settings") -> TrainConfig:
        """From names and values, as in a config file. Unknown names raise ConfigError with the nearest known one."""
        known = {item.name: item for item in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in settings.items():
            name = str(key).replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise ConfigError(f"unknown setting {key!r} in {origin}{hint}")
            values[name] = _checked(name, known[name], value, origin)
        return cls(**values)


def _checked(name: str, item: dataclasses.Field, value: Any, origin: str) -> Any:
    """A config file's value in the type of its setting. YAML reads 1e-3 as text and 5 as a whole number."""
    if value is None:
        if name == "options":
            return {}
        if item.default is not None:
            raise ConfigError(f"setting {name!r} in {origin} is empty; leave it out, which means {item.default}")
        return None
    kind = item.metadata.get("type")
    try:
        if kind == "option":
            if not isinstance(value, Mapping):
                raise ValueError("names and values expected, such as {normalize: standardize}")
            return dict(value)
        if item.metadata.get("flag") or ("switch" in item.metadata and "values" not in item.metadata):
            if not isinstance(value, bool):
                raise ValueError("true or false expected")
            return value
        if kind in (_numbers, words):
            parts = value if isinstance(value, list) else kind(str(value))
            return [_plain(part, int if kind is _numbers else str) for part in parts]
        return _plain(value, kind) if kind in (int, float, str) else value
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"setting {name!r} in {origin}: {value!r} does not fit ({error})") from error


def _plain(value: Any, kind: type) -> Any:
    """One value as a number or a word, if it is one: `yes` is 1 to Python, and 4.7 is 4."""
    if isinstance(value, (bool, list, dict)):
        raise ValueError(f"{'text' if kind is str else 'a number'} expected")
    if kind is int and int(value) != float(value):
        raise ValueError("a whole number expected")
    return kind(value)


def setting_names() -> list[str]:
    """The names of all settings."""
    return [item.name for item in dataclasses.fields(TrainConfig)]


def add_settings(parser: argparse.ArgumentParser, without: Sequence[str] = (), defaults: Mapping[str, str] | None = None) -> None:
    """Give a parser one option for each setting, save those that the command sets itself (`without`, by name).

    defaults: what the help tells of defaults that are this command's own. Only options that were used appear in the namespace.
    """
    defaults = defaults or {}
    for item in dataclasses.fields(TrainConfig):
        if item.name in without:
            continue
        meta, flag = item.metadata, "--" + item.name.replace("_", "-")
        text = meta["help"]
        if item.name in defaults:
            text = f"{text.partition('; default ')[0]} (default: {defaults[item.name]})"
        elif item.default is not dataclasses.MISSING and item.default not in (None, False, True):
            text += f" (default: {item.default})"
        if "switch" in meta:
            group = parser.add_mutually_exclusive_group()
            for option, value in zip(meta["switch"], meta.get("values", (True, False)), strict=True):
                group.add_argument(
                    option,
                    dest=item.name,
                    action="store_const",
                    const=value,
                    default=argparse.SUPPRESS,
                    help=text if value is not False else "not so",
                )
        elif meta.get("flag"):
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        elif meta["type"] == "option":
            parser.add_argument(
                "--option", dest="options", action="append", metavar="KEY=VALUE", default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(
                flag,
                dest=item.name,
                type=meta["type"],
                choices=meta.get("choices"),
                metavar=None if "choices" in meta else item.name.upper(),
                default=argparse.SUPPRESS,
                help=text,
            )


def _find_config(path: Path) -> Path:
    """The file that is meant: one that is there wins, else the shipped one of this name, with or without .yaml, or path."""
    if path.exists() or path.parent not in (Path(), Path("training/configs")):
        return path
    shipped = SHIPPED_CONFIGS / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if shipped.is_file() else path


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file, or from a shipped one, by its name (`ferplus-cnn-start`) or by its path in the clone.

    Raises ConfigError where it can't be read or is not names and values.
    """
    import yaml

    found = _find_config(Path(path))
    try:
        values = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        if not found.exists():
            told += f"; shipped are {', '.join(sorted(file.stem for file in SHIPPED_CONFIGS.glob('*.yaml')))}"
        raise ConfigError(f"can't read the config file {path}: {told}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the config file {path} must hold `name: value` lines, got a {type(values).__name__}")
    return values


def read_value(text: str, name: str) -> Any:
    """A value as a config file would hold it. Raises ConfigError, which tells the name, where it is no YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} can't be {text!r}: {' '.join(str(error).split())}") from error


def from_arguments(args: argparse.Namespace, config_file: str | None) -> TrainConfig:
    """Settings from a parsed command line and a config file; the command line wins."""
    names = {item.name for item in dataclasses.fields(TrainConfig)}
    flags = {name: value for name, value in vars(args).items() if name in names}
    if "options" in flags:
        pairs = [text.partition("=") for text in flags["options"]]
        if bad := [key for key, sign, _ in pairs if not sign]:
            raise ConfigError(f"--option takes KEY=VALUE, got {bad[0]!r}")
        flags["options"] = {key: read_value(value, f"--option {key}") for key, _, value in pairs}
    from_file = read_config_file(config_file) if config_file else {}
    base = TrainConfig.from_dict(from_file, origin=str(config_file)).to_dict()
    if "epochs" in flags:  # those of each phase, so they win over the file's; a phase that the file leaves out stays out
        base.update({name: None for name in ("frozen_epochs", "finetune_epochs") if base[name]})
    merged = {**base, **flags, "options": {**base["options"], **flags.get("options", {})}}
    return TrainConfig.from_dict(merged, origin="the command line")


def refuse_idle(names: Iterable[str], *trainings: TrainConfig) -> None:
    """Raise ConfigError for a setting that changes nothing in any of these trainings.

    names: `given_settings`, what is on the command line; a file may hold more, for the command line to change.
    """
    resolved = [one.resolved() for one in trainings]

    def used(by: Callable[[TrainConfig], object]) -> bool:
        return any(by(one) for one in resolved)

    def is_varied(one: TrainConfig) -> bool:
        return one.augment and bool(one.sees_pictures or one.feature_views)

    phases = "a densenet, whose backbone is frozen and then fine-tuned"
    frozen = used(lambda one: one.two_phases and one.frozen_epochs)
    stored = used(lambda one: one.two_phases and one.frozen_epochs and one.frozen_features == "cached" and one.augment)
    tuned = used(lambda one: one.two_phases and one.frozen_epochs and one.finetune_epochs)
    if used(lambda one: one.augment):
        varied = "varied pictures, and cached features are of pictures as they are; give --feature-views too"
    else:
        varied = "varied pictures; leave out --no-augment"
    makes_new = used(lambda one: one.balance_by == "augment")
    needs = {
        "dro_step": (used(lambda one: one.balance_by == "dro"), "--balance-by dro"),
        "balance_power": (used(lambda one: one.balance), "--balance, such as --balance label"),
        "weight_decay": (used(lambda one: one.optimizer == "adamw"), "--optimizer adamw"),
        **dict.fromkeys(("frozen_epochs", "finetune_epochs"), (used(lambda one: one.two_phases), phases)),
        **dict.fromkeys(("finetune_lr", "unfreeze_blocks"), (tuned, phases)),
        **dict.fromkeys(("frozen_features", "frozen_batch_size"), (frozen, "a densenet with frozen epochs")),
        "batch_size": (used(lambda one: not one.two_phases or one.finetune_epochs), "other epochs; give --frozen-batch-size"),
        "feature_views": (stored, "a densenet with frozen epochs, whose cached features are of varied pictures too"),
        **dict.fromkeys(("mixup", "cutmix"), (used(lambda one: one.sees_pictures), "pictures, not cached features")),
        **dict.fromkeys(_OF_NEW, (makes_new or used(is_varied), varied)),
        **dict.fromkeys(_OF_VARIED, (used(is_varied), varied)),
    }
    for name in names:
        there, what = needs.get(name, (True, ""))
        if not there:
            raise ConfigError(f"--{name.replace('_', '-')} changes nothing here: it is for {what}")
        if name == "best_after" and not used(lambda one: one.best_after < one.most_epochs):
            most = max(one.most_epochs for one in resolved)
            raise ConfigError(f"--best-after {resolved[0].best_after} leaves no epoch to choose from; there are {most}")


def given_settings(args: argparse.Namespace) -> Sequence[str]:
    """The settings that were on the command line."""
    return [item.name for item in dataclasses.fields(TrainConfig) if item.name in vars(args)]
