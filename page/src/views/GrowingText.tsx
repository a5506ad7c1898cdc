import { useLayoutEffect, useRef } from "react";
import type { KeyboardEvent } from "react";
import { isComposing } from "../keys";

interface Props {
  label: string;
  value: string;
  onChange: (text: string) => void;
  onEnter: () => void;
  onEscape?: () => void;
  id?: string;
  placeholder?: string;
  isDisabled?: boolean;
}

/** A text field that is as high as its text; Enter is for sending, Shift+Enter for a new line. */
export function GrowingText({
  label,
  value,
  onChange,
  onEnter,
  onEscape,
  isDisabled,
  ...rest
}: Props) {
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const element = field.current;
    if (element === null) return;
    element.style.height = "auto";
    if (value !== "") element.style.height = `${element.scrollHeight}px`;
  }, [value]);

  const onKey = (event: KeyboardEvent) => {
    if (isComposing(event.nativeEvent)) return; // Enter and Esc are the input method's
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      onEnter();
    }
    if (event.key === "Escape" && onEscape !== undefined) {
      event.preventDefault();
      onEscape();
    }
  };

  return (
    <textarea
      {...rest}
      ref={field}
      rows={1}
      dir="auto"
      aria-label={label}
      value={value}
      disabled={isDisabled}
      autoFocus={matchMedia("(pointer: fine)").matches}
      onChange={(event) => onChange(event.target.value)}
      onKeyDown={onKey}
    />
  );
}
