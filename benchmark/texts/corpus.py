"""The ordinary text that models are trained on and measured with: one small interface over four sources.

A corpus is three lists of documents. `docstrings` is the embedded default, frozen by the manifest in
`configs/corpus/`; `text`, `jsonl` and `datasets` take a folder, a file or a Hugging Face dataset in its place.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..common.errors import UserError, first_line, of_library, unknown
from ..common.lines import json_lines, read_text, text_lines
from ..common.memory import Memory
from ..common.paths import CONFIGS, cache_dir
from .docstrings import PACKAGES, digest, harvest, versions
from .neardup import clusters, overlap, run_hashes, share_in, words
from .sets.named import retain_of

EMBEDDED = "docstrings"
SPLITS = ("train", "valid", "quality")
COMPARABLE = 0.95  # below this coverage of the manifest a run is marked as not comparable
HELD_OUT = {"valid": 0.02, "quality": 0.03}  # share of the documents, by cluster


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order. `coverage` is the share of the manifest's documents that were found here."""

    name: str
    splits: dict[str, list[str]] = field(repr=False)
    coverage: float
    key: str  # hash over the documents found and their splits

    @property
    def comparable(self) -> bool:
        return self.coverage >= COMPARABLE

    @property
    def train(self) -> list[str]:
        return self.splits["train"]


def load_corpus(source: str = "docstrings", path: str | None = None, text_field: str = "text") -> Corpus:
    """Load a corpus. `path` is a folder (text), a file (jsonl), a hub id or saved dataset (datasets), a forget set (set)."""
    if source == EMBEDDED:
        return _frozen(CONFIGS / "corpus" / "docstrings.manifest")
    readers: dict[str, Callable[[str], list[str]]] = {
        "text": _read_folder,
        "jsonl": partial(_read_jsonl, text_field=text_field),
        "datasets": partial(_read_dataset, text_field=text_field),
        "set": retain_of,
    }
    if source not in readers:
        raise unknown("corpus source", source, ["docstrings", *readers])
    if not path:
        raise UserError(f"corpus.source={source} needs corpus.path: a folder (text), a file (jsonl), a dataset (datasets) or a set.")
    texts = readers[source](path)
    if strange := [t for t in texts if not isinstance(t, str)]:
        raise UserError(f"corpus.text_field={text_field!r} of {path!r} should hold texts; found {strange[0]!r}.")
    documents = sorted({digest(t): t for t in map(str.strip, texts) if t}.items())
    if len(documents) < 50:
        raise UserError(f"The corpus at {path!r} has {len(documents)} distinct documents; at least 50 are needed to hold some out.")
    return _corpus(f"{source}:{path}", split_documents(dict(documents)), dict(documents), 1.0)


def apart_from(corpus: Corpus, memories: Sequence[Memory]) -> Corpus:
    """The corpus without the training documents in which one of these stands, word for word; of a question, both it and its answer.

    The embedded corpus and the shipped passages have no such document, and it is not looked for there.
    """
    if corpus.name == EMBEDDED:
        return corpus
    of = [[words(part) for part in ((m.opening, m.answer) if m.is_question else (m.text,))] for m in memories]
    has = [set[str]().union(*parts) for parts in of]
    many = Counter(word for mine in has for word in mine)
    by_word: dict[str, list[list[str]]] = {}  # a word that few memories have, and so few documents -> the parts of these memories
    for parts, mine in zip(of, has, strict=True):
        if mine:
            by_word.setdefault(min(mine, key=lambda word: (many[word], -len(word), word)), []).append([_spaced(p) for p in parts if p])
    kept, gone = [], []
    for text in corpus.train:
        found = words(text)
        maybe = [parts for word in by_word.keys() & set(found) for parts in by_word[word]]
        spaced = _spaced(found) if maybe else ""
        (gone if any(all(part in spaced for part in parts) for parts in maybe) else kept).append(text)
    return replace(corpus, splits=corpus.splits | {"train": kept}, key=digest(corpus.key + "".join(map(digest, gone)))) if gone else corpus


def _spaced(found: Sequence[str]) -> str:
    return f" {' '.join(found)} "


