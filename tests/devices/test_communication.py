"""What crosses the network, read from the compiled program: a plain step's collectives, and a handful of numbers."""

from typing import Any

import jax
import optax
import pytest

import hamu_jax
from experiments.cost.communication import KINDS, Collective, collectives, compiled_step, images, network, plain, predicted
from hamu_jax import sharding

LOSS, PARAMS = network(16)
COUNT = sum(x.size for x in PARAMS.values())
METHODS = {
    "leaf": hamu_jax.hamu(0.1, 0.3),
    "global": hamu_jax.hamu(0.1, 0.3, blocks="global", clip_norm=1.0),
    "u": hamu_jax.hamu(0.1, 0.3, variant="u"),
}


pytestmark = pytest.mark.usefixtures("as_users_promote")


def step_on(text: str, optimizer: Any) -> list[Collective]:
    """The collectives of one step."""
    return collectives(compiled_step(LOSS, PARAMS, (images(32), images(32)), optimizer, sharding.parse_mesh(text)))


def elements(found: list[Collective], *kinds: str) -> int:
    """The numbers that operations of some kinds give, or of all. How arrays are put together in one operation may differ."""
    return sum(c.elements for c in found if not kinds or c.kind in kinds)


@pytest.mark.parametrize("method", METHODS)
def test_the_data_parallel_step_sends_what_a_plain_one_sends(method: str) -> None:
    hamu, reference = step_on("data=8", METHODS[method]), step_on("data=8", plain(0.1))
    assert {c.kind for c in hamu} == {"all-reduce"}, "nothing gathers a gradient"
    assert len(hamu) == len(reference), "not one operation more"
    assert elements(hamu) == elements(reference), "not one number more"
    assert 0 <= elements(hamu) - 2 * COUNT <= 4, "both gradients, once; and what weighs the examples"
    assert abs(sum(c.sent() for c in hamu) - sum(predicted(4.0 * COUNT, data=8, objective=1, fsdp=1))) < 64


@pytest.mark.slow
@pytest.mark.parametrize("text", ["data=2,fsdp=4", "data=2,objective=2,fsdp=2"])
def test_split_parameters_add_scalars_a_block(text: str) -> None:
    hamu, reference = step_on(text, METHODS["leaf"]), step_on(text, plain(0.1))
    moving = [kind for kind in KINDS if kind != "all-reduce"]
    assert elements(hamu, *moving) == elements(reference, *moving), "gradients and updates stay where they are"
    assert 0 < elements(hamu) - elements(reference) <= 8 * len(PARAMS), "inner products, and no more"


@pytest.mark.slow
def test_the_pmapped_step() -> None:
    """The same inside `jax.pmap`."""
    optimizer = METHODS["leaf"]
    batch = sharding.split_batch(images(32), 8)
    lowered = sharding.pmap_step(LOSS, optimizer).lower(PARAMS, optimizer.init(PARAMS), batch, batch)
    found = collectives(lowered.compile().as_text())
    assert {c.kind for c in found} == {"all-reduce"}
    assert 0 <= elements(found) - 2 * COUNT <= 4, "both gradients, two losses, two sums of weights"


def test_the_parser() -> None:
    program = """
      %all-reduce.1 = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
      %ag = bf16[8,2]{1,0} all-gather(%c), replica_groups=[4,2]<=[8], dimensions={0}
      %rs = f32[2]{0} reduce-scatter(%d), replica_groups=[1,8]<=[8], dimensions={0}
      %cp = pred[5]{0} collective-permute(%e), source_target_pairs={{0,1},{1,0}}
      %x = f32[100]{0} add(%all-reduce.1, %y)
    """
    assert collectives(program) == [
        Collective("all-reduce", 13, 52, 4),
        Collective("all-gather", 16, 32, 2),
        Collective("reduce-scatter", 2, 8, 8),
        Collective("collective-permute", 5, 5, 8),
    ]
    assert [c.sent() for c in collectives(program)] == [2 * 0.75 * 52, 16, 56, 5]


def test_optax_alone_averages_the_wrong_gradient() -> None:
    """A measured trap: `optax.MultiSteps` averages the retain gradients, and takes the last forget gradient alone."""
    seen = []

    def update(updates: Any, state: Any, params: Any = None, *, forget_grads: Any) -> Any:
        del params
        seen.append((float(updates), float(forget_grads)))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    wrapped = optax.MultiSteps(inner, every_k_schedule=2)
    with jax.disable_jit():
        state = wrapped.init(0.0)
        for retain, forget in ((1.0, 10.0), (3.0, 30.0)):
            _, state = wrapped.update(jax.numpy.float32(retain), state, 0.0, forget_grads=jax.numpy.float32(forget))
    assert seen[-1] == (2.0, 30.0), "not (2, 20): hence microbatch_size of paired_value_and_grad"
