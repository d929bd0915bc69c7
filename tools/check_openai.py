#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Talks to `carousel serve` with the openai package, and compares what it hears with `carousel generate`.

    tools/check_openai.py --carousel build/release/carousel --model models/stories-xlstm
"""
import argparse
import re
import subprocess

import openai


def start(binary, model, *flags):
    """The process of a server and its address."""
    server = subprocess.Popen([binary, "serve", model, "--port", "0", "--chat-template", "chatml", *flags],
                              stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        found = re.search(r"http://\S+", line)
        if found:
            return server, found.group(0)
    raise SystemExit("carousel serve ended before it listened")


def generate(binary, model, prompt, tokens, seed):
    """The continuation that the command line gives."""
    command = [binary, "generate", model, "-p", prompt, "-n", str(tokens), "-s", str(seed), "--no-display-prompt"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.removesuffix("\n")


def check(client, binary, model):
    name = client.models.list().data[0].id
    prompt = "Once upon a time"
    expected = generate(binary, model, prompt, 24, 5)
    answer = client.completions.create(model=name, prompt=prompt, max_tokens=24, seed=5)
    assert answer.choices[0].text == expected, (answer.choices[0].text, expected)
    assert answer.usage.completion_tokens == 24

    pieces = client.completions.create(model=name, prompt=prompt, max_tokens=24, seed=5, stream=True,
                                       stream_options={"include_usage": True})
    text, usage = "", None
    for piece in pieces:
        text += "".join(choice.text for choice in piece.choices)
        usage = piece.usage or usage
    assert text == expected and usage.completion_tokens == 24

    many = client.completions.create(model=name, prompt=[prompt, "The cat"], n=2, max_tokens=8, seed=1, logprobs=3)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert all(len(choice.logprobs.tokens) == 8 for choice in many.choices)

    chat = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Tell me a story."}],
                                          max_tokens=12, seed=2, logprobs=True, top_logprobs=2)
    assert chat.choices[0].message.role == "assistant" and len(chat.choices[0].logprobs.content) == 12
    heard = ""
    for piece in client.chat.completions.create(model=name, max_tokens=12, seed=2, stream=True,
                                                messages=[{"role": "user", "content": "Tell me a story."}]):
        heard += "".join(choice.delta.content or "" for choice in piece.choices)
    assert heard == chat.choices[0].message.content

    # A state is a value: going on from it twice is a fork.
    first = client.completions.create(model=name, prompt=prompt, max_tokens=12, seed=5, extra_body={"keep_state": True})
    state = first.choices[0].state
    more = [client.completions.create(model=name, prompt="", max_tokens=12, seed=5, extra_body={"state": state})
            for _ in range(2)]
    assert more[0].choices[0].text == more[1].choices[0].text
    assert first.choices[0].text + more[0].choices[0].text == expected

    one = client.responses.create(model=name, input="Tell me a story.", max_output_tokens=12)
    assert one.output_text and client.responses.retrieve(one.id).output_text == one.output_text
    two = client.responses.create(model=name, input="And then?", max_output_tokens=12, previous_response_id=one.id)
    assert two.usage.input_tokens > one.usage.total_tokens
    with client.responses.stream(model=name, input="Tell me a story.", max_output_tokens=12) as stream:
        heard = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert heard

    for wrong, kind in (({"model": "none"}, openai.NotFoundError), ({"max_tokens": -1}, openai.BadRequestError),
                        ({"extra_body": {"state": "state-0"}}, openai.NotFoundError)):
        try:
            client.completions.create(**{"model": name, "prompt": prompt, **wrong})
        except kind:
            continue
        raise SystemExit(f"{wrong}: not refused as {kind.__name__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--carousel", default="build/release/carousel")
    parser.add_argument("--model", default="models/stories-xlstm")
    options = parser.parse_args()
    server, address = start(options.carousel, options.model)
    try:
        check(openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0), options.carousel, options.model)
    finally:
        server.terminate()
    assert server.wait() == 0, server.returncode
    print("openai", openai.__version__, "and carousel serve agree")


if __name__ == "__main__":
    main()
