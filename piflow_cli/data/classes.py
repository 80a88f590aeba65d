"""Which class of a teacher a folder of pictures is: by name where the teacher knows it, else by the order of names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from piflow_cli.core.interfaces import Space
from piflow_cli.errors import DataError

SYNSET = re.compile(r"n\d{8}")
"""What ImageNet calls the folder of a class; sorted, they are in the order of its classes."""
NUM_SHOWN = 4


@dataclass(frozen=True)
class FolderClasses:
    """The classes of some folders.

    Args:
        labels: of each folder.
        names: what the folders call classes that the teacher has no names for, by class.
        doubts: what a user should look at, in sentences.
    """

    labels: tuple[int, ...]
    names: dict[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


def match_classes(names: Sequence[str], space: Space, *, root: object) -> FolderClasses:
    """The classes of folders of these names: those that the teacher calls so, or has under this number.

    Where it knows none of the names, folders are its classes in sorted order.

    Args:
        names: of the folders, sorted.
        space: of a teacher of classes.
        root: where they are, for messages.

    Raises:
        DataError: more folders than classes, two of one class, or only some that the teacher knows.
    """
    count = space.num_classes
    if len(names) > count:
        raise DataError(f"{root} has {len(names)} class folders; this teacher has {count} classes")
    found = [space.find_class(name) for name in names]
    known = {name: label for name, label in zip(names, found, strict=True) if label is not None}
    if not known:
        return _in_order(names, space, root=root)
    if strangers := [name for name in names if name not in known]:
        raise DataError(
            f"{root} has the folder {_shown(list(known)[:1])}, which is a class of this teacher, and "
            f"{_shown(strangers)}, which {'is' if len(strangers) == 1 else 'are'} none; rename or move them. Its "
            f"classes: {_shown(space.examples(count))}."
        )
    if len(set(known.values())) < len(known):
        twice = [name for name, label in known.items() if list(known.values()).count(label) > 1]
        raise DataError(f"{root} has several folders of one class of this teacher: {_shown(twice)}; make them one")
    return FolderClasses(tuple(known.values()), doubts=_fewer(len(names), count, root=root))


def _in_order(names: Sequence[str], space: Space, *, root: object) -> FolderClasses:
    """The first classes, one a folder."""
    labels, count = tuple(range(len(names))), space.num_classes
    if not space.classes_are_named:
        doubts = _fewer(len(names), count, root=root, order=_pairs(names, [str(label) for label in labels]))
        return FolderClasses(labels, dict(enumerate(names)), doubts)
    pairs = _pairs(names, space.examples(count))
    if len(names) < count:
        return FolderClasses(labels, doubts=_fewer(len(names), count, root=root, order=pairs))
    if all(SYNSET.fullmatch(name) for name in names):
        return FolderClasses(labels)
    return FolderClasses(
        labels,
        doubts=(
            f"no class folder of {root} has the name of a class of the teacher; they are taken for its classes in "
            f"sorted order: {pairs}. Rename them where that is not so",
        ),
    )


def _fewer(folders: int, count: int, *, root: object, order: str = "") -> tuple[str, ...]:
    """The doubt about a teacher of more classes than there are folders; `order` shows what they were taken for."""
    if folders == count:
        return ()
    words = f"{root} has {folders} class folder{'s' * (folders > 1)}, and this teacher has {count} classes: "
    if order:
        words += (
            f"they are taken for the first ones in sorted order ({order}). Is that so? Else name folders by class; "
        )
    return (f"{words}the other {count - folders} are not trained on",)


def _pairs(names: Sequence[str], classes: Sequence[str]) -> str:
    pairs = [f"{name} = {label}" for name, label in zip(names, classes, strict=False)]
    return ", ".join(pairs[:NUM_SHOWN]) + (", ..." if len(pairs) > NUM_SHOWN else "")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NUM_SHOWN])) + (", ..." if len(names) > NUM_SHOWN else "")
