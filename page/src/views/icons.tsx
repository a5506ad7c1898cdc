/** The page's few pictures, drawn with one pen. */
const PATHS = {
  add: "M12 5v14M5 12h14",
  check: "M5 12.5l4.5 4.5L19 7.5",
  chevron: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  devices: "M3.5 5h12v5M10 16H3.5V5M2 19h8M13.5 10h7v9.5h-7zM16.5 17h1",
  down: "M12 5v14M6 13l6 6 6-6",
  menu: "M4 7h16M4 12h16M4 17h16",
  moon: "M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5z",
  pen: "M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3",
  retry: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  send: "M12 19V5M6 11l6-6 6 6",
  signout: "M14 5H6v14h8M10 12h10M17 9l3 3-3 3",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M18.4 5.6l-1.1 1.1M6.7 17.3l-1.1 1.1",
  stop: "M7.5 7.5h9v9h-9z",
  thought: "M12 4a6 6 0 0 0-3.5 10.9V17h7v-2.1A6 6 0 0 0 12 4zM10 20h4",
  tool: "M14.5 6.5a4 4 0 0 1 5-1l-2.7 2.7 1.5 1.5L21 7a4 4 0 0 1-5.3 5L8 19.7 4.5 16 12 8.5a4 4 0 0 1 2.5-2z",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  warn: "M12 4l9 16H3zM12 10v5M12 17.5v.01",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg className="icon" data-icon={name} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="9" />
      <path className="lane" d="M9 8v16M23 8v16" />
      <path d="M16 8v4M16 17v7" />
    </svg>
  );
}
