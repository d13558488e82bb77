// Runs before the first paint, so that a chosen theme does not flash.
"use strict";
try {
  const settings = JSON.parse(localStorage.getItem("hanlin.settings") || "{}");
  if (settings.theme === "light" || settings.theme === "dark") document.documentElement.dataset.theme = settings.theme;
  if (settings.language === "en") document.documentElement.lang = "en";
} catch {
  // no storage: the defaults are fine
}
