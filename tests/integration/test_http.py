"""The HTTP port of a running system, asked by OpenAI's own client, and by httpx where that client would not let us."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from ramole.client.client import RamoleClient
from ramole.core.sampling import Sampling
from ramole.core.settings import AdapterSettings, TracingSettings
from ramole.zoo.catalog import Zoo
from support.local_system import local_system
from support.otlp_receiver import OtlpReceiver, Span, otlp_receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.content }} {% endfor %}"
)


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[OtlpReceiver, str]]:
    """Of the spans of calls that ask to be traced."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    tmp_path_factory: pytest.TempPathFactory, zoo: Zoo, collector: tuple[OtlpReceiver, str]
) -> AsyncIterator[Any]:
    """Of a base with a chat template that joins what was said."""
    base = tmp_path_factory.mktemp("base") / "chat"
    shutil.copytree(zoo.base_path, base)
    (base / "chat_template.jinja").write_text(TEMPLATE)
    sources = AdapterSettings(sources=(f"file://{zoo.adapters[0].path.parent}",))
    async with local_system(
        tmp_path_factory.mktemp("http"),
        base_model=str(base),
        base_id=zoo.base_id,
        adapters=sources,
        tracing=TracingSettings(otlp_endpoint=collector[1], sampling_ratio=0.0),
    ) as system:
        async with RamoleClient(system.address) as client:
            for adapter in zoo.adapters[:4]:
                await client.upload(adapter.path, adapter.samples, adapter=adapter.name, tags=["zoo", adapter.name])
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ai(system: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://{system.http_address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(system: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{system.http_address}", timeout=60) as client:
        yield client


async def test_a_prompt_is_answered_as_over_grpc(system: Any, ai: AsyncOpenAI, zoo: Zoo) -> None:
    adapter = zoo.adapters[0]
    prompt = adapter.prompts[0].prompt
    async with RamoleClient(system.address) as client:
        want = await client.complete(prompt, sampling=Sampling(max_tokens=12))
    raw = await ai.completions.with_raw_response.create(model="auto", prompt=prompt, logprobs=0, **GREEDY)
    got = raw.parse()
    [choice] = got.choices
    assert choice.text == want.text
    assert choice.finish_reason == want.usage.finish_reason.value
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == want.usage.completion_tokens
    assert all(logprob is not None and logprob <= 0 for logprob in choice.logprobs.token_logprobs)
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (
        want.usage.prompt_tokens,
        want.usage.completion_tokens,
    )
    [report] = got.model_extra["ramole"]  # type: ignore[index]
    assert [used["adapter"]["name"] for used in report["usage"]["adapters"]] == [
        u.ref.name for u in want.usage.adapters
    ]
    assert raw.headers["x-ramole-adapters"].startswith(f"default/{adapter.name}@1")
    assert raw.headers["x-request-id"] in got.id


async def test_log_probabilities_are_told_as_openai_tells_them(system: Any, ai: AsyncOpenAI, zoo: Zoo) -> None:
    prompt = zoo.adapters[0].prompts[0].prompt
    got = await ai.completions.create(model="auto", prompt=prompt, logprobs=3, **GREEDY)
    [choice] = got.choices
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.text_offset is not None
    assert scores.token_logprobs is not None
    assert scores.top_logprobs is not None
    assert got.usage is not None
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == got.usage.completion_tokens
    for token, logprob, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert len(top) == 3
        assert max(top, key=lambda each: top[each]) == token, "greedy"
        assert top[token] == logprob
    said = "".join(scores.tokens[: -1 if choice.finish_reason == "stop" else None])
    assert said.strip() == choice.text.strip()
    assert scores.text_offset == sorted(scores.text_offset)
    pieces = [
        event.choices[0].logprobs
        async for event in await ai.completions.create(model="auto", prompt=prompt, logprobs=3, stream=True, **GREEDY)
    ]
    assert [token for piece in pieces if piece for token in piece.tokens or ()] == scores.tokens
    assert [at for piece in pieces if piece for at in piece.text_offset or ()] == scores.text_offset
    turn = [{"role": "user", "content": prompt}]
    chat = await ai.chat.completions.create(
        model="auto", messages=turn, logprobs=True, top_logprobs=2, temperature=0, max_tokens=4
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content or []
    assert len(content) == 4
    for each in content:
        assert bytes(each.bytes or ()).decode() == each.token
        assert each.top_logprobs[0].token == each.token
        assert len(each.top_logprobs) == 2


async def test_tokens_are_a_prompt_like_their_text(system: Any, ai: AsyncOpenAI, zoo: Zoo) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo.base_path)
    prompts = [adapter.prompts[0].prompt for adapter in zoo.adapters[:3]]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    want = await ai.completions.create(model="auto", prompt=prompts, **GREEDY)
    got = await ai.completions.create(model="auto", prompt=ids, **GREEDY)
    assert [choice.text for choice in got.choices] == [choice.text for choice in want.choices]
    assert [report["usage"]["adapters"][0]["adapter"] for report in got.model_extra["ramole"]] == [  # type: ignore[index]
        report["usage"]["adapters"][0]["adapter"]
        for report in want.model_extra["ramole"]  # type: ignore[index]
    ]
    one = await ai.completions.create(model="auto", prompt=ids[0], **GREEDY)
    assert one.choices[0].text == want.choices[0].text
    assert one.model_extra["ramole"][0]["usage"]["adapters"][0]["tier"] == "CACHE_TIER_DEVICE"  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="no token") as refused:
        await ai.completions.create(model="auto", prompt=[5, 999_999], **GREEDY)
    assert refused.value.param == "prompt[1]"
    async with RamoleClient(system.address) as client:
        plain = await client.complete(prompts[0], sampling=Sampling(max_tokens=12))
        same = await client.complete(token_ids=ids[0], sampling=Sampling(max_tokens=12))
    assert same.text == plain.text


