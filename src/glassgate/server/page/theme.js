// Light or dark: as the system has it, or as the button was set, which this browser remembers.

const KEY = "glassgate-theme";
const scheme = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const button = document.getElementById("theme");

export const dark = () => (root.dataset.theme ?? (scheme.matches ? "dark" : "light")) === "dark";

/** A browser may keep its storage closed; then the choice holds until the page is left. */
function kept(theme) {
  try {
    if (theme) localStorage.setItem(KEY, theme);
    return localStorage.getItem(KEY);
  } catch {
    return theme;
  }
}

/** Begin with the theme that was chosen; `changed` is called when it becomes another. */
export function onTheme(changed) {
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  const known = kept();
  if (known === "light" || known === "dark") root.dataset.theme = known;
  name();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    kept(root.dataset.theme);
    name();
    changed();
  });
  scheme.addEventListener("change", () => { name(); changed(); });
}
