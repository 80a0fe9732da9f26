"""Who answers: the group `generator` → a generator, its sampling, and what of it decides a response."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import Config, GeneratorConfig
from spot.pipeline.policy import Policy
from spot.utils.errors import UserError
from spot.utils.http import read_key
from spot.utils.machine import set_threads

if TYPE_CHECKING:
    from spot.generation import Generator, Sampling

DECIDES = {  # keys besides sampling that can change a response, if only by rounding
    "transformers": ["batch"],
    "vllm": ["dtype", "tensor_parallel", "arguments"],
    "openai": ["model", "extra"],
}


def evaluator(config: Config) -> GeneratorConfig:
    """Who answers benchmarks."""
    return config.evaluator or config.generator


def settings(config: Config, who: GeneratorConfig) -> dict[str, Any]:
    """What decides a response; how many servers there are, and where, does not."""
    keys = ["kind", "temperature", "top_p", "top_k", "max_new_tokens", *DECIDES[who.kind]]
    values = asdict(who)
    return {key: values[key] for key in keys} | {"thinking": config.model.thinking}


def check(config: Config) -> None:
    """Refuse, before anything is computed, a generator that could not start later."""
    for group, who in (("generator", config.generator), ("evaluator", evaluator(config))):
        if who.kind == "vllm" and shutil.which(Path(who.executable).expanduser()) is None:
            raise UserError(
                f"{group}.executable={who.executable} is no program: install vLLM in an environment of "
                "its own and give <env>/bin/vllm."
            )
        if who.kind == "openai" and who.key is not None:
            read_key(who.key, option=f"{group}.key", who="The server")


def sampling(who: GeneratorConfig) -> Sampling:
    from spot.generation import Sampling

    return Sampling(who.temperature, who.top_p, who.top_k, who.max_new_tokens)


def generator(config: Config, who: GeneratorConfig, policy: Policy) -> Generator:
    """Whoever `who` describes, answering for `policy`. Servers write to `<output>/servers`."""
    thinking = config.model.thinking
    group = "evaluator" if who is config.evaluator else "generator"  # whose keys messages name
    if who.kind == "transformers":
        from spot.generation import transformers

        set_threads(config.hardware.threads)
        return transformers.load(
            policy.folder, batch_size=who.batch, thinking=thinking, name=policy.name
        )
    from spot.generation import vllm
    from spot.generation.folder import check_folder
    from spot.generation.remote import Pace, RemoteGenerator, Target

    pace = Pace(who.concurrency, who.timeout, who.patience)
    longest = context_length(policy)
    if who.kind == "openai":
        target = Target(who.base_urls, who.model, who.key, who.extra, group)
        return RemoteGenerator(target, pace, check_folder(policy.folder), longest, thinking)
    started = vllm.Settings(
        executable=who.executable,
        servers=who.servers,
        tensor_parallel=who.tensor_parallel,
        gpus=who.gpus,
        port=who.port,
        dtype=who.dtype,
        arguments=who.arguments,
        start_seconds=who.start_seconds,
        group=group,
    )
    logs = Path(config.output) / "servers" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    return vllm.load(
        policy.folder,
        started,
        pace,
        context_length=longest,
        logs=logs,
        thinking=thinking,
        name=policy.name,
    )


def context_length(policy: Policy) -> int:
    """Tokens of prompt and response that the model can hold."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(policy.folder).max_position_embeddings)
