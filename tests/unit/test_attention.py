"""The packed attention function against dense attention over the whole pack."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from spot.training import attention, kernel_checks
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.utils.errors import UserError

ROWS = [(3, 2, 4), (20, 5, 1), (1, 0, 3), (4, 4, 0), (19, 3, 3)]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention over all tokens at once, with a T x T mask built token by token."""
    total = q.shape[0]
    seen = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for c, a, b in ROWS:
        for i in range(c + a + b):
            for j in range(i + 1):
                if not (i >= c + a and c <= j < c + a):
                    seen[start + i, start + j] = True
        start += c + a + b
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * 0.3
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def loop(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_ends: torch.Tensor, k_ends: torch.Tensor,
    longest_q: int, longest_k: int, scores: attention.Scores, corner: int = 1,
) -> torch.Tensor:  # fmt: skip
    """A variable-length call as a GPU kernel has it: segment by segment, causal from the bottom right.

    corner=0 aligns to the top left instead, which is what a wrong kernel would do.
    """
    outputs = []
    segments = zip(
        q_ends.tolist(), q_ends.tolist()[1:], k_ends.tolist(), k_ends.tolist()[1:], strict=False
    )
    groups = q.shape[1] // k.shape[1]
    for q0, q1, k0, k1 in segments:
        assert q1 - q0 <= longest_q
        assert k1 - k0 <= longest_k
        keys, values = (t[k0:k1].repeat_interleave(groups, 1) for t in (k, v))
        products = torch.einsum("qhd,khd->hqk", q[q0:q1], keys) * scores.scale
        ones = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        seen = ones.tril((k1 - k0 - (q1 - q0)) * corner)
        weights = products.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs)


def with_other_heads(*inputs: Any) -> torch.Tensor:
    """Grouped heads in the wrong order."""
    q, *rest = inputs
    return loop(q.flip(1), *rest).flip(1)


def without_gradient_of_keys(*inputs: Any) -> torch.Tensor:
    """A backward pass that is not there."""
    q, k, *rest = inputs
    return loop(q, k.detach(), *rest) + 0 * k.sum()


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Any:
    """Kernels for segments that run on a CPU: one right, three wrong."""
    wrong = {"top_left": partial(loop, corner=0), "heads": with_other_heads,
             "backward": without_gradient_of_keys}  # fmt: skip
    names = {"loop": loop, **wrong}
    for name, call in names.items():
        attention.register(name, attention._segments(call))
    yield
    for name in names:
        del attention.KERNELS[name]


