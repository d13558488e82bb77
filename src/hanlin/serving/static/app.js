// The chat page: wires the stored chats, the API and the elements together.
import { ApiError, fetchModels, fetchSuggestions, streamChat } from "./api.js";
import { SUGGESTIONS, choose, setLanguage, setTitle, t } from "./i18n.js";
import { DEFAULTS, chatTitle, deleteChat, listChats, loadSettings, newChat, saveChat, saveSettings, toJsonLines } from "./store.js";
import { MessageView, element, grow, icon, iconButton, isSend } from "./view.js";

const $ = (id) => document.getElementById(id);
const settings = loadSettings();
let model = { id: null, max_model_len: 1024 };
let chat = newChat();
let running = null; // the AbortController of the reply in progress
let writing = null; // its message
let suggestions = SUGGESTIONS;
const SLIDERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"];

// ---- conversation -------------------------------------------------------------------------------------------------

function show(next) {
  stop();
  chat = next;
  render();
}

function render() {
  if (chat.messages.length) $("messages").replaceChildren(...chat.messages.map((message) => new MessageView(message, actions).root));
  else $("messages").replaceChildren(greeting());
  $("title").textContent = chatTitle(chat) || t("untitled");
  document.title = chat.messages.length ? `${chatTitle(chat)} · 翰林` : "翰林 Hanlin";
  remember();
  $("system").value = chat.messages.length ? chat.system || "" : settings.system;
  showContext();
  renderHistory();
  scrollDown(true);
}

// The open chat stands in the address, so that a reload comes back to it.
function remember() {
  history.replaceState(null, "", chat.messages.length ? `#${chat.id}` : location.pathname + location.search);
}

function greeting() {
  const box = element("section", "greeting");
  const seal = element("img");
  seal.src = "/static/seal.svg";
  seal.alt = "";
  const cards = element("div", "cards");
  for (const { text, title } of suggestions) {
    const card = element("button", "card", choose(title) || text);
    card.type = "button";
    card.addEventListener("click", () => ask(text));
    cards.append(card);
  }
  box.append(seal, element("h2", "", t("greeting")), element("p", "", t("greetingSub")), cards);
  return box;
}

function ask(text) {
  if (running || !text.trim()) return;
  if (!chat.messages.length) chat.system = settings.system;
  const message = { role: "user", content: text.trim() };
  chat.messages.push(message);
  save();
  if (chat.messages.length === 1) render(); // the greeting goes, the title comes
  else append(message);
  reply();
}

function append(message) {
  const view = new MessageView(message, actions);
  $("messages").append(view.root);
  return view;
}

// Requests the answer to the last question and shows it as it comes.
async function reply() {
  const message = { role: "assistant", content: "", reasoning: "", opened: settings.thinking === "on", tokens: settings.probabilities ? [] : undefined };
  const history = historyThatFits();
  message.forgotten = chat.messages.length - history.length;
  const mine = chat;
  chat.messages.push(message);
  const view = append(message);
  running = new AbortController();
  writing = message;
  const controller = running;
  setBusy(true);
  scrollDown(true);
  const began = performance.now();
  let finished = 0;
  let drawn = true;
  let over = false;
  const draw = () => {
    drawn = true;
    if (over) return;
    const follow = nearBottom();
    view.update(true);
    if (follow) scrollDown();
  };
  const onChunk = (chunk) => {
    message.reasoning += chunk.reasoning;
    if (chunk.content && !message.content && message.reasoning) message.seconds = (performance.now() - began) / 1000;
    message.content += chunk.content;
    if (message.tokens) message.tokens.push(...chunk.tokens);
    if (chunk.finish) { message.finish = chunk.finish; finished = performance.now(); }
    if (chunk.usage) {
      message.usage = chunk.usage;
      const seconds = ((finished || performance.now()) - began) / 1000;
      message.stats = { tokens: chunk.usage.completion_tokens, rate: Math.round(chunk.usage.completion_tokens / Math.max(seconds, 0.001)) };
    }
    if (drawn) { drawn = false; requestAnimationFrame(draw); }
  };
  try {
    await request(history, message, controller.signal, onChunk);
  } catch (error) {
    if (error.name === "AbortError" || message.finish === "stopped") message.finish = "stopped"; // or the page is going away
    else message.error = explain(error);
  }
  if (message.reasoning && !message.seconds) message.seconds = (performance.now() - began) / 1000;
  delete message.opened;
  over = true;
  const follow = nearBottom();
  view.update(false);
  if (running === controller) { running = null; writing = null; setBusy(false); }
  saveChatWarning(mine);
  if (mine === chat) { showContext(); renderHistory(); if (follow) scrollDown(); }
}