async def test_a_stream_tells_the_same_in_pieces(ai: AsyncOpenAI, zoo: Zoo) -> None:
    prompts = [adapter.prompts[0].prompt for adapter in zoo.adapters[:3]]
    whole = await ai.completions.create(model="auto", prompt=prompts, n=2, **GREEDY)
    assert len(whole.choices) == 6
    texts, ends, usage = [""] * 6, [""] * 6, None
    async for event in await ai.completions.create(
        model="auto", prompt=prompts, n=2, stream=True, stream_options={"include_usage": True}, **GREEDY
    ):
        for choice in event.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
        usage = event.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


async def test_answers_to_one_prompt_differ_and_a_seed_repeats_them(ai: AsyncOpenAI, zoo: Zoo) -> None:
    asked = {"model": "auto", "prompt": zoo.adapters[0].prompts[0].prompt, "n": 4, "temperature": 2.0, "max_tokens": 12}
    first, second = [await ai.completions.create(**asked, seed=7) for _ in range(2)]
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices]
    assert len(set(texts)) > 1


async def test_a_model_names_an_adapter_the_base_or_both(ai: AsyncOpenAI, zoo: Zoo) -> None:
    adapter = zoo.adapters[1]
    prompt = adapter.prompts[0].prompt
    named = [adapter.name, f"default/{adapter.name}", f"{adapter.name}@1", f"{zoo.base_id}:{adapter.name}"]
    answers = [await ai.completions.create(model=model, prompt=prompt, **GREEDY) for model in named]
    by_list = await ai.completions.create(
        model="auto", prompt=prompt, extra_body={"ramole": {"adapters": [{"adapter": adapter.name}]}}, **GREEDY
    )
    base = await ai.completions.create(model=zoo.base_id, prompt=prompt, **GREEDY)
    assert len({answer.choices[0].text for answer in (*answers, by_list)}) == 1
    assert base.choices[0].text != by_list.choices[0].text
    assert base.model_extra["ramole"][0]["routing"].get("adapters", []) == []  # type: ignore[index]


