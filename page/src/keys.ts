/** The number of each key that an input method takes, whatever the key is. */
const TAKEN_BY_INPUT_METHOD = 229;

/**
 * Return whether a key is the input method's: an Enter then confirms a word and sends nothing.
 *
 * Safari ends the composition before it tells of that Enter, which has `keyCode` 229 all the same.
 */
export function isComposing(event: { isComposing: boolean; keyCode: number }): boolean {
  return event.isComposing || event.keyCode === TAKEN_BY_INPUT_METHOD;
}
