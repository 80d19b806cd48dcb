"""Makes open_unlearning.npz: OpenUnlearning's metrics of random logits, labels and texts, computed by its own code.

    git clone https://github.com/locuslab/open-unlearning
    PYTHONPATH=open-unlearning/src python tests/data/make_open_unlearning_fixtures.py

It needs torch, transformers, datasets, hydra-core, lm_eval, rouge-score and scikit-learn.
"""

from pathlib import Path
from types import SimpleNamespace

import evals.metrics.memorization as memorisation
import numpy as np
import torch
from evals.metrics import privacy
from evals.metrics.mia.min_k import MinKProbAttack
from evals.metrics.mia.min_k_plus_plus import MinKPlusPlusAttack
from rouge_score import rouge_scorer

EXAMPLES, TIME, CLASSES, QUESTION = 12, 9, 6, 3
TEXTS = (("the cat sat on a mat", "a cat slept on the mat"), ("nothing", "two words"), ("one two three", "three two one"))


class Model:
    """A model whose logits are given."""

    device = "cpu"

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, **_: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def main() -> None:
    """Writes the file beside this script."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(EXAMPLES, TIME, CLASSES)).astype(np.float32)
    tokens = rng.integers(0, CLASSES, (EXAMPLES, TIME))
    likely = logits.argmax(axis=-1)
    tokens[:, 1:] = np.where(rng.random((EXAMPLES, TIME - 1)) < 0.8, likely[:, :-1], tokens[:, 1:])
    lengths = rng.integers(QUESTION + 2, TIME + 1, EXAMPLES)
    counted = (np.arange(TIME)[None] >= QUESTION) & (np.arange(TIME)[None] < lengths[:, None])
    labels = np.where(counted, tokens, -100)
    batch = {"input_ids": torch.tensor(tokens), "labels": torch.tensor(labels), "index": torch.arange(EXAMPLES)}
    model = Model(torch.tensor(logits))
    data = [{name: values[row] for name, values in batch.items()} for row in range(EXAMPLES)]
    collator = lambda rows: {name: torch.stack([row[name] for row in rows]) for name in batch}  # noqa: E731
    settings = {"data": data, "collators": collator, "batch_size": EXAMPLES}

    def each(values: dict[int, dict[str, float]]) -> np.ndarray:
        return np.array([values[key]["score"] for key in sorted(values, key=int)])

    numbers = {
        "exact_memorisation": each(memorisation.exact_memorization._metric_fn(model, **settings)["value_by_index"]),
        "extraction_strength": each(memorisation.extraction_strength._metric_fn(model, **settings)["value_by_index"]),
    }
    for name, attack in (("min_k", MinKProbAttack), ("min_k_plus_plus", MinKPlusPlusAttack)):
        run = attack(model=model, data=data, collator=collator, batch_size=EXAMPLES, k=0.4)
        numbers[name] = each(run.attack()["value_by_index"])
    right, wrong = rng.uniform(0.5, 2.0, 20), rng.uniform(0.5, 2.0, 20)
    logs = {
        kind: {"value_by_index": {row: {"avg_loss": loss} for row, loss in enumerate(losses)}}
        for kind, losses in (("correct", right), ("wrong", wrong))
    }
    for aggregator in ("closer_to_1_better", "true_better", "prob_mean"):
        result = memorisation.truth_ratio._metric_fn(None, aggregator=aggregator, pre_compute=logs)
        numbers[aggregator] = np.array(result["agg_value"])
    aucs = np.array([[0.9, 0.6], [0.3, 0.5], [0.5, 0.45]])
    reference = [
        privacy.privleak._metric_fn(
            None,
            pre_compute={"forget": {"agg_value": auc}},
            reference_logs={"retain_model_logs": {"retain": {"agg_value": retrained}}},
        )["agg_value"]
        for auc, retrained in aucs
    ]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    rouge = [scorer.score(truth, generated) for generated, truth in TEXTS]
    np.savez_compressed(
        Path(__file__).with_name("open_unlearning.npz"),
        logits=logits,
        tokens=tokens,
        counted=counted,
        right=right,
        wrong=wrong,
        aucs=aucs,
        privleak=np.array(reference),
        texts=np.array(TEXTS),
        rouge=np.array([[x["rouge1"].recall, x["rougeL"].recall, x["rougeL"].fmeasure] for x in rouge]),
        **numbers,
    )


if __name__ == "__main__":
    main()
