"""Which model layouts can be trained and sampled here: small random models of each, tried.

`python -m performance.layouts` prints a line a layout and writes them, as Markdown, where the
documentation shows them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from performance.common import HERE, markdown
from spot.generation.transformers import check_decoding
from spot.training.model_check import check_layout
from spot.utils.errors import UserError

PAGE = HERE.parent / "docs" / "models.md"
MARKS = ("<!-- layouts -->\n", "<!-- /layouts -->")
PLAIN: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 99, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = PLAIN | {"num_key_value_heads": 2}
NARROW = GROUPED | {"head_dim": 8, "sliding_window": 8}
OLD: dict[str, Any] = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 64,
    "bos_token_id": None, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
STATES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 4}


@dataclass(frozen=True)
class Layout:
    """A family of models by its configuration in transformers, and what is special about it."""

    config: str
    sizes: dict[str, Any]
    note: str = ""

    def build(self) -> Any:
        """The configuration of a small model."""
        return getattr(transformers, self.config)(**self.sizes)


LAYOUTS = {
    "Llama": Layout("LlamaConfig", GROUPED),
    "Qwen2": Layout("Qwen2Config", GROUPED),
    "Qwen3": Layout("Qwen3Config", GROUPED | {"head_dim": 8}),
    "Qwen3-MoE": Layout(
        "Qwen3MoeConfig",
        GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "mixture of experts",
    ),
    "Mistral": Layout("MistralConfig", NARROW, "sliding window"),
    "Mixtral": Layout("MixtralConfig", GROUPED | EXPERTS, "mixture of experts"),
    "Gemma": Layout("GemmaConfig", GROUPED | {"head_dim": 8}),
    "Gemma 2": Layout("Gemma2Config", NARROW, "soft caps of scores and logits, sliding window"),
    "Gemma 3": Layout("Gemma3TextConfig", NARROW | {"num_hidden_layers": 6}, "sliding window"),
    "Phi": Layout("PhiConfig", PLAIN, "a head with bias"),
    "Phi-3": Layout("Phi3Config", PLAIN | {"sliding_window": 8}, "sliding window"),
    "Granite": Layout(
        "GraniteConfig",
        GROUPED | {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
        "scaled logits, embeddings and residuals",
    ),
    "Cohere": Layout("CohereConfig", GROUPED | {"logit_scale": 0.0625}, "scaled logits"),
    "Cohere 2": Layout("Cohere2Config", NARROW | {"logit_scale": 0.25}, "scaled logits, sliding window"),
    "OLMo": Layout("OlmoConfig", PLAIN),
    "OLMo 2": Layout("Olmo2Config", GROUPED),
    "OLMo 3": Layout("Olmo3Config", GROUPED | {"sliding_window": 8}, "sliding window"),
    "SmolLM3": Layout("SmolLM3Config", GROUPED),
    "StableLM": Layout("StableLmConfig", PLAIN),
    "StarCoder2": Layout("Starcoder2Config", GROUPED | {"sliding_window": 8}, "sliding window"),
    "GLM-4": Layout("Glm4Config", GROUPED | {"head_dim": 8}),
    "EXAONE 4": Layout("Exaone4Config", GROUPED | {"sliding_window": 8}, "sliding window"),
    "DeepSeek-V2": Layout("DeepseekV2Config", PLAIN | LATENT, "latent attention, mixture of experts"),
    "DeepSeek-V3": Layout("DeepseekV3Config", PLAIN | LATENT, "latent attention, mixture of experts"),
    "GPT-2": Layout("GPT2Config", OLD, "learned positions"),
    "GPT-NeoX": Layout("GPTNeoXConfig", PLAIN),
    "OPT": Layout("OPTConfig", PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "learned positions"),
    "GPT-J": Layout("GPTJConfig", OLD | {"rotary_dim": 4}),
    "GPT-OSS": Layout("GptOssConfig", NARROW | EXPERTS, "attention sinks"),
    "Bloom": Layout("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}, "ALiBi"),
    "MPT": Layout("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 99}, "ALiBi"),
    "Falcon": Layout(
        "FalconConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99, "alibi": True},
        "ALiBi",
    ),
    "Nemotron": Layout("NemotronConfig", GROUPED | {"head_dim": 8}),
    "Mamba": Layout("MambaConfig", STATES, "state space"),
    "Mamba 2": Layout(
        "Mamba2Config", STATES | {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1}, "state space"
    ),
    "Jamba": Layout(
        "JambaConfig",
        GROUPED | {"num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 4,
                   "attn_layer_period": 2, "attn_layer_offset": 1},
        "state space",
    ),
    "Qwen3-Next": Layout(
        "Qwen3NextConfig",
        GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4,
                   "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 8},
        "linear attention",
    ),
    "RecurrentGemma": Layout(
        "RecurrentGemmaConfig", PLAIN | {"num_hidden_layers": 3, "lru_width": 32}, "recurrence"
    ),
    "RWKV": Layout("RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}, "recurrence"),
    "T5": Layout("T5Config", {"d_model": 32, "vocab_size": 99}, "encoder and decoder"),
}  # fmt: skip


def trained(layout: Layout) -> str:
    """Why packs do not give such a model's own log-probs and gradients; empty where they do."""
    with tempfile.TemporaryDirectory() as folder:
        layout.build().save_pretrained(folder)
        try:
            check_layout(Path(folder))
        except UserError as error:
            return str(error).partition(": ")[2].rpartition(";")[0]
    return ""


def sampled(layout: Layout) -> str:
    """Why generator=transformers does not sample from such a model; empty where it does."""
    torch.manual_seed(0)
    try:
        check_decoding(transformers.AutoModelForCausalLM.from_config(layout.build()).eval())
    except (UserError, ValueError) as error:  # no causal language model
        return str(error)
    return ""


def table() -> list[dict[str, str]]:
    """A row a layout, for the documentation."""
    rows = []
    for name, layout in LAYOUTS.items():
        refused = trained(layout)
        rows.append(
            {
                "layout": name,
                "special": layout.note,
                "trained": "no" if refused else "yes",
                "generator=transformers": "no" if sampled(layout) else "yes",
            }
        )
        print(f"{name:15} {refused or 'trained'}", flush=True)
    return rows


def main() -> None:
    """Put the table between the page's marks."""
    begin, end = MARKS
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    text = f"{head}{begin}{markdown(table())}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
