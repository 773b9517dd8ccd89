"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

from onelook.devices import num_cores

# A number of threads that is chosen by what the cores are doing would differ between runs, and with it the rounding.
os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
# Several processes run tests beside each other: a thread that spins while it waits takes another's core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("onelook", deadline=None)
settings.load_profile("onelook")
