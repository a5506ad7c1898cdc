/** Light, dark, or as the system has it; remembered in this browser. */
export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "isolane.theme";

export function getTheme(): Theme {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem(KEY)) ?? "auto";
  } catch {
    return "auto"; // no storage: the page works without
  }
}

export function setTheme(theme: Theme): void {
  document.documentElement.style.colorScheme = theme === "auto" ? "" : theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    return;
  }
}
