"""The store: a key per input, existence means done, what may go, and where it comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.running import provenance
from palimpsest.benchmark.running.needs import strangers
from palimpsest.benchmark.running.provenance import LIBRARIES
from palimpsest.benchmark.running.store import Stage, Store, Work, canonical
from tests.benchmark.stages import stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ---- keys


@pytest.mark.parametrize(
    "other",
    [
        stage(a=1, b=[2, {"c": 4}]),
        stage(a=2, b=[2, {"c": 3}]), stage(a=1, b=[{"c": 3}, 2]), stage(a=1), stage(a=1, b=[2, {"c": 3}], d=None),
        stage(kind="twin", a=1, b=[2, {"c": 3}]), stage(a="1", b=[2, {"c": 3}]),
    ],
)  # fmt: skip
def test_another_input_is_another_key(other: Stage) -> None:
    assert other.key != stage(a=1, b=[2, {"c": 3}]).key


def test_order_label_cost_and_tuples_do_not_change_a_key() -> None:
    first, second = stage(a=1, b=(2, {"c": 3, "d": 4})), stage(b=[2, {"d": 4, "c": 3}], a=1, label="another")
    assert first.key == second.key == Stage("held", "x", {"a": 1, "b": [2, {"c": 3, "d": 4}]}, lambda f: None, lambda: Work(trained=99)).key
    assert len(first.key) == 16


def test_keys_stay_what_they_were() -> None:
    """A change here makes every finished stage of every user count as not done."""
    assert canonical({"b": [1.5, None, "é"], "a": True}) == '{"a":true,"b":[1.5,null,"\\u00e9"]}'
    assert stage(a=1).key == "c4690c91b918ef5a"


# ---- making


def test_a_stage_is_made_once(store: Store) -> None:
    made = []
    it = stage(lambda folder: made.append((folder / "it").write_text("x")), a=1)
    assert not store.done(it)
    assert store.ensure(it) == store.ensure(it) == store.folder(it) == store.root / "held" / it.key
    assert store.done(it)
    assert len(made) == 1


def test_the_manifest_holds_inputs_facts_hashes_and_versions(store: Store) -> None:
    it = stage(a=1, label="the label")
    store.ensure(it)
    manifest = store.manifest(it)
    assert (manifest["kind"], manifest["label"], manifest["key"], manifest["inputs"]) == ("held", "the label", it.key, {"a": 1})
    assert manifest["tokens"] == 7
    assert list(manifest["files"]) == ["deep/weights"]
    assert set(manifest["versions"]) == {"python", *LIBRARIES}
    assert manifest["seconds"] >= 0
    assert {"commit", "dirty", "device", "threads"} <= manifest.keys()
    assert manifest["device"].startswith(device().type)
    assert manifest["peak_memory_mb"] > 0


def test_work_goes_to_another_name_until_it_is_complete(store: Store) -> None:
    seen = []

    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        seen.append((folder == store.folder(it), store.folder(it).exists(), store.done(it)))

    it = stage(build, a=1)
    store.ensure(it)
    assert seen == [(False, False, False)]
    assert [f.name for f in (store.root / "held").iterdir() if f.is_dir()] == [it.key]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interruption_leaves_nothing_that_counts_as_done_and_running_again_makes_it_whole(
    error: type[BaseException], store: Store
) -> None:
    tries = []

    def build(folder: Path) -> None:
        assert not list(folder.iterdir()), "what the interrupted attempt wrote is gone"
        (folder / f"try{len(tries)}").write_text("x")
        tries.append(1)
        if len(tries) == 1:
            raise error

    it = stage(build, a=1)
    with pytest.raises(error):
        store.ensure(it)
    assert not store.done(it)
    assert list(store.entries()) == []
    assert [f.name for f in store.ensure(it).iterdir() if f.name != "manifest.json"] == ["try1"]
    assert [key for _, key, _, _ in store.entries()] == [it.key]


def test_an_interruption_just_before_the_end_is_not_listed_either(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    it = stage(a=1)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.ensure(it)
    monkeypatch.setattr(Path, "rename", rename)
    assert not store.done(it)
    assert list(store.entries()) == []
    store.ensure(it)
    assert store.done(it)


def test_scratch_survives_an_interruption_and_goes_when_the_stage_is_done(store: Store) -> None:
    tries = []

    def build(folder: Path) -> None:
        store.scratch(it).mkdir(parents=True, exist_ok=True)
        tries.append(sorted(f.name for f in store.scratch(it).iterdir()))
        (store.scratch(it) / "step100").write_text("x")
        if len(tries) == 1:
            raise KeyboardInterrupt

    it = stage(build, a=1)
    with pytest.raises(KeyboardInterrupt):
        store.ensure(it)
    store.ensure(it)
    assert tries == [[], ["step100"]]
    assert not store.scratch(it).exists()


def test_a_folder_without_a_manifest_is_made_again(store: Store) -> None:
    it = stage(a=1)
    store.ensure(it)
    (store.folder(it) / "manifest.json").unlink()
    assert not store.done(it)
    assert (store.ensure(it) / "deep" / "weights").is_file()
    assert store.done(it)


# ---- what is there, and what may go


def test_entries_are_the_finished_stages_with_their_sizes(store: Store) -> None:
    first, second = stage(a=1), stage(kind="quality", a=1)
    for it in (second, first):
        store.ensure(it)
    found = list(store.entries())
    assert [(kind, key) for kind, key, _, _ in found] == [("held", first.key), ("quality", second.key)]
    assert [size for *_, size in found] == [
        sum(f.stat().st_size for f in store.folder(s).rglob("*") if f.is_file()) for s in (first, second)
    ]
    assert found[0][2]["inputs"] == {"a": 1}


def test_only_what_no_plan_names_is_collected_and_only_when_asked(store: Store) -> None:
    kept, gone, broken = stage(a=1), stage(a=2), stage(lambda f: (_ for _ in ()).throw(KeyboardInterrupt), a=3)
    for it in (kept, gone):
        store.ensure(it)
    for it in (kept, broken):
        store.scratch(it).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        store.ensure(broken)
    (store.root / ".quality" / "k").mkdir(parents=True)
    part = store.folder(broken).with_name(f".{broken.key}.part")
    assert part.is_dir()
    expected = sorted([store.folder(gone), part, store.scratch(broken)])
    found = store.collect({kept.key}, delete=False)
    assert sorted(folder for folder, _ in found) == expected
    assert all(folder.is_dir() for folder in expected)
    assert store.collect({kept.key}, delete=True) == found
    assert not any(folder.exists() for folder in expected)
    assert store.done(kept)
    assert store.scratch(kept).is_dir()
    assert store.collect({kept.key}, delete=True) == []


def test_stages_that_rest_on_no_known_model_are_told_apart(store: Store) -> None:
    """Whatever their inputs name: a model directly, models by their names, a list of stages."""
    kept: dict[str, list[Stage]] = {}
    for base in ("known", "unknown"):
        held = stage(base=base, seed=0)
        method = stage(kind="method", held=held.key, method="npo")
        battery = stage(kind="battery", model=method.key, tokenizer="the same")
        excerpts = stage(kind="excerpts", models={"base": base, "npo": method.key}, tokenizer="the same")
        kept[base] = [held, method, battery, excerpts, stage(kind="thresholds", null=[battery.key])]
        for it in kept[base]:
            store.ensure(it)
    assert strangers(store, {"known", "unknown"}) == {}
    found = strangers(store, {"known"})
    assert set(found) == {s.key for s in kept["unknown"]}
    assert found[kept["unknown"][1].key] == {kept["unknown"][0].key, "npo"}
    assert set(strangers(store, {kept["known"][0].key})) == {s.key for s in kept["unknown"]}, "keys of stages are known as models are"
    (store.folder(kept["unknown"][0]) / "manifest.json").write_text("{")
    assert set(strangers(store, {"known"})) == {s.key for s in kept["unknown"][1:]}, "one that is damaged tells nothing"


def test_answers_of_a_model_that_no_stage_makes_stay_where_it_is_named(store: Store) -> None:
    held = stage(a=1)
    store.ensure(held)
    rows = store.root / ".rows"
    rows.mkdir()
    for model in ("fromelsewhere", "another", held.key):
        (rows / f"{model}-aa.safetensors").write_text("x")
    gone = store.collect(set(), delete=True, asked={"fromelsewhere", held.key})
    assert sorted(p.name for p, _ in gone) == sorted([held.key, "another-aa.safetensors", f"{held.key}-aa.safetensors"])
    assert [f.name for f in rows.iterdir()] == ["fromelsewhere-aa.safetensors"]


# ---- what another process is making


@pytest.mark.parametrize("what", ["part", "scratch", "trial"])
def test_what_another_process_is_making_is_not_collected(what: str, store: Store) -> None:
    it = stage(a=1)
    store.folder(it).parent.mkdir(parents=True)
    path = {
        "part": store.folder(it).with_name(f".{it.key}.part"),
        "scratch": store.scratch(it),
        "trial": store.root / ".scratch" / f"{it.key}-3",
    }[what]
    lock = store.root / "tuning" / f"Npo-{it.key}.jsonl.busy" if what == "trial" else Path(f"{store.folder(it)}.lock")
    path.mkdir(parents=True)
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        assert store.collect(set(), delete=True) == []
        assert path.is_dir()
    assert [p for p, _ in store.collect(set(), delete=True)] == [path]
    assert not path.exists()


# ---- where it comes from


def test_the_commit_is_that_of_the_checkout_that_the_code_is_run_from_and_none_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.run(("git", "-C", str(tmp_path), *names, *words), check=True, capture_output=True, text=True).stdout.strip()

    seen = []
    git("init", "-q")
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "a.py")
    git("commit", "-qm", "a")
    for place, text in ((tmp_path, "x = 1\n"), (tmp_path, "x = 2\n"), (tmp_path / "inner", "x = 1\n")):
        (tmp_path / "a.py").write_text(text)
        monkeypatch.setattr(provenance, "TREE", place.resolve())
        provenance._checkout.cache_clear()
        seen.append(provenance._checkout())
    provenance._checkout.cache_clear()
    assert seen == [(git("rev-parse", "HEAD"), False), (git("rev-parse", "HEAD"), True), (None, None)]
