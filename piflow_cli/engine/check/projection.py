"""The final projection and what heads read beside its tokens.

Shapes: B batch, C latent channels, S spatial dims, F features of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.engine.check.subject import Finding, Subject, right, wrong


def check_projection(subject: Subject) -> Finding:
    """Key and shape of the projection, and where in the output the features of its tokens end up."""
    backbone, module = subject.teacher.backbone, subject.teacher.module
    name, layout = backbone.projection_name, backbone.layout
    try:
        found = module.get_submodule(name)
    except AttributeError:
        last = [key for key, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
        return wrong("projection", f"the module has no {name}; its last linear layer is {last}")
    if not isinstance(found, nn.Linear):
        return wrong("projection", f"{name} is a {type(found).__name__}, not a linear layer")
    wide = backbone.projection(module).out_features
    if wide != backbone.latent_channels * layout.positions:
        return wrong(
            "projection",
            f"{name} gives {wide} features a token, but {backbone.latent_channels} latent channels in patches of "
            f"{layout.positions} make {backbone.latent_channels * layout.positions}",
        )
    order = "channels last" if layout.channels_last else "channels first"
    bias = "" if found.bias is not None else ", no bias"
    said = f"{name} {tuple(found.weight.shape)}{bias}, tokens {order}"
    if found.out_features != wide:
        return right("projection", f"{said}; of its {found.out_features} features {wide} are read")
    where = _features(subject, found)
    if _lies(where, layout, backbone.latent_channels):
        return right("projection", said)
    other = PatchLayout(layout.sides, not layout.channels_last)
    if _lies(where, other, backbone.latent_channels):
        return wrong("projection", f"its tokens are not {order}: channels_last is {other.channels_last}")
    return wrong("projection", f"its features do not lie in patches of {layout.sides}, {order}, in the output")


def _lies(where: Tensor, layout: PatchLayout, channels: int) -> bool:
    """Whether the numbers of features lie in an output as a layout says."""
    return torch.equal(where[0].abs().round().long().cpu(), _expected(layout, channels, where.shape[2:]))


@torch.no_grad()
def _features(subject: Subject, projection: nn.Linear) -> Tensor:
    """The output (B, C, *S) where every feature of every token is its own number, from 1 on."""
    numbers = torch.arange(1, projection.out_features + 1, dtype=torch.float32)

    def number(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return numbers.to(output).expand_as(output)

    handle = projection.register_forward_hook(number)
    try:
        backbone = subject.teacher.backbone
        return backbone.predict(subject.teacher.module, subject.state(), subject.sigmas(1.0), subject.condition)
    finally:
        handle.remove()


def _expected(layout: PatchLayout, channels: int, sizes: torch.Size) -> Tensor:
    """Number of the feature at every place of the output, (C, *S)."""
    numbers = torch.arange(1, channels * layout.positions + 1)
    numbers = numbers.view(layout.positions, channels).T if layout.channels_last else numbers.view(channels, -1)
    patch = numbers.reshape(channels, *layout.sides)
    return patch.repeat(1, *(size // side for size, side in zip(sizes, layout.sides, strict=True)))


def _holds(given: Tensor, wanted: Tensor) -> bool:
    """Whether every row (D,) of `wanted` is among those of `given`: a family may call its network row by row."""
    same = torch.isclose(given[None], wanted[:, None], atol=1e-4, rtol=1e-4).all(2)  # (B, rows)
    return bool(same.any(1).all())


def check_embedding(subject: Subject) -> Finding:
    """What heads read beside the tokens is something that the network computes at this time."""
    backbone, module = subject.teacher.backbone, subject.teacher.module
    x, sigma = subject.state(), subject.sigmas(0.7)
    with torch.no_grad():
        embedding = backbone.embed(module, sigma, subject.condition)
    if embedding.shape != (len(x), backbone.embed_dim(module)):
        return wrong("embedding", f"embed gives {tuple(embedding.shape)}, embed_dim says {backbone.embed_dim(module)}")
    outputs: dict[str, list[Tensor]] = {}

    def noting(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == embedding.ndim and output.shape[1:] == embedding.shape[1:]:
                outputs.setdefault(name, []).append(output)

        return note

    handles = [part.register_forward_hook(noting(name)) for name, part in module.named_modules()]
    try:
        with torch.no_grad():
            backbone.predict(module, x, sigma, subject.condition)
    finally:
        for handle in handles:
            handle.remove()
    same = [name for name, given in outputs.items() if _holds(torch.cat(given), embedding)]
    if not same:
        return wrong(
            "embedding", "no part of the network gives in its forward pass what embed gives: is its time scaled?"
        )
    return right("embedding", f"heads read {same[0]}, {embedding.shape[1]} wide")
