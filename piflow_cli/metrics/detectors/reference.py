"""Reference statistics: shipped with the package, read from a file, or computed from a folder of pictures."""
# B batch, M reference pictures, D features.

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_STATISTICS_BYTES
from piflow_cli.io.files import write_atomic
from piflow_cli.io.folders import is_picture, list_files, unread
from piflow_cli.io.images import SUFFIXES, read_picture, to_tensor
from piflow_cli.io.regular import require_regular
from piflow_cli.io.tensors.files import open_tensors
from piflow_cli.io.texts.names import first_line, user_path
from piflow_cli.io.zoo import ZOO
from piflow_cli.metrics.detectors.features import Detector, Reference, extract_features, mean_and_cov

EMBEDDED_REFERENCES = {name: ZOO / name / "features" / "reference.safetensors" for name in ("digits", "emoji")}

LEVELS = 127
"""On either side of 0, of a feature in 8 bits."""
BATCH_PIXELS = 2**25
"""Of the pictures that are in memory at once, unless one alone has more."""


def load_reference(spec: str | Path, *, detector: Detector, batch_size: int = 64) -> Reference:
    """The statistics that generated pictures are compared to.

    Args:
        spec: "digits" or "emoji" (embedded), a `.npz` with `mu` and `sigma` as ADM publishes them, a `.safetensors`
            written by `save_reference`, or a folder of pictures.
        detector: whose features the generated pictures will have; it also reads the folder.
        batch_size: pictures at a time when reading a folder.

    Returns:
        Statistics of `detector.feature_dim` features.

    Raises:
        DataError: the source does not exist, cannot be read, or belongs to another detector.
    """
    path = EMBEDDED_REFERENCES.get(spec) or user_path(spec)
    if path.is_dir():
        reference = reference_from_folder(path, detector=detector, batch_size=batch_size)
    elif not path.is_file():
        raise DataError(
            f"reference {str(spec)!r} does not exist. Allowed: digits, emoji, a .npz with mu and sigma, a "
            ".safetensors of this program, or a folder of pictures."
        )
    elif path.suffix == ".npz":
        reference = _read_npz(path, detector.name)
    elif path.suffix == ".safetensors":
        reference = _read_safetensors(path, name=str(spec))
    else:
        raise DataError(f"reference {path} has the suffix {path.suffix!r}; allowed are .npz, .safetensors and folders.")
    _check(reference, detector)
    return reference


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference to a `.safetensors` file, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {"mean": reference.mean.contiguous(), "cov": reference.cov.contiguous()}
    if reference.features is not None:
        tensors["features"] = reference.features.contiguous()
    _write(reference, tensors, path)


def save_compact_reference(reference: Reference, path: Path) -> None:
    """The same with features in 8 bits, each of the D on its own scale, with mean and covariance of what is so kept.

    Rounding adds to the variance of a feature a twelfth of its level squared: 0.03% where the largest value has 8
    standard deviations.

    Raises:
        DataError: there are no features.
        StorageError: the file cannot be written.
    """
    if reference.features is None:
        raise DataError(f"reference {reference.name!r} has mean and covariance alone: it cannot be kept by features.")
    scale = reference.features.abs().amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny) / LEVELS  # (D,)
    levels = (reference.features / scale).round().to(torch.int8)  # (M, D)
    mean, cov = mean_and_cov(levels * scale)
    _write(reference, {"mean": mean, "cov": cov, "features": levels, "scale": scale}, path)


