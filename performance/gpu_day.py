"""All that is to be measured on one GPU, in ten minutes: `python -m performance.gpu_day`.

Parts, each in a process of its own with a time budget; one that fails says why and the next begins:

- kernels: every kernel of attention, log-probs and fused layers against its oracle, at Qwen3-8B's widths.
- exactness: packs in bf16 beside separate sequences, both against fp64 on the same rounded weights.
- rates: what this GPU reaches in products, attention, elementwise work and on its disk, beside what
  `performance.gpu_trace` assumes.
- step: `performance.gpu_step`, padded batches as preference trainers make them beside our packs.
- prediction: what the trace says of the same arms, at assumed and at measured rates.
- run: the laptop world through the pipeline, killed in training, resumed and measured.

It needs torch, transformers, psutil and numpy, and PYTHONPATH=src where the package is not installed; the
last part needs an installed `spot`. Results go to results/gpu_day.json as each part ends, or to `--out`.
`--small` does the same with toys on the CPU and writes nothing unless `--out` says where.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from performance import common, equivalence, gpu_step, gpu_trace, operations
from spot.config import HardwareConfig
from spot.training import attention, logprobs
from spot.training.bin_packing import Cost, Lengths
from spot.training.forward import Kernels
from spot.training.kernel_checks import check_fused, check_logprobs
from spot.training.packing import PackingSettings, step_packs
from spot.utils.errors import UserError, first_line

MODULE = "performance.gpu_day"
ROOT = Path(__file__).parents[1]
BUDGETS = {  # seconds
    "kernels": 60, "exactness": 60, "rates": 40, "step": 200, "prediction": 80, "run": 140,
}  # fmt: skip
PATIENCE = 10  # with a CPU
H200 = replace(gpu_trace.Rates(), memory=3.7e12)  # an H100's but for its memory: 4.8 TB/s, not 3.35
EXACT = {"layers": 2, "hidden": 512, "heads": 4, "kv_heads": 2, "head_dim": 128, "intermediate": 1024,
         "vocabulary": equivalence.VOCABULARY, "scale": 0.1}  # fmt: skip
SMALL_RUN = [
    *("data.questions=400", "data.pairs=100", "data.held_out=8", "benchmarks=quick"),
    *("loss.epochs=2", "loss.batch_pairs=8", "save.every=2", "probe.ability_every=0"),
    *("generator.batch=200", "generator.max_new_tokens=96", "logger=none"),
]  # fmt: skip
FUSED, EXACT_HERE = "fused=liger", "within its bounds"
Report = dict[str, Any]


def kernels(options: argparse.Namespace, _: Report) -> list[dict[str, Any]]:
    """Whether each kernel runs here, and how far it is from its oracle."""
    shape = _shape(options) | {"layers": 1, "vocabulary": 1000}
    dtype = _dtype(options)
    model = common.build_model(**shape, dtype=dtype, device=options.device)
    found = gpu_step.self_check(model).items()
    rows = [{"kernel": f"attention={name}", "found": said} for name, said in found]
    width = shape["hidden"]
    checks: dict[str, Callable[[], Any]] = {
        f"logprobs={name}": partial(check_logprobs, name, width, dtype, options.device)
        for name in logprobs.KERNELS
    }
    checks[FUSED] = partial(check_fused, model.config, dtype, options.device)
    for name, check in checks.items():
        try:
            check()
            rows.append({"kernel": name, "found": EXACT_HERE})
        except UserError as error:
            rows.append({"kernel": name, "found": str(error)})
    return rows


def exactness(options: argparse.Namespace, report: Report) -> list[dict[str, Any]]:
    """Differences to separate sequences, and of both to fp64, the worst of all prefixes."""
    rows = [
        row
        for prefix in equivalence.PREFIXES
        for row in equivalence.compare(
            "qwen3", torch.bfloat16, prefix, 4 if options.small else 16,
            size=EXACT, device=options.device, kernels=Kernels(_attention(report), fused=_fused(report)),
        )
    ]  # fmt: skip
    return equivalence.summary(rows)


def rates(options: argparse.Namespace, report: Report) -> list[dict[str, Any]]:
    """What is reached here, beside the assumptions of the trace."""
    device, dtype = options.device, _dtype(options)
    clock = partial(gpu_step.clock, device)
    numbers = 2**20 if options.small else 2**30
    x, y = (torch.ones(numbers, device=device, dtype=dtype) for _ in range(2))
    moved = 3 * x.element_size() * numbers
    found = {
        "matmul": gpu_step.peak_flops(device, dtype),
        "memory": moved / min(clock(lambda: torch.add(x, y, out=x)) for _ in range(10)),
        **_attention_rates(options, _attention(report)),
        "disk": _disk(2**24 if options.small else 2**32),
    }
    assumed = asdict(H200)
    return [{"rate": k, "measured": v, "assumed for an H200": assumed[k]} for k, v in found.items()]


def _attention_rates(options: argparse.Namespace, name: str) -> dict[str, float]:
    """FLOP/s of attention's two passes over rows of Qwen3-8B's heads with half of the responses shared."""
    heads, kv_heads, d = (_shape(options)[k] for k in ("heads", "kv_heads", "head_dim"))
    rows = [(30, 20, 20)] * 4 if options.small else [(1050, 900, 900)] * 5
    dtype, device = _dtype(options), options.device
    q, k, v = (
        torch.randn(
            sum(map(sum, rows)), n, d, device=device, dtype=dtype, requires_grad=True
        )
        for n in (heads, kv_heads, kv_heads)
    )  # fmt: skip
    kernel, scores = attention.KERNELS[name], attention.Scores(d**-0.5)
    layout = kernel.layout(rows, dtype, device)
    flops = sum(Cost(0.0, seen=4.0 * heads * d).row(*row, 0) for row in rows)
    attend: Callable[[], Any] = lambda: kernel.attend(q, k, v, layout, scores)  # noqa: E731
    forward = min(gpu_step.clock(device, attend) for _ in range(5))
    both = min(gpu_step.clock(device, lambda: attend().sum().backward()) for _ in range(5))
    return {"attention": flops / forward, "attention_backward": 2.5 * flops / (both - forward)}


def _disk(size: int) -> float:
    """Bytes a second of a file that is written whole and synced."""
    block = os.urandom(2**22)
    with tempfile.TemporaryFile() as file:
        begin = time.perf_counter()
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - begin)


def step(options: argparse.Namespace, report: Report) -> dict[str, Any]:
    """The arms of `gpu_step`, with the first attention kernel that is exact here."""
    arguments = ["--attention", _attention(report), "--device", options.device]
    return gpu_step.main([*arguments, *(["--small"] if options.small else [])])


def prediction(options: argparse.Namespace, report: Report) -> list[dict[str, Any]]:
    """Seconds of every arm that was timed, as the trace has them."""
    done = report["parts"]["step"]["result"]
    given = argparse.Namespace(**done["options"])
    traced = _shape(options) | {"kind": "qwen3", "tied": False}
    moved = {way: operations.moved_by(traced, way)[0] for way in ("padded", "packed", "fused")}
    pairs = common.make_pairs(
        given.pairs, vocabulary=given.vocabulary, **{k: getattr(given, k) for k in gpu_step.LENGTHS}
    )
    work = gpu_trace.Work(
        operations.shape_of(traced), [p.lengths for p in pairs], HardwareConfig(), H200,
        given.pairs, 1, given.micro, 0,
    )  # fmt: skip
    rows = []
    for row in done["rows"]:
        asked = _asked(work, row, pairs, given, moved)
        rows.append({"arm": row["arm"], "measured s": row["seconds"]})
        for name, used in {"assumed": H200, "measured": _measured(report)}.items():
            rows[-1][f"predicted s, {name} rates"] = used and sum(a.seconds(used) for a in asked)
    return rows


def _asked(
    work: gpu_trace.Work, row: dict[str, Any], pairs: Sequence[Any], given: argparse.Namespace,
    moved: dict[str, operations.Moved],
) -> list[gpu_trace.Asked]:  # fmt: skip
    """What each forward and backward pass of an arm asks of the GPU."""
    if row["arm"] == "padded":
        groups = [work.lengths[i : i + given.micro] for i in range(0, len(pairs), given.micro)]
        return [work.padded(group, moved["padded"]) for group in groups]
    apart = "nothing shared" in row["arm"]
    settings = PackingSettings(
        given.budget, share_prefix=not apart, cost=work.shape.cost, parts=False
    )
    by_id = {pair.id: pair.lengths for pair in pairs}
    asked = []
    for pack in step_packs(pairs, settings):
        lengths = [by_id[i] for i in pack.ids]
        if apart:  # two rows are two pairs without a y⁻
            lengths = [Lengths(p.prompt, n) for p in lengths for n in (p.chosen, p.rejected)]
        way = "fused" if "fused" in row["arm"] else "packed"
        asked.append(work.packed(lengths, moved[way], row["checkpointed layers"]))
    return asked


def _measured(report: Report) -> gpu_trace.Rates | None:
    """The rates of this GPU; None where they were not measured."""
    rows = report["parts"].get("rates", {}).get("result")
    return rows and replace(H200, **{row["rate"]: row["measured"] for row in rows})


def run(options: argparse.Namespace, _: Report) -> dict[str, Any]:
    """A run of the pipeline that is killed after its first resumable state, and the same command again."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        hardware = "cpu" if options.device == "cpu" else "1xgpu"
        command = [
            sys.executable,
            "train.py",
            f"hardware={hardware}",
            f"output={where}",
            *SMALL_RUN,
        ]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT)
        while not list(where.glob("products/train/*/resume/step_*/digests.json")):
            if process.poll() is not None:
                raise RuntimeError(
                    f"the run ended with {process.returncode} before a state was kept"
                )
            time.sleep(0.1)
        process.kill()
        process.wait()
        killed = time.perf_counter() - begin
        subprocess.run(command, cwd=ROOT, check=True)
        return {"seconds until killed": killed, **_outcome(where)}


