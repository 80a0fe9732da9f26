"""Our packed training step beside TRL's `DPOTrainer` on the same batches: time and memory.

Both train the same random Qwen3 in fp32 from the same weights on the same pairs in the same steps,
with the same fused AdamW, clipping and loss, −log σ(r⁺) − log σ(−r⁻): our `bce`, TRL's `bco_pair`.
Reference log-probs are computed beforehand and not timed; packing and collation are timed.

Each contender has a process of its own, ours before and after TRL (`--turns 1`: before it only), which
runs once because its steps are the long ones. Times are medians over the timed steps. A cell (shared fraction × spread of lengths)
passes a gate before it counts: TRL's model received exactly our token ids, and loss and gradient norm
of the first step differ by less than 1e-5, or the script ends and says by how much.

What TRL 1.16 offers for speed and memory, and what it gets here:
- chunked log-probs: always on, in tiles of 4096 tokens × 32768 words: constants of a module, no
  options. They are made for GPUs. `--tile 64` changes the constant, which no user can by a setting: of
  16 to 4096 tokens it is the best on 2 cores. On a CPU TRL also scores prompts and padding: no option.
- `precompute_ref_log_probs`: on. `max_length`: none. `bf16`, `gradient_checkpointing`: off (both are
  on by default). `pad_to_multiple_of`: none, the default on a CPU; it only adds.
- `train_sampling_strategy`: `sequential`, each step's pairs sorted by length, which pads little;
  `group_by_length` would mix the steps.
- micro-batches of two pairs; `--micro 1` pads nothing, `--micro 4` is slower and takes more memory.
- `padding_free` only warns; Liger and Hub kernels and `activation_offloading` are for GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from performance import common
from spot.training import attention
from spot.training.forward import pack_logprobs
from spot.training.losses import bce
from spot.training.packing import PackingSettings, PairTokens, step_packs

BETA, CLIP = 0.1, 1.0
TOKEN_BUDGET = 2048  # of our packs; a longer pair raises it to its own length
TOLERANCE = 1e-5  # of the gate, relative
PARTIAL = common.RESULTS / "vs_trl.partial.jsonl"  # cells already measured
MODULE = "performance.vs_trl"
COUNTS = {  # options of a cell
    "steps": (5, "timed steps"),
    "warmup": (3, "steps before them"),
    "mean": (400, "tokens of a response"),
    "pairs": (8, "pairs of a step"),
    "micro": (2, "pairs of TRL's micro-batches"),
    "layers": (4, "of the model"),
    "hidden": (256, "its width"),
    "vocabulary": (32768, "its words"),
    "turns": (2, "times that ours is measured"),
    "tile": (4096, "tokens of TRL's log-prob tiles; 4096 is TRL as shipped"),
}
Cell = argparse.Namespace  # the options, with one shared fraction and one spread


@dataclass
class Run:
    """What one contender measured over its steps."""

    seconds: list[float] = field(default_factory=list)  # of every step, warm-up included
    losses: list[float] = field(default_factory=list)  # of every step
    gradient_norms: list[float] = field(default_factory=list)  # before clipping
    resident_gb: float = 0.0  # before the first step
    peak_gb: float = 0.0  # of the process
    padding: float = 1.0  # tokens in the batches / real tokens


def resident_gb() -> float:
    """Memory this process has resident now, in GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def make_steps(cell: Cell) -> list[list[PairTokens]]:
    """The pairs of every step, sorted by length within it."""
    count = cell.warmup + cell.steps
    shape = {name: getattr(cell, name) for name in ("mean", "cv", "shared", "vocabulary")}
    pairs = common.make_pairs(count * cell.pairs, **shape)
    parts = [pairs[k * cell.pairs : (k + 1) * cell.pairs] for k in range(count)]
    return [sorted(part, key=lambda pair: pair.longest) for part in parts]


