"""Tests of rounding compile as users do, although the suite as a whole does not (tests/conftest.py)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from two_gradient_problems import AS_USERS_COMPILE


def instructions(options: dict[str, bool]) -> str:
    """The optimised program of sums, products and functions, without the source lines that they come from."""
    function = jax.jit(lambda x: (jnp.sum(jnp.sin(x) * x + 1), x * 2 + jnp.exp(x)))
    lines = function.lower(jnp.ones(100, jnp.float32)).compile(options).as_text().splitlines()
    return "\n".join(re.sub(r", metadata=\{[^}]*\}", "", line.strip()) for line in lines if " = " in line)


def test_as_users_compile() -> None:
    """The program is that of a process without flags."""
    helpers = Path(__file__).parents[1] / "helpers"
    user = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    user["PYTHONPATH"] = os.pathsep.join([str(helpers), user.get("PYTHONPATH", "")])
    expected = subprocess.run([sys.executable, __file__], env=user, capture_output=True, text=True, check=True).stdout
    assert instructions(AS_USERS_COMPILE) == expected.strip()


if __name__ == "__main__":
    print(instructions({}))
