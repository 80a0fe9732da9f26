"""The group `oracle` → an Oracle, what of it decides the corrections, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spot.config import ASKED, PAID, DataConfig, OracleConfig
from spot.data import artifacts, chat, hub
from spot.data.jsonl import read_solutions
from spot.generation.types import Generator, Sampling
from spot.grading.registry import Verifier
from spot.oracle import Oracle, human, human_sheet, pricing, tutor
from spot.oracle.api_errors import KEY_NAMES, read_key
from spot.oracle.local import LocalOracle
from spot.oracle.postprocess import Judge
from spot.oracle.prompts import Prompts, prompts
from spot.oracle.rule import RuleEditor
from spot.oracle.task_loop import OracleTask
from spot.utils import digests
from spot.utils.errors import UserError


@dataclass(frozen=True)
class Surroundings:
    """What an Oracle works with.

    policy: folder of the policy, whose tokenizer measures changes and which `self` asks; target:
    verified corrections that are enough; journal: where paid replies are kept; start, sampling: the
    policy's generator, for `self`; pose: how a question of the data is put to the policy.
    """

    verifier: Verifier
    mode: str = "rectified"  # rectified | direct
    target: int | None = None
    policy: Path | None = None
    journal: Path | None = None
    start: Callable[[], Generator] | None = None
    sampling: Sampling | None = None
    pose: Callable[[str], str] = str


def build(config: OracleConfig, data: DataConfig, around: Surroundings) -> Oracle:
    """The Oracle that `config` names. Raises UserError for a file that is not there."""
    if config.kind == "rule":
        solves = 1.0 if config.ground_truth else config.solves
        rule = RuleEditor(config.seed, config.minimal, config.continuation, solves)
        return LocalOracle("rule", lambda _: rule.correct, around.verifier, data.answer_format)
    if config.kind == "tutor":
        return LocalOracle("tutor", lambda _: tutor.correct, around.verifier, data.answer_format)
    if config.kind == "human":
        source = written(config, data, around.pose)
        return LocalOracle("human", source, around.verifier, data.answer_format)
    price = price_of(config)
    spec = partial(_spec, config, data, around, price)
    if config.kind == "self":
        from spot.oracle.self_oracle import SelfOracle

        assert around.start is not None
        assert around.sampling is not None
        return SelfOracle(config, spec(), around.start, around.sampling, around.target)
    from spot.oracle.paid import PaidOracle

    assert around.journal is not None
    client = partial(make_client, config)
    return PaidOracle(config, price, spec, client, around.journal, around.target)


def depends_on_policy(config: OracleConfig) -> bool:
    """Whether the policy's weights or tokenizer decide what is corrected, or what is refused."""
    return config.kind == "self" or (config.kind in PAID and config.largest_change is not None)


