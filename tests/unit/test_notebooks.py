"""Notebooks as they are committed: without what running them leaves. `pytest --nbmake notebooks` runs them."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("**/*.ipynb"))
HOME = re.compile(r"(?<![\w.~$}/])/(?:home|root|Users|tmp|work|mnt|data|opt|var)/|[A-Z]:\\\\")


def test_both_notebooks_are_here():
    assert {path.stem for path in NOTEBOOKS} >= {"analyse_run", "method_by_hand"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert cell["outputs"] == [], f"strip it: nbstripout {path.name}"
        assert cell["execution_count"] is None, f"strip it: nbstripout {path.name}"
    assert not HOME.search(text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert ids == [str(place) for place in range(len(ids))]  # as nbstripout numbers them
    assert all(cell["metadata"] == {} for cell in notebook["cells"])


def test_an_absolute_path_would_be_found():
    assert HOME.search('open("/home/me/outputs")')
    assert HOME.search('"C:\\\\Users\\\\me"')
    assert not HOME.search("https://example.org/home/page and outputs/runs")
