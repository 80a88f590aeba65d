"""Classes that a model folder names: only diffusers' and transformers' own are looked up, of the kind that is wanted.

A model_index.json names a library for each part. Importing whatever it names would run code that its author chose.
"""

import importlib
import re
from typing import Any

from piflow_cli.errors import ModelError

GROUNDS = {
    "model": ("diffusers:ModelMixin", "transformers:PreTrainedModel"),
    "tokenizer": ("transformers:PreTrainedTokenizerBase",),
    "scheduler": ("diffusers:SchedulerMixin",),
}
"""What the classes of each kind of part descend from, as library:class."""
LIBRARIES = ("diffusers", "transformers")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_entry(entry: Any, *, part: str, origin: object) -> None:
    """Raise ModelError unless an entry of a model_index.json names a class of diffusers or transformers by its name."""
    named = isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry)
    if not named or entry[0] not in LIBRARIES or not _NAME.fullmatch(entry[1]):
        raise ModelError(
            f"{origin} says that {part} is {str(entry)[:200]}; only classes of {' and '.join(LIBRARIES)}, as [library, "
            "class], are ever loaded"
        )


def library_class(entry: Any, *, part: str, origin: object) -> type:
    """The class of a part that a model_index.json names; diffusers and transformers are imported.

    Args:
        entry: the index's [library, class].
        part: its name: tokenizers and schedulers are known by theirs, all else is a model.
        origin: the index, for messages.

    Raises:
        ModelError: another library, no such class, or one of another kind.
    """
    check_entry(entry, part=part, origin=origin)
    library, name = entry
    kind = next((kind for kind in GROUNDS if part.startswith(kind)), "model")
    grounds = tuple(_named(*ground.split(":")) for ground in GROUNDS[kind])
    found = _named(library, name)
    if not isinstance(found, type) or not issubclass(found, grounds):
        raise ModelError(f"{origin} says that {part} is {library}'s {name}, which is no {kind} of this version of it")
    return found


def _named(library: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(library), name)
    except (AttributeError, ImportError):  # a backend that is not installed counts as not there
        return None
