"""Bases loaded once for all that stands on them: the teacher, and students with an adapter."""

from __future__ import annotations

import copy
from dataclasses import replace
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import Space, Teacher, TeacherFamily

Key = tuple[str, str, torch.device, torch.dtype]


class Bases:
    """Loaded teachers, by their settings, device and precision; each is read once, and lives as long as this does.

    Spaces of quantised ones, which are read for each student, live as long as any of these does.
    """

    def __init__(self) -> None:
        self._loaded: dict[Key, Teacher] = {}
        self._spaces: WeakValueDictionary[Key, Space] = WeakValueDictionary()

    def teacher(self, family: TeacherFamily, *, device: torch.device | str, dtype: torch.dtype) -> Teacher:
        """A teacher whose module may be changed: its weights are those of the others, what is put into it is its own.

        A base that is quantised or moved by hooks is loaded anew; text encoders and autoencoder, which no quantisation
        changes, are those of any other way to hold it that is here and moved by none.

        Raises: as `TeacherFamily.load`.
        """
        key: Key = (family.type, family.model_dump_json(), torch.device(device), dtype)
        if key not in self._loaded:
            whole = key if family.quantization == "none" else _whole_key(key, family)
            space = self._spaces.get(whole)
            loaded = family.load(device=device, dtype=dtype, encoders=space is None)
            loaded = loaded if space is None else replace(loaded, space=space)
            if not _is_moved(loaded.module):
                self._spaces[whole] = loaded.space
            if _is_moved(loaded.module) or not _is_plain(loaded.module):
                return loaded
            self._loaded[key] = loaded
        first = self._loaded[key]
        return replace(first, module=shared_copy(first.module))


def _whole_key(key: Key, family: TeacherFamily) -> Key:
    """Of the same base, unquantised."""
    return (key[0], family.model_copy(update={"quantization": "none"}).model_dump_json(), *key[2:])


def shared_copy(module: nn.Module) -> nn.Module:
    """A module like `module` over the very same weights and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _is_plain(module: nn.Module) -> bool:
    """Whether all weights are plain floating-point ones."""
    return all(type(p) in (Tensor, nn.Parameter) and p.is_floating_point() for p in module.parameters())


def _is_moved(module: nn.Module) -> bool:
    """Whether any part is moved by accelerate's hooks."""
    return any("_hf_hook" in vars(part) for part in module.modules())
