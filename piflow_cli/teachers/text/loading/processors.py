"""Processors of language models that see, for prompts alone: their parts for pictures need torchvision."""

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

        ProcessorMixin.__init__(self, tokenizer, chat_template=tokenizer.chat_template)
        self.folder = folder
        for name in SEEN:
            token = getattr(tokenizer, name, f"<|{name.removesuffix('_token')}_pad|>")
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that it has."""
        return ["tokenizer"]

    def save_pretrained(self, save_directory: str | Path, **_options: Any) -> None:
        """Write the folder that it was read from."""
        if Path(save_directory).resolve() != self.folder.resolve():
            shutil.copytree(self.folder, save_directory, dirs_exist_ok=True)


def prompts_only(processor_class: type, folder: Path) -> Any:
    """The processor of a folder with its tokenizer, and without what it has for pictures.

    Its class has the name of `processor_class` and descends from it, so that pipelines take and note it as that.

    Raises:
        Exception: whatever the library raises for damage.
    """
    named = {"__module__": processor_class.__module__}
    own_class = type(processor_class.__name__, (PromptsOnly, processor_class), named)
    return own_class(load_tokenizer(folder), folder=folder)
