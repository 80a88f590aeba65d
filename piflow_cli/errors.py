"""The errors a user can meet. Each message says what was wrong, the value, what is allowed and what to do next."""


class PiflowError(Exception):
    """A known error: the command line prints its message in one block and exits with 1."""


class PresetError(PiflowError):
    """A preset does not exist, does not parse, or has a key or a value that is not allowed."""


class ModelError(PiflowError):
    """A teacher or student cannot be loaded: missing, of another family, truncated, of wrong shapes, or unsafe."""


class NoWalkError(ModelError):
    """A base has no pipeline whose steps a teacher's could be held against."""


class PolicyError(PiflowError):
    """A policy was asked for something outside what it was trained for, such as another segment size."""


class SamplingError(PiflowError):
    """Sampling gave latents or pictures that are not finite."""


class DeviceError(PiflowError):
    """The device asked for is not available."""


class StorageError(PiflowError):
    """An output folder cannot be written, is too small, or holds another run."""


class DataError(PiflowError):
    """Training data, prompts, labels or reference statistics cannot be used."""


class MissingExtraError(PiflowError):
    """A feature needs an optional package that is not installed."""


class TrainingError(PiflowError):
    """Training cannot go on, for example after too many non-finite steps in a row."""


class PartnerError(PiflowError):
    """Another process of the same command has failed; that one says why.

    Args:
        rank: of it.
        message: of its error.
    """

    def __init__(self, *, rank: int, message: str) -> None:
        super().__init__(f"the process of rank {rank} failed: {message}")


PARTNER_ENDED = 75
"""Exit code of a process that ends because another one of its run has."""
