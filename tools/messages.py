"""The catalogue of messages: `python tools/messages.py` collects them from the source, updates hanlin.po and
compiles hanlin.mo.

English stands at the call site and is the key; the Chinese is written into hanlin.po.
`tests/test_messages.py` refuses a message without Chinese, so what this prints as missing is what there is to
do.
"""

from __future__ import annotations

import ast
import datetime
import inspect
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
FOLDER = SOURCE / "hanlin" / "locale" / "zh" / "LC_MESSAGES"
PO = FOLDER / "hanlin.po"
MO = FOLDER / "hanlin.mo"

# Functions, methods and classes whose first argument is a template, or a `Text`.
KEYWORDS = frozenset(
    {
        "Text",
        "tr",
        # errors
        "BadRecord",
        "ConfigError",
        "Damaged",
        "FileError",
        "HanlinError",
        "NoFiles",
        "OutOfRange",
        "SettingOutOfRange",
        "Unreachable",
        "Unusable",
        # a run's progress
        "note",
        "part",
        "warn",
        "_warn",
        # the report
        "both",
        "phrase",
    }
)
NEVER = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)  # a date would change with every writing
CONTEXT = "in_context"  # its first argument is the context, its second the template
HEADER = """\
# Chinese (simplified) messages of Hanlin, keyed by the English at the call site.
# Written by `make messages`; only msgstr is edited by hand.
msgid ""
msgstr ""
"Language: zh\\n"
"Content-Type: text/plain; charset=utf-8\\n"

"""


def calls() -> Iterator[tuple[Path, ast.Call, str | None, ast.expr]]:
    """Every place of the source that says something: its file, the call, the context, and the argument with
    the template."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in KEYWORDS:
                yield path, node, None, node.args[0]
            elif name == CONTEXT and isinstance(node.args[0], ast.Constant):
                yield path, node, str(node.args[0].value), node.args[1]


def messages() -> set[tuple[str, str | None]]:
    """All messages of the source, with their contexts."""
    return {(text, None) for text in help_texts()} | {
        (template.value, context)
        for _, call, context, template in calls()
        if isinstance(template, ast.Constant) and isinstance(template.value, str) and template.value
        if len(call.args) == (1 if context is None else 2)  # a pair of old has Chinese first
    }


def help_texts() -> Iterator[str]:
    """What docstrings of the command line say of parameters, which is their help."""
    for path in sorted((SOURCE / "hanlin" / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield from parameter_texts(ast.get_docstring(node) or "")


def parameter_texts(docstring: str) -> Iterator[str]:
    """The descriptions in a docstring's section `Parameters` (numpydoc), each on one line."""
    _, found, section = inspect.cleandoc(docstring).partition("Parameters\n----------\n")
    description: list[str] = []
    for line in section.splitlines() if found else ():
        if line.startswith(" "):
            description.append(line.strip())
        elif description:
            yield " ".join(description)
            description = []
    if description:
        yield " ".join(description)


def translations(path: Path = PO) -> Catalog:
    """The catalogue as it is written."""
    with path.open("rb") as file:
        return read_po(file, locale="zh", charset="utf-8")


def updated(old: Catalog) -> Catalog:
    """All messages of the source with the translations that are known; what the source no longer says is
    dropped."""
    new = Catalog(locale="zh", charset="utf-8")
    for template, context in messages():
        known = old.get(template, context)
        added = new.add(template, known.string if known else "", context=context)
        added.flags.discard("python-format")  # guessed from a per cent sign
    return new


def po_text(catalogue: Catalog) -> str:
    """The catalogue as text: sorted, unwrapped, without dates and places in the source, so that merges are
    quiet."""
    written = io.BytesIO()
    write_po(written, catalogue, width=0, no_location=True, omit_header=True, sort_output=True)
    return HEADER + written.getvalue().decode().strip() + "\n"


def mo_bytes(catalogue: Catalog) -> bytes:
    """The catalogue as `gettext` reads it; the same bytes whenever it is written."""
    plain = Catalog(locale="zh", charset="utf-8", creation_date=NEVER, revision_date=NEVER)
    for message in catalogue:
        if message.id and message.string:
            plain.add(message.id, message.string, context=message.context)
    written = io.BytesIO()
    write_mo(written, plain)
    return written.getvalue()


def main() -> int:
    """Update and compile; 1 where Chinese is missing."""
    catalogue = updated(translations() if PO.exists() else Catalog(locale="zh"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    PO.write_text(po_text(catalogue), encoding="utf-8")
    MO.write_bytes(mo_bytes(catalogue))
    missing = [message.id for message in catalogue if message.id and not message.string]
    for message in missing:
        print(f"no Chinese: {message!r}")
    print(f"{len(catalogue)} messages, {len(missing)} without Chinese: {PO.relative_to(ROOT)}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
