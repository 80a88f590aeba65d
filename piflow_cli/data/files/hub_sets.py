"""Data sets of the hub, read by the library `datasets`."""

from typing import Any

from piflow_cli.errors import DataError, MissingExtraError

TRAINING = "train"
"""The split that is read where a data set has it."""


def load_rows(name: str, *, what: str, any_split: bool) -> Any:
    """The rows of a data set's split for training: a `datasets.Dataset`, downloaded whole.

    Args:
        name: owner/name.
        what: how error messages call it.
        any_split: whether a data set's only split will do, whatever it is called: for measuring, not for training.

    Raises:
        DataError: it cannot be loaded, or has no such split.
        MissingExtraError: `datasets` is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtraError(
            f"there is no file or folder {name}; to read it as a data set of the hub: pip install 'piflow[data]'"
        ) from None
    try:
        splits = load_dataset(name)
    except Exception as error:  # the library raises errors of many classes
        raise DataError(
            f"there is no file or folder {name}, and no split 'train' of a data set of this name could be loaded: "
            f"{error}. Correct {what}, or download the data set and name one of its files."
        ) from None
    if TRAINING not in splits and not (any_split and len(splits) == 1):
        raise DataError(
            f"the data set {name} has no split 'train'; it has {', '.join(map(str, splits))}. Correct {what}, or "
            "download the data set and name one of its files."
        )
    return splits[TRAINING] if TRAINING in splits else next(iter(splits.values()))
