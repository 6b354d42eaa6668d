"""Fixes of one program, or of one port of it: a recipe names them, `kit fix` does not try them on other scripts."""
