import { useState } from "react";
import { getTheme, setTheme, THEMES } from "../theme";
import { Icon } from "./icons";

const ICONS = { auto: "auto", light: "sun", dark: "moon" } as const;

export function ThemeButton() {
  const [theme, setShown] = useState(getTheme);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
  const change = () => {
    setTheme(next);
    setShown(next);
  };
  const label = `Theme: ${theme}`;
  return (
    <button className="quiet" aria-label={label} title={label} onClick={change} data-testid="theme">
      <Icon name={ICONS[theme]} />
    </button>
  );
}
