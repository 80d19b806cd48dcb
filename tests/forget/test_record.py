"""Deletion records: any change of a bit is found, requests form a chain, retain and forget do not overlap."""

import copy
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import DeletionRecord, Forgotten, verify
from hamu_jax._forget.record import record_hash

RNG = np.random.default_rng(2)
AXES = np.eye(4, dtype=np.float32)


def rows(axis: int, size: int) -> dict[str, np.ndarray]:
    """Examples that look at one coordinate each, no two of them alike."""
    return {"x": AXES[[axis] * size] * RNG.uniform(0.9, 1.1, (size, 1)).astype(np.float32), "row": np.arange(size) + 10 * axis}


def loss(params: Any, batch: Any) -> Any:
    return 0.5 * (batch["x"] @ params["layers"][0]["w"]) ** 2


RETAIN, FIRST, SECOND, HELD = rows(0, 6), rows(1, 3), rows(2, 3), rows(0, 2)
FIRST_ALONE = {name: column[:1] for name, column in FIRST.items()}
START = {"layers": [{"w": jnp.array([0.3, 0.2, 0.1, 0.5])}, {"b": jnp.ones(2, jnp.bfloat16)}]}


def forgotten(params: Any = START, forget: Any = FIRST, retain: Any = RETAIN) -> Forgotten:
    return hamu_jax.forget(loss, params, retain, forget, level=1.0, held_out=HELD, progress=False)


OUTCOME = forgotten()
RECORD = OUTCOME.record("TICKET-1", approved_by="R. Person", rows=[7, "a", 9])


def failed(record: DeletionRecord = RECORD, **given: Any) -> list[str]:
    return [text for text, holds in verify.verify(record, **given) if not holds]


