"""Batched generation with a key-value cache, against the model called plainly, token by token."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from spot.chat import prompt_ids
from spot.generation import Request, Sampling, request_seed
from spot.generation import transformers as generation
from spot.generation.transformers import TransformersGenerator, limited_distribution, sample

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=24)
SAMPLED = Sampling(temperature=1.5, top_p=0.95, top_k=20, max_new_tokens=40)
CONTEXT = 64

TEMPLATE = (
    "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %} <think> </think>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    special = ["<eos>", "<unk>", "<user>", "<assistant>", "<think>", "</think>"]
    words = special + [f"w{i}" for i in range(34)]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        eos_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(0)
    return [
        Request(
            f"q{i}#0",
            " ".join(f"w{w}" for w in rng.integers(0, 34, size=rng.integers(1, 12))),
            request_seed(0, f"q{i}", 0),
        )
        for i in range(15)
    ]


def run(generator, requests, sampling, done=()):
    return {c.key: c for c in generator.generate(requests, sampling, done)}


def plain_decoding(model, tokenizer, request, sampling):
    """One row, no cache, no padding: the whole sequence through the model for every token."""
    ids = prompt_ids(tokenizer, request.question)
    prompt = len(ids)
    limit = min(sampling.max_new_tokens, CONTEXT - prompt)
    draws = torch.tensor(np.random.Generator(np.random.PCG64(request.seed)).random(limit)).float()
    for step in range(limit):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
        token = int(sample(logits, draws[step : step + 1], sampling))
        if token == tokenizer.eos_token_id:
            return tuple(ids[prompt:]), "stop"
        ids.append(token)
    return tuple(ids[prompt:]), "length"


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_batches_equal_plain_decoding(model, tokenizer, requests, sampling):
    expected = {r.key: plain_decoding(model, tokenizer, r, sampling) for r in requests}
    for batch_size in (1, 5, 64):
        generator = TransformersGenerator(model, tokenizer, batch_size=batch_size)
        found = run(generator, requests, sampling)
        assert {k: (c.token_ids, c.finish_reason) for k, c in found.items()} == expected
        for request in requests:
            completion = found[request.key]
            assert completion.prompt_tokens == len(prompt_ids(tokenizer, request.question))
            ids = expected[request.key][0]
            assert completion.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_both_finish_reasons_occur_and_mean_what_they_say(model, tokenizer, requests):
    found = run(TransformersGenerator(model, tokenizer), requests, SAMPLED)
    reasons = [c.finish_reason for c in found.values()]
    assert {"stop", "length"} == set(reasons)
    for completion in found.values():
        assert tokenizer.eos_token_id not in completion.token_ids
        if completion.finish_reason == "length":
            room = min(SAMPLED.max_new_tokens, CONTEXT - completion.prompt_tokens)
            assert len(completion.token_ids) == room


def test_compaction_and_growth_of_the_cache_change_nothing(model, tokenizer, requests, monkeypatch):
    expected = run(TransformersGenerator(model, tokenizer), requests, SAMPLED)
    monkeypatch.setattr(generation, "FIRST_ROOM", 1)
    monkeypatch.setattr(generation, "COMPACT_BELOW", 1.0)
    assert run(TransformersGenerator(model, tokenizer), requests, SAMPLED) == expected
    monkeypatch.setattr(generation, "COMPACT_BELOW", 0.0)
    assert run(TransformersGenerator(model, tokenizer), requests, SAMPLED) == expected


def test_a_resumed_run_yields_the_missing_rows_with_the_same_bytes(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=4)
    whole = run(generator, requests, SAMPLED)
    done = set(list(whole)[:6]) | {list(whole)[13]}
    rest = run(generator, requests, SAMPLED, done)
    assert rest.keys() == whole.keys() - done
    assert all(rest[key] == whole[key] for key in rest)
    assert run(generator, requests, SAMPLED, set(whole)) == {}


def test_the_order_of_requests_does_not_matter(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=6)
    assert run(generator, requests, SAMPLED) == run(generator, requests[::-1], SAMPLED)


def test_the_seed_alone_moves_a_row(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer)
    first, *rest = requests
    other = Request(first.key, first.question, first.seed + 1)
    before = run(generator, requests, SAMPLED)
    after = run(generator, [other, *rest], SAMPLED)
    assert after[first.key] != before[first.key]
    assert all(after[r.key] == before[r.key] for r in rest)


def test_seeds_differ_by_run_question_and_trial():
    seeds = {
        request_seed(run, f"q{question}", trial)
        for run in range(3)
        for question in range(20)
        for trial in range(20)
    }
    assert len(seeds) == 3 * 20 * 20
    assert request_seed(1, "q1", 2) == request_seed(1, "q1", 2)
    assert request_seed(1, "q1", 11) != request_seed(1, "q11", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(0, "q0", 0) == 6130416345043729565  # sha256sum of "0\0q0\0" "0"


def test_a_prompt_without_room_is_reported_not_cut(model, tokenizer):
    question = " ".join(["w1"] * CONTEXT)
    requests = [Request("long", question, 0), Request("short", "w1 w2", 0)]
    found = run(TransformersGenerator(model, tokenizer), requests, GREEDY)
    assert found["long"].finish_reason == "prompt_too_long"
    assert (found["long"].text, found["long"].token_ids) == ("", ())
    assert found["long"].prompt_tokens == len(prompt_ids(tokenizer, question))
    assert found["short"].token_ids
    assert run(TransformersGenerator(model, tokenizer), requests, GREEDY, {"long"}).keys() == {
        "short"
    }


def test_two_requests_of_one_key_are_refused(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer)
    with pytest.raises(ValueError, match="same key"):
        list(generator.generate([requests[0], requests[0]], GREEDY))


def test_the_thinking_block_belongs_to_the_prompt(tokenizer):
    closed = prompt_ids(tokenizer, "w1")
    opened = prompt_ids(tokenizer, "w1", thinking=True)
    assert tokenizer.decode(closed) == "<user> w1 <assistant> <think> </think>"
    assert tokenizer.decode(opened) == "<user> w1 <assistant>"


def test_a_model_in_training_stays_as_it_was(model, tokenizer, requests):
    model.train()
    model.set_attn_implementation("eager")
    try:
        found = run(TransformersGenerator(model, tokenizer), requests, GREEDY)
        assert model.training
        assert model.config._attn_implementation == "eager"
        assert all(p.requires_grad for p in model.parameters())
        loss = model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
        loss.backward()
    finally:
        model.zero_grad()
        model.set_attn_implementation("sdpa")
        model.eval()
    assert found == run(TransformersGenerator(model, tokenizer), requests, GREEDY)


def test_a_saved_model_is_loaded(model, tokenizer, requests, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = generation.load(tmp_path, batch_size=8)
    live = TransformersGenerator(model, tokenizer, batch_size=8)
    assert run(generator, requests, SAMPLED) == run(live, requests, SAMPLED)


LIMITS = [
    (0.7, 20, 0.8),
    (1.0, 0, 0.9),
    (1.3, 5, 1.0),
    (0.5, 0, 1.0),
    (1.0, 1, 0.3),
    (2.0, 50, 0.01),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), LIMITS)
def test_the_limited_distribution_is_that_of_transformers(temperature, top_k, top_p):
    torch.manual_seed(1)
    logits = torch.randn(64, 50) * 3
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    probs, ids = limited_distribution(logits, Sampling(temperature, top_p, top_k, 1))
    ours = torch.zeros_like(logits).scatter(1, ids, probs)
    torch.testing.assert_close(ours, warped.softmax(-1), rtol=1e-5, atol=1e-7)
    assert ((ours > 0) == torch.isfinite(warped)).all()


def test_sampling_follows_the_distribution():
    torch.manual_seed(2)
    logits = torch.randn(1, 12) * 2
    sampling = Sampling(0.8, 0.9, 8, 1)
    probs, ids = limited_distribution(logits, sampling)
    n = 100_000
    uniforms = (torch.arange(n) + 0.5) / n  # evenly spread, so shares are exact up to 1/n
    tokens = sample(logits.expand(n, -1), uniforms, sampling)
    shares = torch.bincount(tokens, minlength=12) / n
    expected = torch.zeros(12).scatter(0, ids[0], probs[0])
    torch.testing.assert_close(shares, expected, rtol=0, atol=5e-5)


def test_the_largest_uniform_never_picks_an_excluded_token():
    logits = torch.tensor([[5.0, 4.0, -1.0, -2.0]])
    almost_one = torch.tensor([1.0])  # float rounding can make a draw exactly 1
    assert int(sample(logits, almost_one, Sampling(1.0, 0.5, 3, 1))) == 0
    assert int(sample(logits, almost_one, Sampling(1.0, 0.9, 3, 1))) == 1
