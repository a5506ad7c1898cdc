/**
 * Gives each block of drawn Markdown the direction of its own words. Pure.
 *
 * Browsers find it by the first letter in the block that isn't in a block with a direction of its
 * own. So the first block in a list item or a quote has none: its words are those of its parent.
 */
interface Node {
  type: string;
  tagName?: string;
  value?: string;
  properties?: Record<string, unknown>;
  children?: Node[];
}

const BLOCKS = new Set("p h1 h2 h3 h4 h5 h6 li blockquote table th td".split(" "));
const NESTING = new Set("li blockquote table thead tbody tr ul ol".split(" "));
const CODE = new Set(["code", "pre"]);

/** A plugin of rehype. */
export function rehypeDirection(): (tree: Node) => void {
  return (tree) => direct(tree, false);
}

/** Direct what is in `parent`, whose first block it leads when `isLed` says so. */
function direct(parent: Node, isLed: boolean): void {
  let isFirst = true;
  for (const child of parent.children ?? []) {
    const { tagName = "" } = child;
    const inherits = isLed && isFirst;
    if (tagName !== "" || child.value?.trim()) isFirst = false;
    if (CODE.has(tagName)) set(child, "ltr");
    else if (BLOCKS.has(tagName) && !inherits) set(child, "auto");
    direct(child, NESTING.has(tagName) && (inherits || hasOwn(child)));
  }
}

function set(node: Node, dir: string): void {
  node.properties = { ...node.properties, dir };
}

function hasOwn({ properties }: Node): boolean {
  return properties?.["dir"] === "auto";
}
