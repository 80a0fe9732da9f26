"""The group `loss`: the table of all losses, the arms, and the keys of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spot.config.missing import MISSING
from spot.utils.errors import UserError, in_range, one_of


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses: what a method is and what it needs.

    The function of the same name in `spot.training.losses` computes it; docs/losses.md is written from
    these rows. In formulas r is the implicit reward of eq. 3, or its mean over the response (`mean`).
    """

    formula: str  # KaTeX, of a pair, or of a token of y⁺
    source: str
    token: bool = False  # one value a token of y⁺, at the rates of SFT; else one a pair
    rejected: bool = False  # has a term in y⁻
    reference: bool = True  # is measured against the frozen start
    mean: bool = False  # takes rewards divided by the tokens of the response
    delta: bool = False  # subtracts δ
    numbers: tuple[str, ...] = ()  # keys of LossConfig that the formula has besides β
    beta: float = 0.1  # where neither the run nor the model names one; 0.1 is the paper's
    # what it is at some setting: the setting, or words, → another loss, or words; all are tested
    limits: Mapping[str, str] = field(default_factory=dict)


LOSSES: dict[str, Loss] = {
    "sft": Loss(
        r"-\log \pi_\theta", "SPoT, eq. 2", token=True, reference=False,
    ),
    "dft": Loss(
        r"-\operatorname{sg}(\pi_\theta) \log \pi_\theta", "Wu et al., arXiv 2508.05629",
        token=True, reference=False, limits={"where $\\pi_\\theta = 1$": "sft"},
    ),
    "psft": Loss(
        r"-\min(\rho, 1 + \epsilon)", "Zhu et al., arXiv 2508.17784, PPO's loss with an advantage of 1",
        token=True, numbers=("clip_ratio",), limits={"first step's gradient": "sft"},
    ),
    "asft": Loss(
        r"-\operatorname{sg}(\pi_\theta) \log \pi_\theta + \lambda (\rho^{-1} - 1 + \log \rho)",
        "Zhu et al., arXiv 2509.23753, its KL by Schulman's k3 at the tokens of y⁺",
        token=True, numbers=("kl_weight",), limits={"loss.kl_weight=0": "dft"},
    ),
    "kl_sft": Loss(
        r"-\log \pi_\theta + \lambda (\rho^{-1} - 1 + \log \rho)", "SFT with the KL of `asft`",
        token=True, numbers=("kl_weight",), limits={"loss.kl_weight=0": "sft"},
    ),
    "rwsft": Loss(
        r"-\log \sigma(r^+)", "SPoT, eq. 5", limits={"where $r^- \\to -\\infty$": "bce"},
    ),
    "dpo": Loss(
        r"-\log \sigma(r^+ - r^-)", "SPoT, eq. 4; Rafailov et al., arXiv 2305.18290, eq. 7",
        rejected=True, limits={"where $r^- = 0$": "rwsft"},
    ),
    "dpop": Loss(
        r"-\log \sigma(r^+ - r^- - \lambda \max(0, -r^+))", "Pal et al., arXiv 2402.13228, eq. 3",
        rejected=True, numbers=("penalty",), beta=0.3,
        limits={"loss.penalty=0": "dpo", "where $r^+ \\ge 0$": "dpo"},
    ),
    "ipo": Loss(
        r"\left(\frac{r^+ - r^-}{\beta} - \frac{1}{2\beta}\right)^2",
        "Azar et al., arXiv 2310.12036, eq. 17, by means over tokens as in TRL",
        rejected=True, mean=True, limits={"where $r^+ - r^- = 1/2$": "0"},
    ),
    "simpo": Loss(
        r"-\log \sigma(r^+ - r^- - m)",
        r"Meng et al., arXiv 2405.14734, eq. 6; $r = \frac{\beta}{|y|} \log \pi_\theta(y)$",
        rejected=True, reference=False, mean=True, numbers=("margin",), beta=2.0,
        limits={"loss.margin=0": "dpo"},
    ),
    "bce": Loss(
        r"-\log \sigma(r^+) - \log \sigma(-r^-)", "SPoT, eq. 9", rejected=True,
        limits={"where $r^- \\to -\\infty$": "rwsft"},
    ),
    "bco": Loss(
        r"-\log \sigma(r^+ - \delta) - \log \sigma(-(r^- - \delta))",
        "SPoT, eq. 10; Jung et al., arXiv 2404.04656",
        rejected=True, delta=True, limits={"loss.delta.mode=zero": "bce"},
    ),
    "kto": Loss(
        r"\sigma(-(r^+ - \delta)) + \sigma(r^- - \delta)",
        "Ethayarajh et al., arXiv 2402.01306, eq. 7, paired, δ in place of its KL",
        rejected=True, delta=True, limits={"loss.delta.mode=zero": "apo_zero"},
    ),
    "apo_zero": Loss(
        r"\sigma(-r^+) + \sigma(r^-)", "D'Oosterlinck et al., arXiv 2408.06266, eq. 7",
        rejected=True, limits={"where $r^+ = 0$": "apo_down"},
    ),
    "apo_down": Loss(
        r"\sigma(r^+) + \sigma(-(r^+ - r^-))", "D'Oosterlinck et al., arXiv 2408.06266, eq. 8",
        rejected=True, limits={"where $r^+ = 0$": "apo_zero"},
    ),
    "nca": Loss(
        r"-\log \sigma(r^+) - \tfrac12 \log \sigma(-r^+) - \tfrac12 \log \sigma(-r^-)",
        "Chen et al., arXiv 2402.05369, with two responses", rejected=True,
        limits={"where $r^+ = r^-$": "bce"},
    ),
}  # fmt: skip


