"""How long this process samples on a processor, at least: from the configuration alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from spot.config import Config, ModelConfig
from spot.evaluation import benchmarks
from spot.pipeline import clients
from spot.pipeline.plan.work import attempts
from spot.training.shapes import shape_of
from spot.utils.errors import UserError
from spot.utils.machine import cores

PER_CORE = 5e10  # FLOP a second in fp32: half the peak of a core with AVX2 at 3 GHz
MOST_HOURS = 1.0
UNKNOWN = 500  # questions of data that are not here, of which there are thousands as a rule
FEWEST = 30  # questions of a benchmark whose file is not here: AIME's
IN_PROCESS = "transformers"


def in_process(config: Config, until: str | None) -> Iterator[tuple[str, float, float]]:
    """What this process samples up to the stage `until`: the group that says so, responses, tokens of each."""
    longest = min(config.plan.response_tokens, config.model.context_length)
    generator, evaluator = config.generator, clients.evaluator(config)
    elicits = until != "evaluate" or benchmarks.asks_held_out(config.benchmarks.tasks)
    if elicits and generator.kind == IN_PROCESS and config.data.fields.response is None:
        asked = config.rounds * (attempts(config) or UNKNOWN)
        yield "generator", asked, min(longest, generator.max_new_tokens)
    if until in (None, "evaluate") and evaluator.kind == IN_PROCESS:
        group = "generator" if config.evaluator is None else "generator@evaluator"
        models = 2 if until is None else 1  # before and after
        for task in config.benchmarks.tasks.values():
            most = min(longest, evaluator.max_new_tokens, task.max_new_tokens or longest)
            yield group, models * (task.questions or FEWEST) * task.trials, most


def check(config: Config, until: str | None) -> None:
    """Refuse what would sample for more than an hour on a processor, however fast that is.

    A model whose size is not known here, as of a hub id that was never fetched, passes. Raises UserError.
    """
    size = parameters(config.model)
    if config.hardware.accelerator == "gpu" or size is None:
        return
    work = list(in_process(config, until))
    tokens = sum(count * each for _, count, each in work)
    hours = 2 * size * tokens / (PER_CORE * (config.hardware.threads or cores())) / 3600
    if hours > MOST_HOURS:
        group = max(work, key=lambda part: part[1] * part[2])[0]
        raise UserError(
            f"{group}=transformers would sample {sum(count for _, count, _ in work):,.0f} responses of "
            f"{size / 1e9:.2g} billion parameters for {hours:,.0f} hours or longer on this processor "
            f"(plan.response_tokens={config.plan.response_tokens}): choose {group}=vllm or openai, or a "
            "hardware with a GPU."
        )


def parameters(model: ModelConfig) -> float | None:
    """How many a model has: by its shape, else by the size of its weights; None where neither is here."""
    with suppress(UserError):  # said later, by who needs the shape
        return shape_of(model).parameters
    folder = Path(model.path or "").expanduser()
    config = folder / "config.json"
    if model.path is None or not config.is_file():
        return None
    with suppress(ValueError):
        told = json.loads(config.read_text(encoding="utf-8"))
        wide = "float32" in (told.get("dtype"), told.get("torch_dtype"))
        sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
        return sum(sizes) / (4 if wide else 2)
    return None
