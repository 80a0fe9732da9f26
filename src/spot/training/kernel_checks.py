"""Before a kernel is trusted: its numbers and gradients on random tensors, against plain computations.

Kernels differ in what nobody notices from the loss: the alignment of a causal mask where queries are
fewer than keys, the order of grouped heads, a backward pass that forgets a term, logits rounded to
bf16. Training does not start on such a one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from spot.training import attention, logprobs
from spot.training.bin_packing import head_dim
from spot.training.fused_layers import fused
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.weights import shortened
from spot.utils.errors import UserError, first_line

# what a kernel raises that was made for another machine or version
UNFIT = (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError)

# ---- attention -----------------------------------------------------------------------------------

CHECK_ROWS = ((3, 2, 4), (20, 5, 1), (1, 0, 3), (4, 4, 0), (130, 1, 70), (65, 90, 3), (2, 0, 0))
CHECK_WINDOW = 5
ATTENTION_BOUNDS = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}


def dense_mask(rows: attention.Rows, window: int | None = None) -> Tensor:
    """Boolean [T, T], token by token: the same row, no later, in the window, and no look from b into a."""
    row, place, piece, position = (
        torch.tensor(values)
        for values in zip(
            *(
                (r, i, 0 if i < c else 1 if i < c + a else 2, i if i < c + a else i - a)
                for r, (c, a, b) in enumerate(rows)
                for i in range(c + a + b)
            ),
            strict=True,
        )
    )
    same, earlier = row[:, None] == row[None], place[None] <= place[:, None]
    if window is not None:
        same &= position[:, None] - position[None] < window
    return same & earlier & ~((piece[:, None] == 2) & (piece[None] == 1))


def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: attention.Rows,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """The oracle: one SDPA call over all tokens with the boolean mask. Shapes as `packed_sdpa`."""
    query, key, value = (states.transpose(0, 1)[None] for states in (q, k, v))
    mask = dense_mask(rows, window).to(q.device)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def disagreement(
    name: str,
    heads: tuple[int, int],
    d: int,
    dtype: torch.dtype,
    device: torch.device | str,
    window: int | None = None,
) -> float:
    """Largest relative L2 distance to the fp32 oracle (fp64 for fp64), of output and gradients.

    heads: of queries, and of keys and values.
    """
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    total = sum(map(sum, CHECK_ROWS))
    given = [
        torch.randn(total, n, d, generator=generator, dtype=torch.float64).to(device, dtype)
        for n in (heads[0], heads[1], heads[1], heads[0])
    ]

    def outcome(cast: torch.dtype, attend: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        q, k, v, upstream = (t.to(cast, copy=True).requires_grad_() for t in given)
        out = attend(q, k, v)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), upstream)

    kernel, scores = attention.KERNELS[name], attention.Scores(d**-0.5, window)
    layout = kernel.layout(CHECK_ROWS, dtype, device)
    actual = outcome(dtype, lambda q, k, v: kernel.attend(q, k, v, layout, scores))
    exact = outcome(wide, lambda q, k, v: dense(q, k, v, CHECK_ROWS, d**-0.5, window))
    return max(
        ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()
        for got, wanted in zip(actual, exact, strict=True)
    )


def check_attention(
    name: str, config: Any, dtype: torch.dtype, device: torch.device | str
) -> float:
    """Try a kernel on the head shapes of a model's `config` before it is trusted; a UserError where it is wrong.

    What it would catch: another alignment of the causal mask where queries are fewer than keys, heads
    grouped in another order, a wrong backward pass. Returns the disagreement.
    """
    heads = config.num_attention_heads
    d = head_dim(config)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    try:
        windows = (None, CHECK_WINDOW) if getattr(config, "sliding_window", None) else (None,)
        off = max(disagreement(name, (heads, kv_heads), d, dtype, device, w) for w in windows)
    except UNFIT as error:
        raise UserError(
            f"hardware.attention={name} does not run here ({first_line(error)}): choose hardware.attention=sdpa."
        ) from error
    if not off <= ATTENTION_BOUNDS[dtype]:
        raise UserError(
            f"hardware.attention={name} is not exact here (off by {off:.2g}, bound "
            f"{ATTENTION_BOUNDS[dtype]:g}): choose hardware.attention=sdpa."
        )
    return off


# ---- log-probs -----------------------------------------------------------------------------------


def plain_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    entropy: bool = False,
    bias: Tensor | None = None,
    shaping: logprobs.Shaping = logprobs.UNSHAPED,
) -> tuple[Tensor, Tensor | None]:
    """The oracle: all logits at once, in fp32 (fp64 for fp64 states)."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = F.linear(hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    logits = shaping.scale * logits
    if shaping.cap is not None:
        logits = shaping.cap * torch.tanh(logits / shaping.cap)
    logps = logits.log_softmax(-1)
    entropies = -(logps.exp() * logps).sum(-1).detach() if entropy else None
    return logps.gather(-1, targets[:, None])[:, 0], entropies


LOGPROB_BOUNDS = {  # of log-probs and entropies (nats), and of gradients (relative L2)
    torch.float64: (1e-9, 1e-6),
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (1e-3, 2e-2),
    torch.float16: (1e-3, 1e-2),
}


