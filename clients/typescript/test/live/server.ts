import { execFile, spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import type { AddressInfo, Server as NetServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { env } from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const PYTHON = env["ISOLANE_PYTHON"] ?? join(ROOT, ".venv/bin/python");
const AGENTS = join(ROOT, "tests/live");
const HOST = "127.0.0.1";
const START_TIMEOUT_MS = 30_000;

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, HOST);
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  return port;
}

/** A real gateway, which serves the sample agent that counts. */
export class Gateway {
  readonly port: number;
  readonly #data: string;
  readonly #settings: Record<string, string>;
  readonly #tokens = new Map<string, string>();
  #process: ChildProcess | null = null;

  private constructor(port: number, data: string, settings: Record<string, string>) {
    this.port = port;
    this.#data = data;
    this.#settings = settings;
  }

  static async start(settings: Record<string, string> = {}): Promise<Gateway> {
    const data = await mkdtemp(join(tmpdir(), "isolane-client-"));
    const gateway = new Gateway(await freePort(), data, settings);
    await gateway.start();
    return gateway;
  }

  async start(): Promise<void> {
    const options = ["--agent", "agents:slow", "--data", this.#data];
    const address = ["--port", String(this.port)];
    this.#process = spawn(PYTHON, ["-m", "isolane", "serve", ...options, ...address], {
      cwd: AGENTS,
      env: { ...env, ...this.#settings },
      stdio: "ignore",
    });
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (!(await this.#isReady())) {
      if (Date.now() > deadline) throw new Error("the gateway doesn't start");
      await sleep(50);
    }
  }

  /** End the process, by default without a word. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const running = this.#process;
    this.#process = null;
    if (running?.exitCode !== null) return;
    running.kill(signal);
    await once(running, "exit");
  }

  async remove(): Promise<void> {
    await this.kill();
    await rm(this.#data, { recursive: true, force: true });
  }

  /** Return a token; one for each user and life time is enough. */
  async token(user: string, expiresS = 3600): Promise<string> {
    const key = `${user} ${String(expiresS)}`;
    const token = this.#tokens.get(key) ?? (await this.#issue(user, expiresS));
    this.#tokens.set(key, token);
    return token;
  }

  async #issue(user: string, expiresS: number): Promise<string> {
    const options = ["--user", user, "--expires", String(expiresS), "--data", this.#data];
    const { stdout } = await promisify(execFile)(PYTHON, ["-m", "isolane", "token", ...options]);
    return stdout.trim();
  }

  async #isReady(): Promise<boolean> {
    try {
      return (await fetch(`http://${HOST}:${String(this.port)}/readyz`)).ok;
    } catch {
      return false;
    }
  }
}

/** Stands before the gateway, and resets what passes through when it is told to. */
export class Proxy {
  cuts = 0;
  readonly #target: number;
  readonly #server: NetServer;
  readonly #ends = new Set<Socket>();

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer((near) => {
      this.#link(near);
    });
  }

  static async before(gateway: Gateway): Promise<Proxy> {
    const proxy = new Proxy(gateway.port);
    proxy.#server.listen(0, HOST);
    await once(proxy.#server, "listening");
    return proxy;
  }

  get address(): string {
    return `${HOST}:${String((this.#server.address() as AddressInfo).port)}`;
  }

  /** Reset every connection, on both sides, without a goodbye. */
  cut(): void {
    this.cuts += 1;
    for (const end of this.#ends) end.resetAndDestroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }

  #link(near: Socket): void {
    const far = connect(this.#target, HOST);
    for (const [end, other] of [[near, far] as const, [far, near] as const]) {
      this.#ends.add(end);
      end.on("error", () => other.destroy());
      end.on("close", () => {
        this.#ends.delete(end);
        other.destroy();
      });
      end.pipe(other);
    }
  }
}
