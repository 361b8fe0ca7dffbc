"""Commands that measure emvfm and write what they found into docs/."""
