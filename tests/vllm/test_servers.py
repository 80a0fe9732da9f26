"""Generation with the real vLLM on this machine's processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest

from spot.config import GeneratorConfig
from spot.data import laptop_world
from spot.data.chat import user
from spot.generation import Request, Sampling, transformers
from spot.generation.vllm import Servers, VllmGenerator, load
from spot.utils.errors import UserError

pytestmark = pytest.mark.vllm
GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=256)
SAMPLED = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=200)
EAGER = ["--enforce-eager"]  # no compiling: a start takes half a minute
Below = Callable[[psutil.Process], list[psutil.Process]]


def asked(count: int, sampling: Sampling) -> list[Request]:
    questions = laptop_world.questions(count, 0)
    return [Request(q.id, 0, user(q.text), sampling, seed=i) for i, q in enumerate(questions)]


def other_template(tokenizer: Any) -> Any:
    """The tokenizer with another role for the one who answers."""
    other = deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("assistant", "user")
    return other


def vllm(executable: str, **given: Any) -> GeneratorConfig:
    given = {"dtype": "float32", "arguments": EAGER} | given
    return GeneratorConfig("vllm", executable=executable, **given)


def test_greedy_answers_are_those_of_transformers(
    executable: str, student: Path, tmp_path: Path
) -> None:
    """Token for token, in fp32, from two copies behind one server: the same responses and counts."""
    requests = asked(300, GREEDY)
    config = vllm(executable, data_parallel=2)
    theirs = load(student, config, context_length=256, logs=tmp_path / "logs", name="tiny")
    try:
        answers = {answer.key: answer for answer in theirs.generate(requests)}
        misled = VllmGenerator(theirs.servers, other_template(theirs.tokenizer), name="tiny")
        with pytest.raises(UserError, match="reads a prompt as"):
            list(misled.generate(requests[:1]))
    finally:
        theirs.close()
    ours = transformers.load(student, name="tiny")
    assert answers == {answer.key: answer for answer in ours.generate(requests)}


def test_all_answers_come_whatever_dies_meanwhile(
    executable: str, make_model: Callable[..., Path], tmp_path: Path, left: Below
) -> None:
    """500 requests; the engine is killed after 100 answers, the whole server's front after 300."""
    requests = asked(500, SAMPLED)
    config = vllm(executable, concurrency=32)
    generator = load(make_model(), config, context_length=512, logs=tmp_path / "logs")
    victims = {100: "EngineCore", 300: " serve "}
    answers = []
    try:
        for answer in generator.generate(requests):
            answers.append(answer)
            if len(answers) in victims:
                victim = victims[len(answers)]
                next(p for p in below_guards(left) if victim in " ".join(p.cmdline())).kill()
    finally:
        generator.close()
    assert sorted(answer.key for answer in answers) == sorted(request.key for request in requests)
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    assert all(len(answer.token_ids) == answer.tokens <= 200 for answer in answers)
    assert psutil.Process().children(recursive=True) == []


def test_many_prompts_at_once_do_not_end_the_engine(
    executable: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More tokens than the engine reads in a step, each prompt with a seed; prompts are not cut up."""
    requests = asked(1000, SAMPLED)
    config = vllm(executable, concurrency=512)
    generator = load(student, config, context_length=256, logs=tmp_path)
    try:
        assert len(list(generator.generate(requests))) == 1000
    finally:
        generator.close()
    assert "starting it again" not in capsys.readouterr().err


def below_guards(left: Below) -> list[psutil.Process]:
    """The processes of vLLM that this process has started."""
    me = psutil.Process()
    guards = me.children()
    return [process for process in left(me) if process not in guards]


@pytest.mark.parametrize("healthy", [True, False], ids=["running", "starting"])
def test_a_killed_owner_leaves_no_server(
    executable: str, student: Path, tmp_path: Path, left: Below, healthy: bool
) -> None:
    program = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from spot.config import GeneratorConfig
        from spot.generation.vllm import Servers
        config = GeneratorConfig("vllm", executable={executable!r}, arguments={EAGER!r})
        with Servers(Path({str(student)!r}), "tiny", 256, config, Path({str(tmp_path)!r})):
            print("healthy", flush=True)
            time.sleep(600)
    """)
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    if healthy:
        assert owner.stdout.readline() == b"healthy\n"
    else:
        deadline = time.monotonic() + 120
        while not any(
            "EngineCore" in " ".join(p.cmdline()) for p in left(psutil.Process(owner.pid))
        ):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    started = left(psutil.Process(owner.pid))
    assert len(started) >= 3
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def test_a_context_that_does_not_fit_into_memory(
    executable: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """128 KiB a token: a context of 32,768 needs 4 GiB, and there is 1."""
    shape = {"num_hidden_layers": 16, "num_key_value_heads": 8, "num_attention_heads": 8}
    folder = make_model(32768, **shape, head_dim=128)
    with pytest.raises(UserError) as raised:
        Servers(folder, "random", 32768, vllm(executable), tmp_path).start()
    first = str(raised.value).splitlines()[0]
    assert "ended with exit code 1 before it was ready" in first
    assert "The first error: ValueError" in first
    assert "KV cache" in first
    assert psutil.Process().children(recursive=True) == []


def test_an_unknown_argument(executable: str, student: Path, tmp_path: Path) -> None:
    config = vllm(executable, arguments=["--no-such-option"])
    with pytest.raises(UserError, match="ended with exit code 2 before it was ready") as raised:
        Servers(student, "tiny", 256, config, tmp_path).start()
    assert "unrecognized arguments: --no-such-option" in str(raised.value)