async def test_a_conversation_is_rendered_by_the_base_and_found_by_its_last_question(ai: AsyncOpenAI, zoo: Zoo) -> None:
    adapter = zoo.adapters[0]
    question = adapter.prompts[0].prompt
    turns: list[Any] = [{"role": "user", "content": question}]
    chat = await ai.chat.completions.create(model="auto", messages=turns, logprobs=True, **GREEDY)
    plain = await ai.completions.create(model="auto", prompt=question, **GREEDY)
    assert chat.choices[0].message.content
    assert chat.choices[0].logprobs is not None
    found = [answer.model_extra["ramole"][0]["routing"]["adapters"] for answer in (chat, plain)]  # type: ignore[index]
    assert found[0] == found[1]
    turns = [
        {"role": "user", "content": zoo.adapters[2].prompts[0].prompt},
        {"role": "assistant", "content": "yes"},
        *turns,
    ]
    later = await ai.chat.completions.create(model="auto", messages=turns, **GREEDY)
    assert later.model_extra["ramole"][0]["routing"]["adapters"] == found[0]  # type: ignore[index]
    other = await ai.chat.completions.create(
        model="auto", messages=turns, extra_body={"ramole": {"query": zoo.adapters[2].prompts[0].prompt}}, **GREEDY
    )
    assert other.model_extra["ramole"][0]["routing"]["adapters"] != found[0]  # type: ignore[index]
    pieces, roles = "", set()
    async for event in await ai.chat.completions.create(model="auto", messages=turns[-1:], stream=True, **GREEDY):
        for choice in event.choices:
            pieces += choice.delta.content or ""
            roles.add(choice.delta.role)
    assert pieces == chat.choices[0].message.content
    assert roles == {"assistant", None}
    with pytest.raises(openai.BadRequestError, match="no system role") as refused:
        await ai.chat.completions.create(
            model="auto", messages=[{"role": "system", "content": "be brief"}, *turns[-1:]]
        )
    assert refused.value.param == "messages"


COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((COMPLETION, {key: value}, key) for key, value in (
        ("logit_bias", {"1": 1}), ("best_of", 2), ("echo", True), ("suffix", "x"), ("logprobs", 21),
        ("frequency_penalty", 0.5), ("presence_penalty", -1), ("unknown", 1), ("n", 0), ("n", 17), ("n", "1"),
        ("temperature", -1), ("temperature", "hot"), ("top_p", 2), ("stop", ["a"] * 9), ("max_tokens", 0.5),
        ("prompt", []), ("prompt", " "), ("prompt", [[1], "x", []]), ("prompt", [-1]),
        ("prompt", [2**31]), ("model", 7), ("seed", -1),
    )),
    *((CHAT, {key: value}, key) for key, value in (
        ("tools", []), ("tool_choice", "auto"), ("response_format", {"type": "json_object"}), ("audio", {}),
        ("functions", []), ("top_logprobs", 3), ("messages", []), ("parallel_tool_calls", True),
    )),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    (COMPLETION, {"ramole": {"preset": "best"}}, "ramole.preset"),
    (COMPLETION, {"ramole": {"k": 9}}, "ramole.k"),
    (COMPLETION, {"ramole": {"tags": "x"}}, "ramole.tags"),
    (COMPLETION, {"ramole": {"tags": ["x", "X"]}}, "ramole.tags[1]"),
    (COMPLETION, {"model": "a", "ramole": {"tags": ["x"]}}, "ramole.tags"),
    (COMPLETION, {"model": "ramole/zoo-base", "ramole": {"tags": ["x"]}}, "ramole.tags"),
    (COMPLETION, {"ramole": {"adapters": [{"adapter": "a", "weight": 1e9}]}}, "ramole.adapters[0].weight"),
    (COMPLETION, {"model": "a", "ramole": {"adapters": [{"adapter": "b"}]}}, "ramole.adapters"),
    (COMPLETION, {"model": "a b"}, "model"),
    (COMPLETION, {"prompt": ["x"] * 65}, "prompt"),
    (COMPLETION, {"prompt": ["x"] * 33, "n": 2}, "n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "change", "param"), REFUSED, ids=[f"{p} {json.dumps(c)}"[4:60] for p, c, _ in REFUSED]
)
async def test_nothing_is_silently_ignored(http: httpx.AsyncClient, path: str, change: Any, param: str) -> None:
    body = {"model": "auto", "max_tokens": 2} | ({"prompt": "hello"} if path == COMPLETION else {"messages": HELLO})
    answer = await http.post(path, json=body | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] is not None
    assert error["param"].startswith(param), error
    assert "(" in error["message"], "a remedy"


