"""The group `generator` → a generator, its sampling, and what of it decides a response."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spot.config import GeneratorConfig
from spot.generation import vllm_process
from spot.generation.types import Generator, Sampling
from spot.utils.http import read_key
from spot.utils.machine import set_threads

DECIDES = {  # keys besides sampling that can change a response, if only by rounding
    "transformers": ["batch"],
    "vllm": ["dtype", "tensor_parallel", "arguments"],
    "openai": ["model", "extra"],
}


@dataclass(frozen=True)
class InProcess:
    """How a model in this process computes."""

    device: str = "cpu"  # torch's name, as dtype's
    dtype: str = "float32"  # auto: that of the weights
    threads: int | None = None  # of torch; None: its own choice


def settings(config: GeneratorConfig, thinking: bool, here: InProcess) -> dict[str, Any]:
    """What decides a response; how many servers there are, and where, does not."""
    keys = ["kind", "temperature", "top_p", "top_k", "max_new_tokens", *DECIDES[config.kind]]
    values = asdict(config)
    place: dict[str, Any] = {}
    if config.kind == "transformers" and here.device != "cpu":
        place = {"device": here.device}
    elif config.kind == "transformers" and here.dtype != "float32":
        place = {"dtype": here.dtype}
    elif config.kind == "vllm" and config.batch_invariant:
        place = {"batch_invariant": True}
    return {key: values[key] for key in keys} | {"thinking": thinking} | place


def check(config: GeneratorConfig, group: str = "generator") -> None:
    """Refuse, before anything is computed, a generator that could not start later. group: its name."""
    if config.kind == "vllm":
        vllm_process.startable(config, group)
    if config.kind == "openai" and config.key is not None:
        read_key(config.key, option=f"{group}.key", owner="The server")


def sampling(config: GeneratorConfig) -> Sampling:
    return Sampling(config.temperature, config.top_p, config.top_k, config.max_new_tokens)


def generator(
    config: GeneratorConfig,
    folder: Path,
    name: str,
    *,
    thinking: bool,
    here: InProcess,
    logs: Path,
    group: str = "generator",
) -> Generator:
    """What answers for the model in `folder`, which completions call `name`.

    logs: a folder that servers of our own write to; group: whose keys messages name.
    """
    if config.kind == "transformers":
        from spot.generation import transformers

        set_threads(here.threads)
        return transformers.load(
            folder,
            batch_size=config.batch,
            thinking=thinking,
            name=name,
            device=here.device,
            dtype=here.dtype,
        )
    from transformers import AutoConfig

    from spot.generation import vllm
    from spot.generation.folder import check_folder, context_length
    from spot.generation.remote import RemoteGenerator

    longest = context_length(AutoConfig.from_pretrained(folder))
    if config.kind == "openai":
        tokenizer = check_folder(folder)
        return RemoteGenerator(config, tokenizer, longest, thinking=thinking, group=group)
    return vllm.load(
        folder,
        config,
        context_length=longest,
        logs=logs,
        thinking=thinking,
        name=name,
        group=group,
    )
