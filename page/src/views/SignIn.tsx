import { useEffect, useState } from "react";
import type { SubmitEvent } from "react";
import * as api from "../api";
import { Problem } from "../api";
import { resolve } from "../base";
import { useActor, useChat } from "../context";
import type { Ways } from "../wire";
import { Logo } from "./icons";

export function SignIn() {
  const ways = useWays();
  const farewell = useChat((state) => state.farewell);
  if (ways === null) return <div className="splash" aria-busy="true" />;
  const { password, providers } = ways;
  return (
    <main className="signin">
      <section data-testid="signin">
        <Logo />
        <h1>Isolane</h1>
        <p className="lead">Sign in to your own lane.</p>
        {farewell !== null && (
          <p className="farewell" role="status">
            {farewell}
          </p>
        )}
        {password && <PasswordForm />}
        {password && providers.length > 0 && <p className="or">or</p>}
        {providers.map(({ name, label }) => (
          <a key={name} className="plain" href={resolve(`signin/${name}`)}>
            Sign in with <bdi>{label}</bdi>
          </a>
        ))}
        {!password && providers.length === 0 && (
          <p>Sign in where this page belongs to, then load it again.</p>
        )}
      </section>
    </main>
  );
}

/** Return the ways to sign in, null before they are known. */
function useWays(): Ways | null {
  const [ways, setWays] = useState<Ways | null>(null);
  useEffect(() => {
    let isLeft = false;
    const take = (found: Ways) => {
      if (!isLeft) setWays(found);
    };
    // Who can't be asked will say so when a name and a password come.
    api.loadWays().then(take, () => take({ password: true, providers: [] }));
    return () => {
      isLeft = true;
    };
  }, []);
  return ways;
}

function PasswordForm() {
  const chat = useActor();
  const [fault, setFault] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);

  async function submit(event: SubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    setBusy(true);
    setFault(null);
    try {
      await chat.signIn(given.get("username") as string, given.get("password") as string);
    } catch (problem) {
      setFault(explain(problem));
      setBusy(false);
    }
  }

  return (
    <form onSubmit={(event) => void submit(event)}>
      <label>
        Name
        <input
          name="username"
          dir="auto"
          autoComplete="username"
          autoCapitalize="none"
          required
          autoFocus
        />
      </label>
      <label>
        Password
        <input name="password" type="password" autoComplete="current-password" required />
      </label>
      <p className="fault" role="alert">
        {fault}
      </p>
      <button className="primary" disabled={isBusy}>
        {isBusy ? "Signing in…" : "Sign in"}
      </button>
    </form>
  );
}

function explain(problem: unknown): string {
  if (!(problem instanceof Problem)) return "Something went wrong.";
  if (problem.status === 401) return "Name and password don't match.";
  if (problem.code === "limit_exceeded") {
    return `Too many attempts. Try again in ${waitWords(problem.retryAfterMs ?? 0)}.`;
  }
  return problem.errorId ? `${problem.message} (${problem.errorId})` : problem.message;
}

function waitWords(waitMs: number): string {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  if (seconds < 90) return seconds === 1 ? "a second" : `${seconds} seconds`;
  return `${Math.ceil(seconds / 60)} minutes`;
}
