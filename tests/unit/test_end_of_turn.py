"""A response ends in what the chat template writes behind a turn, and generation stops there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spot.data import chat
from spot.utils.errors import UserError

TURNS = "{% for m in messages %}"
PROMPT = "{% if add_generation_prompt %}"
# Written here after the layouts of the models' own: markers, order and what ends a turn.
CHATML = (
    TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    f"{PROMPT}<|im_start|>assistant\n{{% endif %}}"
)
GEMMA = (
    "{{ bos_token }}"
    + TURNS
    + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    + "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    f"{PROMPT}<start_of_turn>model\n{{% endif %}}"
)
PHI = (
    TURNS + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    f"{PROMPT}<|assistant|>\n{{% else %}}{{{{ eos_token }}}}{{% endif %}}"
)
LLAMA3 = (
    "{{ bos_token }}"
    + TURNS
    + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    f"{PROMPT}<|start_header_id|>assistant<|end_header_id|>\n\n{{% endif %}}"
)
LLAMA2 = (
    TURNS + "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    f"{PROMPT}<|im_start|>assistant\n{{% if enable_thinking is false %}}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
GLM = (
    "[gMASK]<sop>" + TURNS + "<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    f"{PROMPT}<|assistant|>\n{{% endif %}}"
)
BARE = TURNS + "{{ m.role }}: {{ m.content }}\n\n{% endfor %}" + PROMPT + "assistant:{% endif %}"
ONE_TURN = (
    TURNS
    + "{% if loop.index > 2 %}{{ raise_exception('one turn only') }}{% endif %}{{ m.content }}"
    "{% endfor %}"
)
ALWAYS = TURNS + "<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"  # asked for or not
ALWAYS_ENDED = TURNS + "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
NO_PROMPT = TURNS + (
    "{% if m.role == 'user' %}<|user|>{{ m.content }}<|assistant|>{% else %}{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}"
)
ENDOFTEXT = "<|endoftext|>"
SPECIALS = {
    "chatml": (CHATML, ENDOFTEXT, ["<|im_start|>", "<|im_end|>"]),
    "gemma": (GEMMA, "<eos>", ["<bos>", "<start_of_turn>", "<end_of_turn>"]),
    "phi": (PHI, ENDOFTEXT, ["<|user|>", "<|assistant|>", "<|end|>"]),
    "llama3": (LLAMA3, "<|end_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "llama2": (LLAMA2, "</s>", ["<s>"]),
    "qwen3": (QWEN3, "<|im_end|>", ["<|im_start|>", ENDOFTEXT]),
    "glm": (GLM, ENDOFTEXT, ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]),
    "bare": (BARE, "</s>", []),
    "always": (ALWAYS, ENDOFTEXT, ["<|user|>", "<|assistant|>"]),
    "always ended": (ALWAYS_ENDED, ENDOFTEXT, ["<|user|>", "<|assistant|>", "<|end|>"]),
    "no prompt": (NO_PROMPT, ENDOFTEXT, ["<|user|>", "<|assistant|>", "<|end|>"]),
    "one turn": (ONE_TURN, "</s>", []),
}  # fmt: skip


def tokenizer_of(template: str | None, eos: str | None, specials: list[str]) -> Any:
    """Bytes, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens([AddedToken("\n\n", normalized=False)])  # Gemma has such: no special tokens
    bos = next((s for s in specials if s in ("<s>", "<bos>")), None)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, bos_token=bos, extra_special_tokens=specials
    )
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("layout", "end"),
    [
        ("chatml", "<|im_end|>"),  # Qwen's base models: their end of sequence is <|endoftext|>
        ("gemma", "<end_of_turn>"),
        ("phi", "<|end|>"),
        ("llama3", "<|eot_id|>"),
        ("llama2", "</s>"),
        ("qwen3", "<|im_end|>"),
        ("glm", ENDOFTEXT),  # nobody says that <|user|> ends a response
        ("bare", "</s>"),
        ("one turn", "</s>"),
        ("always", ENDOFTEXT),
        ("always ended", "<|end|>"),
        ("no prompt", "<|end|>"),
    ],
)
def test_the_last_trained_token_is_what_the_template_writes(layout: str, end: str) -> None:
    tokenizer = tokenizer_of(*SPECIALS[layout])
    ids = chat.response_ids(tokenizer, "So it is 4.\n\n")
    assert tokenizer.decode(ids) == f"So it is 4.\n\n{end}"
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == end
    stops = tokenizer.convert_ids_to_tokens(list(chat.stop_ids(tokenizer)))
    assert stops == list(dict.fromkeys([end, tokenizer.eos_token]))


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (PHI, "<|end|>")])
def test_tokens_that_were_added_and_not_called_special_end_a_turn(template: str, end: str) -> None:
    tokenizer = tokenizer_of(template, ENDOFTEXT, [])
    tokenizer.add_tokens([end])
    assert tokenizer.convert_ids_to_tokens(chat.response_ids(tokenizer, "4")[-1]) == end


