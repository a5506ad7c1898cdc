/** Notices that the user sees once: refusals, and changes by other devices. */
import { Store } from "./store";

export interface Notice {
  id: number;
  text: string;
  isError: boolean;
  errorId?: string;
}

const LASTS_MS = 8000;
const MOST = 3;

export class Notices extends Store<{ list: readonly Notice[] }> {
  private next = 1;

  constructor() {
    super({ list: [] });
  }

  /** Tell `text`. An error stays until it is dismissed, news goes by itself. */
  tell(text: string, error?: { code: string; errorId?: string | undefined }): void {
    const id = this.next++;
    const errorId = error?.errorId;
    const notice = { id, text, isError: error !== undefined, ...(errorId && { errorId }) };
    this.set({ list: [...this.get().list, notice].slice(-MOST) });
    if (error === undefined) setTimeout(() => this.dismiss(id), LASTS_MS);
  }

  dismiss(id: number): void {
    this.set({ list: this.get().list.filter((notice) => notice.id !== id) });
  }

  clear(): void {
    this.set({ list: [] });
  }
}
