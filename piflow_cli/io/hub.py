"""Where a model's source is: a local folder or file, a hub id, or what ships with the package."""

import re
from pathlib import Path

from piflow_cli.errors import ModelError
from piflow_cli.io.zoo import in_zoo, zoo_entries

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def locate(source: str, *, part: str = "teacher") -> Path | str:
    """Return the local path of a source, or the source itself where it is a hub id.

    Args:
        source: a folder, a weight file, a hub id `owner/name`, or `zoo:NAME` for what ships with the package.
        part: the folder inside a zoo entry.

    Raises:
        ModelError: there is no such folder, and the source is no hub id either.
    """
    embedded = in_zoo(source, part)
    if embedded is not None:
        if not embedded.is_dir():
            raise ModelError(f"no embedded model {source!r}. Embedded: {', '.join(zoo_entries(part))}.")
        return embedded
    path = Path(source).expanduser()
    if path.exists():
        return path
    if HUB_ID.fullmatch(source) and not source.endswith(WEIGHT_SUFFIXES):
        return source
    raise ModelError(
        f"{source!r} does not exist here and is no hub id (owner/name). "
        "Pass a diffusers folder, a .safetensors or .pth file, a hub id, or zoo:NAME."
    )


def unreachable(source: str, error: Exception) -> ModelError:
    """The error for a hub id whose files cannot be had."""
    return ModelError(
        f"cannot get {source!r} from the model hub: {type(error).__name__}. Without network, download it where there "
        f"is one (`hf download {source} --local-dir FOLDER`; gated models need `hf auth login` and accepted terms) and "
        "pass the folder instead of the id."
    )
