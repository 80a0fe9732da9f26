"""Every YAML file in the repository composes, and what is chosen is what runs."""

from __future__ import annotations

import csv
import itertools
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from spot import config
from spot.config.compose import CONF, compose, expand, sweep_name
from spot.config.difference import flat
from spot.evaluation import benchmarks as measuring
from spot.pipeline import clients
from spot.utils.errors import UserError

ROOT = CONF.parent
OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
EXPERIMENTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/*/*.yaml"))
ROWS = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/*/*/*.yaml"))
STUDIES = sorted(path.stem for path in ROOT.glob("experiments/paper/*.yaml"))
SPANS = "prefix", "edit", "after"
PAPER_SCALE = "model=qwen3_8b data=dapo oracle=gemini generator=vllm hardware=8xh800".split()
ROWS_OF_A_FILE = ["data.path=rows.jsonl", "data.fields.response=r", "data.fields.solution=s"]
NEEDED = {  # what an option cannot know by itself
    "data=jsonl": ROWS_OF_A_FILE,
    "data=gsm8k_attempts": ["data.path=rows.jsonl"],
    "data=hub": ["data.hub=owner/name"],
    "data=pairs": ["data.hub=owner/name"],
    "oracle=human": ["oracle.path=corrections.jsonl"],
    "oracle=openai": ["oracle.model=some-model"],
    "oracle=tutor": ["data=everyday"],
    "generator=openai": [
        "generator.base_urls=[http://localhost:8000/v1]",
        "generator@evaluator=transformers",
    ],
    "model=tiny_bpe": ["data=jsonl", *ROWS_OF_A_FILE],
    "preset=released": ["benchmarks.prompts=null"],
}


def choice(option: Path) -> list[str]:
    """The overrides that choose a file of conf/."""
    group, name = option.parent.name, option.stem
    if group == "benchmark":  # not chosen by itself, but within `benchmarks`
        return ["benchmarks=one", f"+benchmark@benchmarks.tasks.{name}={name}"]
    return [f"{group}={name}", *NEEDED.get(f"{group}={name}", [])]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes_to_checked_values(option: Path) -> None:
    composed = compose(choice(option))
    assert composed.loss.name in config.LOSSES


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_names_its_schema(option: Path) -> None:
    """Without it, a misspelt key in the file would be taken for a new one."""
    if option.parent.name in ("arm", "preset"):
        return  # global: lands in the schema of the whole
    defaults = yaml.safe_load((CONF / option).read_text())["defaults"]
    siblings = {path.stem for path in (CONF / option).parent.glob("*.yaml")}
    assert defaults[0] == "schema" or defaults[0] in siblings
    assert defaults[-1] == "_self_"


@pytest.mark.parametrize("file", EXPERIMENTS, ids=str)
def test_every_job_of_every_experiment_composes(file: Path) -> None:
    assert file.parent.parent.name == "experiments", "the search path knows experiments/<group>/"
    one_seed = [] if file.parent.name == "tuning" else ["seed=0"]
    assert expand([f"+{file.parent.name}={file.stem}", *one_seed]).sweep


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_row_of_a_study_composes_within_it(row: Path) -> None:
    """`experiments/paper/table3/direct_2k.yaml` is chosen by `+paper/table3=direct_2k`."""
    group, study = row.parent.parent.name, row.parent.name
    composed = compose([f"+{group}={study}", f"+{group}/{study}={row.stem}"])
    assert composed.study == study


def jobs(study: str) -> list[list[str]]:
    """What the sweep of a study of the paper varies, job by job."""
    sweep = yaml.safe_load((ROOT / f"experiments/paper/{study}.yaml").read_text())
    params = sweep["hydra"]["sweeper"]["params"]
    choices = [[f"{key}={v}" for v in str(values).split(",")] for key, values in params.items()]
    return [list(job) for job in itertools.product(*choices)]


@pytest.mark.parametrize("study", STUDIES)
def test_what_the_command_line_chooses_wins_over_a_study(study: str) -> None:
    """So a study that is made for the laptop runs at the paper's scale without another file."""
    said = ["data.pairs=77", "data.gamma=0.3", "loss.beta=0.7", "rounds=3", "seed=9"]
    for job in (jobs(study)[0], jobs(study)[-1]):
        paper = compose([f"+paper={study}", *job, *PAPER_SCALE, *said])
        chosen = (paper.model.name, paper.data.source, paper.generator.kind, paper.hardware.name)
        assert chosen == ("qwen3_8b", "dapo", "vllm", "8xh800")
        assert paper.oracle.kind == ("self" if "+paper/self_oracle=resampled" in job else "gemini")
        assert paper.benchmarks.name == "paper"
        assert (paper.data.pairs, paper.data.gamma, paper.seed) == (77, 0.3, 9)
        assert (paper.loss.beta, paper.rounds) == (0.7, 3)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_says_how_it_is_run(study: str) -> None:
    """Both command lines stand in its head, and it never varies the model, but for its adapters."""
    head = (ROOT / f"experiments/paper/{study}.yaml").read_text().split("\n\n")[0]
    assert f"#   python train.py -m +paper={study}\n" in head
    assert f"#   python train.py -m +paper={study} model=" in head
    varied = [choice for choice in jobs(study)[0] if not choice.startswith("model.lora.")]
    assert not any(choice.startswith("model") for choice in varied)
    own = "smollm2_135m" if study.endswith("smollm2") else "tiny"
    assert compose([f"+paper={study}", *jobs(study)[0]]).model.name == own


def test_the_default_is_the_laptop_world_with_bco() -> None:
    default = compose()
    world = (default.model.name, default.data.source, default.oracle.kind)
    assert world == ("tiny", "arithmetic", "rule")
    assert (default.loss.name, default.arm, default.data.gamma) == ("bco", "spot_bco", 0.6)
    domains = {name: task.domain for name, task in default.benchmarks.tasks.items()}
    assert domains == {"sums": "in_domain", "word_problems": "ood", "instructions": "general"}


def test_the_released_choices_are_these_and_each_arrives(tmp_path: Path) -> None:
    usual, ours = flat(config.plain(compose())), ["preset=released", "benchmarks.prompts=null"]
    changed = {k: v for k, v in flat(config.plain(compose(ours))).items() if usual.get(k) != v}
    assert changed == {
        "oracle.ground_truth": False,
        "loss.delta.mode": "cumulative",
        "loss.delta.micro_batch": 16,
        "benchmarks.parser": "released",
    }
    for file, text in (("connect4", "Play: {question}"), ("math", "Solve: {question}")):
        (tmp_path / f"{file}.md").write_text(text)
    paper = compose(["preset=released", "data=dapo", f"benchmarks.prompts={tmp_path}", "arm=dpo"])
    tasks = paper.benchmarks.tasks
    assert tasks["connect4"].parser == "released"
    assert measuring.template(tasks["connect4"]) == "Play: {question}"
    assert measuring.template(tasks["minerva"]) == "Solve: {question}", "its family's"
    assert tasks["ifeval"].prompt is None
    with pytest.raises(UserError, match=r"benchmarks\.prompts=released_prompts .* put <benchmark>"):
        compose(["preset=released"])
    with pytest.raises(UserError, match=r"micro_batch=4 is for loss\.delta\.mode=cumulative"):
        compose(["loss.delta.micro_batch=4"])
    trained = clients.training_settings(compose())["loss"]["delta"]
    assert trained == {"mode": "ema", "decay": 0.9}, "trainings keep the names they had"


@pytest.mark.parametrize(("name", "parts"), config.ARMS.items())
def test_an_arm_sets_loss_and_data(name: str, parts: tuple[str, str]) -> None:
    composed = compose([f"arm={name}"])
    assert (composed.loss.name, composed.data.arm) == parts
    assert composed.arm == name


@pytest.mark.parametrize(("name", "row"), config.WEIGHTED_ARMS.items())
def test_an_arm_sets_the_weights_of_spans(name: str, row: tuple[str, str, object]) -> None:
    composed = compose([f"arm={name}"])
    assert (composed.loss.name, composed.data.arm, composed.loss.weights) == row
    assert composed.arm == name
    ones = [f"loss.weights.{s}.{span}=1" for s in ("chosen", "rejected") for span in SPANS]
    usual = compose([f"arm={name}", *ones, "loss.weights.fade=null", "loss.weights.by=edits"])
    assert usual.arm == config.arm_name(config.LossConfig(row[0]), "rectified")
    other = compose([f"arm={name}", "loss.weights.chosen.edit=2"])
    assert other.arm == usual.arm, "weights of no row change no name"


def test_later_keys_rename_no_product_where_they_are_not_used() -> None:
    """The settings of a training as they were before there were weights by span."""
    usual = config.resolved_loss(compose()).settings()
    assert usual == {
        "name": "bco", "beta": 1.0, "delta": {"mode": "ema", "decay": 0.9}, "sft_reduction": "token",
        "edit_weight": 1.0, "learning_rate": 0.0003, "epochs": 2, "batch_pairs": 32, "schedule": "cosine",
        "warmup": 0.05, "weight_decay": 0.01, "adam_beta1": 0.9, "adam_beta2": 0.95, "clip": 1.0,
    }  # fmt: skip
    changed = config.resolved_loss(compose(["loss.weights.chosen.edit=2", "loss.sft_weight=1"]))
    assert {*changed.settings()} - {*usual} == {"weights", "sft_weight"}


@pytest.mark.parametrize(
    ("overrides", "loss", "data_arm", "arm"),
    [
        ("arm=spot_bco loss=dpo", "dpo", "rectified", "dpo"),
        ("loss=dpo arm=spot_bco", "dpo", "rectified", "dpo"),
        ("data.arm=direct loss=bco", "bco", "direct", "bco_direct"),
        ("arm=spot_bco data.arm=direct", "bco", "direct", "bco_direct"),
        ("loss=sft data.arm=self", "sft", "self", "rft"),
        ("arm=sft loss.name=rwsft", "rwsft", "direct", None),
    ],
)
def test_what_is_said_explicitly_wins_over_the_arm(
    overrides: str, loss: str, data_arm: str, arm: str | None
) -> None:
    composed = compose(overrides.split())
    assert (composed.loss.name, composed.data.arm, composed.arm) == (loss, data_arm, arm)


def test_a_data_set_chooses_its_oracle_unless_told_otherwise() -> None:
    chosen = compose(["data=gsm8k_attempts", "data.path=x.jsonl"])
    options = (chosen.oracle.kind, chosen.model.name, chosen.benchmarks.name)
    assert options == ("human", "tiny_bpe", "data")
    assert chosen.data.fields.response == "175b_verification.solution"
    assert chosen.data.answer_format == "last"
    other = compose(["data=gsm8k_attempts", "data.path=x.jsonl", "model=qwen3_8b"])
    assert other.model.path == "Qwen/Qwen3-8B"


def test_the_student_that_ships_is_the_one_that_is_asked_for() -> None:
    """Otherwise every first run would begin by pretraining another."""
    manifest = json.loads((ROOT / "src/spot/training/assets/tiny/manifest.json").read_text())
    tiny = compose().model
    assert tiny.pretrain is not None
    assert asdict(tiny.pretrain) == manifest["settings"]
    assert tiny.context_length == manifest["context_length"]


@pytest.mark.parametrize(
    ("model", "reward", "sft"),
    [("qwen3_8b", 1e-6, 5e-6), ("llama31_8b_instruct", 2e-7, 1e-6)],
)
def test_learning_rates_are_the_papers(model: str, reward: float, sft: float) -> None:
    for loss in config.LOSSES:
        expected = sft if config.LOSSES[loss].token else reward
        chosen = compose([f"model={model}", f"loss={loss}"])
        resolved = config.resolved_loss(chosen)
        beta = {"dpop": 0.3, "simpo": 2.0}.get(loss, 0.1)  # their own papers'
        assert (resolved.learning_rate, resolved.beta) == (expected, beta)


def test_tuned_values_win_by_arm_then_by_loss_and_lose_to_an_explicit_one() -> None:
    def tuned(*overrides: str) -> tuple[float, float]:
        chosen = compose(["model=qwen3_8b", *overrides])
        chosen.model.tuned = {
            "sft": config.Tuned(learning_rate=0.1),
            "sft_plus": config.Tuned(learning_rate=0.2, beta=0.5),
        }
        resolved = config.resolved_loss(chosen)
        return resolved.learning_rate, resolved.beta

    assert tuned("arm=rft") == (0.1, 0.1)
    assert tuned("arm=sft_plus") == (0.2, 0.5)
    assert tuned("loss=sft") == (0.2, 0.5)  # the same arm by its parts
    assert tuned("arm=dpo") == (1e-6, 0.1)
    assert tuned("arm=sft_plus", "loss.learning_rate=0.3", "loss.beta=0.7") == (0.3, 0.7)


def test_only_arms_and_losses_can_be_tuned() -> None:
    with pytest.raises(UserError, match="tuned=bcoo is unknown: choose one of sft, rft"):
        config.ModelConfig(name="x", tuned={"bcoo": config.Tuned()})


def test_table2_is_six_arms_on_five_seeds() -> None:
    sweep = yaml.safe_load((ROOT / "experiments/paper/table2.yaml").read_text())
    params = sweep["hydra"]["sweeper"]["params"]
    assert sorted(params["arm"].split(",")) == "dft dpo rwsft sft_plus spot_bce spot_bco".split()
    assert params["seed"] == "0,1,2,3,4"
    assert compose(["+paper=table2", "arm=dft"]).study == "table2"


def test_a_sweep_has_one_folder_for_each_setting() -> None:
    name = sweep_name
    assert name(None, ["loss=bco,dpo", "arm=x"]) == "loss=bco,dpo__arm=x"
    assert name(None, ["arm=x", "loss=bco,dpo"]) != name(None, ["loss=bco,dpo", "arm=x"])
    assert name(None, ["output=elsewhere"]) == "sweep"
    assert name("table2", ["+paper=table2"]) == "table2"
    assert name("table2", ["+paper=table2", "output=elsewhere"]) == "table2"
    assert name("tuning_reward", ["+tuning=reward"]) == "tuning_reward"
    assert name("table2", ["model=a/b", "+paper=table2"]) == "table2__model=a-b"
    assert name("table2", ["seed=1", "arm=x"]) == name("table2", ["arm=x", "seed=1"])
    long = name("table2", [f"model.path={'x' * 200}"])
    assert len(long) < 110
    assert long != name("table2", [f"model.path={'x' * 201}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["generator=openai", "generator.base_urls=[http://localhost:8000/v1]"],
            "rounds after the first ask the trained ones: choose generator=vllm",
        ),
        (["oracle=human", "oracle.path=sheet.csv"], "corrects the first round's attempts only"),
    ],
)
def test_later_rounds_need_a_generator_and_an_oracle_of_their_own(
    overrides: list[str], message: str
) -> None:
    assert compose([*overrides, "generator@evaluator=transformers"]).rounds == 1
    with pytest.raises(UserError, match=message):
        compose([*overrides, "generator@evaluator=transformers", "rounds=2"])


def test_grading_needs_no_oracle() -> None:
    """Answers can be imported and graded where nobody could correct them."""
    overrides = ["data=jsonl", "data.path=rows.jsonl", "data.fields.response=output"]
    assert compose(overrides, until="elicit").data.path == "rows.jsonl"
    with pytest.raises(UserError, match="oracle=human needs corrections"):
        compose(overrides, until="rectify")


def test_the_papers_rows_are_rows_of_our_studies() -> None:
    """A row of Table 3 is named by its file, and its averages fit its cells as printed."""
    with (ROOT / "experiments/paper/paper_numbers.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for line in lines:
        key = (line["table"], line["model"], line["row"], line["arm"])
        rows[key][line["benchmark"]] = float(line["value"])
    assert len(rows) == 10 + 4 + 4
    for (table, _, row, arm), values in rows.items():
        assert arm in {*config.ARMS, "base"}
        if table == "table3":
            assert compose(["+paper=table3", "loss=bco", f"+paper/table3={row}"]).arm == arm
        benchmarks = [v for k, v in values.items() if k not in ("in_domain", "ood", "average")]
        assert len(benchmarks) == 9
        mean = sum(benchmarks) / 9  # printed 48.9 for Reward-SFT's 48.84
        assert values["average"] == pytest.approx(mean, abs=0.11)
