import { useState } from "react";
import type { SubmitEvent } from "react";
import { Problem } from "../api";
import { useActor, useChat } from "../context";
import { Logo } from "./icons";

export function SignIn() {
  const chat = useActor();
  const farewell = useChat((state) => state.farewell);
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
    <main className="signin">
      <form onSubmit={(event) => void submit(event)} data-testid="signin">
        <Logo />
        <h1>Isolane</h1>
        <p className="lead">Sign in to your own lane.</p>
        {farewell !== null && (
          <p className="farewell" role="status">
            {farewell}
          </p>
        )}
        <label>
          Name
          <input name="username" autoComplete="username" autoCapitalize="none" required autoFocus />
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
    </main>
  );
}

function explain(problem: unknown): string {
  if (!(problem instanceof Problem)) return "Something went wrong.";
  if (problem.status === 401) return "Name and password don't match.";
  return problem.errorId ? `${problem.message} (${problem.errorId})` : problem.message;
}
