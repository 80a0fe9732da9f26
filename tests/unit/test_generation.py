"""Batched generation with a key-value cache, against the model called plainly, token by token."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from spot.data.chat import chat_ids, prompt_ids, user
from spot.generation import Request, Sampling, decoding, request_seed
from spot.generation import transformers as generation
from spot.generation.transformers import TransformersGenerator, sample
from spot.utils.errors import UserError

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


def request(name, text, sampling=SAMPLED, seed=None):
    return Request(
        name, 0, user(text), sampling, request_seed(0, name, 0) if seed is None else seed
    )


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(0)
    return [
        request(f"q{i}", " ".join(f"w{w}" for w in rng.integers(0, 34, size=rng.integers(0, 12))))
        for i in range(24)
    ]


def sampled(requests, sampling):
    return [replace(r, sampling=sampling) for r in requests]


def run(generator, requests, done=()):
    completions = list(generator.generate(requests, done))
    found = {c.key: c for c in completions}
    assert len(found) == len(completions)
    return found


def plain_decoding(model, tokenizer, request):
    """One row, no cache, no padding: the whole sequence through the model for every token."""
    ids, sampling = chat_ids(tokenizer, request.messages), request.sampling
    prompt = len(ids)
    limit = min(sampling.max_new_tokens, CONTEXT - prompt)
    draws = torch.tensor(np.random.Generator(np.random.PCG64(request.seed)).random(limit)).float()
    for step in range(limit):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
        token = int(sample(logits, draws[step : step + 1], sampling))
        if token in generation._stop_ids(model, tokenizer):
            return tuple(ids[prompt:]), "stop"
        ids.append(token)
    return tuple(ids[prompt:]), "length"


def assert_plain(found, model, tokenizer, requests):
    expected = {r.key: plain_decoding(model, tokenizer, r) for r in requests}
    assert {k: (c.token_ids, c.finish_reason) for k, c in found.items()} == expected


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.made.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_batches_equal_plain_decoding(model, tokenizer, requests, sampling):
    requests = sampled(requests, sampling)
    for batch_size in (1, 5, 64):
        generator = TransformersGenerator(model, tokenizer, batch_size, name="a student")
        found = run(generator, requests)
        assert_plain(found, model, tokenizer, requests)
        for asked in requests:
            completion = found[asked.key]
            assert completion.model == "a student"
            assert completion.tokens == len(completion.token_ids)
            assert completion.prompt_tokens == len(chat_ids(tokenizer, asked.messages))
            assert completion.text == tokenizer.decode(
                completion.token_ids, skip_special_tokens=True
            )


def test_every_request_has_its_own_sampling(model, tokenizer, requests):
    kinds = [GREEDY, SAMPLED, replace(SAMPLED, max_new_tokens=1), Sampling(1.0, 1.0, 0, 30)]
    requests = [replace(r, sampling=kinds[i % 4]) for i, r in enumerate(requests)]
    found = run(TransformersGenerator(model, tokenizer, 4), requests)
    assert_plain(found, model, tokenizer, requests)
    assert all(found[r.key].tokens <= r.sampling.max_new_tokens for r in requests)


def test_other_floats_than_fp32_go_the_same_way(model, tokenizer, requests):
    wide = copy.deepcopy(model).double()
    assert_plain(
        run(TransformersGenerator(wide, tokenizer, 5), requests), wide, tokenizer, requests
    )


def test_both_finish_reasons_occur_and_mean_what_they_say(model, tokenizer, requests):
    found = run(TransformersGenerator(model, tokenizer), requests)
    reasons = [c.finish_reason for c in found.values()]
    assert {"stop", "length"} == set(reasons)
    for completion in found.values():
        assert tokenizer.eos_token_id not in completion.token_ids
        if completion.finish_reason == "length":
            room = min(SAMPLED.max_new_tokens, CONTEXT - completion.prompt_tokens)
            assert len(completion.token_ids) == room


def test_the_models_own_list_of_ends_counts_too(model, tokenizer, requests):
    stopping = copy.deepcopy(model)
    stopping.generation_config.eos_token_id = [0, 7, 9]
    found = run(TransformersGenerator(stopping, tokenizer, 5), requests)
    assert_plain(found, stopping, tokenizer, requests)
    assert not any({0, 7, 9} & set(c.token_ids) for c in found.values())
    before = run(TransformersGenerator(model, tokenizer, 5), requests)
    assert any({7, 9} & set(c.token_ids) for c in before.values())


@pytest.mark.parametrize(
    "constants",
    [
        {"ROOM": 1, "ROOM_SHARE": 1000},
        {"REFILL_BELOW": 1.0, "SPREAD": 0.0},
        {"REFILL_BELOW": 0.01},
        {"PROMPT_TOKENS": 30, "DRAWS": 3, "SPREAD": 1.0},
    ],
    ids=str,
)
def test_when_rows_move_changes_nothing(model, tokenizer, requests, monkeypatch, constants):
    expected = run(TransformersGenerator(model, tokenizer, 6), requests)
    for name, value in constants.items():
        monkeypatch.setattr(decoding, name, value)
    assert run(TransformersGenerator(model, tokenizer, 6), requests) == expected


def test_rows_that_finish_are_replaced_within_a_wave(model, tokenizer, requests):
    """A batch that only thinned out would need a step for every token of each batch's longest row."""
    found = run(TransformersGenerator(model, tokenizer, 6), requests)
    longest_first = sorted(found.values(), key=lambda c: (-c.prompt_tokens, c.key))
    steps = []

    def count(module, args, kwargs):
        steps.append(kwargs["input_ids"].shape)

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        run(TransformersGenerator(model, tokenizer, 6), requests)
    finally:
        hook.remove()
    thinning = sum(max(c.tokens for c in longest_first[i : i + 6]) for i in range(0, 24, 6))
    assert sum(shape[1] == 1 for shape in steps) < 0.8 * thinning
    assert max(shape[0] for shape in steps) == 6


