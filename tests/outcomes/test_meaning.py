"""What the status says where the right answer is known beforehand, with every setting at its default."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_models import CLASSES, TrainedModel, accuracy, cross_entropy, init_mlp, memorised_labels, mlp, take

import hamu_jax

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Rows of a network that memorised wrong labels are to be forgotten."""
    return memorised_labels(5)


def forget(model: TrainedModel, **changed: Any) -> hamu_jax.Forgotten:
    """A call of `forget` with the data of the model, but for what is changed."""
    names = ("loss", "params", "retain", "forget", "unseen")
    arguments = {name: getattr(model, name) for name in names} | changed
    return hamu_jax.forget(**arguments, progress=False)


@pytest.fixture(scope="module")
def usual(model: TrainedModel) -> hamu_jax.Forgotten:
    """The outcome that others are compared with."""
    return forget(model)


@pytest.mark.parametrize("unit", [2.0**20, 2.0**-20])
def test_the_unit_of_the_loss_changes_nothing(model: TrainedModel, usual: hamu_jax.Forgotten, unit: float) -> None:
    result = forget(model, loss=lambda params, batch: unit * cross_entropy(params, batch))
    assert (result.status, result.worse_on) == (usual.status, usual.worse_on)
    assert result.losses["forget"].after / unit == pytest.approx(usual.losses["forget"].after, rel=0.01)
    assert result.losses["held_out"].after / unit == pytest.approx(usual.losses["held_out"].after, rel=0.01)
    assert accuracy(result.params, model.test) == pytest.approx(accuracy(usual.params, model.test), abs=0.01)


def test_rows_that_were_never_seen_need_no_step(model: TrainedModel) -> None:
    assert model.unseen is not None
    result = forget(model, forget=take(model.unseen, slice(150)), unseen=take(model.unseen, slice(150, None)))
    assert (result.status, result.best_step) == ("nothing_to_do", 0)
    assert result.auc_interval is not None
    assert result.auc_interval[0] < 0.5 < result.auc_interval[1]


def test_a_level_that_the_loss_never_has_is_not_reached(model: TrainedModel) -> None:
    """A loss below 1 and a level of 2, within the price that is accepted."""
    bounded = {"loss": lambda params, batch: 1 - jnp.exp(-cross_entropy(params, batch)), "level": 2.0, "unseen": None}
    result = forget(model, **bounded, max_cost=0.1, steps=40)
    assert result.status == "not_reached"
    assert result.verdict.startswith("NOT forgotten")
    assert result.losses["held_out"].after <= result.losses["held_out"].before + 0.1


def test_a_row_that_is_not_finite_leaves_the_model_as_it_was(model: TrainedModel) -> None:
    broken = {**model.forget, "x": model.forget["x"] * np.where(np.arange(20) == 3, np.nan, 1).astype(np.float32)[:, None]}
    result = forget(model, forget=broken)
    assert (result.status, result.best_step) == ("nonfinite", 0)
    assert jax.tree.all(jax.tree.map(np.array_equal, result.params, model.params))


def test_a_model_that_was_never_trained_has_nothing_to_forget(model: TrainedModel) -> None:
    result = forget(model, params=init_mlp(9, (64, 256, CLASSES)), unseen=None, level=float(np.log(CLASSES)))
    assert result.status == "nothing_to_do"


OWNERS = 4


@pytest.fixture(scope="module")
def owned(model: TrainedModel) -> dict[str, Any]:
    """Four owners of five rows each ask for levels of their own."""
    owner = np.arange(20, dtype=np.int32) % OWNERS
    nobody = np.full(len(model.retain["label"]), -1, np.int32)
    return {
        "forget": {**model.forget, "owner": owner},
        "retain": {**model.retain, "owner": nobody},
        "unseen": None,
        "requests": hamu_jax.Groups(lambda batch: batch["owner"], OWNERS),
    }