@dataclass
class DeltaConfig:
    """BCO's threshold δ (eq. 10)."""

    mode: str = "ema"  # ema (the paper) | cumulative (the released runs) | zero (= BCE)
    decay: float = 0.9  # of the average; the paper does not state it
    # cumulative: pairs after which it moves on within a step, those among them; null: after the step
    micro_batch: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        one_of("loss.delta.mode", self.mode, ("ema", "cumulative", "zero"))
        in_range("loss.delta.decay", self.decay, 0, 1)
        in_range("loss.delta.micro_batch", self.micro_batch, 1)
        if self.micro_batch is not None and self.mode != "cumulative":
            raise UserError(
                f"loss.delta.micro_batch={self.micro_batch} is for loss.delta.mode=cumulative, here it is "
                f"{self.mode}: choose that, or leave it out."
            )


@dataclass
class SpanWeights:
    """What the tokens of one response count, by where they stand."""

    prefix: float = 1.0  # before the first edit, where y⁺ and y⁻ are alike
    edit: float = 1.0  # in an edit
    after: float = 1.0  # behind the first edit, and not edited


@dataclass
class WeightsConfig:
    """What tokens count in rewards and token losses; all 1 is the paper."""

    by: str = (
        "edits"  # edits (what the LCS finds) | step (from the first difference to its line's end)
    )
    fade: float | None = None  # tokens in which the weight behind an edit halves; null: it stays
    chosen: SpanWeights = field(default_factory=SpanWeights)
    rejected: SpanWeights = field(default_factory=SpanWeights)

    def __post_init__(self) -> None:
        one_of("loss.weights.by", self.by, ("edits", "step"))
        in_range("loss.weights.fade", self.fade, 0, open_low=True)
        for side in ("chosen", "rejected"):
            for name, weight in asdict(getattr(self, side)).items():
                in_range(f"loss.weights.{side}.{name}", weight, 0)

    @property
    def most(self) -> float:
        """The largest of all."""
        return max(*asdict(self.chosen).values(), *asdict(self.rejected).values())

    @property
    def plain(self) -> bool:
        """Whether every token counts 1."""
        return self.fade is None and self.chosen == self.rejected == SpanWeights()


