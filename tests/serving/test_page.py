"""The chat page: nothing from outside, nothing that could run what a model wrote, every word in both
languages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request

import pytest

from hanlin.common.errors import HanlinError
from hanlin.serving.app import STATIC
from hanlin.serving.server import read_suggestions
from hanlin.serving.service import Settings

FILES = sorted(STATIC.iterdir())
SCRIPTS = {file.name: file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".js"}
PAGE = (STATIC / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_text_and_never_markup(name):
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b"
        r"|new Function|srcdoc|setAttribute\(\s*[\"'](on|style)|DOMParser"
    )
    assert not re.search(forbidden, SCRIPTS[name])


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_nothing_is_loaded_from_elsewhere(file):
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]{2,}/|@import", text)


def test_the_page_obeys_its_own_policy():
    assert not re.search(r"<script(?![^>]*src=)|<style|\son[a-z]+=|\sstyle=", PAGE)


def test_every_word_is_there_in_both_languages():
    entries = dict(re.findall(r'^  (\w+): \[(".*?", ".*?")\],$', SCRIPTS["i18n.js"], re.M))
    assert len(entries) > 50
    used = set(re.findall(r'data-t(?:-\w+)?="(\w+)"', PAGE))
    for source in SCRIPTS.values():
        used |= set(re.findall(r'\bt\("(\w+)"', source))
    assert used <= set(entries)
    for key, pair in entries.items():
        zh, en = re.findall(r'"((?:[^"\\]|\\.)*)"', pair)
        assert zh and en and set(re.findall(r"\{\d\}", zh)) == set(re.findall(r"\{\d\}", en)), key


def test_every_element_a_script_asks_for_exists():
    wanted = {name for source in SCRIPTS.values() for name in re.findall(r'\$\("([\w-]+)"\)', source)}
    assert wanted and wanted <= set(re.findall(r'\bid="([\w-]+)"', PAGE))
    icons = {
        name for source in SCRIPTS.values() for name in re.findall(r'icon(?:Button)?\("([a-z]+)"', source)
    }
    assert {f"i-{name}" for name in icons} <= set(re.findall(r'symbol id="([\w-]+)"', PAGE))


def test_files_are_served_with_their_types(live):
    types = {
        "index.html": "text/html",
        "app.js": "text/javascript",
        "style.css": "text/css",
        "seal.svg": "image/svg+xml",
    }
    for name, media in types.items():
        with urllib.request.urlopen(f"{live.url}/static/{name}", timeout=5) as response:
            assert (
                response.headers["content-type"].startswith(media)
                and response.read() == (STATIC / name).read_bytes()
            )
    with urllib.request.urlopen(f"{live.url}/", timeout=5) as response:
        assert response.read() == (STATIC / "index.html").read_bytes()


# A document that knows tags, attributes and text.
FAKE_DOCUMENT = """
class Child { remove() { if (this.parent.childNodes.pop() !== this) throw new Error("not the last"); } }
class Text extends Child { constructor(text) { super(); this.text = String(text); } }
class Element extends Child {
  constructor(tag) { super(); this.tag = tag; this.attributes = {}; this.childNodes = []; }
  get lastChild() { return this.childNodes[this.childNodes.length - 1]; }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...nodes) { for (const node of nodes) { node.parent = this; this.childNodes.push(node); } }
}
globalThis.document = { createElement(tag) { return new Element(tag); },\
 createTextNode(text) { return new Text(text); } };
const plain = (node) => node instanceof Text ? node.text :\
 [node.tag, node.attributes, ...node.childNodes.map(plain)];