def test_each_request_comes_to_its_own_level(model: TrainedModel, owned: dict[str, Any]) -> None:
    levels = (1.0, 1.5, 2.0, 3.0)
    result = forget(model, **owned, level=levels)
    assert result.status.startswith("reached")
    assert [change.after for change in result.request_losses] == pytest.approx(levels, rel=0.1001)
    losses = np.asarray(model.loss(result.params, owned["forget"]))
    means = [losses[owned["forget"]["owner"] == i].mean() for i in range(OWNERS)]
    assert means == pytest.approx([change.after for change in result.request_losses], rel=1e-5)


def test_a_request_that_is_above_its_level_asks_for_nothing(model: TrainedModel, owned: dict[str, Any]) -> None:
    result = forget(model, **owned, level=(1e-6, 1.5, 2.0, 3.0))
    assert result.status.startswith("reached")
    assert result.request_losses[0].after > 1e-6
    assert [change.after for change in result.request_losses[1:]] == pytest.approx((1.5, 2.0, 3.0), rel=0.1001)


def test_the_farthest_request_is_named(model: TrainedModel, owned: dict[str, Any]) -> None:
    result = forget(model, **owned, level=(1.0, 1.0, 9.0, 1.0), max_cost=0.02, steps=20)
    assert result.status == "not_reached"
    assert "The farthest from its level is request 2" in result.verdict


def test_rows_that_are_to_be_retained_as_well_are_counted(model: TrainedModel) -> None:
    both = jax.tree.map(lambda x, y: np.concatenate([x, y[:3]]), model.retain, model.forget)
    result = forget(model, retain=both)
    assert result.shared_rows == 3
    assert "3 forget examples are in the retain set too" in result.verdict


@pytest.mark.parametrize("name", ["retain", "forget", "held_out", "unseen"])
def test_a_set_of_padding_is_refused(model: TrainedModel, name: str) -> None:
    sets = {"held_out": take(model.retain, slice(50)), name: {**take(model.retain, slice(9)), "label": np.full(9, -1)}}
    with pytest.raises(ValueError, match=f"^{name}: got 9 examples of weight 0"):
        forget(model, loss=hamu_jax.objectives.cross_entropy(lambda params, batch: mlp(params, batch["x"])), **sets)


def test_unseen_data_that_are_easier_than_the_forget_set_are_questioned(model: TrainedModel) -> None:
    """The unseen examples are those on which the model is best."""
    losses = np.asarray(model.loss(model.params, model.test))
    easy = take(model.test, np.argsort(losses)[:60])
    hard = take(model.test, np.argsort(losses)[-60:])
    result = forget(model, forget=hard, unseen=easy)
    assert result.status == "nothing_to_do"
    assert "are they of the same kind?" in result.verdict


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TwoLayers:
    """Parameters in a class of their own."""

    first: Any
    second: Any


def test_the_kind_of_arrays_changes_nothing(model: TrainedModel, usual: hamu_jax.Forgotten) -> None:
    """Parameters of a dataclass in bfloat16 come back as such; data in float64 and in tuples are read like any others."""

    def loss(params: TwoLayers, batch: Any) -> Any:
        return cross_entropy([params.first, params.second], {"x": batch[0], "label": batch[1]})

    params = TwoLayers(*jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params))
    sets = {name: getattr(model, name) for name in ("retain", "forget", "unseen")}
    tuples = {name: (data["x"].astype(np.float64), data["label"].astype(np.int64)) for name, data in sets.items()}
    result = forget(model, loss=loss, params=params, **tuples)
    assert isinstance(result.params, TwoLayers)
    assert {x.dtype for x in jax.tree.leaves(result.params)} == {jnp.dtype(jnp.bfloat16)}
    assert (result.status, result.worse_on) == (usual.status, usual.worse_on)
    assert result.losses["forget"].after == pytest.approx(result.level[0], rel=0.1)
