import { renderToStaticMarkup } from "react-dom/server";
import { expect, test } from "vitest";
import { Markdown } from "../src/views/Markdown";

/** Return the blocks of drawn Markdown, each with its `dir`. */
function draw(markdown: string): string[] {
  const drawn = document.createElement("div");
  drawn.innerHTML = renderToStaticMarkup(<Markdown text={markdown} />);
  const blocks = "p, h1, h2, li, blockquote, table, th, td, pre, code";
  const all = [...drawn.querySelectorAll(blocks)];
  return all.map((one) => `${one.tagName.toLowerCase()} ${one.getAttribute("dir") ?? "-"}`);
}

test.each([
  ["# שלום\n\nhello", ["h1 auto", "p auto"]],
  ["- שלום\n- hello", ["li auto", "li auto"]],
  ["1. שלום\n\n   hello\n\n2. x", ["li auto", "p -", "p auto", "li auto", "p -"]],
  ["- hello\n  - שלום", ["li auto", "li auto"]],
  ["> שלום\n>\n> hello", ["blockquote auto", "p -", "p auto"]],
  ["> - שלום\n> - hello", ["blockquote auto", "li -", "li auto"]],
  ["> # שלום", ["blockquote auto", "h1 -"]],
  [
    "| א | b |\n|---|---|\n| 1 | 2 |",
    ["table auto", "th -", "th auto", "td auto", "td auto"],
  ],
  ["שלום `a = 1`", ["p auto", "code ltr"]],
  ["```py\n# שלום\n```", ["pre ltr", "code ltr"]],
])("each block has the direction of its words, and code its own: %j", (markdown, blocks) => {
  expect(draw(markdown)).toEqual(blocks);
});
