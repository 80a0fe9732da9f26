"""The shape of a model: what decides its memory and its work, from its configuration alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spot.config import LoraConfig, ModelConfig, PretrainConfig
from spot.training.bin_packing import Cost
from spot.utils.errors import UserError

SHIPPED = Path(__file__).parent / "assets" / "tiny" / "config.json"
QK_NORMS = ("qwen3",)  # architectures that normalise every head's queries and keys
PLANNED = ("qwen2", "qwen3", "llama", "mistral")  # dense decoders with SwiGLU


@dataclass(frozen=True)
class Shape:
    """A dense decoder. Biases, which only Qwen2 has, are left out: one parameter in 50,000."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False  # the head is the embedding
    qk_norm: bool = True
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters, in all layers

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads, which is also that of the values."""
        return self.kv_heads * self.head_dim

    @property
    def head(self) -> int:
        """Parameters of the head, and of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer's matrices: q and o, k and v, gate, up and down."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by the names of `PLANNED` families, as (in, out)."""
        h, q, k, inner = self.hidden, self.queries, self.keys, self.intermediate
        attention = {"q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, inner), "up_proj": (h, inner), "down_proj": (inner, h)}

    @property
    def adapted(self) -> list[tuple[int, int]]:
        """The matrices of a layer that have an adapter."""
        return [sizes for name, sizes in self.matrices.items() if self.adapts(name)]

    def adapts(self, name: str) -> bool:
        """Whether the matrices of this name have an adapter."""
        names = {target.rpartition(".")[2] for target in self.lora.targets}
        return self.lora.rank is not None and (self.lora.everywhere or name in names)

    @property
    def trained(self) -> int:
        """Parameters that have a gradient: A and B of all adapters, or all there are."""
        if self.lora.rank is None:
            return self.parameters
        return self.layers * self.lora.rank * sum(map(sum, self.adapted))

    @property
    def held(self) -> int:
        """All parameters, with those of adapters."""
        return self.parameters + (0 if self.lora.rank is None else self.trained)

    @property
    def parameters(self) -> int:
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        outside = self.head * (1 if self.tied else 2) + self.hidden
        return self.layers * (self.layer_matrices + norms) + outside

    @property
    def cost(self) -> Cost:
        """Forward FLOPs, as `Cost.of` finds them in a model."""
        return Cost(
            2.0 * self.layers * self.layer_matrices,
            2.0 * self.head,
            4.0 * self.layers * self.queries,
        )


# What their config.json say, for machines that cannot ask the hub.
KNOWN = {
    "Qwen/Qwen3-8B": Shape(36, 4096, 12288, 32, 8, 128, 151936),
    "Qwen/Qwen3-14B": Shape(40, 5120, 17408, 40, 8, 128, 151936),
    "Qwen/Qwen3-32B": Shape(64, 5120, 25600, 64, 8, 128, 151936),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(32, 4096, 14336, 32, 8, 128, 128256, qk_norm=False),
    "meta-llama/Llama-3.3-70B-Instruct": Shape(80, 8192, 28672, 64, 8, 128, 128256, qk_norm=False),
}


def shape_of(model: ModelConfig) -> Shape:
    """The shape of the policy. Raises UserError where it cannot be known here.

    A hub id that is in no table is looked for in this machine's cache of the hub, never fetched.
    """
    return replace(_whole(model), lora=model.lora)


def _whole(model: ModelConfig) -> Shape:
    if model.path is None:
        return _student(model.pretrain)
    file = Path(model.path).expanduser() / "config.json"
    if file.is_file():
        return read(file)
    if model.path in KNOWN:
        return KNOWN[model.path]
    from huggingface_hub import try_to_load_from_cache

    local = model.path.startswith(("/", ".", "~"))
    cached = None if local else try_to_load_from_cache(model.path, "config.json")
    if isinstance(cached, str):
        return read(Path(cached))
    raise UserError(
        f"The shape of model.path={model.path} is not known here: give model.path=<folder> with its "
        "config.json."
    )


def read(file: Path) -> Shape:
    """The shape that a Hugging Face config.json describes."""
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}): give a whole config.json.") from None
    if config.get("model_type") not in PLANNED:
        raise UserError(
            f"{file} describes a {config.get('model_type')}: memory is planned for "
            f"{', '.join(PLANNED)} only; start a run to see what others need."
        )
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            qk_norm=config["model_type"] in QK_NORMS,
        )
    except KeyError as error:
        raise UserError(f"{file} lacks {error.args[0]}: give a whole config.json.") from None


def _student(recipe: PretrainConfig | None) -> Shape:
    """A student made here, in the recipe's size."""
    if recipe is None:
        raise UserError("The model has neither a path nor a recipe: give model.path=<folder>.")
    words = recipe.vocabulary if recipe.corpus == "data" else read(SHIPPED).vocabulary
    width, heads = recipe.width, recipe.heads
    return Shape(recipe.layers, width, 3 * width, heads, heads, width // heads, words, tied=True)