def test_memory_follows_the_rows_that_run(model, tokenizer, monkeypatch):
    """Neither a limit nor the rows that came before may widen the cache."""
    monkeypatch.setattr(decoding, "ROOM", 8)
    far = copy.deepcopy(model)
    far.config.max_position_embeddings = 1_000_000
    asked = [
        request(f"q{i}", "w1 " * (i % 17), replace(GREEDY, max_new_tokens=12)) for i in range(60)
    ]
    asked += [request(f"r{i}", "w2 w3", replace(SAMPLED, max_new_tokens=32_768)) for i in range(8)]
    with Shapes() as shapes:
        found = run(TransformersGenerator(far, tokenizer, 4), asked)
    longest = max(c.prompt_tokens + c.tokens for c in found.values())
    assert sum(c.tokens for c in found.values()) > 4 * 3 * longest  # steps in all
    widths = {shape[2] for shape in shapes.made if len(shape) == 4}  # heads, columns, width
    assert longest <= max(widths) <= 1.2 * longest + 10
    assert max(max(shape, default=0) for shape in shapes.made) < 500


def test_a_resumed_run_yields_the_missing_rows_with_the_same_bytes(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=2)  # three waves of eight
    whole = run(generator, requests)
    for done in (set(list(whole)[:3]), set(list(whole)[:11]), set(list(whole)[5:20])):
        rest = run(generator, requests, done)
        assert rest.keys() == whole.keys() - done
        assert all(rest[key] == whole[key] for key in rest)


def test_what_is_done_is_not_computed_again(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=2)
    whole = run(generator, requests)
    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        assert run(generator, requests, set(whole)) == {}
        assert not forwards
        run(generator, requests, set(list(whole)[8:]))
        one_wave = len(forwards)
        run(generator, requests)
        assert len(forwards) > 3 * one_wave
    finally:
        hook.remove()


def test_the_order_of_requests_does_not_matter(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=3)
    assert run(generator, requests) == run(generator, requests[::-1])


