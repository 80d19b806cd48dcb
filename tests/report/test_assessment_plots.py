"""The assessment's pictures: what is drawn is what was found, whatever that is."""

import io
import re
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import report
from hamu_jax.report import _assessment_plots

LABELS = [f"layer{i}" for i in range(5)]


def loss(params: Any, batch: Any) -> Any:
    """A loss whose gradients are the examples, one layer after the other."""
    return jnp.einsum("bln,ln->b", batch, jnp.stack([params[label] for label in sorted(params)]))


def of(retain: Any, forget: Any, improvement: float = 0.5, **options: Any) -> hamu_jax.Assessment:
    """An assessment of gradients `[examples, layers, 2]` that are given."""
    retain, forget = (np.asarray(rows, np.float32) for rows in (retain, forget))
    return hamu_jax.assess(
        loss, {label: jnp.zeros(2) for label in LABELS[: retain.shape[1]]}, retain, forget, improvement, **options
    )


def mixed() -> hamu_jax.Assessment:
    """Layers at 0, 45, 90, 135 and 180 degrees; examples scattered about them."""
    rng = np.random.default_rng(0)
    turn = np.radians([0.0, 45.0, 90.0, 135.0, 180.0])
    retain = np.stack([np.ones(5), np.zeros(5)], axis=1)
    forget = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    spread, other = 0.8 * rng.normal(size=(200, 5, 2)), 0.8 * rng.normal(size=(60, 5, 2))
    return of(retain + spread - spread.mean(axis=0), forget + other - other.mean(axis=0))


def drawn(figure: Any) -> bytes:
    """The picture's bytes, which is to say that it can be drawn at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def words(figure: Any) -> list[str]:
    return [text.get_text() for legend in (*figure.legends, figure.axes[0].get_legend()) if legend for text in legend.texts]


def test_what_is_drawn() -> None:
    assessment = mixed()
    figures = report.plot_assessment(assessment)
    assert list(figures) == ["trade_off", "blocks", "examples", "collateral"]
    assert all(drawn(figure).startswith(b"\x89PNG\r\n\x1a\n") for figure in figures.values())

    assert "planned: 0.5" in words(figures["trade_off"])

    axes = figures["blocks"].axes[0]
    angles = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
    np.testing.assert_allclose([angles[row] for row in range(5)], assessment.hardness.angle)
    assert [label.get_text() for label in axes.get_yticklabels()] == LABELS[:5]
    assert len({bar.get_facecolor() for bar in axes.patches}) == len(set(assessment.hardness.regime.tolist())) > 1

    axes = figures["examples"].axes[0]
    assert sum(bar.get_height() for bar in axes.containers[0]) == 60
    assert axes.lines[-1].get_xdata()[0] == pytest.approx(assessment.cosines().mean())

    rises = int(np.sum(assessment.retain_change > 0))
    assert words(figures["collateral"]) == [f"rises: {rises} of 200", f"falls: {200 - rises} of 200"]
    first, second = (line.get_ydata() for line in figures["collateral"].axes[0].lines[:2])
    np.testing.assert_array_equal(np.concatenate([first, second]), np.sort(assessment.retain_change)[::-1])


def test_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hardest, in the model's order."""
    monkeypatch.setattr(_assessment_plots, "_MOST_BLOCKS", 3)
    turn = np.random.default_rng(1).uniform(0, np.pi, 5)
    retain = np.stack([np.ones(5), np.zeros(5)], axis=1)
    assessment = of([retain], [np.stack([np.cos(turn), np.sin(turn)], axis=1)])
    axes = report.plot_assessment(assessment)["blocks"].axes[0]
    order = list(assessment.labels)
    shown = [label.get_text() for label in axes.get_yticklabels()]
    expected = sorted(np.argsort(assessment.hardness.angle)[:3])
    assert shown == [order[i] for i in expected]
    assert axes.get_ylabel() == "the 3 hardest of 5 blocks"


ONE, NONE, BROKEN = [[[1.0, 0.0]]], [[[0.0, 0.0]]], [[[np.nan, 0.0]]]


@pytest.mark.parametrize(
    ("retain", "forget", "options"),
    [
        (ONE, ONE, {}),
        (ONE, NONE, {}),
        (NONE, ONE, {}),
        (ONE, BROKEN, {}),
        (ONE, ONE, {"improvement": 2.0}),
        (ONE, ONE, {"variant": "u"}),
    ],
    ids=["parallel", "no forget gradient", "no retain gradient", "broken", "infeasible", "u"],
)
def test_edge_cases(retain: Any, forget: Any, options: Any) -> None:
    figures = report.plot_assessment(of(retain, forget, **options))
    assert all(len(drawn(figure)) > 1_000 for figure in figures.values())
    if options:
        assert not any("planned" in text for text in words(figures["trade_off"]))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape('matplotlib.figure is not installed: pip install "hamu_jax[report]"')):
        report.plot_assessment(of(ONE, ONE))