def start(cell: Cell) -> tuple[Any, torch.optim.Optimizer]:
    """The model both begin with, and the optimiser both use."""
    model = common.build_model(layers=cell.layers, hidden=cell.hidden, vocabulary=cell.vocabulary)
    how = {"lr": 1e-6, "betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}
    return model, torch.optim.AdamW(model.parameters(), **how)


def run_ours(steps: Sequence[Sequence[PairTokens]], cell: Cell) -> Run:
    """Packed steps over the pairs, shared prefixes computed once."""
    model, optimizer = start(cell)
    sharing = PackingSettings(share_prefix=True)
    longest = max(pair.tokens(sharing) for step in steps for pair in step)
    settings = replace(sharing, token_budget=max(TOKEN_BUDGET, longest))
    with attention.packed(model):
        with torch.no_grad():
            packs = [step_packs(step, settings) for step in steps]
            references = [[pack_logprobs(model, pack) for pack in step] for step in packs]
        run = Run(resident_gb=resident_gb())
        for step, reference in zip(steps, references, strict=True):
            begin, loss = time.perf_counter(), 0.0
            for pack, before in zip(step_packs(step, settings), reference, strict=True):
                chosen, rejected = pack.slot_sums(pack_logprobs(model, pack) - before)
                share = bce(BETA * chosen, BETA * rejected)[0].sum() / len(step)
                share.backward()
                loss += share.item()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            run.seconds.append(time.perf_counter() - begin)
            run.losses.append(loss)
            run.gradient_norms.append(norm.item())
    run.peak_gb = common.peak_memory_gb()
    return run


def id_tokenizer(vocabulary: int) -> Any:
    """A tokenizer that reads the text "<17> <4>" as the ids 17 and 4 and adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(vocabulary)}))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<0>", pad_token="<1>")


def run_trl(steps: Sequence[Sequence[PairTokens]], cell: Cell) -> Run:
    """TRL's trainer over the same pairs; raises where its token ids are not ours."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # read when they are imported
    import datasets
    import trl
    from transformers import TrainerCallback
    from trl.kernels import chunked_logprob

    chunked_logprob.TOKEN_CHUNK_SIZE = cell.tile
    datasets.disable_progress_bars()
    run, received = Run(), []

    class Trainer(trl.DPOTrainer):  # keeps the micro-batches that the model is given
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            received.append(inputs)
            return super().training_step(model, inputs, *rest)

    class Clock(TrainerCallback):  # from step end to step end, so that collation counts
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            run.resident_gb, self.last = resident_gb(), time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            run.seconds.append(now - self.last)
            self.last = now

    pairs = [pair for step in steps for pair in step]
    texts = {
        name: ["".join(f" <{i}>" for i in getattr(pair, name)) for pair in pairs]
        for name in ("prompt", "chosen", "rejected")
    }
    model, optimizer = start(cell)
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.DPOConfig(
            folder,
            loss_type="bco_pair",
            beta=BETA,
            precompute_ref_log_probs=True,
            max_length=None,
            per_device_train_batch_size=cell.micro,
            gradient_accumulation_steps=cell.pairs // cell.micro,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            args=settings,
            train_dataset=datasets.Dataset.from_dict(texts),
            processing_class=id_tokenizer(cell.vocabulary),
            callbacks=[Clock()],
            optimizers=(optimizer, None),
        )
        trainer.train()
    run.peak_gb = common.peak_memory_gb()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    run.losses = [entry["loss"] for entry in logged]
    run.gradient_norms = [entry["grad_norm"] for entry in logged]
    check_ids(received, pairs, cell.micro)
    real = sum(int(batch["attention_mask"].sum()) for batch in received)
    run.padding = sum(batch["input_ids"].numel() for batch in received) / real
    return run


def check_ids(received: Sequence[Any], pairs: Sequence[PairTokens], micro: int) -> None:
    """Raise unless the micro-batches hold the prompts and responses of the pairs, in their order."""
    for k, batch in enumerate(received):
        part = pairs[k * micro : (k + 1) * micro]
        wanted = [(p.prompt, p.chosen) for p in part] + [(p.prompt, p.rejected) for p in part]
        masks = batch["input_ids"], batch["attention_mask"] > 0, batch["completion_mask"] > 0
        for (prompt, response), ids, real, answer in zip(wanted, *masks, strict=True):
            seen = ids[real & ~answer].tolist(), ids[answer].tolist()
            if seen != (prompt.tolist(), response.tolist()):
                raise ValueError(f"TRL does not see our token ids in micro-batch {k}")


def apart(a: float, b: float) -> float:
    """Relative difference."""
    return abs(a - b) / abs(b)


def check_gate(ours: Run, trl: Run, where: str) -> None:
    """End the script unless both computed the same first step."""
    for name in ("losses", "gradient_norms"):
        off = apart(getattr(ours, name)[0], getattr(trl, name)[0])
        if not off <= TOLERANCE:
            raise SystemExit(f"{name} of the first step differ by {off:.2g}: {where}")


def measure(cell: Cell, arguments: Sequence[str]) -> dict[str, Any]:
    """One cell: ours, TRL, ours, and the gate."""
    turns = ["ours", "trl", *["ours"] * (cell.turns - 1)]
    first, trl, *others = (
        Run(**common.run_alone(MODULE, "--worker", who, *arguments)) for who in turns
    )
    for ours in (first, *others):
        check_gate(ours, trl, " ".join(arguments))
    return make_row(cell, [first, *others], trl)


def make_row(cell: Cell, ours: Sequence[Run], trl: Run) -> dict[str, Any]:
    """The figures of a cell: medians over the timed steps, the largest peaks."""
    whole, timed = PackingSettings(), make_steps(cell)[cell.warmup :]
    tokens = [sum(pair.unshared_tokens(whole) for pair in step) for step in timed]

    def speed(*runs: Run) -> tuple[float, float]:
        """Seconds a step and real tokens a second."""
        found = [x for r in runs for x in zip(r.seconds[cell.warmup :], tokens, strict=True)]
        return median(s for s, _ in found), median(n / s for s, n in found)

    (our_seconds, our_rate), (trl_seconds, trl_rate) = speed(*ours), speed(trl)
    our_peak = max(run.peak_gb for run in ours)
    return {
        "shared": cell.shared,
        "cv": cell.cv,
        "ours s/step": our_seconds,
        "TRL s/step": trl_seconds,
        "speed-up": trl_seconds / our_seconds,
        "ours tokens/s": our_rate,
        "TRL tokens/s": trl_rate,
        "ours peak GB": our_peak,
        "TRL peak GB": trl.peak_gb,
        "memory ratio": trl.peak_gb / our_peak,
        "ours above start GB": max(run.peak_gb - run.resident_gb for run in ours),
        "TRL above start GB": trl.peak_gb - trl.resident_gb,
        "TRL padded/real": trl.padding,
        "first gradient apart": apart(ours[0].gradient_norms[0], trl.gradient_norms[0]),
        "any loss apart": max(map(apart, ours[0].losses, trl.losses)),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--shared", default="0,.3,.5,.7,.9", help="shared fractions")
    parser.add_argument("--cv", default=".5", help="coefficients of variation of the lengths")
    for name, (default, what) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--table", default="vs_trl", help="the table of README.md that it writes")
    parser.add_argument("--no-write", action="store_true", help="only print the table")
    parser.add_argument("--resume", action="store_true", help="keep the cells already measured")
    parser.add_argument("--worker", choices=("ours", "trl"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_cells(options: argparse.Namespace) -> list[Cell]:
    """The grid: every spread with every shared fraction."""
    grid = product(*(map(float, text.split(",")) for text in (options.cv, options.shared)))
    return [Cell(**vars(options) | {"shared": shared, "cv": cv}) for cv, shared in grid]


def run_grid(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every cell of the grid; each is kept on disk as soon as it is measured."""
    if not (options.resume or options.no_write):
        PARTIAL.unlink(missing_ok=True)
    lines = PARTIAL.read_text().splitlines() if options.resume and PARTIAL.exists() else []
    done = {said["cell"]: said["row"] for said in map(json.loads, lines)}
    rows = []
    for cell in make_cells(options):
        arguments = [f"--{name}={getattr(cell, name)}" for name in ("shared", "cv", *COUNTS)]
        key = " ".join(arguments)
        if key not in done:
            done[key] = measure(cell, arguments)
            if not options.no_write:
                common.RESULTS.mkdir(exist_ok=True)
                with PARTIAL.open("a") as file:
                    file.write(json.dumps({"cell": key, "row": done[key]}) + "\n")
        rows.append(done[key])
        print(common.markdown(rows[-1:]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    options = parse()
    if options.worker:
        warnings.simplefilter("ignore", FutureWarning)  # of TRL's own names for options
        cell = make_cells(options)[0]
        run = {"ours": run_ours, "trl": run_trl}[options.worker]
        print(json.dumps(run(make_steps(cell), cell), default=vars))
        return
    rows = run_grid(options)
    if options.no_write:
        print(common.markdown(rows))
    else:
        common.write_results(options.table, rows, " ".join(["python -m", MODULE, *sys.argv[1:]]))
        PARTIAL.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