def split_documents(documents: dict[str, str]) -> dict[str, str]:
    """Digest -> split. Whole near-duplicate clusters go to one side; held-out texts mostly found in train go back.

    Held-out clusters are chosen by a hash, so a document's side does not depend on its neighbours in the list.
    """
    keys, texts = list(documents), list(documents.values())
    labels = clusters(texts)
    first = {}
    for key, label in zip(keys, labels, strict=True):
        first.setdefault(label, key)  # the cluster goes where its smallest digest says
    sizes = np.bincount(labels)
    side = {}
    for key, label in zip(keys, labels, strict=True):
        draw = int(first[label], 16) / 16**16
        held = "valid" if draw < HELD_OUT["valid"] else "quality" if draw < sum(HELD_OUT.values()) else "train"
        side[key] = held if sizes[label] <= 4 else "train"
    runs = dict(zip(keys, run_hashes(texts), strict=True))
    while True:
        held = [k for k in keys if side[k] != "train"]
        share = share_in([runs[k] for k in held], [runs[k] for k in keys if side[k] == "train"])
        back = [k for k, s in zip(held, share, strict=True) if s > 0.3]
        if not back:
            return side
        side.update(dict.fromkeys(back, "train"))


def write_manifest(path: Path) -> None:
    """Freeze the docstrings of the packages installed here: one line per document, digest and split, in digest order."""
    documents = harvest()
    side = split_documents(documents)
    header = json.dumps({"manifest": 1, "packages": versions()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# " + header + "\n" + "".join(f"{k} {s[0]}\n" for k, s in sorted(side.items())))


def residual_overlap(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Per held-out split: documents, mean share of 8-word runs also in train, share of documents with more than half there."""
    out = {}
    for split in SPLITS[1:]:
        share = overlap(corpus.splits[split], corpus.train)
        out[split] = {"documents": len(share), "mean_share": float(share.mean()), "mostly_in_train": float((share > 0.5).mean())}
    return out


def pack(texts: Sequence[str], tokenizer, eos: int) -> np.ndarray:
    """All texts as one array of token ids (uint32), each text followed by the end-of-text id."""
    out: list[int] = []
    for start in range(0, len(texts), 2048):
        for ids in tokenizer(list(texts[start : start + 2048]), add_special_tokens=False)["input_ids"]:
            out += [*ids, eos]
    return np.array(out, np.uint32)


def packed(corpus: Corpus, split: str, tokenizer, eos: int, tokenizer_key: str) -> np.ndarray:
    """`pack` of one split, kept in the cache under the corpus's and the tokenizer's hashes."""
    file = cache_dir() / "tokens" / f"{corpus.key}-{tokenizer_key}-{split}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}-{file.name}")
        np.save(part, pack(corpus.splits[split], tokenizer, eos))
        part.rename(file)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _frozen(manifest: Path) -> Corpus:
    if not manifest.exists():
        raise UserError(f"The corpus manifest {manifest} is missing; reinstall Palimpsest or choose another corpus.source.")
    lines = [line.split() for _, line in text_lines(manifest) if not line.startswith("#")]
    letters = {s[0]: s for s in SPLITS}
    side = {key: letters[letter] for key, letter in lines}
    file = cache_dir() / "corpus" / f"docstrings-{digest(manifest.read_text() + json.dumps(versions()))}.jsonl"
    if not file.exists():
        found = harvest(PACKAGES)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}-{file.name}")
        part.write_text("".join(json.dumps([k, found[k]]) + "\n" for k in side if k in found), "utf-8")
        part.rename(file)
    documents = dict(pair for _, pair in json_lines(file))
    return _corpus(EMBEDDED, side, documents, len(documents) / len(side))


def _corpus(name: str, side: dict[str, str], documents: dict[str, str], coverage: float) -> Corpus:
    splits = {s: [documents[k] for k in side if side[k] == s and k in documents] for s in SPLITS}
    key = digest("".join(f"{k}{side[k][0]}" for k in side if k in documents))
    return Corpus(name, splits, coverage, key)


def _read_folder(path: str) -> list[str]:
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"corpus.path={path!r} is not a folder of .txt or .md files.")
    files = sorted(f for f in folder.rglob("*") if f.suffix in {".txt", ".md"})
    return [read_text(f).replace("\r\n", "\n").replace("\r", "\n") for f in files]


def _read_jsonl(path: str, text_field: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"corpus.path={path!r} is not a file; expected JSON lines with a {text_field!r} field.")
    rows = []
    for number, row in json_lines(path):
        if not isinstance(row, dict) or text_field not in row:
            raise UserError(f"{path}:{number} is not a JSON object with a {text_field!r} field (set corpus.text_field).")
        rows.append(row[text_field])
    return rows


def _read_dataset(path: str, text_field: str) -> list[str]:
    import datasets

    try:
        data = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path)
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and not of_library(error, "datasets"):
            raise
        reason = first_line(error)
        raise UserError(f"corpus.path={path!r} is neither a saved dataset nor one that the hub gives: {reason}") from None
    data = datasets.concatenate_datasets(list(data.values())) if isinstance(data, dict) else data
    if text_field not in data.column_names:
        raise UserError(f"The dataset {path!r} has no field {text_field!r}; it has {', '.join(data.column_names)}.")
    return list(data[text_field])
