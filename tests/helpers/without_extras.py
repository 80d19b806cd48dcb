"""What `pip install hamu_jax`, without an extra, is good for: `python -W error tests/without_extras.py` where that was done.

One update is taken; whatever needs more than that says which extra brings it.
"""

import importlib.metadata
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

import hamu_jax
from hamu_jax import doctor, metrics, report

PARAMS = {"w": jnp.array([0.1, -0.2])}
BATCH = {"x": jnp.eye(2), "y": jnp.array([1.0, 2.0])}
TX = hamu_jax.hamu(0.1, 0.5, distribution="relative")
EXTRAS = ("driver", "metrics", "report")


def loss(params: Any, batch: Any) -> Any:
    """The squared error of a linear regression."""
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


def update() -> Any:
    """One step."""
    _, grads = hamu_jax.paired_value_and_grad(loss)(PARAMS, BATCH, BATCH)
    updates, state = TX.update(grads.retain, TX.init(PARAMS), PARAMS, forget_grads=grads.forget)
    return optax.apply_updates(PARAMS, updates), hamu_jax.get_hardness(state)


def unlearn(**options: Any) -> Any:
    """A run of the driver."""
    return hamu_jax.unlearn(loss, PARAMS, BATCH, BATCH, TX, steps=1, batch_size=1, **options)


NEEDING: list[tuple[str, str, Callable[[], Any]]] = [
    ("rich.progress", "driver", lambda: unlearn(progress=True)),
    ("rich.progress", "driver", lambda: unlearn(progress=False)),
    ("orbax.checkpoint", "driver", lambda: unlearn(checkpoints=hamu_jax.Checkpoints("checkpoints"))),
    ("sklearn.metrics", "metrics", lambda: metrics.auc([0.0, 1.0], [1.0, 2.0])),
    ("rouge_score.tokenizers", "metrics", lambda: metrics.rouge_l_recall("a b", "a c")),
    ("matplotlib.figure", "report", lambda: report.plot_hardness(hamu_jax.History([]))),
]


def said(call: Callable[[], Any]) -> str:
    """The error that a call ends with."""
    try:
        call()
    except ImportError as error:
        return str(error)
    return "no error"


def main() -> None:
    """Everything; the first thing that is not so is an error."""
    assert "site-packages" in pathlib.Path(hamu_jax.__file__).parts, hamu_jax.__file__
    assert (pathlib.Path(hamu_jax.__file__).parent / "py.typed").exists()
    params, hardness = update()
    assert bool(jnp.isfinite(params["w"]).all()), params
    assert bool(hardness.feasible.all()), hardness
    for module, extra, call in NEEDING:
        assert said(call) == f'{module} is not installed: pip install "hamu_jax[{extra}]"', said(call)
    packages = doctor.examine()["Optional packages"]
    assert all("missing" in packages[extra] for extra in EXTRAS), packages
    assert importlib.metadata.version("hamu_jax") in doctor.describe()


if __name__ == "__main__":
    main()
