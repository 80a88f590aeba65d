"""Processors of language models that see, for prompts or for prompts and pictures, without their part for videos.

What they have for videos needs torchvision, and what for pictures is faster with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from piflow_cli.teachers.text.loading.encoders import load_tokenizer

SEEN = ("image_token", "video_token")
"""Attributes of such processors: what stands in a text for a picture, and for a video."""


class PromptsOnly:
    """Comes before a processor's class of transformers, and takes its tokenizer alone.

    Args:
        tokenizer: of the processor.
        folder: of the processor; it is written as it was read, with the files of its other parts.
    """

    def __init__(self, tokenizer: Any, *, folder: Path) -> None:
        from transformers import ProcessorMixin

        parts = self.parts(tokenizer, folder=folder)
        ProcessorMixin.__init__(self, *parts, chat_template=tokenizer.chat_template)
        self.folder = folder
        for name in SEEN:
            token = getattr(tokenizer, name, f"<|{name.removesuffix('_token')}_pad|>")
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))

    def parts(self, tokenizer: Any, *, folder: Path) -> list[Any]:  # noqa: ARG002
        """The parts, in the order of `get_attributes`."""
        return [tokenizer]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts that it has."""
        return ["tokenizer"]

    def save_pretrained(self, save_directory: str | Path, **_options: Any) -> None:
        """Write the folder that it was read from."""
        if Path(save_directory).resolve() != self.folder.resolve():
            shutil.copytree(self.folder, save_directory, dirs_exist_ok=True)


class WithPictures(PromptsOnly):
    """Comes before a processor's class of transformers, and takes its tokenizer and what it has for pictures."""

    def parts(self, tokenizer: Any, *, folder: Path) -> list[Any]:
        """The parts, in the order of `get_attributes`."""
        from transformers import AutoImageProcessor

        return [AutoImageProcessor.from_pretrained(str(folder), local_files_only=True), tokenizer]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts that it has."""
        return ["image_processor", "tokenizer"]


def processor_of(processor_class: type, folder: Path, *, pictures: bool = False) -> Any:
    """The processor of a folder with its tokenizer, and without what it has for pictures unless that is asked for.

    Its class has the name of `processor_class` and descends from it, so that pipelines take and note it as that.

    Raises:
        Exception: whatever the library raises for damage.
    """
    named = {"__module__": processor_class.__module__}
    kind = WithPictures if pictures else PromptsOnly
    own_class = type(processor_class.__name__, (kind, processor_class), named)
    return own_class(load_tokenizer(folder), folder=folder)
