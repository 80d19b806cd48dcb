"""Reports of unlearning runs: pictures, a table, and a paragraph for those who did not see the run."""

from hamu_jax._base.environment import environment, provenance
from hamu_jax._base.history import write_whole
from hamu_jax._base.markdown import table
from hamu_jax.report._assessment_plots import plot_assessment
from hamu_jax.report._conclusion import Models as Models
from hamu_jax.report._conclusion import conclude
from hamu_jax.report._files import write
from hamu_jax.report._outcome import write_outcome
from hamu_jax.report._outcome_plots import plot_histograms, plot_path, plot_trust_region
from hamu_jax.report._page import Section, page
from hamu_jax.report._plots import plot_evaluations, plot_hardness, plot_promises, plot_trade_off, save_figure

__all__ = [
    "Section",
    "conclude",
    "environment",
    "page",
    "plot_assessment",
    "plot_evaluations",
    "plot_hardness",
    "plot_histograms",
    "plot_path",
    "plot_promises",
    "plot_trade_off",
    "plot_trust_region",
    "provenance",
    "save_figure",
    "table",
    "write",
    "write_outcome",
    "write_whole",
]
