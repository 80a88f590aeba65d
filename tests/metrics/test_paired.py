"""Paired error: 0 for the same pictures, 1 for others of the same kind, and as a share of the spread between."""

import pytest
import torch

from piflow_cli.errors import DataError
from piflow_cli.metrics.paired import paired_error, picture_errors


def draw(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4000, 12, generator=generator) * torch.arange(1, 13) + 5


def test_ends_of_the_scale() -> None:
    assert paired_error(draw(0), draw(0)) == 0
    assert paired_error(draw(1), draw(0)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_part_of_the_way_to_another_picture_is_that_part(share: float) -> None:
    teacher, other = draw(0), draw(1)
    assert paired_error(teacher + share * (other - teacher), teacher) == pytest.approx(share, abs=0.02)


def test_units_do_not_matter() -> None:
    assert paired_error(draw(1) * 7 + 2, draw(0) * 7 + 2) == pytest.approx(paired_error(draw(1), draw(0)), rel=1e-6)


def test_what_has_no_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="are no pairs of"):
        paired_error(draw(0)[:5], draw(0))
    with pytest.raises(DataError, match="all the same"):
        paired_error(draw(0), torch.ones(4000, 12))


def test_it_is_the_root_of_the_mean_square_of_each_picture() -> None:
    a = torch.rand((3, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[1] += 0.25
    b[2, 0] += 0.3  # one of three channels
    assert picture_errors(a, a).tolist() == [0, 0, 0]
    assert picture_errors(b, a).tolist() == pytest.approx([0, 0.25, 0.3 / 3**0.5])


def test_unrelated_pictures_are_far_apart() -> None:
    a, b = torch.rand((2, 50, 1, 16, 16), generator=torch.Generator().manual_seed(1))
    assert float(picture_errors(a, b).mean()) == pytest.approx((1 / 6) ** 0.5, rel=0.02)
