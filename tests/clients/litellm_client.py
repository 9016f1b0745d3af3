"""litellm, as its users call an OpenAI-compatible server: run by a Python of its own."""

import asyncio
import json
import os
import sys

import litellm

ASKED = {
    "model": "openai/a",
    "messages": [{"role": "user", "content": "two words"}],
    "api_base": os.environ["URL"],
    "api_key": os.environ["KEY"],
    "num_retries": 0,
}


async def streamed() -> str:
    pieces = await litellm.acompletion(**ASKED, stream=True)
    return "".join([piece.choices[0].delta.content or "" async for piece in pieces])


def refused() -> list[str]:
    try:
        litellm.completion(**ASKED | {"model": "openai/nobody"})
    except litellm.NotFoundError as error:
        return [type(error).__name__, str(error)]
    return []


whole = litellm.completion(**ASKED)
text = litellm.text_completion(
    model="text-completion-openai/a", prompt="two words", api_base=ASKED["api_base"], api_key=ASKED["api_key"]
)
said = {
    "whole": whole.choices[0].message.content,
    "tokens": whole.usage.completion_tokens,
    "streamed": "".join(piece.choices[0].delta.content or "" for piece in litellm.completion(**ASKED, stream=True)),
    "async": asyncio.run(streamed()),
    "text": text.choices[0].text,
    "refused": refused(),
}
sys.stdout.write(json.dumps(said))