async def test_odd_bodies_and_paths_get_the_same_shape(http: httpx.AsyncClient) -> None:
    for body, status in ((b"", 400), (b"{", 400), (b"[]", 400), (b"\xff", 400), (b"x" * (4 * 2**20 + 1), 413)):
        answer = await http.post(COMPLETION, content=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, "body"), body[:10]
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", COMPLETION, 405), ("POST", "/v1/models", 405)):
        answer = await http.request(method, path)
        assert answer.status_code == status
        assert path in answer.json()["error"]["message"]
    answer = await http.post(COMPLETION, json={}, headers={"x-request-timeout": "soon"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout")
    answer = await http.post(COMPLETION, json={"model": "auto", "prompt": "x"}, headers={"x-request-timeout": "0.0001"})
    assert answer.status_code == 504


async def test_an_answer_comes_from_adapters_with_the_tags(ai: AsyncOpenAI, zoo: Zoo) -> None:
    wanted, other = zoo.adapters[1], zoo.adapters[2]
    for tags, found in (([wanted.name], [wanted.name]), (["zoo", other.name], [other.name]), (["nobody"], [])):
        answer = await ai.completions.create(
            model="auto", prompt=zoo.adapters[0].prompts[0].prompt, extra_body={"ramole": {"tags": tags}}, **GREEDY
        )
        [report] = answer.model_extra["ramole"]  # type: ignore[index]
        assert [each["adapter"]["name"] for each in report["routing"].get("adapters", [])] == found
        assert "doubt" not in report["routing"]


async def test_what_a_script_for_vllm_loads_is_a_model(ai: AsyncOpenAI, http: httpx.AsyncClient, zoo: Zoo) -> None:
    adapter = zoo.adapters[5]
    prompt = adapter.prompts[0].prompt
    done = await http.post("/v1/load_lora_adapter", json={"lora_name": "vllms", "lora_path": str(adapter.path)})
    assert (done.status_code, done.text) == (200, "Success: LoRA adapter 'vllms' added successfully.")
    assert "default/vllms" in [model.id async for model in ai.models.list()]
    named = await ai.completions.create(model="vllms", prompt=prompt, **GREEDY)
    base = await ai.completions.create(model=zoo.base_id, prompt=prompt, **GREEDY)
    found = await ai.completions.create(model="auto", prompt=prompt, **GREEDY)
    assert named.choices[0].text != base.choices[0].text
    [report] = found.model_extra["ramole"]  # type: ignore[index]
    assert "vllms" not in [each["adapter"]["name"] for each in report["routing"]["adapters"]]
    done = await http.post("/v1/unload_lora_adapter", json={"lora_name": "vllms"})
    assert done.text == "Success: LoRA adapter 'vllms' removed successfully."
    with pytest.raises(openai.NotFoundError):
        await ai.completions.create(model="vllms", prompt=prompt, **GREEDY)


async def test_models_are_what_one_may_ask_for(ai: AsyncOpenAI, http: httpx.AsyncClient, zoo: Zoo) -> None:
    names = [f"default/{adapter.name}" for adapter in zoo.adapters[:4]]
    models = [model async for model in ai.models.list()]
    assert [model.id for model in models] == [zoo.base_id, "auto", *sorted(names)]
    assert models[-1].model_extra["parent"] == zoo.base_id  # type: ignore[index]
    page = (await http.get("/v1/models", params={"limit": 3})).json()
    rest = (await http.get("/v1/models", params={"after": page["last_id"]})).json()
    assert page["has_more"]
    assert [model["id"] for model in (*page["data"], *rest["data"])] == [model.id for model in models]
    assert (await ai.models.retrieve(zoo.adapters[0].name)).id == names[0]
    with pytest.raises(openai.NotFoundError) as missing:
        await ai.models.retrieve("nobody")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as missing:
        await ai.completions.create(model="nobody", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_a_client_that_goes_away_leaves_the_batch(system: Any, http: httpx.AsyncClient) -> None:
    body = {"model": "ramole/zoo-base", "prompt": "hello", "max_tokens": 200, "stream": True, "temperature": 1.5}
    async with http.stream("POST", COMPLETION, json=body) as answer:
        await anext(answer.aiter_bytes())
    async with RamoleClient(system.address) as client, asyncio.timeout(20):
        while True:
            seen = await client.describe()
            if seen.running == seen.waiting == 0:
                break
            await asyncio.sleep(0.02)


async def test_the_synchronous_client_and_what_stands_beside_it(system: Any, http: httpx.AsyncClient) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"http://{system.http_address}/v1", api_key="none") as client:
            return client.completions.create(model="auto", prompt="hello", **GREEDY).choices[0].text

    assert isinstance(await asyncio.to_thread(ask), str)
    assert (await http.get("/health")).json() == {"status": "ok"}
    assert (await http.get("/ready")).json() == {"status": "ready"}
    page = (await http.get("/openapi.json")).json()
    assert {"CompletionBody", "ChatBody", "Extension"} <= page["components"]["schemas"].keys()
    assert {COMPLETION, CHAT, "/v1/models"} <= page["paths"].keys()
    for path, methods in page["paths"].items():
        for described in methods.values():
            named = {each["name"] for each in described.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)", path)), path
    upload = page["paths"]["/v1/adapters"]["post"]["requestBody"]["content"]
    assert upload["multipart/form-data"]["schema"]["required"] == ["header", "config", "weights"]
    asked = {each["name"]: each["in"] for each in page["paths"]["/v1/adapters"]["get"]["parameters"]}
    assert asked == dict.fromkeys(
        ("base_model", "tenant", "name_prefix", "latest_only", "tags", "without_samples", "page_size", "page_token"),
        "query",
    )
    refs = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(page))
    assert set(refs) <= page["components"]["schemas"].keys()
    assert (await http.get("/docs")).status_code == 200


async def test_a_connection_that_sends_no_body_ends(system: Any) -> None:
    host, _, port = system.http_address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
    writer.write_eof()
    async with asyncio.timeout(20):
        await reader.read()
    writer.close()


async def test_one_answer_is_one_trace_from_admission_to_its_last_token(
    system: Any, http: httpx.AsyncClient, zoo: Zoo, collector: tuple[OtlpReceiver, str]
) -> None:
    adapter, receiver = zoo.adapters[5], collector[0]
    async with RamoleClient(system.address) as client:
        stored = await client.upload(adapter.path, adapter.samples, adapter="traced", tags=["traced"])
    prompt = adapter.prompts[0].prompt
    body = {"model": "auto", "prompt": prompt, "max_tokens": 4, "ramole": {"tags": ["traced"]}}
    context = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    answer = (await http.post("/v1/completions", json=body, headers=context)).json()
    last = {
        ("ramole.gateway", "POST /v1/completions"),
        ("ramole.embedding", "ramole.v1.Embedding/Embed"),
        ("ramole.retrieval", "ramole.v1.Retrieval/Search"),
        ("ramole.executor", "ramole.v1.Executor/Execute"),
        ("ramole.adapters", "ramole.v1.Adapters/Fetch"),
    }
    async with asyncio.timeout(60):
        while not last <= {(span.service, span.name) for span in receiver.spans}:  # noqa: ASYNC110  # sent by and by
            await asyncio.sleep(0.05)
    spans = list(receiver.spans)
    assert {span.trace_id for span in spans} == {TRACE_ID}
    [root] = [span for span in spans if parent_of(span, spans) is None]
    assert root.name == "POST /v1/completions"
    [execute] = [s for s in spans if (s.service, s.name) == ("ramole.executor", "ramole.v1.Executor/Execute")]
    [fetch] = [s for s in spans if (s.service, s.name) == ("ramole.adapters", "ramole.v1.Adapters/Fetch")]
    assert parent_of(fetch, spans) is not None
    inside = {span.name: span for span in spans if span.parent == execute.span_id}
    loads = [span for span in spans if span.name == "load adapter"]
    assert {span.parent for span in loads} == {execute.span_id}
    assert [span.attributes["ramole.tier"] for span in sorted(loads, key=lambda span: span.start_ns)] == [
        "store",
        "device",
    ]
    assert {span.attributes["ramole.digest"] for span in loads} == {stored.record.ref.digest}
    queue, prefill, decode = (inside[name] for name in ("queue", "prefill", "decode"))
    assert queue.end_ns == prefill.start_ns
    assert prefill.end_ns == decode.start_ns
    assert all(execute.start_ns <= span.start_ns <= span.end_ns <= queue.end_ns for span in loads)
    assert prefill.attributes["ramole.prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert decode.attributes["ramole.completion_tokens"] == answer["usage"]["completion_tokens"]
    above = [span for span in spans if span.service == "ramole.gateway"]
    order = ["admission", "embed", "search", "ramole.v1.Executor/Execute"]
    assert [span.name for span in sorted(above, key=lambda span: span.start_ns) if span.name in order] == order
    assert all(prompt not in str(span.attributes) for span in spans)


def parent_of(span: Span, spans: Sequence[Span]) -> Span | None:
    """The span that another one is inside of, if it came as well."""
    return next((each for each in spans if each.span_id == span.parent), None)
