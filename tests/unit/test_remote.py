"""Generation by servers: what is sent, what comes back, and the wrong model, tokens or key."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from spot.config import GeneratorConfig
from spot.config.compose import compose
from spot.data.chat import chat_ids, user
from spot.generation import Sampling
from spot.generation.remote import RemoteGenerator
from spot.pipeline import clients
from spot.pipeline.policy import SHIPPED, Policy
from spot.utils import http
from spot.utils.errors import UserError
from spot.utils.openai_client import ChatReply, OpenAIServer, read_chat
from tests.generation.asking import generator, refused, requests, run, text
from tests.generation.server import Plan, answer, serving, tokenizer

# ---- what is sent and what comes back ------------------------------------------------------------


@pytest.mark.parametrize("tells_ids", [True, False])
def test_completions_say_what_was_written(tells_ids: bool) -> None:
    with serving(Plan(tells_ids=tells_ids)) as server:
        found = run(generator(server.url), requests(40))
    assert set(found) == {f"q{i}#0" for i in range(40)}
    for i in range(40):
        completion, said = found[f"q{i}#0"], answer(text(i), i)
        ids = tokenizer()(said, add_special_tokens=False)["input_ids"]
        assert completion.text == said
        assert completion.token_ids == (tuple(ids) if tells_ids else ())
        assert completion.tokens == len(ids)
        assert completion.finish_reason == "stop"
        assert completion.prompt_tokens == len(chat_ids(tokenizer(), user(text(i))))
        assert completion.model == "student"


def test_a_server_that_counts_nothing_is_counted_for() -> None:
    with serving(Plan(tells_ids=False, tells_usage=False)) as server:
        [completion] = run(generator(server.url), requests(1)).values()
    assert completion.tokens == len(tokenizer()(completion.text)["input_ids"])


def test_half_a_character_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def complete(_: OpenAIServer, body: Any) -> ChatReply:
        choice = {"message": {"content": "half \ud83d"}, "finish_reason": "stop"}
        return read_chat({"model": body["model"], "choices": [choice]})

    monkeypatch.setattr(OpenAIServer, "complete", complete)
    with serving() as server:
        [completion] = run(generator(server.url), requests(1)).values()
    assert completion.text == "half \ufffd"


def test_what_is_asked_for() -> None:
    with serving() as server:
        run(generator(server.url, thinking=True), requests(1))
        assert server.ledger()["body"] == {
            "model": "student",
            "messages": [{"role": "user", "content": text(0)}],
            "max_tokens": 64,
            "seed": 0,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "stop_token_ids": [tokenizer().eos_token_id],
            "chat_template_kwargs": {"enable_thinking": True},
        }
        extra = {"min_p": None, "repetition_penalty": 1.2, "stop": ["."]}
        run(generator(server.url, extra=extra), requests(1, Sampling(0, 1, 0, 9)))
        body = server.ledger()["body"]
    assert "min_p" not in body
    assert (body["repetition_penalty"], body["stop"], body["top_k"]) == (1.2, ["."], -1)


def test_what_is_done_is_not_asked() -> None:
    with serving() as server:
        done = {f"q{i}#0" for i in range(0, 20, 2)}
        found = [c.key for c in generator(server.url).generate(requests(20), done)]
        assert sorted(found) == sorted(f"q{i}#0" for i in range(1, 20, 2))
        assert server.ledger()["requests"] == 10
    assert (
        list(generator("http://127.0.0.1:9/v1").generate(requests(3), {"q0#0", "q1#0", "q2#0"}))
        == []
    )


def test_two_requests_of_one_key_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="same key"):
        next(generator("http://127.0.0.1:9/v1").generate([*requests(1), *requests(1)]))


def test_a_cut_response_says_so() -> None:
    with serving() as server:
        [completion] = run(generator(server.url), requests(1, Sampling(1, 1, 0, 5))).values()
        assert (completion.finish_reason, completion.tokens, len(completion.token_ids)) == (
            "length",
            5,
            5,
        )
        server.plan(Plan(finish="content_filter"))
        [completion] = run(generator(server.url), requests(1)).values()
        assert completion.finish_reason == "length"


def test_completions_carry_the_name_that_was_given() -> None:
    with serving() as server:
        [completion] = run(generator(server.url, name="step 40"), requests(1)).values()
    assert completion.model == "step 40"


@pytest.mark.parametrize("tells_ids", [True, False])
def test_reasoning_that_is_split_off_stays_in_the_response(tells_ids: bool) -> None:
    with serving(Plan(reasoning="1 + 1", content="2", tells_ids=tells_ids)) as server:
        [completion] = run(generator(server.url), requests(1)).values()
        assert completion.text == "<think>1 + 1</think>2"
        server.plan(Plan(reasoning="1 + 1", finish="length", tells_ids=tells_ids))
        [completion] = run(generator(server.url), requests(1)).values()
        assert completion.text == "<think>1 + 1"


# ---- the context ---------------------------------------------------------------------------------


def test_a_prompt_that_fills_the_context_is_not_sent() -> None:
    length = len(chat_ids(tokenizer(), user(text(0))))
    with serving() as server:
        for context, reason in ((length, "prompt_too_long"), (length + 1, "length")):
            [completion] = run(generator(server.url, context_length=context), requests(1)).values()
            assert completion.finish_reason == reason
            assert completion.prompt_tokens == length
            assert completion.tokens == (reason == "length")
        assert server.ledger()["requests"] == 1
        server.plan(Plan(models={"student": length + 7}))
        run(generator(server.url), requests(1))
        assert server.ledger()["body"]["max_tokens"] == 7
        for unknown in (None, "40", 40.5, 0, [40]):
            server.plan(Plan(models={"student": unknown}))
            run(generator(server.url), requests(1))
            assert server.ledger()["body"]["max_tokens"] == 64


def test_a_prompt_that_the_server_calls_too_long() -> None:
    with serving(Plan(scripts={text(3): ["400_long"]})) as server:
        found = run(generator(server.url), requests(6))
    assert [k for k, c in found.items() if c.finish_reason == "prompt_too_long"] == ["q3#0"]


def test_a_response_that_the_server_calls_too_long_drops_no_prompt() -> None:
    with serving(Plan(models={"student": None}, faults={"400_much": 1.0})) as server:
        said = refused(generator(server.url), requests(6))
    assert "lower generator.max_new_tokens, or model.context_length" in said
    assert "maximum context length is 40 tokens" in said


@pytest.mark.parametrize(
    ("words", "prompt", "response"),
    [
        ("This model's maximum context length is 9 tokens. Please reduce the prompt.", True, False),
        (
            "which exceeds this limit, the context length, even without any output tokens",
            True,
            False,
        ),
        ("Input length (10) exceeds model's maximum context length (9).", True, False),
        ("maximum context length is 9: 4 in the messages, 6 in the completion", False, True),
        ("You requested 64 output tokens. The model's context length is only 40.", False, True),
        ("max_tokens is too large: 64. This model supports at most 40.", False, True),
        ("'max_tokens' is not supported: use 'max_completion_tokens' instead.", False, False),
        ("top_k is too large", False, False),
    ],
)
def test_what_is_too_long_is_told_from_the_words(words: str, prompt: bool, response: bool) -> None:
    assert http.says_too_long(400, words) is prompt
    assert http.says_asked_too_much(400, words) is response
    assert not http.says_too_long(401, words)


@pytest.mark.parametrize("group", ["generator", "evaluator"])
def test_messages_name_the_group_that_the_user_gave(group: str) -> None:
    """Benchmarks may be answered by another generator than elicitation."""
    with serving(Plan(models={"a": 512, "b": 512})) as server:
        choice = "generator" if group == "generator" else "generator@evaluator"
        given = [f"{choice}=openai", f"{group}.base_urls=[{server.url}]"]
        config = compose(given, until="elicit")
        who = getattr(config, group)
        made = clients.generator(config, who, Policy("student", SHIPPED, ""))
        assert isinstance(made, RemoteGenerator)
        assert f"set {group}.model to what it serves" in refused(made, requests(1))
        server.plan(Plan(key="secret"))
        assert f"({group}.key is the environment variable" in refused(made, requests(1))
        server.plan(Plan(models={"student": None}, faults={"400_much": 1.0}))
        assert f"lower {group}.max_new_tokens" in refused(
            generator(server.url, group=group), requests(1)
        )


# ---- the wrong model, the wrong tokens -----------------------------------------------------------


def test_the_wrong_model_is_refused() -> None:
    with serving(Plan(models={"other": 512, "third": 512})) as server:
        said = refused(generator(server.url, model="student"), requests(1))
        assert "serves other, third, not student" in said
        assert "serves other, third: set generator.model" in refused(
            generator(server.url), requests(1)
        )
        assert run(generator(server.url, model="third"), requests(1))["q0#0"].model == "third"
        server.plan(Plan(answers_as="impostor"))
        said = refused(generator(server.url), requests(1))
        assert "answered as the model impostor, not as student" in said


@pytest.mark.parametrize("other", [{"teacher": 512}, {"student": 256}])
def test_servers_that_differ_are_refused(other: dict[str, int | None]) -> None:
    with serving(Plan(latency=0.3)) as one, serving(Plan(models=other)) as two:
        said = refused(generator(one.url, two.url), requests(50))
    assert one.url in said
    assert two.url in said
    assert "start all servers with the same model" in said


@pytest.mark.parametrize("tokenize", [200, 404, 405, 501])
@pytest.mark.parametrize("tells_ids", [True, False])
def test_another_template_is_refused(tokenize: int, tells_ids: bool) -> None:
    plan = Plan(prefix="9", tokenize_status=tokenize, tells_ids=tells_ids)
    ours = len(chat_ids(tokenizer(), user(text(0))))
    with serving(plan) as server:
        said = refused(generator(server.url), requests(1))
        assert server.ledger()["requests"] == (0 if tokenize == 200 else 1)
    assert f"{server.url} reads a prompt as {ours + 1} tokens, here it has {ours}:" in said
    assert "model.thinking" in said


@pytest.mark.parametrize("tokenize", [200, 404, 405, 501])
def test_other_tokens_of_the_same_number_are_refused(tokenize: int) -> None:
    ours = len(chat_ids(tokenizer(), user(text(0))))
    with serving(Plan(swapped=True, tokenize_status=tokenize)) as server:
        said = refused(generator(server.url), requests(1))
    assert f"{ours} tokens, here it has {ours} that differ from token {ours - 2} on" in said


def test_a_server_that_drifts_later_is_noticed() -> None:
    with serving(Plan(latency=0.01)) as server:
        answers = generator(server.url, concurrency=2).generate(requests(400))
        next(answers)
        server.plan(Plan(prefix="9"))
        with pytest.raises(UserError, match="reads a prompt as"):
            list(answers)


# ---- the wrong address, the wrong key ------------------------------------------------------------


def test_mistakes_in_the_target_are_found_at_once() -> None:
    for urls, words in (
        ([], "names|empty"),
        (["localhost:8000"], "not an address"),
        (["http://localhost:80000/v1"], "not an address"),
        (["http://:8000/v1"], "not an address"),
        (["http://me:secret@host/v1"], "must not carry a key"),
        (["http://a/v1", "http://a/v1/"], "twice"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            GeneratorConfig("openai", base_urls=urls)
        assert "secret" not in str(caught.value)


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="set SPOT_TEST_KEY in the environment"):
        generator("http://127.0.0.1:9/v1", key="SPOT_TEST_KEY")
    with pytest.raises(UserError, match="must name an environment variable") as caught:
        generator("http://127.0.0.1:9/v1", key="sk-abc123")
    assert "sk-abc123" not in str(caught.value)
    with serving(Plan(key="right")) as server:
        assert "refuses access" in refused(generator(server.url), requests(1))
        monkeypatch.setenv("SPOT_TEST_KEY", "wr0ng")
        keyed = generator(server.url, key="SPOT_TEST_KEY")
        said = refused(keyed, requests(1))
        assert "SPOT_TEST_KEY" in said
        assert "wr0ng" not in said + repr(vars(keyed)) + "".join(capfd.readouterr())
        monkeypatch.setenv("SPOT_TEST_KEY", "right")
        assert len(run(generator(server.url, key="SPOT_TEST_KEY"), requests(3))) == 3


def test_no_torch_is_needed_to_ask() -> None:
    """A client is small and starts at once."""
    code = "import sys, spot.generation.remote; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
