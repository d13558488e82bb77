// What the browser remembers: settings, and one entry per chat, so that two tabs do not overwrite each other's chats.
const SETTINGS = "hanlin.settings";
const CHAT = "hanlin.chat.";

export const DEFAULTS = Object.freeze({
  language: "zh", theme: "system", thinking: "auto", system: "", temperature: 0.7, top_p: 0.9, max_tokens: 512, probabilities: false,
  top_k: 0, min_p: 0, repetition_penalty: 1, seed: "",
});

export function loadSettings() {
  const saved = read(SETTINGS) || {};
  const settings = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (typeof saved[name] === typeof DEFAULTS[name]) settings[name] = saved[name];
  return settings;
}

export function saveSettings(settings) {
  write(SETTINGS, settings);
}

export function newChat() {
  return { id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`, updated: Date.now(), messages: [] };
}

// All chats, newest first.
export function listChats() {
  const chats = [];
  for (let i = 0; i < localStorage.length; i++) {
    const key = localStorage.key(i);
    if (!key.startsWith(CHAT)) continue;
    const chat = read(key);
    if (chat && typeof chat.id === "string" && Array.isArray(chat.messages)) chats.push(settled(chat));
  }
  return chats.sort((a, b) => b.updated - a.updated);
}

// A reply without an end was being written when its page went away.
function settled(chat) {
  for (const message of chat.messages) if (message.role === "assistant" && !message.finish && !message.error) message.finish = "stopped";
  return chat;
}

// Returns false if an older chat had to go to make room.
export function saveChat(chat) {
  chat.updated = Date.now();
  // Token probabilities are large and can be had again; they live only as long as the page.
  const lean = { ...chat, messages: chat.messages.map(({ tokens, ...rest }) => rest) };
  let whole = true;
  while (!write(CHAT + chat.id, lean)) {
    const oldest = listChats().filter((other) => other.id !== chat.id).pop();
    if (!oldest) return false;
    deleteChat(oldest.id);
    whole = false;
  }
  return whole;
}

export function deleteChat(id) {
  try { localStorage.removeItem(CHAT + id); } catch { /* nothing was stored */ }
}

export function chatTitle(chat) {
  const first = chat.messages.find((message) => message.role === "user");
  return first ? first.content.replace(/[`*#>]+|\s+/g, " ").trim().slice(0, 40) : "";
}

// One conversation per line, in the schema that fine-tuning reads.
export function toJsonLines(chats) {
  return chats.filter((chat) => chat.messages.length).map((chat) => {
    const messages = chat.messages.filter((m) => !m.error).map((m) => {
      const message = { role: m.role, content: m.content };
      if (m.reasoning) message.reasoning_content = m.reasoning;
      return message;
    });
    if (chat.system) messages.unshift({ role: "system", content: chat.system });
    return JSON.stringify({ messages });
  }).join("\n") + "\n";
}

function read(key) {
  try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
}

function write(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; }
}
