/**
 * Cuts Markdown into chunks that can be parsed one by one. Pure.
 *
 * While an answer streams in only its last chunk changes, so only that one is parsed again. A cut
 * is made at a blank line where nothing can reach across it: not inside a fence, a list, or what
 * is indented. Small blocks share a chunk, for a parser of their own costs more than they do. A
 * line that is longer than anybody reads in one go is cut at a space.
 */
const CHUNK_CHARACTERS = 1500;
const LINE_MAX_CHARACTERS = 6000;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const LIST = /^ {0,3}([-*+]|\d{1,9}[.)])(\s|$)/;
const INDENTED = /^(\t| {2,})\S/;
const DEFINITION = /^ {0,3}\[[^\]]+\]:\s*\S/;
const HEADING = /^#{1,6}\s/;

export function toChunks(markdown: string): string[] {
  const cutter = new Cutter();
  for (const line of markdown.split("\n")) cutter.take(line);
  return cutter.finished();
}

class Cutter {
  private readonly chunks: string[] = [];
  private readonly definitions: string[] = [];
  private lines: string[] = [];
  private fence = "";
  private isList = false;
  private wasBlank = true;

  take(line: string): void {
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (this.fence === "") this.takeOpen(line, mark);
    else if (mark.startsWith(this.fence) && line.trim() === mark) this.fence = "";
    this.lines.push(line);
  }

  finished(): string[] {
    this.cut();
    if (this.definitions.length === 0) return this.chunks;
    // A link's target may be defined blocks away from it.
    const all = this.definitions.join("\n");
    return this.chunks.map((chunk) => (chunk.includes("[") ? `${chunk}\n\n${all}` : chunk));
  }

  private takeOpen(line: string, mark: string): void {
    const isBlank = line.trim() === "";
    const goesOn = INDENTED.test(line) || (this.isList && LIST.test(line));
    const isFresh = this.wasBlank ? !isBlank && !goesOn : HEADING.test(line) && !this.isList;
    if (isFresh) this.cut();
    if (this.lines.length === 0) this.isList = LIST.test(line);
    if (DEFINITION.test(line)) this.definitions.push(line);
    this.fence = mark;
    this.wasBlank = isBlank;
  }

  /** End the block; the chunk ends with it when it is large enough. */
  private cut(): void {
    const block = this.lines.join("\n").trimEnd();
    this.lines = [];
    this.isList = false;
    for (const piece of cutLine(block)) {
      const last = this.chunks.at(-1);
      if (last === undefined || last.length >= CHUNK_CHARACTERS) this.chunks.push(piece);
      else this.chunks[this.chunks.length - 1] = `${last}\n\n${piece}`;
    }
  }
}

function* cutLine(block: string): Generator<string> {
  let rest = block;
  while (rest.length > LINE_MAX_CHARACTERS && !rest.includes("\n")) {
    const place = rest.indexOf(" ", LINE_MAX_CHARACTERS);
    if (place < 0) break;
    yield rest.slice(0, place);
    rest = rest.slice(place + 1);
  }
  if (rest !== "") yield rest;
}
