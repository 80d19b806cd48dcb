"""Eight virtual devices on the CPU, for all tests in this directory: run them in a process of their own.

python -m pytest tests/devices
"""

import os

# The time limits protect from nothing here: on a busy machine a device can wait for the others for longer than 40 seconds.
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
