"""The machine: folders that each do one thing and import only what the table in tests/test_layers.py lets them.

At the top lie only what plug-ins import (`method`, `attack`) and what a command begins with (`start`, `cli`). Set here, before torch is
imported: how long its idle threads spin (GNU OpenMP reads this once, when it is loaded).
"""

import os

# By default a thread that waits for the next parallel region spins for milliseconds and keeps its core from another run's threads:
# two runs on two cores then slow each other far more than twofold. A spin of some ten microseconds still spans the gaps within a step.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