@dataclass
class LossConfig:
    """The method and its optimisation. Defaults are the paper's and its scripts'."""

    name: str = MISSING
    beta: float | None = None  # null: model.tuned, else the loss's own, mostly 0.1
    delta: DeltaConfig = field(default_factory=DeltaConfig)
    sft_reduction: str = "token"  # token (mean over response tokens) | sequence (eq. 2's sum)
    sft_weight: float = 0.0  # of the loss of SFT, added to a loss of pairs
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    penalty: float = 50.0  # λ of dpop (its paper's)
    margin: float = 1.0  # m of simpo, half of its β as its authors advise
    clip_ratio: float = 0.28  # ε of psft, DAPO's upper bound
    kl_weight: float = 0.05  # λ of asft and kl_sft
    learning_rate: float | None = None  # null: the model's
    epochs: int = 2
    batch_pairs: int = 32
    schedule: str = "cosine"  # cosine | linear | constant, after the warm-up
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    clip: float = 1.0  # of the global gradient norm

    def __post_init__(self) -> None:
        one_of("loss.name", self.name, tuple(LOSSES))
        one_of("loss.sft_reduction", self.sft_reduction, ("token", "sequence"))
        one_of("loss.schedule", self.schedule, ("cosine", "linear", "constant"))
        in_range("loss.beta", self.beta, 0, open_low=True)
        for name in ("sft_weight", "penalty", "margin", "kl_weight", "weight_decay"):
            in_range(f"loss.{name}", getattr(self, name), 0)
        in_range("loss.clip_ratio", self.clip_ratio, 0, open_low=True)
        in_range("loss.learning_rate", self.learning_rate, 0, 1, open_low=True)
        in_range("loss.epochs", self.epochs, 1)
        in_range("loss.batch_pairs", self.batch_pairs, 1)
        in_range("loss.warmup", self.warmup, 0, 1)
        in_range("loss.adam_beta1", self.adam_beta1, 0, 0.9999)
        in_range("loss.adam_beta2", self.adam_beta2, 0, 0.99999)
        in_range("loss.clip", self.clip, 0, open_low=True)
        self._check()

    def _check(self) -> None:
        """Refuse keys that leave nothing to learn, or that this loss does not have."""
        loss = LOSSES[self.name]
        learned = asdict(self.weights.chosen).values()
        unlearned = asdict(self.weights.rejected).values() if loss.rejected else ()
        if not any((*learned, *unlearned)):
            raise UserError(
                f"loss.weights are 0 for every token that loss={self.name} learns from: raise one, "
                "loss.weights.chosen.edit=1."
            )
        if self.sft_weight and loss.token:
            raise UserError(
                f"loss.sft_weight adds SFT to a loss of pairs and loss={self.name} is one of tokens: "
                "leave it 0, or choose another, loss=dpo."
            )

    def settings(self) -> dict[str, Any]:
        """What names a trained model. Later keys enter where they are not their default: old names stay."""
        usual, own = asdict(LossConfig(self.name)), asdict(self)
        later = ("sft_weight", "weights", "penalty", "margin", "clip_ratio", "kl_weight")
        kept = {k: v for k, v in own.items() if k not in later or v != usual[k]}
        if self.delta.micro_batch is None:
            del kept["delta"]["micro_batch"]
        return kept | {"edit_weight": 1.0}  # what `weights` has replaced


ARMS = {  # the rows of the paper's tables: (loss, data.arm); conf/arm/ has a file for each
    "sft": ("sft", "direct"),
    "rft": ("sft", "self"),
    "sft_plus": ("sft", "rectified"),
    "dpo": ("dpo", "rectified"),
    "rwsft": ("rwsft", "rectified"),
    "dft": ("dft", "rectified"),
    "spot_bce": ("bce", "rectified"),
    "spot_bco": ("bco", "rectified"),
    "bco_direct": ("bco", "direct"),
}
EDITED = SpanWeights(prefix=0.0, after=0.0)
WEIGHTED_ARMS = {  # rows that weigh tokens: (loss, data.arm, weights); they have files, too
    "int": ("sft", "rectified", WeightsConfig(by="step", chosen=SpanWeights(after=0.0))),
    "edit_only": ("bco", "rectified", WeightsConfig(chosen=EDITED, rejected=EDITED)),
    "fading_suffix": ("bco", "rectified", WeightsConfig(fade=32.0)),
    "step_dpo": ("dpo", "rectified", WeightsConfig(by="step", chosen=EDITED, rejected=EDITED)),
}


def arm_name(loss: LossConfig, data_arm: str) -> str | None:
    """The name of a loss on a data arm, or None when it has none; weights that no row has change no name."""
    for name, (of, arm, weights) in WEIGHTED_ARMS.items():
        if (loss.name, data_arm, loss.weights) == (of, arm, weights):
            return name
    return next((name for name, row in ARMS.items() if row == (loss.name, data_arm)), None)