def settings(
    config: OracleConfig,
    data: DataConfig,
    mode: str,
    target: int | None,
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """What decides the corrections; how fast they are asked for and what they may cost does not.

    A rule Oracle is its shares and seed, a human one the content of a file, `self` the policy's
    `generation` settings.
    """
    if config.kind == "rule":
        names = ["kind", "seed", "minimal", "continuation"]
        return _named(config, names if config.ground_truth else [*names, "solves"])
    if config.kind == "tutor":
        return {"kind": "tutor"}
    if config.kind == "human":
        file = corrections_digest(config, data)
        return {"kind": "human", "file": file, "fields": data.fields.decisive()}
    if config.kind == "self":
        asked = {"kind": "self", "seed": config.seed, "generation": dict(generation)}
    else:
        asked = _request(config)
    judged = asked | {"largest_change": config.largest_change, "target": target}
    if config.kind == "self" and config.resample:  # it gets no prompt
        return judged | {"resample": config.resample}
    return judged | {"reask": config.reask, "prompts": _prompts(config, data, mode).digest}


def journal_path(config: OracleConfig, attempts: Sequence[str], output: Path) -> Path:
    """One journal for all that the same Oracle says of the same attempts.

    Held out or not, singly or in batches, asked again once or often: what was answered is paid once.
    attempts: their digest, and those they had when they were graded otherwise, the latest first.
    """
    asked = [json.dumps([_request(config), digest], sort_keys=True) for digest in attempts]
    paths = [output / "oracle" / f"{artifacts.hash_text(text)[:16]}.jsonl" for text in asked]
    return next((path for path in paths if path.exists()), paths[0])


def check(config: OracleConfig, data: DataConfig) -> None:
    """Refuse at the start what would only be found when the first correction is asked for.

    A file that cannot be read, a prompt without its placeholders, a model without a price, a key that
    is not there.
    """
    here = config.path or data.path  # what is on the hub is not fetched for a check
    if config.kind == "human" and here:
        written(config, data, str)
    if config.kind not in ASKED:
        return
    for mode in {"rectified", data.arm} - {"self"}:
        _prompts(config, data, mode)
    if config.kind in PAID:
        price_of(config)
        _read_key(config)


def price_of(config: OracleConfig) -> pricing.Price:
    """What the Oracle charges. Raises UserError when that is unknown."""
    if config.kind not in PAID:
        return pricing.FREE
    return pricing.price_of(str(config.model), asdict(config.prices), free=config.free)


def make_client(config: OracleConfig) -> Any:
    """The real client of the server. Raises UserError where the key is missing."""
    common: dict[str, Any] = _named(config, ["temperature", "max_tokens", "timeout"])
    if config.base_url is not None:
        common |= {"base_url": config.base_url}
    if config.kind == "gemini":
        from spot.oracle.gemini import GeminiClient

        budget, level = config.thinking_budget, config.thinking_level  # one of them at most
        return GeminiClient(
            str(config.model),
            key_names=KEY_NAMES if config.key_name is None else (config.key_name,),
            thinking=level if budget is None else budget,
            **common,
        )
    from spot.oracle.openai_compatible import OpenAIClient

    effort = {} if config.effort is None else {"reasoning_effort": config.effort}
    extra = effort | config.extra
    return OpenAIClient(str(config.model), key_name=config.key_name, extra=extra, **common)


def _spec(
    config: OracleConfig,
    data: DataConfig,
    around: Surroundings,
    price: pricing.Price,
    batch: bool = False,
) -> OracleTask:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(around.policy)
    judge = Judge(
        around.verifier,
        data.answer_format,
        tokens=partial(chat.response_ids, tokenizer),
        largest_change=config.largest_change if around.mode == "rectified" else None,
    )
    return OracleTask(
        prompt=_prompts(config, data, around.mode),
        judge=judge,
        cost=partial(price.cost, batch=batch),
        limit=partial(pricing.limit, max_tokens=config.max_tokens),
    )


def _request(config: OracleConfig) -> dict[str, Any]:
    """What decides a server's reply besides the prompt."""
    names = ["kind", "model", "base_url", "temperature", "max_tokens"]
    return _named(config, [*names, "thinking_budget", "thinking_level", "effort", "extra"])


def _named(config: OracleConfig, names: list[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _prompts(config: OracleConfig, data: DataConfig, mode: str) -> Prompts:
    """The user's own file is for what the arm asks; held-out attempts of `direct` are corrected by ours."""
    usual = "direct" if data.arm == "direct" else "rectified"
    return prompts(
        mode,
        ground_truth=config.ground_truth,
        answer_format=data.answer_format,
        own=config.prompt if mode == usual else None,
        own_reask=config.reask_prompt,
    )


def corrections_digest(config: OracleConfig, data: DataConfig) -> str:
    """Of a human's corrections: of a file its content, of the hub the commit."""
    if not _in_rows(config, data):
        return digests.hash_file(_file(config, data))
    found = hub.identity_of(data)
    return str(found.get("file") or artifacts.hash_text(json.dumps(found, sort_keys=True)))


def written(config: OracleConfig, data: DataConfig, pose: Callable[[str], str]) -> human.Source:
    """Corrections in the rows of the questions, in a sheet of `spot correct`, or in JSON Lines."""
    if _in_rows(config, data):
        fields = data.fields
        found = read_solutions(
            hub.rows_of(data), fields, data.answer_format, on_bad_row=data.on_bad_row
        )
        if not found:
            raise UserError(
                f"{data.path or data.hub} holds no correction in the field {fields.solution!r}: check "
                "data.fields.solution."
            )
        return lambda _: human.from_rows(found)
    path = _file(config, data)
    if path.suffix.lower() in human_sheet.SHEETS:
        return partial(human.from_sheet, path)
    names = data.fields
    solutions = human.Solutions(
        path, names.solution or "solution", names.id, names.messages or names.question, pose
    )
    return lambda _: solutions.correct


def _in_rows(config: OracleConfig, data: DataConfig) -> bool:
    """Whether a human's corrections came with the questions."""
    return config.path is None and data.source in ("jsonl", "hub")


def _file(config: OracleConfig, data: DataConfig) -> Path:
    """The file of a human's corrections. Raises UserError when it is not there."""
    given = config.path or data.path
    if given is None or not Path(given).expanduser().is_file():
        raise UserError(f"oracle.path={given} is not a file: give the path of a JSON Lines file.")
    return Path(given).expanduser()


def _read_key(config: OracleConfig) -> None:
    if config.key_name is not None:
        read_key(config.key_name)
    elif config.kind == "gemini":
        read_key(*KEY_NAMES)