def check_logprobs(
    name: str,
    hidden: int,
    dtype: torch.dtype,
    device: torch.device | str,
    shaping: logprobs.Shaping = logprobs.UNSHAPED,
) -> None:
    """Compare a kernel with the oracle on random tensors; a UserError where its numbers differ.

    There are more rows than a kernel takes at once, so that adding up the head's gradient is tried.
    """
    generator = torch.Generator().manual_seed(0)
    rows, words = 1100, 1000
    h = torch.randn(rows, hidden, generator=generator).to(device, dtype)
    w = (torch.randn(words, hidden, generator=generator) * (4 / hidden**0.5)).to(device, dtype)
    targets = torch.randint(0, words, (rows,), generator=generator).to(device)
    upstream = torch.randn(rows, generator=generator).to(device)

    def outcome(kernel: logprobs.TokenLogProbs) -> tuple[Tensor, ...]:
        inputs = h.clone().requires_grad_(), w.clone().requires_grad_()
        logps, entropies = kernel(*inputs, targets, entropy=True, shaping=shaping)
        assert entropies is not None
        gradients = torch.autograd.grad(logps, inputs, upstream.to(logps))
        return torch.cat([logps.detach(), entropies]).double(), *(g.double() for g in gradients)

    try:
        actual, *gradients = outcome(logprobs.KERNELS[name])
    except UNFIT as error:
        raise UserError(
            f"hardware.logprobs={name} does not run here ({first_line(error)}): make install EXTRAS=test,gpu, or "
            "choose hardware.logprobs=torch."
        ) from error
    exact, *exact_gradients = outcome(plain_logprobs)
    bound, gradient_bound = LOGPROB_BOUNDS[dtype]
    off = (actual - exact).abs().max().item()
    gradient_off = max(
        ((a - b).norm() / b.norm()).item() for a, b in zip(gradients, exact_gradients, strict=True)
    )
    if not (off <= bound and gradient_off <= gradient_bound):
        raise UserError(
            f"hardware.logprobs={name} does not give the numbers it should in {dtype} (log-probs off "
            f"by {off:.2g}, gradients by {gradient_off:.2g}): choose hardware.logprobs=torch."
        )


# ---- fused layers --------------------------------------------------------------------------------

CHECK_WORDS = 64
CHECK_TEXTS = ((3, 2, 4), (20, 5, 1), (9, 8, 7))  # lengths of prompts, y⁺ and y⁻
CHECK_TIMES = {"cpu": 1, "cuda": 72}  # a GPU takes 32,768 rows of a head's norm by another kernel
ROUNDING = 5e-7  # of sums in fp32, which kernels compute in whatever the dtype
CHECK_SLACK = 3.0  # how many times as far from exact as the model's own layer


def check_fused(config: Any, dtype: torch.dtype, device: torch.device | str) -> None:
    """Compare a fused decoder layer with the model's own, at its widths and with random weights.

    Both compute a pack with shared prefixes in `dtype`. Hidden states and every gradient may be off
    those of a wider dtype by no more than `CHECK_SLACK` times what the model's own layer is off; a
    UserError where one is.
    """
    wide = torch.float32 if torch.finfo(dtype).bits == 16 else torch.float64
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.manual_seed(0)
        model, exact = (_one_layer(config, kind, device) for kind in (dtype, wide))
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms begin as 1 and biases as 0
                torch.nn.init.normal_(parameter, 1.0, 0.2)
        exact.load_state_dict(model.state_dict())
    wanted, own = _layer_outcome(exact), _layer_outcome(model)
    try:
        with fused(model):
            found = _layer_outcome(model)
    except UNFIT as error:
        raise UserError(
            f"hardware.fused=liger does not run here ({first_line(error)}): choose hardware.fused=none."
        ) from error
    for name, values in wanted.items():
        off, usual = (((t[name] - values).norm() / values.norm()).item() for t in (found, own))
        if not off <= CHECK_SLACK * max(usual, ROUNDING):
            raise UserError(
                f"hardware.fused=liger is not exact here ({name} is off by {off:.2g}, without it by "
                f"{usual:.2g}): choose hardware.fused=none."
            )


def _one_layer(config: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A random model with one decoder layer of this configuration and few words."""
    small = shortened(config, 1)
    small.vocab_size, small.pad_token_id = CHECK_WORDS, None
    with torch.device(device):
        return AutoModelForCausalLM.from_config(small, dtype=dtype).base_model.train()


def _layer_outcome(model: Any) -> dict[str, Tensor]:
    """Hidden states of a pack, and the gradients of a random sum of them by all parameters."""
    random = np.random.default_rng(0)
    pairs = [
        PairTokens(str(i), *(random.integers(0, CHECK_WORDS, n) for n in lengths))
        for i, lengths in enumerate(CHECK_TEXTS * CHECK_TIMES[model.device.type])
    ]
    pack = build_pack(pairs, PackingSettings(10**9, parts=False)).to(model.device)
    with attention.packed(model):
        hidden = attention.hidden_states(model, pack)
        upstream = torch.from_numpy(random.standard_normal(hidden.shape)).to(hidden)
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(hidden, parameters, upstream)
    found = {"hidden states": hidden.detach()}
    found |= {f"the gradient of {n}": g for n, g in zip(names, gradients, strict=True)}
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return {name: values.to(wide) for name, values in found.items()}