"""


def rendered(tmp_path, texts: list[str]) -> list:
    """Each text as the page would show it, [tag, attributes, children …]."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "markdown.mjs").write_text(SCRIPTS["markdown.js"], encoding="utf-8")
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    program = (
        FAKE_DOCUMENT
        + """
import { readFileSync } from "node:fs";
import { showMarkdown } from "./markdown.mjs";
const shown = JSON.parse(readFileSync("texts.json", "utf8")).map((text) => {
  const root = new Element("root");
  showMarkdown(root, text);
  const whole = JSON.stringify(root.childNodes.map(plain));
  const grown = new Element("root"); // as it streams
  const step = Math.max(1, Math.floor(text.length / (text.length > 1000 ? 4 : 40)));
  for (let end = 0; end <= text.length; end += step) showMarkdown(grown, text.slice(0, end));
  showMarkdown(grown, text);
  if (JSON.stringify(grown.childNodes.map(plain)) !== whole) throw new Error("streamed otherwise: " + text);
  return JSON.parse(whole);
});
console.log(JSON.stringify(shown));
"""
    )
    (tmp_path / "main.mjs").write_text(program, encoding="utf-8")
    result = subprocess.run([node, "main.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


MARKDOWN = {
    "你好": [["p", {}, "你好"]],
    "一\n二\n\n三": [["p", {}, "一", ["br", {}], "二"], ["p", {}, "三"]],
    "**粗**和*斜*与`x*y*`": [
        ["p", {}, ["strong", {}, "粗"], "和", ["em", {}, "斜"], "与", ["code", {}, "x*y*"]]
    ],
    "3*4*5=60，2 * 3 * 4，snake_case_name": [["p", {}, "3*4*5=60，2 * 3 * 4，snake_case_name"]],
    "```python\nprint('<b>')\n```\n完": [
        ["pre", {"data-language": "python"}, ["code", {}, "print('<b>')"]],
        ["p", {}, "完"],
    ],
    "```\n没有结束": [["pre", {}, ["code", {}, "没有结束"]]],
    "# 题\n正文": [["h3", {}, "题"], ["p", {}, "正文"]],
    "- 甲\n- 乙\n  - 丙": [["ul", {}, ["li", {}, "甲"], ["li", {}, "乙", ["ul", {}, ["li", {}, "丙"]]]]],
    "2. 甲\n3. 乙": [["ol", {"start": "2"}, ["li", {}, "甲"], ["li", {}, "乙"]]],
    "|a|b|\n|-|-|\n|1|**2**|": [
        [
            "table",
            {},
            ["thead", {}, ["tr", {}, ["th", {}, "a"], ["th", {}, "b"]]],
            ["tbody", {}, ["tr", {}, ["td", {}, "1"], ["td", {}, ["strong", {}, "2"]]]],
        ]
    ],
    "[站](https://example.org/a?b=1)": [
        [
            "p",
            {},
            [
                "a",
                {"href": "https://example.org/a?b=1", "rel": "noopener noreferrer", "target": "_blank"},
                "站",
            ],
        ]
    ],
    "> 引\n> 用": [["blockquote", {}, ["p", {}, "引", ["br", {}], "用"]]],
    "---": [["hr", {}]],
    "\\*不斜\\*": [["p", {}, "*不斜*"]],
    "答案是4。\n9-5=4": [["p", {}, "答案是4。", ["br", {}], "9-5=4"]],
}


def test_markdown_is_shown_as_elements(tmp_path):
    for text, (found, expected) in zip(
        MARKDOWN, zip(rendered(tmp_path, list(MARKDOWN)), MARKDOWN.values(), strict=True), strict=True
    ):
        assert found == expected, text


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<b>)",
    "[x](vbscript:a)",
    "[x](//evil.example)",
    "[x](/v1/models)",
    "![x](https://evil.example/a.png)",
    '[x](https://a" onclick="alert(1))',
    '```"onload=alert(1)\n</code><script>\n```',
    "# <svg onload=alert(1)>",
    "|<b>|x|\n|-|-|\n|<i onclick=1>|y|",
    "[a[b](https://x.example)](javascript:1)",
    "__proto__",
    "[__proto__](https://example.org)",
    "<https://example.org>",
    "[x](https://user:pw@evil.example)",
    "&lt;script&gt;",
]
TAGS = {
    "p",
    "br",
    "strong",
    "em",
    "del",
    "code",
    "pre",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "blockquote",
    "ul",
    "ol",
    "li",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "a",
}
ATTRIBUTES = {"a": {"href", "rel", "target"}, "pre": {"data-language"}, "ol": {"start"}}


def test_nothing_that_runs_or_loads_comes_from_a_text(tmp_path):
    def check(node) -> None:
        if isinstance(node, str):
            return
        tag, attributes, *children = node
        assert tag in TAGS and set(attributes) <= ATTRIBUTES.get(tag, set())
        if tag == "a":
            assert re.match(r"https?://", attributes["href"]) and "noopener" in attributes["rel"]
        if "data-language" in attributes:
            assert re.fullmatch(r"[\w+#.-]+", attributes["data-language"])
        for child in children:
            check(child)

    for blocks in rendered(tmp_path, HOSTILE):
        for block in blocks:
            check(block)


def test_long_and_broken_texts_are_shown_all_the_same(tmp_path):
    """Of 4,000 characters; each takes a fraction of the run's minute, or it would not end."""
    texts = [
        unit * (4_000 // len(unit))
        for unit in (
            "*",
            "**a ",
            "_a",
            "`",
            "``a`",
            "[",
            "[a](",
            "> ",
            "- ",
            "  - a\n",
            "|",
            "a|b\n-|-\n",
            "\\",
            "#",
            "~~a",
            "```\n",
            "*a **b ",
        )
    ]
    assert len(rendered(tmp_path, texts)) == len(texts)


def test_examples_come_from_the_model_directory(tmp_path, serve_with):
    assert read_suggestions(tmp_path) == ()
    file = tmp_path / "suggestions.json"
    file.write_text(
        json.dumps(["你好", {"text": "1+1=?", "title": {"zh": "算术", "en": "a sum"}}]), encoding="utf-8"
    )
    found = read_suggestions(tmp_path)
    assert found == ({"text": "你好", "title": {}}, {"text": "1+1=?", "title": {"zh": "算术", "en": "a sum"}})
    with (
        serve_with(Settings(model_id="tiny", suggestions=found)) as live,
        urllib.request.urlopen(f"{live.url}/suggestions") as response,
    ):
        assert json.load(response) == list(found)
    for wrong in (
        '{"a": 1}',
        "[1]",
        '[{"title": {"zh": "x"}}]',
        '[{"text": "x", "title": "y"}]',
        '[""]',
        '[{"text": "x", "title": {"fr": "y"}}]',
    ):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(HanlinError, match="suggestions.json"):
            read_suggestions(tmp_path)
