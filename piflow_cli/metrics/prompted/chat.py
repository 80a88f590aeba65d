"""The answer of an image-text model of transformers to a question about a picture and its prompt."""
# B pictures, C, H, W picture, T tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_cli.errors import ModelError
from piflow_cli.io.checksums import tensors_sha256
from piflow_cli.io.pictures import to_pictures
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.prompted.models import load_judge, prepared

KIND = "an image-text model of transformers with a processor and a chat template, such as LLaVA"


class ChatJudge:
    """Says (B, 1): the probability that the model's answer to a question begins with a word.

    Args:
        model: any of AutoModelForImageTextToText.
        processor: of pictures and of conversations, by Pillow.
        name: of model and weights.
        question: with {} for the prompt.
        answer: the word, of which the first token counts; "Yes" is one token of the models that are used.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str, device: str | torch.device, question: str, answer: str
    ) -> None:
        self.device = torch.device(device)
        self.model, self.processor, self.name, self.question = model.to(self.device), processor, name, question
        self.picture: str = getattr(processor, "image_token", "<image>")  # which a prompt must not hold
        self.token = processor.tokenizer(answer, add_special_tokens=False).input_ids[0]

    def title(self, metric: str) -> str:
        """Names the model: scores of others do not compare."""
        return f"{metric} ({self.name})"

    def described(self) -> str:
        """Preparation, question, precision and weights."""
        return (
            f"{prepared(self.processor.image_processor)}, asked {self.question!r}, {str(self.model.dtype)[6:]}, "
            f"weights {tensors_sha256(self.model.state_dict())[:12]}"
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> FeatureSet:
        """Probabilities (B, 1) of pictures (B, C, H, W) in [0, 1] and their B prompts."""
        asked = [self._conversation(prompt.replace(self.picture, " ")) for prompt in prompts]
        given = self.processor(
            images=to_pictures(images.expand(-1, 3, -1, -1)),
            text=asked,
            padding=True,
            padding_side="left",  # so that the answer's place is the last of every row
            return_tensors="pt",
        ).to(self.device, self.model.dtype)  # (B, T)
        logits = self.model(**given, logits_to_keep=1).logits[:, -1]  # (B, V)
        return FeatureSet(logits.float().softmax(dim=1)[:, self.token, None].cpu())

    def _conversation(self, prompt: str) -> str:
        said = [{"type": "image"}, {"type": "text", "text": self.question.format(prompt)}]
        return self.processor.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)


def load_chat(spec: str, device: str | torch.device, *, question: str, answer: str) -> ChatJudge:
    """The judge of an image-text model's folder or hub id: in float32 on CPUs, elsewhere as its file is.

    Raises:
        ModelError: it cannot be had, or is no such model.
    """
    from transformers import AutoModelForImageTextToText

    model, processor, name = load_judge(
        spec,
        model=AutoModelForImageTextToText.from_pretrained,
        prepares=_processor,
        kind=KIND,
        dtype=torch.float32 if torch.device(device).type == "cpu" else "auto",
    )
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(f"{spec} cannot be used as {KIND}: it has no chat template.")
    return ChatJudge(model, processor, name=name, device=device, question=question, answer=answer)


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