def flipped(tree: Any, leaf: int, bit: int) -> Any:
    """A copy with one bit of one leaf flipped."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.array, tree))
    leaves[leaf].reshape(-1).view(np.uint8)[bit // 8] ^= 1 << (bit % 8)
    return jax.tree.unflatten(structure, leaves)


def test_the_truth_is_found_true() -> None:
    everything = {"params": OUTCOME.params, "params_before": START, "loss": loss}
    checks = verify.verify(RECORD, data={"retain": RETAIN, "forget": FIRST, "held_out": HELD}, **everything)
    assert all(holds for _, holds in checks)
    assert len(checks) == 1 + 2 + 2 * 3 + 1 + 2 * 3
    content = RECORD.content
    assert (content["status"], content["request_id"], content["approved_by"]) == ("reached", "TICKET-1", "R. Person")
    assert content["rows"] == [7, "a", 9]
    taken = [row for row in OUTCOME.history.rows[: OUTCOME.best_step] if row["step_accepted"]]
    assert content["changes"]["forget_measured"] == pytest.approx(sum(row["forget_measured"] for row in taken))
    # The measured changes of the whole forget set add up to what became of it.
    rise = OUTCOME.losses["forget"].after - OUTCOME.losses["forget"].before
    assert content["changes"]["forget_measured"] == pytest.approx(rise, rel=1e-4)


@pytest.mark.parametrize("bit", [0, 9, 31, 127])
def test_one_bit_of_parameters_or_data_is_found(bit: int) -> None:
    assert failed(params=flipped(OUTCOME.params, 0, bit)) == ["the parameters after are those of the record"]
    assert failed(params_before=flipped(START, 1, bit % 32)) == ["the parameters before are those of the record"]
    for name, data in (("held_out", HELD), ("forget", FIRST), ("retain", RETAIN)):
        assert failed(data={name: flipped(data, 1, bit % 96)}) == [
            f"the {name} set is that of the record",
            f"the {name} rows are those of the record",
        ]


def test_a_change_of_the_record_is_found(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "record.json")
    assert DeletionRecord.read(tmp_path / "record.json") == RECORD
    for name, value in RECORD.content.items():
        changed = copy.deepcopy(RECORD.content)
        changed[name] = "x" if value is None else [value] if name != "format" else 1.0
        if name != "format":
            assert failed(DeletionRecord(changed)) == ["the record is as it was made"], name
    text = (tmp_path / "record.json").read_text()
    (tmp_path / "record.json").write_text(text.replace('"reached"', '"nothing_to_do"', 1))
    assert "the record is as it was made" in failed(DeletionRecord.read(tmp_path / "record.json"))


def test_a_loss_that_is_not_told_truly_is_found() -> None:
    lying = copy.deepcopy(RECORD.content)
    lying["losses"]["forget"]["after"] = 3.0
    lying["hash"] = record_hash(lying)
    (text,) = failed(DeletionRecord(lying), params=OUTCOME.params, data={"forget": FIRST}, loss=loss)
    assert text.startswith("the forget loss after is 3 (computed: 1.")


def test_requests_form_a_chain() -> None:
    rest = jax.tree.map(lambda x: x[1:], RETAIN)
    second = forgotten(OUTCOME.params, SECOND, rest).record("TICKET-2", previous=RECORD)
    assert failed(second, previous=RECORD) == []
    assert second.content["forgotten_before"] == RECORD.content["data"]["forget"]["rows"]
    other = forgotten().record("TICKET-3")
    assert failed(second, previous=other) == ["it follows the previous record (it names another record as the one before it)"]
    with pytest.raises(ValueError, match="params: got parameters that the previous record does not end with"):
        forgotten(START, SECOND).record("TICKET-4", previous=RECORD)
    changed = DeletionRecord({**RECORD.content, "request_id": "TICKET-0"})
    with pytest.raises(ValueError, match="previous: got a record that was changed"):
        forgotten(OUTCOME.params, SECOND).record("TICKET-5", previous=changed)


def test_retain_and_forget_may_not_overlap() -> None:
    both = jax.tree.map(lambda *x: np.concatenate(x), RETAIN, jax.tree.map(lambda x: x[1:2], FIRST))
    with pytest.raises(ValueError, match="retain: got 1 examples that are in the forget set too, the first at retain row 6"):
        forgotten(retain=both).record("TICKET-6")
    watched = hamu_jax.forget(loss, START, RETAIN, FIRST, level=1.0, held_out=FIRST_ALONE, progress=False)
    with pytest.raises(ValueError, match="held_out: got 1 examples that are in the forget set too, the first at held_out"):
        watched.record("TICKET-6")
    with pytest.raises(ValueError, match="retain: got 1 examples that an earlier request forgot, the first at retain row 6"):
        forgotten(OUTCOME.params, SECOND, both).record("TICKET-7", previous=RECORD)


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    hostile = '"},{"hash": "\u2028</script><b>\\\ud800\x1b[2J\nok  '
    record = OUTCOME.record(hostile, approved_by=hostile, rows=[hostile] * 3, data={hostile: hostile})
    record.write(tmp_path / "record.json")
    again = DeletionRecord.read(tmp_path / "record.json")
    assert again.is_intact()
    assert [again.content["request_id"], again.content["approved_by"], again.content["source"]] == [
        hostile,
        hostile,
        {hostile: hostile},
    ]
    assert "NaN" not in (tmp_path / "record.json").read_text()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RECORD.write(tmp_path / "record.json")
    verify.save_arrays(tmp_path / "after.npz", OUTCOME.params)
    verify.save_arrays(tmp_path / "wrong.npz", flipped(OUTCOME.params, 1, 3))
    verify.save_arrays(tmp_path / "forget.npz", FIRST)
    arguments = [str(tmp_path / "record.json"), "--data", f"forget={tmp_path / 'forget.npz'}", "--params"]
    assert verify.main([*arguments, str(tmp_path / "after.npz")]) == 0
    assert capsys.readouterr().out.count("ok  ") == 5
    assert verify.main([*arguments, str(tmp_path / "wrong.npz")]) == 1
    assert "FAIL the parameters after are those of the record" in capsys.readouterr().out
    for wrong, message in (
        ([str(tmp_path / "missing.json")], "cannot be read as a deletion record"),
        ([str(tmp_path / "forget.npz")], "cannot be read as a deletion record"),
        ([*arguments[:2], "forget"], "--data: got 'forget', expected NAME=FILE"),
        ([*arguments[:1], "--params", str(tmp_path / "record.json")], "cannot be read as .npz"),
        ([*arguments[:1], "--loss", "nowhere:loss"], "--loss: got 'nowhere:loss', which cannot be imported"),
        ([*arguments[:2], f"test={tmp_path / 'forget.npz'}"], "data: got 'test', expected one of"),
    ):
        assert verify.main(wrong) == 2
        assert message in capsys.readouterr().err


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    verify.save_arrays(tmp_path / "a.npz", START)
    back = verify.load_arrays(tmp_path / "a.npz")
    assert jax.tree.structure(back) == jax.tree.structure(START)
    assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(*map(jax.tree.leaves, (back, START)), strict=True))
    verify.save_arrays(tmp_path / "b.npz", np.arange(3))
    assert verify.load_arrays(tmp_path / "b.npz").tolist() == [0, 1, 2]


def test_what_was_set_aside_belongs_to_the_retain_set() -> None:
    """The record describes the retain set as it was given, its losses are computed again, and no row of it hides."""
    unseen = rows(3, 4)
    retain = rows(0, 12)
    outcome = hamu_jax.forget(loss, START, retain, FIRST, unseen=unseen, level=1.0, progress=False)
    record = outcome.record("TICKET-8")
    everything = {"params": outcome.params, "params_before": START, "loss": loss}
    checks = verify.verify(record, data={"retain": retain, "forget": FIRST, "unseen": unseen}, **everything)
    assert [text for text, holds in checks if not holds] == []
    for name in ("retain", "held_out", "forget", "unseen"):
        assert sum(text.startswith((f"the {name} loss after", f"the {name} loss before")) for text, _ in checks) == 2
    assert sum(text.startswith("the membership AUC") for text, _ in checks) == 2
    (aside,) = record.content["held_out_rows"]
    both = jax.tree.map(np.array, retain)
    for name, column in both.items():
        column[aside] = FIRST[name][2]
    hiding = hamu_jax.forget(loss, START, both, FIRST, level=1.0, progress=False)
    with pytest.raises(ValueError, match=f"retain: got 1 examples .* at retain row {aside} and forget row 2, expected none"):
        hiding.record("TICKET-9")


def test_a_chain_of_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, result = RECORD, OUTCOME
    records = [first]
    for forget in (SECOND, rows(3, 3)):
        result = forgotten(result.params, forget)
        records.insert(0, result.record("TICKET", previous=records[0]))
    for name, record in zip("321", records, strict=True):
        record.write(tmp_path / name)
    assert verify.main([str(tmp_path / "3"), "--previous", str(tmp_path / "2"), str(tmp_path / "1")]) == 0
    assert "ok   the previous record follows the one before it" in capsys.readouterr().out
    changed = {**first.content, "approved_by": "N. Other"}
    other = DeletionRecord({**changed, "hash": record_hash(changed)})
    assert failed(records[0], previous=[records[1], other]) == [
        "the previous record follows the one before it (it names another record as the one before it)"
    ]
    assert len(failed(records[0], previous=[first])) == 1
    third = copy.deepcopy(records[0].content)
    third["data"]["held_out"]["rows"][1] = first.content["data"]["forget"]["rows"][2]
    third["hash"] = record_hash(third)
    (text,) = failed(DeletionRecord(third), previous=records[1:])
    assert text.startswith("it follows the previous record (held_out: got 1 examples that an earlier")


def test_every_bit_of_the_file_counts(tmp_path: Path) -> None:
    """White space too, with which the content would be the same."""
    RECORD.write(tmp_path / "record.json")
    whole = (tmp_path / "record.json").read_bytes()
    assert whole.isascii()
    size = 8 * len(whole)
    for bit in {*range(32), *range(size - 32, size), *range(0, size, size // 200)}:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / "record.json").write_bytes(changed)
        assert verify.main([str(tmp_path / "record.json")]) != 0, bit


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": [1]}, "rows: got 1, expected one for each of the 3 forget examples"),
        ({"data": {"x": {1, 2}}}, "data: got a value that JSON cannot hold"),
        ({"approved_by": {1}}, "approved_by: got a value that JSON cannot hold"),
    ],
)
def test_what_a_record_cannot_hold(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        OUTCOME.record("TICKET-1", **given)


def test_names_of_arrays(tmp_path: Path) -> None:
    tree = {"file": np.arange(2), "allow_pickle": np.arange(3), "x.npy": np.arange(4)}
    verify.save_arrays(tmp_path / "a.npz", tree)
    sizes = {name: x.size for name, x in verify.load_arrays(tmp_path / "a.npz").items()}
    assert sizes == {"file": 2, "allow_pickle": 3, "x.npy": 4}
    with pytest.raises(ValueError, match="tree: got two arrays named 'a/b', expected a different name for each"):
        verify.save_arrays(tmp_path / "a.npz", {"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


def test_the_content_is_plain_json() -> None:
    assert json.loads(json.dumps(RECORD.content, allow_nan=False)) == RECORD.content
