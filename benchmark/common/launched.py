"""Who this process is among those of one run: what launchers say in the environment, told in one way.

`torchrun` and DeepSpeed's launcher set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Slurm's `srun` sets names of its own
and no address, so its steps are told apart from a job's batch script, which is one process whatever the job asked for.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping

from .errors import UserError

OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PORTS = range(20_000, 32_000)  # below those that systems give out by themselves
NUMBERS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID")
STEP = (*NUMBERS, "SLURM_STEP_NODELIST")


def adopt(environment: MutableMapping[str, str]) -> None:
    """Make RANK and its companions of what `srun` says, where it started several tasks and no other launcher has spoken."""
    if "RANK" in environment:
        missing = [name for name in OURS if name not in environment]
        if missing and environment.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"RANK is set and {', '.join(missing)} not: start the ranks with torchrun, deepspeed or srun (docs/cluster.md)."
            )
        return
    if any(name not in environment for name in STEP) or environment["SLURM_STEP_NUM_TASKS"] == "1":
        return
    if odd := [f"{name}={environment[name]!r}" for name in NUMBERS if not environment[name].isdigit()]:
        raise UserError(
            f"{', '.join(odd)}: expected whole numbers from srun. Set RANK and its companions yourself, or start with torchrun."
        )
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    if not environment.get("MASTER_ADDR"):
        environment["MASTER_ADDR"] = first_host(environment["SLURM_STEP_NODELIST"])
    place = 7 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])  # two steps at once on a machine: two ports
    environment.setdefault("MASTER_PORT", str(PORTS[place % len(PORTS)]))


def first_host(hosts: str) -> str:
    """The first of Slurm's short list of hosts: `node[007-9,12]-ib,other3` begins with node007-ib."""
    found = re.match(r"(?P<before>[^,\[\]]+)(?:\[(?P<first>\d+)[\d,-]*\](?P<after>[^,\[\]]*))?(?:,|$)", hosts)
    if not found:
        raise UserError(f"SLURM_STEP_NODELIST={hosts!r} is no list of hosts that can be read; set MASTER_ADDR to the first host.")
    return found["before"] + (found["first"] or "") + (found["after"] or "")
