"""The page of all losses, written from the table that the code reads."""

from __future__ import annotations

from spot.config import LOSSES

HEAD = """# Losses

Written from the code when the site is built. Each is a pure function in `src/spot/training/losses.py`, chosen by `loss=<name>`.

A pair's loss takes the implicit rewards $r^+$ and $r^-$ ([The method](method.md#reward)), a token's loss the probabilities
$\\pi_\\theta$ and $\\pi_{\\text{ref}}$ of a token of $y^+$, $\\rho = \\pi_\\theta / \\pi_{\\text{ref}}$. Rewards of `mean` losses are divided by the
tokens of the response. $\\delta$ is the threshold of [BCO](method.md#the-threshold); other letters are keys of `loss`. β is
the default where neither the run nor the model's `tuned` names one: 0.1 is the paper's, others are the method's own paper's.
Losses of tokens have the model's `learning_rate_sft`, those of pairs `learning_rate_reward`; no rate was tuned for the losses that
the paper does not have.

| `loss=` | of a token or a pair | source | needs | β | equals |
|---|---|---|---|---:|---|"""
LETTERS = {"penalty": "λ", "margin": "m", "clip_ratio": "ε", "kl_weight": "λ"}
TAIL = """
"Equals" is tested, each line of it. Besides, for every loss: with all of `loss.weights` 1 and `loss.sft_weight=0` it is what the
formula says, and `loss.weights` of the spans make others of it:

| `arm=` | loss | what counts |
|---|---|---|
| `int` | `sft` | the prefix and the first step that differs (arXiv 2601.14209) |
| `step_dpo` | `dpo` | the first step that differs: DPO of responses that end with it (arXiv 2406.18629) |
| `edit_only` | `bco` | edited tokens |
| `fading_suffix` | `bco` | all, behind an edit half as much with every 32 tokens |

A step ends with its line. Weights multiply log-probs and rewards inside a token's sum; means are still over all tokens.
`loss.sft_weight` adds so many times the loss of `loss=sft`, of the same forward pass, by the same `loss.sft_reduction`.

`asft` and `kl_sft` estimate the KL at the tokens of $y^+$ from the scores that are there. Their papers' sum over the
vocabulary needs the reference's logits at every step.
"""


def page() -> str:
    """Markdown."""
    return "\n".join([HEAD, *map(_row, LOSSES), TAIL])


def _row(name: str) -> str:
    loss = LOSSES[name]
    needs = {
        "$y^-$": loss.rejected,
        "reference": loss.reference,
        "mean": loss.mean,
        "δ": loss.delta,
    }
    words = [word for word, needed in needs.items() if needed]
    words += [f"{LETTERS[key]}: `loss.{key}`" for key in loss.numbers]
    limits = [f"{_code(other)} {_code(setting)}" for setting, other in loss.limits.items()]
    beta = "" if loss.token else f"{loss.beta:g}"
    cells = [
        f"`{name}`",
        f"${loss.formula}$",
        loss.source,
        ", ".join(words),
        beta,
        "; ".join(limits),
    ]
    return f"| {' | '.join(cells)} |".replace("|y|", "\\lvert y \\rvert")


def _code(words: str) -> str:
    """A setting or the name of a loss as code; other words as they are."""
    return f"`{words}`" if ("=" in words and "$" not in words) or words in LOSSES else words