// Tries again without the oldest exchange as long as the server says that the conversation is too long.
async function request(history, message, signal, onChunk) {
  for (;;) {
    const messages = history.map(({ role, content }) => ({ role, content }));
    if (chat.system) messages.unshift({ role: "system", content: chat.system });
    const body = { model: model.id || undefined, messages, temperature: settings.temperature, top_p: settings.top_p, max_tokens: settings.max_tokens };
    // What stands at its neutral value is not sent, so that the model's own recommendation counts.
    for (const name of ["top_k", "min_p", "repetition_penalty"]) if (settings[name] !== DEFAULTS[name]) body[name] = settings[name];
    if (settings.seed !== "") body.seed = Number(settings.seed);
    if (settings.thinking !== "auto") body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
    if (settings.probabilities) Object.assign(body, { logprobs: true, top_logprobs: 5 });
    try {
      return await streamChat(body, signal, onChunk);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "context_length_exceeded" || history.length < 3) throw error;
      history = history.slice(2);
      message.forgotten += 2;
    }
  }
}

// The latest messages that leave the model room to answer, judged by what the last reply's usage says a character costs.
function historyThatFits() {
  const messages = chat.messages.filter((message) => !message.error);
  const used = messages.filter((message) => message.usage).pop();
  if (!used) return messages;
  const before = messages.slice(used.forgotten || 0, messages.indexOf(used));
  const cost = used.usage.prompt_tokens / Math.max(1, before.reduce((sum, m) => sum + m.content.length + 4, (chat.system || "").length));
  const room = model.max_model_len - Math.min(settings.max_tokens, model.max_model_len / 3) - (chat.system || "").length * cost;
  let start = 0;
  const size = () => messages.slice(start).reduce((sum, m) => sum + (m.content.length + 4) * cost, 0);
  while (size() > room && messages.length - start > 2) start += 2;
  return messages.slice(start);
}

function stop() {
  if (!running) return;
  const controller = running;
  running = null;
  setBusy(false);
  controller.abort();
}

const actions = {
  again(message) {
    if (running) return;
    chat.messages.length = chat.messages.indexOf(message);
    render();
    reply();
  },
  resend(message, text) {
    stop();
    chat.messages.length = chat.messages.indexOf(message);
    render();
    ask(text);
  },
  async copy(text, button) {
    if (!(await copyText(text))) return toast(t("copyFailed"));
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1200);
  },
  tip(anchor, text, probability, alternatives) {
    const tip = $("tip");
    tip.hidden = !anchor;
    if (!anchor) return;
    const rows = alternatives.map((other) => {
      const row = element("div", "tip-row");
      const share = Math.exp(other.logprob);
      const bar = element("span", "tip-bar");
      bar.style.setProperty("--share", String(share));
      row.append(element("span", "tip-token", visible(other.token)), bar, element("span", "tip-share", `${(share * 100).toFixed(1)}%`));
      row.classList.toggle("chosen", other.token === text);
      return row;
    });
    tip.replaceChildren(element("div", "tip-head", t("probability", (probability * 100).toFixed(1))), ...rows);
    const box = anchor.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
  },
};

const visible = (text) => text.replace(/\n/g, "⏎").replace(/ /g, "␣") || "∅";

// The clipboard exists only over https and on this machine; elsewhere a hidden field is selected and copied.
async function copyText(text) {
  if (navigator.clipboard) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not permitted: the other way */ }
  }
  const box = element("textarea", "offscreen");
  box.value = text;
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  return copied;
}

