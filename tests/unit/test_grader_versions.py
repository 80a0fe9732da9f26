"""A grader's version moves with its verdicts, so that no product keeps verdicts of another grader."""

import pytest

from spot.config.benchmarks import FAMILIES
from spot.grading import versions
from tests.support import grader_cases


@pytest.fixture(scope="module")
def graded():
    some = grader_cases.cases()
    return some, grader_cases.verdicts(some)


def test_every_family_has_cases_and_a_version(graded):
    some, _ = graded
    assert {case["family"] for case in some} == set(versions.VERSIONS) == set(FAMILIES) - {"data"}
    assert len(some) > 300


def test_the_versions_are_those_of_today_s_verdicts(graded):
    some, found = graded
    wanted = {name: grader_cases.version(some, found, name) for name in versions.VERSIONS}
    moved = "\n".join(grader_cases.moved(some, found))
    assert wanted == versions.VERSIONS, (
        f"Verdicts have moved:\n{moved}\nIf that is right, run: {grader_cases.COMMAND}"
    )


def test_one_other_verdict_is_another_version(graded):
    some, found = graded
    for index in (0, len(found) - 1):
        name = some[index]["family"]
        other = [*found[:index], "another", *found[index + 1 :]]
        assert grader_cases.version(some, other, name) != versions.VERSIONS[name]
        (line,) = grader_cases.moved(some, other)
        assert line.startswith(name)
