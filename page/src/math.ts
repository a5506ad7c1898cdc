/**
 * Keeps formulas as they are written: Markdown takes `\(` for an escaped bracket and `*` between two
 * factors for emphasis. Pure.
 *
 * A formula is shown as its source. So each of its signs is escaped before Markdown is parsed, and
 * the lines of one that stands alone stay lines.
 */
const SIGNS = /[!-/:-@[-`{-~]/g;

const NO_BLANK_LINE = "(?:(?!\\n[ \\t]*\\n)[\\s\\S])";

// Code: whatever is in it, it is no formula. A fence that isn't closed yet goes to the end.
const FENCE = [
  "^(?:[ \\t>]|[-*+][ \\t]|\\d{1,9}[.)][ \\t])*(?<fence>`{3,}|~{3,})[^\\n]*",
  "(?:\\n[\\s\\S]*?)??(?:\\n[ \\t>]*\\k<fence>[`~]*[ \\t]*$|(?![\\s\\S]))",
].join("");
const SPAN = `(?<!\`)(?<ticks>\`+)(?!\`)${NO_BLANK_LINE}{1,2000}?(?<!\`)\\k<ticks>(?!\`)`;
/** Behind a list's item, and behind what is indented itself, it is more of that item. */
const INDENTED = [
  "(?= {4}|\\t)(?<=(?<![\\s\\S])|^(?![ \\t]|[-*+][ \\t]|\\d{1,9}[.)][ \\t])[^\\n]+\\n[ \\t]*\\n)",
  "[^\\n]*(?:\\n+(?: {4}|\\t)[^\\n]*)*",
].join("");

// Formulas that stand alone, `$$…$$`, `\[…\]` and `\begin{a}…\end{a}`, and those among words.
const DOLLARS = "(?<!\\\\)\\$\\$(?!\\$)(?:(?!\\$\\$)[\\s\\S]){1,4000}\\$\\$";
const BRACKETS = `(?<back>\\\\{1,2})\\[(?!\\s*\\\\{1,2}\\])${NO_BLANK_LINE}{1,4000}?\\k<back>\\](?!\\()`;
const ENVIRONMENT = "\\\\begin\\{(?<name>[a-z]+\\*?)\\}[\\s\\S]{1,4000}?\\\\end\\{\\k<name>\\}";
const PARENTHESES = `(?<slash>\\\\{1,2})\\((?!\\s*\\\\\\))${NO_BLANK_LINE}{1,1000}?\\k<slash>\\)`;
/** Neither `$5 and $10` nor `US$`: it has no space inside its ends, and no digit behind them. */
const DOLLAR = [
  "(?<![\\\\$\\w])\\$(?![\\s$])",
  "(?:\\\\[^\\n]|[^$\\n`\\\\]|\\n(?![ \\t]*\\n)){1,300}(?<!\\s)\\$(?![\\d$])",
].join("");
const ESCAPED = "\\\\[!-/:-@[-`{-~]";

const PARTS = new RegExp(
  [
    `(?<code>${FENCE}|${SPAN}|${INDENTED})`,
    `(?<display>${DOLLARS}|${BRACKETS}|${ENVIRONMENT})`,
    `(?<inline>${PARENTHESES})`,
    `(?<dollar>${DOLLAR})`,
    ESCAPED,
  ].join("|"),
  "gm",
);

/** What a sum of money and the words behind it may look like, and what no formula has. */
const PROSE = /^\$\d[\d.,]*[a-z]*\s+[A-Za-z]{2,}|\*\*|__|\]\(/;

export function keepMath(markdown: string): string {
  if (!/[$\\]/.test(markdown)) return markdown;
  return markdown.replace(PARTS, (whole: string, ...rest: unknown[]) => {
    const { display, inline, dollar } = rest.at(-1) as Record<string, string | undefined>;
    if (display !== undefined) return escapeLines(whole, isQuoted(markdown, rest.at(-3) as number));
    if (inline === undefined && (dollar === undefined || PROSE.test(dollar))) return whole;
    return whole.replace(SIGNS, "\\$&");
  });
}

/** Return whether the line of a place is in a quote, whose mark each of its lines has. */
function isQuoted(markdown: string, place: number): boolean {
  return /^[ \t]*>/.test(markdown.slice(markdown.lastIndexOf("\n", place - 1) + 1, place));
}

/** Escape a formula of several lines, and have each of them end as a line. */
function escapeLines(formula: string, hasMarks: boolean): string {
  const lines = formula.split("\n").map((line) => {
    const mark = hasMarks ? (/^[ \t]*>[ \t]?/.exec(line)?.[0] ?? "") : "";
    return mark + line.slice(mark.length).trimEnd().replace(SIGNS, "\\$&");
  });
  return lines.map((line, at) => (isHardBreak(lines, at) ? `${line}\\` : line)).join("\n");
}

/** A line break of Markdown's own stands between two lines that have words. */
function isHardBreak(lines: readonly string[], at: number): boolean {
  return [lines[at], lines[at + 1]].every((line) => line !== undefined && line.trim() !== "");
}
