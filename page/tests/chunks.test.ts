import { expect, test } from "vitest";
import { toChunks } from "../src/chunks";

const filler = `${"word ".repeat(400)}end`;

test("text that nothing reaches across is cut at blank lines", () => {
  expect(toChunks(`${filler}\n\nshort\n\nshorter`)).toEqual([filler, "short\n\nshorter"]);
});

test.each([
  ["a fence", "```py\na = 1\n\nb = 2\n```"],
  ["a fence within a longer fence", "````\n```\n\n```\n\nx\n````"],
  ["a list with loose items", "1. one\n\n   more of one\n\n2. two\n\n- three"],
  ["a table", "| a | b |\n|---|---|\n| 1 | 2 |"],
])("%s stays whole", (_, block) => {
  expect(toChunks(`${filler}\n\n${block}\n\nafter`)[1]).toContain(block);
});

test("what stands doesn't change while the text grows", () => {
  const text = Array.from(
    { length: 90 },
    (_, part) => `## Part ${part}\n\n- one\n- two\n\n${filler.slice(0, part * 9)}`,
  ).join("\n\n");
  let before: string[] = [];
  for (let end = 0; end < text.length; end += 97) {
    const now = toChunks(text.slice(0, end));
    expect(now.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
    before = now;
  }
  expect(before.length).toBeGreaterThan(5);
});

test("a line without end is cut at a space", () => {
  const line = "word ".repeat(5000).trimEnd();
  const chunks = toChunks(line);
  expect(chunks.length).toBeGreaterThan(3);
  expect(chunks.join(" ")).toBe(line);
});

test("a link finds its target in another chunk", () => {
  const chunks = toChunks(`See [it][1].\n\n${filler}\n\n[1]: https://example.org`);
  expect(chunks[0]).toContain("[1]: https://example.org");
});