function explain(error) {
  if (!(error instanceof ApiError)) return t("failServer", error.message);
  const known = { network: "failNetwork", queue_full: "failQueue", timeout: "failTimeout", invalid_api_key: "failKey" }[error.code];
  if (known) return t(known);
  if (error.code === "context_length_exceeded") return t("failContext", model.max_model_len);
  return t("failServer", error.message);
}

// ---- history ------------------------------------------------------------------------------------------------------

function save() {
  saveChatWarning(chat);
}

function saveChatWarning(which) {
  if (which.messages.length && !saveChat(which)) toast(t("storageFull"));
}

function renderHistory() {
  const chats = listChats();
  const midnight = new Date().setHours(0, 0, 0, 0);
  const nodes = [];
  for (const [label, group] of [["today", chats.filter((c) => c.updated >= midnight)], ["earlier", chats.filter((c) => c.updated < midnight)]]) {
    if (group.length) nodes.push(element("div", "history-label", t(label)), ...group.map(historyItem));
  }
  $("history").replaceChildren(...(nodes.length ? nodes : [element("div", "history-label", t("noHistory"))]));
}

function historyItem(item) {
  const row = element("div", "history-item");
  row.classList.toggle("current", item.id === chat.id);
  const open = element("button", "history-open", chatTitle(item) || t("untitled"));
  open.type = "button";
  open.addEventListener("click", () => { show(item.id === chat.id ? chat : item); closeSidebarOnPhones(); });
  row.append(open, iconButton("trash", t("deleteChat"), () => {
    if (!confirm(t("deleteQuestion"))) return;
    deleteChat(item.id);
    if (item.id === chat.id) show(newChat());
    else renderHistory();
  }));
  return row;
}

