"""Parts of pictures, each of which is left out once: what the delete-a-group jackknife computes scores of."""
# N pictures, M reference pictures, G parts, U things that pictures are of.

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Parts:
    """Which of G parts each picture belongs to.

    Args:
        own: part of each generated picture, (N,), from 0 to G - 1.
        count: G.
        reference: part of each reference picture, (M,), where the reference was made from the same noise; None where
            it stays whole, being what all are measured by.
    """

    own: Tensor
    count: int
    reference: Tensor | None = None


def parts_in_turn(num_pictures: int, num_subjects: int, count: int, *, seed: int) -> Tensor:
    """Parts (N,) of pictures that show U classes or prompts in turn: picture i shows i % U.

    Pictures are shuffled within each turn and cut into pieces of equal length. Where all subjects come many times a
    part has the same share of each, so that an interval is of the noise alone; where none comes twice it is of the
    noise and the choice of prompts.

    Args:
        num_pictures: N.
        num_subjects: U.
        count: G, at most N.
        seed: of the shuffling; the same for every row, whose pictures i belong together.
    """
    generator = torch.Generator().manual_seed(seed)
    turns = [
        start + torch.randperm(min(num_subjects, num_pictures - start), generator=generator)
        for start in range(0, num_pictures, num_subjects)
    ]
    parts = torch.empty(num_pictures, dtype=torch.long)
    parts[torch.cat(turns)] = torch.arange(num_pictures) * count // num_pictures
    return parts


def parts_of_groups(groups: Tensor, count: int, *, seed: int) -> tuple[Tensor, int]:
    """Parts (N,) that keep the pictures of a prompt together, and how many parts there are.

    Args:
        groups: number of the prompt that each picture shows, (N,).
        count: parts, of which there are no more than prompts.
        seed: of the shuffling.
    """
    found, place = groups.unique(return_inverse=True)
    count = min(count, len(found))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return (order * count // len(found))[place], count
