"""Other people's layouts: log-probs, gradients and samples are the model's own, or it is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from performance.layouts import LAYOUTS, Layout, sampled, trained
from spot.generation import transformers as generation
from spot.generation.decoding import Row, decode
from spot.training import model_check
from spot.training.forward import PLAIN, Kernels
from spot.training.loop import RunOptions, tokenise, train
from spot.training.packing import PackingSettings, PairTokens
from spot.training.weights import without_dropout
from spot.utils.errors import UserError
from tests.unit.runs import loss

REFUSED = {
    "GPT-J": "attention is eager",
    "GPT-OSS": "sinks",
    "Bloom": "attention is eager",
    "MPT": "attention is eager",
    "Falcon": "attention is sdpa",
    "StableLM": "without a layout",
    "Nemotron": "without a layout",
    "Mamba": "no num_attention_heads",
    "Mamba 2": "no num_attention_heads",
    "Jamba": "off the model's own",
    "Qwen3-Next": "off the model's own",
    "RecurrentGemma": "off the model's own",
    "RWKV": "no num_attention_heads",
    "T5": "not a causal language model",
}
OURS = [name for name in LAYOUTS if name not in REFUSED]


def build(name: str) -> Any:
    """A random model with biases and norms that are not what they begin as."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(without_dropout(LAYOUTS[name].build()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def pair(seed: int = 0) -> PairTokens:
    """Longer than the windows of the small models, which see 8 tokens."""
    rng = random.Random(seed)
    ids = [rng.randrange(3, 99) for _ in range(60)]
    return PairTokens("pair", ids[:14], [*ids[14:34], 2], [*ids[14:22], *ids[40:58], 2])


@pytest.mark.parametrize("name", OURS)
def test_packs_give_the_models_own_numbers(name: str) -> None:
    model = build(name)
    assert trained(LAYOUTS[name]) == ""
    assert model_check.check_model(model, pair(), PLAIN) < 2e-5
    own, wanted = model_check._outcome(model, model_check.own_logprobs, pair())
    ours, got = model_check._outcome(model, model_check.packed_logprobs, pair(), PLAIN)
    assert (ours - own).abs().max() < 1e-4
    assert (got - wanted).norm() / wanted.norm() < 1e-4
    assert own.std() > 0.05  # log-probs that differ by token: something was compared


@pytest.mark.parametrize("name", REFUSED)
def test_what_packs_do_not_compute_is_refused(name: str) -> None:
    assert REFUSED[name] in trained(LAYOUTS[name])