function exportAll() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([toJsonLines(listChats())], { type: "application/jsonl" }));
  link.download = `hanlin-chats-${new Date().toISOString().slice(0, 10)}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- composer and chrome ------------------------------------------------------------------------------------------

function setBusy(busy) {
  $("messages").setAttribute("aria-busy", String(busy));
  $("send").classList.toggle("busy", busy);
  $("send").replaceChildren(icon(busy ? "stop" : "send"));
  setTitle($("send"), t(busy ? "stop" : "send"));
  enableSend();
}

function enableSend() {
  $("send").disabled = !running && !$("input").value.trim();
}

function showContext() {
  const last = chat.messages.filter((message) => message.usage).pop();
  $("context").textContent = last ? t("contextUse", last.usage.total_tokens, model.max_model_len) : "";
}

function nearBottom() {
  const box = $("scroller");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

function scrollDown(now) {
  const box = $("scroller");
  box.scrollTo({ top: box.scrollHeight, behavior: now ? "instant" : "auto" });
}

function applyTheme() {
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  setTitle($("theme"), t({ system: "themeSystem", light: "themeLight", dark: "themeDark" }[settings.theme]));
}

function applySettings() {
  for (const name of SLIDERS) {
    $(name).value = String(settings[name]);
    $(`${name}-value`).textContent = String(settings[name]);
  }
  $("seed").value = settings.seed;
  $("probabilities").checked = settings.probabilities;
  for (const button of $("thinking").children) {
    const chosen = button.dataset.value === settings.thinking;
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
  applyTheme();
}

function change(values) {
  Object.assign(settings, values);
  saveSettings(settings);
  applySettings();
}

function speak(language) {
  change({ language });
  setLanguage(language);
  applyTheme();
  setBusy(Boolean(running));
  if (running) renderHistory();
  else render();
}

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  setTimeout(() => { $("toast").hidden = true; }, 4000);
}

function toggleSidebar() {
  document.body.classList.toggle(matchMedia("(max-width: 800px)").matches ? "sidebar-open" : "sidebar-closed");
}

function closeSidebarOnPhones() {
  document.body.classList.remove("sidebar-open");
}

function toggleSettings(open) {
  $("settings").hidden = !open;
  $("toggle-settings").setAttribute("aria-expanded", String(open));
}

function listen() {
  const input = $("input");
  input.addEventListener("input", () => { grow(input); enableSend(); });
  input.addEventListener("keydown", (event) => {
    if (isSend(event)) { event.preventDefault(); submit(); }
  });
  const submit = () => {
    if (running || !input.value.trim()) return;
    const text = input.value;
    input.value = "";
    grow(input);
    ask(text);
  };
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    if (running) stop();
    else if (!$("settings").hidden) toggleSettings(false);
    else closeSidebarOnPhones();
  });
  $("new-chat").addEventListener("click", () => { show(newChat()); closeSidebarOnPhones(); input.focus(); });
  $("export").addEventListener("click", exportAll);
  $("theme").addEventListener("click", () => change({ theme: { system: "light", light: "dark", dark: "system" }[settings.theme] }));
  $("language").addEventListener("click", () => speak(settings.language === "zh" ? "en" : "zh"));
  $("toggle-sidebar").addEventListener("click", toggleSidebar);
  $("scrim").addEventListener("click", closeSidebarOnPhones);
  $("toggle-settings").addEventListener("click", () => toggleSettings($("settings").hidden));
  $("close-settings").addEventListener("click", () => toggleSettings(false));
  for (const name of SLIDERS) $(name).addEventListener("input", () => change({ [name]: Number($(name).value) }));
  $("seed").addEventListener("change", () => change({ seed: /^\d{1,15}$/.test($("seed").value.trim()) ? $("seed").value.trim() : "" }));
  $("probabilities").addEventListener("change", () => change({ probabilities: $("probabilities").checked }));
  $("system").addEventListener("change", () => {
    change({ system: $("system").value.trim() });
    chat.system = settings.system;
    save();
  });
  $("thinking").addEventListener("click", (event) => { if (event.target.dataset.value) change({ thinking: event.target.dataset.value }); });
  $("thinking").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const order = ["auto", "on", "off"];
    change({ thinking: order[(order.indexOf(settings.thinking) + step + 3) % 3] });
    $("thinking").querySelector('[aria-checked="true"]').focus();
  });
  $("reset-settings").addEventListener("click", () => {
    change({ ...DEFAULTS, language: settings.language, theme: settings.theme });
    $("system").value = "";
    chat.system = "";
  });
  $("clear-history").addEventListener("click", () => {
    if (!confirm(t("clearQuestion"))) return;
    for (const item of listChats()) deleteChat(item.id);
    show(newChat());
  });
  $("scroller").addEventListener("scroll", () => { $("to-bottom").hidden = nearBottom(); actions.tip(null); }, { passive: true });
  $("to-bottom").addEventListener("click", () => scrollDown());
  addEventListener("pagehide", () => {
    if (running && writing) writing.finish = "stopped";
    save();
  });
  addEventListener("storage", (event) => { if (event.key?.startsWith("hanlin.chat.")) renderHistory(); });
}

// The model's name, or a choice where a base is served with adapters.
function showModels(models) {
  model = models[0];
  if (models.length === 1) {
    $("model").textContent = model.id;
    return;
  }
  const menu = document.createElement("select");
  menu.setAttribute("aria-label", t("model"));
  for (const each of models) menu.append(new Option(each.id, each.id));
  menu.addEventListener("change", () => { model = models[menu.selectedIndex]; });
  $("model").replaceChildren(menu);
}

async function connect() {
  try {
    showModels(await fetchModels());
    const offered = await fetchSuggestions();
    if (offered.length) {
      suggestions = offered;
      if (!chat.messages.length) render();
    }
    $("max_tokens").max = String(Math.max(64, Math.floor(model.max_model_len / 16) * 16));
    if (settings.max_tokens > Number($("max_tokens").max)) change({ max_tokens: Number($("max_tokens").max) });
    applySettings();
    showContext();
  } catch (error) {
    $("model").textContent = "";
    toast(explain(error));
  }
}

setLanguage(settings.language);
applySettings();
listen();
const remembered = listChats();
show(remembered.find((item) => item.id === location.hash.slice(1)) || newChat());
setBusy(false);
connect();
