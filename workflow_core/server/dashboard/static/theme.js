// Runs before anything is drawn: pages with a chosen theme do not flash in the other one.
document.documentElement.dataset.script = "";
try {
  const chosen = localStorage.getItem("workflow-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing has the theme of its system.
}
