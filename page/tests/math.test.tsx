import { renderToStaticMarkup } from "react-dom/server";
import { expect, test } from "vitest";
import { keepMath } from "../src/math";
import { Markdown } from "../src/views/Markdown";

function draw(markdown: string): HTMLElement {
  const drawn = document.createElement("div");
  drawn.innerHTML = renderToStaticMarkup(<Markdown text={markdown} />);
  return drawn;
}
const shown = (markdown: string) => draw(markdown).textContent.trim();

test.each([
  "$a_1 * b_2$",
  "$x_{i}*y_{i}*z$ and $_a$ or $_b$",
  "\\(x\\)",
  "\\(a_1 * b_2 * c\\) so \\( \\frac{1}{2} \\)",
  "\\\\(x*y*z\\\\)",
  "\\[ \\sum_{i=1}^n x_i \\]",
  "\\\\[ a * b * c \\\\]",
  "$$a_1 * b_2 * c$$",
  "$$\\{ x \\mid x > 0 \\}$$",
  "$\\{1, 2\\}$ and $\\$5$",
  "$a < b > c & d ~e~ ~f~$",
  "the $n$th, $x$, $y$.",
  "\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}",
  "$2^n$ and $10_a*b_c*d$",
  "$a \\| b$",
])("a formula is shown as it is written: %s", (formula) => {
  expect(shown(formula)).toBe(formula);
  expect(draw(formula).querySelectorAll("em, strong, a, del")).toHaveLength(0);
});

test.each([
  ["$$\na\n+ b\n= c\n$$"],
  ["\\[\n1. x \\\\\n- y\n\\]"],
  ["\\begin{align*}\na &= b \\\\\n  &= c_1 * d_2\n\\end{align*}"],
  ["$$\na\n> b\n---\n$$"],
])("the lines of a formula stay lines, and begin neither list nor heading: %j", (formula) => {
  const lines = (html: string) => html.split("\n").map((line) => line.trim());
  const drawn = draw(formula);
  expect(lines(shown(formula))).toEqual(lines(formula));
  expect(drawn.querySelectorAll("br")).toHaveLength(formula.split("\n").length - 1);
  expect(drawn.querySelectorAll("ul, ol, h1, h2, blockquote, hr")).toHaveLength(0);
});

test.each([
  ["It costs $5 and $10.", "It costs $5 and $10."],
  ["From $5-$10, or US$ 6 and AU$ 7.", "From $5-$10, or US$ 6 and AU$ 7."],
  ["**$5** and *$10*", "$5 and $10"],
  ["$5 **now** and **3 US$**", "$5 now and 3 US$"],
  ["\\$5 and \\*stars\\*", "$5 and *stars*"],
  ["\\[no link\\](https://example.org)", "[no link](https://example.org)"],
  ["$HOME and $PATH_A", "$HOME and $PATH_A"],
  ["a $ b_c_ $ d", "a $ b_c_ $ d"],
])("what is no formula stays Markdown: %s", (markdown, text) => {
  expect(shown(markdown)).toBe(text);
});

test.each([
  ["`$a_1 * b$`", "$a_1 * b$"],
  ["``\\(x\\) ` ``", "\\(x\\) ` "],
  ["```sh\necho $a_$b \\(x\\)\n```", "echo $a_$b \\(x\\)\n"],
  ["- one\n\n  ```\n  $$a_1$$\n  ```", "$$a_1$$\n"],
  ["    $a_1$ \\(x\\)", "$a_1$ \\(x\\)\n"],
  ["Code:\n\n    \\(x\\)\n\n    $a_1$", "\\(x\\)\n\n$a_1$\n"],
  ["```\n$a_1$ while it grows", "$a_1$ while it grows\n"],
])("code is left as it is: %j", (markdown, code) => {
  expect(draw(markdown).querySelector("code")?.textContent).toBe(code);
});

test("a formula in a list, a quote or a table stays there", () => {
  const list = draw("- $$\n  a\n  + b*c*d\n  $$\n- \\(y\\)");
  expect(list.querySelectorAll("li")).toHaveLength(2);
  expect(list.querySelector("li")?.textContent).toMatch(/\$\$\s+a\s+\+ b\*c\*d\s+\$\$/);
  for (const nested of ["- a\n    - $x*y*z$", "1.  a\n\n    $x*y*z$", "- a\n\n\t$x*y*z$"]) {
    expect(draw(nested).querySelector("li")?.textContent).toContain("$x*y*z$");
  }
  const quote = draw("> \\[\n> a*b*c\n> \\]");
  expect(quote.querySelector("blockquote")?.textContent).toMatch(/\\\[\s+a\*b\*c\s+\\\]/);
  expect(quote.querySelector("blockquote")?.textContent).not.toContain(">");
  const table = draw("| a | b |\n|---|---|\n| $|x|$ | \\(y_1\\) |");
  expect([...table.querySelectorAll("td")].map(({ textContent }) => textContent)).toEqual([
    "$|x|$",
    "\\(y_1\\)",
  ]);
});

test.each(["$", "\\(", "\\[", "$$", "`", "```", "\\begin{a}"])(
  "many a %s that ends nothing costs little",
  (mark) => {
    const text = `${mark}a `.repeat(3000);
    const before = performance.now();
    keepMath(text);
    // A thousand times what it takes: it isn't the square of the length.
    expect(performance.now() - before).toBeLessThan(5000);
  },
);