def _write(reference: Reference, tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    metadata = {"name": reference.name, "detector": reference.detector, "num_samples": str(reference.num_samples)}
    write_atomic(path, save(tensors, metadata=metadata))


def reference_from_folder(folder: Path, *, detector: Detector, batch_size: int = 64) -> Reference:
    """Run the detector over every picture below `folder`, in sorted order.

    Raises:
        DataError: there are fewer than two pictures, or something else, or one cannot be read.
    """
    listing = list_files(folder)
    if others := [*listing.left_out, *unread(listing.files)]:
        raise DataError(
            f"{folder} holds {len(others)} file(s) that are no pictures to be read, such as {', '.join(others[:4])}. "
            "Statistics are of all pictures or of none: convert or remove them."
        )
    paths = list(filter(is_picture, listing.files))
    if len(paths) < 2:
        known = ", ".join(sorted(SUFFIXES))
        raise DataError(f"{folder} holds {len(paths)} picture(s) ({known}); a reference needs at least 2.")
    features = extract_features(detector, read_images(paths, batch_size=batch_size)).features  # (M, D)
    mean, cov = mean_and_cov(features)
    return Reference(
        name=str(folder), detector=detector.name, mean=mean, cov=cov, features=features, num_samples=len(features)
    )


def read_images(paths: list[Path], *, batch_size: int = 64) -> Iterator[Tensor]:
    """Batches (B, C, H, W) in [0, 1] of consecutive pictures of one shape; grey pictures have C = 1, others 3.

    Args:
        batch_size: pictures at a time; of large ones as many as have `BATCH_PIXELS` together, one at least.
    """
    batch: list[Tensor] = []
    for path in paths:
        image = read_image(path)  # (C, H, W)
        full = len(batch) == batch_size or (len(batch) + 1) * image[0].numel() > BATCH_PIXELS
        if batch and (full or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)


def read_image(path: Path) -> Tensor:
    """A picture as (C, H, W) float32 in [0, 1], read as training pictures are.

    Raises:
        DataError: it cannot be read, or does not decode.
    """
    try:
        return to_tensor(read_picture(path))
    except DataError as error:
        raise DataError(f"{error}. Repair or remove it.") from None


def _read_npz(path: Path, detector: str) -> Reference:
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as arrays:
            found = [name.removesuffix(".npy") for name in arrays.namelist()]
            missing = sorted({"mu", "sigma"} - set(found))
            if missing:
                there = ", ".join(found) or "nothing"
                raise DataError(f"{path} has no array {' or '.join(missing)}; it holds {there}.")
            mean, cov = (_read_npy(arrays, key) for key in ("mu", "sigma"))
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    except Exception as error:  # zip files, what decompresses them and numpy raise errors of many classes
        raise DataError(f"cannot read the statistics {path}: {first_line(error)}. Download the file again.") from None
    return Reference(name=str(path), detector=detector, mean=mean, cov=cov, features=None, num_samples=0)


def _read_npy(arrays: zipfile.ZipFile, name: str) -> Tensor:
    """An array as float64, once its head says no more than there is: numpy makes room for what the head says.

    Raises:
        DataError: it is too large, or not as large as it says.
    """
    with arrays.open(f"{name}.npy") as file:
        content = io.BytesIO(file.read(MAX_STATISTICS_BYTES + 1))
    size = len(content.getbuffer())
    if size > MAX_STATISTICS_BYTES:
        raise DataError(f"{name} has more than the {MAX_STATISTICS_BYTES / 2**30:.0f} GB that are read")
    read_head = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(content)]
    shape, _, dtype = read_head(content)
    if dtype.hasobject:
        raise DataError(f"cannot read {name}: it holds pickled objects, which are never opened")
    if not 0 <= math.prod(shape) * dtype.itemsize <= size:
        raise DataError(f"{name} says that it has the shape {shape} of {dtype}, which its {size} bytes do not hold")
    content.seek(0)
    return torch.from_numpy(np.asarray(npy.read_array(content, allow_pickle=False), dtype=np.float64))


def _read_safetensors(path: Path, *, name: str) -> Reference:
    try:
        with open_tensors(path, what="a reference", error=DataError) as file:
            metadata, keys = file.metadata() or {}, set(file.keys())
            if not {"mean", "cov"} <= keys or not {"detector", "num_samples"} <= metadata.keys():
                raise DataError(f"{path} is no reference of this program: it needs the tensors mean and cov.")
            features = file.get_tensor("features").float() if "features" in keys else None
            if features is not None and "scale" in keys:
                features = _restored(features, file.get_tensor("scale"), path)
            mean, cov = file.get_tensor("mean").double(), file.get_tensor("cov").double()
            num_samples = int(metadata["num_samples"])
    except ValueError as error:
        raise DataError(f"cannot read the reference {path}: {error}. Write it again.") from error
    return Reference(name, metadata["detector"], mean, cov, features, num_samples)


def _restored(levels: Tensor, scale: Tensor, path: Path) -> Tensor:
    """Features (M, D) of their levels (M, D) and the scale (D,) of each."""
    if levels.ndim != 2 or scale.shape != levels.shape[1:]:
        shapes = f"features of shape {tuple(levels.shape)} and a scale of shape {tuple(scale.shape)}"
        raise DataError(f"the reference {path} has {shapes}, which do not belong together. Write it again.")
    return levels * scale.float()


def _check(reference: Reference, detector: Detector) -> None:
    dim = detector.feature_dim
    shapes = {"mean": ((dim,), reference.mean), "covariance": ((dim, dim), reference.cov)}
    for what, (shape, tensor) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise DataError(
                f"reference {reference.name!r} has a {what} of shape {tuple(tensor.shape)}, but detector "
                f"{detector.name!r} has {dim} features: pass a reference made with the same detector."
            )
        if not tensor.isfinite().all():
            raise DataError(f"reference {reference.name!r} has a {what} with values that are not finite.")
    if reference.features is not None and reference.features.shape[1:] != (dim,):
        raise DataError(f"reference {reference.name!r} has {reference.features.shape[1]} features; {dim} are needed.")
    if reference.features is not None and not reference.features.isfinite().all():
        raise DataError(f"reference {reference.name!r} has features that are not finite.")
    if reference.detector != detector.name:
        raise DataError(
            f"reference {reference.name!r} was made with detector {reference.detector!r}, but the pictures are "
            f"measured with {detector.name!r}: the scores would mean nothing. Pass a reference of the same detector."
        )
