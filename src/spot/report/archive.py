"""A finished study as one small file from which its report can be made again.

The file mirrors the folders that a report reads: the runs' records, their products' manifests and logs,
and rows without the texts that no page shows. Nothing in it names a directory or a server. The same
study gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spot.config.difference import defaults
from spot.data import artifacts
from spot.data.rows import Pair, Response, Score, to_json
from spot.data.run_record import RUN_FILE
from spot.report import forgetting
from spot.report.external import EXTERNAL, external
from spot.report.load import (
    EXPORTED,
    EXPORTED_QUESTIONS,
    HELD_OUT,
    METRICS,
    FinishedRun,
    Study,
    load,
)
from spot.report.provenance import SWEEP_FILE, sweep_choices
from spot.report.tables import examples
from spot.utils.errors import UserError
from spot.utils.files import write_aside
from spot.utils.redact import scrubbed

SUFFIX = ".tar.gz"
DEFAULTS = "defaults.json"  # of the configuration, on the day the study was packed
STUDY, PRODUCTS = "study", "products"
MACHINE = ("pid", "host")  # of a record: of no use elsewhere
Files = dict[str, str]


def pack(sweep_folder: Path, target: Path) -> Path:
    """Write what the report of a sweep (or a run) reads to `target`, a `.tar.gz`; returns its path.

    Raises UserError when nothing is finished, a product is damaged or the name has another ending.
    """
    if not target.name.endswith(SUFFIX):
        raise UserError(f"{target} must end in {SUFFIX}: archive=<file>{SUFFIX}.")
    runs, unfinished = load(sweep_folder)
    files: Files = {f"{STUDY}/{DEFAULTS}": _text(read_defaults(sweep_folder))}
    if choices := sweep_choices(sweep_folder):
        files[f"{STUDY}/{SWEEP_FILE}"] = _text({"hydra": {"overrides": {"task": choices}}})
    study = Study(runs, unfinished, sweep_folder)
    lost = forgetting.forgetting(study).every
    shown = {f"{one.benchmark}/{one.question}" for one in lost}
    for run in runs:
        files |= _run(run, sweep_folder, shown)
    files |= _external(study, shown)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_aside(target, _tar(files, [f"{STUDY}/{name}" for name in unfinished]))
    return target


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The folder of a study: `source` itself, or while the block lasts that of an archive unpacked."""
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="spot-") as folder:
        try:
            _unpack(source, Path(folder))
        except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{source} is not an archive of a study ({reason}): give a run's or a sweep's folder, or "
                f"what `spot report <folder> archive=<file>{SUFFIX}` wrote."
            ) from None
        try:
            yield Path(folder) / STUDY
        except UserError as error:  # of what is inside: the folder is gone when that is read
            raise UserError(str(error).replace(folder, str(source))) from None


def _unpack(source: Path, folder: Path) -> None:
    """Files and folders of the archive, none outside of `folder`; links are left out."""
    with tarfile.open(source, "r:gz") as file:
        for entry in file:
            if entry.isdir() or entry.isfile():
                file.extract(entry, folder, filter="data")


def read_defaults(folder: Path) -> dict[str, Any]:
    """The defaults a study is compared with: those it was packed with, else today's."""
    path = folder / DEFAULTS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else defaults()


# ---- what goes in ------------------------------------------------------------------------------


def _run(run: FinishedRun, sweep: Path, shown: set[str]) -> Files:
    """A run's record and log, and its products, by their names in the archive.

    shown: benchmark questions whose text the report shows.
    """
    single = run.folder == sweep
    home, up = (STUDY, "../") if single else (f"{STUDY}/{run.folder.name}", "../../")
    files: Files = {}
    places = {}
    for name in run.products:
        folder = "{stage}/{key}".format(**run.manifest(name))
        places[name] = f"{up}{PRODUCTS}/{folder}"
        files |= {f"{PRODUCTS}/{folder}/{k}": v for k, v in _product(run, name, shown).items()}
    kept = {key: value for key, value in run.record.items() if key not in MACHINE}
    files[f"{home}/{RUN_FILE}"] = _text(kept, products=places)
    for name in (EXPORTED, EXPORTED_QUESTIONS):
        if (run.folder / name).exists():
            files[f"{home}/{name}"] = (run.folder / name).read_text(encoding="utf-8")
    return files


def _external(study: Study, shown: set[str]) -> Files:
    """The scores of models trained elsewhere, and where they are in the archive."""
    files: Files = {}
    places: dict[str, str] = {}
    for name, (measured,) in external(study).items():
        folder = "{stage}/{key}".format(**measured.manifest("scores"))
        places[name] = f"../{PRODUCTS}/{folder}"
        kept = _product(measured, "scores", shown)
        files |= {f"{PRODUCTS}/{folder}/{k}": v for k, v in kept.items()}
    return files | ({f"{STUDY}/{EXTERNAL}": _text({}, **places)} if places else {})


def _product(run: FinishedRun, name: str, shown: set[str]) -> Files:
    """The manifest of a product, and of its files what the report reads."""
    manifest = run.manifest(name)
    files: Files = {}
    kind = name.rpartition("/")[2]
    if kind in ("scores", "base_scores"):
        rows = run.scores_of(name)
        files[artifacts.ROWS] = _rows(_slim_score(score) for of in rows.values() for score in of)
    elif kind in ("pairs", "held_out"):
        pairs = run.pairs(name)
        whole = {pair.id for pair in examples(pairs)}
        files[artifacts.ROWS] = _rows(p if p.id in whole else _slim_pair(p) for p in pairs)
    elif kind == forgetting.ASKED:
        asked = forgetting.read(run.product(name))
        kept = (row for row in asked if row.id.rpartition("#")[0] in shown)
        files[artifacts.ROWS] = _rows(dataclasses.replace(row, response="") for row in kept)
    elif kind == "checkpoint":
        folder = run.product(name)
        logs = [folder / METRICS, *sorted((folder / HELD_OUT).glob("*.csv"))]
        files |= {str(log.relative_to(folder)): log.read_text(encoding="utf-8") for log in logs}
    details = {k: v for k, v in manifest["details"].items() if k != "dropped"}
    hashes = {file: artifacts.hash_text(text) for file, text in files.items()}
    return files | {artifacts.MANIFEST: _text(manifest | {"details": details}, files=hashes)}


def _slim_score(score: Score) -> Score:
    """Without what the model wrote; warnings of the grader stay."""
    details = {k: v for k, v in score.details.items() if k == "warning"}
    return dataclasses.replace(
        score, extracted=None, response="", seed=0, reason="", details=details
    )


def _slim_pair(pair: Pair) -> Pair:
    rejected = None if pair.rejected is None else ""
    return dataclasses.replace(pair, question="", answer="", chosen="", rejected=rejected)


def _rows(rows: Iterable[Score | Pair | Response]) -> str:
    return "".join(to_json(row) + "\n" for row in rows)


def _text(value: Mapping[str, Any], **ours: Any) -> str:
    """JSON in which no directory, server or key is named; `ours` are added as they are."""
    return json.dumps(scrubbed(dict(value)) | ours, indent=1, ensure_ascii=False) + "\n"


def _tar(files: Files, folders: list[str]) -> bytes:
    """The files in the order of their names, without owners and times."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted([*files, *folders]):
            entry = tarfile.TarInfo(name)
            if name in files:
                content = files[name].encode()
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
    return gzip.compress(raw.getvalue(), compresslevel=9, mtime=0)