@pytest.mark.parametrize("name", OURS)
def test_what_is_sampled_are_the_models_own_logits(name: str) -> None:
    """Rows of unequal length, prompts longer than the windows, one that joins later."""
    model = build(name).eval()
    rng = random.Random(1)
    said = [[rng.randrange(3, 99) for _ in range(n)] for n in (19, 25, 31, 22)]
    rows = [Row(str(i), ids[:-10], i, 10) for i, ids in enumerate(said)]
    met: list[torch.Tensor] = []

    def choose(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        met.append(logits)
        batch, step = divmod(len(met) - 1, 10)
        return torch.tensor([ids[step - 10] for ids in said[2 * batch : 2 * batch + 2]])

    made = {row.key: ids for row, ids in decode(model, rows, choose, [], batch_size=2)}
    assert [made[row.key] for row in rows] == [ids[-10:] for ids in said]
    with torch.no_grad():
        own = [model(torch.tensor([ids[:-1]])).logits[0, -10:].log_softmax(-1) for ids in said]
    for i, wanted in enumerate(own):
        got = torch.stack([met[10 * (i // 2) + step][i % 2] for step in range(10)]).log_softmax(-1)
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_sampled_wrongly_is_refused(name: str) -> None:
    assert sampled(LAYOUTS[name]) or name in ("StableLM", "Nemotron")


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [
        (
            "Phi-3",
            {
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 64,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0] * 4,
                },
            },
        ),
        ("Llama", {"max_position_embeddings": 32, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    ],
)  # fmt: skip
def test_long_texts_are_refused_where_they_would_change_the_short_ones(
    layout: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    Layout(LAYOUTS[layout].config, LAYOUTS[layout].sizes | sizes).build().save_pretrained(tmp_path)
    model_check.check_length(tmp_path, 32)
    with pytest.raises(UserError, match=r"set model\.context_length=32, or less"):
        model_check.check_length(tmp_path, 33)
    LAYOUTS[layout].build().save_pretrained(tmp_path)
    model_check.check_length(tmp_path, 10**6)


@pytest.mark.parametrize(
    ("key", "value", "layout"),
    [
        ("logits_scaling", 7.0, "Granite"),
        ("logit_scale", 0.5, "Cohere"),
        ("final_logit_softcapping", 1.0, "Gemma 2"),
    ],
)
def test_a_head_that_is_not_as_its_configuration_says(key: str, value: float, layout: str) -> None:
    """What nobody has a name for is noticed as well: the check compares with the model itself."""
    model = build(layout)
    if layout == "Cohere":
        model.logit_scale = value
    else:
        own = model.forward
        told = getattr(model.config, key)

        def forward(*args: Any, **kwargs: Any) -> Any:
            setattr(model.config, key, value)
            try:
                return own(*args, **kwargs)
            finally:
                setattr(model.config, key, told)

        model.forward = forward
    with pytest.raises(
        UserError, match=r"cannot be trained: log-probs of a pack are off .* by up to"
    ):
        model_check.check_model(model, pair(), PLAIN)


@pytest.mark.parametrize("name", ["Granite", "Phi", "Gemma 2", "GPT-2"])
def test_a_training_from_start_to_checkpoint(
    name: str, tmp_path: Path, tiny_tokenizer: Any, pairs: list[Any], held_out: list[Any]
) -> None:
    """The cached reference is the model's own, rewards begin at 0, and the checkpoint answers."""
    layout = LAYOUTS[name]
    torch.manual_seed(0)
    words = {"vocab_size": len(tiny_tokenizer), "eos_token_id": tiny_tokenizer.eos_token_id}
    sizes = layout.sizes | words
    model: Any = AutoModelForCausalLM.from_config(Layout(layout.config, sizes).build())
    model.save_pretrained(tmp_path / "policy")
    tiny_tokenizer.save_pretrained(tmp_path / "policy")
    options = RunOptions(reference_folder=tmp_path / "reference")
    given = (tmp_path / "out", pairs, held_out, loss("bco"), 0, options)
    result = train(tmp_path / "policy", *given)
    assert result.model_error < 1e-4
    assert result.max_start_reward < 1e-5
    assert result.steps > 0
    files = (load_file(f) for f in (tmp_path / "reference").glob("*.safetensors"))
    scores = max((next(iter(of.values())) for of in files), key=len)  # not of those held out
    tokens = tokenise(tiny_tokenizer, pairs, False)
    own = model.eval()
    with torch.no_grad():
        wanted = [model_check.own_logprobs(own, p)[: len(p.chosen)].sum() for p in tokens]
    at = 0
    for p, total in zip(tokens, wanted, strict=True):
        assert abs(scores[at : at + len(p.chosen)].sum() - total) < 1e-3
        at += p.scored(PackingSettings())
    assert generation.load(tmp_path / "out" / "model").stop_ids == [tiny_tokenizer.eos_token_id]


def test_leftover_dropout_is_noticed() -> None:
    model = build("GPT-2")
    model.transformer.drop.p = 0.5
    with pytest.raises(UserError, match="off its own forward pass"):
        model_check.check_model(model, pair(), PLAIN)


def test_liger_is_refused_for_a_head_that_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="logprobs=torch"):
        Kernels("sdpa", "liger").check(LAYOUTS["Granite"].build(), torch.float32, "cpu")
