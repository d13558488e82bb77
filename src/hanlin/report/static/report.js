// Language and colours follow the reader's browser; the two buttons, or ?lang=en&theme=dark, decide otherwise.
(() => {
  const root = document.documentElement;
  const asked = new URLSearchParams(location.search);
  const stored = (name) => { try { return localStorage.getItem("hanlin-" + name); } catch { return null; } };
  const store = (name, value) => { try { localStorage.setItem("hanlin-" + name, value); } catch { /* a page opened from a file may not store */ } };

  const speak = (language) => {
    root.dataset.language = language;
    root.lang = language === "zh" ? "zh-CN" : "en";
    const button = document.getElementById("language");
    if (button) button.textContent = language === "zh" ? "EN" : "中";
  };
  const paint = (theme) => { root.dataset.theme = theme; };
  const preferred = (navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh" : "en";
  speak(asked.get("lang") || stored("language") || preferred);
  paint(asked.get("theme") || stored("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

  addEventListener("DOMContentLoaded", () => {
    speak(root.dataset.language);
    document.getElementById("language").onclick = () => {
      const language = root.dataset.language === "zh" ? "en" : "zh";
      speak(language);
      store("language", language);
    };
    document.getElementById("theme").onclick = () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      paint(theme);
      store("theme", theme);
    };
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => { item.open = true; }));
})();
