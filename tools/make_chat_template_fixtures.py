#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/chat/templates.json: chat templates of our own, each with one habit of published ones, and what
Jinja makes of conversations under the settings of transformers 5.24's apply_chat_template. "plain" says of templates
without and with a system turn whether all of that is ChatML. Needs: pip install jinja2 (3.1.6).
Run: python3 tools/make_chat_template_fixtures.py"""

import json
import os

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HEAD = "{{ bos_token }}"
LOOP = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def say(content, where="m"):
    """A loop whose messages' contents are written by the expression `content`."""
    return ("{%- for m in messages %}\n  {{- '<|im_start|>' + m.role + '\\n' }}\n  {{- " + content +
            " }}\n  {{- '<|im_end|>\\n' }}\n{%- endfor %}\n" + ASK)


TEMPLATES = {
    "plain": HEAD + LOOP + ASK,
    "without bos": LOOP + ASK,
    "spelled bos": "<|startoftext|>" + LOOP + ASK,
    "attributes, signs": "{{- bos_token -}}\n{%- for message in messages -%}\n  {{- '<|im_start|>' ~ message.role ~ \"\\n\" -}}\n"
                         "  {{- message.content -}}\n  {{- '<|im_end|>\\n' -}}\n{%- endfor -%}\n" + ASK,
    "blocks on lines": "{{ bos_token }}\n{% for m in messages %}\n<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                       "{% endfor %}\n{% if add_generation_prompt %}\n<|im_start|>assistant\n{{ '' }}\n{% endif %}\n",
    "blocks on lines, no bos": "{# turns #}\n{% for m in messages %}\n<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                               "\n{% endfor %}\n  {% if add_generation_prompt %}\n<|im_start|>assistant\n\n  {% endif %}\n",
    "kept signs": "{%+ for m in messages +%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%+ endfor +%}" + ASK,
    "crlf": (HEAD + LOOP + ASK).replace("{%", "\r\n{%-").replace("%}", "-%}\r\n"),
    "no newline after turns": (HEAD + LOOP + ASK).replace(" + '\\n' }}", " }}"),
    "opens a thought": HEAD + LOOP + ASK.replace("assistant\\n", "assistant\\n<think>\\n"),
    "opens a thought when told": HEAD + LOOP + ASK.replace(
        "{% endif %}", "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}{% endif %}"),
    "opens a thought unless told": HEAD + LOOP + ASK.replace(
        "{% endif %}", "{% if enable_thinking | default(true) %}{{ '<think>' }}{% endif %}{% endif %}"),
    "own system turn": HEAD + "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe good.<|im_end|>\\n' }}{% endif %}" + LOOP + ASK,
    "adds to the system turn": HEAD + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if loop.first and "
                                      "m.role == 'system' %}{{ '\\nToday is a day.' }}{% endif %}<|im_end|>{{ '\\n' }}{% endfor %}" + ASK,
    "refuses system turns": HEAD + "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + LOOP + ASK,
    "drops system turns": HEAD + "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}" + LOOP + ASK,
    "other roles": HEAD + say("m.content").replace("m.role +", "{'user': 'human'}.get(m.role, m.role) +"),
    "one other role": HEAD + say("m.content").replace("m.role", "('model' if m.role == 'assistant' else m.role)"),
    "capital roles": HEAD + say("m.content").replace("m.role", "(m.role | capitalize)"),
    "trims": HEAD + say("m.content | trim"),
    "strips": HEAD + say("m.content.strip()"),
    "trims answers": HEAD + say("(m.content | trim) if m.role == 'assistant' else m.content"),
    "space before": HEAD + say("' ' + m.content"),
    "drops the last newline": HEAD + LOOP + "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}",
    "no question": HEAD + LOOP,
    "eos between": HEAD + say("m.content + (eos_token if m.role == 'assistant' else '')"),
    "eos ends turns": HEAD + say("m.content").replace("'<|im_end|>\\n'", "eos_token + '\\n'"),
    "last two turns alone": HEAD + "{% set messages = messages[-2:] %}" + LOOP + ASK,
    "long talks differ": HEAD + say("m.content + ('!' if loop.index > 3 else '')"),
    "empty answers differ": HEAD + "{% for m in messages %}{% if m.content %}{{ '<|im_start|>' + m.role + '\\n' + m.content + "
                                   "'<|im_end|>\\n' }}{% endif %}{% endfor %}" + ASK,
    "the first answer differs": HEAD + say("m.content + ('?' if m.role == 'assistant' and loop.index == 2 else '')"),
    "namespace": "{{- bos_token -}}{%- set ns = namespace(told='') -%}{%- if messages[0]['role'] == 'system' -%}"
                 "{%- set ns.told = messages[0]['content'] -%}{%- set messages = messages[1:] -%}{%- endif -%}"
                 "{%- if tools -%}{%- set ns.told = ns.told + ('\\n' if ns.told else '') + (tools | tojson) -%}{%- endif -%}"
                 "{%- if ns.told -%}{{- '<|im_start|>system\\n' + ns.told + '<|im_end|>\\n' -}}{%- endif -%}" + LOOP + ASK,
    "forgetful namespace": "{%- set last = -1 -%}{%- for m in messages -%}{%- set last = loop.index0 -%}{%- endfor -%}"
                           + say("m.content if last == -1 else 'x'"),
    "thoughts of all but the last answer": HEAD + "{%- set keep = keep | default(false) -%}{%- set ns = namespace(last=-1) -%}"
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- set c = m.content -%}{%- if c is not string -%}"
        "{%- set c = c | tojson -%}{%- endif -%}{%- if m.role == 'assistant' and not keep and loop.index0 != ns.last -%}"
        "{%- if '</think>' in c -%}{%- set c = c.split('</think>')[-1] | trim -%}{%- endif -%}{%- endif -%}"
        "{{- c + '<|im_end|>\\n' -}}{%- endfor -%}" + ASK,
    "macros": "{%- macro said(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}{%- for item in content -%}"
              "{{- item['text'] -}}{%- endfor -%}{%- endif -%}{%- endmacro -%}{%- macro calls(list) -%}{%- for name, value in "
              "list.items() -%}{{- name + (value | tojson) -}}{%- endfor -%}{%- endmacro -%}{{- bos_token -}}"
              "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- if m.role == 'assistant' -%}{%- generation -%}"
              "{%- if m.tool_calls is defined -%}{{- calls(m.tool_calls) -}}{%- endif -%}{{- said(m.content) + ('' if "
              "(continue_final_message and loop.last) else '<|im_end|>\\n') -}}{%- endgeneration -%}{%- else -%}"
              "{%- if m.get('content') -%}{{- said(m['content']) -}}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}" + ASK,
    "looks back": HEAD + "{% for m in messages %}{% if loop.first or messages[loop.index0 - 1].role != m.role %}"
                         "{{ '<|im_start|>' + m.role + '\\n' }}{% endif %}{{ m.content }}{% if loop.last or loop.nextitem.role != m.role %}"
                         "{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}" + ASK,
    "turns must alternate": HEAD + "{% set o = 1 if messages[0].role == 'system' else 0 %}{% for m in messages[o:] %}"
                                   "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
                                   "{% endfor %}" + LOOP + ASK,
    "backwards": HEAD + LOOP.replace("in messages", "in messages[::-1]") + ASK,
    "instructions": "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}",
    "mentions chatml": "{# <|im_start|> and <|im_end|> #}{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant:",
    "tool names in an untaken branch": HEAD + "{% if tools %}{{ tools | map(attribute='name') | join(', ') }}{% endif %}" + LOOP + ASK,
}


