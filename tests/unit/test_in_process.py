"""`generator=transformers`: where it samples, and what it would take too long for."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spot.config.compose import compose, cpu_precision
from spot.generation.transformers import TransformersGenerator
from spot.pipeline import clients
from spot.pipeline.plan import sampling
from spot.pipeline.policy import SHIPPED, Policy
from spot.training.shapes import KNOWN
from spot.utils.errors import UserError

QWEN = KNOWN["Qwen/Qwen3-8B"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_on_gpus_samples_on_one() -> None:
    config, student = compose(["hardware=1xgpu"]), Policy("tiny", SHIPPED, "")
    with pytest.raises(UserError, match="cannot be put on the GPU"):
        clients.generator(config, config.generator, student)
    names = clients.generation(config, config.generator)
    assert names == clients.generation(compose([]), config.generator) | {"device": "cuda"}
    with_servers = compose(["hardware=1xgpu", "generator=vllm"]).generator
    assert "device" not in clients.generation(config, with_servers)


def test_a_processor_samples_in_the_precision_it_trains_in() -> None:
    config = compose(["hardware.precision=bf16"])
    with closing(clients.generator(config, config.generator, Policy("tiny", SHIPPED, ""))) as made:
        assert isinstance(made, TransformersGenerator)
        assert made.model.dtype == torch.bfloat16
    names = clients.generation(config, config.generator)
    assert names == clients.generation(compose([]), config.generator) | {"dtype": "bfloat16"}


def test_bf16_where_a_processor_has_matrix_units_for_it(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n")
    assert cpu_precision(str(listed)) == "bf16"
    listed.write_text("flags\t\t: fpu avx512f avx512_bf16\n")
    assert cpu_precision(str(listed)) == "fp32"
    assert cpu_precision(str(tmp_path / "another system")) == "fp32"
    assert compose(["hardware=cpu_auto"]).hardware.precision == cpu_precision()


def hours(until: str | None, *overrides: str) -> float:
    """What sampling on one core would take, where it is refused."""
    config = compose(["model=qwen3_8b", "hardware.threads=1", *overrides])
    with pytest.raises(UserError) as refused:
        sampling.check(config, until)
    return float(str(refused.value).partition(" hours")[0].rpartition(" ")[2].replace(",", ""))


def test_hours_of_sampling_on_a_processor() -> None:
    """By hand: 2 FLOP a parameter and token at 5e10 a second."""
    each = 2 * QWEN.parameters / 5e10 / 3600  # hours for a token
    asked = ["data.questions=300", "data.samples=2"]
    assert hours("elicit", *asked) == round(600 * 1800 * each)
    assert hours("elicit", *asked, "generator.max_new_tokens=500") == round(600 * 500 * each)
    assert hours("elicit", *asked, "rounds=2") == round(1200 * 1800 * each)
    laptop = 3 * 300 * 2  # questions, twice each
    assert hours("evaluate", *asked) == round(laptop * 1800 * each)
    assert hours(None, *asked) == round((600 + 2 * laptop) * 1800 * each)
    for passes in (["data.questions=5"], ["hardware=1xgpu"], ["generator=vllm"], ["model=tiny"]):
        sampling.check(compose(["model=qwen3_8b", *asked, *passes]), "elicit")


def test_a_model_of_another_kind_is_as_large_as_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gemma3_text", "torch_dtype": "bfloat16"}'
    )
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2 * 10**9)
    model = compose([f"model.path={tmp_path}"]).model
    assert sampling.parameters(model) == 1e9
    assert sampling.parameters(replace(model, path="nobody/knows-this")) is None
