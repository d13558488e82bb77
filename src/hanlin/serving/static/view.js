// Messages as elements. Whatever a model or a person wrote enters the page as text and never as markup.
import { setTitle, t } from "./i18n.js";
import { showMarkdown } from "./markdown.js";

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, title, onClick) {
  const button = element("button", "icon-button small");
  button.type = "button";
  button.append(icon(name));
  setTitle(button, title);
  button.addEventListener("click", () => onClick(button));
  return button;
}

// One message: build once, then `update` as it grows.
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.root = element("article", `message ${message.role}`);
    this.body = element("div", "body");
    if (message.role === "assistant") {
      const seal = element("img", "avatar");
      seal.src = "/static/seal.svg";
      seal.alt = "";
      this.root.append(seal);
    }
    this.root.append(this.body);
    if (message.role === "assistant") this.buildReply();
    else this.body.append(element("div", "bubble", message.content));
    this.foot = element("div", "foot");
    this.body.append(this.foot);
    this.update(false);
  }

  buildReply() {
    this.note = element("p", "note");
    this.thinking = element("details", "thinking");
    this.summary = element("summary");
    this.summary.addEventListener("click", () => { this.touched = true; });
    this.reasoning = element("div", "reasoning");
    this.thinking.append(this.summary, this.reasoning);
    this.content = element("div", "content");
    this.failure = element("div", "failure");
    this.body.append(this.note, this.thinking, this.content, this.failure);
  }

  update(streaming) {
    this.root.classList.toggle("streaming", streaming);
    if (this.message.role === "assistant") this.updateReply(streaming);
    if (!streaming) this.buildFoot();
  }

  updateReply(streaming) {
    const { content, reasoning, seconds, tokens, forgotten, error, finish } = this.message;
    const pondering = streaming && !content && (reasoning || this.message.opened);
    this.note.hidden = !forgotten;
    if (forgotten) this.note.textContent = t("forgotten", forgotten);
    this.thinking.hidden = !reasoning && !pondering;
    this.thinking.classList.toggle("pondering", Boolean(pondering));
    this.summary.textContent = pondering ? t("thinkingNow") : t("thought", (seconds || 0).toFixed(1));
    setText(this.reasoning, reasoning || "");
    if (!this.touched) this.thinking.open = Boolean(pondering);
    if (pondering) this.reasoning.scrollTop = this.reasoning.scrollHeight;
    if (tokens && tokens.length) this.updateTokens(tokens);
    else showMarkdown(this.content, content || (streaming || error || reasoning || finish === "stopped" ? "" : t("emptyReply")));
    this.content.classList.toggle("faint", !content);
    this.content.hidden = !content && (Boolean(error) || Boolean(pondering) || (!streaming && Boolean(reasoning)));
    this.failure.hidden = !error;
    if (error) {
      const retry = element("button", "text-button", t("retry"));
      retry.type = "button";
      retry.addEventListener("click", () => this.actions.again(this.message));
      this.failure.replaceChildren(element("span", "", error), retry);
    }
  }

  // Characters with the probabilities of the tokens that spell them; one character may take several tokens.
  updateTokens(tokens) {
    if (this.tokenCount > tokens.length || this.tokenCount === undefined) {
      this.content.replaceChildren();
      this.tokenCount = 0;
      this.bytes = [];
      this.group = [];
    }
    for (const token of tokens.slice(this.tokenCount)) {
      this.bytes.push(...(token.bytes || []));
      this.group.push(token);
      let text;
      try { text = new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(this.bytes)); } catch {
        if (this.bytes.length < 8) continue;
        text = "\ufffd";
      }
      const span = element("span", "token", text);
      const probability = Math.exp(this.group.reduce((sum, entry) => sum + entry.logprob, 0));
      span.style.setProperty("--doubt", String(Math.round((1 - probability) * 100) / 100));
      span.tabIndex = 0;
      const alternatives = this.group.length === 1 ? this.group[0].top_logprobs : [];
      for (const event of ["pointerenter", "focus", "click"]) span.addEventListener(event, () => this.actions.tip(span, text, probability, alternatives));
      for (const event of ["pointerleave", "blur"]) span.addEventListener(event, () => this.actions.tip(null));
      this.content.append(span);
      this.bytes = [];
      this.group = [];
    }
    this.tokenCount = tokens.length;
  }

  buildFoot() {
    const { role, content, stats, finish } = this.message;
    const nodes = [];
    if (content) nodes.push(iconButton("copy", t("copy"), (button) => this.actions.copy(content, button)));
    if (role === "user") nodes.push(iconButton("edit", t("edit"), () => this.edit()));
    else nodes.push(iconButton("again", t("again"), () => this.actions.again(this.message)));
    const facts = [];
    if (stats) facts.push(t("stats", stats.tokens, stats.rate));
    if (finish === "stopped") facts.push(t("stopped"));
    if (finish === "length") facts.push(t("lengthReached"));
    if (facts.length) nodes.push(element("span", "facts", facts.join(" · ")));
    this.foot.replaceChildren(...nodes);
  }

  // Turn a question into a text field; sending it forgets what came after.
  edit() {
    const box = element("textarea", "edit-box");
    box.value = this.message.content;
    const row = element("div", "edit-row");
    const cancel = element("button", "text-button", t("cancel"));
    const send = element("button", "text-button primary", t("resend"));
    cancel.type = send.type = "button";
    row.append(cancel, send);
    const close = () => { this.root.classList.remove("editing"); box.remove(); row.remove(); };
    const submit = () => { if (box.value.trim()) this.actions.resend(this.message, box.value.trim()); };
    cancel.addEventListener("click", close);
    send.addEventListener("click", submit);
    box.addEventListener("keydown", (event) => {
      if (isSend(event)) { event.preventDefault(); submit(); }
      if (event.key === "Escape" && !event.isComposing) { event.stopPropagation(); close(); }
    });
    this.root.classList.add("editing");
    this.body.prepend(box, row);
    grow(box);
    box.addEventListener("input", () => grow(box));
    box.focus();
  }
}

// Enter sends, unless Shift is held or an input method is still composing (Safari says so by key code 229 only).
export function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function setText(node, text) {
  const last = node.firstChild;
  if (last && last === node.lastChild && last.nodeType === Node.TEXT_NODE && text.startsWith(last.data)) {
    if (text.length > last.data.length) last.appendData(text.slice(last.data.length));
  } else if (node.textContent !== text) node.textContent = text;
}
