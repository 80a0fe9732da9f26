"""Which learning rate and β each arm gets: the best average over domains in finished tuning sweeps.

    python experiments/tuning/choose.py outputs/sweeps/tuning_sft_like outputs/sweeps/tuning_reward

Prints every setting as CSV, the best of each arm marked. The average weighs in-domain, OOD and general
ability alike, as the paper's last column weighs benchmarks.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

from spot.config import LOSSES
from spot.data import artifacts
from spot.data.rows import Score

DOMAINS = ("in_domain", "ood", "general")


def accuracies(folder: Path) -> dict[str, float]:
    """Percent correct by domain."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for score in artifacts.read_rows(folder, Score):
        hits[score.domain].append(score.correct)
    return {domain: 100 * mean(hits[domain]) for domain in DOMAINS}


def settings(run_file: Path) -> dict[str, str | float]:
    """What one job tried and what it scored."""
    record = json.loads(run_file.read_text(encoding="utf-8"))
    loss = record["config"]["loss"]
    scores = accuracies((run_file.parent / record["products"]["scores"]).resolve())
    return {
        "arm": record["arm"],
        "learning_rate": loss["learning_rate"],
        "beta": "" if LOSSES[loss["name"]].token else loss["beta"],
        "seed": record["seed"],
        **{domain: round(value, 2) for domain, value in scores.items()},
        "average": round(mean(scores.values()), 2),
    }


def main() -> None:
    rows = [settings(f) for sweep in sys.argv[1:] for f in sorted(Path(sweep).glob("*/run.json"))]
    rows.sort(key=lambda row: (row["arm"], -float(row["average"])))
    table = csv.DictWriter(sys.stdout, [*rows[0], "best"], lineterminator="\n")
    table.writeheader()
    seen = set()
    for row in rows:
        table.writerow({**row, "best": "" if row["arm"] in seen else "yes"})
        seen.add(row["arm"])


if __name__ == "__main__":
    main()
