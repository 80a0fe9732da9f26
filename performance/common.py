"""What the measurements share: models, pairs of given shape, the machine's description, tables."""

from __future__ import annotations

import csv
import json
import platform
import random
import re
import resource
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from spot.training.packing import PairTokens
from spot.training.shapes import Shape, read
from spot.utils.machine import processor

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("torch", "transformers", "trl", "pytorch-lightning", "deepspeed", "liger-kernel")


def build_model(
    kind: str = "qwen3",
    *,
    layers: int = 4,
    hidden: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    intermediate: int = 768,
    vocabulary: int = 32768,
    tied: bool = True,
    scale: float = 0.02,  # standard deviation of the weights
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Any:
    """A causal language model with random weights, in train mode, with SDPA attention."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=40960,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.train()


def lognormal(mean: float, cv: float) -> tuple[float, float]:
    """μ and σ of the lognormal distribution with this mean and coefficient of variation."""
    sigma2 = torch.log(torch.tensor(1 + cv**2)).item()
    return torch.log(torch.tensor(float(mean))).item() - sigma2 / 2, sigma2**0.5


def make_pairs(
    count: int,
    *,
    mean: int = 400,
    cv: float = 0.5,
    shared: float = 0.5,
    prompt: int = 80,
    vocabulary: int = 32768,
    seed: int = 0,
) -> list[PairTokens]:
    """Random pairs whose responses both have L tokens, the first `shared` · L of them alike.

    L is lognormal with this mean and coefficient of variation, at least 4. Ids 0 and 1 (end and
    padding) stay out, but for the end of every response.
    """
    rng = random.Random(f"pairs {seed}")
    spread = lognormal(mean, cv)

    def ids(n: int) -> list[int]:
        return [rng.randrange(4, vocabulary) for _ in range(n)]

    pairs = []
    for i in range(count):
        length = max(4, round(rng.lognormvariate(*spread)))
        same = min(round(shared * length), length - 2)
        prefix, rest = ids(same), length - same - 2
        chosen = [*prefix, 2, *ids(rest), 0]  # the tails differ from their first token on
        rejected = [*prefix, 3, *ids(rest), 0]
        pairs.append(PairTokens(f"pair-{i}", ids(prompt), chosen, rejected))
    return pairs


def conditions() -> dict[str, str]:
    """Machine, date and versions: what a figure means nothing without."""
    found = {
        "date": date.today().isoformat(),
        "machine": _machine(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{processor()}, no GPU"


def peak_memory_gb() -> float:
    """The most memory this process has had resident, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def run_alone(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m <module> <arguments>` in a process of its own; its last line is JSON."""
    import sys

    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of these rows; numbers to the right."""
    columns = list(rows[0])
    right = [isinstance(rows[0][c], int | float) for c in columns]
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---:" if r else "---" for r in right) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def write_results(name: str, rows: Sequence[Mapping[str, Any]], command: str) -> None:
    """results/<name>.csv and .json (with the conditions), and the table in README.md."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    record = {"command": command, "conditions": conditions(), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(show(name))


def show(name: str) -> str:
    """Put a finished measurement between its marks in README.md; returns what stands there."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    said = dict(record["conditions"])
    day, machine = said.pop("date"), said.pop("machine")
    versions = ", ".join(f"{package} {number}" for package, number in said.items())
    text = f"`{record['command']}`, {day}: {machine}; {versions}.\n\n{markdown(record['rows'])}"
    readme = HERE / "README.md"
    marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    new, found = re.subn(
        marks, lambda m: f"{m[1]}{text}\n{m[2]}", readme.read_text(), flags=re.DOTALL
    )
    if not found:
        raise ValueError(
            f"README.md has no place for {name}: add <!-- {name} --> and <!-- /{name} -->"
        )
    readme.write_text(new)
    return text


def config_shape(config: Any) -> Shape:
    """The shape of a model in memory, through its own config.json."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return read(Path(folder) / "config.json")