class Generation(Extension):
    """{% generation %} as transformers has it: what it holds is written."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def refuse(message):
    raise TemplateError(message)


ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
ENVIRONMENT.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
ENVIRONMENT.globals["raise_exception"] = refuse


def conversations(system):
    texts = ["Hi there.", " A b\n", "why  so?\n\n", "  x", "Yes"]
    for turns in range(1, 5):
        for empty in (False, True):
            messages = [{"role": "system", "content": " Be kind. "}] if system else []
            for i in range(turns):
                messages.append({"role": "user", "content": texts[i]})
                if i + 1 < turns:
                    messages.append({"role": "assistant", "content": "" if empty and i == 0 else texts[-1 - i]})
            if not (empty and turns == 1):
                yield messages


def render(source, messages):
    try:
        return ENVIRONMENT.from_string(source).render(messages=messages, tools=None, documents=None,
                                                      add_generation_prompt=True, bos_token="<|startoftext|>",
                                                      eos_token="<|im_end|>")
    except TemplateError as error:
        return "refused: " + str(error)


def chat_ml(messages):
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


def main():
    out = []
    for name, source in TEMPLATES.items():
        case = {"name": name, "template": source, "plain": [], "cases": []}
        for system in (False, True):
            rendered = [(m, render(source, m)) for m in conversations(system)]
            starts = {text[:text.find("<|im_start|>")] for _, text in rendered}
            same = all(text[text.find("<|im_start|>"):] == chat_ml(m) for m, text in rendered)
            case["plain"].append(same and len(starts) == 1)
            case["cases"] += [{"messages": m, "rendered": text} for m, text in rendered[:4:3]]
        out.append(case)
    path = os.path.join(os.path.dirname(__file__), "..", "tests", "fixtures", "chat", "templates.json")
    with open(path, "w") as file:
        file.write("[" + ",\n".join(json.dumps(case) for case in out) + "]\n")
    for case in out:
        print(case["plain"], case["name"])


main()
