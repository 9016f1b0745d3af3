"""Streaming text: pieces add up to the tokenizer's own decode, characters stay whole, stop strings cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.core.chat import Message
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling
from ramole.executor.detokenizer import Detokenizer, Vocabulary
from ramole.executor.text import TextCodec, TextStream
from ramole.zoo.catalog import load_zoo
from support.byte_level import byte_level
from support.canary import CANARY, check_silent
from support.hub_server import hub_server


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level(["the answer is the stop"])


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)


@given(texts)
@settings(max_examples=80, deadline=None)
def test_pieces_add_up_and_never_split_a_character(tokenizer: Any, text: str) -> None:
    stream = TextStream(Detokenizer(Vocabulary.of(tokenizer)))
    pieces = [stream.push(token) for token in tokenizer.encode(text).ids] + [stream.flush()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(texts, st.lists(st.text("abst ", min_size=1, max_size=4), min_size=1, max_size=3), st.text("abst ", max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_stop_string_cuts_the_text_before_it(tokenizer: Any, head: str, stop: list[str], tail: str) -> None:
    text = head + tail
    stream = TextStream(Detokenizer(Vocabulary.of(tokenizer)), stop)
    out = ""
    for token in tokenizer.encode(text).ids:
        out += stream.push(token)
        if stream.is_stopped:
            break
    out += stream.flush()
    ends = [text.find(s) for s in stop if s in text]
    # Tokens hold several characters: the cut is before a stop string that was complete when its last token came.
    assert stream.is_stopped == bool(ends)
    assert text.startswith(out)
    assert all(s not in out for s in stop)


@given(texts, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_stop_token_ends_the_answer_before_its_own_text(tokenizer: Any, text: str, at: int) -> None:
    ids = tokenizer.encode(text).ids
    stop_token = tokenizer.encode("stop").ids[0] if not ids else ids[at % len(ids)]
    stream = TextStream(Detokenizer(Vocabulary.of(tokenizer)), (), [stop_token])
    out, taken = "", []
    for token in ids:
        out += stream.push(token)
        if stream.is_stopped:
            break
        taken.append(token)
    assert stream.is_stopped == (stop_token in ids)
    assert stop_token not in taken
    plain = TextStream(Detokenizer(Vocabulary.of(tokenizer)))
    assert out + stream.flush() == "".join(map(plain.push, taken)) + plain.flush()


def test_the_tokenizer_has_the_base_models_revision(tmp_path: Path) -> None:
    base = load_zoo().base_path
    files = {path.name: path.read_bytes() for path in base.iterdir() if path.suffix == ".json"}
    # In a process of its own: the endpoint is read when the hub's library is imported.
    program = (
        "from ramole.executor.text import TextCodec\n"
        "print(len(TextCodec.load('org/base', None, revision='v1').encode('the dog')), flush=True)\n"
        "TextCodec.load('org/base', None, revision='')"
    )
    with hub_server("org/base", files, revision="v1") as endpoint:
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert int(done.stdout) > 0
    assert done.returncode != 0, "the hub knows no default revision"


def test_control_tokens_in_a_prompt_are_text_unless_a_setting_says_otherwise() -> None:
    base = load_zoo().base_path
    codec = TextCodec.load(str(base), None)
    bos, *plain = codec.encode("the dog")
    ids = codec.encode("<s></s>the dog")
    assert ids[0] == bos
    assert ids.count(bos) == 1
    assert not codec.eos_token_ids & set(ids[:-1])
    assert codec.stream(Sampling())._text._vocabulary.decode(ids).startswith("<s></s>the dog")
    reading = TextCodec.load(str(base), None, parse_special_tokens=True)
    assert reading.encode("<s>the dog")[:2] == [bos, plain[0]], "the first token is there once"
    assert codec.eos_token_ids & set(reading.encode("the</s> dog")[:-1])


def test_a_stop_token_that_does_not_exist_is_refused() -> None:
    codec = TextCodec.load(str(load_zoo().base_path), None)
    with pytest.raises(InvalidInput) as refused:
        codec.stream(Sampling(stop_tokens=(5, 10**9)))
    assert refused.value.field == "sampling.stop_token_ids"


class Chats:
    """A tokenizer whose chat template refuses turns in its own way."""

    backend_tokenizer = None
    all_special_tokens = ("</s>",)

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, turns: list[dict[str, str]], **options: Any) -> str:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise TemplateError(message)

        template = ImmutableSandboxedEnvironment().from_string(self.chat_template)
        return template.render(messages=turns, raise_exception=raise_exception)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no system role: ' ~ messages[0].role) }}", ": no system role: system"),
        ("{{ raise_exception('odd: ' ~ messages[0].content) }}", ": odd: x"),
        ("{% if messages[0].content != 'x' %}{{ raise_exception(messages[0].content) }}{% endif %}", ""),
        ("{{ {}[messages[0].content].a }}", ": 'dict object' has no attribute 'x'"),
    ],
)
def test_a_template_that_refuses_quotes_nothing_of_what_was_said(
    template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vocabulary, "of", lambda tokenizer: None)
    codec = TextCodec(Chats(template), ())
    with pytest.raises(InvalidInput) as refused:
        codec.encode_chat([Message("system", CANARY), Message("user", "hello")])
    assert refused.value.message == f"the base model's chat template refuses it{said}"
    check_silent(str(refused.value))