def test_what_the_template_writes_is_what_training_reads() -> None:
    """Prompt and response are the beginning of the conversation as the template writes it."""
    for layout in ("chatml", "gemma", "phi", "llama3", "qwen3"):
        tokenizer = tokenizer_of(*SPECIALS[layout])
        said = [*chat.user("1 + 1?"), chat.Message(role="assistant", content="2.")]
        whole = chat.token_ids(tokenizer, chat.write(tokenizer, said))
        ours = chat.prompt_ids(tokenizer, "1 + 1?") + chat.response_ids(tokenizer, "2.")
        assert whole[: len(ours)] == ours, layout


def test_a_model_that_declares_the_next_turn_as_its_end(tmp_path: Path) -> None:
    made = tokenizer_of(*SPECIALS["glm"])
    user = made.convert_tokens_to_ids("<|user|>")
    made.save_pretrained(tmp_path)
    ends = [made.eos_token_id, user, 10**9, "no id"]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert chat.stop_ids(tokenizer) == (user, made.eos_token_id)


@pytest.mark.parametrize(
    ("template", "eos", "specials", "said"),
    [
        (CHATML, ENDOFTEXT, [], "'<|im_end|>', which is not a token"),
        (BARE, None, [], "Nothing ends a turn"),
        (GLM, None, ["<|user|>"], "Nothing ends a turn"),
        ("{% for m in messages %}{{ m.content.nothing.at.all }}{% endfor %}", "</s>", [], "does not work"),
        ("{% include 'other' %}", "</s>", [], "does not work"),
    ],
)  # fmt: skip
def test_a_template_that_ends_no_turn_is_refused(
    template: str, eos: str | None, specials: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said.replace("|", "\\|")) as refusal:
        chat.response_ids(tokenizer_of(template, eos, specials), "4")
    assert "\n" not in str(refusal.value)


def test_no_end_of_sequence_is_needed_where_the_template_ends_a_turn() -> None:
    tokenizer = tokenizer_of(CHATML, None, ["<|im_start|>", "<|im_end|>"])
    assert chat.stop_ids(tokenizer) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def test_generation_stops_at_the_end_of_a_turn(build_model: Any) -> None:
    """A base model whose own end of sequence is another token."""
    from spot.generation import Request, Sampling
    from spot.generation.transformers import TransformersGenerator

    tokenizer = tokenizer_of(*SPECIALS["chatml"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = build_model(vocabulary=len(tokenizer), tied=False).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([chat.prompt_ids(tokenizer, "1")]))[0][0, -1]
        model.lm_head.weight[end] = 9 * hidden  # the first token it will choose
    asked = Request("q", 0, chat.user("1"), Sampling(0, 1, 0, 5), 0)
    (completion,) = TransformersGenerator(model, tokenizer, batch_size=1).generate([asked])
    assert (completion.finish_reason, completion.token_ids) == ("stop", ())
