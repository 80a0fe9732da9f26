"""A model's folder that is damaged, incomplete or hostile is refused before it answers anything."""

import json
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import transformers
from safetensors.torch import load_file, save_file

from spot.data import model_probe
from spot.generation import transformers as generation
from spot.pipeline.policy import SHIPPED
from spot.utils.errors import UserError


@pytest.fixture
def saved(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "model")


def cut_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pickle_weights(folder):
    """As older models of the hub are; this one would say so in a file when it is read."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(str(folder / "ran"))))


class Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


def needs_code(model_type, of):
    """A model with a class in a file of its own, which leaves another file when it is run."""

    def damage(folder):
        configured(model_type=model_type, auto_map={of: "code.Own"})(folder)
        (folder / "code.py").write_text("open(__file__ + '.ran', 'w')")

    return damage


def lose_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def lose_the_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


def lose_the_tokenizer_of_phi(folder):
    lose_the_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "phi3"}))


def lose_a_shard(folder):
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


ENDS_OTHERWISE = (
    "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
WANTS_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('System role needed') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "is not a folder"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (
            pickle_weights,
            "has pickled weights only, which may run code when they are read: convert",
        ),
        (cut_weights, "model.safetensors is damaged"),
        (lose_a_shard, "00001-of-00002.safetensors is missing"),
        (lose_a_tensor, "lack model.layers.1.mlp.up_proj.weight"),
        (lose_the_tokenizer, "holds no tokenizer.json"),
        (lose_the_tokenizer_of_phi, "holds no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (template("{% if %}"), "does not work"),
        (template("{% include 'other.jinja' %}"), "does not work"),
        (template("{{ 1 / 0 }}"), "does not work"),
        (template("{# nothing #}"), "writes nothing"),
        (template("{{ messages[0].role }}"), "leaves out the question"),
        (template(WANTS_SYSTEM), "wants a system turn"),
        (template("{% for m in messages[1:] %}{{ m.content }}{% endfor %}"), "wants a system turn"),
        (template(ENDS_OTHERWISE), "'<|end|>', which is not a token"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(saved, damage, said):
    damage(saved)
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        generation.load(saved)
    assert "\n" not in str(refusal.value)
    assert str(saved) in str(refusal.value)
    assert not (saved / "ran").exists()


LOOP = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4


def break_the_pattern(pattern):
    def damage(folder):
        whole = json.loads((folder / "tokenizer.json").read_text())
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        whole["pre_tokenizer"] = {**split, "invert": False}
        (folder / "tokenizer.json").write_text(json.dumps(whole))

    return damage


def configured(**values):
    def damage(folder):
        whole = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(whole | values))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (configured(num_attention_heads=0), "num_attention_heads=0, which must be"),
        (lose_the_tokenizer, "holds no tokenizer.json"),
        (lose_the_tokenizer_of_phi, "holds no tokenizer.json"),
        (pickle_weights, "has pickled weights only"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # each starts a process
            for case in (
                (template(LOOP), "chat template of the model in .* takes more than"),
                (template("{{ 'a' * 9_000_000_000 }}"), "MemoryError|takes more than"),
                (template("{{ messages[0].content * 99999 }}<|im_end|>"), "writes 500,005 char"),
                (template("{% include 'other.jinja' %}"), "no loader"),
                (template(WANTS_SYSTEM), "wants a system turn"),
                (break_the_pattern("(("), "unmatched parenthesis"),
                (break_the_pattern("(a+)+$"), "retry-limit"),
                (needs_code("own", "AutoConfig"), "needs code of its own .* never run"),
                (needs_code("vit", "AutoModelForCausalLM"), "needs code of its own .* never run"),
                (configured(vocab_size="many"), "config.json"),
                (configured(model_type="of tomorrow"), "config.json"),
                (lambda f: (f / "config.json").write_text("[]"), "config.json"),
            )
        ),
    ],
)
def test_the_files_of_others_are_tried_within_limits(saved, damage, said, monkeypatch):
    """What would loop, fill the memory or end in a traceback is one line, before anything reads it."""
    monkeypatch.setattr(model_probe, "GIBIBYTES", 2)
    damage(saved)
    with pytest.raises(UserError, match=said) as refusal:
        model_probe.probe(saved)
    assert "\n" not in str(refusal.value)
    assert not any(saved.glob("*ran"))


def test_a_good_folder_is_tried_once(saved, monkeypatch):
    model_probe.probe(saved)
    monkeypatch.setattr(model_probe, "_try_apart", None)
    model_probe.probe(saved)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("MambaConfig", "no attention heads"),
        ("Mamba2Config", "no attention heads"),
        ("RwkvConfig", "no attention heads"),
        ("BloomConfig", "cannot be replaced"),
        ("MptConfig", "cannot be replaced"),
        ("FalconConfig", "cannot be replaced"),
        ("GPTJConfig", "cannot be replaced"),
        ("LlamaConfig", ""),
        ("GPT2Config", ""),
        ("GPTNeoXConfig", ""),
        ("Gemma2Config", ""),
        ("Gemma3Config", "text alone"),
        ("Gemma3TextConfig", ""),
        ("T5Config", "text alone"),
        ("DeepseekV3Config", ""),
    ],
)
def test_what_cannot_be_trained_is_known_at_once(saved, kind, why):
    getattr(transformers, kind)().save_pretrained(saved)
    assert why in model_probe.untrained(saved)
    assert bool(why) == bool(model_probe.untrained(saved))


def test_nothing_is_imported_to_know_it(saved):
    configured(model_type="bloom")(saved)
    code = "import sys; from pathlib import Path; from spot.data.model_probe import untrained\n"
    code += "print(untrained(Path(sys.argv[1])), {'torch', 'transformers'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code, saved], capture_output=True, text=True)
    assert "cannot be replaced" in said.stdout
    assert said.stdout.endswith("set()\n")
