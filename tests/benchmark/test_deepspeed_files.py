"""A DeepSpeed configuration of one's own says how a training is spread over devices, and nothing that changes what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.training.engine import deepspeed_config

OFFLOAD = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


def file(tmp_path: Path, says: Any) -> str:
    (tmp_path / "own.json").write_text(json.dumps(says))
    return str(tmp_path / "own.json")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "sets torch_autocast; expected only bf16, "),
        ({"gradient_clipping": "auto"}, "sets gradient_clipping"),
        ({"fp16": {"enabled": True}, "optimizer": {"type": "SGD"}}, "sets fp16, optimizer"),
        ({"scheduler": {}}, "sets scheduler"), ({"train_batch_size": 64}, "sets train_batch_size"),
        ({"zero_optimisation": {"stage": 3}}, "sets zero_optimisation"),
        ({"zero_optimization": {"stage": 7}}, "stage=7: expected 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": "auto"}}, "stage='auto'"),
        ({"zero_optimization": {"stage": 2, "offload_optimiser": {}}}, "has offload_optimiser; expected offload_optimizer or"),
        ({"zero_optimization": [2]}, "should be objects"), ({"zero_optimization": None}, "should be objects"),
        ({"bf16": True}, "should be objects"), ({"bf16": {"enabled": "false"}}, "bf16.enabled='false': expected true or false"),
        ({"bf16": {"enabled": "auto"}}, "bf16.enabled='auto'"), ({"communication_data_type": "auto"}, "communication_data_type is 'auto'"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "auto"}}}, "device is 'auto'"),
        ({"prescale_gradients": "false"}, "prescale_gradients is 'false', a text"),
        (OFFLOAD | {"zero_force_ds_cpu_optimizer": True}, "Leave it out"),
    ],
)  # fmt: skip
def test_what_the_loop_decides_or_deepspeed_passes_over_is_refused_by_name(says: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        deepspeed_config(file(tmp_path, says), "bf16", 1.0, 1)


def test_precision_and_clipping_are_the_suites(tmp_path: Path) -> None:
    for precision, low, enabled in (("bf16", {}, True), ("fp32", {}, False), ("bf16", OFFLOAD, False)):
        found = deepspeed_config(file(tmp_path, low), precision, 0.5, 3)
        assert (found["torch_autocast"], found["gradient_clipping"]) == ({"enabled": enabled, "dtype": "bfloat16"}, 0.5)
        assert found["zero_force_ds_cpu_optimizer"] is False, "else DeepSpeed refuses torch's optimizer where it is offloaded"


@pytest.mark.parametrize("shipped", sorted(f.stem for f in (CONFIGS / "deepspeed").glob("*.json")))
def test_shipped_ones_are_taken(shipped: str) -> None:
    assert deepspeed_config(shipped, "bf16", 1.0, 1)["gradient_accumulation_steps"] == 1
