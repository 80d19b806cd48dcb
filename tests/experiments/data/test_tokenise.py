"""Tokens, labels and buckets, with a small tokenizer trained on our own questions and, where it is there, a real one."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx
from shared_data import ROOT, shared_data

from experiments.data import buckets, fictional, questions, tofu, tokenise, tokenizer
from experiments.models.transformer import Transformer
from hamu_jax import metrics, objectives

CHATML = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
SPECIALS = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
MODEL = ROOT / "models" / "smollm2-135m-instruct"

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


@functools.cache
def encoder() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([one.answer for one in fictional.load()], trainer)
    return made


@functools.cache
def small(template: str | None = CHATML) -> tokenizer.Tokenizer:
    return tokenizer.build(encoder(), SPECIALS, template=template)


@functools.cache
def real() -> tokenizer.Tokenizer:
    if not MODEL.is_dir():
        pytest.skip(f"{MODEL.relative_to(ROOT)} is not in the repository's directory")
    return tokenizer.load(MODEL)


def check_labels(asked: Any, used: tokenizer.Tokenizer) -> None:
    """Labels spell the answer and its end; tokens are the prompt and the answer."""
    data = tokenise.tokenise(asked, used)
    for one, tokens, label, mask, prompt in zip(
        asked, data["tokens"], data["label"], data["mask"], tokenise.prompts(asked, used), strict=True
    ):
        counted = label[label >= 0]
        assert counted[-1] == used.end
        assert used.decode(counted[:-1], special=True).removeprefix(" ") == one.answer
        np.testing.assert_array_equal(tokens[mask], [*prompt, *counted[:-1]])
        at = np.flatnonzero(label >= 0)
        np.testing.assert_array_equal(label[at[:-1]], tokens[at[:-1] + 1])
        assert at[0] == len(prompt) - 1
        assert mask.sum() == at[-1] + 1


@pytest.mark.parametrize("template", [CHATML, None])
def test_labels_are_the_answer_and_its_end(template: str | None) -> None:
    check_labels(fictional.load(), small(template))


def test_odd_answers() -> None:
    texts = ("é", "日本 \n two lines", "12345", "\t", "end.")
    check_labels([questions.Question(row, "Why?", text) for row, text in enumerate(texts)], small())


@pytest.mark.slow
def test_the_real_tokenizer_on_the_benchmark() -> None:
    asked = tofu.load(shared_data("tofu")).questions
    for one in asked:
        assert real().decode(real().encode(one.answer), special=True) == one.answer
    check_labels(asked, real())
    data = tokenise.tokenise(asked, real())
    assert data["tokens"].shape == (4000, 176)


def test_plain_texts_and_all_tokens() -> None:
    text = questions.Question(0, None, "Once upon a time.")
    data = tokenise.tokenise([text], small())
    ids = small().encode(text.answer)
    np.testing.assert_array_equal(data["tokens"][data["mask"]], ids)
    np.testing.assert_array_equal(data["label"][data["mask"]], [*ids[1:], small().end])
    asked = fictional.load()[:2]
    every = tokenise.tokenise(asked, small(), answer_only=False)
    np.testing.assert_array_equal(every["label"] >= 0, every["mask"])
    with pytest.raises(ValueError, match="got a plain text in row 0"):
        tokenise.prompts([text], small())


def test_nothing_is_cut_off_in_silence() -> None:
    asked = fictional.load()[:3]
    longest = int(tokenise.tokenise(asked, small())["mask"].sum(axis=1).max())
    assert tokenise.tokenise(asked, small(), max_length=longest, multiple=1)["tokens"].shape == (3, longest)
    with pytest.raises(ValueError, match=f"max_length: got {longest - 1} for row .*expected more, or truncate=True"):
        tokenise.tokenise(asked, small(), max_length=longest - 1)
    with pytest.warns(UserWarning, match="1 of 3 answers were cut off"):
        data = tokenise.tokenise(asked, small(), max_length=longest - 1, truncate=True, multiple=1)
    assert data["mask"].sum(axis=1).max() == longest - 1
    assert np.all((data["label"] >= 0).any(axis=1))
    with pytest.raises(ValueError, match="before its answer, expected more"):
        tokenise.tokenise(asked, small(), max_length=5, truncate=True)
    with pytest.raises(ValueError, match="questions: got none"):
        tokenise.tokenise([], small())


def test_a_template_that_does_not_fit() -> None:
    for template, message in (
        ("{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}", "the answer to follow it"),
        ("{{ raise_exception('no') }}", "got one that fails with no"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenise.encode(fictional.load()[0], tokenizer.build(encoder(), SPECIALS, template=template))


def test_files_of_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected one that holds tokenizer\.json"):
        tokenizer.load(tmp_path)
    encoder().save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": {"content": "<|end|>", "special": True}, "pad_token": None, "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    loaded = tokenizer.load(tmp_path)
    assert (loaded.end, loaded.pad, loaded.template) == (1, 1, CHATML)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert tokenizer.load(tmp_path).template == "{{ messages }}"
    assert tokenizer.load(tmp_path, template="{{ 1 }}").template == "{{ 1 }}"
    with pytest.raises(ValueError, match="eos_token = '<none>', expected a token of the vocabulary"):
        tokenizer.build(encoder(), {"eos_token": "<none>"})


def test_padding_never_changes_a_loss_or_a_gradient() -> None:
    model = Transformer(encoder().get_vocab_size(), 256, width=16, heads=2, layers=1, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)

    def apply(params: Any, batch: Any) -> Any:
        return nnx.merge(graph, params)(batch["tokens"])

    loss = objectives.causal_cross_entropy(apply)
    each = jax.jit(lambda params, data: (loss(params, data), jax.grad(lambda p: loss(p, data).sum())(params)))
    data = tokenise.tokenise(fictional.load()[:8], small())
    wide = tokenise.tokenise(fictional.load()[:8], small(), multiple=data["tokens"].shape[1] + 16)
    rng = np.random.default_rng(0)
    filled = {**wide, "tokens": np.where(wide["mask"], wide["tokens"], rng.integers(0, 400, wide["tokens"].shape, np.int32))}
    (expected, expected_gradient), (got, gradient) = each(params, data), each(params, filled)
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    parts = buckets.divide(data, buckets.lengths(data, 2))
    assert len(parts) == 2
    by_bucket = buckets.by_bucket(lambda part: metrics.values(loss, params, part), parts)
    np.testing.assert_allclose(by_bucket, expected, rtol=2e-6)


def test_buckets_leave_the_least_padding() -> None:
    data = tokenise.tokenise(fictional.load(), small())
    own = data["mask"].sum(axis=1)
    sizes = sorted({-(-int(one) // 16) * 16 for one in own})
    for count in (1, 2, 3):
        ends = buckets.lengths(data, count)
        parts = buckets.divide(data, ends)
        assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(60))
        assert all(part.data["mask"].sum() == own[part.rows].sum() for part in parts)
        cost = sum(part.data["tokens"].size for part in parts)
        every = itertools.combinations(sizes[:-1], min(count, len(sizes)) - 1)
        assert cost == min(sum(min(end for end in (*ends, sizes[-1]) if end >= one) for one in own) for ends in every)
    with pytest.raises(ValueError, match="ends: got 16 as the longest"):
        buckets.divide(data, (16,))


@pytest.mark.parametrize("batch_size", [1, 7, 60, 100])
def test_every_example_comes_equally_often(batch_size: int) -> None:
    data = tokenise.tokenise(fictional.load(), small())
    data = {**data, "row": np.arange(60)[:, None].repeat(data["tokens"].shape[1], axis=1)}
    ends = buckets.lengths(data, 3)
    size = min(batch_size, 60)
    stream = buckets.Batches(data, batch_size, ends, seed=3)
    taken = list(itertools.islice(stream, 10 * 60 // size))
    assert all(batch["tokens"].shape[0] == size and batch["tokens"].shape[1] in ends for batch in taken)
    counts = np.bincount(np.concatenate([batch["row"][:, 0] for batch in taken]), minlength=60)
    assert counts.min() >= 8
    assert counts.max() <= 12
    own = data["mask"].sum(axis=1)
    for batch in taken:  # nothing is cut off
        np.testing.assert_array_equal(batch["mask"].sum(axis=1), own[batch["row"][:, 0]])
    again = list(itertools.islice(stream, 5))
    for one, other in zip(again, taken, strict=False):
        np.testing.assert_array_equal(one["tokens"], other["tokens"])
