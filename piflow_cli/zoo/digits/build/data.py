# scikit-learn's digits as the training scripts of the embedded networks see them: pictures in [0, 1] and English names.
# N images.

from torch import Tensor

from piflow_cli.data.digits import Digits

NUM_CLASSES = 10
SIZE_PX = 8
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load_digits_images() -> tuple[Tensor, Tensor]:
    """The whole data set, in the order scikit-learn gives it.

    Returns:
        images: (N, 1, 8, 8) float32 in [0, 1], seventeen levels.
        labels: (N,) int64 in 0..9.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    source = Digits().open(None)
    return (source.latents + 1) / 2, source.labels  # (N, 1, 8, 8), (N,)
