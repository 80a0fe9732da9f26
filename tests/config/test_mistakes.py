"""Whatever a user mistypes ends in one line that names the key and what is valid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spot.cli.errors import mistakes_in_one_line
from spot.config.compose import compose, expand
from spot.utils.errors import UserError
from tests.support.command_line import spot

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "pytorch_lightning", "datasets", "deepspeed", "scipy", "google"}
NOTHING_COUNTS = [
    f"loss.weights.{side}.{span}=0" for side in ("chosen", "rejected") for span in ("prefix", "edit", "after")
]  # fmt: skip
OWN = "data=jsonl data.fields.solution=solution model=tiny"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("loss.bta=1", "loss.bta unknown loss.beta"),
        ("seed=abc", "seed=abc whole number"),
        ("-m worlds=0", "worlds=0 at least one worlds=3"),
        ("worlds=2", "world=0,1 -m"),
        (
            "-m data=jsonl data.path=own.jsonl data.fields.response=r data.fields.solution=s worlds=2",
            "world=1 data.source=jsonl no worlds data=arithmetic",
        ),
        ("data.gamma=1.5", "data.gamma=1.5 >= 0 <= 1"),
        ("arm=spt_bco", "arm=spt_bco unknown spot_bco dpo rft"),
        ("los=bco", "los unknown loss"),
        ("loss==bco", "loss==bco key=value"),
        ("+paper=nonsense", "paper=nonsense unknown table2"),
        ("loss=dpo data.arm=self", "loss=dpo data.arm=self rectified direct"),
        ("-m loss=bco,dop", "loss=dop unknown dpo"),
        ("-m +paper=table2 data.arm=self", "data.arm=self rectified"),
        ("-m +paper=nonsense", "paper=nonsense table2"),
        ("--nonsense", "--nonsense --help"),
        ("--loss=bco", "--loss=bco loss=bco"),
        ("-data.gamma=0.5", "data.gamma=0.5"),
        ("--seed 3", "--seed seed=<value>"),
    ],
)
def test_the_command_line_says_it_in_one_line(arguments: str, words: str, tmp_path: Path) -> None:
    done = spot(tmp_path, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    for word in words.split():
        assert word in done.stderr
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


REFUSED_HERE = [  # each valid, and impossible on this machine
    ("hardware=8xh800", "hardware.devices=8 sees 0"),
    ("-m hardware=8xh800 seed=0,1", "hardware.devices=8 sees 0"),
    ("oracle=gemini", "key GOOGLE_API_KEY"),
    ("model.path=/nowhere/model", "model.path=/nowhere/model folder"),
    ("model.path=a/b/c", "model.path=a/b/c hub"),
    ("model.path=empty", "model.path=empty config.json"),
    ("generator=vllm", "generator.executable=vllm"),
    ("model=qwen3_8b", "generator=transformers 8.2 billion hours generator=vllm"),
    ("evaluate model=qwen3_8b", "generator=transformers 8.2 billion hours generator=vllm"),
    ("elicit hardware=1xgpu", "generator=transformers hardware.accelerator=gpu sees none"),
    ("generator@evaluator=vllm", "evaluator.executable=vllm"),
    ("data.prompt=nowhere.txt", "data.prompt=nowhere.txt"),
    ("data.prompt=bad.jsonl", "data.prompt=bad.jsonl {question}"),
    (f"{OWN} data.path=nowhere.jsonl", "nowhere.jsonl exist"),
    (f"{OWN} data.path=bad.jsonl", "bad.jsonl line 2 malformed"),
    ("benchmarks.tasks.sums.path=nowhere", "benchmarks.tasks.sums.path=nowhere"),
    ("benchmarks.tasks.sums.prompt=nowhere", "benchmarks.tasks.sums.prompt=nowhere"),
    ("benchmarks=paper benchmarks.folder=empty", "benchmarks.folder=empty aime24.jsonl"),
    ("oracle=human oracle.path=nowhere.csv", "oracle.path=nowhere.csv"),
    ("oracle=human oracle.path=bad.jsonl", "bad.jsonl line 2 malformed"),
    ("data.questions=10 data.held_out=10", "data.held_out=10 data.questions=10"),
    (f"{OWN} data.path=good.jsonl", "data.held_out=64 2 wrong data.questions=2"),
    ("pretrain model.path=/nowhere", "model.path=/nowhere pretrain"),
    ("output=bad.jsonl/x", "output=bad.jsonl/x written"),
    ("hardware.attention=flash", "hardware.attention=flash flash-attn installed"),
    ("logger=wandb logger.wandb_mode=online", "logger.wandb_mode=online WANDB_API_KEY"),
]


def prepare(folder: Path) -> None:
    (folder / "empty").mkdir()
    good = '{"question": "1+1?", "answer": "2", "solution": "2"}\n'
    (folder / "bad.jsonl").write_text(good + "{")
    (folder / "good.jsonl").write_text(good + good)


@pytest.mark.parametrize(("arguments", "words"), REFUSED_HERE)
def test_what_this_machine_cannot_do_is_refused_before_a_folder_is_made(
    arguments: str, words: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    before = set(tmp_path.iterdir())
    done = spot(tmp_path, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    for word in words.split():
        assert word in done.stderr
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        *("train.py loss.bta=1", "train.py -m seed=0,x", "train.py --nonsense"),
        *("train.py hardware=8xh800", "train.py oracle=gemini", "train.py model.path=/nowhere"),
        *(f"train.py {OWN} data.path=bad.jsonl", "train.py benchmarks.tasks.sums.path=nowhere"),
        *("-m spot.cli.main evaluate model.path=/nowhere", "-m spot.cli.main plan model.path=/no"),
        "-m spot.cli.main correct oracle.path=mine.json",
    ],
)
def test_a_mistake_is_found_before_anything_heavy_is_imported(
    arguments: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    before = set(tmp_path.iterdir())
    words = arguments.replace("train.py", str(ROOT / "train.py")).split()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stderr.splitlines()
    imported = [line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")]
    assert not {name.split(".")[0] for name in imported} & HEAVY
    assert (done.returncode, len(lines) - len(imported)) == (2, 1), lines[-1]
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.delta.mdoe=ema"], "loss.delta.mdoe unknown loss.delta.mode decay"),
        (["+loss.bta=1"], "loss.bta unknown loss.beta"),
        (["+nonsense=1"], "nonsense unknown reference"),
        (["benchmarks.tasks.sms.trials=2"], "benchmarks.tasks.sms benchmarks.tasks.sums"),
        (["hydra.sweep.dri=x"], "hydra.sweep.dri hydra.sweep.dir"),
        (["model=qwen3_8b", "model.pretrain.steps=3"], "model.pretrain.steps unknown"),
        (["data.pairs=1.5"], "data.pairs=1.5 whole number"),
        (["data.gamma=much"], "data.gamma=much a number"),
        (["logger.wandb=perhaps"], "logger.wandb=perhaps true false"),
        (["seed=null"], "seed=null cannot be null"),
        (["loss.delta=5"], "loss.delta=5 wrong type loss.delta.mode"),
        (["model.path=[a,b]"], "model.path wrong type"),
        (["seed=-1"], "seed=-1 >= 0"),
        (["loss.epochs=0"], "loss.epochs=0 >= 1"),
        (["loss.beta=0"], "loss.beta=0 > 0"),
        (["loss.delta.mode=median"], "loss.delta.mode=median ema cumulative zero"),
        (["data.arm=wrong"], "data.arm=wrong rectified direct self"),
        (["oracle.minimal=0.9"], "oracle.minimal oracle.continuation exceed 1"),
        (["model.pretrain.heads=3"], "model.pretrain.width model.pretrain.heads=3 divisible"),
        (["benchmarks.tasks.sums.questions=0"], "benchmarks.tasks.sums.questions=0 >= 2"),
        (["hardware.checkpoint_layers=most"], "checkpoint_layers=most auto all none number"),
        (["hardware.checkpoint_layers=-1"], "checkpoint_layers=-1 auto all none number"),
        (["hardware.attention=flex"], "hardware.attention=flex auto sdpa varlen flash"),
        (["hardware.precision=fp16"], "hardware.precision=fp16 fp32 bf16"),
        (["hardware.memory_gib=0"], "hardware.memory_gib=0 > 0"),
        (["loss.weights.chosen.edit=-1"], "loss.weights.chosen.edit=-1 >= 0"),
        (["loss.weights.fade=0"], "loss.weights.fade=0 > 0"),
        (["loss.weights.by=word"], "loss.weights.by=word edits step"),
        (NOTHING_COUNTS, "loss.weights 0 loss=bco raise loss.weights.chosen.edit=1"),
        (["loss=sft", *NOTHING_COUNTS[:3]], "loss.weights 0 loss=sft raise"),
        (
            ["arm=rft", "loss.weights.chosen.edit=2"],
            "loss.weights data.arm=self none data.arm=rectified",
        ),
        (["loss=sft", "loss.sft_weight=1"], "loss.sft_weight pairs loss=sft tokens"),
        (["output="], "output empty"),
        (["data.path="], "data.path= empty leave"),
        (["loss="], "loss= empty bco dpo"),
        (["+loss=dpo"], "+loss=dpo once·more:·write·loss=dpo"),
        (["++loss=dpo"], "++loss=dpo once·more:·write·loss=dpo"),
        (["~data.gamma"], "~data.gamma taken·out data.gamma=<value>"),
        (["loss=BCO"], "loss=BCO unknown mean·bco?"),
        (["loss=dpo seed=1"], "read several·words quotes"),
        (["loss=bco,"], "loss=bco, read comma loss=a,b"),
        (["model/tiny"], "read write·key=value,·model=tiny"),
        (["data.fields.question"], "read data.fields.question=<value>"),
        (["+arm=dpo"], "+arm=dpo once·more:·write·arm=dpo"),
        (["+data.gamma=0.5"], "+data.gamma=0.5 there·already:·write·data.gamma=0.5"),
        (["model=/folder"], "model=/folder unknown write·model.path=/folder"),
        (["model=Qwen/Qwen3-8B"], "model=Qwen/Qwen3-8B unknown write·model.path=Qwen/Qwen3-8B"),
        (["data=mine.jsonl"], "data=mine.jsonl unknown write·data=jsonl·data.path=mine.jsonl"),
        (["data=me/set"], "data=me/set unknown write·data=hub·data.hub=me/set"),
        (["loss=spot_bco"], "loss=spot_bco unknown arm=spot_bco"),
        (["benchmarks=math500"], "benchmarks=math500 unknown benchmark=math500"),
        (["loss.gamma=1"], "loss.gamma unknown mean·data.gamma? learning_rate"),
        (["data.loss=bco"], "data.loss unknown mean·loss? gamma"),
        (["model.hardware=cpu"], "model.hardware unknown mean·hardware?"),
        (["gamma=0.5"], "gamma unknown mean·data.gamma?"),
        (["lr=1e-5"], "lr unknown mean·loss.learning_rate"),
        (["loss.lr=1e-5"], "loss.lr unknown mean·loss.learning_rate"),
        (["temprature=1"], "temprature unknown generator.temperature"),
        (["loss.batch_size=4"], "loss.batch_size unknown mean·loss.batch_pairs"),
        (["~nonsense"], "nonsense unknown loss"),
        (["~loss"], "loss missing"),
        (["loss:bco"], "loss:bco read write·key=value,·loss=bco"),
        (["loss: bco"], "read write·key=value,·loss=bco"),
        (["data.gamma:0.5"], "read data.gamma=0.5"),
        (["dpo"], "dpo read arm=dpo"),
        (["loss"], "loss read loss=apo_down|apo_zero"),
        (["loss =bco"], "read write·loss=bco"),
        (["loss==bco"], "read loss=bco"),
        (["data.path='foo"], "data.path='foo read quote closed"),
        (['data.prompt="a'], "read quote closed"),
        (["data.path=[a"], "data.path=[a read bracket closed"),
        (["seed={a"], "seed={a read bracket closed"),
        (["seed=${a"], "seed=${a read bracket closed"),
        (["loss.beta=choice("], "read bracket closed"),
        (["seed=1,2"], "seed=1,2 -m"),
        (["benchmarks.tasks=3"], "benchmarks.tasks=3 wrong type benchmarks.tasks.<name>"),
        (["loss=null"], "loss=null unknown bco"),
        (["benchmarks=schema"], "benchmarks=schema laptop"),
        (["paper=table2"], "+paper=table2"),
        (["loss=bco,dpo"], "loss=bco,dpo -m"),
        (["seed=${nope}"], "seed nope not found"),
        (["bco"], "bco key=value"),
        (["data=jsonl"], "data.path missing"),
        (["oracle=human"], "oracle=human data.fields.solution oracle.path"),
        (["oracle=human", "oracle.path=x", "data.arm=direct"], "oracle=human data.arm=direct"),
        (["data=jsonl", "data.path=x", "model=tiny", "oracle=rule"], "oracle=rule data=arithmetic"),
        (["data=jsonl", "data.path=x"], "model=tiny_bpe data.fields.response"),
        (["hardware=2x8xh800", "rounds=2"], "rounds=2 hardware.nodes=2 hardware.nodes=1 rounds=1"),
        (["oracle.resample=8"], "oracle.resample=8 oracle=self rule"),
        (["oracle=self", "oracle.solves=0.5"], "oracle.solves=0.5 oracle=rule"),
        (
            ["oracle=gemini", "oracle.thinking_level=low"],
            "oracle.thinking_budget oracle.thinking_level exclude",
        ),
        (["model=tiny_bpe"], "model=tiny_bpe data.fields.response another model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_kind_of_mistake_is_named(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        expand(overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words.split():
        assert word in message or word.replace("·", " ") in message, message


@pytest.mark.parametrize(
    "overrides",
    [["seed=0,1,x"], ["arm=dpo,sft", "data.gamma=0.5,2"], ["loss=sft,bco", "data.arm=self"]],
)
def test_every_job_of_a_sweep_is_checked(overrides: list[str]) -> None:
    with pytest.raises(UserError):
        expand(overrides, sweep=True)


def test_values_at_the_edge_of_their_range_are_accepted() -> None:
    edges = compose(["data.gamma=0", "loss.delta.decay=1", "generator.temperature=0", "seed=0"])
    assert (edges.data.gamma, edges.loss.delta.decay) == (0.0, 1.0)
    assert compose(["data.gamma=1"]).data.gamma == 1.0
    assert compose(["hardware=2x8xh800", "rounds=1"]).hardware.nodes == 2
    assert compose(["oracle=self", "oracle.resample=8"]).oracle.resample == 8
    assert compose(["oracle.ground_truth=false", "oracle.solves=0.5"]).oracle.solves == 0.5


def test_rounds_on_several_machines_are_refused_wherever_they_would_train() -> None:
    both = ["hardware=2x8xh800", "rounds=2"]
    with pytest.raises(UserError, match=r"hardware\.nodes=2 starts one training only"):
        compose(both, until="elicit")
    assert compose(both, until="evaluate").rounds == 2


def test_a_full_disk_and_an_interruption_are_one_line_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as full, mistakes_in_one_line():
        raise OSError(28, "No space left on device", "/data/rows.jsonl")
    with pytest.raises(SystemExit) as interrupted, mistakes_in_one_line():
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), mistakes_in_one_line():
        raise FileNotFoundError(2, "No such file", "x")
    assert (full.value.code, interrupted.value.code) == (1, 130)
    first, second = capsys.readouterr().err.splitlines()
    assert "disk is full" in first
    assert "/data/rows.jsonl" in first
    assert "interrupted" in second


def test_libraries_that_meet_a_full_disk_are_one_line_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def saves_weights() -> None:  # as safetensors says it, which has no errno
        raise RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    def wraps() -> None:
        try:
            with open("/dev/full", "w") as file:
                file.write("x" * 99999)
        except OSError as error:
            raise RuntimeError("writing failed") from error

    def explains() -> None:
        try:
            saves_weights()
        except RuntimeError as error:
            raise UserError("the disk is full: free some, and go on") from error

    for write in (saves_weights, wraps, explains):
        with pytest.raises(SystemExit) as full, mistakes_in_one_line():
            write()
        assert full.value.code == 1
        assert capsys.readouterr().err.startswith("spot: the disk is full")
    with pytest.raises(RuntimeError, match="other"), mistakes_in_one_line():
        raise RuntimeError("other")


def test_sigterm_says_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def works() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(SystemExit) as ended, mistakes_in_one_line():
        works()
    assert ended.value.code == 143
    assert (
        capsys.readouterr().err == "spot: ended by SIGTERM; the same command goes on from here.\n"
    )
    assert signal.getsignal(signal.SIGTERM) == before