def _outcome(where: Path) -> dict[str, Any]:
    """Where training went on, whether every step is there once, and the scores."""
    (made,) = where.glob("products/train/*/manifest.json")
    details = json.loads(made.read_text())["details"]
    with (made.parent / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    (scores,) = where.glob("runs/*/*/scores.csv")
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    kept = ("steps", "resumed_at", "seconds", "kernels", "kernel_error", "model_error")
    return {
        **{key: details[key] for key in kept},
        "every step once": steps == list(range(details["steps"] + 1)),
        "scores": rows,
    }


PARTS: dict[str, Callable[[argparse.Namespace, Report], Any]] = {
    "kernels": kernels, "exactness": exactness, "rates": rates, "step": step,
    "prediction": prediction, "run": run,
}  # fmt: skip


def _shape(options: argparse.Namespace) -> dict[str, Any]:
    return {
        name: small if options.small else full for name, (full, small) in gpu_step.SHAPE.items()
    }


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return torch.float32 if options.small else torch.bfloat16


def _attention(report: Report) -> str:
    """The first kernel that is exact here: a GPU's own before sdpa."""
    checks = report["parts"].get("kernels", {}).get("result", [])
    exact = {row["kernel"] for row in checks if isinstance(row["found"], float)}
    return next((k for k in ("varlen", "flash") if f"attention={k}" in exact), "sdpa")


def _fused(report: Report) -> str:
    checks = report["parts"].get("kernels", {}).get("result", [])
    return "liger" if {"kernel": FUSED, "found": EXACT_HERE} in checks else "none"


def measure(name: str, options: argparse.Namespace, report: Report) -> None:
    """Do one part here and print its result, or what went wrong, as the last line."""
    try:
        found = {"result": PARTS[name](options, report)}
    except (Exception, SystemExit) as error:
        found = {"error": f"{type(error).__name__}: {first_line(error)}"}
    Path(options.out).write_text(json.dumps(found))


def alone(name: str, options: argparse.Namespace, report: Report) -> dict[str, Any]:
    """The part's result or error, and its seconds; in a process of its own that ends with its budget."""
    begin = time.perf_counter()
    budget = BUDGETS[name] * (PATIENCE if options.small else 1)
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "report.json", Path(folder) / "part.json"
        given.write_text(json.dumps(report))
        command = [sys.executable, "-m", MODULE, "--part", name, "--out", str(out)]
        command += ["--report", str(given), *(["--small"] if options.small else [])]
        paths = [str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(":")]
        room = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        environment = {**room, **os.environ, "PYTHONPATH": ":".join(filter(None, paths))}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            found = {"error": f"it ended with {process.wait(budget)}"}
            if out.exists():
                found = json.loads(out.read_text())
        except subprocess.TimeoutExpired:
            found = {"error": f"stopped after {budget:g} s"}
        finally:  # with what it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"seconds": time.perf_counter() - begin, **found}


def show(name: str, part: dict[str, Any]) -> str:
    """A part as a table, or its error."""
    title = f"\n## {name}, {part['seconds']:.0f} s\n"
    if "error" in part:
        return f"{title}FAILED: {part['error']}"
    result = part["result"]
    rows = result["rows"] if name == "step" else result
    if name == "run":
        rows = [{k: str(v) for k, v in result.items() if k != "scores"}]
    return f"{title}{common.markdown(rows)}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--small", action="store_true", help="toys, on the CPU")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", help="the JSON; default: results/gpu_day.json, --small: none")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.device = "cpu" if options.small else "cuda"
    return options


def main(arguments: Sequence[str] | None = None) -> Report:
    """All parts, one after the other; returns the report."""
    options = parse(arguments)
    if options.part:
        measure(options.part, options, json.loads(options.report.read_text()))
        return {}
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here: --small runs toys on the CPU.")
    out = options.out or (None if options.small else common.RESULTS / "gpu_day.json")
    report: Report = {"device": options.device, "conditions": common.conditions(), "parts": {}}
    for name in options.only:
        report["parts"][name] = alone(name, options, report)
        print(show(name, report["parts"][name]), flush=True)
        if out:
            Path(out).write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
