r"""How many ordinary solutions an Oracle's filter of comments would refuse.

    python -m performance.false_alarms math500.jsonl --text=solution --question=problem
    python -m performance.false_alarms gsm8k.jsonl --text=175b_verification.solution --question=question

JSON Lines with a solution a row, which nobody has corrected: every comment found in one is a false alarm,
unless its author speaks of a mistake of his own. Prints each, and the share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spot.data.jsonl import value_at
from spot.oracle.comments import comment


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON Lines with solutions")
    parser.add_argument(
        "--text", default="solution", help="field of the solution; dots reach inside"
    )
    parser.add_argument("--question", default="problem", help="field of its question")
    options = parser.parse_args()
    lines = ["| file | solutions | refused | % |", "|---|---:|---:|---:|"]
    for path in options.files:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
        found = 0
        for number, row in enumerate(rows, 1):
            text, question = (
                str(value_at(row, key) or "") for key in (options.text, options.question)
            )
            if (said := comment(text, question=question)) is not None:
                found += 1
                print(f"{path.name}:{number}: {said[0]}: {said[1]!r}")
        share = 100 * found / max(1, len(rows))
        lines.append(f"| {path.name} | {len(rows)} | {found} | {share:.2f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
