"""Damage to files, by what they are: heads that lie, bodies that are cut, pickles and PostScript by other names."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import canary, values

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(sung) (w) file closefile\nshowpage\n"
MAX_READ = 4_000_000


def raw(rng: random.Random, content: bytes) -> bytes:
    """Bytes flipped, cut, doubled, put in, or others altogether."""
    kind = rng.randrange(9)
    if kind == 0:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 1:
        return rng.choice((b"", b"\0" * 64, b"\xff" * 64, pickled(), POSTSCRIPT, b"\x1f\x8b" + content[:99]))
    if kind == 2:
        place = rng.randrange(len(content) + 1)
        return content[:place] + rng.randbytes(rng.choice((1, 8, 500))) + content[place:]
    if kind == 3:
        place = rng.randrange(len(content) + 1)
        return content[:place] + content[place + rng.choice((1, 4, 64, 1000)) :]
    if kind == 4:
        return content + rng.choice((content[:1000], b"\0" * 1000, rng.randbytes(100)))
    changed = bytearray(content or b"\0")
    reach = rng.choice((64, len(changed)))  # heads matter more than bodies
    for _ in range(rng.choice((1, 1, 4, 32))):
        place = rng.randrange(min(reach, len(changed)))
        changed[place] = rng.choice((0, 255, 127, 128, changed[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return bytes(changed)


def pickled() -> bytes:
    """A pickle that sings where it is opened."""
    return pickle.dumps(canary.Egg(), protocol=2)


def safetensors(rng: random.Random, content: bytes) -> bytes:
    """A header that says other names, dtypes, shapes, places or metadata, or a body with other numbers."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
    except (struct.error, ValueError):
        return raw(rng, content)
    body = bytearray(content[8 + length :])
    kind = rng.randrange(6)
    if kind == 0:
        return raw(rng, content)
    if kind == 1 and body:
        for _ in range(rng.choice((1, 8))):
            start = rng.randrange(len(body))
            body[start : start + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\xff" * 4, rng.randbytes(4)))[
                : len(body) - start
            ]
    elif kind == 2:
        _lie(rng, header)
    elif kind == 3:
        header.setdefault("__metadata__", {})[rng.choice(("format", "prompts", "x", "piflow_student"))] = rng.choice(
            ("[]", "x" * 9999, "null", '["a"]', "{", "\0")
        )
    else:
        header = values.tree(rng, header)
    head = json.dumps(header).encode(errors="surrogatepass")
    said = rng.choice((len(head),) * 6 + (0, 1, 2**40, 2**63, len(head) - 1))
    return struct.pack("<Q", said) + head + bytes(body)


def _lie(rng: random.Random, header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    entry = header[rng.choice(names)]
    kind = rng.randrange(5)
    if kind == 0:
        entry["dtype"] = rng.choice(("F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "F64", "Q4", "C64"))
    elif kind == 1:
        entry["shape"] = values.near(rng, entry["shape"])
    elif kind == 2:
        entry["shape"] = rng.choice(([], [0], [2**40, 2**40], [10**9], [-1], entry["shape"][::-1], [0, 2**62]))
    elif kind == 3:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 2**40], [8, 4], [2**63, 2**63], entry["data_offsets"]))
    else:
        header[rng.choice((*names, "x", "a" * 300, "../x", "lora_A.weight"))] = header.pop(rng.choice(names))


def as_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON document of another tree."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return raw(rng, content)
    if rng.random() < 0.15:
        return raw(rng, content)
    return values.json_text(rng, value).encode(rng.choice(("utf-8",) * 9 + ("utf-16",)), errors="surrogatepass")


def lines(rng: random.Random, content: bytes) -> bytes:
    """Lines of text, or of JSON, some of them others, lost, doubled, or of another encoding."""
    rows = content.splitlines() or [b""]
    for _ in range(rng.choice((1, 2, 5))):
        place = rng.randrange(len(rows))
        kind = rng.randrange(7)
        if kind == 0 and len(rows) > 1:
            del rows[place]
        elif kind == 1:
            rows[place:place] = rows[: rng.choice((1, 500))]
        elif kind == 2:
            rows[place] = raw(rng, rows[place])
        elif kind == 3:
            rows[place] = values.text(rng, rows[place].decode(errors="replace")).encode(errors="surrogatepass")
        elif kind == 4:
            rows[place] = rng.choice(values.TEXTS).encode(errors="surrogatepass")
        else:
            rows[place] = as_json(rng, rows[place])
    ends = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", "\u2028".encode()))
    joined = rng.choice((b"",) * 8 + (b"\xef\xbb\xbf", b"\xff\xfe")) + ends.join(rows)
    return joined.decode(errors="replace").encode("utf-16") if rng.random() < 0.03 else joined


def toml(rng: random.Random, content: bytes) -> bytes:
    """Lines of TOML with other values, keys and tables."""
    rows = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(rows))
        key, equals, _ = rows[place].partition("=")
        kind = rng.randrange(7)
        if kind < 3 and equals:
            rows[place] = f"{key}= {toml_value(rng)}"
        elif kind == 3:
            del rows[place]
            rows = rows or [""]
        elif kind == 4:
            other = rng.choice(("[x]", "[[data]]", "extends = 'digits-1nfe'", 'extends = "fuzz.toml"', "a.b.c = 1"))
            rows.insert(place, rng.choice((rows[place], other, f"x = {'[' * 3000}", f"y = {'9' * 5000}")))
        elif kind == 5 and equals:
            rows[place] = values.text(rng, key) + equals + rows[place][len(key) + 1 :]
        else:
            rows[place] = values.text(rng, rows[place])
    written = "\n".join(rows).encode(errors="surrogatepass")
    return raw(rng, written) if rng.random() < 0.05 else written


