"""A model's folder that is damaged or incomplete is refused before it answers anything."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from spot.generation import transformers as generation
from spot.pipeline.policy import SHIPPED
from spot.utils.errors import UserError


@pytest.fixture
def saved(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "model")


def cut_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def lose_the_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


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
        (shutil.rmtree, "no folder"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (cut_weights, "model.safetensors is damaged"),
        (lose_a_shard, "00001-of-00002.safetensors is missing"),
        (lose_a_tensor, "lack model.layers.1.mlp.up_proj.weight"),
        (lose_the_tokenizer, "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (template("{% if %}"), "does not work"),
        (template("{% include 'other.jinja' %}"), "does not work"),
        (template("{{ 1 / 0 }}"), "does not work"),
        (template("{# nothing #}"), "writes nothing"),
        (template("{{ messages[0].role }}"), "leaves out the question"),
        (template(WANTS_SYSTEM), "wants a system turn"),
        (template("{% for m in messages[1:] %}{{ m.content }}{% endfor %}"), "wants a system turn"),
        (template(ENDS_OTHERWISE), "'<|end|>', which is no token"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(saved, damage, said):
    damage(saved)
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        generation.load(saved)
    assert "\n" not in str(refusal.value)
    assert str(saved) in str(refusal.value)
