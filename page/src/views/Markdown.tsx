/** Markdown, chunk by chunk: what stands is not parsed again while the last one grows. */
import { Fragment, memo, useEffect, useMemo, useState } from "react";
import type { ComponentProps } from "react";
import ReactMarkdown from "react-markdown";
import type { Components, ExtraProps } from "react-markdown";
import remarkGfm from "remark-gfm";
import { toChunks } from "../chunks";
import { rehypeDirection } from "../direction";
import { keepMath } from "../math";
import { CopyButton } from "./CopyButton";

type Props<T extends keyof React.JSX.IntrinsicElements> = ComponentProps<T> & ExtraProps;

const AT_ONCE = 6;
const plugins = [remarkGfm];
const directing = [rehypeDirection];

// Pictures would be requests to elsewhere; their address is shown as a link instead.
const components: Components = {
  a: ({ node: _, ...props }: Props<"a">) => (
    <a {...props} target="_blank" rel="noopener noreferrer" />
  ),
  img: ({ src, alt }: Props<"img">) => (
    <a href={String(src)} target="_blank" rel="noopener noreferrer">
      {alt || String(src)}
    </a>
  ),
  table: ({ node: _, ...props }: Props<"table">) => (
    <div className="table-frame" tabIndex={0} role="group" aria-label="Table">
      <table {...props} />
    </div>
  ),
  pre: ({ node, children }: Props<"pre">) => <CodeBlock node={node}>{children}</CodeBlock>,
};

function CodeBlock({ node, children }: { node?: ExtraProps["node"]; children: React.ReactNode }) {
  const code = node?.children[0];
  if (code?.type !== "element") return <pre dir="ltr">{children}</pre>;
  const names = code.properties["className"];
  const named = Array.isArray(names)
    ? names.map(String).find((one) => one.startsWith("language-"))
    : "";
  const text = code.children.map((child) => (child.type === "text" ? child.value : "")).join("");
  return (
    <div className="code">
      <div className="code-head">
        <span>{named?.slice("language-".length) || "text"}</span>
        <CopyButton text={text} label="Copy code" />
      </div>
      <pre tabIndex={0} dir="ltr">
        {children}
      </pre>
    </div>
  );
}

const Chunk = memo(function Chunk({ text }: { text: string }) {
  return (
    <ReactMarkdown
      components={components}
      remarkPlugins={plugins}
      rehypePlugins={directing}
    >
      {keepMath(text)}
    </ReactMarkdown>
  );
});

export const Markdown = memo(function Markdown({ text }: { text: string }) {
  const chunks = useMemo(() => toChunks(text), [text]);
  const shown = useGrowing(chunks.length);
  return (
    <div className="prose">
      {chunks.slice(0, shown).map((chunk, place) => (
        // A chunk's place is its identity: chunks are only ever added at the end.
        <Fragment key={place}>
          {place > 0 && "\n"}
          <Chunk text={chunk} />
        </Fragment>
      ))}
    </div>
  );
});

/** Return how many of `count` to draw: a few more each time, so that a long text blocks nothing. */
function useGrowing(count: number): number {
  const [shown, setShown] = useState(AT_ONCE);
  useEffect(() => {
    if (shown >= count) return;
    const timer = setTimeout(() => setShown(shown + AT_ONCE));
    return () => clearTimeout(timer);
  }, [shown, count]);
  return shown;
}
