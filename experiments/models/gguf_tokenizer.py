"""The tokenizer in a GGUF file's metadata, in the form that the `tokenizers` library and transformers read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.models.hf_format import write_json

SPECIAL = 3  # of `tokenizer.ggml.token_type`
# How text is divided before tokens are looked for, by the file's `tokenizer.ggml.pre`: a regular expression, or None for
# single digits and then GPT-2's rules.
SPLITS = {
    "smollm": None,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def write(field: Callable[[str], Any], directory: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, with the chat template.

    Args:
      field: a metadata field's value by its name, None if it is not there.
      directory: where to.

    Raises:
      ValueError: for a tokenizer that is not one of byte-level BPE with rules in `SPLITS`, or whose parts do not fit.
    """
    add_bos, tokens = bool(field("tokenizer.ggml.add_bos_token")), field("tokenizer.ggml.tokens")
    ids = token_ids(field)
    for kind, i in ids.items():
        if not 0 <= i < len(tokens):
            raise ValueError(f"tokenizer: got {i} as the token {kind}, expected a number below {len(tokens)}")
    names = {kind: tokens[i] for kind, i in ids.items()}
    _tokenizer(field, names.get("bos") if add_bos else None).save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": field(f"{field('general.architecture')}.context_length"),
        "clean_up_tokenization_spaces": False,
        **{f"{kind}_token": name for kind, name in names.items()},
    }
    if template := field("tokenizer.chat_template"):
        settings["chat_template"] = template
    write_json(directory / "tokenizer_config.json", settings)


def token_ids(field: Callable[[str], Any]) -> Mapping[str, int]:
    """The tokens that begin a text, end it, and fill up, as far as the file names them."""
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    ids = {kind: field(f"tokenizer.ggml.{name}") for kind, name in names.items()}
    return {kind: int(i) for kind, i in ids.items() if i is not None}


def _tokenizer(field: Callable[[str], Any], bos: str | None) -> Any:
    """The tokenizer; with `bos`, one that begins every text with it."""
    import tokenizers  # noqa: PLC0415
    from tokenizers import decoders, models, processors  # noqa: PLC0415

    kind, pre = field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in SPLITS:
        raise ValueError(
            f"tokenizer: got model {kind!r} with pre-tokeniser {pre!r}, expected 'gpt2' with one of {', '.join(SPLITS)}: "
            "take the model's Hugging Face directory instead"
        )
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges") or ()]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if types is None or len(types) != len(tokens):
        raise ValueError(f"tokenizer: got {0 if types is None else len(types)} token types, expected {len(tokens)}")
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"tokenizer: got tokens and merges that do not fit ({error}), expected byte pairs") from error
    tokenizer.pre_tokenizer = _pre_tokenizer(SPLITS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    if bos is not None:
        begun = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begun])
    return tokenizer


def _pre_tokenizer(split: str | None) -> Any:
    """The rules that divide text, ending in bytes."""
    from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415

    if split is None:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        by_rule = pre_tokenizers.Split(Regex(split), "isolated")
        parts = [by_rule, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return pre_tokenizers.Sequence(parts)
