"""translate.py FROM TO - CUDA C++ as C++ for tests/emulated: launches, shared memory, PTX."""
import re
import sys


def opener(text, end):
    """Where the bracket that closes at text[end] opens."""
    close = text[end]
    open_ = {")": "(", "]": "[", ">": "<", "}": "{"}[close]
    depth = 0
    for i in range(end, -1, -1):
        depth += (text[i] == close) - (text[i] == open_)
        if not depth:
            return i
    sys.exit("no bracket opens " + text[end - 40:end + 1])


def closer(text, start):
    close = {"(": ")", "[": "]", "{": "}"}[text[start]]
    depth, i = 0, start
    while i < len(text):
        if text[i] == '"':
            i = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, i).end()
            continue
        depth += (text[i] == text[start]) - (text[i] == close)
        if not depth:
            return i
        i += 1
    sys.exit("no bracket closes " + text[start:start + 40])


def callee(text, end):
    """Where the expression that ends before text[end] begins: a name, with template arguments, indices, parentheses."""
    i = end
    while True:
        while text[i - 1].isspace():
            i -= 1
        if text[i - 1] in ")]>":
            i = opener(text, i - 1)
            if text[i] == "(":
                return i
        else:
            while text[i - 1].isalnum() or text[i - 1] in "_:":
                i -= 1
            return i


def launches(text):
    at = text.find("<<<")
    while at >= 0:
        begin, end = callee(text, at), text.index(">>>", at)
        name, config = text[begin:at].strip(), text[at + 3:end]
        new = f"emu::launch([=](auto... emu_a) {{ {name}(emu_a...); }}, {config})"
        text = text[:begin] + new + text[end + 3:]
        at = text.find("<<<", begin + len(new))
    return text


def split(text, by):
    """At separators outside of brackets and strings."""
    parts, depth, begin, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == '"':
            i = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, i).end()
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if text[i] == by and not depth and text[i - 1:i + 1] != "::" and text[i:i + 2] != "::":
            parts.append(text[begin:i])
            begin = i + 1
        i += 1
    return parts + [text[begin:]]


def ptx(text):
    found = re.compile(r"\basm\s*(?:volatile)?\s*\(").search(text)
    while found:
        end = closer(text, found.end() - 1)
        fields = split(text[found.end():end], ":") + ["", ""]
        if "::" in fields[0]: # no outputs: "..." :: inputs
            fields = [fields[0].split("::")[0], ""] + split(fields[0].split("::", 1)[1], ":") + [""]
        operands = []
        for field, kind in ((fields[1], "out"), (fields[2], "in")):
            for operand in filter(str.strip, split(field, ",")):
                value = operand[operand.index("("):].strip()
                operands.append(f"emu::{kind}{value}")
        new = f"emu::ptx({fields[0].strip()}, {{{', '.join(operands)}}})"
        text = text[:found.start()] + new + text[end + 1:]
        found = re.compile(r"\basm\s*(?:volatile)?\s*\(").search(text, found.start() + len(new))
    return text


def bounds(text):
    at = text.find("__launch_bounds__")
    while at >= 0:
        text = text[:at] + text[closer(text, text.index("(", at)) + 1:]
        at = text.find("__launch_bounds__")
    return text


def main():
    with open(sys.argv[1]) as f:
        text = f.read()
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *const \2 = (\1 *)emu::dynamic_shared();", text)
    text = re.sub(r"__shared__ (alignas\(\d+\) )?", r"\1static ", text)
    with open(sys.argv[2], "w") as f:
        f.write(f'#line 1 "{sys.argv[1]}"\n' + launches(ptx(bounds(text))))


main()
