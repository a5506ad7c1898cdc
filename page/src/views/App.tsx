import { useChat } from "../context";
import { Shell } from "./Shell";
import { SignIn } from "./SignIn";

export function App() {
  const session = useChat((state) => state.session);
  if (session === "loading") return <div className="splash" aria-busy="true" />;
  return session === "in" ? <Shell /> : <SignIn />;
}
