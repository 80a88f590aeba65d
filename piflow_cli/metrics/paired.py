"""Paired errors: how far pictures are from the teacher's own of the same noise and prompts."""
# N pictures, D features, C, H, W picture.

from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.parts import Parts


def paired_error(features: Tensor, teacher: Tensor) -> float:
    """Root mean square distance of pairs, as a share of that of two of the teacher's pictures drawn at random.

        sqrt( mean_i |f_i - g_i|^2 / (2 tr cov(g)) )

    0 is the teacher's own pictures; 1 is as far from them as pictures that have nothing to do with each other, but for
    being of the teacher. It needs no reference and few pictures, and is blind to what is wrong with the teacher.

    Args:
        features: (N, D) of pictures.
        teacher: (N, D) of the teacher's from the same noise and prompts, in the same order.

    Raises:
        DataError: other numbers of either, or teacher's pictures that are all the same.

    Source: ours; the error of imitation that students are trained to lower, in the space that scores are taken in.
    """
    if features.shape != teacher.shape:
        raise DataError(f"features {tuple(features.shape)} are no pairs of {tuple(teacher.shape)}")
    spread = 2 * teacher.double().var(dim=0).sum()
    if not spread > 0:
        raise DataError("the teacher's pictures are all the same; there is no error relative to how they differ")
    return ((features.double() - teacher.double()).square().sum(dim=1).mean() / spread).sqrt().item()


def paired_errors_without(features: Tensor, teacher: Tensor, parts: Parts | None) -> tuple[float, ...]:
    """Paired errors without each part of the pictures; none without parts, or where the others are all the same.

    Args:
        features, teacher: as `paired_error` takes them.
        parts: of both.
    """
    if parts is None:
        return ()
    try:
        kept = (parts.own != part for part in range(parts.count))
        return tuple(paired_error(features[some], teacher[some]) for some in kept)
    except DataError:
        return ()


def picture_errors(pictures: Tensor, reference: Tensor) -> Tensor:
    """Root mean square difference of each picture to its own reference, (N,), in [0, 1].

    Taken over the pixels and channels of decoded pictures in [0, 1]; 0 is the same picture, and pictures that have
    nothing to do with each other are about 0.3 apart. It sees a student that draws something else than its teacher, and
    one that is blurred; it does not see which of two is the better picture. A run's paired error is the mean over its
    pictures; a benchmark's, of many and in features, is `paired_error`.

    Args:
        pictures: (N, C, H, W) in [0, 1].
        reference: the same from the same noise and conditions.

    Source: ours: of what can be computed from a few pictures, it needs no reference set and no network.
    """
    return (pictures - reference).square().flatten(1).mean(dim=1).sqrt()
