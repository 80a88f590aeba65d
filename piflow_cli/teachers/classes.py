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
    "processor": ("transformers:ProcessorMixin",),
    "scheduler": ("diffusers:SchedulerMixin",),
}
"""What the classes of each kind of part descend from, as library:class."""
LIBRARIES = ("diffusers", "transformers")
PROCESSOR = "Processor"
"""How the names of transformers' classes end that hold a tokenizer beside something for pictures."""
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

    A processor for a tokenizer's part is left for the tokenizer in it: the rest is for pictures, and needs torchvision.

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
    if holds_tokenizer(entry, part=part):
        return _named("transformers", "AutoTokenizer")
    grounds = tuple(_named(*ground.split(":")) for ground in GROUNDS[kind])
    found = _named(library, name)
    if not isinstance(found, type) or not issubclass(found, grounds):
        raise ModelError(f"{origin} says that {part} is {library}'s {name}, which is no {kind} of this version of it")
    return found


def holds_tokenizer(entry: Any, *, part: str) -> bool:
    """Whether the entry of a tokenizer's part names a processor, of which the tokenizer alone is of use here."""
    return part.startswith("tokenizer") and entry[0] == "transformers" and entry[1].endswith(PROCESSOR)


def _named(library: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(library), name)
    except (AttributeError, ImportError):  # a backend that is not installed counts as not there
        return None
