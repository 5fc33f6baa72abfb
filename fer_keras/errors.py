"""The errors that users see.

Every message is one line and says what was expected, what was received and what to do next. Commands print it and
exit with code 2; `--debug` shows the traceback.
"""


class FerError(Exception):
    """Base of every error that fer_keras raises on purpose."""


class ConfigError(FerError):
    """A setting is unknown, has a wrong value, or does not fit the others."""


class DataError(FerError):
    """A data file, folder or table is not what was expected."""


class ModelError(FerError):
    """A model folder, weights file or model/data pairing does not fit."""


class TrainingError(FerError):
    """Training cannot go on (loss became NaN, nothing to train on, ...)."""


class WriteError(FerError):
    """A file can't be written, mostly for want of room."""
