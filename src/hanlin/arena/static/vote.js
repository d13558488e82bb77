// The voting page: one battle at a time. Everything that counts is decided by the server; this only shows and sends.
import { showMarkdown } from "/static/markdown.js";
import { REASONS, language, setLanguage, t } from "/static/words.js";

const $ = (id) => document.getElementById(id);
const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 3: "tie", ArrowDown: "tie", 4: "bad" };
let state = null; // what the server said last
let busy = false;
let choosingReasons = false;
let undoUntil = 0;

// ---- talking to the server ----------------------------------------------------------------------------------------

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "same-origin", cache: "no-store" });
  } catch {
    throw Object.assign(new Error("network"), { code: "network" });
  }
  const found = await response.json().catch(() => ({ error: "internal" }));
  if (!response.ok) throw Object.assign(new Error(String(found.error)), { code: typeof found.error === "string" ? found.error : "internal", status: response.status });
  return found;
}

// One request at a time; a fault is shown, and where the battle has changed the current one is fetched.
async function act(work) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    if (error.status === 401) showLogin();
    else if (error.status === 409) {
      try {
        show(await call("/api/battle"));
      } catch {
        // the fault below says enough
      }
      fault(t(error.code));
    } else fault(t(error.code || "internal"));
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

const vote = (outcome) => act(async () => {
  if (!state || !state.battle) return;
  const reasons = [...document.querySelectorAll("#reasons [aria-pressed=true]")].map((chip) => chip.dataset.reason);
  const button = document.querySelector(`[data-outcome="${outcome}"]`);
  button.classList.add("chosen");
  try {
    show(await call("/api/vote", { token: state.battle.token, outcome, reasons }), t("voted"));
  } finally {
    button.classList.remove("chosen");
  }
});

const undo = () => act(async () => {
  if (Date.now() > undoUntil) return;
  show(await call("/api/undo", {}), t("undone"));
});

// ---- showing ------------------------------------------------------------------------------------------------------

function section(name) {
  for (const id of ["login", "battle", "done"]) $(id).hidden = id !== name;
  $("progress").hidden = name === "login";
  $("leave").hidden = name === "login";
}

function showLogin() {
  state = null;
  undoUntil = 0;
  section("login");
  $("code").focus();
}

function show(found, said = "") {
  const fresh = !state || !found.battle || !state.battle || found.battle.token !== state.battle.token;
  state = found;
  fault("");
  undoUntil = found.undo > 0 ? Date.now() + 1000 * found.undo : 0;
  tick();
  $("bar").style.width = `${found.total ? (100 * found.done) / found.total : 0}%`;
  const number = Math.min(found.done + 1, found.total);
  $("count").textContent = found.battle ? `${number} / ${found.total}` : `${found.done} / ${found.total}`;
  if (!found.battle) {
    section("done");
    $("done-text").textContent = t("doneText", found.done);
    $("live").textContent = t("thanks");
    return;
  }
  section("battle");
  if (!fresh) return;
  $("prompt").textContent = found.battle.prompt;
  for (const side of ["left", "right"]) {
    const text = found.battle[side];
    $(side).classList.toggle("faint", !text);
    showMarkdown($(side), text || t("empty"));
  }
  $("thought").hidden = !found.battle.thought;
  for (const chip of document.querySelectorAll("#reasons button")) chip.setAttribute("aria-pressed", "false");
  setReasons(false);
  scrollTo(0, 0);
  $("prompt-box").focus({ preventScroll: true });
  $("live").textContent = `${said} ${t("count", number, found.total)}`;
}

function fault(text) {
  $("fault").textContent = text;
  $("login-fault").textContent = $("login").hidden ? "" : text;
  if (!$("login").hidden) $("fault").textContent = "";
}

function tick() {
  const left = Math.ceil((undoUntil - Date.now()) / 1000);
  $("undo").hidden = left <= 0;
  $("undo").textContent = t("undo", Math.max(0, left));
}

function setReasons(open) {
  choosingReasons = open;
  $("reasons").classList.toggle("open", open);
  if (open) $("live").textContent = t("reasonsOpen");
}

function toggle(chip) {
  chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") === "true" ? "false" : "true");
  $("live").textContent = chip.textContent;
}

// ---- the page itself ----------------------------------------------------------------------------------------------

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // no storage: for this visit only
  }
}

function recalled(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function speak(chosen) {
  setLanguage(chosen);
  for (const chip of document.querySelectorAll("#reasons button span")) chip.textContent = t(chip.parentNode.dataset.reason);
  $("reasons").dataset.title = t("reasons");
  tick();
  if (state && !state.battle) $("done-text").textContent = t("doneText", state.done);
}

for (const [i, reason] of REASONS.entries()) {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.dataset.reason = reason;
  chip.setAttribute("aria-pressed", "false");
  const key = document.createElement("kbd");
  key.textContent = String(i + 1);
  chip.append(key, document.createElement("span"));
  chip.onclick = () => toggle(chip);
  $("reasons").append(chip);
}
for (const button of document.querySelectorAll("[data-outcome]")) button.onclick = () => vote(button.dataset.outcome);
$("undo").onclick = undo;
$("leave").onclick = () => act(async () => {
  await call("/api/leave", {});
  showLogin();
});
$("language").onclick = () => {
  const other = language() === "zh" ? "en" : "zh";
  remember("hanlin-language", other);
  speak(other);
};
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  remember("hanlin-theme", document.documentElement.dataset.theme);
};
$("code-form").onsubmit = (event) => {
  event.preventDefault();
  act(async () => show(await call("/api/login", { code: $("code").value })));
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.tagName === "INPUT") return;
  if (event.key === "u" || event.key === "U") {
    undo();
  } else if ($("battle").hidden) {
    return;
  } else if (event.key === "r" || event.key === "R") {
    setReasons(!choosingReasons);
  } else if (event.key === "Escape") {
    setReasons(false);
  } else if (choosingReasons && /^[1-7]$/.test(event.key)) {
    toggle($("reasons").children[Number(event.key) - 1]);
  } else if (KEYS[event.key]) {
    event.preventDefault();
    vote(KEYS[event.key]);
  }
});
setInterval(tick, 500);

const preferred = (navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh" : "en";
speak(recalled("hanlin-language") || preferred);
const given = location.hash.slice(1);
if (given) history.replaceState(null, "", "/"); // the code does not stay in the address bar
act(async () => {
  if (given) {
    $("login").hidden = false;
    $("code").value = given;
    show(await call("/api/login", { code: given }));
  } else {
    try {
      show(await call("/api/battle"));
    } catch (error) {
      if (error.status !== 401) $("login").hidden = false;
      throw error;
    }
  }
});
