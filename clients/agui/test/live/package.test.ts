import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";

const run = promisify(execFile);
const HERE = fileURLToPath(new URL("../../", import.meta.url));
const PACKAGES = [join(HERE, "../typescript"), HERE];
const TSC = join(HERE, "node_modules/typescript/bin/tsc");
const USE = `
import { HttpAgent } from "@isolane/agui";
import { IsolaneClient } from "@isolane/client";

const client: IsolaneClient = new IsolaneClient({ url: "ws://127.0.0.1:1/ws", token: () => "t" });
const agent: HttpAgent = new HttpAgent({ url: "http://127.0.0.1:1/agui", threadId: "t" });
const joined: Promise<unknown> = agent.connectAgent();
joined.catch(() => undefined);
// @ts-expect-error: the types are there, and this is no method
void client.nothing;
`;
const CONFIG = {
  compilerOptions: {
    ...{ module: "NodeNext", target: "ES2022", lib: ["ES2023", "DOM"], strict: true, types: [] },
    noEmit: true,
  },
  files: ["use.ts"],
};

let project: string;

beforeAll(async () => {
  project = await mkdtemp(join(tmpdir(), "isolane-packages-"));
  await writeFile(join(project, "package.json"), '{ "private": true, "type": "module" }');
  const packed = [];
  for (const folder of PACKAGES) {
    const options = ["pack", "--silent", "--json", "--pack-destination", project];
    const { stdout } = await run("npm", options, { cwd: folder });
    const [{ filename, files }] = JSON.parse(stdout) as [
      { filename: string; files: { path: string }[] },
    ];
    expect(files.map(({ path }) => path)).toEqual(
      expect.arrayContaining(["README.md", "package.json", "dist/index.js", "dist/index.d.ts"]),
    );
    expect(files.some(({ path }) => /^(src|test|node_modules)\//.test(path))).toBe(false);
    packed.push(`./${filename}`);
  }
  const options = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"];
  const { dependencies } = JSON.parse(await readFile(join(HERE, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
  };
  const others = ["@ag-ui/client@1.0.0", `rxjs@${String(dependencies["rxjs"])}`];
  await run("npm", ["install", ...options, ...packed, ...others], { cwd: project });
});

afterAll(async () => {
  await rm(project, { recursive: true, force: true });
});

test("an empty project that installs the packages finds their types", async () => {
  await writeFile(join(project, "use.ts"), USE);
  await writeFile(join(project, "tsconfig.json"), JSON.stringify(CONFIG));
  const { stdout } = await run(process.execPath, [TSC, "-p", project]);
  expect(stdout).toBe("");
});

test("Node imports the packages as modules", async () => {
  const code =
    "import * as a from '@isolane/agui'; import * as b from '@isolane/client';" +
    "console.log(typeof a.HttpAgent, typeof b.IsolaneClient)";
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", code], {
    cwd: project,
  });
  expect(stdout.trim()).toBe("function function");
});
