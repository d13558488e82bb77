// Markdown to elements. A text becomes a tree of tags and strings, and only tags of this file are ever made; what a model
// wrote enters as text. No HTML, no images (they would call other machines), links to web pages only.
const DEEPEST = 8;
const HOSTS = new Set(["http:", "https:"]);

// The blocks of a text: [{tag, attributes, children, source}], children being nodes of the same kind or strings.
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

// Show `text` in `node`, touching only the blocks that changed since the last call.
export function showMarkdown(node, text) {
  const shown = node.markdown || [];
  const wanted = parse(text);
  let same = 0;
  while (same < shown.length && same < wanted.length && shown[same].source === wanted[same].source && node.childNodes[same]) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const block of wanted.slice(same)) node.append(build(block));
  node.markdown = wanted;
}

function build(item) {
  if (typeof item === "string") return document.createTextNode(item);
  const node = document.createElement(item.tag);
  for (const [name, value] of Object.entries(item.attributes || {})) node.setAttribute(name, value);
  node.append(...item.children.map(build));
  return node;
}

// ---- blocks -------------------------------------------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,}) *([\w+#.-]*) *$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)(?: +#+)? *$/;
const RULE = /^ {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)]) +(?=\S)/;
const DIVIDER = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  const add = (tag, from, children, attributes) => found.push({ tag, attributes, children, source: `${tag}\n${lines.slice(from, at).join("\n")}` });
  while (at < lines.length) {
    const from = at;
    const line = lines[at];
    let match;
    if (!line.trim()) {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      const closing = (other) => other.trim().startsWith(match[1]) && !other.trim().replaceAll(match[1][0], "");
      at += 1;
      while (at < lines.length && !closing(lines[at])) at += 1;
      const code = { tag: "code", children: [lines.slice(from + 1, at).join("\n")] };
      at += 1; // a fence that is not closed yet takes the rest
      add("pre", from, [code], match[2] ? { "data-language": match[2] } : undefined);
    } else if ((match = HEADING.exec(line))) {
      at += 1;
      add(`h${Math.min(6, match[1].length + 2)}`, from, inline(match[2], 0)); // the page's own headings are larger
    } else if (RULE.test(line)) {
      at += 1;
      add("hr", from, []);
    } else if (depth < DEEPEST && QUOTE.test(line)) {
      while (at < lines.length && QUOTE.test(lines[at])) at += 1;
      add("blockquote", from, blocks(lines.slice(from, at).map((each) => each.replace(QUOTE, "")), depth + 1));
    } else if (depth < DEEPEST && (match = ITEM.exec(line))) {
      const ordered = /\d/.test(match[2]);
      const items = [];
      while (at < lines.length && (match = ITEM.exec(lines[at])) && /\d/.test(match[2]) === ordered && !RULE.test(lines[at])) {
        const indent = match[0].length;
        const own = [lines[at].slice(indent)];
        at += 1;
        while (at < lines.length && belongs(lines, at, indent)) own.push(lines[at++].replace(new RegExp(`^ {0,${indent}}`), ""));
        items.push({ tag: "li", children: tight(blocks(own, depth + 1)) });
        while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] || "")) at += 1; // a loose list is one list
      }
      const start = ordered ? Number(/\d+/.exec(line)[0]) : 1;
      add(ordered ? "ol" : "ul", from, items, start === 1 ? undefined : { start: String(start) });
    } else if (line.includes("|") && DIVIDER.test(lines[at + 1] || "") && cells(line).length === cells(lines[at + 1]).length) {
      const width = cells(line).length;
      at += 2;
      const rows = [];
      while (at < lines.length && lines[at].includes("|") && lines[at].trim()) rows.push(cells(lines[at++]));
      const row = (tag, texts) => ({ tag: "tr", children: Array.from({ length: width }, (_, i) => ({ tag, children: inline(texts[i] || "", 0) })) });
      const head = { tag: "thead", children: [row("th", cells(line))] };
      add("table", from, rows.length ? [head, { tag: "tbody", children: rows.map((texts) => row("td", texts)) }] : [head]);
    } else {
      at += 1;
      while (at < lines.length && lines[at].trim() && !begins(lines[at], depth)) at += 1;
      const text = lines.slice(from, at).map((each) => each.trim()).join("\n");
      add("p", from, inline(text, 0));
    }
  }
  return found;
}

