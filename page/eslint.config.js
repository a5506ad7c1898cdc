import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import typescript from "typescript-eslint";

export default typescript.config(
  { ignores: ["dist", "node_modules"] },
  js.configs.recommended,
  {
    files: ["**/*.{ts,tsx}"],
    extends: [typescript.configs.strictTypeChecked, typescript.configs.stylisticTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    plugins: { "react-hooks": hooks },
    rules: {
      ...hooks.configs.recommended.rules,
      "max-lines": ["error", 400],
      "max-lines-per-function": ["error", { max: 80, skipComments: true, skipBlankLines: true }],
      complexity: ["error", 16],
      // `_` is what a pattern leaves out.
      "@typescript-eslint/no-unused-vars": [
        "error",
        { varsIgnorePattern: "^_", argsIgnorePattern: "^_" },
      ],
      // Empty text stands for none here.
      "@typescript-eslint/prefer-nullish-coalescing": [
        "error",
        { ignorePrimitives: { string: true } },
      ],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // The compiler's noPropertyAccessFromIndexSignature wants the brackets that this forbids.
      "@typescript-eslint/dot-notation": "off",
      // Handlers are arrows of one call; what the call returns nobody reads.
      "@typescript-eslint/no-confusing-void-expression": "off",
    },
  },
  // What describes one thing together is long.
  { files: ["tests/**"], rules: { "max-lines-per-function": "off" } },
);
