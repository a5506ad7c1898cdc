// Writes src/frames.ts from the server's JSON Schema, which comes in on stdin.
// With --check it writes nothing and fails when the file isn't what it would write.

import { readFileSync, writeFileSync } from "node:fs";
import { argv, exit, stderr, stdin } from "node:process";
import { text } from "node:stream/consumers";
import { fileURLToPath, URL } from "node:url";

/**
 * The part of JSON Schema that the server uses.
 * @typedef {{
 *   $ref?: string, $defs?: Record<string, Schema>, title?: string, description?: string,
 *   type?: string, enum?: unknown[], anyOf?: Schema[], items?: Schema,
 *   properties?: Record<string, Schema>, required?: string[], additionalProperties?: boolean,
 *   discriminator?: unknown, version?: number,
 * }} Schema
 */

const HEADER = `// Generated from the server's schema by \`npm run generate\`. Do not edit.\n`;
const TARGET = fileURLToPath(new URL("../src/frames.ts", import.meta.url));
/** @type {Record<string, string>} */
const PLAIN = {
  string: "string",
  integer: "number",
  number: "number",
  boolean: "boolean",
  null: "null",
};

/** @param {Schema} schema @returns {string} */
function toType(schema) {
  if (schema.$ref !== undefined) return schema.$ref.replace("#/$defs/", "");
  if (schema.enum !== undefined) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf !== undefined) return schema.anyOf.map(toType).join(" | ");
  if (schema.type === "array") return `readonly ${toItem(schema.items ?? {})}[]`;
  if (schema.type === undefined) return "unknown";
  const plain = PLAIN[schema.type];
  if (plain === undefined) throw new Error(`no TypeScript for ${JSON.stringify(schema)}`);
  return plain;
}

/** @param {Schema} schema @returns {string} */
function toItem(schema) {
  const type = toType(schema);
  return type.includes(" ") ? `(${type})` : type;
}

/** @param {string | undefined} text @param {string} indent */
function toComment(text, indent) {
  return text === undefined ? "" : `${indent}/** ${text} */\n`;
}

/** @param {[string, Schema]} entry */
function toDeclaration([name, schema]) {
  const comment = toComment(schema.description, "");
  if (schema.properties === undefined) {
    const members = (schema.anyOf ?? [schema]).map(toType);
    return `${comment}export type ${name} =\n  | ${members.join("\n  | ")};\n`;
  }
  const required = new Set(schema.required);
  const fields = Object.entries(schema.properties).map(([field, value]) => {
    const mark = required.has(field) ? "" : "?";
    return `${toComment(value.description, "  ")}  readonly ${field}${mark}: ${toType(value)};\n`;
  });
  if (schema.additionalProperties !== false) fields.push("  readonly [field: string]: unknown;\n");
  return `${comment}export interface ${name} {\n${fields.join("")}}\n`;
}

/** @param {Schema} schema */
function toModule(schema) {
  const { title = "", version = 0, $defs = {} } = schema;
  const names = [`SUBPROTOCOL = ${JSON.stringify(title)}`, `VERSION = ${version}`];
  const constants = names.map((name) => `export const ${name};\n`).join("");
  return [HEADER, constants, ...Object.entries($defs).map(toDeclaration)].join("\n");
}

const wanted = toModule(JSON.parse(await text(stdin)));
if (!argv.includes("--check")) {
  writeFileSync(TARGET, wanted);
} else if (readFileSync(TARGET, "utf8") !== wanted) {
  stderr.write("src/frames.ts is not what the server's schema says: npm run generate\n");
  exit(1);
}
