"""Renders conversations through the published chat templates: tests/chat/data/golden.json.

Oracle: transformers 5.24.0, jinja2 3.1.6 (apply_chat_template without a model: its own renderer over the template).
The templates beside it are the originals (MIT): deepseek-v3.jinja is chat_template of DeepSeek-V3's
tokenizer_config.json; deepseek-v3-0324.jinja and deepseek-v3.1-terminus.jinja are those that GGUF files of these models
carry; deepseek-r1-distill.jinja is that of R1-Distill-Qwen-32B.

    python tests/chat/make_golden.py            # writes
    python tests/chat/make_golden.py --check    # compares

golden_jinja2.json holds nine more conversations, rendered by jinja2 3.1.6 alone (trim_blocks, lstrip_blocks).
"""

import itertools
import json
import pathlib
import random
import sys

from transformers.utils.chat_template_utils import render_jinja_template

DATA = pathlib.Path(__file__).parent / "data"
TEMPLATES = {"v3": "deepseek-v3", "v3-0324": "deepseek-v3-0324", "r1": "deepseek-r1-distill", "v3.1": "deepseek-v3.1-terminus"}
BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"


def call(name, arguments, kind="function"):
    return {"id": "c", "type": kind, "function": {"name": name, "arguments": arguments}}


def calls(n, content=None):
    return {"role": "assistant", "content": content, "tool_calls": [call("look", '{"n": %d}' % i) for i in range(n)]}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool(text):
    return {"role": "tool", "content": text}


def system(text):
    return {"role": "system", "content": text}


TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}}]

CASES = {
    "one user": [user("Who are you?")],
    "two turns": [system("Be brief."), user("hi"), assistant("hello"), user("2+2?")],
    "answered": [user("hi"), assistant("hello")],
    "two systems": [system("A"), system("B"), user("x")],
    "system in the middle": [user("a"), assistant("b"), system("later"), user("c"), assistant("d")],
    "no system, other scripts": [user("那 2+2 呢?\n\t“é”"), assistant("四\r\n"), user("🤔")],
    "thought": [user("q"), assistant("<think>\nhm\n</think>\n\nans"), user("q2")],
    "thought twice": [user("q"), assistant("<think>a</think>b</think>c"), user("q2"), assistant("x</think>y")],
    "quotes the mark": [user("q </think> <think>"), assistant("plain"), user("<｜Assistant｜>")],
    "one call": [user("w?"), calls(1), tool("21")],
    "one call, open": [user("w?"), calls(1)],
    "two calls": [user("w?"), calls(2), tool("21"), tool("27")],
    "two calls, answered": [user("w?"), calls(2), tool("21"), tool("27"), assistant("so <think>\n</think> it is"), user("thanks")],
    "three calls": [user("w?"), calls(3), tool("1"), tool("2"), tool("3"), assistant("sum 6")],
    "calls twice": [user("w?"), calls(2), tool("1"), calls(1), tool("2"), calls(2), tool("3"), tool("4"), assistant("ok"), user("more"), calls(1), tool("5"), assistant("done")],
    "calls beside content": [user("w?"), calls(2, "let me see"), tool("1"), tool("2"), assistant("ok"), user("x")],
    "calls beside empty content": [user("w?"), calls(1, ""), tool("1"), assistant("ok")],
    "user after a result": [user("w?"), calls(2), tool("1"), user("never mind"), assistant("fine")],
    "empty contents": [system(""), user(""), assistant(""), user("")],
    "two assistants": [user("a"), assistant("b"), assistant("c"), user("d")],
    "assistant first": [assistant("welcome"), user("d")],
    "two users": [user("a"), user("b"), assistant("c")],
    "prefix": [user("a"), assistant("An apple", prefix=True)],
    "prefix false": [user("a"), assistant("An apple", prefix=False), user("b")],
    "line ends at the edges": [system("\n s \n"), user("\n u \n"), assistant("\n a \n"), user(" ")],
    "with tools": [user("w?"), calls(2), tool("1"), tool("2"), assistant("ok"), user("b")],
}


def random_conversation(rng):
    words = ["a", "b ", " c", "\n", "</think>", "<think>", "é文", '{"k": 1}', "```", ""]
    text = lambda: "".join(rng.choices(words, k=rng.randrange(4)))
    messages = [system(text()) for _ in range(rng.choice([0, 0, 1, 2]))]
    for _ in range(rng.randrange(1, 7)):
        kind = rng.randrange(5)
        if kind <= 1:
            messages.append(user(text()))
        elif kind <= 3:
            messages.append(assistant(text()))
        else:
            n = rng.randrange(1, 4)
            messages.append(calls(n, rng.choice([None, None, "", "text"])))
            messages += [tool(text()) for _ in range(rng.randrange(n + 1))]
    return messages


def renders():
    rng = random.Random(8)
    cases = dict(CASES) | {f"random {i}": random_conversation(rng) for i in range(30)}
    for (name, messages), (which, file), prompt, thinking in itertools.product(
        cases.items(), TEMPLATES.items(), [True, False], [None, True, False]
    ):
        if which != "v3.1" and thinking is not None:
            continue
        more = {} if thinking is None else {"thinking": thinking}
        tools = TOOLS if name == "with tools" else None
        text = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=(DATA / f"{file}.jinja").read_text(),
            add_generation_prompt=prompt,
            bos_token=BOS,
            eos_token=EOS,
            **more,
        )[0][0]
        yield name, messages, tools, {"template": which, "add_generation_prompt": prompt, **more, "text": text}


def main():
    cases = {}
    for name, messages, tools, render in renders():
        case = cases.setdefault(name, {"name": name, "messages": messages, **({"tools": tools} if tools else {}), "renders": []})
        case["renders"].append(render)
    text = json.dumps(list(cases.values()), ensure_ascii=False, separators=(",", ":")).replace('},{"name"', '},\n{"name"') + "\n"
    path = DATA / "golden.json"
    if "--check" in sys.argv:
        sys.exit(path.read_text() != text and f"{path} is not what the templates give")
    path.write_text(text)


main()