def toml_value(rng: random.Random) -> str:
    """A value in TOML's notation, or in something near to it."""
    value = values.atom(rng)
    if isinstance(value, float):
        return {"nan": "nan", "inf": "inf", "-inf": "-inf"}.get(str(value), repr(value))
    if value is None:
        return rng.choice(("", "1979-05-27", "07:32:00", "'''a\nb'''", "{a = 1}", "0o7", "1_000", "+nan", "null"))
    return json.dumps(value)[:20_000]


def archive(rng: random.Random, content: bytes) -> bytes:
    """A tar with members that are links, devices, far away, or say a size that is not theirs."""
    if rng.random() < 0.4:
        return raw(rng, content)
    buffer = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=buffer, mode="w", format=form) as new:
        for info in old:
            held = old.extractfile(info).read() if info.isreg() else b""
            if rng.random() < 0.5:
                info.name = rng.choice(("../../out.png", "/abs.png", "a" * 90 + ".png", "猫.png", "", ".hidden/x.png"))
            if rng.random() < 0.4:
                info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S"))
                info.linkname = rng.choice(("/etc/passwd", "../../x", "a.png", info.name))[:90]
            try:
                new.addfile(info, io.BytesIO(held if rng.random() < 0.8 else raw(rng, held).ljust(len(held))))
            except (ValueError, OSError):
                continue
    return buffer.getvalue()


def zipped(rng: random.Random, content: bytes) -> bytes:
    """An .npz of arrays that say another shape or dtype, or are pickles."""
    if rng.random() < 0.4:
        return raw(rng, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", rng.choice((0, 8))) as new:
        for name in old.namelist():
            held = old.read(name)
            kind = rng.randrange(6)
            if kind == 0:
                head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rng.choice(values.INTEGERS)},), }}"
                head = head.ljust(117) + "\n"
                held = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + held[-64:]
            elif kind == 1:
                held = (
                    held[:10] + held[10:128].replace(b"<f8", rng.choice((b"|O ", b"<c8", b"<U9", b"<i8"))) + held[128:]
                )
            elif kind == 2:
                held = raw(rng, held)
            elif kind == 3:
                held = held[:128] + pickled()
            new.writestr(rng.choice((name, name, name, "../../x.npy", "x.npy", "sigma.npy")), held)
    return buffer.getvalue()


def picture(rng: random.Random, content: bytes) -> bytes:
    """A picture of another size than its pixels, with chunks that explode, or PostScript."""
    kind = rng.randrange(6)
    if kind == 0:
        return POSTSCRIPT
    if content[:8] == b"\x89PNG\r\n\x1a\n" and kind < 4:
        width, height = rng.choice(((1, 2000), (2**31 - 1, 1), (0, 5), (60_000, 60_000), (20_000, 9), (8, 8)))
        head = struct.pack(">II", width, height) + content[24:29]
        head = rng.choice((head, head[:8] + rng.randbytes(5)))
        chunk = b"IHDR" + head
        content = content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
        if kind == 1:
            bomb = b"iCCP" + b"x\0\0" + zlib.compress(b"\0" * 3_000_000)
            content = (
                content[:33]
                + struct.pack(">I", len(bomb) - 4)
                + bomb
                + struct.pack(">I", zlib.crc32(bomb))
                + content[33:]
            )
    return raw(rng, content) if kind != 5 or rng.random() < 0.7 else content


BY_SUFFIX: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".safetensors": safetensors,
    ".json": as_json,
    ".jsonl": lines,
    ".txt": lines,
    ".csv": lines,
    ".caption": lines,
    ".toml": toml,
    ".tar": archive,
    ".npz": zipped,
    **dict.fromkeys((".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"), picture),
}


def file(rng: random.Random, path: Path) -> None:
    """Damage a file in its place, by what it is."""
    content = path.read_bytes()[:MAX_READ]
    path.write_bytes(BY_SUFFIX.get(path.suffix.lower(), raw)(rng, content))


def folder(rng: random.Random, root: Path, *, weight: Callable[[Path], float] = lambda _: 1.0) -> list[str]:
    """Damage one to three of the files below a folder, or lose, rename or replace some; says what was done."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    chosen = rng.choices(files, [weight(path) for path in files], k=rng.choice((1, 1, 1, 2, 3)))
    return [_damage(rng, path, files) for path in dict.fromkeys(chosen) if path.is_file()]


def _damage(rng: random.Random, path: Path, files: list[Path]) -> str:
    kind = rng.randrange(20)
    if kind == 0:
        path.unlink()
        return f"lost {path.name}"
    if kind == 1:
        path.unlink()
        made = rng.choice(("folder", "fifo", "link to a device", "link to nothing", "link to itself"))
        _put(made, path)
        return f"{path.name} is a {made}"
    if kind == 2:
        others = [other for other in files if other.is_file() and other.stat().st_size < MAX_READ]
        path.write_bytes(rng.choice(others).read_bytes())
        return f"{path.name} holds another file"
    if kind == 3:
        name = rng.choice((path.name + ".bak", "猫" + path.name, path.stem, path.stem + ".SAFETENSORS", "a" * 200))
        os.rename(path, path.with_name(name))
        return f"{path.name} is called {name[:40]}"
    file(rng, path)
    return f"damaged {path.name}"


def _put(made: str, path: Path) -> None:
    if made == "folder":
        path.mkdir()
    elif made == "fifo":
        os.mkfifo(path)
    else:
        target = {"link to a device": "/dev/zero", "link to nothing": "nothing-here"}.get(made, path.name)
        path.symlink_to(target)
