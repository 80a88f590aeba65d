# Where the emoji pictures and their names come from: packages of the npm registry, checked before use.

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from piflow_cli.errors import PiflowError
from piflow_cli.io.files import write_atomic

PUBLIC_REGISTRY = "https://registry.npmjs.org"
VARIABLE = "npm_config_registry"
"""Environment variable that npm itself obeys."""
TIMEOUT_S = 120


@dataclass(frozen=True)
class Package:
    """A version of an npm package, with the digest that npm gives for its tarball."""

    name: str
    version: str
    integrity: str
    licence: str

    @property
    def filename(self) -> str:
        """Name of the tarball in a folder, as `npm pack` would give it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "Noto Emoji, Google, Apache-2.0",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "Twemoji, Twitter and contributors, CC BY 4.0",
)
FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "Fluent Emoji, Microsoft, MIT",
)
NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "Emojibase, Miles Johnson, MIT; names and keywords of Unicode CLDR, Unicode License v3",
)
PACKAGES = (NOTO, TWEMOJI, FLUENT, NAMES)


def find_registry(chosen: str | None = None) -> str:
    """Address of the npm registry: `chosen`, else the one npm is set up for, else the public one.

    Raises:
        PiflowError: the address is not an http(s) one.
    """
    address = chosen or os.environ.get(VARIABLE) or _registry_of_npm() or PUBLIC_REGISTRY
    if urllib.parse.urlsplit(address).scheme not in {"https", "http"}:
        raise PiflowError(f"{address!r} is no address of an npm registry. Pass one with --registry https://HOST.")
    return address.rstrip("/")


def _registry_of_npm() -> str | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    answer = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.stdout.startswith("http") else None


def fetch_package(package: Package, folder: Path, *, registry: str) -> Path:
    """Path of the package's tarball in `folder`, downloaded unless it is there already, and checked either way.

    Args:
        package: what to fetch.
        folder: where tarballs are kept; made if missing.
        registry: from `find_registry`.

    Raises:
        PiflowError: the registry cannot be reached, or what came is not what the digest says.
    """
    path = folder / package.filename
    if path.exists():
        if digest(path.read_bytes()) == package.integrity:
            return path
        path.unlink()
    address = f"{registry}/{package.name.replace('/', '%2f')}/{package.version}"
    about = json.loads(_read(address, {"Accept": "application/json"}))
    print(f"downloading {package.name} {package.version}", file=sys.stderr, flush=True)
    content = _read(about["dist"]["tarball"], {})
    if digest(content) != package.integrity:
        raise PiflowError(
            f"{package.name} {package.version} from {registry} has the digest {digest(content)}, not "
            f"{package.integrity}: nothing was kept. Try again, or another registry with --registry."
        )
    write_atomic(path, content)
    return path


def digest(content: bytes) -> str:
    """Subresource integrity of a file as npm writes it: "sha512-" and base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def _read(address: str, headers: dict[str, str]) -> bytes:
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise PiflowError(
            f"cannot read {address}: {reason}. Check the network, or name a mirror with --registry."
        ) from None