@pytest.mark.parametrize("name", ["sdpa", "loop"])
def test_packed_attention_equals_dense(name: str) -> None:
    torch.manual_seed(0)
    total = sum(map(sum, ROWS))
    q = torch.randn(total, 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(total, 2, 8, dtype=torch.float64, requires_grad=True) for _ in "kv")
    kernel = attention.KERNELS[name]
    layout = kernel.layout(ROWS, torch.float64)
    got = kernel.attend(q, k, v, layout, attention.Scores(0.3))
    for wanted in (dense(q, k, v), kernel_checks.dense(q, k, v, ROWS, 0.3)):
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
        weights = torch.randn_like(got)
        for a, b in zip(
            torch.autograd.grad((got * weights).sum(), (q, k, v), retain_graph=True),
            torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_segments_by_hand() -> None:
    layout = attention.make_segments([(3, 2, 4), (1, 0, 3), (4, 4, 0)])
    assert layout.pieces == (3, 2, 4, 1, 3, 4, 4)
    assert layout.keys == (0, 1, 0, 2, 3, 3, 4, 5, 6)  # c a | c b | c | c b | c a
    assert layout.q_ends.tolist() == [0, 5, 9, 10, 13, 21]
    assert layout.k_ends.tolist() == [0, 5, 12, 13, 17, 25]
    assert layout.longest == (8, 8)
    assert layout.q_ends.dtype == torch.int32


def test_visibility_by_hand() -> None:
    """[c c a b b]: b sees c and b, not a."""
    assert kernel_checks.dense_mask([(2, 1, 2)]).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    heads, tails = attention.make_blocks([(2, 1, 2)]).blocks
    assert heads.queries.tolist() == heads.keys.tolist() == [0, 1, 2]
    assert heads.mask is None
    assert tails.queries.tolist() == [3, 4]
    assert tails.keys.tolist() == [0, 1, 3, 4]
    assert tails.mask is not None
    assert (tails.mask[0, 0] == 0).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_blocks_waste_little() -> None:
    layout = attention.make_blocks([(50, 25, 25)] * 30 + [(10, 0, 0)] * 5 + [(48, 20, 22)])
    sizes = [(b.rows, len(b.queries) // b.rows, len(b.keys) // b.rows) for b in layout.blocks]
    assert sizes == [(31, 75, 75), (5, 10, 10), (31, 25, 75)]
    assert sorted(layout.back.tolist()) != list(range(len(layout.back)))  # padding has no place
    assert len(set(layout.back.tolist())) == len(layout.back) == 30 * 100 + 5 * 10 + 90


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sdpa", "loop"])
def test_the_self_check_passes_what_is_right(
    build_model: Any, kind: str, dtype: torch.dtype, name: str
) -> None:
    off = kernel_checks.check_attention(name, build_model(kind).config, dtype, "cpu")
    assert off < kernel_checks.ATTENTION_BOUNDS[dtype]


def test_the_self_check_tries_the_windows_of_a_model(build_model: Any) -> None:
    config = build_model().config
    config.sliding_window = 8
    assert kernel_checks.check_attention("sdpa", config, torch.float32, "cpu") < 1e-5
    with pytest.raises(UserError, match="attention=loop is not exact here"):  # it knows none
        kernel_checks.check_attention("loop", config, torch.float32, "cpu")


@pytest.mark.parametrize("name", ["top_left", "heads", "backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_self_check_refuses_what_is_wrong(
    build_model: Any, name: str, dtype: torch.dtype
) -> None:
    with pytest.raises(UserError, match=rf"attention={name} is not exact here"):
        kernel_checks.check_attention(name, build_model().config, dtype, "cpu")


def varlen_2_10(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int,
    is_causal: bool = False, return_aux: Any = None,
) -> torch.Tensor:  # fmt: skip
    assert is_causal
    scores = attention.Scores(query.shape[-1] ** -0.5)
    return loop(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scores)


def varlen_2_11(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:  # fmt: skip
    assert window_size == (-1, 0)
    scores = attention.Scores(query.shape[-1] ** -0.5 if scale is None else scale)
    return loop(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scores)


def varlen_2_12(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False, seqused_k: Any = None, block_table: Any = None, num_splits: Any = None,
) -> torch.Tensor:  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1]), "torch refuses grouped heads untold"
    return varlen_2_11(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


@pytest.mark.parametrize("function", [varlen_2_10, varlen_2_11, varlen_2_12])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_varlen_is_called_as_each_torch_has_it(
    monkeypatch: pytest.MonkeyPatch, function: Any, kv_heads: int
) -> None:
    """Stand-ins with the signatures of torch 2.10, 2.11 and 2.12; a scale that is not 1 / √d, too."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", function)
    assert kernel_checks.disagreement("varlen", (4, kv_heads), 8, torch.float64, "cpu") < 1e-9
    q, k, v = (torch.randn(sum(map(sum, ROWS)), n, 8).double() for n in (4, kv_heads, kv_heads))
    layout = attention.make_segments(ROWS)
    out = attention.KERNELS["varlen"].attend(q, k, v, layout, attention.Scores(0.3))
    torch.testing.assert_close(out, dense(q, k, v), atol=1e-12, rtol=0)


def test_varlen_of_a_torch_without_windows(
    monkeypatch: pytest.MonkeyPatch, build_model: Any
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_2_10)
    config = build_model().config
    config.sliding_window = 8
    with pytest.raises(UserError, match=r"no sliding window in torch .*hardware.attention=sdpa"):
        kernel_checks.check_attention("varlen", config, torch.float32, "cpu")


@pytest.mark.parametrize("name", ["varlen", "flash"])
def test_a_kernel_that_does_not_run_here(build_model: Any, name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=rf"attention={name} does not run here .*attention=sdpa"):
        kernel_checks.check_attention(name, build_model().config, torch.float32, "cpu")


def test_auto_is_varlen_only_where_it_can_be() -> None:
    assert attention.choose("auto", torch.bfloat16, "cuda") == "varlen"
    assert attention.choose("auto", torch.float32, "cuda") == "sdpa"
    assert attention.choose("auto", torch.bfloat16, "cpu") == "sdpa"
    assert attention.choose("flash", torch.bfloat16, "cuda") == "flash"


@pytest.mark.parametrize("window", [1, 3, 6, 50])
def test_windows_by_hand(window: int) -> None:
    """Each query sees itself and window - 1 keys before it; no row of a mask is empty."""
    rows = [(20, 1, 9), (2, 14, 1), (1, 3, 0)]
    for block in attention.make_blocks(rows).blocks:
        wide, long = len(block.queries) // block.rows, len(block.keys) // block.rows
        query = torch.zeros(block.rows, 4, wide, 8)
        mask = block.mask_of(attention.Scores(window=window), query, long)
        if mask is None:
            assert window >= long
            continue
        for row, before in enumerate(block.before[:, 0].tolist()):
            for i in range(wide):
                place = min(before + i, long - 1)
                seen = [j for j in range(long) if place - window < j <= place]
                assert (mask[row, 0, i] == 0).nonzero()[:, 0].tolist() == seen


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sdpa", "varlen"])
def test_kernels_on_this_gpu(build_model: Any, name: str) -> None:
    model = build_model().to("cuda", torch.bfloat16)
    assert (
        kernel_checks.check_attention(name, model.config, model.dtype, model.device)
        < kernel_checks.ATTENTION_BOUNDS[torch.bfloat16]
    )


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_model_gives_the_same_through_either_kernel(build_model: Any, kind: str) -> None:
    model = build_model(kind).double()
    pairs = [
        PairTokens("a", (2, 3), (4, 5, 6, 0), (4, 7, 0)), PairTokens("b", (9,), (4, 0), (4, 8)),
        PairTokens("c", (5, 6), (4, 5), (4, 5, 0)), PairTokens("d", (5,), (4, 5)),
    ]  # fmt: skip
    pack = build_pack(pairs, PackingSettings(100))
    found = []
    for name in ("sdpa", "loop"):
        with attention.packed(model, name):
            found.append(attention.hidden_states(model, pack))
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)


def test_a_model_outside_the_context_is_untouched(build_model: Any) -> None:
    model = build_model()
    pack = build_pack([PairTokens("p", (2,), (3, 0), (4, 0))], PackingSettings(9))
    with pytest.raises(RuntimeError, match="attention is sdpa"):
        attention.hidden_states(model, pack)
    with attention.packed(model):
        assert attention.hidden_states(model, pack).shape == (5, 32)
        with pytest.raises(IndexError):  # whatever happens inside, it is undone
            model(torch.tensor([[99]]))
    assert model.config._attn_implementation == "sdpa"
    assert model(torch.tensor([[2, 3]])).logits.shape == (1, 2, 45)
