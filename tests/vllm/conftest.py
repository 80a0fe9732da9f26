"""The real vLLM: `make vllm-env` installs it, SPOT_VLLM names another one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
Check = Callable[[object, str], None]


@pytest.fixture
def executable(needs: Check) -> str:
    file = Path(os.environ.get("SPOT_VLLM", ROOT / ".venv-vllm/bin/vllm")).absolute()
    needs(file.exists(), f"vLLM at {file}: make vllm-env, or set SPOT_VLLM")
    return str(file)


@pytest.fixture
def student() -> Path:
    """The shipped student of the laptop world."""
    return ROOT / "src/spot/training/assets/tiny"


@pytest.fixture
def make_model(tmp_path: Path, student: Path) -> Callable[..., Path]:
    """Makes folders of small random Qwen3 models that read and chat as the student does."""

    def make(context_length: int = 512, **shape: Any) -> Path:
        import torch
        from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(student)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            max_position_embeddings=context_length,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{**sizes, **heads, **shape},
        )
        torch.manual_seed(0)
        folder = tmp_path / "random"
        Qwen3ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def left() -> Iterator[Callable[[psutil.Process], list[psutil.Process]]]:
    """`left(owner)`: everything below a process; at the end of the test none of it may run."""
    seen: set[psutil.Process] = set()

    def below(owner: psutil.Process) -> list[psutil.Process]:
        found = owner.children(recursive=True)
        seen.update(found)
        return found

    yield below
    _, alive = psutil.wait_procs(seen, timeout=20)
    assert [process.cmdline() for process in alive] == []
