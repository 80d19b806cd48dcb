"""What a Llama-family model is: its sizes, and how positions turn its attention."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How Llama 3 stretches its rotary embedding to longer texts than it was first trained on.

    Attributes:
      factor: by which slow frequencies are divided.
      low_frequency_factor: waves longer than `original_positions` over this are slow.
      high_frequency_factor: waves shorter than `original_positions` over this stay as they are.
      original_positions: the length of the texts of the first training, in tokens.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama-family model (Llama 2 and 3, SmolLM2, Qwen2).

    Attributes:
      vocabulary: how many tokens there are.
      width: of the residual stream.
      hidden: of the MLP.
      layers: how many.
      heads: of the queries.
      kv_heads: of keys and values; a divisor of `heads`.
      head_dim: of every head, an even number.
      rope_theta: base of the rotary embedding's frequencies.
      rope_scaling: how they are stretched, if they are.
      norm_eps: added to a mean square before its root is taken.
      tied: whether the embedding is also the output matrix.
      qkv_bias: whether q, k and v have a bias (Qwen2).
      positions: the longest text that the model was trained on, in tokens.

    Raises:
      ValueError: for sizes that are not positive, or do not fit each other.

    >>> LlamaConfig(vocabulary=8, width=4, hidden=6, layers=1, heads=2, kv_heads=1, head_dim=2).rope_theta
    10000.0
    """

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    positions: int = 2048

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "hidden", "layers", "heads", "kv_heads", "head_dim", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive integer")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: got {self.kv_heads}, expected a divisor of heads, {self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: got {self.head_dim}, expected an even number")

    def projections(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps, by name."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (self.width, queries),
            "k": (self.width, keys),
            "v": (self.width, keys),
            "o": (queries, self.width),
            "gate": (self.width, self.hidden),
            "up": (self.width, self.hidden),
            "down": (self.hidden, self.width),
        }
