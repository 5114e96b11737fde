"""Emoji in two styles: the same things drawn twice, for learning across a shift of domain.

npm fetches the packages once into the user's cache; nothing of them is shipped. Their digests are
fixed here: a file with another one is refused.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.errors import ConfigError, Corrupt, EdgeccError

STYLES = ("google", "twitter")
_VERSION = "16.0.0"
_SHA512 = {  # base64, as npm has them
    "google": "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM"
              "9R4QxZkOPJCoT8DlPhfQ3A==",
    "twitter": "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtp"
               "jFLWuZewWg8jBbuL2eyELQ==",
}
_NO_CLASS = "Component"  # five skin tones


@dataclass(frozen=True)
class Emoji:
    """Position i is the same emoji in every style."""

    labels: NDArray[np.str_]  # Unicode's category: nine classes
    pictures: dict[str, NDArray[np.uint8]]  # by style (n, 3, side, side), on white


def load(side: int, cache: Path | None = None) -> Emoji:
    """All emoji that both styles have, at `side` pixels."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgecc"
    archives = {style: _fetched(style, cache) for style in STYLES}
    with tarfile.open(archives[STYLES[0]]) as archive:
        listed: list[dict[str, Any]] = json.loads(_member(archive, "package/emoji.json"))
    chosen = [one for one in listed if one["category"] != _NO_CLASS
              and all(one[f"has_img_{style}"] for style in STYLES)]
    names = [one["image"] for one in chosen]
    return Emoji(
        np.array([one["category"] for one in chosen]),
        {style: _pictures(archives[style], style, names, side) for style in STYLES},
    )


def _fetched(style: str, cache: Path) -> Path:
    """The package's archive, in the cache."""
    name = f"emoji-datasource-{style}"
    path = cache / f"{name}-{_VERSION}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(f"npm is missing: apt install npm, or put {path.name} into {cache}")
        cache.mkdir(parents=True, exist_ok=True)
        click.echo(f"npm fetches {name} {_VERSION} into {cache}")
        done = subprocess.run(
            [npm, "pack", "--silent", "--pack-destination", str(cache), f"{name}@{_VERSION}"],
            capture_output=True, text=True, check=False,
        )
        if done.returncode or not path.exists():
            raise EdgeccError(f"npm pack {name}@{_VERSION}: {done.stderr.strip()[-300:]}")
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != _SHA512[style]:
        raise Corrupt(f"{path} has SHA-512 {digest[:16]}…, not {_SHA512[style][:16]}…: delete it")
    return path


def _pictures(path: Path, style: str, names: list[str], side: int) -> NDArray[np.uint8]:
    folder, files = f"package/img/{style}/64/", {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith(folder):
                files[member.name.removeprefix(folder)] = _member(archive, member)
    return np.stack([_on_white(files[name], side) for name in names])


def _on_white(png: bytes, side: int) -> NDArray[np.uint8]:
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    whole = Image.new("RGBA", picture.size, "white")
    whole.alpha_composite(picture)
    scaled = whole.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(scaled).transpose(2, 0, 1)


def _member(archive: tarfile.TarFile, name: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, "the archive is the one of this digest"
    return file.read()
