"""What all tests share: strict promotion, checked shapes in the core, and hypothesis' fixed budget."""

import os
from collections.abc import Iterator

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# The suite compiles many small programs and runs each once or twice: without XLA's newer code generator that takes a third
# of the time. Tests of float32 rounding ask for the compiler that users have (`problems.AS_USERS_COMPILE`). XLA aborts on a
# flag that it does not know, so only versions that were tried get it.
if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

# Shapes and dtypes of every signature of the array core are checked at each call. The public modules are left out: there
# our own errors, which tests look for, must come first.
CHECKED = ("_kernel.inner_products", "_kernel.hardness", "_transform.step")
install_import_hook([f"hamu_jax.{name}" for name in CHECKED], "beartype.beartype")

hypothesis.settings.register_profile("fixed", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

# They need torch, transformers and peft, in an environment of their own.
collect_ignore_glob = ["data/make_*.py"]


@pytest.fixture(scope="module", autouse=True)
def strict_promotion() -> Iterator[None]:
    """No dtype or rank is promoted silently, in the library or in a test."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def as_users_promote(strict_promotion: None) -> Iterator[None]:  # noqa: ARG001  (after it)
    """Experiments use optax and flax as they are."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def unoptimised() -> Iterator[None]:
    """Nothing here is about speed or rounding, so XLA need not take the time to optimise."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield
