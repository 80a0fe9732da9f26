"""The pair page's file: which words are marked, what may be shown, and what a wrong source is told."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edit_distance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification
from spot.data.word_diff import align, marked
from spot.report import pair_page
from spot.report.pair_page import read
from spot.utils.errors import UserError
from tests.support.runs import write_record

HOSTILE = (
    "</script><script>window.hacked = 1</script> <!-- \u2028 \u202e & ' \" {{ 7 * 7 }} \ud800 🙂 漢"
)
TEXTS = st.text(alphabet="ab \n\u00a0\u2028🙂", max_size=14)


def pair(
    number: int = 0,
    before: str | None = "one two three",
    after: str = "one 2 three",
    **changed: Any,
) -> Pair:
    values: dict[str, Any] = {
        "id": f"q{number}#0", "question_id": f"q{number}", "task": "sums", "arm": "rectified",
        "question": "What is 1 + 1?", "answer": "2", "chosen": after, "rejected": before,
        "change_ratio": 1 / 3, "common_prefix": 1, "chosen_tokens": 4, "rejected_tokens": 4,
    }  # fmt: skip
    return Pair(**values | changed)


def correction(outcome: str, chosen: str = "", **changed: Any) -> Rectification:
    values: dict[str, Any] = {
        "id": f"{outcome}#0", "question_id": outcome, "task": "sums", "question": "What is 1 + 1?",
        "answer": "2", "mode": "rectified", "rejected": "It is 3 .", "chosen": chosen,
        "extracted": None, "outcome": outcome, "oracle": "gemini:pro",
    }  # fmt: skip
    return Rectification(**values | changed)


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return path


def product(root: Path, stage: str, row_type: Any, *rows: Any) -> Path:
    target = artifacts.product(root, stage, {"gamma": 0.6})
    details = {"dropped": {"beyond_pairs": ["x", "y"]}}
    artifacts.compute_rows(
        target, row_type, lambda done, counts: rows, details=lambda rows: details
    )
    return target.folder


def unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def data(page: Path) -> tuple[dict[str, Any], list[list[Any]]]:
    """The index, and the texts of all rows."""
    found = re.findall(
        r'<script type="text/plain" (id="index"|class="chunk")>([A-Za-z0-9+/=]*)</script>',
        page.read_text(encoding="utf-8"),
    )
    chunks = [unpacked(text) for kind, text in found if "chunk" in kind]
    index = next(unpacked(text) for kind, text in found if "index" in kind)
    assert index["counts"] == [len(chunk) for chunk in chunks]
    return index, [row for chunk in chunks for row in chunk]


# ---------------------------------------------------------------- words


@given(TEXTS, TEXTS)
def test_the_marks_are_a_longest_common_subsequence_of_the_words(before: str, after: str) -> None:
    found = align(before, after)
    assert "".join(piece.text for piece in found.before) == before
    assert "".join(piece.text for piece in found.after) == after
    for side in (found.before, found.after):
        assert [piece.edited for piece in side] == [i % 2 == 1 for i in range(len(found.before))]
    kept = [
        " ".join(p.text for p in s if not p.edited).split() for s in (found.before, found.after)
    ]
    assert kept[0] == kept[1]
    if before.split() and after.split():
        independent = edit_distance.SequenceMatcher(
            before.split(), after.split(), action_function=edit_distance.highest_match_action
        )
        assert len(kept[0]) == found.kept == independent.matches()


def test_pieces_by_hand() -> None:
    before, after = marked("We add:\n 3 + 4 = 8. So 8", "We add:\n 3 + 4 = 7. So, now 7")
    assert [(p.text, p.edited) for p in before] == [
        ("We add:\n 3 + 4 = ", False),
        ("8. So 8", True),
    ]
    assert [p.text for p in after if p.edited] == ["7. So, now 7"]
    assert align("a b c", "a b b c").change_ratio == 1 / 4
    assert align("a", "").change_ratio is None


# ---------------------------------------------------------------- the file


def test_the_file_holds_every_row_and_reaches_for_nothing(tmp_path: Path) -> None:
    alone = {"change_ratio": None, "common_prefix": None, "rejected_tokens": None, "arm": "self"}
    rows = [
        pair(0),
        pair(1, f"{HOSTILE} " * 4000, f"{HOSTILE} right " * 4000, question=HOSTILE),
        pair(2, None, "by itself", **alone),
    ]
    pair_page.command([str(written(tmp_path, *rows))])
    page = tmp_path / "pairs.html"
    index, bodies = data(page)
    assert index["id"] == ["q0#0", "q1#0", "q2#0"]
    assert (index["ratio"], index["unit"]) == ([0.3333, 0.3333, None], "tokens")
    assert index["prefix"] == [1, 1, None]
    assert index["kind"] == ["rectified", "rectified", "self"]
    assert len(index["counts"]) == 2, "a new chunk after the long one"
    for row, (*texts, _, before, after, cut, cut_after, tries) in zip(rows, bodies, strict=True):
        assert (*texts, before, after) == (row.question, row.answer, row.rejected, row.chosen)
        assert tries == []
        for text, lengths in ((before, cut), (after, cut_after)):
            if lengths is not None:
                assert sum(lengths) == len(text.encode("utf-16-le", "surrogatepass")) // 2
    text = page.read_text(encoding="utf-8")
    assert "window.hacked" not in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']""", text.split("<script>")[0])
    assert "default-src 'none'; script-src 'sha256-" in text
    first = page.read_bytes()
    pair_page.command([str(tmp_path / "pairs.jsonl")])
    assert page.read_bytes() == first


def test_a_run_and_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = product(tmp_path / "products", "select", Pair, pair(0), pair(1))
    run = tmp_path / "run"
    write_record(run, "spot_bco", 0, {"pairs": pairs})
    pair_page.command([str(run)])
    assert data(run / "pairs.html")[0]["id"] == ["q0#0", "q1#0"]
    assert "2 beyond pairs" in (run / "pairs.html").read_text()
    monkeypatch.chdir(tmp_path)
    pair_page.command([str(pairs)])
    assert (tmp_path / f"pairs-{pairs.name}.html").exists()
    assert sorted(p.name for p in pairs.iterdir()) == ["lock", "manifest.json", "rows.jsonl"]


def test_an_oracle_can_be_audited(tmp_path: Path) -> None:
    reply = "=== CORRECTED STARTED ===\nIt is 5 .\n=== CORRECTED ENDED ==="
    shown = {"prompt": "rectify", "outcome": "wrong", "reason": "5 does not match", "cost": 0.01, "text": reply}  # fmt: skip
    rows = [
        correction("ok", "It is 2 .", extracted="2"),
        correction("wrong", detail={"tries": [shown | {"usage": {}}], "cost": 0.01}),
        correction("rewritten", "", extracted="2"),
        correction("refused", ""),
    ]
    folder = product(tmp_path, "rectify", Rectification, *rows)
    pair_page.command([str(folder), f"out={tmp_path / 'audit.html'}"])
    index, bodies = data(tmp_path / "audit.html")
    kinds = index["kind"]
    by_kind = dict(zip(kinds, bodies, strict=True))
    verified = {"ok": 1, "refused": 0, "rewritten": 1, "wrong": 0}
    assert dict(zip(kinds, index["verified"], strict=True)) == verified
    assert index["taken"] == [int(kind == "ok") for kind in kinds]
    assert index["unit"] == "words"
    assert index["ratio"][kinds.index("ok")] == 0.25
    _, _, _, before, after, *cuts, tries = by_kind["wrong"]
    assert (before, after) == ("It is 3 .", "It is 5 ."), "what the Oracle wrote, cleaned"
    assert cuts == [[6, 1, 2], [6, 1, 2]]
    assert tries == [shown]
    assert by_kind["refused"][4:7] == ["", None, None]


# ---------------------------------------------------------------- mistakes


def attempt() -> Attempt:
    return Attempt("a#0", "a", 0, "sums", "q", "2", "r", "stop", 3, None, "wrong", "tiny", 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nowhere", "is not there: give a run's folder"),
        (lambda p: p, "is neither a run nor a product: give"),
        (lambda p: written(p), "holds no rows"),
        (lambda p: written(p, attempt()), "holds attempts; give"),
        (lambda p: written(p, pair(), correction("ok", "x")), "line 2 is no Pair as the first is"),
        (lambda p: product(p, "elicit", Attempt, attempt()), "was made by elicit and holds no pairs"),
        (lambda p: product(p, "select", Pair), "holds no rows"),
        (lambda p: _file(p / "x.jsonl", b"\xff\xfe"), "is not UTF-8 text"),
        (lambda p: _file(p / "x.jsonl", b"{}\n"), "line 1 is neither a pair nor a correction"),
        (lambda p: _file(p / "run.json", b"[]").parent, "names no pairs"),
        (lambda p: _file(p / "0" / "run.json", b"{}").parents[1], "is a sweep: name one of its runs"),
        (lambda p: _file(p / "rows.partial.jsonl", b"").parent, "is unfinished: run the command"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_told_in_one_line(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as told:
        read(make(tmp_path))
    assert "\n" not in str(told.value)


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_damaged_product_is_told(tmp_path: Path) -> None:
    folder = product(tmp_path, "select", Pair, pair())
    (folder / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match="does not match its manifest"):
        read(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one source of pairs: spot pairs <run folder"),
        (["a", "b"], "name one source"),
        (["{source}", "out=a.html", "out=b.html"], "out is given twice"),
        (["{source}", "out="], "out is empty"),
        (["{source}", "out={source}"], "is not a page: give a name that ends in .html"),
        (["{source}", "out={source}/x.html"], "cannot be written (Not a directory): give another"),
        (["{source}", "out={folder}"], "is not a page"),
        (
            ["{source}", f"out={'x' * 300}.html"],
            "cannot be written (File name too long): give another",
        ),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    source = written(tmp_path, pair())
    before = source.read_bytes()
    with pytest.raises(UserError, match=re.escape(said)):
        pair_page.command([a.format(source=source, folder=tmp_path) for a in arguments])
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs.jsonl"]
