"""Slices of tensors in weight files, for models of which each process holds a part."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.regular import require_regular
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.io.texts.names import first_line


class SlicedWeights:
    """Tensors of one or several weight files by name, of which slices are read without the rest.

    Args:
        paths: .safetensors files, or pickled ones of tensors alone, which are mapped into memory.
        rename: a file's name of a tensor -> the module's.

    Raises:
        ModelError: a file is missing or damaged.
    """

    def __init__(self, paths: Sequence[Path], *, rename: Callable[[str], str] = str) -> None:
        self.paths = list(paths)
        self._where: dict[str, tuple[Path, str]] = {}
        self._mapped: dict[Path, Mapping[str, Tensor]] = {}
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        for path in self.paths:
            for name in self._names(path):
                self._where[rename(name)] = (path, name)

    def _names(self, path: Path) -> list[str]:
        try:
            if path.suffix == ".safetensors":
                self._open[path] = self._stack.enter_context(open_tensors(path))
                return list(self._open[path].keys())
            require_regular(path)
            self._mapped[path] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return list(self._mapped[path])
        except Exception as error:  # safetensors, zip and unpickling errors share no ground class
            raise ModelError(f"{path} cannot be read as weights ({first_line(error)})") from None

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def names(self) -> list[str]:
        """The tensors that are there, by the module's names."""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        path, key = self._place(name)
        if path in self._mapped:
            return tuple(self._mapped[path][key].shape)
        return tuple(self._open[path].get_slice(key).get_shape())

    def read(self, name: str, where: tuple[slice, ...] | None = None) -> Tensor:
        """A tensor, or a part of it, as it is stored.

        Args:
            name: by the module.
            where: a slice of each dimension; None reads all.
        """
        path, key = self._place(name)
        if path in self._mapped:
            tensor = self._mapped[path][key]
            return tensor if where is None else tensor[where].clone()
        return self._open[path].get_tensor(key) if not where else self._open[path].get_slice(key)[where]

    def _place(self, name: str) -> tuple[Path, str]:
        if name not in self._where:
            shown = ", ".join(str(path) for path in self.paths[:2])
            raise ModelError(f"the weights in {shown} have no {name}; is it the base of this architecture?")
        return self._where[name]

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
        self._open.clear()
        self._mapped.clear()