def test_the_seed_alone_moves_a_row(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer, batch_size=7)
    first, *rest = requests
    before = run(generator, requests)
    after = run(generator, [replace(first, seed=first.seed + 1), *rest])
    assert after[first.key] != before[first.key]
    assert all(after[r.key] == before[r.key] for r in rest)


def test_a_prompt_without_room_is_reported_not_cut(model, tokenizer):
    question = " ".join(["w1"] * CONTEXT)
    requests = [request("long", question, GREEDY), request("short", "w1 w2", GREEDY)]
    found = run(TransformersGenerator(model, tokenizer), requests)
    long = found["long#0"]
    assert (long.finish_reason, long.text, long.token_ids) == ("prompt_too_long", "", ())
    assert long.prompt_tokens == len(prompt_ids(tokenizer, question))
    assert found["short#0"].token_ids
    rest = run(TransformersGenerator(model, tokenizer), requests, {"long#0"})
    assert rest.keys() == {"short#0"}


def test_a_prompt_may_fill_the_context_but_for_one_token(model, tokenizer):
    room = CONTEXT - len(prompt_ids(tokenizer, "")) - 1
    requests = [request("full", " ".join(["w1"] * room), GREEDY), request("short", "", GREEDY)]
    found = run(TransformersGenerator(model, tokenizer), requests)
    assert_plain(found, model, tokenizer, requests)
    assert found["full#0"].prompt_tokens == CONTEXT - 1


def test_prompts_of_one_token_and_of_none(model, tokenizer, requests):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = "{{ messages[0]['content'] }}"
    short = [request(f"s{i}", f"w{i}") for i in range(9)]
    for asked in (short, [*short, *requests[1:5]]):
        asked = [r for r in asked if r.messages[0]["content"]]
        assert_plain(run(TransformersGenerator(model, bare, 4), asked), model, bare, asked)
    with pytest.raises(ValueError, match="s9#0 has no tokens"):
        run(TransformersGenerator(model, bare), [*short, request("s9", "")])


def test_two_requests_of_one_key_are_refused(model, tokenizer, requests):
    generator = TransformersGenerator(model, tokenizer)
    with pytest.raises(ValueError, match="same key"):
        list(generator.generate([requests[0], requests[0]]))


def test_the_thinking_block_belongs_to_the_prompt(tokenizer):
    closed = prompt_ids(tokenizer, "w1")
    opened = prompt_ids(tokenizer, "w1", thinking=True)
    assert tokenizer.decode(closed) == "<user> w1 <assistant> <think> </think>"
    assert tokenizer.decode(opened) == "<user> w1 <assistant>"


def test_a_model_in_training_stays_as_it_was(model, tokenizer, requests):
    expected = run(TransformersGenerator(model, tokenizer, 4), requests)
    model.train()
    model.set_attn_implementation("eager")
    found = {}
    try:
        for completion in TransformersGenerator(model, tokenizer, 4).generate(requests):
            found[completion.key] = completion
            assert model.training
            assert model.config._attn_implementation == "eager"
            assert not torch.is_inference_mode_enabled()
        assert all(p.requires_grad for p in model.parameters())
        loss = model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
        loss.backward()
    finally:
        model.zero_grad()
        model.set_attn_implementation("sdpa")
        model.eval()
    assert found == expected


def test_a_saved_model_is_loaded(model, tokenizer, requests, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = generation.load(tmp_path, batch_size=8)
    live = TransformersGenerator(model, tokenizer, batch_size=8)
    assert run(generator, requests) == run(live, requests)


def test_a_saved_model_may_keep_its_precision(model, tokenizer, requests, tmp_path):
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert generation.load(tmp_path).model.dtype == torch.float32
    kept = generation.load(tmp_path, dtype="auto")
    assert kept.model.dtype == torch.bfloat16
    assert run(kept, requests).keys() == {request.key for request in requests}


def test_a_full_gpu_is_one_line(model, tokenizer, requests, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(UserError, match=r"not hold generator.batch=4 responses .* generator=vllm"):
        list(TransformersGenerator(model, tokenizer, 4).generate(requests))