// Whether a line belongs to the list item above: indented, or empty before an indented one.
function belongs(lines, at, indent) {
  const needed = Math.min(indent, 2);
  const indented = (line) => line !== undefined && line.trim() !== "" && line.length - line.trimStart().length >= needed;
  return indented(lines[at]) || (!lines[at].trim() && indented(lines[at + 1]));
}

function begins(line, depth) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line)));
}

// An item of one paragraph needs no <p>.
function tight(children) {
  return children.length && children[0].tag === "p" ? [...children[0].children, ...children.slice(1)] : children;
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return row.split("|").map((cell) => cell.trim());
}

// ---- inside a block -----------------------------------------------------------------------------------------------

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const WORD = /[0-9A-Za-z]/;

function inline(text, depth) {
  const found = [];
  const missing = new Set(); // marks that no longer occur: each is searched to the end once, not once a character
  let plain = "";
  let at = 0;
  const flush = () => { if (plain) found.push(plain); plain = ""; };
  const add = (tag, children, attributes) => { flush(); found.push({ tag, attributes, children }); };
  while (at < text.length) {
    const character = text[at];
    if (character === "\\" && /[\\`*_{}[\]()#+.!|~>-]/.test(text[at + 1] || "")) {
      plain += text[at + 1];
      at += 2;
    } else if (character === "\n") {
      add("br", []);
      at += 1;
    } else if (character === "`") {
      const ticks = /^`+/.exec(text.slice(at, at + 64))[0];
      const end = missing.has(ticks) ? -1 : text.indexOf(ticks, at + ticks.length);
      if (end < 0) {
        missing.add(ticks);
        plain += ticks;
        at += ticks.length;
      } else {
        add("code", [text.slice(at + ticks.length, end)]);
        at = end + ticks.length;
      }
    } else if (character === "[" && depth < DEEPEST) {
      const link = linkAt(text, at);
      if (link) {
        add("a", inline(link.label, DEEPEST), { href: link.target, rel: "noopener noreferrer", target: "_blank" });
        at = link.end;
      } else {
        plain += character;
        at += 1;
      }
    } else {
      const mark = depth < DEEPEST && MARKS.find(([sign]) => text.startsWith(sign, at));
      const end = mark && !missing.has(mark[0]) ? closing(text, at, mark[0], missing) : -1;
      if (end > 0) {
        add(mark[1], inline(text.slice(at + mark[0].length, end), depth + 1));
        at = end + mark[0].length;
      } else {
        const width = mark ? mark[0].length : 1;
        plain += text.slice(at, at + width);
        at += width;
      }
    }
  }
  flush();
  return found;
}

// Where the emphasis that begins at `at` ends, -1 if nothing begins there: 3*4*5 and snake_case are no emphasis.
function closing(text, at, sign, missing) {
  const first = text[at + sign.length];
  if (first === undefined || /\s/.test(first) || (sign.length === 1 && WORD.test(text[at - 1] || ""))) return -1;
  let end = text.indexOf(sign, at + sign.length);
  for (let tries = 0; end >= 0 && tries < 16; tries += 1) {
    const after = text[end + sign.length] || "";
    const doubled = sign.length === 1 && (after === sign || text[end - 1] === sign);
    const inWord = sign.length === 1 && WORD.test(after);
    if (end > at + sign.length && !/\s/.test(text[end - 1]) && !doubled && !inWord) return end;
    end = text.indexOf(sign, end + (doubled ? 2 : 1));
  }
  if (end < 0) missing.add(sign);
  return -1;
}

function linkAt(text, at) {
  const match = /^\[([^[\]\n]{1,300})\]\(([^\s()<>]{1,2000})\)/.exec(text.slice(at, at + 2400));
  if (!match) return null;
  let url;
  try { url = new URL(match[2]); } catch { return null; }
  return HOSTS.has(url.protocol) ? { label: match[1], target: url.href, end: at + match[0].length } : null;
}
