"""The chat page: nothing from outside, nothing that could run what a model wrote, every word in both languages."""

from __future__ import annotations

import re
import urllib.request

import pytest

from hanlin.serving.app import STATIC

FILES = sorted(STATIC.iterdir())
SCRIPTS = {file.name: file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".js"}
PAGE = (STATIC / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_text_and_never_markup(name):
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|setAttribute\(\s*[\"'](on|style)|DOMParser"
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
    icons = {name for source in SCRIPTS.values() for name in re.findall(r'icon(?:Button)?\("([a-z]+)"', source)}
    assert {f"i-{name}" for name in icons} <= set(re.findall(r'symbol id="([\w-]+)"', PAGE))


def test_files_are_served_with_their_types(live):
    types = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css", "seal.svg": "image/svg+xml"}
    for name, media in types.items():
        with urllib.request.urlopen(f"{live.url}/static/{name}", timeout=5) as response:
            assert response.headers["content-type"].startswith(media) and response.read() == (STATIC / name).read_bytes()
    with urllib.request.urlopen(f"{live.url}/", timeout=5) as response:
        assert response.read() == (STATIC / "index.html").read_bytes()
